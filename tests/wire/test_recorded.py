"""The original, recorded in 2015's own words, played against real daemons.

Every difference a parsing client can see is a row of docs/compatibility.md that names the case, and
every case named there differs. The recordings are not part of this project; where they are not,
these tests are skipped, and the other modules here stand in for them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import RESTMQD, ROOT, twistd

RECORDINGS = ROOT.parent / "shared" / "wire"
PAGE = ROOT / "docs" / "compatibility.md"
BUNDLES = {
    "requests": ["root", "q", "http", "json", "control", "policy", "stats", "jobs", "static"],
    "streams": ["comet", "ws"],
    "others": ["acl", "collectd", "syslogd"],
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not RECORDINGS.is_dir(), reason=f"the recordings of the original are not at {RECORDINGS}"
    ),
]


def documented_cases() -> set[str]:
    """The cases named in the last column of the page's tables."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[-2])}


def groups() -> dict[str, str]:
    """Every recorded case with its group."""
    lines = (RECORDINGS / "recorded.jsonl").read_text().splitlines()
    return {case["name"]: case["group"] for case in map(json.loads, lines)}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", RECORDINGS / "record.py", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def test_every_group_is_played_and_every_documented_case_is_one():
    known = groups()
    assert set(known.values()) == {group for bundle in BUNDLES.values() for group in bundle}
    assert documented_cases() <= known.keys()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_only_differences_are_those_we_tell(bundle, valkey, daemon, tmp_path):
    def start(*options: str | Path, program: Sequence[str] = RESTMQD) -> str:
        options = ("--redis-url", valkey.url, "--host-name", "restmq.test", *options)
        return daemon(*options, program=program).url

    urls = [start(), "--collectd", start(program=twistd("collectd"))]
    if bundle == "others":
        for name in ("allow_all", "empty"):
            urls += ["--acl", f"{name}={start('--acl', RECORDINGS / 'acl' / f'{name}.conf')}"]
    now = tmp_path / "now.jsonl"
    only = f"^group:({'|'.join(BUNDLES[bundle])})$"
    store = f"{valkey.host}:{valkey.port}"
    played = run(*urls, "--redis", store, "--only", only, "--out", now)
    assert played.returncode == 0, played.stderr
    compared = run("--compare", RECORDINGS / "recorded.jsonl", now, "--wire")
    different = set(re.findall(r"^DIFF (\w+)$", compared.stdout, re.MULTILINE))
    named = {name for name in documented_cases() if groups()[name] in BUNDLES[bundle]}
    assert different - named == set(), f"not told in {PAGE.name}:\n{compared.stdout}"
    assert named - different == set(), f"in {PAGE.name}, but not so any more"
