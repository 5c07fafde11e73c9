"""What a newcomer does in the first minute, with curl and with a text file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import StartDaemon
from tests.support import ROOT, Daemon, ValkeyServer, wait_until
from tests.system.clients import Client, Streams, wait_for_lines, warm_up

Tool = Callable[[str], str]
Curl = Callable[..., bytes]

LINES = (ROOT / "examples" / "lines.txt").read_bytes().split(b"\n")[:-1]


@pytest.fixture
def curl(tool: Tool) -> Curl:
    """A function that runs curl to its end and gives what it printed."""
    program = tool("curl")

    def run(*arguments: str | Path) -> bytes:
        done = subprocess.run(
            [program, "-sS", *arguments], check=True, capture_output=True, timeout=30
        )
        return done.stdout

    return run


@contextmanager
def streaming(tool: Tool, url: str, output: Path) -> Iterator[None]:
    """``curl -N`` in the background, its output in a file."""
    with output.open("wb") as file:
        stdout: IO[bytes] = file
        process = subprocess.Popen([tool("curl"), "-sS", "-N", url], stdout=stdout)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


def test_the_three_commands_of_the_read_me(
    daemon: StartDaemon, tool: Tool, curl: Curl, tmp_path: Path
) -> None:
    """I put a message in, take it out, and watch the next ones come."""
    broker = daemon()
    broker.wait_for("/readyz")
    here = f"http://localhost:{broker.port}"
    assert curl("-d", "value=hello", f"{here}/q/greetings") == b"greetings:1\r\n"
    first = b'{"count": 0, "key": "greetings:1", "value": "hello"}\r\n'
    assert curl(f"{here}/q/greetings") == first
    assert curl(f"{here}/q/greetings") == b""
    seen = tmp_path / "seen"
    with streaming(tool, f"{here}/c/greetings", seen):
        for i, word in enumerate(("one", "two", "three"), 2):
            assert curl("-d", f"value={word}", f"{here}/q/greetings") == b"greetings:%d\r\n" % i
        expected = (
            b'{"key": "greetings:2", "value": "one"}\r\n'
            b'{"key": "greetings:3", "value": "two"}\r\n'
            b'{"key": "greetings:4", "value": "three"}\r\n'
        )
        wait_until(lambda: seen.read_bytes() == expected, lambda: repr(seen.read_bytes()))


def test_a_single_message_reaches_a_stream_that_has_just_opened(
    daemon: StartDaemon, streams: Streams
) -> None:
    """I open a stream and post at once: it comes, whether or not the stream was ready."""
    broker = daemon()
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        for i in range(100):
            comet = streams.open(broker, f"fresh-{i}")
            client.add(f"fresh-{i}", b"hello")
            wait_for_lines(streams, [comet], 1)
            assert comet.bodies == [b"hello"]


def test_messages_survive_restarts_of_broker_and_store(daemon: StartDaemon, curl: Curl) -> None:
    """I stop it in the evening; in the morning everything is there, and numbers go on."""
    broker = daemon()
    here = f"http://localhost:{broker.port}"
    for day in range(3):
        broker.wait_for("/readyz")
        for i in range(20):
            key = b"diary:%d\r\n" % (20 * day + i + 1)
            assert curl("-d", f"value=day {day} note {i}", f"{here}/q/diary") == key
        assert broker.stop() == 0
        broker.start("/readyz")
    with Client(broker.port) as client:
        popped = [client.get("diary") for _ in range(60)]
        assert client.get("diary") is None
    assert [m.id for m in popped if m] == list(range(1, 61))
    assert popped[-1] is not None
    assert popped[-1].body == b"day 2 note 19"


def post_lines(broker: Daemon) -> None:
    with Client(broker.port) as client:
        for i, line in enumerate(LINES, 1):
            assert client.add("lines", line) >= i


def test_a_text_file_goes_through_line_by_line_byte_for_byte(
    daemon: StartDaemon, valkey: ValkeyServer, streams: Streams
) -> None:
    """Every line of a file, however odd, reaches three readers: two here, one at another daemon."""
    assert len(LINES) >= 2000
    broker, other = (daemon("--redis-url", valkey.url) for _ in range(2))
    for each in (broker, other):
        each.wait_for("/readyz")
    comets = [streams.open(each, "lines") for each in (broker, broker, other)]
    warm_up(streams, comets, broker.port, "lines")
    post_lines(broker)
    wait_for_lines(streams, comets, 3 * len(LINES))
    for comet in comets:
        assert comet.bodies == LINES
        assert comet.lines == comets[0].lines


def test_the_file_through_the_real_curl_and_the_embedded_store(
    daemon: StartDaemon, tool: Tool, curl: Curl, tmp_path: Path
) -> None:
    """The same by command line: curl posts each line of the file, two curls listen."""
    broker = daemon()
    broker.wait_for("/readyz")
    here = f"http://localhost:{broker.port}"
    files = [tmp_path / "one", tmp_path / "two"]
    with (
        streaming(tool, f"{here}/c/lines", files[0]),
        streaming(tool, f"{here}/c/lines", files[1]),
    ):
        all_ready(curl, here, files)
        curl("--no-progress-meter", "-o", tmp_path / "replies", "-K", requests(tmp_path, here))
        wait_until(
            lambda: all(len(values(file)) == len(LINES) for file in files),
            lambda: str([len(values(file)) for file in files]),
        )
    assert values(files[0]) == LINES
    assert values(files[1]) == LINES


def all_ready(curl: Curl, here: str, files: list[Path]) -> None:
    """Post until both have had a message; those are no lines of the file."""

    def look() -> bool:
        curl("-d", "value=ready?", f"{here}/q/lines")
        return all(file.read_bytes() for file in files)

    wait_until(look, "both streams")


def requests(folder: Path, here: str) -> Path:
    """A config file that has one curl post every line of the text, each from a file of its own."""
    parts = []
    for i, line in enumerate(LINES):
        (folder / f"line-{i}").write_bytes(line)
        parts.append(f'url = "{here}/q/lines"\ndata-urlencode = "value@{folder}/line-{i}"\n')
    config = folder / "requests"
    config.write_text("next\n".join(parts))
    return config


def values(file: Path) -> list[bytes]:
    """The values of all whole lines of JSON in a file."""
    lines = file.read_bytes().split(b"\r\n")[:-1]
    found = [json.loads(line)["value"].encode() for line in lines]
    return [value for value in found if value != b"ready?"]
