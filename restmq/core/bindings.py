"""Bindings of a log to queues: which events go into a queue as well, and the way there.

An append writes each bound event into the log's outbox in the same step, so there is never the one
without the other. From there any daemon puts it into the queue under a key of its own, so it arrives
once, whoever dies on the way; then the outbox forgets it. What a queue refuses (it is full) waits, within
bounds (``event_waiting.py``), and what is bound for others passes it by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.event_reading import StoredLog
from restmq.core.event_waiting import Bound, Waiting
from restmq.core.event_wire import decode_event
from restmq.errors import StoreError, StoreRefused, TooManyBindings
from restmq.event import Event
from restmq.message import NewMessage, Put
from restmq.redis.pipeline import encode, encode_arguments
from restmq.rules.retention import Limits
from restmq.rules.topics import Pattern, Patterns, parse_pattern

MOVED_AT_FIRST: Final = 4
MOVED_AT_ONCE: Final = 200
MOVED_BYTES: Final = 1_048_576
"""What is looked at in one go: more and more, as long as it is no more than these bytes."""

DROPPED_AT_ONCE: Final = 1000

MAX_BINDINGS: Final = 100
"""Of one log: each is another copy of an event in the one step that appends it."""

PutInto = Callable[[str, list[NewMessage]], Deferred[list[Put]]]


class Binding(NamedTuple):
    """Events whose topic the pattern chooses go into the queue.

    ``dropped``: how many events for this queue waited too long, or were too many, as the store tells.
    """

    pattern: Pattern
    queue: str
    dropped: int = 0

    def encode(self) -> bytes:
        """As the store keeps it."""
        return orjson.dumps({"topic": self.pattern.text, "queue": self.queue})


def decode_binding(data: bytes, dropped: int) -> Binding:
    """What `Binding.encode` made."""
    members = orjson.loads(data)
    return Binding(parse_pattern(members["topic"]), members["queue"], dropped)


class Table(NamedTuple):
    """All bindings of a log; ``version`` counts changes."""

    version: bytes
    bindings: dict[str, Binding]
    patterns: Patterns[str]

    def bound(self, topics: Sequence[str]) -> list[bytes]:
        """For log_append.lua: the place (from 1) of each bound event, and its queue."""
        if not self.bindings:
            return []
        return [
            text
            for place, topic in enumerate(topics, 1)
            for queue in sorted(self.patterns.match(topic))
            for text in (b"%d" % place, queue.encode("utf-8"))
        ]


def table_answer(reply: Any) -> Table:
    """Of log_bind.lua: all there are."""
    patterns: Patterns[str] = Patterns()
    bindings = {
        name.decode("utf-8"): decode_binding(value, int(dropped))
        for name, value, dropped in zip(reply[2::3], reply[3::3], reply[4::3], strict=True)
    }
    for binding in bindings.values():
        patterns.add(binding.pattern, binding.queue)
    return Table(reply[1], bindings, patterns)


NONE = Table(b"0", {}, Patterns())


def outbox_answer(log: str, reply: Any) -> list[Bound]:
    """What lies in the outbox, oldest first."""
    found = []
    for place, fields in reply:
        queue = fields[1].decode("utf-8")
        event = decode_event(fields[3])
        bound = Bound(place, queue, _message(log, event), len(fields[3]), event.expires_ms)
        found.append(bound)
    return found


def _message(log: str, event: Event) -> NewMessage:
    """The message: the event's body, type and headers, and where it comes from."""
    name = f"{log}:{event.id}"
    headers = orjson.loads(event.headers) if event.headers else {}
    headers |= {"restmq-event": name, "restmq-topic": event.topic}
    key = blake2b(f"event {name} {event.created_ms}".encode(), digest_size=16).digest()
    return NewMessage(event.body, event.content_type, headers=orjson.dumps(headers), key=key)


