"""Pulling the plug, of a daemon and of the store, in the middle of the traffic.

What had its 200 is never lost: some consumer has it, or it is still in the queue. Moments are
random; the seed is in the output of a test that fails.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from restmq.redis.folder import DataFolder
from tests.conftest import StartDaemon, StartValkey
from tests.support import Daemon, ValkeyServer, wait_until
from tests.system.clients import (
    Client,
    Comet,
    Delivered,
    Gone,
    Ledger,
    Posting,
    Streams,
    bodies,
    drain,
    wait_for_lines,
    warm_up,
)

pytestmark = pytest.mark.slow

QUEUE = "kill"
MESSAGES = 5000

LIFT = 1_000_000
"""Ids go on so much higher when the store lost time."""

Daemons = tuple[Daemon, Daemon]


@pytest.fixture
def daemons(daemon: StartDaemon, valkey: ValkeyServer) -> Daemons:
    """Two daemons on one Valkey; the first is the one to be killed."""
    one, two = (daemon("--redis-url", valkey.url) for _ in range(2))
    for each in (one, two):
        each.wait_for("/readyz")
    return one, two


def random_moment(posting: Posting, least: int = 1) -> None:
    """Wait until a random number of posts is done."""
    seed = random.SystemRandom().randrange(10**6)
    count = random.Random(seed).randrange(least, MESSAGES - 200)
    print("seed", seed, "count", count)
    posting.wait_for(count)


# -- one of two daemons ---------------------------------------------------------------------------


@pytest.mark.parametrize("time", range(3))
def test_killing_one_of_two_daemons_loses_no_broadcast_message(
    daemons: Daemons, streams: Streams, time: int
) -> None:
    """A daemon dies: who listens to the other gets every message, in the same order as before."""
    victim, survivor = daemons
    comets = [streams.open(one, QUEUE) for one in (victim, survivor) for _ in range(2)]
    warm_up(streams, comets, survivor.port, QUEUE)
    posting = Posting([victim.port, survivor.port], QUEUE, bodies(MESSAGES))
    random_moment(posting)
    victim.kill()
    ledger = posting.join()
    assert not ledger.refused
    cut, others = comets[:2], comets[2:]
    streams.wait(lambda: all(set(c.ids) >= ledger.ids for c in others), "all at the survivor")
    for comet in others:
        assert comet.ids == sorted(set(comet.ids))
        assert_only_known(comet.messages, ledger)
    streams.wait(lambda: all(c.lost for c in cut), "the end of the others")
    for comet in cut:
        assert comet.lines == others[0].lines[: len(comet.lines)]
    print("before the kill", [len(c.lines) for c in cut], "unknown", len(ledger.unknown))
    assert_goes_on(streams, others, victim)


def assert_goes_on(streams: Streams, others: Sequence[Comet], victim: Daemon) -> None:
    """The killed daemon comes back, and is one of them again."""
    victim.start("/readyz")
    back = streams.open(victim, QUEUE)
    warm_up(streams, [*others, back], victim.port, QUEUE)
    had = [len(comet.lines) for comet in others]
    Posting([victim.port], QUEUE, bodies(100, "again")).join()
    wait_for_lines(streams, [back], 100)
    wait_for_lines(streams, others, sum(had) + 200)
    assert back.lines == others[0].lines[had[0] :]


def assert_only_known(messages: Sequence[Delivered], ledger: Ledger) -> None:
    """Nothing came that was not posted, nor with another number than the 200 said."""
    for message in messages:
        assert ledger.acknowledged.get(message.body) == message.id or (
            message.body in ledger.unknown
        )


@pytest.mark.parametrize("worker", ["reads", "reads, too", "hangs"])
def test_killing_one_of_two_daemons_loses_no_round_robin_message(
    daemons: Daemons, streams: Streams, worker: str
) -> None:
    """A daemon dies: what its workers had not got goes to those of the other, once."""
    victim, survivor = daemons
    with Client(survivor.port) as client:
        client.set_policy(QUEUE, "roundrobin")
    comets = [streams.open(one, QUEUE) for one in (victim, survivor) for _ in range(2)]
    warm_up(streams, comets, survivor.port, QUEUE)
    if worker == "hangs":
        streams.freeze(comets[0])
    posting = Posting([victim.port, survivor.port], QUEUE, [b * 8 for b in bodies(MESSAGES)])
    random_moment(posting)
    victim.kill()
    ledger = posting.join()
    assert not ledger.refused
    if worker == "hangs":
        comets[0].read_to_end()
    streams.wait(lambda: all(c.lost for c in comets[:2]), "the end of the cut ones")

    def got(some: Sequence[Comet]) -> Counter[int]:
        return Counter(number for comet in some for number in comet.ids)

    streams.wait(lambda: set(got(comets)) >= ledger.ids, "all at some consumer")
    assert set(got(comets[:2]).values()) <= {1}
    assert set(got(comets[2:]).values()) == {1}
    twice = [n for n, times in got(comets).items() if times > 1]
    print("seen again after the crash:", len(twice))
    for comet in comets:
        assert_only_known(comet.messages, ledger)
    assert drain(survivor.port, QUEUE) == []


class Popping:
    """Clients that pop until told to stop and the queue is empty; a dead daemon ends its own."""

    def __init__(self, ports: Sequence[int], queue: str) -> None:
        self.messages: list[Delivered] = []
        self.interrupted = 0
        self._queue = queue
        self._enough = threading.Event()
        pops: list[Callable[[Client, str], Delivered | None]] = [Client.get, Client.take]
        kinds = [(port, pop) for port in ports for pop in pops] * 2
        self._pool = ThreadPoolExecutor(len(kinds))
        self._work = [self._pool.submit(self._pop, *kind) for kind in kinds]

    def _pop(self, port: int, pop: Callable[[Client, str], Delivered | None]) -> None:
        with Client(port) as client:
            while True:
                enough = self._enough.is_set()
                try:
                    message = pop(client, self._queue)
                except Gone:
                    self.interrupted += 1
                    return
                if message is not None:
                    self.messages.append(message)
                elif enough:
                    return

    def join(self) -> list[Delivered]:
        """Let them empty the queue."""
        self._enough.set()
        for work in self._work:
            work.result(60)
        self._pool.shutdown()
        return self.messages


@pytest.mark.parametrize("time", range(2))
def test_killing_a_daemon_under_many_takers_gives_no_message_twice(
    daemons: Daemons, time: int
) -> None:
    """Eight clients pop while a daemon dies: each message is had at most once.

    A pop whose reply was cut off may have taken one with it; no other message is missing.
    """
    victim, survivor = daemons
    popping = Popping([victim.port, survivor.port], QUEUE)
    posting = Posting([victim.port, survivor.port], QUEUE, bodies(MESSAGES))
    random_moment(posting)
    victim.kill()
    ledger = posting.join()
    popped = popping.join()
    assert set(Counter(message.id for message in popped).values()) == {1}
    assert_only_known(popped, ledger)
    missing = ledger.ids - {message.id for message in popped}
    print("missing", len(missing), "cut-off pops", popping.interrupted)
    assert len(missing) <= popping.interrupted <= 4


# -- the single daemon and its embedded store -----------------------------------------------------


def restarted(broker: Daemon, queue: str) -> list[Delivered]:
    """Start a killed daemon; all that its queue gives, from the first moment it is ready."""
    broker.start("/readyz")
    return drain(broker.port, queue)


@pytest.mark.parametrize("time", range(2))
def test_after_kill_9_of_the_single_daemon_every_acknowledged_message_is_there(
    daemon: StartDaemon, time: int
) -> None:
    """My only broker is killed and started again: all that had its 200 is there at once."""
    broker = daemon()
    broker.wait_for("/readyz")
    posting = Posting([broker.port], QUEUE, bodies(MESSAGES))
    random_moment(posting)
    broker.kill()
    ledger = posting.join()
    found = restarted(broker, QUEUE)
    assert [m.id for m in found] == sorted({m.id for m in found})
    assert {m.id for m in found} >= ledger.ids
    assert_only_known(found, ledger)
    with Client(broker.port) as client:
        assert client.add(QUEUE, b"next") == found[-1].id + 1


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_kill_9_gives_back_at_once_what_a_hanging_consumer_had_not_got(
    daemon: StartDaemon, streams: Streams, policy: str
) -> None:
    """The broker dies with messages on the way to a consumer that hangs: the next GET has them."""
    broker = daemon()
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        client.set_policy(QUEUE, policy)
    comet = streams.open(broker, QUEUE, receive_bytes=4096)
    warm_up(streams, [comet], broker.port, QUEUE)
    streams.freeze(comet)
    ledger = Posting([broker.port], QUEUE, [b.ljust(2000, b"-") for b in bodies(1500)]).join()
    assert len(ledger.acknowledged) == 1500
    broker.kill()
    comet.read_to_end()
    found = restarted(broker, QUEUE)
    print("had by the consumer", len(comet.lines), "found", len(found))
    assert 0 < len(comet.lines) < 1500
    assert set(comet.ids) | {m.id for m in found} == ledger.ids
    assert [m.id for m in found] == sorted({m.id for m in found})


# -- the store ------------------------------------------------------------------------------------


def embedded_server(broker: Daemon) -> int:
    """The process number of a daemon's own valkey-server."""
    started = DataFolder(broker.folder / "data").started()
    assert started is not None
    assert started.pid is not None
    return started.pid


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_kill_9_of_the_store_loses_nothing_and_streams_go_on(
    daemon: StartDaemon, start_valkey: StartValkey, streams: Streams, appendfsync: str
) -> None:
    """Valkey dies and comes back: 503 in between, each acknowledged message at each consumer.

    With everysec it may have lost the end of its file; then what it still has may come again.
    """
    server = start_valkey(appendonly="yes", appendfsync=appendfsync)
    one, two = (daemon("--redis-url", server.url) for _ in range(2))
    for each in (one, two):
        each.wait_for("/readyz")
    comets = [streams.open(each, QUEUE) for each in (one, two)]
    warm_up(streams, comets, one.port, QUEUE)
    posting = Posting([one.port, two.port], QUEUE, bodies(MESSAGES))
    random_moment(posting)
    server.kill()
    wait_until(lambda: posting.ledger.refused or posting.ledger.count() == MESSAGES, "a 503")
    server.start()
    for each in (one, two):
        each.wait_for("/readyz")
    ledger = posting.join()
    assert_said_503(ledger)
    later = Posting([one.port, two.port], QUEUE, bodies(200, "later")).join()
    assert len(later.acknowledged) == 200
    wanted = set(ledger.acknowledged) | set(later.acknowledged)
    streams.wait(lambda: all(set(c.bodies) >= wanted for c in comets), "all at both")
    lost_time = appendfsync == "everysec" and max(later.ids) > LIFT
    print("acknowledged", len(ledger.acknowledged), "lost time", lost_time)
    for comet in comets:
        lives = rising_runs(comet.ids)
        assert len(lives) <= 1 + lost_time
        if len(lives) == 2:
            assert set(lives[0]) & set(lives[1]), "not a repetition: out of order"
            assert max(lives[1]) > LIFT
        assert not comet.lost


