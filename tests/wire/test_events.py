"""Events under ``/v1``: publishing, reading by cursor, long poll, streams, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import DEADLINE_SECONDS, Daemon, Response, wait_until
from tests.wire.test_v1_socket import Session


def post(daemon: Daemon, topic: str, body: Any = b"{}", **headers: str) -> dict[str, Any]:
    fields = {"Content-Type": "application/json", **headers}
    reply = daemon.request("POST", f"/v1/topics/{quote(topic)}/events", body, fields)
    assert reply.status == 201, reply
    return json.loads(reply.body)


def get(daemon: Daemon, query: str, **headers: str) -> dict[str, Any]:
    reply = daemon.request("GET", f"/v1/events?{query}", None, headers)
    assert reply.status == 200, reply
    assert reply.headers["cache-control"] == "no-store"
    return json.loads(reply.body)


def bad(reply: Response, *words: str) -> None:
    assert reply.status == 400, reply
    problem = json.loads(reply.body)
    assert problem["status"] == 400
    for word in words:
        assert word in problem["detail"], problem


class Streaming:
    """A stream over HTTP, line by line."""

    def __init__(
        self,
        daemon: Daemon,
        query: str,
        *,
        path: str = "/v1/stream",
        version: str = "1.0",
        **headers: str,
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", daemon.port), DEADLINE_SECONDS)
        fields = "".join(
            f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()
        )
        request = f"GET {path}?{query} HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n"
        self._socket.sendall(request.encode())
        self._file = self._socket.makefile("rb")
        self.status = self._file.readline()
        self.head: dict[str, str] = {}
        while line := self._file.readline().decode().strip():
            name, _, value = line.partition(":")
            self.head[name.lower()] = value.strip()

    def line(self) -> str:
        return self._file.readline().decode().rstrip("\n")

    def event(self) -> dict[str, str]:
        """The fields of the next block of server-sent events."""
        fields: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        return fields

    def events(self) -> Iterator[dict[str, Any]]:
        """Events only: (id, object)."""
        while True:
            block = self.event()
            if "data" in block and "event" not in block:
                yield {"cursor": block["id"], **json.loads(block["data"])}

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_what_is_published_is_read(common_daemon):
    told = post(common_daemon, "w.read.1", b'{"n":1}', **{"RestMQ-Header-X-A": "b"})
    assert told["topic"] == "w.read.1"
    page = get(common_daemon, "topic=w.read.*")
    (event,) = page["events"]
    assert event["id"] == told["id"]
    assert event["cursor"] == told["cursor"]
    assert (event["body"], event["encoding"]) == ({"n": 1}, "json")
    assert event["headers"] == {"x-a": "b"}
    assert 0 <= event["age"] < 60
    assert not page["more"]
    assert "gap" not in page
    later = get(common_daemon, f"topic=w.read.1&cursor={page['cursor']}")
    assert later["events"] == []


@pytest.mark.parametrize(
    ("body", "kind", "shown", "encoding"),
    [
        (b"\x00\xff", "application/octet-stream", "AP8=", "base64"),
        ("gr\u00fc\u00df".encode(), "text/plain", "gr\u00fc\u00df", "text"),
        (b"", "text/plain", "", "text"),
        (b"[1,\n2]", "application/json", [1, 2], "json"),
    ],
)
def test_any_body_comes_back(common_daemon, body, kind, shown, encoding):
    told = post(common_daemon, "w.bodies", body, **{"Content-Type": kind})
    cursor = f"{told['cursor'].split('-')[0]}-{told['id'] - 1}"
    (event,) = get(common_daemon, f"topic=w.bodies&cursor={cursor}")["events"]
    assert (event["body"], event["encoding"], event["content_type"]) == (shown, encoding, kind)


def test_a_batch_is_in_order(common_daemon):
    batch = {"events": [{"topic": f"w.batch.{n}", "body": {"n": n}} for n in range(100)]}
    reply = common_daemon.request("POST", "/v1/events", json.dumps(batch))
    assert reply.status == 201
    ids = [result["id"] for result in json.loads(reply.body)["results"]]
    assert ids == list(range(ids[0], ids[0] + 100))
    lines = "\n".join(json.dumps(event) for event in batch["events"])
    reply = common_daemon.request(
        "POST", "/v1/events", lines, {"Content-Type": "application/x-ndjson"}
    )
    assert reply.status == 201
    page = get(common_daemon, "topic=w.batch.**&limit=1000")
    assert [event["body"]["n"] for event in page["events"]] == [*range(100)] * 2


def test_pages_have_limits(common_daemon):
    for n in range(5):
        post(common_daemon, "w.pages", str(n))
    seen, query = [], "topic=w.pages&limit=2"
    page = get(common_daemon, query)
    while True:
        seen += [event["body"] for event in page["events"]]
        if not page["more"]:
            break
        page = get(common_daemon, f"{query}&cursor={page['cursor']}")
    assert seen == [0, 1, 2, 3, 4]


def test_a_long_poll_ends_with_the_event(common_daemon):
    start = get(common_daemon, "topic=w.wait.%23")["cursor"]
    pages: list[dict[str, Any]] = []
    poll = threading.Thread(
        target=lambda: pages.append(
            get(common_daemon, f"topic=w.wait.%23&topic=nothing&cursor={start}&wait=20")
        )
    )
    poll.start()
    told = post(common_daemon, "w.wait.a.b")
    poll.join(DEADLINE_SECONDS)
    assert [event["id"] for event in pages[0]["events"]] == [told["id"]]


def test_a_long_poll_ends_in_time(common_daemon):
    cursor = get(common_daemon, "topic=w.never")["cursor"]
    assert get(common_daemon, f"topic=w.never&cursor={cursor}&wait=0.1")["events"] == []


def test_logs_are_apart(common_daemon):
    reply = common_daemon.request("POST", "/v1/topics/a/events?log=w-other", b"1")
    assert json.loads(reply.body)["id"] == 1
    assert len(get(common_daemon, "log=w-other")["events"]) == 1


def test_head_is_as_get_without_a_body(common_daemon):
    reply = common_daemon.request("HEAD", "/v1/events?topic=w.head")
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("cursor=-1", ["cursor"]),
        ("cursor=7", ["cursor"]),
        ("cursor=1-99999999999999999", ["cursor"]),
        ("cursor=x-y", ["cursor"]),
        ("limit=0", ["limit"]),
        ("limit=1001", ["limit"]),
        ("limit=x", ["limit"]),
        ("wait=-1", ["wait"]),
        ("wait=51", ["wait"]),
        ("topic=", ["topic", "%23"]),
        ("topic=a..b", ["topic", "empty word"]),
        ("topic=a/b", ["topic"]),
        ("topic=a.b*", ["topic", "wildcard"]),
        ("topic=" + "a." * 2000 + "a", ["topic"]),
        ("log=a/b", ["log"]),
        ("nobody=1", ["nobody"]),
        ("limit=1&limit=2", ["limit"]),
    ],
)
def test_bad_reads_are_told_what_is_wrong(common_daemon, query, words):
    bad(common_daemon.request("GET", f"/v1/events?{query}"), *words)


def test_unusual_but_right(common_daemon):
    get(common_daemon, "topic=**.**.**.*&_=123&_x=1")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/topics/a..b/events", b"{}", ["topic"]),
        ("/v1/topics/a.*/events", b"{}", ["topic", "wildcards"]),
        ("/v1/topics/a%2Fb/events", b"{}", ["topic"]),
        ("/v1/topics/a/events?limit=1", b"{}", ["limit"]),
        ("/v1/topics/a/events", b"{", ["JSON"]),
        ("/v1/events", b"{}", ["events"]),
        ("/v1/events", b"{", ["JSON"]),
        ("/v1/events", b'{"events":[]}', ["events"]),
        ("/v1/events", b'{"events":[{"topic":"a"}]}', ["body"]),
        ("/v1/events", b'{"events":[{"topic":"a..b","body":1}]}', ["/events/0/topic"]),
        ("/v1/events", b'{"events":[{"topic":"a","body":1,"ttl":3}]}', ["ttl"]),
        ("/v1/events", b'{"events":[{"topic":"a","body":1,"idempotency_key":"k"}]}', ["idempot"]),
        ("/v1/events", b'{"events":[{"topic":"a","body":1}],"x":1}', ["x"]),
        ("/v1/events", b'{"events":[{"topic":"a","body":{"x":"\xff"}}]}', ["line 1", "UTF-8"]),
        ("/v1/events", b'{"events":[\n{"topic":"a","body":"\xff"}]}', ["line 2", "UTF-8"]),
    ],
)
def test_bad_posts_publish_nothing(common_daemon, path, body, words):
    before = get(common_daemon, "topic=nobody.is.here")["cursor"]
    bad(common_daemon.request("POST", path, body, {"Content-Type": "application/json"}), *words)
    assert get(common_daemon, f"cursor={before}")["events"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/topics/w.once/events", '{"n":1}'),
        ("/v1/events", '{"events":[{"topic":"w.once.b","body":1},{"topic":"w.once.c","body":2}]}'),
    ],
)
def test_with_an_idempotency_key_it_is_published_once(common_daemon, path, body):
    fields = {"Content-Type": "application/json", "Idempotency-Key": f"once {path}"}
    first, second = (common_daemon.request("POST", path, body, fields) for _ in range(2))
    assert (first.status, first.body) == (second.status, second.body)
    assert first.status == 201
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    other = common_daemon.request("POST", path, body.replace("1", "3"), fields)
    assert other.status == 422
    assert json.loads(other.body)["type"].endswith("key_reused")
    bad(common_daemon.request("POST", path, body, {**fields, "Idempotency-Key": "\xe9"}), "idempot")


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("body", [b'{"x":"\xff"}', b'"\xff"'])
def test_what_is_not_utf_8_is_refused(common_daemon, kind, body):
    """Or every reader of the log would get what is no JSON."""
    event = b'{"topic":"w.utf8","body":%b}' % body
    data = event if "nd" in kind else b'{"events":[%b]}' % event
    bad(common_daemon.request("POST", "/v1/events", data, {"Content-Type": kind}), "UTF-8")
    assert get(common_daemon, "topic=w.utf8")["events"] == []


@pytest.mark.parametrize("body", [b'"\xff"', b'{"x":"\xed\xa0\x80"}'])
def test_lines_that_are_not_utf8_publish_nothing(common_daemon, body):
    """Or every reader of the log would get JSON that is none."""
    before = get(common_daemon, "topic=nobody.is.here")["cursor"]
    lines = b'{"topic":"a","body":1}\n{"topic":"a","body":' + body + b"}"
    kind = {"Content-Type": "application/x-ndjson"}
    bad(common_daemon.request("POST", "/v1/events", lines, kind), "line 2", "UTF-8")
    assert get(common_daemon, f"cursor={before}")["events"] == []


@pytest.mark.parametrize(
    "member", ['"ttl":1', '"delay":0', '"priority":0', '"idempotency_key":"k"']
)
def test_members_of_messages_are_refused(common_daemon, member):
    data = '{"events":[{"topic":"w.members","body":1,' + member + "}]}"
    reply = common_daemon.request("POST", "/v1/events", data, {"Content-Type": "application/json"})
    bad(reply, member.split('"')[1])


def test_a_stream_begins_with_its_place_and_goes_on(common_daemon):
    stream = Streaming(common_daemon, "topic=w.s.*", Accept="text/event-stream")
    try:
        assert b" 200 " in stream.status
        block = stream.event()
        while "id" not in block:
            block = stream.event()
        post(common_daemon, "w.s.x.no")
        told = [post(common_daemon, "w.s.1"), post(common_daemon, "w.s.2")]
        got = stream.events()
        first, second = next(got), next(got)
        assert [first["id"], second["id"]] == [event["id"] for event in told]
        assert first["cursor"] == told[0]["cursor"]
    finally:
        stream.close()
    again = Streaming(
        common_daemon, "topic=w.s.*", Accept="text/event-stream", Last_Event_ID=first["cursor"]
    )
    assert next(again.events())["id"] == second["id"]
    again.close()


def short_poll(daemon: Daemon, topic: str, cursor: str) -> tuple[list[int], str]:
    page = get(daemon, f"topic={topic}&limit=2&cursor={cursor}")
    return [event["id"] for event in page["events"]], page["cursor"]


def long_poll(daemon: Daemon, topic: str, cursor: str) -> tuple[list[int], str]:
    page = get(daemon, f"topic={topic}&limit=1&wait=5", **{"Last-Event-ID": cursor})
    return [event["id"] for event in page["events"]], page["cursor"]


def one_of_sse(daemon: Daemon, topic: str, cursor: str) -> tuple[list[int], str]:
    stream = Streaming(daemon, f"topic={topic}", Accept="text/event-stream", Last_Event_ID=cursor)
    event = next(stream.events())
    stream.close()
    return [event["id"]], event["cursor"]


def one_of_ndjson(daemon: Daemon, topic: str, cursor: str) -> tuple[list[int], str]:
    stream = Streaming(daemon, f"topic={topic}&cursor={cursor}")
    event = json.loads(stream.line())
    stream.close()
    return [event["id"]], event["cursor"]


def one_of_comet(daemon: Daemon, topic: str, cursor: str) -> tuple[list[int], str]:
    stream = Streaming(daemon, f"topic={topic}&cursor={cursor}", path="/c/")
    event = json.loads(stream.line())
    stream.close()
    return [event["id"]], event["cursor"]


def one_of_websocket(daemon: Daemon, topic: str, cursor: str) -> tuple[list[int], str]:
    session = Session(daemon.port)
    session.welcome()
    session.do("subscribe", topic=topic, cursor=cursor)
    event = session.next()
    session.close()
    return [event["id"]], event["cursor"]


TRANSPORTS = (short_poll, long_poll, one_of_sse, one_of_ndjson, one_of_comet, one_of_websocket)


@pytest.mark.parametrize("second", TRANSPORTS)
@pytest.mark.parametrize("first", TRANSPORTS)
def test_one_cursor_on_all_transports(common_daemon, first, second):
    """A client changes its transport between any two reads: nothing lost, nothing twice."""
    topic = f"w.change.{first.__name__}.{second.__name__}"
    cursor = get(common_daemon, f"topic={topic}")["cursor"]
    told = []
    for number in range(8):
        told.append(post(common_daemon, topic, str(number))["id"])
        post(common_daemon, "w.change.other")
    seen: list[int] = []
    for read in (first, second, first, second):
        ids, cursor = read(common_daemon, topic, cursor)
        seen += ids
    assert seen == told[: len(seen)]
    assert len(seen) >= 4


class TestComet:
    """Events in COMET's manner."""

    def test_lines_are_those_of_ndjson_with_cr_lf(self, common_daemon):
        told = post(common_daemon, "w.comet.1", b'{"n":1}', **{"RestMQ-Header-A": "b"})
        before = f"{told['cursor'].split('-')[0]}-{told['id'] - 1}"
        comet = Streaming(common_daemon, f"topic=w.comet.*&cursor={before}", path="/c/")
        lines = Streaming(common_daemon, f"topic=w.comet.*&cursor={before}")
        line = comet.line()
        assert line == lines.line() + "\r"
        assert json.loads(line)["headers"] == {"a": "b"}
        comet.close()
        lines.close()

    def test_who_brings_no_cursor_is_told_it_and_gets_what_comes(self, common_daemon):
        comet = Streaming(
            common_daemon, "topic=w.now.*&topic=w.then&callback=a.b&_=1&heartbeat=0.2", path="/c/"
        )
        assert comet.status.split()[1] == b"200"
        assert "javascript" in comet.head["content-type"]
        first = comet.line()
        assert first.startswith('a.b({"type":"cursor","cursor":"')
        assert first.endswith("});\r")
        post(common_daemon, "w.other")
        told = [post(common_daemon, topic)["id"] for topic in ("w.now.1", "w.then")]
        seen = [json.loads(comet.line()[len("a.b(") : -len(");\r")])["id"] for _ in told]
        assert seen == told
        comet.close()

    def test_a_heartbeat_only_if_asked_for(self, common_daemon):
        comet = Streaming(common_daemon, "topic=w.beat&heartbeat=0.1", path="/c/")
        assert json.loads(comet.line())["type"] == "cursor"
        assert comet.line() == "\r"
        comet.close()

    def test_in_http_1_1_lines_are_chunks(self, common_daemon):
        comet = Streaming(common_daemon, "topic=w.chunk", path="/c/", version="1.1")
        assert comet.head["transfer-encoding"] == "chunked"
        size = int(comet.line().strip(), 16)
        line = comet.line() + "\n"
        assert (len(line), json.loads(line)["type"]) == (size, "cursor")
        comet.close()

    @pytest.mark.parametrize(
        ("path", "word"),
        [
            ("/c/queue?topic=a", "no queue"),
            ("/c/?topic=a..b", "topic"),
            ("/c/?topic=", "%23"),
            ("/c/?topic=a&cursor=7", "cursor"),
            ("/c/?topic=a&slow=never", "slow"),
            ("/c/?topic=a&log=*", "log"),
            ("/c/?topic=a&ack=1", "ack"),
            ("/c/?topic=a&unknown=1", "unknown"),
            ("/c/?topic=a&cursor=1-1&cursor=1-2", "cursor"),
            ("/c/?topic=a&callback=1x", "callback"),
        ],
    )
    def test_what_makes_no_sense(self, common_daemon, path, word):
        reply = common_daemon.request("GET", path)
        assert reply.status == 400
        assert word in reply.body.decode()

    def test_the_access_rule_is_comets(self, daemon, tmp_path):
        acl = tmp_path / "acl.conf"
        acl.write_text("[comet:consumer]\nhosts_deny = all\n")
        made = daemon("--acl", str(acl))
        made.wait_for("/readyz")
        assert made.request("GET", "/c/?topic=a").status in (401, 403)
        assert made.request("GET", "/v1/events").status == 200


