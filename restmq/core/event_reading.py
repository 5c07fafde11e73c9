"""A log as its readers see it: what the store has of it, page by page, and its newest events in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from restmq.core.asking import ask
from restmq.core.event_tail import MAX_PAGE_BYTES, Query, Tail, weight
from restmq.core.event_wire import Found, LogScripts, State, found_answer, state_answer
from restmq.errors import OutcomeUnknown, StoreAway, StoreError
from restmq.event import BEFORE_ALL, Event, EventCursor, EventGap, EventPage
from restmq.redis.connection import Store
from restmq.redis.pipeline import Callback, encode, encode_arguments

PAGE: Final = 1000
"""Events of one page of the store."""

NOWHERE: Final = EventCursor(0, 0)

CHUNK_SECONDS: Final = 0.25
"""So long a reader waits for what is on its way to the tail, before it asks the store."""

CALLS: Final = 20
"""Calls of the store for one page; a reader of what hardly anything matches asks again from there."""

LEAP: Final = 1_000_000
"""At least so many ids are left out in a leap (log_common.lua)."""

_CHOSEN: Final = 4096
"""Of how many topics a reading remembers whether it wants them."""


class StoredLog:
    """A log in the store, and the highest this daemon ever saw of it (``known``)."""

    def __init__(self, clock: IReactorTime, store: Store, scripts: LogScripts, name: str) -> None:
        self.name = name
        self.store = store
        self.scripts = scripts
        self.clock = clock
        self.known = NOWHERE
        self._clock_ahead_ms = 0
        self._listed = False

    def saw(self, epoch: int, last: int) -> None:
        """Remember it: a store that knows less has lost time."""
        if (epoch, last) > self.known:
            if epoch != self.known.epoch:  # perhaps the list of logs is of the life before
                self._listed = False
            self.known = EventCursor(epoch, last)

    def now_ms(self) -> int:
        """The store's clock, as far as we know it."""
        return int(self.clock.seconds() * 1000) + self._clock_ahead_ms

    def _heard(self, epoch: int, last: int, now_ms: int) -> None:
        self.saw(epoch, last)
        self._clock_ahead_ms = now_ms - int(self.clock.seconds() * 1000)

    # ---- the list of logs, by which `Events.tick` finds what to trim

    def enlist(self) -> None:
        """Put the log on the list of all there are, before anything is written to it."""
        if not self._listed:
            self._listed = True
            self._send_name(b"SADD", self._enlisted)

    def _send_name(self, order: bytes, answered: Callback) -> None:
        command = encode(order, self.scripts.keys.logs(), self.name.encode("ascii"))
        self.store.send(command, answered)

    def strike(self) -> None:
        """Take the log off the list, since it holds nothing."""
        self._listed = False
        self._send_name(b"SREM", lambda _: None)

    def look_again(self) -> None:
        """From time to time: it may be off the list; what was written since the last time puts it there."""
        if self._listed:
            self._send_name(b"SADD", lambda _: None)
        self._listed = False

    def _enlisted(self, reply: Any) -> None:
        if isinstance(reply, StoreError):  # the append behind it tells the client
            self._listed = False

    def perhaps_another_store(self) -> None:
        """The connection is new: nobody knows whether the log is on the list."""
        self._listed = False

    # ---- asking

    def ask(self, command: bytes) -> Deferred[Any]:
        """The reply to a command that may be repeated; fails with a StoreError."""
        return _question(self.store.send, command)

    async def state(self, count: bool = False, foreign: int = 0) -> State:
        """Where the log is; a store that lost time gets its new epoch.

        ``count``: its numbers, too. ``foreign``: an id that somebody had from another store.
        """
        arguments = encode_arguments(
            b"%d" % self.known.id,
            b"%d" % self.known.epoch,
            b"1" if count else b"0",
            self.store.run_id,
            b"%d" % foreign,
        )
        command = self.scripts.call("log_state", self.name, 5, arguments)
        here = state_answer(await self.ask(command))
        self._heard(here.epoch, here.last, here.info.now_ms)
        return here

    async def read(self, query: Query) -> EventPage:
        """A page for a reader, of as many calls as that takes."""
        first = found = await self.page(query)
        if query.cursor.epoch == 0 and query.cursor.id > found.last:
            await self.state(foreign=query.cursor.id)
        reading = _Reading(query, first)
        while reading.add(found):
            if query.newest_first:
                cursor, below = EventCursor(found.epoch, first.after), found.reached
            else:
                cursor, below = EventCursor(found.epoch, found.reached), 0
            found = await self.page(query._replace(cursor=cursor), below)
        return reading.page(found)

    async def page(self, query: Query, below: int = 0) -> Found:
        """One call of log_read.lua. A store that lost time gets its new epoch first."""
        selection = query.selection
        topics = [] if selection.patterns else sorted(selection.topics)
        count = PAGE if selection.patterns else min(PAGE, query.limit + 1)
        arguments = [
            b"%d" % query.cursor.epoch,
            b"%d" % query.cursor.id,
            b"%d" % count,
            b"1" if query.newest_first else b"0",
            b"1",
            b"%d" % below,
            *(topic.encode("utf-8") for topic in topics),
        ]
        command = self.scripts.call(
            "log_read", self.name, len(arguments), encode_arguments(*arguments)
        )
        found = found_answer(await _question(self.store.read, command))
        foreign = query.cursor.epoch == found.epoch and query.cursor.id > found.last
        if foreign or (found.epoch, found.last) < self.known:
            await self.state()
            found = found_answer(await _question(self.store.read, command))
        self._heard(found.epoch, found.last, found.now_ms)
        return found


