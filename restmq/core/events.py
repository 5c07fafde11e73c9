"""Events: published to a log, read by cursor, pushed to subscribers as they come.

A daemon that reads a log listens to its channel and keeps a ``Tail`` of it, which answers nearly all
reads. Each chunk on the channel names the id before it, so a chunk that was not heard shows at once,
and what is missing is read from the store. What the tail does not reach back to is read from there,
too; a subscriber that comes back does that, page by page, until the tail takes over.

Nothing is served from a tail while its channel is down, nor to a reader whose cursor the tail has not
reached yet. So a reader never goes back, and misses nothing that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.bindings import (
    MOVED_AT_ONCE,
    NONE,
    Binding,
    Bound,
    PutInto,
    outbox_answer,
    table_answer,
)
from restmq.core.event_tail import Query, Tail
from restmq.core.event_wire import (
    Chunk,
    Found,
    LogScripts,
    State,
    decode_chunk,
    encode_event,
    encode_limits,
    found_answer,
    state_answer,
)
from restmq.errors import OutcomeUnknown, StoreAway, StoreError, StoreRefused
from restmq.event import Event, EventCursor, EventGap, EventPage, LogInfo, NewEvent
from restmq.redis.connection import Store
from restmq.redis.pipeline import Callback, encode, encode_arguments
from restmq.rules.retention import Retention
from restmq.rules.selection import Selection
from restmq.rules.topics import Patterns

MAX_EVENTS = 1000
MAX_BYTES = 1048576
"""Bounds of one script call, as in log_common.lua; a single event may be larger."""

PAGE = 1000
"""Events of one page of the store."""

BEHIND = 10_000
"""A tail that is further behind begins anew; its subscribers read the store by themselves."""

HELD = 1000
"""Chunks that wait while what was before them is read."""

LIFT = 1_000_000
RETRY_SECONDS = 0.2
IDLE_SECONDS = 600.0
"""A log that nobody read for so long is not followed any more."""

TRIM_SECONDS = 10.0


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


class Subscription:
    """One subscriber of a log: where it is, and whether the tail pushes to it (``live``)."""

    __slots__ = ("consumer", "cursor", "live", "log", "over", "reading", "selection")

    def __init__(
        self, log: str, selection: Selection, cursor: EventCursor | None, consumer: EventConsumer
    ) -> None:
        self.log = log
        self.selection = selection
        self.cursor = cursor
        self.consumer = consumer
        self.live = False
        self.reading = False
        self.over = False


class _Turn:
    """The events of one script call, encoded, and who waits for their ids."""

    __slots__ = ("classes", "payloads", "size", "topics", "waiting")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.topics: list[str] = []
        self.classes = bytearray()
        self.size = 0
        self.waiting: list[tuple[int, Callable[[int | StoreError], None]]] = []

    def failed(self, error: StoreError) -> None:
        """Tell all who wait."""
        for _, answer in self.waiting:
            answer(error)


class _Log:
    """What this daemon knows of a log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turns: list[_Turn] = []
        self.listed = False
        self.known = EventCursor(0, 0)  # the highest ever seen
        self.table = NONE
        self.parked: list[_Turn] | None = None  # what waits for the bindings that hold
        self.moving = False
        self.tail: Tail | None = None
        self.followed = False
        self.joined = False
        self.live = False  # the tail is complete, and what comes follows on it
        self.filling = False
        self.fill_again = False
        self.held: list[Chunk] = []
        self.used = 0.0
        self.clock_ahead_ms = 0
        self.subscribers: dict[Subscription, None] = {}
        self.exact: dict[str, dict[Subscription, None]] = {}
        self.patterns: Patterns[Subscription] = Patterns()
        self.chosen: dict[str, list[Subscription]] = {}

    def saw(self, epoch: int, last: int) -> None:
        """Remember it: a store that knows less has lost time."""
        if (epoch, last) > self.known:
            self.known = EventCursor(epoch, last)

    def push_to(self, subscription: Subscription) -> None:
        """From now on."""
        subscription.live = True
        self.subscribers[subscription] = None
        for topic in subscription.selection.topics:
            self.exact.setdefault(topic, {})[subscription] = None
            self.chosen.pop(topic, None)
        for pattern in subscription.selection.patterns:
            self.patterns.add(pattern, subscription)
            self.chosen.clear()

    def push_no_more(self, subscription: Subscription) -> None:
        """What it gets from now on it reads."""
        subscription.live = False
        self.subscribers.pop(subscription, None)
        for topic in subscription.selection.topics:
            of_topic = self.exact.get(topic)
            if of_topic is not None:
                of_topic.pop(subscription, None)
                if not of_topic:
                    del self.exact[topic]
            self.chosen.pop(topic, None)
        for pattern in subscription.selection.patterns:
            self.patterns.remove(pattern, subscription)
            self.chosen.clear()

    def subscribers_of(self, topic: str) -> list[Subscription]:
        """Whom an event of this topic is for."""
        found = self.chosen.get(topic)
        if found is None:
            if len(self.chosen) >= BEHIND:
                self.chosen.clear()
            both = {**self.exact.get(topic, {}), **dict.fromkeys(self.patterns.match(topic))}
            found = self.chosen[topic] = list(both)
        return found


