"""Work queues over plain HTTP: put, receive, ack, look inside; the words of ``/v1`` on a real daemon."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from restmq.web.v1.problems import CODES, CODES_OF_STATUS, STATUSES, TITLES
from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, Daemon, Response, wait_until

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


class Queue:
    """One queue of a daemon, as a worker sees it."""

    def __init__(self, server: Daemon, name: str) -> None:
        self.server = server
        self.name = name
        self.path = f"/v1/queues/{quote(name, safe='')}"

    def ask(self, method: str, rest: str = "", body: Any = None, **headers: str) -> Response:
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.request(method, self.path + rest, body, fields)

    def put(self, body: str | bytes, query: str = "", **headers: str) -> int:
        reply = self.ask("POST", f"/messages{query}", body, **headers)
        assert reply.status == 201, reply.body
        found: int = json.loads(reply.body)["id"]
        return found

    def batch(self, *items: Any) -> dict[str, Any]:
        return value(self.ask("POST", "/batch", {"messages": items}))

    def receive(self, **said: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = value(self.ask("POST", "/receive", said))["messages"]
        return found

    def info(self) -> dict[str, Any]:
        return value(self.ask("GET"))

    def settings(self, **said: Any) -> None:
        assert self.ask("PATCH", "/settings", said).status == 200


def value(reply: Response, status: int = 200) -> dict[str, Any]:
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    found: dict[str, Any] = json.loads(reply.body)
    return found


def problem(reply: Response, status: int, code: str) -> dict[str, Any]:
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(reply.body)
    assert (found["status"], found["code"]) == (status, code)
    assert found["type"] == f"/errors/{code}"
    assert found["request_id"] == reply.headers["x-request-id"]
    if status in (429, 503, 507):
        assert int(reply.headers["retry-after"]) >= 1
    return found


def ask(server: Daemon, what: str, **said: Any) -> Response:
    return server.request("POST", f"/v1/{what}", json.dumps(said))


def receipts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["receipt"] for message in messages]


@pytest.fixture
def jobs(server: Daemon, queue: str) -> Queue:
    return Queue(server, queue)


@pytest.fixture
def another(server: Daemon, queue: str) -> Queue:
    return Queue(server, f"{queue}/b c")


# ---- the life of a message


def test_put_receive_ack(jobs: Queue) -> None:
    reply = jobs.ask("POST", "/messages", '{"n": 1}')
    assert value(reply, 201) == {"queue": jobs.name, "id": 1}
    assert reply.headers["location"] == f"{jobs.path}/messages/1"
    (message,) = jobs.receive()
    assert {
        name: message[name] for name in message if name not in ("created_at", "lease_until")
    } == {
        "queue": jobs.name,
        "id": 1,
        "content_type": "application/json",
        "body": {"n": 1},
        "encoding": "json",
        "headers": {},
        "priority": 0,
        "attempt": 1,
        "receipt": message["receipt"],
    }
    assert message["created_at"] < message["lease_until"]
    assert jobs.receive() == []
    assert (jobs.info()["ready"], jobs.info()["leased"]) == (0, 1)
    reply = ask(jobs.server, "ack", receipts=receipts([message]))
    assert value(reply) == {"results": [{"ok": True}], "failed": 0}
    assert (jobs.info()["ready"], jobs.info()["leased"]) == (0, 0)


@pytest.mark.parametrize(
    ("sent", "content_type", "kept"),
    [
        (b"a=b", "application/x-www-form-urlencoded", ("text/plain", "a=b", "text")),
        (b"[1]", "application/x-www-form-urlencoded", ("application/json", [1], "json")),
        (b"[1]", "text/csv", ("text/csv", "[1]", "text")),
        (b"\xff\x00", "image/png", ("image/png", "/wA=", "base64")),
        (b"", "text/plain", ("text/plain", "", "text")),
    ],
)
def test_a_body_and_its_type_come_back(
    jobs: Queue, sent: bytes, content_type: str, kept: tuple[str, Any, str]
) -> None:
    jobs.put(sent, Content_Type=content_type)
    (message,) = jobs.receive()
    assert (message["content_type"], message["body"], message["encoding"]) == kept


def test_a_stated_type_wins(jobs: Queue) -> None:
    jobs.put("<p>", "?content_type=text/html", Content_Type="text/plain")
    assert jobs.receive()[0]["content_type"] == "text/html"


def test_headers_travel_with_the_message(jobs: Queue) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    jobs.put("x", RestMQ_Header_X_Colour="dark red", traceparent=trace, Accept="*/*")
    (message,) = jobs.receive(lease=0.05)
    assert message["headers"] == {"x-colour": "dark red", "traceparent": trace}
    reply = jobs.ask("POST", "/receive?format=raw&wait=10")
    assert reply.headers["restmq-header-x-colour"] == "dark red"
    assert reply.headers["restmq-header-traceparent"] == trace
    assert reply.headers["restmq-attempt"] == "2"


def test_raw_is_the_body_itself(jobs: Queue) -> None:
    empty = jobs.ask("POST", "/receive?format=raw")
    assert (empty.status, empty.body) == (204, b"")
    jobs.put(b"\xff\x00\r\n", Content_Type="image/png")
    reply = jobs.ask("POST", "/receive", {"format": "raw", "lease": 60})
    assert (reply.status, reply.body) == (200, b"\xff\x00\r\n")
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["restmq-id"] == "1"
    assert reply.headers["restmq-attempt"] == "1"
    assert reply.headers["restmq-queue"] == quote(jobs.name)
    lease = reply.headers["restmq-lease"]
    assert lease.startswith("/v1/leases/")
    done = jobs.server.request("DELETE", lease)
    assert (done.status, done.body) == (204, b"")
    problem(jobs.server.request("DELETE", lease), 409, "stale_receipt")
    problem(jobs.server.request("DELETE", "/v1/leases/nonsense"), 400, "bad_receipt")


def test_several_queues_in_order_of_preference(jobs: Queue, another: Queue) -> None:
    jobs.put("first")
    another.put("second")
    names = [another.name, jobs.name]
    said = {"queues": names, "limit": 1}
    bodies = [value(ask(jobs.server, "receive", **said))["messages"][0]["body"] for _ in range(2)]
    assert bodies == ["second", "first"]
    query = "&".join(f"queues={quote(name)}" for name in names)
    jobs.put("third")
    reply = jobs.server.request("POST", f"/v1/receive?{query}")
    assert value(reply)["messages"][0]["body"] == "third"


def test_a_nack_says_why_and_when(jobs: Queue) -> None:
    jobs.put("x")
    (first,) = jobs.receive()
    said = {"receipts": [first["receipt"]], "delay": 0, "reason": "out of paper ☹"}
    assert value(ask(jobs.server, "nack", **said))["failed"] == 0
    (again,) = jobs.receive(wait=10)
    assert (again["attempt"], again["error"]) == (2, "out of paper ☹")
    assert again["receipt"] != first["receipt"]
    ask(jobs.server, "nack", receipts=[again["receipt"]], delay=3600)
    assert jobs.receive() == []
    (delayed,) = value(jobs.ask("GET", "/messages?state=delayed"))["messages"]
    assert (delayed["id"], delayed["state"]) == (1, "delayed")
    assert delayed["deliver_at"] > delayed["created_at"]


def test_extend_moves_the_end(jobs: Queue) -> None:
    jobs.put("x")
    (message,) = jobs.receive(lease=5)
    said = {"receipts": [message["receipt"]], "lease": 600}
    assert value(ask(jobs.server, "extend", **said))["failed"] == 0
    (leased,) = value(jobs.ask("GET", "/messages?state=leased"))["messages"]
    assert leased["lease_until"] > message["lease_until"]
    assert value(ask(jobs.server, "ack", receipts=[message["receipt"]]))["failed"] == 0


def test_a_stale_receipt_changes_nothing(jobs: Queue, another: Queue) -> None:
    jobs.put("x")
    another.put("y")
    (one,), (two,) = jobs.receive(), another.receive()
    ask(jobs.server, "ack", receipts=[one["receipt"]])
    given = [one["receipt"], two["receipt"], "garbage"]
    reply = ask(jobs.server, "ack", receipts=given)
    assert value(reply) == {
        "results": [
            {"ok": False, "code": "stale_receipt"},
            {"ok": True},
            {"ok": False, "code": "bad_receipt"},
        ],
        "failed": 2,
    }
    for verb, more in (("ack", {}), ("nack", {}), ("extend", {"lease": 1})):
        reply = ask(jobs.server, verb, receipts=given, **more)
        assert value(reply, 409)["failed"] == 3


def test_ack_and_next_in_one_call(jobs: Queue) -> None:
    jobs.batch({"body": "a"}, {"body": "b"}, {"body": "c"})
    found = jobs.receive()
    seen = []
    while found:
        seen.append(found[0]["body"])
        reply = ask(jobs.server, "ack", receipts=receipts(found), next={"limit": 1})
        found = value(reply)["messages"]
    assert seen == ["a", "b", "c"]


def test_where_no_ack_counts_nothing_is_received(jobs: Queue) -> None:
    """Who looks at the status only would let the lease run out."""
    jobs.put("x")
    reply = ask(jobs.server, "ack", receipts=["nonsense"], next={"queue": jobs.name})
    assert "messages" not in value(reply, 409)
    assert jobs.info()["ready"] == 1


# ---- batches


def test_a_batch_has_a_result_for_each(jobs: Queue) -> None:
    results = jobs.batch({"body": "one"}, {"body": {"two": 2}}, {"body": "3", "encoding": "json"})
    assert results == {"results": [{"id": 1}, {"id": 2}, {"id": 3}], "failed": 0}
    assert [m["body"] for m in jobs.receive(limit=10)] == ["one", {"two": 2}, "3"]


def test_lines_are_messages(jobs: Queue) -> None:
    reply = jobs.ask("POST", "/batch?ttl=60", '{"n": 1}\n\n"two"\r\n', **NDJSON)
    assert value(reply) == {"results": [{"id": 1}, {"id": 2}], "failed": 0}
    assert [m["body"] for m in jobs.receive(limit=10)] == [{"n": 1}, "two"]


def test_a_batch_of_ten_thousand(jobs: Queue) -> None:
    """More than one script call, and more than a message may be long."""
    items = [{"body": f"{n} " + "x" * 500} for n in range(10_000)]
    results = jobs.batch(*items)
    assert results["failed"] == 0
    assert [result["id"] for result in results["results"]] == list(range(1, 10_001))
    assert jobs.info()["ready"] == 10_000
    assert [m["body"].split()[0] for m in jobs.receive(limit=1000)][:3] == ["0", "1", "2"]


def test_a_wrong_line_is_named_and_nothing_stored(jobs: Queue) -> None:
    lines = ['{"n": 1}'] * 6000
    lines[4999] = '{"n": '
    reply = jobs.ask("POST", "/batch", "\n".join(lines), **NDJSON)
    assert problem(reply, 400, "invalid_json")["line"] == 5000
    problem(jobs.ask("GET"), 404, "unknown_queue")


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        (
            {"messages": [{"body": 1}, {"body": 2, "ttl": "x"}]},
            400,
            "bad_request",
            "/messages/1/ttl",
        ),
        ({"messages": [{"body": 1, "colour": 1}]}, 400, "bad_request", "/messages/0/colour"),
        ({"messages": [{"body": ""}] * 10_001}, 413, "too_large", None),
        ({"messages": []}, 400, "bad_request", "/messages"),
        ({"messages": [{"body": "x" * 1048577}]}, 413, "too_large", "/messages/0/body"),
        ('{"messages": [', 400, "invalid_json", None),
    ],
)
def test_a_wrong_batch_stores_nothing(
    jobs: Queue, body: Any, status: int, code: str, pointer: str | None
) -> None:
    found = problem(jobs.ask("POST", "/batch", body), status, code)
    if pointer:
        assert found["errors"][0]["pointer"] == pointer
    problem(jobs.ask("GET"), 404, "unknown_queue")


def test_a_batch_has_a_greater_limit_than_a_message(jobs: Queue) -> None:
    reply = jobs.ask("POST", "/batch", b" " * (16 * 1048576 + 1))
    assert "16777216" in problem(reply, 413, "too_large")["detail"]
    reply = jobs.ask("POST", "/messages", b" " * 1048577)
    assert "1048576" in problem(reply, 413, "too_large")["detail"]


# ---- idempotency


def test_a_repeat_gets_the_first_answer(jobs: Queue) -> None:
    first = jobs.ask("POST", "/messages", "x", Idempotency_Key="k 1")
    again = jobs.ask("POST", "/messages", "x", Idempotency_Key="k 1")
    assert (again.status, again.body) == (first.status, first.body) == (201, first.body)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert jobs.info()["ready"] == 1
    other = jobs.ask("POST", "/messages", "y", Idempotency_Key="k 1")
    problem(other, 422, "key_reused")


def test_items_of_a_batch_have_keys(jobs: Queue) -> None:
    items = [{"body": "a", "idempotency_key": "1"}, {"body": "b", "idempotency_key": "2"}]
    jobs.batch(items[0])
    assert jobs.batch(*items, {"body": "c", "idempotency_key": "2"}) == {
        "results": [{"id": 1, "replayed": True}, {"id": 2}, {"error": "key_reused"}],
        "failed": 1,
    }


def test_a_key_of_the_whole_batch(jobs: Queue) -> None:
    said = {"messages": [{"body": "a"}, {"body": "b"}]}
    for _ in range(2):
        reply = jobs.ask("POST", "/batch", said, Idempotency_Key="whole")
        assert [r["id"] for r in value(reply)["results"]] == [1, 2]
    assert jobs.info()["ready"] == 2


def test_a_lost_reply_loses_no_message(jobs: Queue) -> None:
    """The same receive again gives the same messages while they are leased."""
    jobs.batch({"body": "a"}, {"body": "b"})
    asked = [jobs.ask("POST", "/receive", {"limit": 1}, Idempotency_Key="r1") for _ in range(2)]
    assert asked[0].body == asked[1].body
    assert jobs.receive(limit=10)[0]["body"] == "b"


def test_an_ack_whose_reply_was_lost_is_said_again(jobs: Queue) -> None:
    """And what came with the reply comes again, not something else."""
    jobs.batch({"body": "a"}, {"body": "b"}, {"body": "c"})
    (message,) = jobs.receive()
    said = json.dumps({"receipts": [message["receipt"]], "next": {"limit": 1}})

    def ack(path: str, body: str) -> Response:
        return jobs.server.request("POST", f"/v1/{path}", body, {"Idempotency-Key": "a1"})

    first, again = ack("ack", said), ack("ack", said)
    assert (first.status, first.body) == (again.status, again.body)
    assert value(first)["messages"][0]["body"] == "b"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (jobs.info()["ready"], jobs.info()["leased"]) == (1, 1)
    problem(ack("nack", json.dumps({"receipts": receipts([message])})), 422, "key_reused")
    (next_one,) = value(again)["messages"]
    for verb, more in (("extend", {"lease": 60}), ("nack", {"delay": 0})):
        given = json.dumps({"receipts": [next_one["receipt"]], **more})
        told = [
            jobs.server.request("POST", f"/v1/{verb}", given, {"Idempotency-Key": verb})
            for _ in range(2)
        ]
        assert told[0].body == told[1].body
        assert value(told[1])["failed"] == 0


def test_a_lease_is_ended_again_under_its_key(jobs: Queue) -> None:
    jobs.put("x")
    path = f"/v1/leases/{jobs.receive()[0]['receipt']}"
    both = [
        jobs.server.request("DELETE", path, headers={"Idempotency-Key": "d1"}) for _ in range(2)
    ]
    assert [reply.status for reply in both] == [204, 204]
    assert both[1].headers["idempotency-replayed"] == "true"
    problem(jobs.server.request("DELETE", path), 409, "stale_receipt")


# ---- time


def test_a_delayed_message_comes_when_it_is_due(jobs: Queue) -> None:
    jobs.put("later", "?delay=3600")
    jobs.put("soon", "?delay=0.2")
    jobs.put("at once", "?deliver_at=2020-01-01T00:00:00Z")
    assert [m["body"] for m in jobs.receive(limit=10)] == ["at once"]
    assert [m["body"] for m in jobs.receive(wait=10)] == ["soon"]
    assert jobs.info()["delayed"] == 1


def test_a_long_poll_wakes(jobs: Queue) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(jobs.receive, wait=50)
        jobs.put("hello")
        (message,) = waiting.result(DEADLINE_SECONDS)
    assert message["body"] == "hello"


def test_a_client_that_hangs_up_takes_nothing(jobs: Queue) -> None:
    jobs.put("first")
    jobs.receive()
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", jobs.server.port))
        request = f"POST {jobs.path}/receive?wait=50 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.sendall(request.encode())
        client.close()
    jobs.put("second")
    (message,) = jobs.receive(wait=10)
    assert (message["body"], message["attempt"]) == ("second", 1)


def test_who_waits_is_answered_when_the_daemon_stops(daemon: StartDaemon) -> None:
    own = daemon("--stop-timeout", "20")
    own.wait_for("/readyz")
    jobs = Queue(own, "jobs")
    jobs.put("x", "?delay=600")
    with ThreadPoolExecutor() as pool:
        client = http.client.HTTPConnection("127.0.0.1", own.port, timeout=DEADLINE_SECONDS)
        client.request("POST", f"{jobs.path}/receive?wait=50")
        jobs.info()  # the daemon reads what came before this first
        stopped = pool.submit(own.stop)
        reply = client.getresponse()
        assert (reply.status, json.loads(reply.read())) == (200, {"messages": []})
        assert stopped.result(DEADLINE_SECONDS) == 0
        client.close()


# ---- looking inside


def test_browse_takes_nothing(jobs: Queue) -> None:
    jobs.batch(*[{"body": str(n)} for n in range(25)])
    seen: list[str] = []
    cursor = ""
    while True:
        page = value(jobs.ask("GET", f"/messages?limit=10&cursor={quote(cursor)}"))
        seen += [message["body"] for message in page["messages"]]
        if page["cursor"] is None:
            break
        cursor = page["cursor"]
    assert seen == [str(n) for n in range(25)]
    assert jobs.info()["ready"] == 25


def test_one_message_by_its_id(jobs: Queue) -> None:
    jobs.batch({"body": "a"}, {"body": "b"}, {"body": "c", "delay": 600})
    jobs.receive()
    states = [value(jobs.ask("GET", f"/messages/{n}"))["state"] for n in (1, 2, 3)]
    assert states == ["leased", "ready", "delayed"]
    problem(jobs.ask("GET", "/messages/4"), 404, "unknown_message")
    problem(jobs.ask("GET", "/messages/abc"), 404, "unknown_message")
    problem(jobs.ask("GET", "/messages/99999999999999999999"), 404, "unknown_message")
    assert jobs.ask("HEAD", "/messages/2").status == 200
    for n in (1, 2, 3):
        assert jobs.ask("DELETE", f"/messages/{n}").status == 204
    problem(jobs.ask("DELETE", "/messages/2"), 404, "unknown_message")
    info = jobs.info()
    assert (info["leased"], info["delayed"]) == (0, 0)
    assert jobs.receive() == []


def test_release_makes_ready_at_once(jobs: Queue) -> None:
    jobs.put("later", "?delay=600")
    jobs.put("now")
    jobs.receive(lease=600)
    for n in (1, 2):
        assert jobs.ask("POST", f"/messages/{n}/release").status == 204
    assert sorted(m["body"] for m in jobs.receive(limit=5, wait=10)) == ["later", "now"]
    problem(jobs.ask("POST", "/messages/9/release"), 404, "unknown_message")


def test_the_list_of_queues(server: Daemon, queue: str) -> None:
    names = [f"{queue}/{n}" for n in range(5)]
    for name in names:
        Queue(server, name).put("x")
    Queue(server, f"{queue}-other").put("x")
    seen: list[str] = []
    path = f"/v1/queues?prefix={quote(queue)}/&limit=2"
    more = ""
    while True:
        page = value(server.request("GET", path + more))
        seen += [info["name"] for info in page["queues"]]
        if page["cursor"] is None:
            break
        more = f"&cursor={page['cursor']}"
    assert seen == names
    (info,) = value(server.request("GET", f"/v1/queues?prefix={quote(names[0])}"))["queues"]
    assert 0 <= info.pop("oldest_age") < 100
    assert info == {
        "name": names[0],
        "ready": 1,
        "leased": 0,
        "delayed": 0,
        "dead": 0,
        "consumers": 0,
        "delivery": "roundrobin",
        "mode": "jobs",
        "paused": "none",
    }
    assert server.request("HEAD", "/v1/queues").status == 200


# ---- queues as a whole


def test_put_makes_sure_that_it_is_there(jobs: Queue) -> None:
    problem(jobs.ask("GET"), 404, "unknown_queue")
    assert value(jobs.ask("PUT"), 201)["mode"] == "jobs"
    assert value(jobs.ask("PUT"))["mode"] == "jobs"
    assert jobs.info()["ready"] == 0
    page = value(jobs.server.request("GET", f"/v1/queues?prefix={quote(jobs.name)}"))
    assert [info["name"] for info in page["queues"]] == [jobs.name]


def test_delete_needs_force_while_there_are_messages(jobs: Queue) -> None:
    assert jobs.ask("DELETE").status == 204
    jobs.put("x")
    problem(jobs.ask("DELETE"), 409, "not_empty")
    assert jobs.ask("DELETE", "?force=true").status == 204
    problem(jobs.ask("GET"), 404, "unknown_queue")


def test_purge_counts(jobs: Queue) -> None:
    jobs.batch({"body": "a"}, {"body": "b"})
    assert value(jobs.ask("POST", "/purge")) == {"deleted": 2}
    assert value(jobs.ask("POST", "/purge")) == {"deleted": 0}


def test_pause_holds_back_until_resume(jobs: Queue) -> None:
    jobs.put("x")
    assert value(jobs.ask("POST", "/pause"))["paused"] == "all"
    assert jobs.info()["paused"] == "all"
    assert jobs.receive() == []
    assert value(jobs.ask("POST", "/pause", {"paused": "push"}))["paused"] == "push"
    assert jobs.info()["paused"] == "push"
    assert value(jobs.ask("POST", "/resume"))["paused"] == "none"
    assert jobs.receive(wait=10)[0]["body"] == "x"


# ---- names and paths


def test_every_call_is_there_without_the_name_in_the_path(server: Daemon, queue: str) -> None:
    said = f"queue={quote(queue, safe='')}"

    def call(method: str, path: str, body: str | None = None) -> Response:
        return server.request(method, f"/v1/{path}?{said}", body)

    assert value(call("PUT", "queue"), 201)["name"] == queue
    assert value(call("POST", "messages", "x"), 201)["id"] == 1
    assert value(call("POST", "batch", '{"messages": [{"body": "y"}]}'))["failed"] == 0
    named = json.dumps({"queue": queue, "messages": [{"body": "z"}]})
    assert value(server.request("POST", "/v1/batch", named))["failed"] == 0
    assert len(value(call("GET", "messages"))["messages"]) == 3
    assert value(call("GET", "messages/1"))["body"] == "x"
    assert value(call("POST", "receive"))["messages"][0]["id"] == 1
    assert call("POST", "messages/1/release").status == 204
    assert call("DELETE", "messages/1").status == 204
    assert value(call("GET", "queue"))["ready"] == 2
    for word in ("pause", "resume"):
        assert value(call("POST", word))["queue"] == queue
    assert value(call("POST", "purge"))["deleted"] == 2
    assert value(call("POST", "redrive"))["moved"] == 0
    assert call("DELETE", "queue").status == 204


def test_a_name_is_read_greedily_and_decoded(server: Daemon, queue: str) -> None:
    """A front proxy decodes %2F, and it is the same queue."""
    name = f"{queue}/messages/7/caf\u00e9 +"
    for path in (quote(name, safe=""), quote(name)):
        assert server.request("POST", f"/v1/queues/{path}/messages", "x").status == 201
    assert value(server.request("GET", f"/v1/queues/{quote(name)}%2Fmessages"))["messages"]
    assert Queue(server, name).info()["ready"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "x" * 256,
        "x" * 10_000,
        "a//b",
        "a/../b",
        ".",
        "a%00b",
        "a%0ab",
        "a%7fb",
        "messages",
        "a/receive",
    ],
)
def test_bad_names(server: Daemon, name: str) -> None:
    reply = server.request("POST", f"/v1/queues/{name}/receive")
    assert problem(reply, 400, "bad_request")["detail"]
    assert len(reply.body) < 500


def test_what_is_not_there_is_a_problem_too(server: Daemon) -> None:
    problem(server.request("GET", "/v1/nothing"), 404, "not_found")
    reply = server.request("GET", "/v1/queues/x/receive")
    problem(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("messages?tll=1", "x", "tll"),
        ("messages?ttl=-1", "x", "ttl"),
        ("messages?delay=1e9", "x", "delay"),
        ("messages?priority=10", "x", "priority"),
        ("messages?deliver_at=now", "x", "deliver_at"),
        ("messages?ttl=1&ttl=1", "x", "ttl"),
        ("messages?queue=other", "x", "queue"),
        ("receive?limit=0", None, "limit"),
        ("receive?limit=1001", None, "limit"),
        ("receive?limit=99999999999999999999", None, "limit"),
        ("receive?wait=51", None, "wait"),
        ("receive?wait=-1", None, "wait"),
        ("receive?lease=0", None, "lease"),
        ("receive?lease=43201", None, "lease"),
        ("receive?format=xml", None, "format"),
        ("receive?format=raw&limit=2", None, "limit"),
        ("receive?queues=a", None, "queues"),
        ("receive", '{"limit": "1"}', "limit"),
        ("receive", '{"limit": true}', "limit"),
        ("receive", '{"limit": 1, "limit": 2}', "limit"),
        ("receive", '{"lim": 1}', "lim"),
        pytest.param("receive", '{"lease":' + "[" * 1000 + "]" * 1000 + "}", "lease", id="deep"),
        ("receive", "[1]", "body"),
        ("receive", "{", "JSON"),
        ("pause?paused=none", None, "paused"),
        ("redrive?to=a//b", None, "segment"),
        ("redrive?limit=0", None, "limit"),
        ("redrive?rate=0", None, "rate"),
        ("purge?all=1", None, "all"),
    ],
)
def test_bad_calls_name_what_is_wrong(jobs: Queue, path: str, body: str | None, name: str) -> None:
    reply = jobs.ask("POST", f"/{path}", body)
    assert reply.status == 400
    assert name in json.loads(reply.body)["detail"]
    problem(jobs.ask("GET"), 404, "unknown_queue")


@pytest.mark.parametrize(
    ("call", "body", "name"),
    [
        ("ack", {}, "receipts"),
        ("ack", {"receipts": []}, "receipts"),
        ("ack", {"receipts": ["x"] * 1001}, "receipts"),
        ("ack", {"receipts": ["x", 1]}, "receipts[1]"),
        ("ack", {"receipts": ["x"], "next": 1}, "next"),
        ("ack", {"receipts": ["x"], "next": {"limit": 0}}, "limit"),
        ("ack", {"receipts": ["x"], "next": {"format": "raw"}}, "format"),
        ("nack", {"receipts": ["x"], "delay": -1}, "delay"),
        ("nack", {"receipts": ["x"], "delay": 1e300}, "delay"),
        ("nack", {"receipts": ["x"], "reason": 5}, "reason"),
        ("nack", {"receipts": ["x"], "reason": "x" * 10_000}, "reason"),
        ("extend", {"receipts": ["x"]}, "lease"),
        ("extend", {"receipts": ["x"], "lease": 0}, "lease"),
        ("extend", {"receipts": ["x"], "lease": "1"}, "lease"),
        ("receive", {}, "queue"),
        ("receive", {"queues": []}, "queues"),
        ("receive", {"queues": ["a", "a"]}, "queues"),
        ("receive", {"queue": "a", "queues": ["b"]}, "queue"),
        ("receive", {"queues": [str(n) for n in range(101)]}, "queues"),
        ("messages", {}, "queue"),
    ],
)
def test_bad_bodies_name_what_is_wrong(server: Daemon, call: str, body: Any, name: str) -> None:
    found = problem(ask(server, call, **body), 400, "bad_request")
    assert name in found["detail"]


def test_a_form_of_another_site_is_no_command(server: Daemon, jobs: Queue) -> None:
    jobs.put("x")
    headers = {"Origin": server.url, "Content-Type": "text/plain"}
    reply = server.request("POST", f"{jobs.path}/receive", '{"limit": 1}', headers)
    problem(reply, 415, "unsupported_media_type")
    headers["Content-Type"] = "application/json"
    reply = server.request("POST", f"{jobs.path}/receive", '{"limit": 1}', headers)
    assert len(value(reply)["messages"]) == 1


@pytest.mark.parametrize(
    "code", sorted({*CODES.values(), *CODES_OF_STATUS.values(), *STATUSES, *TITLES})
)
def test_every_error_has_a_page(server: Daemon, code: str) -> None:
    if code == "conflict":
        return
    reply = server.request("GET", f"/errors/{code}")
    assert reply.status == 200
    assert TITLES[code][0].encode() or reply.body


def test_dead_letters_and_back(jobs: Queue) -> None:
    jobs.settings(max_attempts=1)
    jobs.put("x")
    (message,) = jobs.receive()
    ask(jobs.server, "nack", receipts=[message["receipt"]], reason="no", delay=0)
    wait_until(lambda: jobs.info()["dead"] == 1, "the dead letter")
    (dead,) = value(jobs.ask("GET", "/messages?state=dead"))["messages"]
    assert dead["queue"] == f"{jobs.name}.dead"
    assert dead["headers"]["restmq-origin"] == f"{jobs.name}:1"
    assert dead["headers"]["restmq-reason"] == "rejected"
    assert dead["headers"]["restmq-error"] == "no"
    letters = Queue(jobs.server, f"{jobs.name}.dead")
    assert value(letters.ask("POST", "/redrive"))["moved"] == 1
    (again,) = jobs.receive(wait=10)
    assert again["body"] == "x"
    assert again["attempt"] == 1


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("größe", "gr%C3%B6%C3%9Fe"), ("a\r\nSet-Cookie: b=c", "a%0D%0ASet-Cookie: b=c")],
)
def test_a_reason_is_a_header_of_a_raw_letter_and_nothing_more(jobs: Queue, reason, shown) -> None:
    """Whoever gives a message back must not write other fields of the reply, nor make it fail."""
    jobs.settings(max_attempts=1)
    jobs.put("x")
    (message,) = jobs.receive()
    ask(jobs.server, "nack", receipts=[message["receipt"]], reason=reason, delay=0)
    wait_until(lambda: jobs.info()["dead"] == 1, "the dead letter")
    reply = Queue(jobs.server, f"{jobs.name}.dead").ask("POST", "/receive?format=raw")
    assert reply.status == 200
    assert reply.headers["restmq-header-restmq-error"] == shown
    assert "set-cookie" not in reply.headers


def test_dead_letters_go_back_so_many_a_second(jobs: Queue) -> None:
    """More than one step of the rate, and each once."""
    letters = Queue(jobs.server, f"{jobs.name}.dead")
    for number in range(12):
        letters.put(f"m{number}")
    assert value(letters.ask("POST", f"/redrive?to={jobs.name}&rate=50&limit=11"))["moved"] == 11
    found: list[str] = []
    while len(found) < 11:
        found += [message["body"] for message in jobs.receive(limit=20, wait=10)]
    assert found == [f"m{number}" for number in range(11)]
    assert letters.info()["ready"] == 1


def test_a_queue_without_dead_letters_has_none(jobs: Queue) -> None:
    """Whatever lies in a queue that is named as the setting is stored."""
    Queue(jobs.server, "-").put("somebody else's")
    jobs.settings(dead_letter=False)
    assert jobs.info()["dead"] == 0
    page = value(jobs.ask("GET", "/messages?state=dead"))
    assert page == {"messages": [], "cursor": None}


def test_the_dead_letters_of_the_longest_name_are_there(server: Daemon, queue: str) -> None:
    longest = Queue(server, queue + "x" * (255 - len(queue)))
    longest.put("x")
    longest.settings(max_attempts=1)
    (message,) = longest.receive()
    ask(server, "nack", receipts=receipts([message]), delay=0)
    letters = Queue(server, f"{longest.name}.dead")
    (dead,) = letters.receive(wait=10)
    assert dead["queue"] == letters.name
    assert letters.ask("DELETE", "?force=true").status == 204
    problem(Queue(server, f"{longest.name}x.dead").ask("GET"), 400, "bad_request")


# ---- bounds


def test_a_full_queue_says_so(jobs: Queue) -> None:
    jobs.settings(max_length=2)
    results = jobs.ask("POST", "/batch", {"messages": [{"body": "x"}] * 3})
    assert value(results)["failed"] == 1
    assert value(results)["results"][2] == {"error": "queue_full"}
    assert int(results.headers["retry-after"]) >= 1
    problem(jobs.ask("POST", "/messages", "x"), 507, "queue_full")


def test_a_rate_says_when_to_come_back(jobs: Queue) -> None:
    jobs.settings(put_rate=0.1)
    jobs.put("x")
    problem(jobs.ask("POST", "/messages", "x"), 429, "rate_limited")


def test_priorities_are_a_setting(jobs: Queue) -> None:
    problem(jobs.ask("POST", "/messages?priority=5", "x"), 409, "priorities_off")
    jobs.settings(priorities=True)
    for n in (1, 9, 5):
        jobs.put(str(n), f"?priority={n}")
    assert [m["priority"] for m in jobs.receive(limit=3)] == [9, 5, 1]
