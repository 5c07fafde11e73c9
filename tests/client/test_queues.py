"""The Python client against a real daemon with its embedded store."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from restmq.client import (
    BrokerUnavailable,
    Message,
    NoAccess,
    OutcomeUnknown,
    Queues,
    Refused,
    TooSlow,
)
from tests.support import DEADLINE_SECONDS, free_port, wait_until

AWKWARD = [
    b"hello",
    b"007",
    b"  padded  ",
    b'\ttab and \\ and "quotes" and </b>',
    b"line\r\nbreak\n",
    b"a&b=c;d+e%20",
    "naïve café — 日本 😀".encode(),
    bytes(range(1, 32)),
    b"\x00",
    b"",
    b"\xff\xfe not UTF-8",
    b"x" * 100_000,
]


@pytest.fixture
def queues(common_daemon) -> Iterator[Queues]:
    with Queues(common_daemon.url, timeout_seconds=DEADLINE_SECONDS) as queues:
        yield queues


@pytest.fixture
def name(request) -> str:
    """A queue of the test's own."""
    return str(request.node.name)


@pytest.fixture
def broker(daemon, valkey):
    """A daemon of the test's own, for tests that end it."""
    own = daemon("--redis-url", valkey.url)
    own.wait_for("/readyz")
    return own


def test_what_is_put_first_comes_out_first(queues, name):
    assert [queues.put(name, word) for word in ("one", "two", "three")] == [1, 2, 3]
    assert [queues.get(name).text for _ in range(3)] == ["one", "two", "three"]
    assert queues.get(name) is None


def test_a_body_comes_back_to_the_byte_by_every_door(queues, name):
    for body in AWKWARD:
        for out in (queues.get, queues.take, queues.peek):
            number = queues.put(name, body)
            assert out(name) == Message(name, number, body)
            queues.purge(name)


def test_a_queue_may_have_an_awkward_name(queues):
    for name in ("a/b", "café ☕", "50%", "x?y#z", "with space", "a+b", "q:7"):
        number = queues.put(name, name)
        assert queues.length(name) == 1
        assert queues.take(name) == Message(name, number, name.encode())


def test_peek_leaves_the_message_where_it_is(queues, name):
    queues.put(name, "stay")
    assert queues.peek(name) == queues.peek(name) == Message(name, 1, b"stay")
    assert queues.length(name) == 1


def test_a_message_can_be_deleted_once_by_its_number(queues, name):
    queues.put(name, "one")
    two = queues.put(name, "two")
    queues.put(name, "three")
    assert queues.delete(name, two)
    assert not queues.delete(name, two)
    assert [queues.get(name).text for _ in range(2)] == ["one", "three"]


def test_purge_says_whether_there_was_anything(queues, name):
    queues.put(name, "one")
    assert queues.purge(name)
    assert not queues.purge(name)
    assert queues.length(name) == 0


def test_an_unknown_queue_is_empty(queues, name):
    assert queues.get(name) is None
    assert queues.take(name) is None
    assert queues.peek(name) is None
    assert queues.length(name) == 0
    assert not queues.delete(name, 1)


def test_a_message_that_expired_is_passed_over(queues, name):
    queues.put(name, "gone", ttl_seconds=1)
    queues.put(name, "here")
    queues.put(name, "there", ttl_seconds=600)
    wait_until(lambda: queues.peek(name) != Message(name, 1, b"gone"), "its end")
    assert queues.get(name).text == "here"
    assert queues.take(name).text == "there"


def test_a_stream_has_the_backlog_and_then_what_comes(queues, name):
    queues.put(name, "before")
    with queues.stream(name, silence_seconds=DEADLINE_SECONDS) as stream:
        assert next(stream) == Message(name, 1, b"before")
        for body in AWKWARD:
            queues.put(name, body)
        assert [next(stream).body for _ in AWKWARD] == AWKWARD


def test_a_stream_ends_when_its_queue_is_purged(queues, name):
    with queues.stream(name, silence_seconds=DEADLINE_SECONDS) as stream:
        queues.put(name, "one")
        assert next(stream).text == "one"
        queues.purge(name)
        assert list(stream) == []


def test_a_silent_stream_ends_when_its_time_is_up(queues, name):
    with queues.stream(name, silence_seconds=0.2) as stream, pytest.raises(TooSlow):
        next(stream)


def test_a_stream_whose_daemon_dies_says_so(broker):
    client = Queues(broker.url)
    with client, client.stream("live", silence_seconds=DEADLINE_SECONDS) as stream:
        client.put("live", "one")
        next(stream)
        broker.kill()
        with pytest.raises(BrokerUnavailable):
            next(stream)