def _question(send: Callable[[bytes, Callback], None], command: bytes) -> Deferred[Any]:
    """The reply; one that was lost leaves nothing unknown, since nothing was changed."""
    return ask(send, command).addErrback(_lost)


def _lost(failure: Failure) -> Failure:
    if isinstance(failure.value, OutcomeUnknown):
        raise StoreAway(str(failure.value))
    return failure


class _Reading:
    """A page that is put together from what the store gives for a query, call by call."""

    def __init__(self, query: Query, first: Found) -> None:
        self._query = query
        self._first = first
        self._begun = query.cursor == (0, 0)  # from the beginning nothing can be missing
        self._gone = False
        self._reset = False
        self._calls = 0
        self._bytes = 0
        self._events: list[Event] = []
        self._cut: int | None = None  # where it ended before its time
        self._chosen: dict[str, bool] = {}

    def add(self, found: Found) -> bool:
        """Take a reply; whether another is wanted."""
        query = self._query
        self._calls += 1
        self._reset = self._reset or found.reset
        if self._is_holed(found):
            if self._events and not query.newest_first:
                self._cut = found.after  # who reads on from there is told
                return False
            self._gone = not self._begun
        for event in found.events:
            if self._is_chosen(event) and not self._take(event, found.now_ms):
                self._cut = self._events[-1].id
                return False
        if not found.reached:
            return False
        if len(self._events) == query.limit:
            self._cut = self._events[-1].id
        elif self._calls == CALLS and not query.newest_first:
            self._cut = found.reached
        return self._cut is None

    def _is_holed(self, found: Found) -> bool:
        """Whether something of it went by retention, behind where this reply begins."""
        return any(
            number > found.after and (not topic or self._is_wanted(topic))
            for topic, number in found.trimmed
        )

    def _is_wanted(self, topic: str) -> bool:
        chosen = self._chosen.get(topic)
        if chosen is None:
            if len(self._chosen) >= _CHOSEN:
                self._chosen.clear()
            chosen = self._chosen[topic] = self._query.selection.matches(topic)
        return chosen

    def _is_chosen(self, event: Event) -> bool:
        leave_out = self._query.leave_out
        return self._is_wanted(event.topic) and (leave_out is None or not leave_out(event))

    def _take(self, event: Event, now_ms: int) -> bool:
        """False: it does not fit on the page."""
        if 0 < event.expires_ms <= now_ms:
            self._gone = self._gone or not self._begun
            return True
        size = weight(event)
        full = len(self._events) == self._query.limit
        if self._events and (full or self._bytes + size > MAX_PAGE_BYTES):
            return False
        self._bytes += size
        self._events.append(event)
        return True

    def page(self, last: Found) -> EventPage:
        """The whole; ``last`` is what was taken last."""
        events, end = self._events, last.last
        if self._query.newest_first:
            end = self._first.last
        elif self._cut is not None:
            end = self._cut
        gap = None
        if self._gone or self._reset:
            oldest = min((event.id for event in events), default=None)
            gap = EventGap(oldest, self._reset, self._missed(end))
        more = self._cut is not None
        return EventPage(events, EventCursor(last.epoch, end), gap, more, last.now_ms)

    def _missed(self, end: int) -> int | None:
        """How many are gone of those up to ``end``, where that can be known: ids have no holes but leaps."""
        query = self._query
        if self._reset or query.newest_first or query.leave_out is not None:
            return None
        if not query.selection.is_everything:
            return None
        missed = end - self._first.after - len(self._events)
        return missed if missed < LEAP else None


