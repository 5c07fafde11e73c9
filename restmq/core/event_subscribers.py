"""Who is pushed the events of a log, and how each gets to the point where it is.

Most are pushed to from the tail, as events are published. One that comes back, or that wanted no more
for a while, reads what it lacks page by page, from the tail or from the store, and then joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, cast

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from restmq.core.asking import Retries
from restmq.core.event_reading import NOWHERE, PAGE, Recent, StoredLog
from restmq.core.event_tail import Query
from restmq.core.event_wire import State
from restmq.errors import StoreError
from restmq.event import Event, EventCursor, EventGap, EventPage
from restmq.rules.selection import Selection
from restmq.rules.topics import Patterns

CHOSEN: Final = 10_000
"""Topics of which is kept whom their events are for."""


_log: Final = Logger()
_one_alone: Final = cast(  # Twisted's hint does not tell that it takes the error
    "AbstractContextManager[None, bool]",
    _log.failureHandler("a subscriber of events failed, and gets no more"),
)
"""A bug in one consumer is logged, and ends nothing for the others."""


class Lot:
    """Events that are pushed together, encoded once per wire format for all who get the same ones.

    ``messages`` are the events; ``live``: they were published just now, and not read for one who
    comes back. ``messages`` is what `restmq.message.Batch` calls its own, so that buffers take both.
    """

    __slots__ = ("_encoded", "epoch", "live", "messages")

    def __init__(self, epoch: int, events: Sequence[Event], live: bool) -> None:
        self.epoch = epoch
        self.live = live
        self.messages = events
        self._encoded: dict[Callable[[Event], bytes], bytes] = {}

    def encoded(self, encode_one: Callable[[Event], bytes]) -> bytes:
        """All events through ``encode_one``, joined; the work is done once per function."""
        data = self._encoded.get(encode_one)
        if data is None:
            data = self._encoded[encode_one] = b"".join(map(encode_one, self.messages))
        return data


class EventConsumer(Protocol):
    """Who is pushed events."""

    def begins(self, cursor: EventCursor) -> None:
        """Where it is, as soon as that is known; called once, before anything else."""

    def deliver_events(self, lot: Lot) -> bool:
        """Take events. False: it wants no more until `Events.resume`; these it has taken."""

    def gap(self, gap: EventGap) -> None:
        """Something it should have got is gone."""


class _Subscription:
    """One subscriber: where it is, and whether the tail pushes to it (``live``)."""

    __slots__ = ("consumer", "cursor", "live", "over", "reading", "selection")

    def __init__(
        self, selection: Selection, cursor: EventCursor | None, consumer: EventConsumer
    ) -> None:
        self.selection = selection
        self.cursor = cursor
        self.consumer = consumer
        self.live = False
        self.reading = False
        self.over = False


class _Pushed:
    """Those whom the tail pushes to, found by an event's topic."""

    def __init__(self) -> None:
        self.all: dict[_Subscription, None] = {}
        self.exact: dict[str, dict[_Subscription, None]] = {}
        self.patterns: Patterns[_Subscription] = Patterns()
        self._chosen: dict[str, list[_Subscription]] = {}

    def add(self, subscription: _Subscription) -> None:
        """From now on."""
        subscription.live = True
        self.all[subscription] = None
        for topic in subscription.selection.topics:
            self.exact.setdefault(topic, {})[subscription] = None
            self._chosen.pop(topic, None)
        for pattern in subscription.selection.patterns:
            self.patterns.add(pattern, subscription)
            self._chosen.clear()

    def remove(self, subscription: _Subscription) -> None:
        """What it gets from now on it reads."""
        subscription.live = False
        self.all.pop(subscription, None)
        for topic in subscription.selection.topics:
            of_topic = self.exact.get(topic)
            if of_topic is not None:
                of_topic.pop(subscription, None)
                if not of_topic:
                    del self.exact[topic]
            self._chosen.pop(topic, None)
        for pattern in subscription.selection.patterns:
            self.patterns.remove(pattern, subscription)
            self._chosen.clear()

    def of(self, topic: str) -> list[_Subscription]:
        """Whom an event of this topic is for."""
        found = self._chosen.get(topic)
        if found is None:
            if len(self._chosen) >= CHOSEN:
                self._chosen.clear()
            both = {**self.exact.get(topic, {}), **dict.fromkeys(self.patterns.match(topic))}
            found = self._chosen[topic] = list(both)
        return found


