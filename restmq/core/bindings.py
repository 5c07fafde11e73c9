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
from twisted.internet.defer import Deferred

from restmq.core.event_wire import decode_event
from restmq.event import Event
from restmq.message import NewMessage, Put
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
