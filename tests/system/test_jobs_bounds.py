"""Bounds, rates and repeats of work queues, as clients meet them over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.support import Daemon, Response, ValkeyServer
from tests.system.jobs import JSON, Jobs, three

_names = count()


@pytest.fixture
def queue() -> str:
    """A name nobody else has."""
    return f"bounds{next(_names)}"


@pytest.fixture
def jobs(common_daemon: Daemon) -> Iterator[Jobs]:
    with Jobs(common_daemon.port) as client:
        yield client


def put(daemon: Daemon, queue: str, body: bytes, **headers: str) -> Response:
    """With all of the reply; ``key`` is the Idempotency-Key."""
    fields = {"Content-Type": "text/plain"}
    if "key" in headers:
        fields["Idempotency-Key"] = headers["key"]
    return daemon.request("POST", f"/v1/queues/{queue}/messages", body, fields)


def code(response: Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    found: str = json.loads(response.body)["code"]
    return found


# ---- max_length


def test_a_full_queue_refuses_until_there_is_room(
    common_daemon: Daemon, jobs: Jobs, queue: str
) -> None:
    """The fourth of three is told so, and when to try again; what somebody took makes room."""
    jobs.make(queue, max_length=3)
    assert [put(common_daemon, queue, b"x").status for _ in range(3)] == [201] * 3
    refused = put(common_daemon, queue, b"x")
    assert (refused.status, code(refused)) == (507, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    (lease,) = jobs.receive(queue)
    assert put(common_daemon, queue, b"x").status == 201
    assert jobs.settle("ack", [lease.receipt]) == [True]
    assert put(common_daemon, queue, b"x").status == 507


def test_of_a_batch_what_fits_is_taken(jobs: Jobs, queue: str) -> None:
    jobs.make(queue, max_length=3)
    batch = {"messages": [{"body": str(number)} for number in range(5)]}
    found = jobs.ask_good("POST", f"/v1/queues/{queue}/batch", batch)
    assert [one.get("id") for one in found["results"]] == [1, 2, 3, None, None]
    assert found["failed"] == 2
    assert "queue_full" in json.dumps(found["results"][3])


@pytest.mark.parametrize("way", ["deleted", "expired"])
def test_what_is_gone_takes_no_place(
    common_daemon: Daemon, jobs: Jobs, queue: str, way: str
) -> None:
    """Three messages are deleted, or their time is over: there is room again, though nobody received."""
    jobs.make(queue, max_length=3)
    if way == "deleted":
        numbers = [jobs.put(queue, b"x") for _ in range(3)]
        for number in numbers:
            assert jobs.ask("DELETE", f"/v1/queues/{queue}/messages/{number}").status == 204
    else:
        for _ in range(3):
            jobs.put(queue, b"x", ttl=0.001)
        assert jobs.receive("nobody-puts-here", wait=0.1) == []
    assert [put(common_daemon, queue, b"x").status for _ in range(4)] == [201] * 3 + [507]


def test_the_oldest_make_room_where_it_is_wanted(jobs: Jobs, queue: str) -> None:
    """I keep the last three only: the oldest go, also before those of a lower priority."""
    jobs.make(queue, max_length=3, overflow="drop-oldest", priorities=True)
    for number, priority in enumerate([9, 0, 5, 0, 0]):
        jobs.put(queue, b"%d" % number, priority=priority)
    assert [lease.body for lease in jobs.receive(queue, 10)] == ["2", "3", "4"]


# ---- rates


def test_a_put_rate_refuses_what_is_too_much(common_daemon: Daemon, jobs: Jobs, queue: str) -> None:
    """Ten a second, a hundred at once: most are told to come later, and none of those is stored."""
    jobs.make(queue, put_rate=10)
    replies = [put(common_daemon, queue, b"x") for _ in range(100)]
    refused = [reply for reply in replies if reply.status == 429]
    taken = [reply for reply in replies if reply.status == 201]
    assert refused
    assert len(refused) + len(taken) == 100
    assert {code(reply) for reply in refused} == {"rate_limited"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
    assert jobs.look(queue)["ready"] == len(taken)


def test_a_receive_rate_holds_back_and_a_long_poll_gets_the_rest(jobs: Jobs, queue: str) -> None:
    """Fifty wait, fifty a second may go: not all at once, yet all of them, without asking in vain."""
    jobs.put_batch(queue, [{"body": str(number)} for number in range(50)])
    jobs.make(queue, receive_rate=50)
    found = [jobs.receive(queue, 50)]
    assert len(found[0]) < 50
    while sum(map(len, found)) < 50:
        found.append(jobs.receive(queue, 50, wait=10))
        assert found[-1], "the long poll ended with nothing though messages waited"
    bodies = [lease.body for part in found for lease in part]
    assert bodies == [str(number) for number in range(50)]


# ---- repeats


def test_a_repeated_put_gets_the_first_reply(common_daemon: Daemon, queue: str) -> None:
    """The reply was lost, I put again under the same key: one message, the same id."""
    first = put(common_daemon, queue, b"x", key="order-1")
    again = put(common_daemon, queue, b"x", key="order-1")
    assert (first.status, again.status) == (201, 201)
    assert json.loads(first.body) == json.loads(again.body)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = put(common_daemon, queue, b"y", key="order-1")
    assert (other.status, code(other)) == (422, "key_reused")
    assert put(common_daemon, queue, b"y", key="order-2").status == 201
    assert put(common_daemon, f"{queue}-too", b"y", key="order-1").status == 201


def test_a_repeat_after_the_job_is_done_puts_nothing(
    common_daemon: Daemon, jobs: Jobs, queue: str
) -> None:
    """It was received and acknowledged meanwhile: still no second job."""
    put(common_daemon, queue, b"x", key="k")
    (lease,) = jobs.receive(queue)
    assert jobs.settle("ack", [lease.receipt]) == [True]
    assert put(common_daemon, queue, b"x", key="k").status == 201
    assert jobs.receive(queue) == []


def test_the_same_key_at_once_at_three_daemons_puts_one_message(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    daemons = [daemon("--redis-url", valkey.url) for _ in range(3)]
    three(daemons)
    with ThreadPoolExecutor(12) as pool:
        for number in range(20):
            replies = list(
                pool.map(
                    lambda n, number=number: put(daemons[n % 3], "same", b"x", key=f"k{number}"),  # type: ignore[misc]
                    range(12),
                )
            )
            good = [json.loads(reply.body)["id"] for reply in replies if reply.status == 201]
            assert {reply.status for reply in replies} <= {201, 409}
            assert len(set(good)) == 1
    with Jobs(daemons[0].port) as client:
        assert client.look("same")["ready"] == 20


def test_items_of_a_batch_have_keys_of_their_own(jobs: Jobs, queue: str) -> None:
    def batch(*keys: str) -> list[Any]:
        messages = [{"body": "x", "idempotency_key": key} for key in keys]
        found = jobs.ask_good("POST", f"/v1/queues/{queue}/batch", {"messages": messages})
        return [one["id"] for one in found["results"]]

    assert batch("a", "b", "a") == [1, 2, 1]
    assert batch("b", "c") == [2, 3]


def receive_with_key(jobs: Jobs, queue: str, key: str) -> list[dict[str, Any]]:
    jobs.socket.sendall(
        f"POST /v1/queues/{queue}/receive?limit=2 HTTP/1.1\r\nHost: localhost\r\n"
        f"Idempotency-Key: {key}\r\nContent-Type: {JSON}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    answer = jobs.answer()
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = json.loads(answer.body)["messages"]
    return found


def test_a_repeated_receive_gets_the_same_messages(jobs: Jobs, queue: str) -> None:
    """The reply with my jobs was lost: asked again under the same key I get them, and no others."""
    jobs.put_batch(queue, [{"body": str(number)} for number in range(4)])
    first = receive_with_key(jobs, queue, "r1")
    assert receive_with_key(jobs, queue, "r1") == first
    other = receive_with_key(jobs, queue, "r2")
    assert [one["id"] for one in first + other] == [1, 2, 3, 4]
    assert jobs.settle("ack", [one["receipt"] for one in first]) == [True, True]
    assert jobs.settle("ack", [one["receipt"] for one in first]) == [False, False]


def test_a_repeated_receive_never_gets_what_somebody_else_has(jobs: Jobs, queue: str) -> None:
    """I gave it back and another took it: my key stands for nothing now."""
    jobs.put(queue, b"x")
    (mine,) = receive_with_key(jobs, queue, "mine")
    jobs.ask("POST", f"/v1/queues/{queue}/messages/{mine['id']}/release")
    (lease,) = jobs.receive(queue)
    assert lease.attempt == 2
    assert receive_with_key(jobs, queue, "mine") == []
    assert jobs.settle("ack", [mine["receipt"], lease.receipt]) == [False, True]
