"""The import itself: which messages, in which order, and what became of each.

A pass reads the counters of all queues first, then each queue's list, then the bodies, and
takes them over from the lowest number up, noting in the same step which. So a pass that breaks
off is gone on with by the next, and no message is taken over twice.

The old broker gives a message its number before it puts it into the list, not in one step. So
a number that is missing now may still come; numbers are only called used up, which keeps the
new broker from giving them, a second after their counter was read and after another look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from restmq.errors import BadQueueName, RestMQError
from restmq.legacy import layout
from restmq.legacy.layout import Census
from restmq.legacy.numbers import Numbers
from restmq.legacy.source import Body, OldBroker, OldQueue
from restmq.legacy.target import Known, NewBroker, checksum
from restmq.names import queue_name


class AnotherBroker(RestMQError):
    """What was taken over before under this label came from another old broker."""


UNDER_WAY_SECONDS = 1.0
"""How long after its number a message may take to reach the list."""

Tell = Callable[[str, int, int], None]
"""Hears what is being done, and how much of how much."""


@dataclass
class Counts:
    """What became of the messages. The first is the sum of those down to ``unreadable``."""

    messages: int = 0
    imported: int = 0
    earlier: int = 0
    gone: int = 0
    unreadable: int = 0

    queues: int = 0
    renumbered: int = 0
    bytes: int = 0
    foreign: int = 0
    unnameable: int = 0
    left_behind: int = 0
    locks: int = 0
    troubles: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all that waited in the old broker is in the new one."""
        return not (self.unreadable or self.foreign or self.unnameable)

    def check(self) -> None:
        """Every message has one fate."""
        fates = self.imported + self.earlier + self.gone + self.unreadable
        assert self.messages == fates, self


class _Queue:
    """One queue under way: ``taken`` is noted in the new store, ``seen`` is of this run."""

    def __init__(self, name: str, known: Known) -> None:
        self.name = name
        self.last = known.last
        self.taken = known.taken
        self.witness = known.witness
        self.seen = Numbers()
        self.highest = 0
        self.foreign: set[bytes] = set()
        self.is_listed = False
        self.is_read = False
        self.looked_at: tuple[int, int] | None = None