class _Reading:
    """A page that is put together from what the store gives for a query, call by call."""

    def __init__(self, query: Query, first: Found) -> None:
        self._query = query
        self._first = first
        self._begun = query.cursor == (0, 0)  # from the beginning nothing can be missing
        self._reset = False
        self._more = False
        self._events: list[Event] = []
        self._gone = not self._begun and any(
            number > first.after and (not topic or query.selection.matches(topic))
            for topic, number in first.trimmed
        )

    def add(self, found: Found) -> bool:
        """Take a reply; whether another is wanted."""
        query, events = self._query, self._events
        self._reset = self._reset or found.reset
        for event in found.events:
            if not query.selection.matches(event.topic):
                continue
            if 0 < event.expires_ms <= found.now_ms:
                self._gone = self._gone or not self._begun
            elif query.leave_out is None or not query.leave_out(event):
                events.append(event)
        full = len(events) >= query.limit
        self._more = len(events) > query.limit or (full and found.reached > 0)
        return found.reached > 0 and not self._more

    def page(self, last: Found) -> EventPage:
        """The whole; ``last`` is what was taken last."""
        query, events = self._query, self._events[: self._query.limit]
        end = last.last
        if query.newest_first:
            end = self._first.last
        elif self._more:
            end = events[-1].id
        gap = None
        if self._gone or self._reset:
            gap = EventGap(min((event.id for event in events), default=None), self._reset)
        return EventPage(events, EventCursor(last.epoch, end), gap, self._more, last.now_ms)


class _Waiter:
    """A poll that waits: it wants to know that there is something, and then reads."""

    def __init__(self, called: Callable[[], None]) -> None:
        self._called = called

    def begins(self, cursor: EventCursor) -> None:
        """It knows."""

    def deliver_events(self, lot: Lot) -> bool:
        """There is."""
        self._called()
        return False

    def gap(self, gap: EventGap) -> None:
        """There is something to be told."""
        self._called()


