"""Events on ``/v1/ws``: publish, subscribe by patterns, a way back by cursor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Daemon
from tests.wire.test_events import get, post
from tests.wire.test_v1_socket import Session


@pytest.fixture
def session(common_daemon: Daemon) -> Iterator[Session]:
    made = Session(common_daemon.port)
    made.welcome()
    yield made
    made.close()


def test_publish_and_subscribe(common_daemon, session):
    topics = ["ws.p.*", "ws.q.**"]
    assert session.do("subscribe", topics=topics) == {"subscribed": topics}
    assert session.next()["type"] == "cursor"
    told = session.do("publish", topic="ws.p.1", body={"n": 1}, headers={"X-A": "b"})
    event = session.next()
    assert (event["type"], event["topic"], event["body"]) == ("event", "ws.p.1", {"n": 1})
    assert (event["id"], event["cursor"]) == (told["id"], told["cursor"])
    assert event["headers"] == {"x-a": "b"}
    post(common_daemon, "ws.p.1.x")
    later = post(common_daemon, "ws.q")
    assert session.next()["id"] == later["id"]
    assert session.do("unsubscribe", topics=topics[::-1]) == {"unsubscribed": topics[::-1]}


def test_a_cursor_of_http_goes_on_here(common_daemon, session):
    cursor = get(common_daemon, "topic=ws.back")["cursor"]
    told = [post(common_daemon, "ws.back")["id"] for _ in range(3)]
    session.do("subscribe", topic="ws.back", cursor=cursor)
    assert [session.next()["id"] for _ in told] == told


@pytest.mark.parametrize(
    ("cmd", "members"),
    [
        ("subscribe", {"topic": "a..b"}),
        ("subscribe", {"topic": "a", "queue": "q"}),
        ("subscribe", {"topics": ["a"], "queue": "q"}),
        ("subscribe", {"topics": ["a"], "queues": ["q"]}),
        ("unsubscribe", {"topics": ["a"], "queue": "q"}),
        ("subscribe", {"topics": []}),
        ("subscribe", {"topic": "a", "cursor": "7"}),
        ("subscribe", {"topic": "a", "ack": True}),
        ("subscribe", {"topic": "a", "log": "*"}),
        ("publish", {"topic": "a.*", "body": 1}),
        ("publish", {"topic": "a"}),
        ("publish", {"topic": "a", "body": 1, "ttl": 1}),
        ("publish", {"topic": "a", "body": 1, "headers": {"a": 1}}),
    ],
)
def test_bad_commands(session, cmd, members):
    answer = session.answer(cmd, **members)
    assert (answer["type"], answer["status"]) == ("error", 400)


def test_own_events_come_to_who_was_told_that_it_is_subscribed(common_daemon):
    """The first of a log on its daemon, too, where nobody follows the log yet."""
    for number in range(5):
        session = Session(common_daemon.port)
        session.welcome()
        session.do("subscribe", topic="own", log=f"own{number}")
        assert session.next()["type"] == "cursor"
        told = session.do("publish", topic="own", body=1, log=f"own{number}")
        assert session.next()["cursor"] == told["cursor"]
        session.close()


BODIES = ['{"a":1.10,"a":18446744073709551616}', "[ 1e0 ]", "[" * 300 + "]" * 300]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_is_kept_as_it_was_sent(common_daemon, session, body):
    """Numbers, members that are there twice, and depth, as over HTTP."""
    session.socket.send(f'{{"id":"x","cmd":"publish","topic":"ws.kept","body":{body}}}'.encode())
    cursor = session.read()["result"]["cursor"]
    reply = common_daemon.request("GET", f"/v1/topics/ws.kept/events/{cursor}")
    assert reply.body.decode() == body


def test_what_is_published_under_a_key_is_there_once(common_daemon, session):
    asked = {"topic": "ws.once", "body": 1, "log": "ws-once", "idempotency_key": "k1"}
    first = session.do("publish", **asked)
    assert session.do("publish", **asked) == {**first, "replayed": True}
    other = session.answer("publish", **{**asked, "body": 2})
    assert (other["status"], other["code"]) == (422, "key_reused")
    bad = session.answer("publish", **{**asked, "idempotency_key": "é"})
    assert bad["status"] == 400
    assert [event["id"] for event in get(common_daemon, "log=ws-once")["events"]] == [first["id"]]


@pytest.mark.parametrize("members", ['"publish","topic":"a","body":', '"publish","topic":', ""])
def test_what_is_nested_too_deeply_is_told(session, members):
    text = f'{{"id":"x","cmd":{members}{"[" * 1000}{"]" * 1000}}}'
    session.socket.send(text.encode())
    answer = session.read()
    assert (answer["type"], answer["id"], answer["status"]) == ("error", "x", 400)
