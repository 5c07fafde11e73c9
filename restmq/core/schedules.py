"""Schedules as the store has them: made, changed, looked at and removed by whatever daemon is asked.

A schedule puts a message into a queue at the times of a cron expression. Who runs it: ``restmq.core.runs``.
All times are the store's clock, so that daemons need not agree on one. Every operation fails with a
StoreError when the store does not do it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from twisted.internet.defer import Deferred

from restmq.errors import StoreError
from restmq.message import NewMessage
from restmq.redis.connection import Store
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode
from restmq.redis.scripts import SCHEDULE_NAMES, Script, load
from restmq.rules.schedule import Timetable

MAX_SCHEDULES = 1000
"""As many as one call of a script may read."""

MAX_MESSAGE_BYTES = 65536
"""Of a schedule's message."""

T = TypeVar("T")

_Message = tuple[bytes, str | None, int, int, bytes]
_packed = msgspec.msgpack.Encoder()
_unpacked = msgspec.msgpack.Decoder(_Message)


class Schedule(NamedTuple):
    """What puts which message where and when."""

    name: str
    timetable: Timetable
    queue: str
    message: NewMessage
    paused: bool = False


class Definition(NamedTuple):
    """When and where, as it is stored."""

    cron: str
    timezone: str
    queue: str

    def encode(self) -> bytes:
        """The bytes of it."""
        return "\0".join(self).encode("utf-8")


def decode_definition(packed: bytes) -> Definition:
    """The definition in these bytes."""
    return Definition(*packed.decode("utf-8").split("\0", 2))


class State(NamedTuple):
    """Where a schedule is, as schedule_common.lua says. Runs are seconds since 1970, 0 is none."""

    since: int = 0
    after: int = 0
    paused: int = 0
    last: int = 0
    last_id: int = 0
    missed: int = 0
    pending: int = 0
    claimed_ms: int = 0


def decode_state(packed: bytes) -> State:
    """The state in these bytes."""
    return State(*map(int, packed.split()))


class Found(NamedTuple):
    """A schedule as somebody looks at it; ``next_run`` is None when it is paused or never runs again."""

    schedule: Schedule
    state: State
    next_run: int | None


class Page(NamedTuple):
    """Schedules in the order of their names' bytes; ``more``: there are some behind them."""

    found: list[Found]
    more: bool


class Made(enum.Enum):
    """What became of a schedule that was set."""

    NEW = 1
    REPLACED = 0
    TOO_MANY = -1


def encode_message(message: NewMessage) -> bytes:
    """The template of what is put at each run: all but the times of delivery and the key."""
    parts: _Message = (
        message.body,
        message.content_type,
        message.ttl_ms,
        message.priority,
        message.headers,
    )
    return _packed.encode(parts)


def decode_message(packed: bytes) -> NewMessage:
    """The template in these bytes."""
    body, content_type, ttl_ms, priority, headers = _unpacked.decode(packed)
    return NewMessage(body, content_type, ttl_ms, priority=priority, headers=headers)


class ScheduleScripts:
    """EVALSHA commands for the scripts of schedules."""

    def __init__(self, keys: Keys, now_ms: Callable[[], int] = lambda: 0) -> None:
        """``now_ms`` is the clock for tests; 0 is the server's."""
        self.scripts: dict[str, Script] = load(SCHEDULE_NAMES)
        self._keys = keys.schedules()
        self._now_ms = now_ms

    def call(self, script: str, *arguments: bytes) -> bytes:
        """The command, encoded."""
        sha, count, now = self.scripts[script].sha, len(self._keys), self._now_ms()
        return encode(b"EVALSHA", sha, b"%d" % count, *self._keys, b"%d" % now, *arguments)


class Schedules:
    """All schedules of this installation."""

    def __init__(self, store: Store, scripts: ScheduleScripts) -> None:
        """Operations fail with StoreAway until the store is there."""
        self._store = store
        self._scripts = scripts

    def set(self, schedule: Schedule) -> Deferred[Made]:
        """Make it, or replace the one of this name.

        Its runs are due from now on; one that is replaced and runs at the same times goes on
        where it was.
        """
        definition = Definition(
            schedule.timetable.cron, schedule.timetable.timezone, schedule.queue
        )
        return self._ask(
            Made,
            "schedule_set",
            schedule.name.encode(),
            definition.encode(),
            encode_message(schedule.message),
            b"1" if schedule.paused else b"0",
            b"%d" % MAX_SCHEDULES,
        )

    def find(self, name: str) -> Deferred[Found | None]:
        """One of them, None if there is none of this name."""

        def first(reply: Any) -> Found | None:
            found = _page(reply).found
            return found[0] if found else None

        return self._ask(first, "schedule_read", b"one", name.encode())

    def page(self, behind: str, limit: int) -> Deferred[Page]:
        """At most ``limit`` of them, those with names behind this one; fewer when they are large."""
        return self._ask(_page, "schedule_read", b"page", behind.encode(), b"%d" % limit)

    def pause(self, name: str) -> Deferred[bool]:
        """No more runs; False if there is no such schedule. A run that is being put still arrives."""
        return self._ask(bool, "schedule_change", name.encode(), b"pause")

    def resume(self, name: str) -> Deferred[bool]:
        """Runs are due again, from now on; what would have run meanwhile does not."""
        return self._ask(bool, "schedule_change", name.encode(), b"resume")

    def remove(self, name: str) -> Deferred[bool]:
        """It is gone; False if it was not there. A run that is being put may still arrive."""
        return self._ask(bool, "schedule_change", name.encode(), b"remove")

    def _ask(self, value: Callable[[Any], T], script: str, *arguments: bytes) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                done.errback(reply)
            else:
                done.callback(value(reply))

        self._store.send(self._scripts.call(script, *arguments), replied)
        return done


def _page(reply: Sequence[Any]) -> Page:
    now = int(reply[0]) // 1000
    parts = [reply[at : at + 4] for at in range(2, len(reply), 4)]
    return Page([_found(now, *part) for part in parts], reply[1] == 1)


def _found(now: int, name: bytes, definition: bytes, state: bytes, message: bytes) -> Found:
    cron, timezone, queue = decode_definition(definition)
    where, timetable = decode_state(state), Timetable(cron, timezone)
    paused = where.paused == 1
    schedule = Schedule(name.decode(), timetable, queue, decode_message(message), paused)
    return Found(schedule, where, None if paused else _next(timetable, where.after, now))


def _next(timetable: Timetable, after: int, now: int) -> int | None:
    """The run that comes next, or that is due and about to be put."""
    due = timetable.due(after, now)
    return due.run if due else timetable.next_run(max(after, now))
