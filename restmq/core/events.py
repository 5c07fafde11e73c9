"""Events: published to a log, read by cursor, pushed to subscribers as they come.

A daemon that reads a log follows it (``event_following.py``) and keeps a ``Tail`` of it, which answers
nearly all reads. What the tail does not reach back to is read from the store; a subscriber that comes
back does that, too, page by page, until the tail takes over (``event_subscribers.py``).

Nothing is served from a tail while its channel is down, nor to a reader whose cursor the tail has not
reached yet. So a reader never goes back, and misses nothing that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IReactorTime

from restmq.core.asking import Retries
from restmq.core.bindings import Binding, LogBindings, PutInto
from restmq.core.event_following import Following
from restmq.core.event_publishing import Publishing
from restmq.core.event_reading import Recent, StoredLog
from restmq.core.event_subscribers import EventConsumer, Lot, Subscribers
from restmq.core.event_tail import Query
from restmq.core.event_wire import LogScripts, encode_retention
from restmq.errors import StoreError
from restmq.event import Event, EventCursor, EventGap, EventPage, LogInfo, NewEvent
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode, encode_arguments
from restmq.rules.retention import ORDINARY, Retention
from restmq.rules.selection import Selection

IDLE_SECONDS: Final = 600.0
"""A log that nobody used for so long is not followed any more, and forgotten."""

MANY: Final = 1000
"""If more logs than these are in use, BRIEFLY is the time: names of logs are anybody's."""

BRIEFLY: Final = 5.0

TRIM_SECONDS: Final = 10.0

EMPTY_SECONDS: Final = 60.0
"""A log that held nothing for so long, and got nothing, is not looked at any more. Who writes to one lists it
again at least each TRIM_SECONDS."""


class _Log:
    """One log for this daemon: its parts, each of which knows those above it."""

    def __init__(
        self,
        stored: StoredLog,
        retention: Retention,
        put: PutInto,
        retries: Retries,
        due: Callable[[Publishing], None],
    ) -> None:
        self.stored = stored
        self.bindings = LogBindings(stored, put, retention.limits[ORDINARY])
        self.publishing = Publishing(stored, self.bindings, retention, due)
        self.recent = Recent(stored)
        self.subscribers = Subscribers(stored, self.recent, retries)
        self.following = Following(stored, self.recent, self.subscribers, retries)
        self.used = 0.0

    @property
    def idle(self) -> bool:
        """Nobody waits for anything here."""
        return self.publishing.idle and not self.bindings.moving and not self.subscribers


