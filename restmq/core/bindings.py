"""Bindings of a log to queues: which events go into a queue as well, and the way there.

An append writes each bound event into the log's outbox in the same step, so there is never the one
without the other. From there any daemon puts it into the queue under a key of its own, so it arrives
once, whoever dies on the way; then the outbox forgets it. What a queue refuses (it is full) waits, and
what is bound for others passes it by.
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
from restmq.core.event_wire import decode_event
from restmq.errors import StoreError, StoreRefused, TooManyBindings
from restmq.event import Event
from restmq.message import NewMessage, Put
from restmq.redis.pipeline import encode, encode_arguments
from restmq.rules.topics import Pattern, Patterns, parse_pattern

MOVED_AT_FIRST: Final = 4
MOVED_AT_ONCE: Final = 200
MOVED_BYTES: Final = 1_048_576
"""What is looked at in one go: more and more, as long as it is no more than these bytes."""

MAX_BINDINGS: Final = 100
"""Of one log: each is another copy of an event in the one step that appends it."""

PutInto = Callable[[str, list[NewMessage]], Deferred[list[Put]]]


class Binding(NamedTuple):
    """Events whose topic the pattern chooses go into the queue."""

    pattern: Pattern
    queue: str

    def encode(self) -> bytes:
        """As the store keeps it."""
        return orjson.dumps({"topic": self.pattern.text, "queue": self.queue})


def decode_binding(data: bytes) -> Binding:
    """What `Binding.encode` made."""
    members = orjson.loads(data)
    return Binding(parse_pattern(members["topic"]), members["queue"])


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
        name.decode("utf-8"): decode_binding(value)
        for name, value in zip(reply[2::2], reply[3::2], strict=True)
    }
    for binding in bindings.values():
        patterns.add(binding.pattern, binding.queue)
    return Table(reply[1], bindings, patterns)


NONE = Table(b"0", {}, Patterns())


class Bound(NamedTuple):
    """An event on its way into a queue; ``place`` is its id in the outbox."""

    place: bytes
    queue: str
    message: NewMessage


def outbox_answer(log: str, reply: Any) -> list[Bound]:
    """What lies in the outbox, oldest first."""
    found = []
    for place, fields in reply:
        queue = fields[1].decode("utf-8")
        found.append(Bound(place, queue, _message(log, decode_event(fields[3]))))
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

    def __init__(self, stored: StoredLog, put: PutInto) -> None:
        """``put`` puts messages into a queue."""
        self.table = NONE
        self.put: PutInto = put
        self.moving = False
        self._stored = stored
        self._more = False
        self._behind = b""  # how far the outbox was looked through; b"": from its beginning
        self._refusing: set[str] = set()
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
                if queue in self._refusing:
                    continue  # or it would get them in another order
                there = await self._put(queue, those)
                if there:
                    await stored.ask(encode(b"XDEL", outbox, *there))
            if here:
                self._behind = b"(" + here[-1].place
            self._more = self._more or len(here) == count
            size = sum(len(bound.message.body) for bound in here)
            count = min(2 * count, MOVED_AT_ONCE) if size < MOVED_BYTES / 2 else MOVED_AT_FIRST

    async def _put(self, queue: str, those: list[Bound]) -> list[bytes]:
        """The places of those that are in the queue now; what it refuses is left for `move_all`."""
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
            self._refusing.add(queue)
            return []
        self._broken.discard(queue)
        there = [bound.place for bound, put in zip(those, puts, strict=True) if not put.error]
        if len(there) < len(those):
            self._refusing.add(queue)
        return there
