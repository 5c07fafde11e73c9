"""Long polls: they wake at once, whoever put the message; who hangs up takes nothing; a stop is clean."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Sequence
from statistics import median, quantiles

import pytest

from restmq.redis.keys import Keys
from tests.conftest import StartDaemon
from tests.support import ValkeyServer, wait_until
from tests.system.jobs import Jobs, lease_of, three

pytestmark = pytest.mark.slow

QUEUE = "waiting"
HANG_UPS = int(os.environ.get("RESTMQ_HANG_UPS", "1000"))


def waiting(valkey: ValkeyServer, queue: str) -> int:
    """How many daemons have somebody who waits for messages of the queue."""
    with valkey.client() as store:
        ((_, count),) = store.pubsub_numsub(Keys("restmq:").base(queue) + b":wake")
    return int(count)


def test_a_long_poll_wakes_at_once_whichever_daemon_the_message_came_to(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """I wait at one daemon, the message comes to another: I have it in milliseconds."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(3)])
    took = []
    with Jobs(ports[0]) as producer, Jobs(ports[1]) as worker:
        producer.make(QUEUE)
        for number in range(100):
            worker.send_receive(QUEUE, 1, 20, 30)
            wait_until(lambda: waiting(valkey, QUEUE), "somebody who waits")
            start = time.perf_counter()
            producer.put(QUEUE, b"%d" % number)
            answer = worker.answer()
            took.append(1000 * (time.perf_counter() - start))
            (found,) = json.loads(answer.body)["messages"]
            assert (found["body"], found["attempt"]) == (str(number), 1)
    print(f"put to received: median {median(took):.1f} ms, p99 {quantiles(took, n=100)[98]:.1f} ms")


def test_several_queues_are_waited_for_in_the_order_given(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """One call for several queues: the first that has any gives, and any of them wakes me."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(2)])
    with Jobs(ports[0]) as producer, Jobs(ports[1]) as worker:
        for queue in ("b", "a"):
            producer.put(queue, queue.encode())
        asked = {"queues": ["a", "b"], "limit": 5, "wait": 20}
        found = [worker.ask_good("POST", "/v1/receive", asked)["messages"] for _ in range(2)]
        assert [[one["body"] for one in some] for some in found] == [["a"], ["b"]]
        worker._send("POST", "/v1/receive", json.dumps(asked).encode(), "application/json")
        wait_until(lambda: waiting(valkey, "b"), "somebody who waits")
        producer.put("b", b"more")
        (one,) = json.loads(worker.answer().body)["messages"]
        assert (one["queue"], one["body"]) == ("b", "more")


class Impatient:
    """Clients that begin a long poll and hang up, in one of several ways."""

    def __init__(self, ports: Sequence[int], seed: int) -> None:
        self._ports, self._chance = ports, random.Random(seed)

    def begin(self) -> Jobs:
        client = Jobs(self._chance.choice(self._ports))
        client.send_receive(QUEUE, self._chance.choice([1, 10]), 30, 300)
        return client

    def hang_up(self, client: Jobs) -> None:
        """Politely or with a reset."""
        if self._chance.random() < 0.5:
            linger = (1).to_bytes(4, "little") + bytes(4)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()


def test_who_hangs_up_takes_nothing(daemon: StartDaemon, valkey: ValkeyServer) -> None:
    """A thousand clients leave while messages come: each message is still there, never handed out."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(3)])
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    chance, impatient = random.Random(seed), Impatient(ports, seed)
    puts: list[int] = []
    with Jobs(ports[0]) as client:
        client.make(QUEUE)
        for _ in range(HANG_UPS // 4):
            some = [impatient.begin() for _ in range(4)]
            if chance.random() < 0.3:
                wait_until(lambda: waiting(valkey, QUEUE), "somebody who waits")
            for one in some:
                impatient.hang_up(one)
            puts.append(client.put(QUEUE, b"x"))
            # It is still there, or on its way back: a fresh receive has it, as nobody's before.
            (lease,) = client.receive(QUEUE, 1, 20)
            assert (lease.id, lease.attempt) == (puts[-1], 1)
            assert client.settle("ack", [lease.receipt]) == [True]
        wait_until(lambda: not waiting(valkey, QUEUE), "nobody who waits")


def test_a_stopping_daemon_lets_those_who_wait_go_and_takes_nothing(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """SIGTERM while workers wait and messages come: all are answered, none is lost or counted twice."""
    stopping, other = (daemon("--redis-url", valkey.url) for _ in range(2))
    three([stopping, other])
    with Jobs(other.port) as client:
        client.make(QUEUE)
        waiters = [Jobs(stopping.port) for _ in range(20)]
        for one in waiters:
            one.send_receive(QUEUE, 1, 30, 300)
        wait_until(lambda: waiting(valkey, QUEUE), "somebody who waits")
        ids: list[int] = []
        putting = threading.Thread(
            target=lambda: ids.extend(client.put(QUEUE, b"x") for _ in range(15))
        )
        putting.start()
        assert stopping.stop() == 0
        putting.join()
        given = []
        for one in waiters:
            answer = one.answer()
            assert answer.status in (200, 503), answer
            if answer.status == 200:
                given += [lease_of(found) for found in json.loads(answer.body)["messages"]]
            one.close()
        left = client.receive(QUEUE, 1000)
    assert {lease.attempt for lease in [*given, *left]} == {1}
    assert sorted(lease.id for lease in [*given, *left]) == sorted(ids)
    print("given before the end", len(given))
