"""Three daemons, consumers on every transport, coming and going: one broker, one order.

Who comes and goes is random; the seed is in the output of a test that fails.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import pytest

from restmq.core.port import ROOM
from tests.conftest import StartDaemon
from tests.support import Daemon, ValkeyServer
from tests.system.clients import (
    Client,
    Comet,
    Ledger,
    Posting,
    Streams,
    bodies,
    drain,
    total,
    wait_for_lines,
    warm_up,
)
from tests.system.transports import TRANSPORTS

pytestmark = pytest.mark.slow

QUEUE = "all transports"
MESSAGES = 50_000
EVENTS = 150
"""How often somebody comes or goes."""
GUESTS = 6
"""With so many guests somebody goes rather than comes."""


class Crowd:
    """Guests that come and go while messages flow; ``all`` are those that ever were here."""

    def __init__(self, streams: Streams, daemons: Sequence[Daemon], seed: int) -> None:
        self.all: list[Comet] = []
        self._here: list[Comet] = []
        self._streams, self._daemons = streams, daemons
        self._chance = random.Random(seed)

    def come_and_go(self, posting: Posting, cut: bool) -> None:
        """EVENTS times, at random counts of posts. ``cut``: some leave without a word."""
        for moment in sorted(self._chance.sample(range(100, MESSAGES - 100), EVENTS)):
            posting.wait_for(moment)
            if self._chance.random() < len(self._here) / GUESTS:
                self._leave(cut and self._chance.random() < 0.5)
            else:
                self._come()

    def _come(self) -> None:
        daemon, kind = self._chance.choice(self._daemons), self._chance.choice(TRANSPORTS)
        guest = self._streams.open(daemon, QUEUE, kind=kind)
        self.all.append(guest)
        self._here.append(guest)

    def _leave(self, at_once: bool) -> None:
        guest = self._here.pop(self._chance.randrange(len(self._here)))
        if at_once:
            self._streams.leave(guest)
        else:
            guest.say_goodbye()

    def all_leave(self) -> None:
        """Who is still here says goodbye; wait for the end of all that did."""
        while self._here:
            self._leave(False)
        waiting = [guest for guest in self.all if guest.socket.fileno() >= 0]
        self._streams.wait(lambda: all(guest.lost for guest in waiting), "the end of all guests")


@pytest.fixture
def daemons(daemon: StartDaemon, valkey: ValkeyServer) -> Sequence[Daemon]:
    """Three daemons on one Valkey."""
    started = [daemon("--redis-url", valkey.url) for _ in range(3)]
    for one in started:
        one.wait_for("/readyz")
    return started


def residents(streams: Streams, daemons: Sequence[Daemon]) -> list[Comet]:
    """A consumer of every transport on every daemon, all attached."""
    found = [streams.open(one, QUEUE, kind=kind) for one in daemons for kind in TRANSPORTS]
    warm_up(streams, found, daemons[0].port, QUEUE)
    return found


def flow(
    streams: Streams, daemons: Sequence[Daemon], each: int, cut: bool
) -> tuple[Ledger, list[Comet], list[Comet]]:
    """All messages through all daemons; the residents, and the guests that were there."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    stay = residents(streams, daemons)
    crowd = Crowd(streams, daemons, seed)
    begin = time.monotonic()
    posting = Posting([one.port for one in daemons], QUEUE, bodies(MESSAGES), producers=3, burst=32)
    crowd.come_and_go(posting, cut)
    ledger = posting.join()
    posted = time.monotonic() - begin
    crowd.all_leave()
    if each == 1:
        wait_for_lines(streams, stay + crowd.all, MESSAGES)
    else:
        wait_for_lines(streams, stay, len(stay) * MESSAGES)
    print(
        f"posted in {posted:.1f} s, {total(stay + crowd.all)} deliveries to "
        f"{len(stay)} + {len(crowd.all)} consumers in {time.monotonic() - begin:.1f} s"
    )
    assert len(ledger.acknowledged) == MESSAGES
    return ledger, stay, crowd.all


def test_broadcast_is_the_same_for_all_on_whatever_transport(
    daemons: Sequence[Daemon], streams: Streams
) -> None:
    """Who stays gets everything in one order; who comes and goes, that without a hole."""
    ledger, stay, guests = flow(streams, daemons, each=12, cut=True)
    order = sorted((number, body) for body, number in ledger.acknowledged.items())
    for consumer in stay:
        assert consumer.messages == order, consumer.name
        assert not consumer.notes
        assert not consumer.lost
    place = {number: i for i, (number, _) in enumerate(order)}
    for guest in guests:
        got = guest.messages
        if got:
            start = place[got[0].id]
            assert got == order[start : start + len(got)], guest.name
        assert not guest.notes
    assert any(guest.lines for guest in guests)


def test_round_robin_has_one_receiver_whoever_comes_and_goes(
    daemons: Sequence[Daemon], streams: Streams
) -> None:
    """Each message is had by exactly one, and none is lost with those who leave in good order.

    What somebody had in hand who left comes late to another; nothing else is out of order.
    """
    with Client(daemons[0].port) as client:
        client.set_policy(QUEUE, "roundrobin")
    ledger, stay, guests = flow(streams, daemons, each=1, cut=False)
    everybody = stay + guests
    got = Counter(message for one in everybody for message in one.messages)
    wanted = {(number, body): 1 for body, number in ledger.acknowledged.items()}
    assert got == wanted
    late = sum(out_of_order(one.ids) for one in everybody)
    print("handed back by who left, and so late:", late)
    assert late <= ROOM * len(guests)
    assert drain(daemons[0].port, QUEUE) == []


def out_of_order(ids: Sequence[int]) -> int:
    """How many come after a higher one."""
    highest = list(accumulate(ids, max))
    return sum(number < most for number, most in zip(ids, highest, strict=True))