class LogBindings:
    """The bindings of one log, as this daemon knows them (``table``), and the way out of its outbox."""

    log = Logger()

    def __init__(self, stored: StoredLog, put: PutInto, limits: Limits) -> None:
        """``put`` puts messages into a queue; ``limits`` are of what waits for one that refuses."""
        self.table = NONE
        self.put: PutInto = put
        self.moving = False
        self._stored = stored
        self._more = False
        self._behind = b""  # how far the outbox was looked through; b"": from its beginning
        self._limits = limits
        self._refusing: dict[str, Waiting] = {}
        self._dropped: dict[str, int] = {}  # not yet told of
        self._broken: set[str] = set()

    async def learn(self) -> Table:
        """Those that hold now."""
        await self._asked(b"", b"")
        return self.table

    async def set(self, name: str, binding: Binding | None) -> bool:
        """See `Events.bind`."""
        self._stored.enlist()
        value = b"" if binding is None else binding.encode()
        return await self._asked(name.encode("utf-8"), value)

    async def _asked(self, name: bytes, value: bytes) -> bool:
        stored = self._stored
        arguments = encode_arguments(name, value, b"%d" % MAX_BINDINGS)
        command = stored.scripts.call("log_bind", stored.name, 3, arguments)
        reply = await stored.ask(command)
        self.table = table_answer(reply)
        if reply[0] < 0:
            raise TooManyBindings(f"the log {stored.name} has {MAX_BINDINGS} bindings, the most")
        return bool(reply[0])

    def move_all(self) -> None:
        """As `move`; queues that refused what is bound for them are tried again."""
        self._behind = b""
        self._refusing.clear()
        for queue, count in self._dropped.items():
            self.log.warn(
                "{count} events that waited for {queue} are dropped: too old or too many",
                count=count,
                queue=queue,
            )
        self._dropped.clear()
        self.move()

    def move(self) -> None:
        """Put what came into the outbox into its queues."""
        self._more = True
        if not self.moving:
            self.moving = True
            moving = ensureDeferred(self._moved())
            moving.addErrback(self._move_failed)
            moving.addCallback(lambda _: setattr(self, "moving", False))

    def _move_failed(self, failure: Failure) -> None:
        """While the store is away nothing moves; anything else is a bug. `move_all` tries again."""
        if not isinstance(failure.value, StoreError):
            self.log.failure("an outbox stands still", failure)

    async def _moved(self) -> None:
        stored = self._stored
        outbox = stored.scripts.keys.log(stored.name)[4]
        count = MOVED_AT_FIRST
        while self._more:
            self._more = False
            look = encode(b"XRANGE", outbox, self._behind or b"-", b"+", b"COUNT", b"%d" % count)
            here = outbox_answer(stored.name, await stored.ask(look))
            queues: dict[str, list[Bound]] = {}
            for bound in here:
                queues.setdefault(bound.queue, []).append(bound)
            for queue, those in queues.items():
                there: frozenset[bytes] = frozenset()
                if queue not in self._refusing:  # or it would get them in another order
                    there = await self._put(queue, those)
                if there:
                    await stored.ask(encode(b"XDEL", outbox, *there))
                if len(there) < len(those):
                    await self._wait(queue, [each for each in those if each.place not in there])
            if here:
                self._behind = b"(" + here[-1].place
            self._more = self._more or len(here) == count
            size = sum(len(bound.message.body) for bound in here)
            count = min(2 * count, MOVED_AT_ONCE) if size < MOVED_BYTES / 2 else MOVED_AT_FIRST

    async def _wait(self, queue: str, those: list[Bound]) -> None:
        """Leave these for `move_all`, within the bounds of what waits for a queue."""
        stored = self._stored
        waiting = self._refusing.setdefault(queue, Waiting(self._limits))
        gone = waiting.keep(those, stored.now_ms())
        for start in range(0, len(gone), DROPPED_AT_ONCE):
            places = gone[start : start + DROPPED_AT_ONCE]
            arguments = encode_arguments(queue.encode("utf-8"), *places)
            command = stored.scripts.call("log_drop", stored.name, 1 + len(places), arguments)
            dropped = await stored.ask(command)
            if dropped:
                self._dropped[queue] = self._dropped.get(queue, 0) + dropped

    async def _put(self, queue: str, those: list[Bound]) -> frozenset[bytes]:
        """The places of those that are in the queue now; what it refuses is left to wait."""
        try:
            puts = await self.put(queue, [bound.message for bound in those])
        except StoreRefused as error:
            if queue not in self._broken:
                self._broken.add(queue)
                self.log.error(
                    "events for {queue} wait, it cannot be put into: {error}",
                    queue=queue,
                    error=error,
                )
            return frozenset()
        self._broken.discard(queue)
        done = zip(those, puts, strict=True)
        return frozenset(bound.place for bound, put in done if not put.error)
