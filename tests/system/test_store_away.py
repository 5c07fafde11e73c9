"""The store goes away in mid-stream and comes back: every transport goes on where it was.

Moments are random; the seed is in the output of a test that fails.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from restmq.redis.folder import DataFolder
from tests.conftest import StartDaemon, StartValkey
from tests.support import Daemon, wait_until
from tests.system.clients import Client, Comet, Ledger, Posting, Streams, bodies, warm_up
from tests.system.transports import TRANSPORTS

pytestmark = pytest.mark.slow

QUEUE = "away"
PLENTY = 100_000
"""More than can be posted, or refused, while the store is away."""


def everywhere(streams: Streams, daemons: Sequence[Daemon], policy: str) -> list[Comet]:
    """A consumer of every transport on every daemon, all attached."""
    with Client(daemons[0].port) as client:
        client.set_policy(QUEUE, policy)
    found = [streams.open(one, QUEUE, kind=kind) for one in daemons for kind in TRANSPORTS]
    warm_up(streams, found, daemons[0].port, QUEUE)
    return found


def interrupted(
    streams: Streams,
    daemons: Sequence[Daemon],
    consumers: Sequence[Comet],
    go_away: Callable[[], None],
    come_back: Callable[[], None] | None = None,
) -> Ledger:
    """Messages flow; the store is away for 2 to 4 seconds; messages flow again.

    Without ``come_back`` it comes by itself, and the time is measured from its end.
    """
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    print("seed", seed)
    posting = Posting([one.port for one in daemons], QUEUE, bodies(PLENTY), producers=2)
    posting.wait_for(chance.randrange(500, 1500))
    go_away()
    if come_back is not None:
        until = time.monotonic() + chance.uniform(2, 4)
        wait_until(lambda: time.monotonic() > until, "the end of the pause")
    else:
        wait_until(lambda: posting.ledger.refused, "a 503")
    had = [len(consumer.lines) for consumer in consumers]
    if come_back is not None:
        come_back()
    begin = time.monotonic()

    def all_got_more() -> bool:
        return all(
            len(consumer.lines) > count for consumer, count in zip(consumers, had, strict=True)
        )

    streams.wait(lambda: total_of(consumers) > sum(had), "the first message")
    first = time.monotonic() - begin
    streams.wait(all_got_more, "a message at every consumer")
    print(f"first message after {first:.2f} s, at all after {time.monotonic() - begin:.2f} s")
    assert first < 10
    done = posting.ledger.count()
    posting.wait_for(done + 500)
    posting.stop()
    return posting.join()


def total_of(consumers: Sequence[Comet]) -> int:
    return sum(len(consumer.lines) for consumer in consumers)


def assert_whole(streams: Streams, consumers: Sequence[Comet], ledger: Ledger, policy: str) -> None:
    """Nothing acknowledged is lost, nothing came twice on a connection, and all are still there."""
    wanted = ledger.ids
    assert {answer.status for answer in ledger.refused.values()} <= {503}
    assert not ledger.unknown
    groups = [[consumer] for consumer in consumers] if policy == "broadcast" else [consumers]

    def all_there() -> bool:
        return all(
            wanted <= {number for consumer in group for number in consumer.ids} for group in groups
        )

    streams.wait(all_there, "all that was acknowledged")
    for consumer in consumers:
        assert set(Counter(consumer.ids).values()) <= {1}, consumer.name
        assert set(Counter(consumer.bodies).values()) <= {1}, consumer.name
        assert not consumer.lost, consumer.name
        if policy == "broadcast":
            assert consumer.ids == sorted(consumer.ids), consumer.name
    twice = Counter(number for consumer in consumers for number in consumer.ids)
    print(
        f"acknowledged {len(wanted)}, refused {len(ledger.refused)}, seen by several: "
        f"{sum(count > 1 for count in twice.values())}"
    )


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_streams_outlive_their_store(
    daemon: StartDaemon, start_valkey: StartValkey, streams: Streams, policy: str, how: str
) -> None:
    """Valkey dies, or hangs, for some seconds: I keep my connection and miss nothing."""
    server = start_valkey(appendonly="yes", appendfsync="always")
    daemons = [daemon("--redis-url", server.url) for _ in range(2)]
    for one in daemons:
        one.wait_for("/readyz")
    consumers = everywhere(streams, daemons, policy)

    def stop(with_signal: signal.Signals) -> Callable[[], None]:
        return lambda: os.kill(server.pid, with_signal)

    ways: tuple[Callable[[], None], Callable[[], None]] = (server.kill, server.start)
    if how == "stopped":
        ways = stop(signal.SIGSTOP), stop(signal.SIGCONT)
    ledger = interrupted(streams, daemons, consumers, *ways)
    assert_whole(streams, consumers, ledger, policy)


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_streams_outlive_the_embedded_store(
    daemon: StartDaemon, streams: Streams, policy: str
) -> None:
    """The Valkey inside dies: the broker starts it again, and no stream notices but for a pause."""
    broker = daemon("--appendfsync", "always")
    broker.wait_for("/readyz")
    consumers = everywhere(streams, [broker], policy)

    def kill() -> None:
        started = DataFolder(broker.folder / "data").started()
        assert started is not None
        assert started.pid is not None
        os.kill(started.pid, signal.SIGKILL)

    ledger = interrupted(streams, [broker], consumers, kill)
    assert_whole(streams, consumers, ledger, policy)
