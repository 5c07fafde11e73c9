"""What clients of one queue saw, and whether there is an order in which it could have happened.

An operation lies between two moments of this machine's clock, ms, on which the store runs too. Where the
order of two is not certain, nothing is asked of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

from tests.system.jobs import Lease


@dataclass(frozen=True)
class Span:
    """From the first byte sent to the last byte of the reply."""

    start: int
    end: int

    def before(self, other: Span) -> bool:
        """Certainly."""
        return self.end < other.start


@dataclass(frozen=True)
class Put:
    at: Span
    id: int
    priority: int


@dataclass(frozen=True)
class Receive:
    """``lease`` ms were asked for."""

    at: Span
    lease: int
    found: tuple[Lease, ...]
    limit: int


@dataclass(frozen=True)
class Settle:
    """``verb`` of a lease; ``lease`` ms for an extension."""

    at: Span
    verb: str
    held: Lease
    counted: bool
    lease: int = 0


@dataclass
class Hand:
    """A message in one hand."""

    asked: Receive
    lease: Lease
    settled: list[Settle] = field(default_factory=list)

    @property
    def given(self) -> int:
        """When, on the store's clock: the lease is counted from there."""
        return self.lease.until - self.asked.lease

    @property
    def surely_until(self) -> int:
        """The lease does not end before."""
        words = self._good("extend")  # all by one client, in order
        return words[-1].at.start + words[-1].lease if words else self.lease.until

    @property
    def perhaps_until(self) -> int:
        """The lease does not last longer."""
        longer = [one.at.end + one.lease for one in self._good("extend")]
        return max([*longer, self.lease.until])

    @property
    def given_up(self) -> Settle | None:
        """The word that ended it."""
        return next(iter([*self._good("ack"), *self._good("nack")]), None)

    def _good(self, verb: str) -> list[Settle]:
        return [one for one in self.settled if one.verb == verb and one.counted]


@dataclass
class History:
    """All operations of all clients."""

    puts: list[Put] = field(default_factory=list)
    receives: list[Receive] = field(default_factory=list)
    settles: list[Settle] = field(default_factory=list)

    def __iadd__(self, other: History) -> Self:
        self.puts += other.puts
        self.receives += other.receives
        self.settles += other.settles
        return self

    def hands(self) -> dict[int, list[Hand]]:
        """Of each message by attempt."""
        hands: dict[tuple[int, int], Hand] = {}
        for asked in self.receives:
            for lease in asked.found:
                at = lease.id, lease.attempt
                assert at not in hands, f"the same lease twice: {lease}"
                hands[at] = Hand(asked, lease)
        for one in self.settles:
            hands[one.held.id, one.held.attempt].settled.append(one)
        found: dict[int, list[Hand]] = defaultdict(list)
        for (number, _), hand in sorted(hands.items()):
            found[number].append(hand)
        return found


def check(history: History) -> None:
    """Every law of a queue of jobs; fails with the operations that fit no order."""
    hands = history.hands()
    check_numbers(history.puts)
    puts = {put.id: put for put in history.puts}
    for number, turns in hands.items():
        assert number in puts, f"nobody put {number}"
        check_turns(puts[number], turns)
    check_order(puts, hands)
    check_empty(history, puts, hands)


def check_numbers(puts: Iterable[Put]) -> None:
    """Ids have no hole, none twice, and rise with time."""
    ordered = sorted(puts, key=lambda put: put.id)
    ids = [put.id for put in ordered]
    assert ids == list(range(1, len(ordered) + 1)), f"ids with holes: {ids}"
    for one, other in pairwise(ordered):
        assert not other.at.before(one.at), (one, other)


def check_turns(put: Put, turns: Sequence[Hand]) -> None:
    """One hand at a time, attempts counted, one acknowledgement, nothing after it."""
    assert [hand.lease.attempt for hand in turns] == list(range(1, len(turns) + 1)), turns
    assert not turns[0].asked.at.before(put.at), "received before it was put"
    for hand in turns:
        check_words(hand)
    for one, other in pairwise(turns):
        word = one.given_up
        assert word is None or word.verb == "nack", f"received after its ack: {one} {other}"
        if word is None:
            assert other.given >= one.surely_until, f"in two hands: {one} {other}"
        else:
            assert not other.asked.at.before(word.at), f"in two hands: {one} {other}"


def check_words(hand: Hand) -> None:
    """Of a lease one last word counts; a word in time counts unless another one did."""
    last = [one for one in hand.settled if one.counted and one.verb != "extend"]
    assert len(last) <= 1, hand
    for one in hand.settled:
        if one.counted:
            assert one.at.start <= hand.perhaps_until, f"counted after its end: {one}"
            assert not last or not last[0].at.before(one.at), f"counted after the last word: {hand}"
        else:
            over = one.at.end >= hand.surely_until
            other = bool(last) and not one.at.before(last[0].at)
            assert over or other, f"stale without a reason: {hand}"


def check_order(puts: dict[int, Put], hands: dict[int, list[Hand]]) -> None:
    """Higher priority first, then first in first out, where it is certain who was there."""
    for number, turns in hands.items():
        later, taken = puts[number], turns[0].asked
        for sooner in puts.values():
            goes_first = (-sooner.priority, sooner.id) < (-later.priority, later.id)
            if goes_first and sooner.at.before(taken.at):
                assert not waited(sooner, taken, hands), f"{later} overtook {sooner}: {taken}"


def check_empty(history: History, puts: dict[int, Put], hands: dict[int, list[Hand]]) -> None:
    """Who got less than was asked for could not have had more."""
    for asked in history.receives:
        if len(asked.found) == asked.limit:
            continue
        for put in puts.values():
            there = put.at.before(asked.at) and waited(put, asked, hands)
            assert not there, f"{put} waited: {asked}"


def waited(put: Put, asked: Receive, hands: dict[int, list[Hand]]) -> bool:
    """Nobody had received it certainly before this one was answered."""
    turns = hands.get(put.id)
    return turns is None or asked.at.before(turns[0].asked.at)