def test_a_wiped_store_is_told_first_on_every_transport(daemon, start_valkey):
    server = start_valkey()
    made = daemon("--redis-url", server.url)
    made.wait_for("/readyz")
    for n in range(3):
        cursor = post(made, "a", str(n))["cursor"]
    with server.client() as client:
        client.flushall()
    told = post(made, "a")["id"]
    page = get(made, f"topic=a&cursor={cursor}")
    assert page["gap"] == {"oldest": told, "reset": True}
    assert [event["id"] for event in page["events"]] == [told]
    sse = Streaming(made, "topic=a", Accept="text/event-stream", Last_Event_ID=cursor)
    block = sse.event()
    while "data" not in block:
        block = sse.event()
    assert block["event"] == "gap"
    assert json.loads(block["data"]) == {"oldest": told, "reset": True}
    assert json.loads(sse.event()["data"])["id"] == told
    sse.close()
    for path in ("/v1/stream", "/c/"):
        lines = Streaming(made, f"topic=a&cursor={cursor}", path=path)
        assert json.loads(lines.line()) == {"type": "gap", "oldest": told, "reset": True}
        assert json.loads(lines.line())["id"] == told
        lines.close()


@pytest.mark.parametrize(
    "query",
    [
        "topic=a&unknown=1",
        "topic=a&cursor=-1",
        "topic=" + "a." * 2000 + "a",
        "topic=a&ack=1",
        "topic=a&queue=b",
        "topic=a..b",
        "topic=a&log=*",
        "log=a&queue=q",
    ],
)
def test_bad_streams(common_daemon, query):
    bad(common_daemon.request("GET", f"/v1/stream?{query}"))