class Migration:
    """One run. Its methods raise StoreError, ImportedMeanwhile and AnotherBroker.

    ``counts`` is what became of the messages, then as far as it got.
    """

    def __init__(
        self,
        old: OldBroker,
        new: NewBroker | None,
        tell: Tell,
        *,
        dry: bool = False,
        live: bool = True,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """``new`` None is a store that has nothing yet; only a dry run may do with that."""
        assert dry or new is not None
        self.counts = Counts()
        self._old = old
        self._new = new
        self._tell = tell
        self._dry = dry
        self._live = live
        self._clock = clock
        self._pause = pause
        self._queues: dict[bytes, _Queue] = {}
        self._bad_names: dict[bytes, int] = {}
        self._census_of_all: Census | None = None
        self._expected = 0

    def run(self) -> None:
        """All that is there."""
        self.begin()
        self.look_again(last=True)

    def begin(self) -> None:
        """Bring what the new store needs."""
        if self._new is not None and not self._dry:
            self._new.prepare()

    def look_again(self, *, last: bool) -> None:
        """One pass; the last one also calls the numbers used up and counts what is left behind.

        The first and the last look at every key of the old database, those between at its list.
        """
        began = self._clock()
        census = self._census() if last or self._census_of_all is None else self._census_of_all
        listed = census.listed | self._old.listed()
        states = [
            state
            for state in self._old.queues(sorted(listed | census.counted))
            if state.name in listed or (state.last and state.waiting)
        ]
        self._meet([state for state in states if state.name not in self._queues])
        ours = [state for state in states if state.name in self._queues]
        self.counts.queues = len(ours)
        self._expected = max(self._expected, sum(state.waiting for state in ours))
        for state in ours:
            self._read(state, whole=last)
        if last:
            self._use_up(ours, began)
            self._set_policies(census)
            self._count_the_rest(census)
        self.counts.check()

    def _census(self) -> Census:
        found = self._old.census(lambda done, total: self._tell("looking for queues", done, total))
        self._census_of_all = found
        return found

    def _meet(self, states: Sequence[OldQueue]) -> None:
        """Queues seen for the first time in this run."""
        names: dict[bytes, str] = {}
        for state in states:
            try:
                names[state.name] = queue_name(state.name.decode("utf-8"))
            except (UnicodeDecodeError, BadQueueName):
                self._bad_names[state.name] = state.waiting
        for old, known in zip(names, self._known(list(names.values())), strict=True):
            self._queues[old] = _Queue(names[old], known)
        self.counts.unnameable = sum(self._bad_names.values())

    def _known(self, names: Sequence[str]) -> list[Known]:
        if self._new is None:
            return [Known(0, Numbers(), None) for _ in names]
        return self._new.known(names)

    def _read(self, state: OldQueue, *, whole: bool) -> None:
        """Take over what a queue has that was not seen yet."""
        queue = self._queues[state.name]
        looked_at = (state.last, state.waiting)
        if queue.looked_at == looked_at and not whole:
            return
        fresh = self._fresh(state.name, queue, whole=whole)
        self._list(queue)
        earlier = [number for number in fresh if number in queue.taken]
        self._check_witness(state.name, queue, earlier)
        self._count(messages=len(earlier), earlier=len(earlier))
        queue.seen.add(earlier)
        wanted = [number for number in fresh if number not in queue.taken]
        for bodies in self._old.bodies(state.name, wanted):
            self._take_over(queue, state, bodies)
        queue.is_read, queue.looked_at = True, looked_at

    def _check_witness(self, name: bytes, queue: _Queue, earlier: Sequence[int]) -> None:
        """Is what was taken over under these numbers what stands here? One message is looked at."""
        if queue.witness is None or queue.witness.number not in earlier:
            return
        for (found,) in self._old.bodies(name, [queue.witness.number]):
            if found.body is not None and checksum(found.body) != queue.witness.checksum:
                raise AnotherBroker(
                    f"message {found.number} of the queue {queue.name!r} is not the one that was taken "
                    "over before: for another old broker, or one that counts anew, give another --label"
                )
        queue.witness = None

    def _fresh(self, name: bytes, queue: _Queue, *, whole: bool) -> list[int]:
        """Numbers in the list that this run has not dealt with, lowest first.

        New entries come at the front. So where the list was read to its end before, the first
        slice with nothing new ends the reading, unless the ``whole`` list is wanted.
        """
        fresh: set[int] = set()
        for entries in self._old.newest_entries(name):
            numbers = {layout.number_in_entry(name, entry): entry for entry in entries}
            if None in numbers:
                strange = {e for e in entries if layout.number_in_entry(name, e) is None}
                self._count(foreign=len(strange - queue.foreign))
                queue.foreign |= strange
            new = {n for n in numbers if n is not None and n not in queue.seen}
            fresh |= new
            if queue.is_read and not new and not whole:
                break
        return sorted(fresh)

    def _list(self, queue: _Queue) -> None:
        if not self._dry and not queue.is_listed:
            assert self._new is not None
            self._new.list([queue.name])
        queue.is_listed = True

    def _take_over(self, queue: _Queue, state: OldQueue, bodies: Sequence[Body]) -> None:
        wanted = [body for body in bodies if body.body is not None]
        gone = [body.number for body in bodies if body.body is None and body.readable]
        unreadable = [body for body in bodies if not body.readable]
        queue.taken.add(body.number for body in bodies if body.readable)
        if self._dry:
            kept = _would_keep(queue, wanted)
        else:
            assert self._new is not None
            queue.highest = wanted[-1].number if wanted else queue.highest
            kept = self._new.take_over(
                queue.name, wanted, queue.taken, started=state.started, policy=state.policy
            )
        queue.seen.add(body.number for body in bodies)
        for body in unreadable:
            self._trouble(f"{layout.body_key(state.name, body.number)!r} holds no string")
        self._count(
            messages=len(bodies),
            imported=len(wanted),
            gone=len(gone),
            unreadable=len(unreadable),
            renumbered=len(wanted) - kept,
            bytes=sum(len(body.body or b"") for body in wanted),
        )

    def _use_up(self, states: Iterable[OldQueue], began: float) -> None:
        """Keep the new broker from giving numbers the old one gave: see the module's words."""
        if self._dry:
            return
        missing = [state for state in states if state.last not in self._queues[state.name].seen]
        if self._live and missing:
            self._pause(max(0.0, UNDER_WAY_SECONDS - (self._clock() - began)))
            for state in missing:
                self._queues[state.name].looked_at = None
                self._read(state, whole=False)
        assert self._new is not None
        behind = [state for state in states if state.last != self._queues[state.name].highest]
        for n, state in enumerate(behind):
            queue = self._queues[state.name]
            self._new.take_over(
                queue.name,
                (),
                queue.taken,
                started=state.started,
                policy=state.policy,
                used=state.last,
            )
            self._tell("setting counters", n + 1, len(behind))

    def _set_policies(self, census: Census) -> None:
        """Policies of queues that never had a message count for those that will come."""
        states = self._old.queues(sorted(census.with_policy - self._queues.keys()))
        states = [state for state in states if state.policy is not None]
        self._meet(states)
        for state in states:
            queue = self._queues.get(state.name)
            if queue is not None and not self._dry:
                assert self._new is not None
                self._new.take_over(queue.name, (), queue.taken, policy=state.policy)

    def _count_the_rest(self, census: Census) -> None:
        counts = self.counts
        waiting = counts.imported + counts.earlier
        counts.left_behind = max(0, census.bodies(self._queues) - waiting)
        counts.locks = census.locks

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            setattr(self.counts, name, getattr(self.counts, name) + number)
        self._tell("messages", self.counts.messages, max(self._expected, self.counts.messages))

    def _trouble(self, text: str) -> None:
        if len(self.counts.troubles) < 20:
            self.counts.troubles.append(text)


def _would_keep(queue: _Queue, bodies: Sequence[Body]) -> int:
    """What import.lua would say."""
    kept = 0
    for body in bodies:
        kept += body.number > queue.last
        queue.last = max(queue.last + 1, body.number)
    return kept
