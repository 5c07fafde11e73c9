"""The newest events of a log in a daemon's memory: no I/O, no clock.

A tail knows all events behind ``start`` up to ``last``; it says nothing of what lies before. It holds
MAX_EVENTS and MAX_BYTES at most. What pollers of the same topic or patterns share is found once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from restmq.event import Event, EventCursor
from restmq.rules.selection import Selection

MAX_EVENTS = 20_000
MAX_BYTES = 33_554_432
SLACK = 8
"""Cut when there is an eighth too much, so that it is done seldom."""

VIEWS = 4096
"""How many selections have their events listed; the one that was asked for longest ago goes first."""

VIEWED = 500_000
"""Events, and topics known to be chosen or not, that all views may list together."""

LOOKED_AT = 2000
"""Events that one read looks through for its selection; behind more, the store is asked meanwhile."""

MAX_PAGE_BYTES = 1_048_576
"""What one reader is given at once, but for a single event that is larger."""

OVERHEAD = 300
"""Bytes of an event besides its body and headers."""

_ID = attrgetter("id")


def weight(event: Event) -> int:
    """What counts for bounds in bytes: about what it takes up in memory."""
    return len(event.body) + len(event.headers) + OVERHEAD


class Query(NamedTuple):
    """What a reader asks: at most ``limit`` events behind a cursor, but those it leaves out."""

    selection: Selection
    cursor: EventCursor
    limit: int
    newest_first: bool = False
    leave_out: Callable[[Event], bool] | None = None


class Cut(NamedTuple):
    """What a tail has for a reader: ``more`` says that the limit, or MAX_PAGE_BYTES, cut it."""

    events: list[Event]
    more: bool


class _View:
    """The events of one selection in a tail, behind ``begin`` and up to ``seen``."""

    __slots__ = ("_chosen", "_selection", "begin", "events", "seen")

    def __init__(self, selection: Selection, start: int) -> None:
        self.events: list[Event] = []
        self.begin = self.seen = start
        self._selection = selection
        self._chosen: dict[str, bool] = {}

    def extend(self, events: Iterable[Event], seen: int) -> None:
        """Take what is chosen of these; ``seen`` is how far they go."""
        chosen = self._chosen
        for event in events:
            topic = event.topic
            known = chosen.get(topic)
            if known is None:
                if len(chosen) >= VIEWS:
                    chosen.clear()
                known = chosen[topic] = self._selection.matches(topic)
            if known:
                self.events.append(event)
        self.seen = seen

    def cut(self, start: int) -> None:
        """Forget what lies before the tail's start."""
        if self.events and self.events[0].id <= start:
            del self.events[: bisect_right(self.events, start, key=_ID)]

    def size(self) -> int:
        """For VIEWED."""
        return len(self.events) + len(self._chosen)


class Tail:
    """The events of one log, of one life of the store, behind ``start``."""

    def __init__(self, epoch: int, start: int) -> None:
        self.epoch = epoch
        self.start = start
        self.last = start
        self._events: list[Event] = []
        self._bytes = 0
        self._by_topic: dict[str, list[Event]] = {}
        self._views: dict[Selection, _View] = {}
        self._viewed = 0

    def append(self, events: list[Event], last: int) -> None:
        """What follows on ``self.last``, up to ``last``, in order."""
        self._events += events
        self.last = last
        by_topic = self._by_topic
        for event in events:
            self._bytes += weight(event)
            of_topic = by_topic.get(event.topic)
            if of_topic is None:
                by_topic[event.topic] = [event]
            else:
                of_topic.append(event)
        if len(self._events) > MAX_EVENTS + MAX_EVENTS // SLACK or self._bytes > MAX_BYTES:
            self._cut()

    def _cut(self) -> None:
        keep, size = 0, 0
        most = MAX_BYTES - MAX_BYTES // SLACK
        for event in reversed(self._events):
            size += weight(event)
            if keep == MAX_EVENTS or (size > most and keep):
                break
            keep += 1
        gone = self._events[: len(self._events) - keep]
        del self._events[: len(gone)]
        counts: dict[str, int] = {}
        for event in gone:
            self._bytes -= weight(event)
            counts[event.topic] = counts.get(event.topic, 0) + 1
        for topic, count in counts.items():
            of_topic = self._by_topic[topic]
            del of_topic[:count]
            if not of_topic:
                del self._by_topic[topic]
        if gone:
            self.start = gone[-1].id
            for view in self._views.values():
                view.cut(self.start)
            self._viewed = sum([view.size() for view in self._views.values()])

    def _of(self, selection: Selection, after: int) -> list[Event] | None:
        """The events of a selection, at least those behind ``after``; None: not looked through yet."""
        if not selection.patterns and len(selection.topics) == 1:
            (topic,) = selection.topics
            return self._by_topic.get(topic, [])
        view = self._views.pop(selection, None)
        if view is not None:
            self._viewed -= view.size()
        if view is None or view.begin > after:
            view = _View(selection, after)
        if view.seen < self.last:
            at = bisect_right(self._events, view.seen, key=_ID)
            those = self._events[at : at + LOOKED_AT]
            whole = at + len(those) == len(self._events)
            view.extend(those, self.last if whole else those[-1].id)
        self._viewed += view.size()
        while self._views and (len(self._views) >= VIEWS or self._viewed > VIEWED):
            self._viewed -= self._views.pop(next(iter(self._views))).size()
        self._views[selection] = view
        return view.events if view.seen == self.last else None

    def read(self, query: Query, now_ms: int) -> Cut | None:
        """What the tail has for a reader; None if it cannot tell.

        It cannot where its events do not reach back so far, where it is the first to look for these
        and there are many, or where some are past their time by now.
        """
        after, limit, leave_out = query.cursor.id, query.limit, query.leave_out
        if not self.start <= after <= self.last:
            return None
        if after == self.last:
            return Cut([], False)
        events = self._of(query.selection, after)
        if events is None:
            return None
        at = bisect_right(events, after, key=_ID) if events else 0
        if at == len(events):
            return Cut([], False)
        # What fits is cut out before it is looked at, unless somebody leaves out what he likes.
        if leave_out is not None:
            found = _those_wanted(events, at, query, leave_out)
        elif query.newest_first:
            found = events[max(at, len(events) - limit - 1) :][::-1]
        else:
            found = events[at : at + limit + 1]
        oldest = events[at]
        if _over(oldest, now_ms) or any(_over(event, now_ms) for event in found):
            return None
        fits = _fitting(found[:limit])
        return Cut(found[:fits], len(found) > fits)


def _those_wanted(
    events: list[Event], at: int, query: Query, leave_out: Callable[[Event], bool]
) -> list[Event]:
    """One more than the limit, if there are so many; looks no further."""
    behind = range(len(events) - 1, at - 1, -1) if query.newest_first else range(at, len(events))
    wanted = (events[place] for place in behind if not leave_out(events[place]))
    return list(islice(wanted, query.limit + 1))


def _fitting(events: list[Event]) -> int:
    """How many of the first ones are within MAX_PAGE_BYTES; one at least, if there is one."""
    size = 0
    for place, event in enumerate(events):
        size += weight(event)
        if size > MAX_PAGE_BYTES and place:
            return place
    return len(events)


def _over(event: Event, now_ms: int) -> bool:
    return 0 < event.expires_ms <= now_ms