def rising_runs(ids: Sequence[int]) -> list[list[int]]:
    """The numbers cut wherever they do not rise."""
    runs: list[list[int]] = []
    for number in ids:
        if not runs or number <= runs[-1][-1]:
            runs.append([])
        runs[-1].append(number)
    return runs


def assert_said_503(ledger: Ledger) -> None:
    """While the store was away each post was answered, with 503 and words."""
    assert not ledger.unknown
    assert ledger.refused
    for answer in ledger.refused.values():
        assert answer.status == 503
        assert b"store" in answer.body


def test_kill_9_of_the_embedded_store_loses_nothing(daemon: StartDaemon, streams: Streams) -> None:
    """The Valkey inside dies: the broker starts it again and has all that was acknowledged."""
    broker = daemon("--appendfsync", "always")
    broker.wait_for("/readyz")
    posting = Posting([broker.port], QUEUE, bodies(MESSAGES))
    random_moment(posting)
    os.kill(embedded_server(broker), signal.SIGKILL)
    ledger = posting.join()
    assert_said_503(ledger)
    broker.wait_for("/readyz")
    found = drain(broker.port, QUEUE)
    assert {m.id for m in found} >= ledger.ids
    assert set(Counter(m.body for m in found).values()) == {1}
    assert [m.id for m in found] == sorted(m.id for m in found)