class Events:
    """All logs, for this daemon. Every operation fails with a StoreError when the store does not do it."""

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
        self._rules = encode_retention(retention)
        self._put = put
        self._retries = Retries(clock)
        self._logs: dict[str, _Log] = {}
        self._by_channel: dict[bytes, _Log] = {}
        self._log_of: dict[EventConsumer, _Log] = {}
        self._known: dict[str, EventCursor] = {}  # of logs that are forgotten
        self._to_flush: dict[Publishing, None] = {}
        self._trimmed_at = 0.0
        self._empty: dict[str, tuple[bytes, float]] = {}  # the last id of each, and since when

    def _log(self, name: str) -> _Log:
        log = self._logs.get(name)
        if log is None:
            stored = StoredLog(self._clock, self._store, self._scripts, name)
            log = _Log(stored, self._retention, self._put, self._retries, self._due)
            stored.known = self._known.pop(name, stored.known)
            self._logs[name] = self._by_channel[log.following.channel] = log
        return log

    def _used(self, name: str) -> _Log:
        log = self._log(name)
        log.used = self._clock.seconds()
        return log

    # ---- publishing

    def publish(
        self, log: str, events: Sequence[NewEvent], *, short: bool = False
    ) -> Deferred[list[int]]:
        """Append events in their order; their ids. Another's may lie between two of them only
        where they are more than a script call takes (``event_publishing.py``).

        ``short``: those without a rule of retention are kept for the shorter time, of ``/e/``.
        OutcomeUnknown and errors in the middle of a large batch: some may have been appended.
        """
        return self._used(log).publishing.publish(events, short)

    def publish_once(
        self, log: str, events: Sequence[NewEvent], key: bytes, *, short: bool = False
    ) -> Deferred[tuple[list[int], bool]]:
        """As `publish`, under an idempotency key (16 bytes) that is remembered for a day.

        The ids, and whether they are those that the same key gave before; nothing is appended then.
        Fails with KeyReused if the events were others.
        """
        return self._used(log).publishing.publish_once(events, short, key)

    def _due(self, publishing: Publishing) -> None:
        if not self._to_flush:
            self._clock.callLater(0, self.flush)
        self._to_flush[publishing] = None

    def flush(self) -> None:
        """Send what this turn brought."""
        due, self._to_flush = self._to_flush, {}
        for publishing in due:
            publishing.flush()
        self._store.flush()

    def cursor(self, log: str, number: int) -> EventCursor:
        """The cursor behind an event that was published here."""
        return EventCursor(self._used(log).stored.known.epoch, number)

    # ---- bindings

    def bind(self, log: str, name: str, binding: Binding | None) -> Deferred[bool]:
        """Set a binding, or take it away (None); whether there was one of that name.

        It holds for whatever is published after this fires, through whichever daemon.
        """
        return ensureDeferred(self._used(log).bindings.set(name, binding))

    def bindings(self, log: str) -> Deferred[dict[str, Binding]]:
        """All bindings of a log by name."""
        asked = ensureDeferred(self._used(log).bindings.learn())
        return asked.addCallback(lambda table: dict(sorted(table.bindings.items())))

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

        A page has 1 MiB or one event at most, and may be empty and say ``more`` where it took long to
        look. Cancel it when the client leaves.
        ``leave_out`` says which ones the reader does not want. The page's cursor is behind all that
        was looked at, so a reader of a quiet topic is not left behind. With ``newest_first`` the
        newest ones come, the newest first, and the cursor is the end.
        """
        query = Query(selection, _cursor(after), limit, newest_first, leave_out)
        page = self.look(log, query)
        if page is not None:
            return succeed(page)
        here = self._log(log)
        here.following.begin()
        return ensureDeferred(_read_behind(here, query))

    def look(self, log: str, query: Query) -> EventPage | None:
        """What `read` gives, where the tail has it; None where only `read` can tell."""
        here = self._used(log)
        return here.recent.read(query, here.stored.known)

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
            if not page.more:
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
        return (await self._used(log).stored.state(count=True)).info

    # ---- subscribers

    def subscribe(
        self,
        log: str,
        selection: Selection,
        after: EventCursor | int | None,
        consumer: EventConsumer,
    ) -> None:
        """Push to the consumer what matches behind a place (None: what comes from now on), in order, once."""
        here = self._log_of[consumer] = self._used(log)
        here.following.begin()
        here.subscribers.add(selection, None if after is None else _cursor(after), consumer)

    def unsubscribe(self, consumer: EventConsumer) -> None:
        """The consumer is gone."""
        log = self._log_of.pop(consumer, None)
        if log is not None:
            log.subscribers.remove(consumer)

    def resume(self, consumer: EventConsumer) -> None:
        """A consumer that wanted no more goes on where it was."""
        log = self._log_of.get(consumer)
        if log is not None:
            log.subscribers.resume(consumer)

    def position(self, consumer: EventConsumer) -> EventCursor | None:
        """Behind all that was pushed to the consumer and did not match; None: not known yet."""
        log = self._log_of.get(consumer)
        return None if log is None else log.subscribers.position(consumer)

    # ---- the store's connections

    def channel(self, up: bool) -> None:
        """The connection of the channels is new, or lost."""
        for log in self._logs.values():
            log.following.deaf()
            if up:
                log.following.connected()

    def message(self, message: Any) -> bool:
        """What came on a channel; False if it is not one of ours."""
        kind, channel, content = message
        log = self._by_channel.get(channel)
        if log is None:
            return False
        log.following.heard(kind, content)
        return True

    def store_back(self) -> None:
        """The connection that writes is new: it may be another store."""
        for log in self._logs.values():
            log.stored.perhaps_another_store()
            log.following.perhaps_another_store()

    def stop(self) -> None:
        """Nothing is tried again from here on."""
        self._retries.stop()
        for log in self._logs.values():
            log.following.deaf()

    # ---- from time to time

    def tick(self) -> None:
        """Every few seconds: give memory back, forget logs that nobody reads."""
        now = self._clock.seconds()
        idle = IDLE_SECONDS if len(self._logs) <= MANY else BRIEFLY
        for log in list(self._logs.values()):
            if now - log.used > idle and log.idle:
                self._forget(log)
        if now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at = now
            for log in self._logs.values():
                log.stored.look_again()
            self._store.send(encode(b"SMEMBERS", self._scripts.keys.logs()), self._trim)

    def _forget(self, log: _Log) -> None:
        log.following.end()
        name, known = log.stored.name, log.stored.known
        del self._logs[name], self._by_channel[log.following.channel]
        if any(known):  # of a log that nobody wrote to there is nothing to know
            self._known[name] = known

    def _trim(self, names: Any) -> None:
        if isinstance(names, StoreError):
            return  # the next tick tries again
        listed = [each.decode("ascii") for each in names]
        self._empty = {name: self._empty[name] for name in listed if name in self._empty}
        for name in listed:
            self._trim_log(name, self._looked_at)
            self._log(name).bindings.move_all()

    def _trim_log(self, name: str, then: Callable[[str, Any], None]) -> None:
        command = self._scripts.call("log_trim", name, 1, encode_arguments(self._rules))

        def trimmed(reply: Any) -> None:
            if reply == 1:
                self._store.send(command, trimmed)
            else:
                then(name, reply)

        self._store.send(command, trimmed)

    def _looked_at(self, name: str, reply: Any) -> None:
        """Take a log off the list that has been empty for long."""
        if not isinstance(reply, bytes):
            self._empty.pop(name, None)
            return
        now = self._clock.seconds()
        last, since = self._empty.get(name, (b"", now))
        if last != reply:
            self._empty[name] = (reply, now)
        elif now - since > EMPTY_SECONDS:
            self._log(name).stored.strike()
            self._trim_log(name, self._struck)

    def _struck(self, name: str, reply: Any) -> None:
        """Somebody may have written to it just then."""
        last, _ = self._empty.pop(name, (b"", 0.0))
        if reply != last:
            self._log(name).stored.enlist()


async def _read_behind(log: _Log, query: Query) -> EventPage:
    """From the tail when that has come to where it must be, else from the store."""
    least = log.stored.known
    arrival = log.recent.arrival(least)
    if arrival is not None:
        await arrival
        page = log.recent.read(query, least)
        if page is not None:
            return page
    return await log.stored.read(query)


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


def _cursor(after: EventCursor | int | None) -> EventCursor:
    if after is None:
        return EventCursor(0, 0)
    return after if isinstance(after, EventCursor) else EventCursor(0, after)
