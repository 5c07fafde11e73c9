"""From senders to queues: in order, a turn's messages together, and never more in hand than a bound.

A source that has more than EACH_BYTES in hand is told to read no further, and all are when together they
have more than ALL_BYTES; they go on when half of that is left. While the store is away what is in hand
stays, and is offered again every RETRY_SECONDS: so nobody reads, and the senders wait.

What a call may have stored though its answer was lost (OutcomeUnknown) is not offered again: no line is
ever queued twice. The log says how many were concerned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.packs import Pack
from restmq.core.queues import MAX_BYTES, MAX_MESSAGES
from restmq.errors import OutcomeUnknown, StoreAway, StoreError, StoreFull
from restmq.syslog.messages import Bodies

EACH_BYTES: Final = 2 * 1048576
ALL_BYTES: Final = 16 * 1048576
GROUP_BYTES: Final = 4 * 1048576
"""What is sent at a time: less than may wait, so that the store works while more is read."""

RETRY_SECONDS: Final = 0.25

AddTexts = Callable[[str, Sequence[str]], Deferred[int]]
AddPacks = Callable[[str, Sequence[Pack]], Deferred[int]]


class Source(Protocol):
    """Where messages come from: a connection, a port."""

    held: int
    """Bytes of its messages that are in hand; the intake counts them."""

    def pause(self) -> None:
        """Read no more. May be called again while paused."""

    def resume(self) -> None:
        """Read again. May be called while not paused."""


class _Entry(NamedTuple):
    source: Source
    bodies: Bodies
    size: int


class _Call(NamedTuple):
    """What is put in together: messages, or packs of them."""

    texts: list[str]
    packs: list[Pack]

    @property
    def messages(self) -> int:
        """How many."""
        return len(self.texts) + sum(pack.messages for pack in self.packs)


class _Lane:
    """One queue's messages in hand: those to be sent, and whether some are on their way."""

    __slots__ = ("busy", "refused", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Entry] = deque()
        self.refused: list[_Call] = []
        self.busy = False