def test_a_slow_reader_misses_nothing_that_is_kept(common_daemon):
    """It stops reading while more goes by than any buffer holds."""
    stream = Streaming(common_daemon, "topic=w.slow", Accept="text/event-stream")
    block = stream.event()
    while "id" not in block:
        block = stream.event()
    body = json.dumps("x" * 20_000)
    batch = json.dumps({"events": [{"topic": "w.slow", "body": body}] * 40})
    ids = []
    for _ in range(20):
        reply = common_daemon.request("POST", "/v1/events", batch)
        ids += [result["id"] for result in json.loads(reply.body)["results"]]
    got = stream.events()
    assert [next(got)["id"] for _ in ids] == ids
    stream.close()


def test_a_reader_that_wants_only_what_fits_is_told_what_it_missed(common_daemon):
    stream = Streaming(common_daemon, "topic=w.drop&slow=drop-oldest&buffer=10")
    assert json.loads(stream.line())["type"] == "cursor"
    body = json.dumps("x" * 20_000)
    batch = json.dumps({"events": [{"topic": "w.drop", "body": body}] * 40})
    for _ in range(20):
        assert common_daemon.request("POST", "/v1/events", batch).status == 201
    seen = missed = 0
    while seen + missed < 800:
        line = json.loads(stream.line())
        missed += line.get("missed", 0)
        seen += "topic" in line
    assert seen + missed == 800
    assert missed > 0
    stream.close()