class Recent:
    """The newest events of a log, for its readers; ``live``: what was published follows on the tail.

    Who follows the log keeps both (``event_following.py``) and says when one changed.
    """

    def __init__(self, stored: StoredLog) -> None:
        self.tail: Tail | None = None
        self.live = False
        self._stored = stored
        self._waiting: deque[tuple[EventCursor, Deferred[None]]] = deque()
        self._patience: IDelayedCall | None = None

    def end(self) -> EventCursor | None:
        """Where the tail ends; None: there is none."""
        tail = self.tail
        return None if tail is None else EventCursor(tail.epoch, tail.last)

    def read(self, query: Query, least: EventCursor) -> EventPage | None:
        """A page for a reader of a tail that reaches to ``least``; None if only the store can tell."""
        tail = self.tail
        if tail is None or not self.live or least > (tail.epoch, tail.last):
            return None
        if query.cursor.epoch not in (0, BEFORE_ALL, tail.epoch):
            return None
        now_ms = self._stored.now_ms()
        cut = tail.read(query, now_ms)
        if cut is None:
            return None
        behind = cut.events[-1].id if cut.more and not query.newest_first else tail.last
        return EventPage(cut.events, EventCursor(tail.epoch, behind), None, cut.more, now_ms)

    # ---- what is on its way

    def arrival(self, least: EventCursor) -> Deferred[None] | None:
        """Fires when the tail may have come to ``least``; None if that is not on its way.

        What this daemon published is told on one connection and comes to the tail on another.
        """
        tail = self.tail
        if tail is None or not self.live or tail.epoch not in (0, least.epoch):
            return None
        if least <= (tail.epoch, tail.last):
            return None
        if self._patience is None:
            self._patience = self._stored.clock.callLater(CHUNK_SECONDS, self._patience_over)
        arrived: Deferred[None] = Deferred()
        self._waiting.append((least, arrived))
        return arrived

    def came(self) -> None:
        """The tail goes further."""
        end = self.end()
        while self._waiting and end is not None and self._waiting[0][0] <= end:
            self._let_go(self._waiting.popleft()[1])
        if not self._waiting:
            self._end_patience()

    def lost(self) -> None:
        """What is published does not come to the tail just now."""
        self.live = False
        self._end_patience()
        self._let_all_go()

    def _patience_over(self) -> None:
        self._patience = None
        self._let_all_go()

    def _let_all_go(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, arrived in waiting:
            self._let_go(arrived)

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _let_go(self, arrived: Deferred[None]) -> None:
        if not arrived.called:  # else its reader has left
            arrived.callback(None)
