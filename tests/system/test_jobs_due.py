"""What time brings: delayed messages and ended leases come back on time, once, whichever daemon lives.

``RESTMQ_DELAYED`` (50000) is how many wait for later times, ``RESTMQ_DUE`` (2000) how many are due at once;
1000000 and 10000 for the full proof.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import pytest
import valkey as valkey_client

from restmq.redis.keys import Keys
from tests.conftest import StartDaemon
from tests.support import ValkeyServer, wait_until
from tests.system.jobs import Jobs, fill, now, three

pytestmark = pytest.mark.slow

QUEUE = "due"
DELAYED = int(os.environ.get("RESTMQ_DELAYED", "50000"))
DUE = int(os.environ.get("RESTMQ_DUE", "2000"))


def in_the_future(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def delayed(store: valkey_client.Valkey, queue: str) -> int:
    """How many wait for their time."""
    return int(store.zcard(Keys("restmq:").base(queue) + b":d"))


def test_many_due_at_once_among_many_more_are_ready_on_time(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """Ten thousand reminders for nine o'clock: at nine all are there, in order, and no other."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(3)])
    with Jobs(ports[0]) as client:
        client.make(QUEUE)
    fill(ports[1], QUEUE, DELAYED, {"delay": 36_000})
    at = now() + 3000 + DUE // 2
    ids = fill(ports[2], QUEUE, DUE, {"deliver_at": in_the_future(at)})
    assert now() < at, "too slow to try this here"
    with Jobs(ports[0]) as client, valkey.client() as store:
        assert client.receive(QUEUE, 1) == []
        wait_until(lambda: now() >= at, "the time", 60)
        while delayed(store, QUEUE) > DELAYED:
            assert now() < at + 30_000
        late = now() - at
        print(f"{DUE} of {DELAYED} due at once: all ready {late} ms after their time")
        assert delayed(store, QUEUE) == DELAYED
        found = []
        for port in ports * (DUE // 1000 + 1):
            with Jobs(port) as other:
                found += other.receive(QUEUE, 1000, lease=600)
        assert [lease.id for lease in found] == ids, "once each, in order"
        assert {lease.attempt for lease in found} == {1}


def test_few_due_each_moment_come_on_time(daemon: StartDaemon, valkey: ValkeyServer) -> None:
    """A delay of a moment is a moment: I wait for it at another daemon."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(3)])
    late = []
    with Jobs(ports[0]) as producer, Jobs(ports[1]) as worker:
        for number in range(20):
            delay = 50 + 37 * number % 200
            start = time.monotonic()
            producer.put("moments", b"x", delay=delay / 1000)
            (lease,) = worker.receive("moments", 1, 20)
            waited = 1000 * (time.monotonic() - start)
            assert waited >= delay - 2, "before its time"
            late.append(waited - delay)
            assert worker.settle("ack", [lease.receipt]) == [True]
    print(f"late by {min(late):.0f} to {max(late):.0f} ms")


def test_what_a_dead_daemon_handed_out_comes_back_by_another(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """The daemon that leased it is gone, and its worker with it: after the lease another one returns it."""
    dying, *living = (daemon("--redis-url", valkey.url) for _ in range(3))
    three([dying, *living])
    with Jobs(living[0].port) as producer, Jobs(living[1].port) as worker:
        number = producer.put("orphans", b"x")
        with Jobs(dying.port) as doomed:
            (lease,) = doomed.receive("orphans", 1, 20, 1.5)
        later = producer.put("orphans", b"y", delay=1)
        dying.kill()
        found = [worker.receive("orphans", 1, 20)[0] for _ in range(2)]
        assert {one.id for one in found} == {number, later}
        (again,) = (one for one in found if one.id == number)
        assert again.attempt == 2
        assert again.until - 30_000 >= lease.until
        print(f"returned {again.until - 30_000 - lease.until} ms after its lease")


def test_a_lease_that_ends_is_noticed_though_daemons_took_turns(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """Leases at several daemons, most of them done in time: the one that is not comes back all the same."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(2)])
    with Jobs(ports[0]) as one, Jobs(ports[1]) as other:
        one.put("turns", b"a")
        start = now()
        for client, moment in ((other, 0), (one, 500), (one, 1100)):
            wait_until(lambda moment=moment: now() >= start + moment, "the moment")  # type: ignore[misc]
            (lease,) = client.receive("turns", 1, 0, 1)
            if moment < 1100:
                assert client.settle("ack", [lease.receipt]) == [True]
                client.put("turns", b"b")
        (again,) = other.receive("turns", 1, 10)
        assert (again.id, again.attempt) == (lease.id, 2)