def test_the_daemon_ends_its_waiting_polls_and_streams(daemon):
    made = daemon()
    made.wait_for("/readyz")
    replies: list[Response] = []
    poll = threading.Thread(
        target=lambda: replies.append(made.request("GET", "/v1/events?topic=a&wait=30"))
    )
    stream = Streaming(made, "topic=a", Accept="text/event-stream")
    block = stream.event()
    while "id" not in block:
        block = stream.event()
    poll.start()
    wait_until(lambda: made.request("GET", "/livez").status == 200, "it lives")
    assert made.stop() == 0
    poll.join(DEADLINE_SECONDS)
    block = stream.event()
    while block.get("event") != "closing":
        block = stream.event()
    stream.close()


def test_a_binding_is_made_shown_and_taken_away(common_daemon):
    path, body = "/v1/bindings/w.b", json.dumps({"topic": "w.bound.#", "queue": "w-bound"})
    assert common_daemon.request("GET", path).status == 404
    assert [common_daemon.request("PUT", path, body).status for _ in range(2)] == [201, 200]
    shown = {"name": "w.b", "topic": "w.bound.**", "queue": "w-bound"}
    shown["dropped"] = 0
    assert json.loads(common_daemon.request("GET", path).body) == shown
    assert shown in json.loads(common_daemon.request("GET", "/v1/bindings").body)["bindings"]
    told = post(common_daemon, "w.bound.a")
    reply = common_daemon.request("POST", "/v1/queues/w-bound/receive?wait=20")
    (message,) = json.loads(reply.body)["messages"]
    assert message["headers"]["restmq-event"] == f"main:{told['id']}"
    assert common_daemon.request("DELETE", path).status == 204
    assert common_daemon.request("GET", path).status == 404


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a%20b", '{"topic":"a","queue":"q"}'),
        ("x" * 65, '{"topic":"a","queue":"q"}'),
        ("a", '{"topic":"a..b","queue":"q"}'),
        ("a", '{"topic":"a","queue":""}'),
        ("a", '{"queue":"q"}'),
        ("a", '{"topic":"a","queue":"q","x":1}'),
    ],
)
def test_bad_bindings(common_daemon, name, body):
    bad(common_daemon.request("PUT", f"/v1/bindings/{name}", body))
