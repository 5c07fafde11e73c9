"""What the pages of docs/ show is what a broker does: every example is run, every reply compared."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

import pytest

from restmq.web.application import ROUTES
from tests.support import DEADLINE_SECONDS, RESTMQD, ROOT, free_port, twistd, wait_until

PROGRAMS = {
    "protocol": RESTMQD,
    "streams": RESTMQD,
    "events": RESTMQD,
    "queues": RESTMQD,
    "settings": RESTMQD,
    "schedules": RESTMQD,
    "xmlrpc": RESTMQD,
    "rse": RESTMQD,
    "cloudevents": RESTMQD,
    "collectd": twistd("collectd"),
}
PROGRAMS["syslog"] = twistd("syslogd")
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in PROGRAMS}
HERE = "http://localhost:8888"


class Example(NamedTuple):
    """A command and what it prints; … stands for anything."""

    command: str
    output: list[str]

    @property
    def is_stream(self) -> bool:
        return self.command.startswith("curl -N ")

    def check(self, printed: str) -> None:
        lines = [line.removesuffix("\r") for line in printed.splitlines()]
        assert len(lines) == len(self.output), (self.command, printed)
        for line, expected in zip(lines, self.output, strict=True):
            pattern = ".*".join(map(re.escape, expected.split("…")))
            assert re.fullmatch(pattern, line), (
                f"{self.command}\nprints   {line}\nand not  {expected}"
            )


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Example(line[2:], []))
            elif line == ">" or line.startswith("> "):
                found[-1] = found[-1]._replace(command=f"{found[-1].command}\n{line[2:]}")
            else:
                found[-1].output.append(line)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_example_prints_what_it_shows(page, daemon, tool, tmp_path):
    """In order, on a daemon of their own; a stream runs beside those that follow it."""
    tool("curl")
    if page == "syslog":
        tool("logger")
    syslog_port = str(free_port())
    server = daemon("--syslog-port", syslog_port, program=PROGRAMS[page])
    server.wait_for("/readyz")
    streams = []
    try:
        for number, example in enumerate(examples(page)):
            command = example.command.replace(HERE, server.url).replace("25000", syslog_port)
            if example.is_stream:
                path = tmp_path / f"stream-{number}"
                with path.open("wb") as output:
                    process = subprocess.Popen(["bash", "-c", f"exec {command}"], stdout=output)
                streams.append((example, path, process))
            else:
                printed = subprocess.run(
                    ["bash", "-c", command],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE_SECONDS,
                )
                example.check(printed.stdout.replace(server.url, HERE))
        for example, path, process in streams:
            shown = len(example.output)
            wait_until(lambda p=path, n=shown: p.read_bytes().count(b"\n") >= n, example.command)
            assert process.poll() is None, "a stream that ends is none"
            example.check(path.read_text())
    finally:
        for _, _, process in streams:
            process.kill()
            process.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("pattern", [route[0] for route in ROUTES])
def test_every_route_has_an_example(pattern):
    spelt = re.compile(re.escape(HERE) + pattern + r"(?:\?[^ ']*)?(?=[' \n])")
    commands = [
        example.command.replace("'", "") + "\n" for page in PAGES for example in examples(page)
    ]
    assert any(spelt.search(command) for command in commands), pattern


def test_the_examples_are_there_to_be_found():
    assert len(examples("protocol")) > 50
    for text in PAGES.values():
        assert text.count("```console") * 2 == text.count("```")
