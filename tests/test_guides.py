"""What the guides in docs/ show is so: each is typed from the top at a broker of its own.

A page's console blocks are one story. A stream (``curl -N``) stays open beside what follows, and what
it printed is looked at in the end. ``docs/protocol.md`` has a test of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, ROOT, Daemon, wait_until
from tests.test_docs import HERE, Example

DOCS = ROOT / "docs"
GUIDES = ("quick-start", "queue-policy", "flow-control", "http-clients", "websocket")
TOOLS = {"http-clients": ("wget", "node")}
MODULES = {"http-clients": "requests", "websocket": "autobahn"}

Tool = Callable[[str], str]


def read(page: str) -> list[Example]:
    """The examples of a page: ``$ `` begins a command, ``> `` goes on with it, the rest is printed."""
    found: list[Example] = []
    text = (DOCS / f"{page}.md").read_text()
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Example(line[2:], []))
            elif line == ">" or line.startswith("> "):
                found[-1] = found[-1]._replace(command=f"{found[-1].command}\n{line[2:]}")
            else:
                found[-1].output.append(line)
    return found


def python_with(module: str) -> str:
    """A python3 that has this library: ours, else Debian's. Without one as for a missing tool."""
    for python in (sys.executable, "/usr/bin/python3"):
        looked = subprocess.run(
            [python, "-c", f"import {module}"], capture_output=True, check=False
        )
        if looked.returncode == 0:
            return python
    if os.environ.get("CI"):
        pytest.fail(f"no python3 has {module}; .ci/run installs what the tests need")
    pytest.skip(f"no python3 has {module}")


class Terminals:
    """Where the examples are typed."""

    def __init__(self, broker: Daemon, folder: Path, python: str) -> None:
        self._broker = broker
        self._folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        script = bin_folder / "python3"
        script.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        script.chmod(0o755)
        path = f"{bin_folder}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        self._streams: list[tuple[Example, Path, subprocess.Popen[bytes]]] = []

    def type(self, example: Example) -> None:
        """Run a command and compare what it prints; one that streams goes on in the background."""
        command = example.command.replace(HERE, self._broker.url)
        command = command.replace('"localhost", 8888', f'"localhost", {self._broker.port}')
        command = command.replace("ws://localhost:8888", f"ws://localhost:{self._broker.port}")
        if example.is_stream:
            self._open(example, command)
            return
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            env=self._environment,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
        example.check(done.stdout.replace(self._broker.url, HERE))

    def _open(self, example: Example, command: str) -> None:
        """Begin a stream; returns when the broker has answered it, so that it has its turn."""
        printed = self._folder / f"stream-{len(self._streams)}"
        head = printed.with_suffix(".head")
        with printed.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}?flush=1 --dump-header {head}"], stdout=output
            )
        self._streams.append((example, printed, process))
        wait_until(lambda: head.exists() and b"200" in head.read_bytes(), command)

    def look_at_streams(self) -> None:
        """Each has printed what it shows and is still open."""
        for example, printed, process in self._streams:
            shown = len(example.output)
            wait_until(
                lambda p=printed, n=shown: p.read_bytes().count(b"\n") >= n,
                lambda e=example, p=printed: f"{e.output}, not {p.read_text()}",
            )
            assert process.poll() is None, "a stream that ends is none"
            example.check(printed.read_text())

    def close(self) -> None:
        """End the streams."""
        for _, _, process in self._streams:
            process.kill()
            process.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_shows_what_happens(
    page: str, daemon: StartDaemon, tool: Tool, tmp_path: Path
) -> None:
    for name in ("curl", *TOOLS.get(page, ())):
        tool(name)
    python = python_with(MODULES[page]) if page in MODULES else sys.executable
    broker = daemon()
    broker.wait_for("/readyz")
    terminals = Terminals(broker, tmp_path, python)
    try:
        for example in read(page):
            terminals.type(example)
        terminals.look_at_streams()
    finally:
        terminals.close()


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_has_examples(page: str) -> None:
    assert len(read(page)) >= 3


PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that is in it."""
    for target, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            assert heading in headings(file), f"{target}#{heading}"


def headings(page: Path) -> set[str]:
    """The anchors of a page, as forges make them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        if page.name != "README.md":
            assert f"({page.name})" in index, page.name
