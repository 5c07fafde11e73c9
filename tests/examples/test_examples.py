"""Every program in examples/ runs against a living broker, and what it says is right."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.support import ROOT, Daemon, wait_until
from tests.system.clients import Client, drain

EXAMPLES = ROOT / "examples"
SECONDS = 120

Tool = Callable[[str], str]


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever that is."""
    words = list(map(str, command))
    return subprocess.run(
        words, capture_output=True, text=True, timeout=SECONDS, env=environment(), check=False
    )


def run_python(name: str, *arguments: object) -> str:
    """Run an example that must succeed; what it printed."""
    done = run(sys.executable, EXAMPLES / name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pytest_does_not_take_them_for_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]


def test_each_is_told_of_in_the_read_me() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"`{path.name}" in page, path.name


# -- the clients that check themselves --


def test_rest(common_daemon: Daemon, tool: Tool) -> None:
    tool("curl")
    done = run(EXAMPLES / "test_rest.sh", "--url", common_daemon.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nok\n")


def test_rest_notices_a_wrong_answer(tool: Tool) -> None:
    """The script is worth something: a server that says something else makes it fail."""
    tool("curl")
    with serving(Liar) as url:
        done = run(EXAMPLES / "test_rest.sh", "--url", url)
    assert done.returncode == 1
    assert "an empty queue: got 200, not 204" in done.stderr


def test_xmlrpc(common_daemon: Daemon) -> None:
    assert run_python("test_xmlrpc.py", "--url", common_daemon.url).endswith("\nok\n")


def test_sse(common_daemon: Daemon) -> None:
    assert run_python("test_sse.py", "--url", common_daemon.url).endswith("\nok\n")


@pytest.mark.slow
def test_work_queue(common_daemon: Daemon) -> None:
    """A worker dies with a job in its hands, and one job can't be done."""
    printed = run_python("work_queue.py", "--url", common_daemon.url)
    assert "put aside: 'no number'" in printed
    assert printed.endswith("\nok\n")


def test_events(common_daemon: Daemon) -> None:
    assert run_python("events.py", "--url", common_daemon.url).endswith("\nok\n")


def test_events_go_on_where_a_reader_was_killed(common_daemon: Daemon, tmp_path: Path) -> None:
    """Kill -9 with the place remembered: the next run prints the rest and nothing before it."""
    words = [sys.executable, EXAMPLES / "events.py", "--url", common_daemon.url]
    words += ["--topic", "killed.*", "--cursor", tmp_path / "cursor"]
    for n in range(3):
        reply = common_daemon.request("POST", "/v1/topics/killed.a/events", f"event {n}")
        assert reply.status == 201
        printed = tmp_path / f"printed-{n}"
        with printed.open("wb") as output:
            process = subprocess.Popen(words, stdout=output, env=environment())
            try:
                wait_until(lambda p=printed: p.read_bytes().count(b"\n") == 1, "a line")  # type: ignore[misc]
                cursor = str(json.loads(common_daemon.request("GET", "/v1/events").body)["cursor"])
                wait_until(
                    lambda c=cursor: (
                        (tmp_path / "cursor").exists()  # type: ignore[misc]
                        and (tmp_path / "cursor").read_text() == c
                    ),
                    "the place",
                )
            finally:
                process.kill()
                process.wait(SECONDS)
        assert printed.read_text().endswith(f' "event {n}"\n')


@pytest.mark.parametrize("name", ["test_comet.py", "test_comet_curl.py", "test_websocket.py"])
def test_a_consumer_gets_its_messages(name: str, common_daemon: Daemon, tool: Tool) -> None:
    tool("curl")
    assert run_python(name, "--url", common_daemon.url).endswith("\nok\n")


@pytest.mark.parametrize("name", ["test_comet.py", "test_comet_curl.py", "test_websocket.py"])
def test_a_consumer_prints_a_queue(
    name: str, common_daemon: Daemon, tool: Tool, tmp_path: Path
) -> None:
    """Left running beside, it shows what others post."""
    tool("curl")
    queue = f"shown by {name}"
    with Client(common_daemon.port) as client:
        for n in range(3):
            client.add(queue, b"message %d" % n)
    words = [sys.executable, EXAMPLES / name, "--url", common_daemon.url, "--queue", queue]
    printed = tmp_path / "printed"
    with printed.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, env=environment())
        try:
            wait_until(lambda: printed.read_bytes().count(b"\n") == 3, "three lines")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)
    assert printed.read_text() == "".join(f"{queue}:{n + 1} message {n}\n" for n in range(3))


class Liar(BaseHTTPRequestHandler):
    """Says yes to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


SSE_STREAM = b""": a comment
retry: 1000

id: 7
data: {"queue": "q", "id": 7,
data: "body": "one"}

event: closing
data: {}
unknown: field
data:

data: no blank line follows
"""


class Events(Liar):
    """Sends a recorded stream."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(SSE_STREAM)


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A web server on loopback; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(SECONDS)


def test_sse_reads_a_stream_as_the_html_standard_says() -> None:
    """Comments, several data lines, other events, an event that never ended."""
    with serving(Events) as url:
        printed = run_python("test_sse.py", "--url", url, "--queue", "q")
    assert printed == "q:7 one\n"


# -- the page --