class Events:
    """All logs, for this daemon. Every operation fails with a StoreError when the store does not do it."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        scripts: LogScripts,
        retention: Retention,
        put: PutInto,
    ) -> None:
        """``put`` puts messages into a queue, for bindings."""
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._retention = retention
        self._limits = encode_limits(retention.limits)
        self._logs: dict[str, _Log] = {}
        self._by_channel: dict[bytes, _Log] = {}
        self._flush_due = False
        self._channel_up = False
        self._trimmed_at = 0.0
        self._subscriptions: dict[EventConsumer, Subscription] = {}
        self._retries: list[IDelayedCall] = []
        self.put: PutInto = put

    # ---- publishing

    def publish(
        self, log: str, events: Sequence[NewEvent], *, short: bool = False
    ) -> Deferred[list[int]]:
        """Append events in their order; their ids. Another's may lie between two of them only
        where they are more than MAX_EVENTS or MAX_BYTES.

        ``short``: those without a rule of retention are kept for the shorter time, of ``/e/``.
        OutcomeUnknown and errors in the middle of a large batch: some may have been appended.
        """
        state = self._log(log)
        state.used = self._clock.seconds()
        class_of = self._retention.class_of
        done: Deferred[list[int]] = Deferred()
        ids: list[int] = []
        left = 0

        def numbered(count: int, first: int | StoreError) -> None:
            nonlocal left
            left -= 1
            if done.called:
                return
            if isinstance(first, StoreError):
                done.errback(first)
                return
            ids.extend(range(first, first + count))
            if not left:
                done.callback(ids)

        whole = (
            len(events) <= MAX_EVENTS and sum([len(event.body) for event in events]) <= MAX_BYTES
        )
        turn, here = self._turn(state, events if whole else ()), 0
        for event in events:
            size = len(event.body)
            if turn.payloads and (len(turn.payloads) == MAX_EVENTS or turn.size + size > MAX_BYTES):
                if here:
                    turn.waiting.append((here, _with_count(numbered, here)))
                    left += 1
                turn, here = _Turn(), 0
                state.turns.append(turn)
            turn.payloads.append(encode_event(event))
            turn.topics.append(event.topic)
            turn.classes.append(class_of(event.topic, short))
            turn.size += size
            here += 1
        if not here:
            return succeed([])
        turn.waiting.append((here, _with_count(numbered, here)))
        left += 1
        return done

    def _turn(self, state: _Log, whole: Sequence[NewEvent]) -> _Turn:
        """The script call that goes out with this turn and takes all of ``whole``."""
        turn = state.turns[-1] if state.turns else None
        if turn is None or (
            len(turn.payloads) + len(whole) > MAX_EVENTS
            or (turn.size and turn.size + sum([len(event.body) for event in whole]) > MAX_BYTES)
        ):
            state.turns.append(_Turn())
        if not self._flush_due:
            self._flush_due = True
            self._clock.callLater(0, self.flush)
        return state.turns[-1]

    def flush(self) -> None:
        """Send what this turn brought."""
        self._flush_due = False
        for state in list(self._logs.values()):
            turns, state.turns = state.turns, []
            for turn in turns:
                self._append(state, turn)
        self._store.flush()

    def _append(self, state: _Log, turn: _Turn) -> None:
        self._list(state)
        if state.parked is not None:
            state.parked.append(turn)
            return
        count, bound = len(turn.payloads), state.table.bound(turn.topics)
        arguments = encode_arguments(
            b"%d" % state.known.id,
            b"%d" % state.known.epoch,
            state.table.version,
            self._limits,
            bytes(turn.classes),
            b"%d" % count,
            *turn.payloads,
            *bound,
        )

        def appended(reply: Any) -> None:
            if isinstance(reply, StoreError):
                turn.failed(reply)
                return
            if len(reply) == 1:  # somebody changed the bindings; nothing was appended
                self._park(state, turn)
                return
            epoch, first = map(int, reply)
            state.saw(epoch, first + count - 1)
            for number, answer in turn.waiting:
                answer(first)
                first += number
            if bound:
                self._move(state)

        command = self._scripts.call("log_append", state.name, 6 + count + len(bound), arguments)
        self._store.send(command, appended)

    def _park(self, state: _Log, turn: _Turn) -> None:
        """Learn the bindings that hold now, then append what waits."""
        if state.parked is not None:
            state.parked.append(turn)
            return
        state.parked = [turn]
        learning = ensureDeferred(self._bind(state, b"", b""))
        learning.addBoth(self._unpark, state)

    def _unpark(self, result: Any, state: _Log) -> None:
        parked, state.parked = state.parked or [], None
        if isinstance(result, Failure):
            error = result.value
            if not isinstance(error, StoreError):
                self.log.failure("bindings cannot be read", result)
                error = StoreRefused("the bindings cannot be read")
            for turn in parked:
                turn.failed(error)
            return
        for turn in parked:
            self._append(state, turn)

    # ---- bindings

    def bind(self, log: str, name: str, binding: Binding | None) -> Deferred[bool]:
        """Set a binding, or take it away (None); whether there was one of that name.

        It holds for whatever is published after this fires, through whichever daemon.
        """
        value = b"" if binding is None else binding.encode()
        state = self._log(log)
        self._list(state)
        return ensureDeferred(self._bind(state, name.encode("utf-8"), value))

    def bindings(self, log: str) -> Deferred[dict[str, Binding]]:
        """All bindings of a log by name."""
        state = self._log(log)
        asked = ensureDeferred(self._bind(state, b"", b""))
        return asked.addCallback(lambda _: dict(sorted(state.table.bindings.items())))

    async def _bind(self, state: _Log, name: bytes, value: bytes) -> bool:
        arguments = encode_arguments(name, value)
        command = self._scripts.call("log_bind", state.name, 2, arguments)
        was, state.table = table_answer(await self._ask(self._store.send, command))
        return was

    def _move(self, state: _Log) -> None:
        """Put what lies in the outbox into its queues."""
        if not state.moving:
            state.moving = True
            moving = ensureDeferred(self._moved(state))
            moving.addErrback(self._move_failed)
            moving.addCallback(lambda _: setattr(state, "moving", False))

    def _move_failed(self, failure: Failure) -> None:
        """While the store is away nothing moves; anything else is a bug."""
        if not isinstance(failure.value, StoreError):
            self.log.failure("an outbox stands still", failure)

    async def _moved(self, state: _Log) -> None:
        outbox = self._scripts.keys.log(state.name)[4]
        look = encode(b"XRANGE", outbox, b"-", b"+", b"COUNT", b"%d" % MOVED_AT_ONCE)
        while True:
            reply = await self._ask(self._store.send, look)
            here = outbox_answer(state.name, reply)
            queues: dict[str, list[Bound]] = {}
            for bound in here:
                queues.setdefault(bound.queue, []).append(bound)
            there: list[bytes] = []
            for queue, those in queues.items():
                puts = await self.put(queue, [bound.message for bound in those])
                there += [b.place for b, put in zip(those, puts, strict=True) if not put.error]
            if there:
                await self._ask(self._store.send, encode(b"XDEL", outbox, *there))
            if len(there) < len(here) or len(here) < MOVED_AT_ONCE:
                return  # what a queue did not take is tried again at the next tick

    def _list(self, state: _Log) -> None:
        if not state.listed:
            state.listed = True
            self._store.send(
                encode(b"SADD", self._scripts.keys.logs(), state.name.encode("ascii")),
                lambda reply: self._listed(state, reply),
            )

    def _listed(self, state: _Log, reply: Any) -> None:
        if isinstance(reply, StoreError):  # the append behind it tells the client
            state.listed = False

    def cursor(self, log: str, number: int) -> EventCursor:
        """The cursor behind an event that was published here."""
        return EventCursor(self._log(log).known.epoch, number)

    # ---- reading

    def read(
        self,
        log: str,
        selection: Selection,
        after: EventCursor | int | None,
        limit: int,
        *,
        newest_first: bool = False,
        leave_out: Callable[[Event], bool] | None = None,
    ) -> Deferred[EventPage]:
        """At most ``limit`` events behind a place: None is the beginning, a number an id of any life.

        ``leave_out`` says which ones the reader does not want. The page's cursor is behind all that
        was looked at, so a reader of a quiet topic is not left behind. With ``newest_first`` the
        newest ones come, the newest first, and the cursor is the end.
        """
        state = self._log(log)
        state.used = self._clock.seconds()
        query = Query(selection, _cursor(after), limit, newest_first, leave_out)
        page = self._read_tail(state, query)
        if page is not None:
            return succeed(page)
        self._follow(state)
        return ensureDeferred(self._read_store(state, query))

    def _read_tail(self, state: _Log, query: Query) -> EventPage | None:
        tail = state.tail
        if tail is None or not state.live or state.known > (tail.epoch, tail.last):
            return None
        if query.cursor.epoch not in (0, tail.epoch):
            return None
        now_ms = self._now_ms(state)
        cut = tail.read(query, now_ms)
        if cut is None:
            return None
        behind = cut.events[-1].id if cut.more and not query.newest_first else tail.last
        return EventPage(cut.events, EventCursor(tail.epoch, behind), None, cut.more, now_ms)

    async def _read_store(self, state: _Log, query: Query) -> EventPage:
        first = found = await self._ask_page(state, query)
        reading = _Reading(query, first)
        while reading.add(found):
            if query.newest_first:
                cursor, below = EventCursor(found.epoch, first.after), found.reached
            else:
                cursor, below = EventCursor(found.epoch, found.reached), 0
            found = await self._ask_page(state, query._replace(cursor=cursor), below)
        return reading.page(found)

    async def _ask_page(self, state: _Log, query: Query, below: int = 0) -> Found:
        """One call of log_read.lua. A store that lost time gets its new epoch first."""
        selection = query.selection
        topics = [] if selection.patterns else sorted(selection.topics)
        count = PAGE if selection.patterns else min(PAGE, query.limit + 1)
        arguments = [
            b"%d" % query.cursor.epoch,
            b"%d" % query.cursor.id,
            b"%d" % count,
            b"1" if query.newest_first else b"0",
            b"0" if below else b"1",
            b"%d" % below,
            *(topic.encode("utf-8") for topic in topics),
        ]
        command = self._scripts.call(
            "log_read", state.name, len(arguments), encode_arguments(*arguments)
        )
        found = found_answer(await self._ask(self._store.read, command))
        if (found.epoch, found.last) < state.known:
            await self._state(state)
            found = found_answer(await self._ask(self._store.read, command))
        self._heard(state, found.epoch, found.last, found.now_ms)
        return found

    def wait(
        self,
        log: str,
        selection: Selection,
        after: EventCursor | int | None,
        limit: int,
        wait_seconds: float,
        *,
        leave_out: Callable[[Event], bool] | None = None,
    ) -> Deferred[EventPage]:
        """As `read`, but where nothing matches yet it waits until something does, or the time is over.

        Cancel it when the client leaves.
        """
        deadline = self._clock.seconds() + wait_seconds
        query = Query(selection, _cursor(after), limit, leave_out=leave_out)
        return ensureDeferred(self._wait(log, query, deadline))

    async def _wait(self, log: str, query: Query, deadline: float) -> EventPage:
        selection, after, limit, _, leave_out = query
        page = await self.read(log, selection, after, limit, leave_out=leave_out)
        while not page.events and page.gap is None:
            left = deadline - self._clock.seconds()
            if left <= 0:
                break
            await self._woken(log, selection, page.cursor, left)
            page = await self.read(log, selection, page.cursor, limit, leave_out=leave_out)
        return page

    def _woken(
        self, log: str, selection: Selection, cursor: EventCursor, seconds: float
    ) -> Deferred[None]:
        """Fires when something matches behind the cursor, or the time is over."""
        woken: Deferred[None] = Deferred(lambda _: leave())

        def leave() -> None:
            if timer.active():
                timer.cancel()
            self.unsubscribe(waiter)

        def wake() -> None:
            leave()
            woken.callback(None)

        timer = self._clock.callLater(seconds, wake)
        waiter = _Waiter(wake)
        self.subscribe(log, selection, cursor, waiter)
        return woken

    def health(self, log: str) -> Deferred[LogInfo]:
        """The numbers of a log."""
        return ensureDeferred(self._health(log))

    async def _health(self, log: str) -> LogInfo:
        return (await self._state(self._log(log), count=True)).info

    # ---- subscribers

    def subscribe(
        self,
        log: str,
        selection: Selection,
        after: EventCursor | int | None,
        consumer: EventConsumer,
    ) -> None:
        """Push to the consumer what matches behind a place (None: what comes from now on), in order, once."""
        cursor = None if after is None else _cursor(after)
        subscription = Subscription(log, selection, cursor, consumer)
        self._subscriptions[consumer] = subscription
        state = self._log(log)
        state.used = self._clock.seconds()
        self._follow(state)
        self._advance(state, subscription)

    def unsubscribe(self, consumer: EventConsumer) -> None:
        """The consumer is gone."""
        subscription = self._subscriptions.pop(consumer, None)
        if subscription is not None:
            subscription.over = True
            if subscription.live:
                self._log(subscription.log).push_no_more(subscription)

    def resume(self, consumer: EventConsumer) -> None:
        """A consumer that wanted no more goes on where it was."""
        subscription = self._subscriptions.get(consumer)
        if subscription is not None and not subscription.live and not subscription.reading:
            self._advance(self._log(subscription.log), subscription)

    def position(self, consumer: EventConsumer) -> EventCursor | None:
        """Behind all that was pushed to the consumer and did not match; None: not known yet."""
        subscription = self._subscriptions.get(consumer)
        if subscription is None:
            return None
        tail = self._log(subscription.log).tail
        if subscription.live and tail is not None:
            return EventCursor(tail.epoch, tail.last)
        return subscription.cursor

    def _advance(self, state: _Log, subscription: Subscription) -> None:
        """Bring a subscriber on: from the tail if that reaches, else from the store."""
        if subscription.over or subscription.reading or subscription.live:
            return
        tail = state.tail
        if subscription.cursor is None:
            if tail is None or not state.live:
                return  # `_caught_up` comes by
            subscription.cursor = EventCursor(tail.epoch, tail.last)
            subscription.consumer.begins(subscription.cursor)
        query = Query(subscription.selection, subscription.cursor, PAGE)
        page = self._read_tail(state, query)
        while page is not None:
            if not self._give(subscription, page):
                return
            if not page.more:
                if not subscription.over:
                    state.push_to(subscription)
                return
            query = query._replace(cursor=page.cursor)
            page = self._read_tail(state, query)
        subscription.reading = True
        reading = ensureDeferred(self._read_store(state, query))
        reading.addCallbacks(
            self._page_read,
            self._page_failed,
            (state, subscription),
            {},
            (state, subscription),
        )
        reading.addErrback(lambda failure: self.log.failure("reading a log failed", failure))

    def _page_read(self, page: EventPage, state: _Log, subscription: Subscription) -> None:
        subscription.reading = False
        if subscription.over:
            return
        stuck = subscription.cursor == page.cursor
        if not self._give(subscription, page):
            return
        if not stuck:
            self._advance(state, subscription)
        elif state.live:  # what the store has is on its way to the tail
            self._again(self._advance, state, subscription)
        # else `_caught_up` comes by

    def _page_failed(self, failure: Any, state: _Log, subscription: Subscription) -> None:
        failure.trap(StoreError)
        subscription.reading = False
        self.log.debug("reading {log}: {error}", log=state.name, error=failure.value)
        if not subscription.over:
            self._again(self._advance, state, subscription)

    def _give(self, subscription: Subscription, page: EventPage) -> bool:
        """Hand a page on; whether the subscriber wants more."""
        consumer = subscription.consumer
        if subscription.over:
            return False
        subscription.cursor = page.cursor
        if page.gap is not None:
            consumer.gap(page.gap)
        if page.events and not subscription.over:
            return consumer.deliver_events(Lot(page.cursor.epoch, page.events, False))
        return not subscription.over

    def _dispatch(self, state: _Log, epoch: int, events: list[Event], last: int) -> None:
        """Push to those for whom something is among these; the others cost nothing."""
        if not state.subscribers:
            return
        wanted: dict[Subscription, list[Event]] = {}
        for event in events:
            for subscription in state.subscribers_of(event.topic):
                wanted.setdefault(subscription, []).append(event)
        lots: dict[tuple[int, ...], Lot] = {}
        for subscription, those in wanted.items():
            if not subscription.live:
                continue  # it left while the others were served
            key = tuple(event.id for event in those)
            lot = lots.get(key)
            if lot is None:
                lot = lots[key] = Lot(epoch, those, True)
            if not subscription.consumer.deliver_events(lot) and subscription.live:
                state.push_no_more(subscription)
                subscription.cursor = EventCursor(epoch, last)

    # ---- following

    def _log(self, name: str) -> _Log:
        state = self._logs.get(name)
        if state is None:
            state = self._logs[name] = _Log(name)
        return state

    def _follow(self, state: _Log) -> None:
        """Listen to the log's channel, if we do not yet."""
        if not state.followed:
            state.followed = True
            channel = self._scripts.keys.log_channel(state.name)
            self._by_channel[channel] = state
            self._store.listen(encode(b"SUBSCRIBE", channel))

    def channel(self, up: bool) -> None:
        """The connection of the channels is new, or lost."""
        for state in self._logs.values():
            state.joined = state.live = False
            state.held.clear()
            if up and state.followed:
                channel = self._scripts.keys.log_channel(state.name)
                self._store.listen(encode(b"SUBSCRIBE", channel))

    def message(self, message: Any) -> bool:
        """What came on a channel; False if it is not one of ours."""
        kind, channel, content = message
        state = self._by_channel.get(channel)
        if state is None:
            return False
        if kind == b"subscribe":
            state.joined = True
            self._fill(state)
        elif kind == b"message":
            self._chunk(state, decode_chunk(content))
        return True

    def store_back(self) -> None:
        """The connection that writes is new: it may be another store."""
        for state in self._logs.values():
            state.listed = False
            if state.joined:
                state.live = False
                self._fill(state)

    def _chunk(self, state: _Log, chunk: Chunk) -> None:
        state.saw(chunk.epoch, chunk.last)
        tail = state.tail
        if not state.live or tail is None:
            state.held.append(chunk)
            if len(state.held) > HELD:
                state.held.clear()
                if tail is not None and not state.filling:
                    self._fill(state)
            return
        if chunk.epoch < tail.epoch:
            return  # of a life that is over
        if chunk.epoch > tail.epoch or chunk.prev > tail.last:
            state.live = False
            state.held.append(chunk)
            self._fill(state)
        elif chunk.last > tail.last:
            tail.append(chunk.events, chunk.last)
            self._dispatch(state, chunk.epoch, chunk.events, chunk.last)

    def _fill(self, state: _Log) -> None:
        """Learn what the channel did not tell; then what was held, and live."""
        if state.filling:
            state.fill_again = True
        if state.filling or not state.joined:
            return
        state.filling = True
        state.live = False  # what comes meanwhile is held, or it would be there twice
        filling = ensureDeferred(self._filled(state))
        filling.addErrback(self._fill_failed, state)
        filling.addErrback(lambda failure: self.log.failure("following a log failed", failure))

    def _fill_failed(self, failure: Any, state: _Log) -> None:
        failure.trap(StoreError)
        state.filling = state.fill_again = False
        self._again(self._fill, state)

    async def _filled(self, state: _Log) -> None:
        here = await self._state(state)
        tail = state.tail
        fresh = tail is None or tail.epoch != here.epoch or here.last > tail.last + BEHIND
        if tail is None or fresh:
            self._begin_tail(state, here)
        else:
            await self._read_missing(state, tail, here.last)
        state.filling = False
        if state.fill_again:  # the channel was new meanwhile, and perhaps the store
            state.fill_again = False
            self._fill(state)
            return
        if not state.joined:
            return
        state.live = True
        held, state.held = state.held, []
        for chunk in held:
            self._chunk(state, chunk)
        if state.live:
            self._caught_up(state)

    def _begin_tail(self, state: _Log, here: State) -> None:
        """A new tail; who was pushed from the old one reads on from where that was."""
        old = state.tail
        for subscription in list(state.subscribers):
            assert old is not None
            state.push_no_more(subscription)
            subscription.cursor = EventCursor(old.epoch, old.last)
        state.tail = Tail(here.epoch, here.last)

    async def _read_missing(self, state: _Log, tail: Tail, last: int) -> None:
        everything = Selection.everything()
        while tail.last < last:
            query = Query(everything, EventCursor(tail.epoch, tail.last), PAGE)
            found = await self._ask_page(state, query)
            gone = any(number > tail.last for _, number in found.trimmed)
            if found.reset or gone:
                self._begin_tail(state, await self._state(state))
                return
            reached = found.reached or found.last
            tail.append(found.events, reached)
            self._dispatch(state, tail.epoch, found.events, reached)

    def _caught_up(self, state: _Log) -> None:
        """Those who waited for the tail go on."""
        for subscription in list(self._subscriptions.values()):
            if subscription.log == state.name and not subscription.live:
                self._advance(state, subscription)

    async def _state(self, state: _Log, count: bool = False) -> State:
        arguments = encode_arguments(
            b"%d" % state.known.id, b"%d" % state.known.epoch, b"1" if count else b"0"
        )
        command = self._scripts.call("log_state", state.name, 3, arguments)
        here = state_answer(await self._ask(self._store.send, command))
        self._heard(state, here.epoch, here.last, here.info.now_ms)
        return here

    def _heard(self, state: _Log, epoch: int, last: int, now_ms: int) -> None:
        state.saw(epoch, last)
        state.clock_ahead_ms = now_ms - int(self._clock.seconds() * 1000)

    def _now_ms(self, state: _Log) -> int:
        """The store's clock, as far as we know it."""
        return int(self._clock.seconds() * 1000) + state.clock_ahead_ms

    def _ask(self, send: Callable[[bytes, Callback], None], command: bytes) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def replied(reply: Any) -> None:
            if isinstance(reply, OutcomeUnknown):  # of a question: nothing was changed
                done.errback(StoreAway(str(reply)))
            elif isinstance(reply, StoreError):
                done.errback(reply)
            else:
                done.callback(reply)

        send(command, replied)
        return done

    def _again(self, call: Callable[..., None], *arguments: Any) -> None:
        """A little later, unless the daemon ends before."""
        self._retries = [retry for retry in self._retries if retry.active()]
        self._retries.append(self._clock.callLater(RETRY_SECONDS, call, *arguments))

    def stop(self) -> None:
        """Nothing is tried again from here on."""
        for retry in self._retries:
            if retry.active():
                retry.cancel()
        for state in self._logs.values():
            state.joined = state.live = False

    # ---- from time to time

    def tick(self) -> None:
        """Every few seconds: give memory back, forget logs that nobody reads."""
        now = self._clock.seconds()
        used = {subscription.log for subscription in self._subscriptions.values()}
        for name, state in self._logs.items():
            if state.followed and now - state.used > IDLE_SECONDS and name not in used:
                self._unfollow(state)
        if now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at = now
            self._store.send(encode(b"SMEMBERS", self._scripts.keys.logs()), self._trim)

    def _unfollow(self, state: _Log) -> None:
        channel = self._scripts.keys.log_channel(state.name)
        del self._by_channel[channel]
        self._store.listen(encode(b"UNSUBSCRIBE", channel))
        state.followed = state.joined = state.live = False
        state.tail = None
        state.held.clear()

    def _trim(self, names: Any) -> None:
        if isinstance(names, StoreError):
            return  # the next tick tries again
        for name in names:
            command = self._scripts.call(
                "log_trim", name.decode("ascii"), 1, encode_arguments(self._limits)
            )
            self._trim_again(command)
            self._move(self._log(name.decode("ascii")))

    def _trim_again(self, command: bytes) -> None:
        def trimmed(reply: Any) -> None:
            if reply == 1:
                self._store.send(command, trimmed)

        self._store.send(command, trimmed)


def _cursor(after: EventCursor | int | None) -> EventCursor:
    if after is None:
        return EventCursor(0, 0)
    return after if isinstance(after, EventCursor) else EventCursor(0, after)


def _with_count(
    numbered: Callable[[int, int | StoreError], None], count: int
) -> Callable[[int | StoreError], None]:
    return lambda first: numbered(count, first)