class Subscribers:
    """All subscribers of one log."""

    log = Logger()

    def __init__(self, stored: StoredLog, recent: Recent, retries: Retries) -> None:
        self.pushed = _Pushed()
        self._stored = stored
        self._recent = recent
        self._retries = retries
        self._by_consumer: dict[EventConsumer, _Subscription] = {}
        self._later: dict[_Subscription, None] = {}  # who tries again

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._by_consumer)

    # ---- for subscribers

    def add(
        self, selection: Selection, cursor: EventCursor | None, consumer: EventConsumer
    ) -> None:
        """See `Events.subscribe`."""
        subscription = self._by_consumer[consumer] = _Subscription(selection, cursor, consumer)
        self._advance(subscription)

    def remove(self, consumer: EventConsumer) -> None:
        """The consumer is gone."""
        self._end(self._by_consumer.pop(consumer))

    def _end(self, subscription: _Subscription) -> None:
        """It gets nothing more."""
        subscription.over = True
        if subscription.live:
            self.pushed.remove(subscription)

    def resume(self, consumer: EventConsumer) -> None:
        """A consumer that wanted no more goes on where it was."""
        self._advance(self._by_consumer[consumer])

    def position(self, consumer: EventConsumer) -> EventCursor | None:
        """See `Events.position`."""
        subscription = self._by_consumer[consumer]
        end = self._recent.end()
        return end if subscription.live and end is not None else subscription.cursor

    # ---- for who follows the log

    def push(self, epoch: int, events: list[Event], last: int) -> None:
        """Push to those for whom something is among these; the others cost nothing."""
        if not self.pushed.all:
            return
        wanted: dict[_Subscription, list[Event]] = {}
        for event in events:
            for subscription in self.pushed.of(event.topic):
                wanted.setdefault(subscription, []).append(event)
        lots: dict[tuple[int, ...], Lot] = {}
        for subscription, those in wanted.items():
            if not subscription.live:
                continue  # it left while the others were served
            key = tuple(event.id for event in those)
            lot = lots.get(key)
            if lot is None:
                lot = lots[key] = Lot(epoch, those, True)
            wants_more = None
            with _one_alone:
                wants_more = subscription.consumer.deliver_events(lot)
            if wants_more is None:
                self._end(subscription)
            elif not wants_more and subscription.live:
                self.pushed.remove(subscription)
                subscription.cursor = EventCursor(epoch, last)

    def stand_aside(self, end: EventCursor) -> None:
        """The tail that pushed is over: who was pushed to reads on from where it ended."""
        for subscription in list(self.pushed.all):
            self.pushed.remove(subscription)
            subscription.cursor = end

    def caught_up(self) -> None:
        """The tail is live: those who waited for it go on."""
        for subscription in list(self._by_consumer.values()):
            self._advance(subscription)

    # ---- how one gets on

    def _advance(self, subscription: _Subscription) -> None:
        """Bring a subscriber on: from the tail if that reaches, else from the store.

        What was published and is on its way to the tail it is pushed, when it comes.
        """
        if subscription.over or subscription.reading or subscription.live:
            return
        cursor = subscription.cursor
        if cursor is None:
            cursor = self._recent.end()
            if cursor is None or not self._recent.live:
                self._ask_place(subscription)
                return
            if not self._begin(subscription, cursor):
                return
        query = Query(subscription.selection, cursor, PAGE)
        page = self._recent.read(query, NOWHERE)
        while page is not None:
            if not self._give(subscription, page):
                return
            if not page.more:
                if not subscription.over:
                    self.pushed.add(subscription)
                return
            query = query._replace(cursor=page.cursor)
            page = self._recent.read(query, NOWHERE)
        subscription.reading = True
        reading = ensureDeferred(self._stored.read(query))
        reading.addCallbacks(
            self._page_read, self._page_failed, (subscription,), {}, (subscription,)
        )
        reading.addErrback(lambda failure: self.log.failure("reading a log failed", failure))

    def _ask_place(self, subscription: _Subscription) -> None:
        """Where "from now on" begins, before the tail can tell: what is published next is behind it."""
        subscription.reading = True
        asking = ensureDeferred(self._stored.state())
        asking.addCallbacks(
            self._place_told, self._page_failed, (subscription,), {}, (subscription,)
        )
        asking.addErrback(lambda failure: self.log.failure("reading a log failed", failure))

    def _place_told(self, here: State, subscription: _Subscription) -> None:
        subscription.reading = False
        if not subscription.over and self._begin(subscription, EventCursor(here.epoch, here.last)):
            self._advance(subscription)

    def _begin(self, subscription: _Subscription, cursor: EventCursor) -> bool:
        """Tell it where it is; whether it goes on."""
        subscription.cursor = cursor
        with _one_alone:
            subscription.consumer.begins(cursor)
            return not subscription.over
        self._end(subscription)
        return False

    def _page_read(self, page: EventPage, subscription: _Subscription) -> None:
        subscription.reading = False
        if subscription.over:
            return
        stuck = subscription.cursor == page.cursor
        if not self._give(subscription, page):
            return
        if not stuck:
            self._advance(subscription)
        elif self._recent.live:  # what the store has is on its way to the tail
            self._try_later(subscription)
        # else `caught_up` comes by

    def _page_failed(self, failure: Any, subscription: _Subscription) -> None:
        failure.trap(StoreError)
        subscription.reading = False
        self.log.debug("reading {log}: {error}", log=self._stored.name, error=failure.value)
        if not subscription.over:
            self._try_later(subscription)

    def _try_later(self, subscription: _Subscription) -> None:
        """One timer for all of them: while the store is away they may be thousands."""
        if not self._later:
            self._retries.later(self._try_again)
        self._later[subscription] = None

    def _try_again(self) -> None:
        those, self._later = self._later, {}
        if self._stored.store.ready:
            for subscription in those:
                self._advance(subscription)
        elif those:
            self._later = those
            self._retries.later(self._try_again)

    def _give(self, subscription: _Subscription, page: EventPage) -> bool:
        """Hand a page on; whether the subscriber wants more."""
        consumer = subscription.consumer
        if subscription.over:
            return False
        subscription.cursor = page.cursor
        with _one_alone:
            if page.gap is not None:
                consumer.gap(page.gap)
            if page.events and not subscription.over:
                return consumer.deliver_events(Lot(page.cursor.epoch, page.events, False))
            return not subscription.over
        self._end(subscription)
        return False
