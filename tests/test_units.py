"""The systemd units, as systemd reads them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support import DEADLINE_SECONDS, ROOT

UNITS = ROOT / "deploy" / "systemd"
Tool = Callable[[str], str]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_systemd_understands_every_line(tool: Tool, tmp_path: Path) -> None:
    """The units, with a program that is there in the place of the one yet to be installed."""
    units = []
    for unit in sorted(UNITS.iterdir()):
        text = re.sub(
            r"^(ExecStart=)/opt/restmq\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE
        )
        units.append(tmp_path / unit.name)
        units[-1].write_text(text)
    found = run(tool("systemd-analyze"), "--man=no", "--generators=no", "verify", *units)
    complaints = [line for line in found.stderr.splitlines() if str(tmp_path) in line]
    assert (found.returncode, complaints) == (0, []), found.stderr


def test_the_unit_exposes_next_to_nothing(tool: Tool) -> None:
    """Systemd's own mark: 10 is a service that may do anything, ours is below 1.5."""
    for unit in sorted(UNITS.glob("*.service")):
        found = run(
            tool("systemd-analyze"),
            "security",
            "--offline=true",
            "--threshold=15",
            "--no-pager",
            unit,
        )
        assert found.returncode == 0, found.stdout + found.stderr
