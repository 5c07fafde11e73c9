"""A real browser on every stream: EventSource, WebSocket and fetch, in a page of the broker's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon, StartValkey
from tests.support import Daemon, wait_until
from tests.system.browser import Chromium
from tests.system.clients import Client, Comet
from tests.system.test_fronts import running

pytestmark = pytest.mark.slow

EVENT_SOURCE = """
window.got = []; window.opened = 0; window.failed = 0;
window.source = new EventSource("/sse/QUEUE");
source.onopen = () => { opened += 1; };
source.onerror = () => { failed += 1; };
source.onmessage = (event) => { got.push([event.lastEventId, JSON.parse(event.data).body]); };
for (const word of ["gap", "missed"])
  source.addEventListener(word, (event) => { got.push([word, event.data]); });
0
"""
WEB_SOCKET = """
window.got = []; window.opened = 0;
window.socket = new WebSocket(`ws://${location.host}/ws/QUEUE`);
socket.onopen = () => { opened += 1; };
socket.onmessage = (event) => { got.push(event.data); };
0
"""
FETCH = """
window.got = []; window.opened = 0;
(async () => {
  const reply = await fetch("/v1/queues/QUEUE/stream");
  opened += 1;
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const {done, value} = await reader.read();
    if (done) break;
    const lines = (text + value).split("\\n");
    text = lines.pop();
    for (const line of lines) if (line) got.push(JSON.parse(line).body);
  }
})();
0
"""


@pytest.fixture
def chromium(tool: Callable[[str], str]) -> Iterator[Chromium]:
    """A browser with an empty profile."""
    with Chromium(tool("chromium")) as browser:
        yield browser


@pytest.fixture
def broker(daemon: StartDaemon, start_valkey: StartValkey) -> Daemon:
    """A daemon whose end leaves the store alone."""
    started = daemon("--redis-url", start_valkey(appendonly="yes").url)
    started.wait_for("/readyz")
    return started


def open_page(broker: Daemon, chromium: Chromium, script: str, queue: str) -> None:
    """A page of the broker's, its stream open and known to the broker."""
    chromium.go(f"{broker.url}/static/help.html")
    chromium.run(script.replace("QUEUE", queue))
    wait_for_consumer(broker, queue)
    wait_until(lambda: chromium.run("opened") == 1, "the open stream in the page")


def wait_for_consumer(broker: Daemon, queue: str) -> None:
    def there() -> Any:
        return json.loads(broker.request("GET", f"/stats/{queue}").body).get("consumers")

    wait_until(there, "the page among the consumers")


def wait_for(chromium: Chromium, count: int) -> list[Any]:
    """What the page got, as soon as it is so many."""
    wait_until(lambda: chromium.run("got.length") >= count, f"{count} in the page", 60)
    found: list[Any] = chromium.run("got")
    assert len(found) == count
    return found


@pytest.fixture(params=["the broker", "nginx"])
def door(
    request: pytest.FixtureRequest, broker: Daemon, tool: Callable[[str], str], tmp_path: Path
) -> Iterator[Daemon]:
    """What the browser speaks to: the broker itself, or nginx before it."""
    if request.param == "the broker":
        yield broker
        return
    folder = tmp_path / "front"
    folder.mkdir()
    with running(tool, request.param, folder, [broker]) as front:
        yield front


def test_event_source_misses_nothing_over_a_restart(
    broker: Daemon, door: Daemon, chromium: Chromium
) -> None:
    """The broker is killed and started again: the browser comes back by itself, where it was."""
    open_page(door, chromium, EVENT_SOURCE, "events")
    with Client(broker.port) as client:
        for n in range(10):
            client.add("events", b"before %d" % n)
    before = wait_for(chromium, 10)
    assert [body for _, body in before] == [f"before {n}" for n in range(10)]
    broker.kill()
    wait_until(lambda: chromium.run("failed") > 0, "the end of the stream in the page")
    broker.start("/readyz")
    with Client(broker.port) as client:
        other = Comet(broker.port, "events")  # so that it does not all wait for the browser
        for n in range(10):
            client.add("events", b"away %d" % n)
        while len(other.lines) < 10:
            assert other.read()
        other.close()
        found = wait_for(chromium, 20)
        assert [body for _, body in found[10:]] == [f"away {n}" for n in range(10)]
        client.add("events", b"live")
    ids = [last for last, _ in wait_for(chromium, 21)]
    assert len(set(ids)) == 21
    opened = chromium.run("opened")
    assert opened == 2 if door is broker else opened >= 2  # nginx answers while nobody is there
    assert chromium.run("source.readyState") == 1


def test_a_page_hears_and_speaks_on_a_web_socket(broker: Daemon, chromium: Chromium) -> None:
    """A page opens a WebSocket: messages come, and what it sends comes back."""
    open_page(broker, chromium, WEB_SOCKET, "socket")
    with Client(broker.port) as client:
        for n in range(20):
            client.add("socket", b"hello %d" % n)
    values = [json.loads(text)["value"] for text in wait_for(chromium, 20)]
    assert values == [f"hello {n}" for n in range(20)]
    chromium.run("socket.send('echo, ü'), 0")
    assert wait_for(chromium, 21)[-1] == "echo, ü"
    assert chromium.run(
        "new Promise(done => { socket.onclose = e => done([e.code, e.wasClean]);"
        " socket.close(1000); })"
    ) == [1000, True]


def test_a_page_reads_ndjson_by_fetch(broker: Daemon, chromium: Chromium) -> None:
    """A page reads a stream line by line as it comes."""
    open_page(broker, chromium, FETCH, "lines")
    with Client(broker.port) as client:
        for n in range(20):
            client.add("lines", b"line %d" % n)
    assert wait_for(chromium, 20) == [f"line {n}" for n in range(20)]
