"""Bindings of a log to queues: which events go into a queue as well, and the way there.

An append writes each bound event into the log's outbox in the same step, so there is never the one
without the other. From there any daemon puts it into the queue under a key of its own, so it arrives
once, whoever dies on the way; then the outbox forgets it. What a queue refuses (it is full) waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.event_reading import StoredLog
from restmq.core.event_wire import decode_event
from restmq.errors import StoreError
from restmq.event import Event
from restmq.message import NewMessage, Put
from restmq.redis.pipeline import encode, encode_arguments
from restmq.rules.topics import Pattern, Patterns, parse_pattern

MOVED_AT_ONCE = 200

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


def table_answer(reply: Any) -> tuple[bool, Table]:
    """Of log_bind.lua: whether the binding was there before, and all of them."""
    patterns: Patterns[str] = Patterns()
    bindings = {
        name.decode("utf-8"): decode_binding(value)
        for name, value in zip(reply[2::2], reply[3::2], strict=True)
    }
    for binding in bindings.values():
        patterns.add(binding.pattern, binding.queue)
    return reply[0] == 1, Table(reply[1], bindings, patterns)


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
        self._stored = stored
        self._moving = False

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
        command = stored.scripts.call("log_bind", stored.name, 2, encode_arguments(name, value))
        was, self.table = table_answer(await stored.ask(command))
        return was

    def move(self) -> None:
        """Put what lies in the outbox into its queues."""
        if not self._moving:
            self._moving = True
            moving = ensureDeferred(self._moved())
            moving.addErrback(self._move_failed)
            moving.addCallback(lambda _: setattr(self, "_moving", False))

    def _move_failed(self, failure: Failure) -> None:
        """While the store is away nothing moves; anything else is a bug."""
        if not isinstance(failure.value, StoreError):
            self.log.failure("an outbox stands still", failure)

    async def _moved(self) -> None:
        stored = self._stored
        outbox = stored.scripts.keys.log(stored.name)[4]
        look = encode(b"XRANGE", outbox, b"-", b"+", b"COUNT", b"%d" % MOVED_AT_ONCE)
        while True:
            here = outbox_answer(stored.name, await stored.ask(look))
            queues: dict[str, list[Bound]] = {}
            for bound in here:
                queues.setdefault(bound.queue, []).append(bound)
            there: list[bytes] = []
            for queue, those in queues.items():
                puts = await self.put(queue, [bound.message for bound in those])
                there += [b.place for b, put in zip(those, puts, strict=True) if not put.error]
            if there:
                await stored.ask(encode(b"XDEL", outbox, *there))
            if len(there) < len(here) or len(here) < MOVED_AT_ONCE:
                return  # what a queue did not take is tried again at the next tick
