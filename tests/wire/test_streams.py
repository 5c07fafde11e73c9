"""Server-sent events, ndjson and what a client may choose for its stream."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest

from restmq.web.v1.problems import CODES, CODES_OF_STATUS, TITLES
from tests.support import Daemon, wait_until
from tests.wire.clients import Comet, add, command, get, pop, post

SSE = "Accept: text/event-stream"


class Events(Comet):
    """A stream of server-sent events, or of ndjson, read one by one."""

    _text = b""

    def block(self) -> dict[str, str]:
        """The next block of lines; fields by name, a comment under ""."""
        if not self.status:
            self.head()
        while b"\n\n" not in self._text:
            chunk = self._chunk()
            assert chunk, "the stream is over"
            self._text += chunk
        block, _, self._text = self._text.partition(b"\n\n")
        pairs = [line.split(":", 1) for line in block.decode().split("\n")]
        return {name: value.removeprefix(" ") for name, value in pairs}

    def event(self) -> dict[str, Any]:
        """The next block with data, its data read."""
        while True:
            block: dict[str, Any] = self.block()
            if "data" in block:
                return {**block, "data": json.loads(block["data"])}

    def json_line(self) -> Any:
        """The next line of ndjson that says something."""
        if not self.status:
            self.head()
        while True:
            while b"\n" not in self._text:
                chunk = self._chunk()
                assert chunk, "the stream is over"
                self._text += chunk
            line, _, self._text = self._text.partition(b"\n")
            if line:
                return json.loads(line)


Open = Callable[..., Events]


@pytest.fixture
def events(server: Daemon) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_stream(path: str, *headers: str, port: int = server.port) -> Events:
            return stack.enter_context(Events(port, path, *headers))

        yield open_stream


def listening(server: Daemon, stream: Events, queue: str) -> Events:
    """Wait until the stream gets what is added; take that away."""
    wait_until(lambda: stats(server, queue).get("consumers"), "somebody listening")
    return stream


def stats(server: Daemon, queue: str) -> dict[str, Any]:
    reply = get(server, f"/stats/{quote(queue, safe='')}")
    found: dict[str, Any] = json.loads(reply.body)
    return found


def started(server: Daemon, events: Open, queue: str, path: str, *headers: str) -> Events:
    stream = events(path, *headers).head()
    assert stream.status == 200
    return listening(server, stream, queue)


def bodies(stream: Events, count: int) -> list[Any]:
    return [stream.event()["data"]["body"] for _ in range(count)]


def make_jobs(server: Daemon, queue: str) -> None:
    reply = server.request("PATCH", f"/v1/queues/{queue}/settings", '{"mode": "jobs"}')
    assert reply.status == 200


# -- what it looks like ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/sse/{}", "/v1/queues/{}/stream"])
def test_events_as_a_browser_reads_them(
    server: Daemon, queue: str, events: Open, path: str
) -> None:
    stream = started(server, events, queue, path.format(queue), SSE)
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"].startswith("no-store, no-transform")
    assert stream.headers["x-accel-buffering"] == "no"
    opening = stream.block()
    assert opening[""] == "ok"
    assert 1000 <= int(opening["retry"]) < 4000
    add(server, queue, "héllo\nworld")
    event = stream.block()
    assert set(event) == {"id", "data"}, "no event field: onmessage must see it"
    message = json.loads(event["data"])
    assert message["queue"] == queue
    assert (message["id"], message["body"], message["encoding"]) == (1, "héllo\nworld", "text")
    assert message["cursor"] == event["id"]
    assert message["content_type"] == "text/plain"
    assert message["created_at"].endswith("Z")


def test_json_bodies_stay_json_and_bytes_become_base64(
    server: Daemon, queue: str, events: Open
) -> None:
    server.request("PATCH", f"/v1/queues/{queue}/settings", '{"mode": "open"}')
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream")
    assert stream.headers["content-type"] == "application/x-ndjson"
    to = f"/v1/queues/{queue}/messages"
    sent = '{"n":\n 1, "t": "a\\nb"}'
    assert server.request("POST", to, sent, {"Content-Type": "application/json"}).status == 201
    assert server.request("POST", to, b"\xff\x00", {"Content-Type": "image/x"}).status == 201
    first, second = stream.json_line(), stream.json_line()
    assert (first["body"], first["encoding"]) == ({"n": 1, "t": "a\nb"}, "json")
    assert (second["body"], second["encoding"]) == ("/wA=", "base64")
    assert second["content_type"] == "image/x"


def test_a_quiet_stream_shows_signs_of_life(server: Daemon, queue: str, events: Open) -> None:
    stream = events(f"/sse/{queue}?heartbeat=0.1", SSE)
    stream.block()
    assert [stream.block() for _ in range(2)] == [{"": ""}] * 2
    lines = events(f"/v1/queues/{queue}/stream?heartbeat=0.1").head()
    assert lines._chunk() == b"\n"
    talking = events(f"/c/{queue}?slow=latest&heartbeat=0.1").head()
    assert talking._chunk() == b"\r\n"


def test_comet_as_ndjson(server: Daemon, queue: str, events: Open) -> None:
    stream = started(server, events, queue, f"/c/{queue}", "Accept: application/x-ndjson")
    assert stream.headers["content-type"] == "application/x-ndjson"
    add(server, queue, "x")
    assert stream.json_line() == {"key": f"{queue}:1", "value": "x"}


def test_several_queues_in_one_stream(server: Daemon, queue: str, events: Open) -> None:
    names = [f"{queue}-{letter}" for letter in "ab"]
    path = "/v1/stream?" + "&".join(f"queue={name}" for name in names)
    stream = events(path, SSE).head()
    for name in names:
        listening(server, stream, name)
    for name in (names[0], names[1], names[0]):
        add(server, name, name)
    assert bodies(stream, 3) == [names[0], names[1], names[0]]
    last = stream.block()["id"]
    stream.socket.close()
    add(server, names[1], "while away")
    again = events(path, SSE, f"Last-Event-ID: {last}")
    assert bodies(again, 1) == ["while away"]
    server.request("DELETE", f"/q/{names[0]}")
    add(server, names[1], "goes on")
    assert bodies(again, 1) == ["goes on"]
    last = again.block()["id"]
    assert last.count(",") == 1, "the deleted queue keeps its place: who comes back is understood"
    assert events(path, SSE, f"Last-Event-ID: {last}").head().status == 200
    server.request("DELETE", f"/q/{names[1]}")
    wait_until(lambda: again._chunk() == b"", "the end")


def test_who_got_nothing_yet_can_come_back_too(server: Daemon, queue: str, events: Open) -> None:
    """The cursor of the beginning, of a queue that nobody had used and of one that had messages."""
    used = f"{queue}-used"
    other = started(server, events, used, f"/sse/{used}", SSE)
    add(server, used, "before")
    assert bodies(other, 1) == ["before"]
    for path, name in ((f"/sse/{queue}", queue), (f"/sse/{used}", used)):
        stream = events(path, SSE)
        last = stream.block()["id"]
        stream.socket.close()
        wait_until(lambda n=name: stats(server, n).get("consumers", {}).get("sse", 0) < 2, "one")
        witness = events(f"/sse/{name}", SSE).head()
        add(server, name, "meanwhile")
        assert bodies(witness, 1) == ["meanwhile"]
        again = events(path, SSE, f"Last-Event-ID: {last}")
        assert bodies(again, 1) == ["meanwhile"]


def test_several_queues_miss_nothing_where_nothing_came_before(
    server: Daemon, queue: str, events: Open
) -> None:
    a, b = f"{queue}-a", f"{queue}-b"
    path = f"/v1/stream?queue={a}&queue={b}"
    stream = events(path, SSE).head()
    listening(server, stream, a)
    listening(server, stream, b)
    add(server, a, "1")
    assert bodies(stream, 1) == ["1"]
    last = stream.block()["id"]
    stream.socket.close()
    witness = events(f"/sse/{b}", SSE).head()
    add(server, b, "2")
    assert bodies(witness, 1) == ["2"]
    assert bodies(events(path, SSE, f"Last-Event-ID: {last}"), 1) == ["2"]


def test_settings_of_a_queue_without_messages_outlive_its_first_stream(
    server: Daemon, queue: str, events: Open
) -> None:
    server.request("PATCH", f"/v1/queues/{queue}/settings", '{"mode": "jobs", "replay": 5}')
    before = get(server, f"/v1/queues/{queue}/settings").body
    stream = started(server, events, queue, f"/sse/{queue}?observe=1", SSE)
    worker = events(f"/v1/queues/{queue}/stream?ack=1").head()
    wait_until(lambda: stats(server, queue)["consumers"] == {"ndjson": 1, "observe": 1}, "both")
    for one in (stream, worker):
        one.socket.close()
    wait_until(lambda: "consumers" not in stats(server, queue), "nobody")
    assert get(server, f"/v1/queues/{queue}/settings").body == before


# -- coming back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["header", "query"])
def test_who_comes_back_misses_nothing(server: Daemon, queue: str, events: Open, by: str) -> None:
    other = started(server, events, queue, f"/sse/{queue}", SSE)
    stream = events(f"/sse/{queue}", SSE).head()
    wait_until(lambda: stats(server, queue)["consumers"] == {"sse": 2}, "two")
    for n in range(5):
        add(server, queue, str(n))
    seen = [stream.event() for _ in range(3)]
    stream.socket.close()
    for n in range(5, 8):
        add(server, queue, str(n))
    assert bodies(other, 8) == [str(n) for n in range(8)]
    last = seen[-1]["id"]
    again = (
        events(f"/sse/{queue}", SSE, f"Last-Event-ID: {last}")
        if by == "header"
        else events(f"/sse/{queue}?cursor={last}", SSE)
    )
    assert bodies(again, 5) == [str(n) for n in range(3, 8)]
    add(server, queue, "live")
    assert bodies(again, 1) == ["live"]


def test_what_is_no_longer_kept_is_said_first(server: Daemon, queue: str, events: Open) -> None:
    kept = server.request(
        "PATCH",
        f"/v1/queues/{queue}/settings",
        '{"mode": "open", "replay": 60, "replay_messages": 3}',
    )
    assert json.loads(kept.body)["replay_messages"] == 3
    stream = started(server, events, queue, f"/sse/{queue}", SSE)
    for n in range(1, 9):
        add(server, queue, str(n))
    first = stream.event()["id"]
    again = events(f"/sse/{queue}", SSE, f"Last-Event-ID: {first}")
    gap = again.event()
    assert gap["event"] == "gap"
    assert gap["data"] == {"queue": queue, "oldest": 6, "next": 6, "missed": 4}
    assert bodies(again, 3) == ["6", "7", "8"]


def test_without_a_window_the_gap_is_all_there_is(server: Daemon, queue: str, events: Open) -> None:
    server.request("PATCH", f"/v1/queues/{queue}/settings", '{"replay": 0, "mode": "open"}')
    stream = started(server, events, queue, f"/sse/{queue}", SSE)
    add(server, queue, "1")
    add(server, queue, "2")
    first = stream.event()["id"]
    again = events(f"/sse/{queue}", SSE, f"Last-Event-ID: {first}")
    gap = again.event()["data"]
    assert gap == {"queue": queue, "oldest": None, "next": 3, "missed": 1}


def test_a_cursor_of_another_life_of_the_store_is_a_gap(
    server: Daemon, queue: str, events: Open
) -> None:
    stream = started(server, events, queue, f"/sse/{queue}", SSE)
    add(server, queue, "1")
    stream.event()
    again = events(f"/sse/{queue}", SSE, "Last-Event-ID: 77-5")
    gap = again.event()
    assert (gap["event"], gap["data"]["missed"], gap["data"]["oldest"]) == ("gap", None, 1)
    assert bodies(again, 1) == ["1"]


def test_a_cursor_that_is_up_to_date_brings_nothing(
    server: Daemon, queue: str, events: Open
) -> None:
    stream = started(server, events, queue, f"/sse/{queue}", SSE)
    add(server, queue, "1")
    last = stream.event()["id"]
    again = events(f"/sse/{queue}", SSE, f"Last-Event-ID: {last}").head()
    wait_until(lambda: stats(server, queue)["consumers"] == {"sse": 2}, "two")
    add(server, queue, "2")
    assert bodies(again, 1) == ["2"]


# -- under a lease --------------------------------------------------------------------------------


def ack(server: Daemon, *receipts: str, how: str = "ack") -> tuple[int, Any]:
    reply = server.request("POST", f"/v1/{how}", json.dumps({"receipts": receipts}))
    return reply.status, json.loads(reply.body)


def put(server: Daemon, queue: str, *bodies: str) -> None:
    for body in bodies:
        assert server.request("POST", f"/v1/queues/{queue}/messages", body).status == 201


def test_each_message_has_a_receipt_that_counts_once(
    server: Daemon, queue: str, events: Open
) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=60", SSE)
    put(server, queue, "a", "b")
    one, two = (stream.event()["data"] for _ in range(2))
    assert (one["body"], two["body"]) == ("a", "b")
    assert one["lease_until"] > one["created_at"]
    assert ack(server, one["receipt"]) == (200, {"results": [{"ok": True}], "failed": 0})
    status, answer = ack(server, one["receipt"], two["receipt"], "nonsense!")
    assert status == 200
    assert answer["failed"] == 2
    codes = [result.get("code") for result in answer["results"]]
    assert codes == ["stale_receipt", None, "bad_receipt"]
    assert ack(server, two["receipt"])[0] == 409
    assert stats(server, queue)["len"] == 0


def test_what_is_not_acknowledged_goes_to_another(server: Daemon, queue: str, events: Open) -> None:
    make_jobs(server, queue)
    path = f"/v1/queues/{queue}/stream?ack=1&lease=60"
    worker = started(server, events, queue, path)
    put(server, queue, "a", "b", "c")
    held = [worker.json_line() for _ in range(3)]
    assert ack(server, held[1]["receipt"])[0] == 200
    other = events(path).head()
    wait_until(lambda: stats(server, queue)["consumers"] == {"ndjson": 2}, "two")
    worker.socket.close()
    back = [other.json_line() for _ in range(2)]
    assert [message["body"] for message in back] == ["a", "c"]
    assert ack(server, held[0]["receipt"])[0] == 409, "it is the other's now"
    assert ack(server, *(message["receipt"] for message in back))[1]["failed"] == 0


def test_a_lease_that_ends_brings_the_message_back(
    server: Daemon, queue: str, events: Open
) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=0.2")
    put(server, queue, "again")
    first, second = stream.json_line(), stream.json_line()
    assert first["id"] == second["id"]
    assert first["receipt"] != second["receipt"]
    assert ack(server, second["receipt"])[0] == 200


def test_an_ack_of_a_stream_is_said_again_under_its_key(
    server: Daemon, queue: str, events: Open
) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=60")
    put(server, queue, "x", "y")
    one, two = (stream.json_line()["receipt"] for _ in range(2))

    def say(*receipts: str) -> Any:
        body = json.dumps({"receipts": [*receipts, "nonsense!"]})
        return server.request("POST", "/v1/ack", body, {"Idempotency-Key": "s1"})

    first, again = say(one), say(one)
    assert (first.status, again.status, first.body) == (200, 200, again.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert say(one, two).status == 422
    assert ack(server, two)[0] == 200


@pytest.mark.parametrize("leaves", [False, True])
def test_who_does_not_acknowledge_uses_up_attempts(
    server: Daemon, queue: str, events: Open, leaves: bool
) -> None:
    """Because the lease ends, or because the worker goes."""
    make_jobs(server, queue)
    path = f"/v1/queues/{queue}"
    server.request("PATCH", f"{path}/settings", '{"max_attempts": 2}')
    lease = 600 if leaves else 0.2
    stream = started(server, events, queue, f"{path}/stream?ack=1&lease={lease}")
    put(server, queue, "poison")
    assert stream.json_line()["attempt"] == 1
    if leaves:
        stream.socket.close()
        stream = events(f"{path}/stream?ack=1&lease={lease}").head()
    assert stream.json_line()["attempt"] == 2
    if leaves:
        stream.socket.close()
    body = '{"wait": 20}'
    reply = server.request("POST", f"/v1/queues/{queue}.dead/receive", body)
    (dead,) = json.loads(reply.body)["messages"]
    assert (dead["body"], dead["headers"]["restmq-attempts"]) == ("poison", "2")


def test_a_long_poll_gets_what_a_stream_gave_up(server: Daemon, queue: str, events: Open) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=600")
    put(server, queue, "x")
    assert stream.json_line()["attempt"] == 1
    stream.socket.close()
    reply = server.request("POST", f"/v1/queues/{queue}/receive", '{"wait": 20}')
    (message,) = json.loads(reply.body)["messages"]
    assert message["attempt"] == 2


def test_a_lease_of_a_stream_is_extended(server: Daemon, queue: str, events: Open) -> None:
    """One takes longer than the stream said, the other stays as short as it was."""
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=1")
    put(server, queue, "long", "short")
    long, short = stream.json_line(), stream.json_line()
    said = json.dumps({"receipts": [long["receipt"]], "lease": 600})
    reply = server.request("POST", "/v1/extend", said)
    assert (reply.status, json.loads(reply.body)["failed"]) == (200, 0)
    assert stream.json_line()["id"] == short["id"]
    assert ack(server, long["receipt"])[0] == 200
    assert server.request("POST", "/v1/extend", said).status == 409


def test_an_extension_may_cut_a_lease_short(server: Daemon, queue: str, events: Open) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=600")
    put(server, queue, "x")
    first = stream.json_line()
    said = json.dumps({"receipts": [first["receipt"]], "lease": 0.1})
    assert server.request("POST", "/v1/extend", said).status == 200
    again = stream.json_line()
    assert (again["id"], again["receipt"] == first["receipt"]) == (first["id"], False)


def test_nack_gives_it_to_the_next_at_once(server: Daemon, queue: str, events: Open) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=60")
    put(server, queue, "x")
    first = stream.json_line()
    assert ack(server, first["receipt"], how="nack")[0] == 200
    assert stream.json_line()["id"] == first["id"]


def test_a_worker_gets_no_more_than_its_buffer(server: Daemon, queue: str, events: Open) -> None:
    make_jobs(server, queue)
    stream = started(server, events, queue, f"/v1/queues/{queue}/stream?ack=1&lease=60&buffer=2")
    put(server, queue, *"abcd")
    held = [stream.json_line() for _ in range(2)]
    assert [message["body"] for message in held] == ["a", "b"]
    wait_until(lambda: stats(server, queue)["len"] == 2, "two that wait")
    assert stream.said_nothing()
    ack(server, held[0]["receipt"])
    assert stream.json_line()["body"] == "c"


def test_the_old_doors_of_leases(server: Daemon, queue: str, events: Open, ws: Any) -> None:
    """COMET and the old WebSocket take ack=1, too: the receipt is one member more."""
    post(server, f"/p/{queue}", policy="roundrobin")
    stream = started(server, events, queue, f"/c/{queue}?ack=1&flush=1")
    add(server, queue, "x")
    message = stream.message()
    assert set(message) == {"key", "value", "receipt"}
    assert ack(server, message["receipt"])[0] == 200
    stream.socket.close()
    wait_until(lambda: "consumers" not in stats(server, queue), "nobody")
    socket = ws(f"/ws/{queue}?ack=1")
    wait_until(lambda: stats(server, queue).get("consumers"), "one")
    add(server, queue, "y")
    message = socket.message()
    assert message["value"] == "y"
    assert ack(server, message["receipt"])[0] == 200


# -- modes and observers --------------------------------------------------------------------------


def test_a_tail_does_not_eat_the_jobs(server: Daemon, queue: str, events: Open) -> None:
    put(server, queue, "job")
    for reply in (
        get(server, f"/q/{queue}"),
        get(server, f"/c/{queue}"),
        get(server, f"/c/{queue}?slow=latest"),
        get(server, f"/sse/{queue}"),
        get(server, f"/v1/queues/{queue}/stream"),
        command(server, cmd="take", queue=queue),
    ):
        assert reply.status == 409, reply
        assert b"ack=1" in reply.body
        assert b"mode" in reply.body
    problem = json.loads(get(server, f"/v1/queues/{queue}/stream").body)
    assert problem["code"] == "leased_only"
    observer = started(server, events, queue, f"/c/{queue}?observe=1&flush=1")
    put(server, queue, "second")
    assert observer.message()["value"] == "second"
    assert stats(server, queue)["len"] == 2
    assert stats(server, queue)["consumers"] == {"observe": 1}
    server.request("PATCH", f"/v1/queues/{queue}/settings", '{"mode": "open"}')
    assert pop(server, queue)["value"] == "job"


def test_an_observer_takes_nothing(server: Daemon, queue: str, events: Open) -> None:
    observer = started(server, events, queue, f"/v1/queues/{queue}/stream?observe=1", SSE)
    add(server, queue, "a")
    consumer = events(f"/sse/{queue}", SSE).head()
    assert bodies(consumer, 1) == ["a"]
    add(server, queue, "b")
    assert bodies(observer, 2) == bodies(consumer, 1) * 0 + ["a", "b"]
    assert stats(server, queue)["len"] == 0


def test_a_new_queue_of_an_old_door_is_open(server: Daemon, queue: str) -> None:
    add(server, queue, "x")
    settings = json.loads(get(server, f"/v1/queues/{queue}/settings").body)
    assert (settings["mode"], settings["delivery"]) == ("open", "broadcast")
    put(server, f"{queue}-jobs", "x")
    settings = json.loads(get(server, f"/v1/queues/{queue}-jobs/settings").body)
    assert (settings["mode"], settings["delivery"]) == ("jobs", "roundrobin")


def test_every_code_has_a_page(server: Daemon) -> None:
    for code, (title, cure) in TITLES.items():
        page = get(server, f"/errors/{code}")
        assert page.status == 200
        assert html.escape(title).encode() in page.body
        assert html.escape(cure).encode() in page.body
    assert get(server, "/errors/nonsense").status == 404
    assert set(CODES.values()) | set(CODES_OF_STATUS.values()) <= set(TITLES)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("slow=never", "slow"),
        ("buffer=0", "buffer"),
        ("buffer=10001", "buffer"),
        ("buffer=1e3", "buffer"),
        ("buffer_bytes=99999999999", "buffer_bytes"),
        ("ack=maybe", "ack"),
        ("lease=5", "ack=1"),
        ("ack=1&lease=0", "lease"),
        ("ack=1&lease=nan", "lease"),
        ("ack=1&lease=99999", "lease"),
        ("ack=1&observe=1", "observer"),
        ("heartbeat=-1", "heartbeat"),
        ("cursor=abc", "cursor"),
        ("cursor=1-1,1-1", "cursor"),
    ],
)
@pytest.mark.parametrize("path", ["/sse/{}", "/v1/queues/{}/stream", "/c/{}"])
def test_bad_choices_are_named(
    server: Daemon, queue: str, path: str, query: str, word: str
) -> None:
    reply = get(server, f"{path.format(queue)}?{query}")
    assert reply.status == 400
    assert word.encode() in reply.body
    assert "consumers" not in stats(server, queue)


@pytest.mark.parametrize("choice", ["ack=1", "slow=block"])
def test_what_needs_round_robin_says_so(server: Daemon, queue: str, choice: str) -> None:
    reply = get(server, f"/v1/queues/{queue}/stream?{choice}")
    assert reply.status == 409
    problem = json.loads(reply.body)
    assert problem["code"] == "wrong_delivery"
    assert problem["type"] == "/errors/wrong_delivery"
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/queues/x/stream?unknown=1", 400),
        ("/v1/queues/x/stream?slow=latest&slow=latest", 400),
        ("/v1/queues/x/stream?slow=%ff", 400),
        ("/v1/queues/a//b/stream", 400),
        ("/v1/queues/../stream", 400),
        ("/v1/queues/a%00b/stream", 400),
        ("/v1/queues/" + "x" * 256 + "/stream", 400),
        ("/v1/queues/settings/stream", 400),
        ("/v1/stream", 400),
        ("/v1/stream?queue=a&queue=a", 400),
        ("/v1/nothing", 404),
    ],
)
def test_bad_paths_and_queries(server: Daemon, path: str, status: int) -> None:
    reply = get(server, path)
    assert reply.status == status
    if status == 400:
        assert json.loads(reply.body)["code"] == "bad_request"


@pytest.mark.parametrize(
    "body",
    [
        "",
        json.dumps({"receipts": ["x"] * 1001}),
        "[]",
        "{",
        '{"receipts": []}',
        '{"receipts": "x"}',
        '{"receipts": [1]}',
        '{"receipts": ["x"], "y": 1}',
    ],
)
@pytest.mark.parametrize("how", ["ack", "nack"])
def test_bad_acknowledgements(server: Daemon, how: str, body: str) -> None:
    reply = server.request("POST", f"/v1/{how}", body)
    assert reply.status == 400
    assert json.loads(reply.body)["code"] == ("invalid_json" if body == "{" else "bad_request")


@pytest.mark.parametrize(
    "body",
    [
        '{"mode": "shut"}',
        '{"mode": 1}',
        '{"delivery": "all"}',
        '{"replay": -1}',
        '{"replay": true}',
        '{"replay": 1e9}',
        '{"replay_messages": "many"}',
        '{"nonsense": 1}',
        '{"mode": "jobs", "delivery": "broadcast"}',
        "7",
    ],
)
def test_bad_settings_change_nothing(server: Daemon, queue: str, body: str) -> None:
    add(server, queue, "x")
    before = get(server, f"/v1/queues/{queue}/settings").body
    assert server.request("PATCH", f"/v1/queues/{queue}/settings", body).status == 400
    assert get(server, f"/v1/queues/{queue}/settings").body == before


def test_a_page_of_another_site_streams_nothing(server: Daemon, queue: str) -> None:
    for path in (f"/sse/{queue}", f"/v1/queues/{queue}/stream", f"/v1/stream?queue={queue}"):
        assert get(server, path, Origin="https://evil.example").status == 403
        assert get(server, path, Sec_Fetch_Site="cross-site").status == 403