def test_the_client_finds_a_broker_that_was_started_again(broker):
    with Queues(broker.url) as queues:
        queues.put("jobs", "kept")
        broker.stop()
        with pytest.raises(BrokerUnavailable, match="no connection"):
            queues.get("jobs")
        broker.start("/readyz")
        assert queues.get("jobs").text == "kept"


def test_a_broker_without_its_store_did_nothing_and_says_so(daemon):
    broker = daemon("--redis-host", "127.0.0.1", "--redis-port", str(free_port()))
    with Queues(broker.url) as queues, pytest.raises(BrokerUnavailable):
        queues.put("jobs", "one")


def test_a_message_over_the_limit_is_refused_with_the_reason(daemon, valkey):
    broker = daemon("--redis-url", valkey.url, "--max-message-bytes", "1000")
    broker.wait_for("/readyz")
    with Queues(broker.url) as queues:
        with pytest.raises(Refused) as refused:
            queues.put("jobs", b"x" * 5_000_000)
        assert refused.value.status == 413
        assert queues.put("jobs", b"x" * 900) == 1


def test_the_password_goes_in_the_address(daemon, valkey, tmp_path):
    rules = tmp_path / "acl.conf"
    rules.write_text("[rest:producer]\nusername = ann\npassword = p@ss/word\n")
    broker = daemon("--redis-url", valkey.url, "--acl", str(rules))
    broker.wait_for("/readyz")
    with Queues(broker.url) as queues, pytest.raises(NoAccess) as no_access:
        queues.put("jobs", "one")
    assert no_access.value.status == 401
    with Queues(f"http://ann:p%40ss%2Fword@127.0.0.1:{broker.port}") as queues:
        assert queues.put("jobs", "one") == 1


def test_a_reply_that_never_comes_leaves_the_outcome_unknown():
    """The request was read, and then the line went dead: it may or may not have been done."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hear_and_hang_up() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)

        listener = threading.Thread(target=hear_and_hang_up)
        listener.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Queues(address) as queues, pytest.raises(OutcomeUnknown):
            queues.put("jobs", "one")
        listener.join(DEADLINE_SECONDS)


@pytest.mark.parametrize("address", ["localhost:8888", "ftp://localhost", "http://", ""])
def test_an_address_that_is_none_is_refused_at_once(address):
    with pytest.raises(ValueError, match="not the address of a broker"):
        Queues(address)


# -- work queues --------------------------------------------------------------------------


def test_a_message_is_there_until_it_is_acknowledged(queues, name):
    assert queues.put(name, "work", headers={"X-Kind": "a"}, key="k") == 1
    assert queues.put(name, "work", headers={"X-Kind": "a"}, key="k") == 1
    (first,) = queues.receive(name, lease_seconds=60)
    assert (first.text, first.attempt, first.headers) == ("work", 1, {"x-kind": "a"})
    assert queues.receive(name) == []
    assert queues.nack(first, delay_seconds=0, reason="busy") == [True]
    (again,) = queues.receive(name, wait_seconds=10)
    assert (again.id, again.attempt, again.error) == (1, 2, "busy")
    assert queues.extend(again, lease_seconds=600) == [True]
    assert queues.ack(first, again.receipt) == [False, True]
    assert queues.ack(again) == [False]
    assert queues.ack() == []


def test_a_batch_of_all_kinds(queues, name):
    bodies = ["text", b"\xff", {"body": {"a": [1]}}, {"body": "x", "content_type": "text/html"}]
    assert queues.batch(name, bodies) == [1, 2, 3, 4]
    found = queues.receive(f"{name}-nothing-here", name, limit=10)
    assert [one.body for one in found] == [b"text", b"\xff", b'{"a":[1]}', b"x"]
    assert found[2].json == {"a": [1]}
    assert found[3].content_type == "text/html"
    assert all(queues.ack(*found))


def test_a_batch_says_what_is_not_in(queues, name):
    items = [{"body": text, "idempotency_key": "same"} for text in "ab"]
    assert queues.batch(name, items) == [1, "key_reused"]


def test_what_is_put_with_a_delay_waits(queues, name):
    queues.put(name, b"\x00later", delay_seconds=0.2, content_type="application/octet-stream")
    assert queues.receive(name) == []
    assert [one.body for one in queues.receive(name, wait_seconds=10)] == [b"\x00later"]


def test_a_refusal_tells_why(queues, name):
    queues.put(name, "x", delay_seconds=0)
    with pytest.raises(Refused, match="under a lease only"):
        queues.get(name)
    with pytest.raises(Refused, match="limit") as caught:
        queues.receive(name, limit=0)
    assert caught.value.status == 400
