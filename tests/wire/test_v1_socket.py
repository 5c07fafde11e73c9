"""``/v1/ws``: commands, subscriptions and leases over one WebSocket."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.support import Daemon, wait_until
from tests.wire.clients import add, get, post
from tests.wire.test_streams import make_jobs, stats
from tests.wire.websockets import BINARY, CLOSE, PING, PONG, Socket, encoded

PROTOCOL = "Sec-WebSocket-Protocol: restmq.v1.json"


class Session:
    """A client that asks and reads; frames that are no answer wait in ``pushed``."""

    def __init__(self, port: int, *headers: str) -> None:
        self.socket = Socket(port, "/v1/ws", *headers)
        self.pushed: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self.socket.close()

    def read(self) -> dict[str, Any]:
        while True:
            opcode, payload = self.socket.frame()
            if opcode not in (PING, PONG):
                assert opcode != CLOSE, payload
                found: dict[str, Any] = json.loads(payload)
                return found

    def welcome(self) -> dict[str, Any]:
        frame = self.read()
        assert frame["type"] == "welcome"
        return frame

    def answer(self, cmd: str, **members: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self.socket.send(json.dumps({"id": number, "cmd": cmd, **members}).encode())
        while (frame := self.read()).get("id") != number or frame["type"] not in ("reply", "error"):
            self.pushed.append(frame)
        return frame

    def do(self, cmd: str, **members: Any) -> Any:
        frame = self.answer(cmd, **members)
        assert frame["type"] == "reply", frame
        return frame["result"]

    def next(self) -> dict[str, Any]:
        """The next frame that the server sends by itself."""
        return self.pushed.pop(0) if self.pushed else self.read()


Connect = Callable[..., Session]


@pytest.fixture
def connect(server: Daemon) -> Iterator[Connect]:
    with ExitStack() as stack:

        def make(*headers: str, port: int = server.port) -> Session:
            session = Session(port, *headers)
            stack.callback(session.close)
            return session

        yield make


@pytest.fixture
def session(connect: Connect) -> Session:
    made = connect(PROTOCOL)
    made.welcome()
    return made


BODIES = ['{"a":1.10,"a":18446744073709551616}', "[" * 300 + "]" * 300]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("members", ['"put","body":%s', '"batch","messages":[{"body":%s}]'])
def test_a_body_is_kept_as_it_was_sent(
    session: Session, server: Daemon, queue: str, members: str, body: str
) -> None:
    """Numbers, members that are there twice, and depth, as over HTTP."""
    command = f'{{"id":1,"queue":"{queue}","cmd":{members % body}}}'
    session.socket.send(command.encode())
    assert session.read()["type"] == "reply"
    reply = server.request("POST", f"/v1/queues/{queue}/receive?format=raw")
    assert reply.body.decode() == body


def test_the_welcome_says_what_holds(connect: Connect) -> None:
    session = connect(PROTOCOL)
    welcome = session.welcome()
    assert welcome["authenticated"] is True
    assert welcome["heartbeat"] == 15.0
    assert welcome["limits"]["message"] == 1048576
    plain = connect()
    plain.welcome()
    assert plain.do("ping") == {}


def test_put_and_subscribe(session: Session, queue: str) -> None:
    assert session.do("subscribe", queue=queue) == {"subscribed": [queue]}
    add_open = {"queue": queue, "body": "x"}
    assert session.do("put", **add_open) == {"queue": queue, "id": 1}


def test_an_ack_is_said_again_under_its_key(session: Session, queue: str) -> None:
    session.do("put", queue=queue, body="x")
    (message,) = session.do("receive", queue=queue)["messages"]
    said = {"receipts": [message["receipt"]], "idempotency_key": "k"}
    assert session.do("ack", **said) == {"results": [{"ok": True}], "failed": 0}
    assert session.do("ack", **said) == {"results": [{"ok": True}], "failed": 0, "replayed": True}
    assert session.answer("nack", **said)["code"] == "key_reused"


def test_messages_of_an_open_queue_arrive(session: Session, server: Daemon, queue: str) -> None:
    session.do("subscribe", queue=queue)
    add(server, queue, "hello")
    message = session.next()
    assert (message["type"], message["queue"], message["body"]) == ("message", queue, "hello")
    assert message["cursor"]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"body": "text"}, {"body": "text", "encoding": "text", "content_type": "text/plain"}),
        ({"body": {"n": [1, None]}}, {"body": {"n": [1, None]}, "encoding": "json"}),
        ({"body": "s", "encoding": "json"}, {"body": "s", "encoding": "json"}),
        ({"body": "/wA=", "encoding": "base64"}, {"body": "/wA=", "encoding": "base64"}),
        (
            {
                "body": base64.b64encode(b"abc").decode(),
                "encoding": "base64",
                "content_type": "a/b",
            },
            {"body": "abc", "encoding": "text", "content_type": "a/b"},
        ),
    ],
)
def test_bodies_come_out_as_they_went_in(
    session: Session, server: Daemon, queue: str, given: dict[str, Any], stored: dict[str, Any]
) -> None:
    make_jobs(server, queue)
    session.do("subscribe", queue=queue, ack=True)
    session.do("put", queue=queue, **given)
    message = session.next()
    assert {name: message[name] for name in stored} == stored


def test_leases(session: Session, server: Daemon, queue: str) -> None:
    make_jobs(server, queue)
    session.do("subscribe", queue=queue, ack=True, lease=60, buffer=2)
    for body in "abc":
        session.do("put", queue=queue, body=body)
    held = [session.next() for _ in range(2)]
    assert [message["body"] for message in held] == ["a", "b"]
    answer = session.do("ack", receipts=[held[0]["receipt"], "x"])
    assert answer == {"results": [{"ok": True}, {"ok": False, "code": "bad_receipt"}], "failed": 1}
    third = session.next()
    assert third["body"] == "c"
    session.do("nack", receipts=[held[1]["receipt"]])
    again = session.next()
    assert again["body"] == "b"
    session.do("ack", receipts=[again["receipt"], third["receipt"]])
    assert stats(server, queue)["len"] == 0


def test_unsubscribe_gives_back_what_is_leased(
    session: Session, server: Daemon, queue: str
) -> None:
    make_jobs(server, queue)
    session.do("subscribe", queue=queue, ack=True)
    session.do("put", queue=queue, body="x")
    first = session.next()
    assert session.do("unsubscribe", queue=queue) == {"unsubscribed": [queue]}
    assert session.do("unsubscribe", queue=queue) == {"unsubscribed": []}
    wait_until(lambda: stats(server, queue)["len"] == 1, "the message back")
    assert session.do("ack", receipts=[first["receipt"]])["failed"] == 1
    session.do("subscribe", queue=queue, ack=True)
    assert session.next()["body"] == "x"


def test_several_queues_on_one_socket(session: Session, server: Daemon, queue: str) -> None:
    names = [f"{queue}/{letter}" for letter in "ab"]
    assert session.do("subscribe", queues=names) == {"subscribed": names}
    for name in names:
        add(server, name, name)
    assert {session.next()["body"] for _ in names} == set(names)
    server.request("DELETE", f"/q/{names[0]}")
    assert session.next() == {
        "type": "closing",
        "queue": names[0],
        "reason": "the queue was deleted",
    }
    add(server, names[1], "on")
    assert session.next()["body"] == "on"


def test_coming_back_with_a_cursor(connect: Connect, server: Daemon, queue: str) -> None:
    first, second = connect(), connect()
    for each in (first, second):
        each.welcome()
        each.do("subscribe", queue=queue)
    for n in range(4):
        add(server, queue, str(n))
    seen = [first.next() for _ in range(2)]
    assert [second.next()["body"] for _ in range(4)] == list("0123")
    first.close()
    again = connect()
    again.welcome()
    again.do("subscribe", queue=queue, cursor=seen[-1]["cursor"])
    assert [again.next()["body"] for _ in range(2)] == ["2", "3"]
    again.do("unsubscribe", queue=queue)
    again.do("subscribe", queue=queue, cursor="5-5")
    gap = again.next()
    assert (gap["type"], gap["queue"], gap["oldest"]) == ("gap", queue, 1)


def test_receive_settle_and_next(session: Session, queue: str) -> None:
    items = [{"body": "a", "headers": {"X-A": "1"}}, {"body": {"b": 1}}, {"body": "c"}]
    answer = session.do("batch", queue=queue, messages=items)
    assert answer == {"results": [{"id": 1}, {"id": 2}, {"id": 3}], "failed": 0}
    (first,) = session.do("receive", queue=queue, lease=60)["messages"]
    assert (first["body"], first["attempt"], first["headers"]) == ("a", 1, {"x-a": "1"})
    extended = session.do("extend", receipts=[first["receipt"]], lease=600)
    assert extended["failed"] == 0
    answer = session.do("ack", receipts=[first["receipt"]], next={"limit": 5})
    assert [m["body"] for m in answer["messages"]] == [{"b": 1}, "c"]
    held = answer["messages"][0]
    session.do("nack", receipts=[held["receipt"]], delay=0, reason="no")
    (again,) = session.do("receive", queues=[queue], wait=10)["messages"]
    assert (again["attempt"], again["error"]) == (2, "no")
    assert session.do("ack", receipts=[held["receipt"]])["failed"] == 1


def test_a_put_says_all_that_http_can(session: Session, queue: str) -> None:
    said = {"queue": queue, "body": "x", "idempotency_key": "k", "ttl": 60, "headers": {"a": "b"}}
    assert session.do("put", **said) == {"queue": queue, "id": 1}
    assert session.do("put", **said) == {"queue": queue, "id": 1, "replayed": True}
    assert session.answer("put", **{**said, "body": "y"})["code"] == "key_reused"
    session.do("put", queue=queue, body="later", delay=3600)
    messages = session.do("receive", queue=queue, limit=10)["messages"]
    assert [(m["body"], m["headers"]) for m in messages] == [("x", {"a": "b"})]


def test_credit_brings_messages_as_they_come(
    session: Session, connect: Connect, queue: str
) -> None:
    """So many and no more, until there is credit again."""
    producer = connect()
    producer.welcome()
    answer = session.do("receive", queue=queue, credit=2, lease=60)
    for body in "abcd":
        producer.do("put", queue=queue, body=body)
    held = [session.next() for _ in range(2)]
    assert [(m["type"], m["body"], m["attempt"]) for m in held] == [
        ("message", "a", 1),
        ("message", "b", 1),
    ]
    assert session.do("ack", receipts=[m["receipt"] for m in held])["failed"] == 0
    assert session.do("ping") == {}
    assert session.pushed == []
    assert session.do("credit", **answer, credit=1) == {"credit": 1}
    assert session.next()["body"] == "c"
    assert session.do("unsubscribe", **answer) == {"unsubscribed": [answer["receive"]]}
    assert session.answer("credit", **answer, credit=1)["code"] == "bad_request"
    (last,) = producer.do("receive", queue=queue)["messages"]
    assert last["body"] == "d"


def test_who_closes_while_it_waits_takes_nothing(
    session: Session, connect: Connect, queue: str
) -> None:
    for said in ({"wait": 50}, {"credit": 5}):
        leaving = connect()
        leaving.welcome()
        leaving.socket.send(json.dumps({"cmd": "receive", "queue": queue, **said}).encode())
        leaving.do("ping")
        leaving.close()
    session.do("put", queue=queue, body="x")
    (message,) = session.do("receive", queue=queue, wait=10)["messages"]
    assert message["attempt"] == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"cmd": "fly"}, "bad_request"),
        ({"cmd": 7}, "bad_request"),
        ({}, "bad_request"),
        ({"cmd": "ping", "more": 1}, "bad_request"),
        ({"cmd": "put", "queue": "q"}, "bad_request"),
        ({"cmd": "put", "queue": "", "body": "x"}, "bad_request"),
        ({"cmd": "put", "queue": "a//b", "body": "x"}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": 1, "encoding": "text"}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": "!", "encoding": "base64"}, "bad_request"),
        (
            {"cmd": "put", "queue": "q", "body": "{", "content_type": "application/json"},
            "invalid_json",
        ),
        ({"cmd": "put", "queue": "q", "body": 1, "content_type": "\u00e9"}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": 1, "content_type": "a" * 256}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": "x", "ttl": -1}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": "x", "ttl": True}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": "x" * 1048577}, None),
        ({"cmd": "subscribe"}, "bad_request"),
        ({"cmd": "subscribe", "queues": []}, "bad_request"),
        ({"cmd": "subscribe", "queues": ["a", "a"]}, "bad_request"),
        ({"cmd": "subscribe", "queue": "x", "slow": "no"}, "bad_request"),
        ({"cmd": "subscribe", "queue": "x", "buffer": [1]}, "bad_request"),
        ({"cmd": "subscribe", "queue": "never-seen", "ack": True}, "wrong_delivery"),
        ({"cmd": "ack"}, "bad_request"),
        ({"cmd": "ack", "receipts": [1]}, "bad_request"),
        ({"cmd": "auth", "user": "x"}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": "x", "delay": "1"}, "bad_request"),
        ({"cmd": "put", "queue": "q", "body": "x", "colour": 1}, "bad_request"),
        ({"cmd": "batch", "queue": "q"}, "bad_request"),
        ({"cmd": "batch", "queue": "q", "messages": [{"body": 1, "ttl": 0}]}, "bad_request"),
        ({"cmd": "receive"}, "bad_request"),
        ({"cmd": "receive", "queue": "q", "limit": 0}, "bad_request"),
        ({"cmd": "receive", "queue": "q", "limit": 1, "credit": 1}, "bad_request"),
        ({"cmd": "receive", "queue": "q", "credit": 1001}, "bad_request"),
        ({"cmd": "credit", "receive": 1, "credit": 1}, "bad_request"),
        ({"cmd": "extend", "receipts": ["x"]}, "bad_request"),
        ({"cmd": "nack", "receipts": ["x"], "delay": -1}, "bad_request"),
        ({"cmd": "ack", "receipts": ["x"], "next": []}, "bad_request"),
    ],
)
def test_mistakes_are_answered_and_the_connection_lives(
    session: Session, command: dict[str, Any], code: str | None
) -> None:
    session.socket.send(json.dumps({"id": "mine", **command}).encode())
    if code is None:  # too long for a frame: RFC 6455 knows what to do
        assert session.socket.close_code() == 1009
        return
    frame = session.read()
    assert (frame["type"], frame["id"], frame["code"]) == ("error", "mine", code)
    assert frame["detail"]
    assert session.do("ping") == {}


@pytest.mark.parametrize("frame", [b"{", b"[]", b"7", b'{"id": {}}', b"\xef\xbb\xbf"])
def test_what_is_no_command(session: Session, frame: bytes) -> None:
    session.socket.send(frame)
    answer = session.read()
    assert (answer["type"], answer["id"]) == ("error", None)
    assert session.do("ping") == {}


def test_a_binary_frame_is_no_command(session: Session) -> None:
    session.socket.socket.sendall(encoded(b'{"cmd": "ping"}', BINARY))
    assert session.read()["type"] == "error"


def test_subscribing_twice_and_too_often(session: Session, queue: str) -> None:
    session.do("subscribe", queue=queue)
    assert session.answer("subscribe", queue=queue)["code"] == "bad_request"
    many = [f"{queue}-{n}" for n in range(100)]
    assert session.answer("subscribe", queues=many)["code"] == "bad_request"
    session.do("subscribe", queues=many[:99])


def test_the_bound_of_subscriptions_holds_for_commands_at_once(
    session: Session, queue: str
) -> None:
    for n in range(4):
        names = [f"{queue}-{n}-{m}" for m in range(60)]
        command = {"id": n, "cmd": "subscribe", "queues": names}
        session.socket.send(json.dumps(command).encode())
    assert sorted(session.read()["type"] for _ in range(4)) == ["error"] * 3 + ["reply"]


def test_what_was_replayed_to_a_subscription_that_ended_comes_to_the_next_once(
    connect: Connect, server: Daemon, queue: str
) -> None:
    first = connect()
    first.welcome()
    first.do("subscribe", queue=queue)
    for n in range(6):
        add(server, queue, str(n))
    cursor = first.next()["cursor"]
    second = connect()
    second.welcome()
    for _ in range(3):
        second.do("subscribe", queue=queue, cursor=cursor)
        second.do("unsubscribe", queue=queue)
    second.pushed.clear()
    second.do("subscribe", queue=queue, cursor=cursor)
    add(server, queue, "last")
    seen = [second.next()["body"]]
    while seen[-1] != "last":
        seen.append(second.next()["body"])
    assert seen == [*"12345", "last"]


def test_many_commands_at_once_are_all_answered(session: Session, queue: str) -> None:
    count = 3000
    frames = [
        encoded(json.dumps({"id": n, "cmd": "put", "queue": queue, "body": n}).encode())
        for n in range(count)
    ]
    session.socket.socket.sendall(b"".join(frames))
    answers = [session.read() for _ in range(count)]
    assert {frame["type"] for frame in answers} == {"reply"}
    assert [frame["id"] for frame in answers] == list(range(count))
    assert [frame["result"]["id"] for frame in answers] == list(range(1, count + 1))


def test_a_plain_request_is_told_to_upgrade(server: Daemon) -> None:
    reply = get(server, "/v1/ws")
    assert reply.status == 426
    assert reply.headers["upgrade"] == "websocket"


def test_a_page_of_another_site_is_let_in_to_be_told_so(
    connect: Connect, server: Daemon, queue: str
) -> None:
    """What it says all the same is not heard."""
    session = connect("Origin: https://evil.example")
    session.socket.send(json.dumps({"cmd": "put", "queue": queue, "body": "evil"}).encode())
    assert session.socket.close_code() == 4403
    session.socket.send(json.dumps({"cmd": "put", "queue": queue, "body": "evil"}).encode())
    session.socket.send(b"\x0f\xa3", CLOSE)
    assert session.socket.is_over()
    assert stats(server, queue)["len"] == 0


ACCESS = """
[websocket:consumer]
username = me
password = secret
[rest:producer]
hosts_allow = 10.0.0.1
"""


def test_access(daemon: StartDaemon, tmp_path: Any, connect: Connect) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text(ACCESS)
    guarded = daemon("--acl", str(rules))
    guarded.wait_for("/readyz")
    basic = base64.b64encode(b"me:secret").decode()
    for header in (f"Authorization: Basic {basic}", "Cookie: auth=me:secret"):
        session = connect(header, port=guarded.port)
        assert session.welcome()["authenticated"] is True
        assert session.do("subscribe", queue="x") == {"subscribed": ["x"]}
        assert session.answer("put", queue="x", body="y")["code"] == "unauthorized"
    producer = connect(port=guarded.port)
    producer.welcome()
    assert producer.answer("auth", user="anybody", password="x")["code"] == "unauthorized"
    stranger = connect(port=guarded.port)
    assert stranger.welcome()["authenticated"] is False
    assert stranger.answer("subscribe", queue="x")["code"] == "unauthorized"
    assert stranger.answer("auth", user="me", password="wrong")["code"] == "unauthorized"
    assert stranger.do("auth", user="me", password="secret") == {}
    assert stranger.do("subscribe", queue="x") == {"subscribed": ["x"]}


def test_an_address_that_may_nothing_is_closed(
    daemon: StartDaemon, tmp_path: Any, connect: Connect
) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("[websocket:consumer]\nhosts_deny = all\n[rest:producer]\nhosts_deny = all\n")
    guarded = daemon("--acl", str(rules))
    guarded.wait_for("/readyz")
    assert connect(port=guarded.port).socket.close_code() == 4401


def test_at_the_end_the_client_is_told_when_to_come_back(
    daemon: StartDaemon, connect: Connect
) -> None:
    ending = daemon()
    ending.wait_for("/readyz")
    session = connect(port=ending.port)
    session.welcome()
    session.do("subscribe", queue="x")
    ending.terminate()
    closing = session.next()
    assert closing["type"] == "closing"
    assert 1 <= closing["retry"] < 4
    assert session.socket.close_code() == 1012


def test_round_robin_of_an_open_queue(session: Session, server: Daemon, queue: str) -> None:
    post(server, f"/p/{queue}", policy="roundrobin")
    session.do("subscribe", queue=queue, ack=1)
    add(server, queue, "x")
    assert session.next()["receipt"]