class Intake:
    """What all sources put their messages into."""

    log = Logger()

    def __init__(self, clock: IReactorTime, add_texts: AddTexts, add_packs: AddPacks) -> None:
        """``add_texts`` and ``add_packs`` are the broker's."""
        self._clock = clock
        self._add_texts = add_texts
        self._add_packs = add_packs
        self._lanes: dict[str, _Lane] = {}
        self._due: list[str] = []
        self._sources: set[Source] = set()
        self._paused: set[Source] = set()
        self._idle: list[Deferred[None]] = []
        self._stuck = False
        self.held = 0

    def attach(self, source: Source) -> None:
        """A source begins; it may find itself paused."""
        self._sources.add(source)
        if self.held > ALL_BYTES:
            self._pause(source)

    def detach(self, source: Source) -> None:
        """A source is gone; what it put in stays."""
        self._sources.discard(source)
        self._paused.discard(source)

    def put(self, source: Source, queue: str, bodies: Bodies) -> None:
        """Take messages; they leave when this turn is over."""
        size = bodies.size if isinstance(bodies, Pack) else sum(map(len, bodies))
        lane = self._lanes.get(queue)
        if lane is None:
            lane = self._lanes[queue] = _Lane()
        if not lane.busy and not lane.waiting:
            if not self._due:
                self._clock.callLater(0, self._flush)
            self._due.append(queue)
        lane.waiting.append(_Entry(source, bodies, size))
        source.held += size
        self.held += size
        if self.held > ALL_BYTES:
            for each in self._sources:
                self._pause(each)
        elif source.held > EACH_BYTES:
            self._pause(source)

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing is in hand."""
        done: Deferred[None] = Deferred()
        if self.held:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    def _pause(self, source: Source) -> None:
        if source not in self._paused:
            self._paused.add(source)
            source.pause()

    def _flush(self) -> None:
        due, self._due = self._due, []
        for queue in due:
            self._send(queue, self._lanes[queue])

    def _send(self, queue: str, lane: _Lane) -> None:
        """Send what waits of a queue, up to GROUP_BYTES."""
        entries, size = [], 0
        while lane.waiting and size < GROUP_BYTES:
            entry = lane.waiting.popleft()
            entries.append(entry)
            size += entry.size
        lane.busy = True
        self._offer(queue, lane, entries, list(_calls(entries)), [])

    def _offer(
        self,
        queue: str,
        lane: _Lane,
        entries: list[_Entry],
        calls: list[_Call],
        later: list[_Call],
    ) -> None:
        """Put these in, and those of ``later`` one at a time when they are in."""
        lane.refused = []
        sent = [self._add(queue, call).addErrback(self._failed, lane, call) for call in calls]
        DeferredList(sent).addCallback(self._sent, queue, lane, entries, later)

    def _add(self, queue: str, call: _Call) -> Deferred[int]:
        if call.packs:
            return self._add_packs(queue, call.packs)
        return self._add_texts(queue, call.texts)

    def _failed(self, failure: Failure, lane: _Lane, call: _Call) -> Failure | None:
        """Keep what the store would not take now; let go of what must not be sent again."""
        error = failure.value
        if not isinstance(error, StoreError):
            return failure
        if isinstance(error, StoreAway | StoreFull):
            lane.refused.append(call)
            if not self._stuck:
                self._stuck = True
                self.log.warn("the store takes no lines ({error}): reading stops", error=error)
        elif isinstance(error, OutcomeUnknown):
            self.log.warn(
                "{count} lines may be lost: the store did not say whether it has them",
                count=call.messages,
            )
        else:
            self.log.error(
                "{count} lines are lost: the store refused them ({error})",
                count=call.messages,
                error=error,
            )
        return None

    def _sent(
        self, _: object, queue: str, lane: _Lane, entries: list[_Entry], later: list[_Call]
    ) -> None:
        # All of them count as in hand until the last is taken.
        if lane.refused:
            # One at a time: a store that is nearly full may refuse one and take that behind it.
            first, *rest = lane.refused + later
            self._clock.callLater(RETRY_SECONDS, self._offer, queue, lane, entries, [first], rest)
            return
        if later:
            self._offer(queue, lane, entries, later[:1], later[1:])
            return
        self._let_go(entries)
        if self._stuck:
            self._stuck = False
            self.log.info("the store takes lines again")
        if lane.waiting:
            self._send(queue, lane)
        else:
            lane.busy = False
            del self._lanes[queue]

    def _let_go(self, entries: list[_Entry]) -> None:
        for source, _, size in entries:
            source.held -= size
            self.held -= size
        if self._paused and self.held <= ALL_BYTES // 2:
            for source in [one for one in self._paused if one.held <= EACH_BYTES // 2]:
                self._paused.discard(source)
                source.resume()
        if not self.held:
            idle, self._idle = self._idle, []
            for done in idle:
                done.callback(None)


def _calls(entries: list[_Entry]) -> Iterator[_Call]:
    """The messages in calls that keep the store's bounds: of whole entries, but where one is too large."""
    call, size = _Call([], []), 0
    for bodies, number, entry_size in [(e.bodies, _number(e.bodies), e.size) for e in entries]:
        packed = isinstance(bodies, Pack)
        full = call.messages + number > MAX_MESSAGES or size + entry_size > MAX_BYTES
        if call.messages and (full or packed != bool(call.packs)):
            yield call
            call, size = _Call([], []), 0
        if number > MAX_MESSAGES or entry_size > MAX_BYTES:
            yield from _pieces(bodies)
            continue
        if isinstance(bodies, Pack):
            call.packs.append(bodies)
        else:
            call.texts.extend(bodies)
        size += entry_size
    if call.messages:
        yield call


def _number(bodies: Bodies) -> int:
    """How many messages."""
    return bodies.messages if isinstance(bodies, Pack) else len(bodies)


def _pieces(bodies: Bodies) -> Iterator[_Call]:
    """One large entry in calls of its own."""
    if isinstance(bodies, Pack):
        for pack in bodies.pieces(MAX_MESSAGES, MAX_BYTES):
            yield _Call([], [pack])
        return
    call: list[str] = []
    room = MAX_BYTES
    for body in bodies:
        if call and (len(call) == MAX_MESSAGES or room < len(body)):
            yield _Call(call, [])
            call, room = [], MAX_BYTES
        call.append(body)
        room -= len(body)
    yield _Call(call, [])