def test_the_page_shows_a_queue_and_posts_to_another(
    daemon: StartDaemon, tool: Tool, tmp_path: Path
) -> None:
    """A real browser opens the page: it gets what waits, then what comes, by WebSocket."""
    browser = tool("chromium")
    pages = partial(SilentFiles, directory=str(EXAMPLES / "browser"))
    with serving(pages) as page:
        broker = daemon("--origin", page)
        broker.wait_for("/readyz")
        with Client(broker.port) as client:
            client.add("shown", b"<b>waiting</b>")
        where = f"{page}/?broker=http://localhost:{broker.port}&queue=shown&seen=seen"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [browser, *options, where], stdout=log, stderr=log, start_new_session=True
            )
        try:
            with Client(broker.port) as client:
                wait_until(lambda: client.length("seen") == 1, "the first on the page", 60)
                client.add("shown", "später".encode())
                wait_until(lambda: client.length("seen") == 2, "the second on the page", 60)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)
    expected = ["shown:1  <b>waiting</b>", "shown:2  später"]
    assert [m.body.decode() for m in drain(broker.port, "seen")] == expected


class SilentFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


# -- the producer --


def test_trends_of_an_atom_feed(daemon: StartDaemon, tmp_path: Path) -> None:
    """Each entry once, oldest first; a second run finds nothing new."""
    broker = daemon()
    broker.wait_for("/readyz")
    words = ("--url", broker.url, "--seen", tmp_path / "seen")
    titles = run_python("twitter_trends.py", *words).splitlines()
    assert titles[0] == "Ferry timetable for the winter"
    assert titles[3] == "Ferry Älvsborg back after the storm"
    entries = [json.loads(m.body) for m in drain(broker.port, "entries")]
    assert [entry["title"] for entry in entries] == titles
    assert entries[1]["title"] == "Night market moves to the old fish hall & stays there"
    assert entries[4]["link"] == "https://harbour.example/notes/5"
    (trends,) = [json.loads(m.body) for m in drain(broker.port, "trends")]
    assert trends == {"storm": 3, "harbour": 2, "ferry": 2, "market": 1}
    assert run_python("trends.py", *words) == ""
    assert drain(broker.port, "trends") == []


def test_trends_of_an_rss_feed_over_http(daemon: StartDaemon) -> None:
    broker = daemon()
    broker.wait_for("/readyz")
    with serving(partial(SilentFiles, directory=str(EXAMPLES))) as feeds:
        run_python("trends.py", "--url", broker.url, "--feed", f"{feeds}/feed.rss")
    ids = [json.loads(m.body)["id"] for m in drain(broker.port, "entries")]
    assert ids == ["https://harbour.example/notes/4", "https://harbour.example/notes/5"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!DOCTYPE x [<!ENTITY a "a">]><rss/>', "needs no document type"),
        ("<html/>", "neither Atom nor RSS"),
    ],
)
def test_trends_refuses_what_is_no_feed(text: str, words: str, tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    feed.write_text(text)
    done = run(sys.executable, EXAMPLES / "trends.py", "--feed", feed)
    assert done.returncode == 1
    assert words in done.stderr


# -- map/reduce --


def make_text(path: Path, size: int) -> str:
    """So many bytes of words, few of them often and many of them seldom, in lines."""
    chance = random.Random(7)  # no secret: the same every time
    syllables = ["ba", "ko", "ri", "Ste", "lün", "ça", "жи", "dé", "9", "mor", "猫", "_x"]
    vocabulary = ["".join(chance.choices(syllables, k=chance.randrange(1, 6))) for _ in range(8000)]
    weights = [1 / (rank + 1) for rank in range(len(vocabulary))]
    lines = []
    while size > 0:
        words = chance.choices(vocabulary, weights, k=2000)
        for start in range(0, len(words), 12):
            line = chance.choice((" ", ", ", " - ")).join(words[start : start + 12]) + ".\n"
            size -= len(line.encode())
            lines.append(line)
    path.write_text("".join(lines), encoding="utf-8")
    return "".join(lines)


@pytest.mark.slow
def test_word_count_of_ten_megabytes_is_exact(daemon: StartDaemon, tmp_path: Path) -> None:
    """Four mappers and two reducers count what collections.Counter counts."""
    path = tmp_path / "text"
    text = make_text(path, 10_000_000)
    assert path.stat().st_size >= 10_000_000
    broker = daemon()
    broker.wait_for("/readyz")
    printed = run_python("word_count.py", "--url", broker.url, path)
    pairs = (line.split("\t") for line in printed.splitlines())
    assert {word: int(count) for word, count in pairs} == Counter(re.findall(r"\w+", text.lower()))
    stats = json.loads(broker.request("GET", "/stats/").body)["queues"]
    assert sum(queue["len"] for queue in stats.values()) == 0


def test_word_frequency(common_daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("To be, or not to be:\nthat is the question. To be!\n")
    printed = run_python("word_frequency.py", "--url", common_daemon.url, "--top", 3, path)
    assert [line.split() for line in printed.splitlines()] == [
        ["25.00", "%", "3", "be"],
        ["25.00", "%", "3", "to"],
        ["8.33", "%", "1", "is"],
    ]


def test_a_file_without_a_word_counts_nothing(common_daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("")
    assert run_python("word_count.py", "--url", common_daemon.url, path) == ""
