"""What streams look like on the wire: one ``Wire`` for each transport and framing.

A wire turns messages, and what else is to be said on a stream, into bytes. There is one object for
each kind, so that all consumers of a kind share the work: a Batch is encoded once per encoder.

Server-sent events: WHATWG HTML, section 9.2. ndjson: one JSON object a line.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any, Final, NamedTuple

import orjson

from restmq.message import Message
from restmq.web import historic
from restmq.web.exchange import chunk
from restmq.web.message_json import leased_members, members

Encoder = Callable[[Message], bytes]

KEPT_LIVES: Final = 1024
RETRY_MS: Final = (1000, 4000)
"""Between these a browser waits before it comes back after a restart: not all at once."""


class Gap(NamedTuple):
    """What a client that comes back can't have any more.

    ``oldest`` is the id of the oldest message that is still kept (None: none is), ``next`` the
    one it gets next, ``missed`` how many lie between (None: nobody knows).
    """

    queue: str
    oldest: int | None
    next: int
    missed: int | None


def retry_ms() -> int:
    """How long a client shall wait before it comes back."""
    return random.randrange(*RETRY_MS)  # noqa: S311 - nothing secret


class Wire(ABC):
    """One kind of stream; see the module's text. What a wire does not say is b""."""

    transport = ""
    heartbeat = b""

    @abstractmethod
    def encoder(self, epoch: int) -> Encoder:
        """The function that encodes messages of this life of the store; the same object each time."""

    @abstractmethod
    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """A message under a lease."""

    def missed(self, queue: str, count: int) -> bytes:
        """So many messages were dropped here."""
        return b""

    def gap(self, gap: Gap, cursor: str) -> bytes:
        """What lies between here and there is gone; the cursor behind it, so that it is said once."""
        return b""

    def opening(self, cursor: str) -> bytes:
        """What a stream begins with; the cursor of a client that came without one, else ""."""
        return b""

    def closing(self, reason: str) -> bytes:
        """What a stream that the server ends says last."""
        return b""


class Comet(Wire):
    """The lines of 2010. They never said anything else; who asks for a choice is told more."""

    transport = "comet"

    def __init__(self, callback: str | None, chunked: bool, talks: bool, ndjson: bool) -> None:
        self._encode = historic.line_for(callback, chunked)
        self._callback = callback
        self._chunked = chunked
        self._talks = talks or ndjson
        if self._talks and callback is None:
            self.heartbeat = self._framed(b"\r\n")

    def encoder(self, epoch: int) -> Encoder:
        """The same for all lives."""
        return self._encode

    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """The line with the receipt as one member more."""
        line = historic.line(message)[:-3] + b', "receipt": "%b"}' % receipt.encode("ascii")
        return self._line(line)

    def missed(self, queue: str, count: int) -> bytes:
        """A line that is no message."""
        return self._line(b'{"missed": %d}' % count) if self._talks else b""

    def _line(self, data: bytes) -> bytes:
        if self._callback is not None:
            data = b"%b(%b);" % (self._callback.encode("ascii"), data)
        return self._framed(data + b"\r\n")

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked else data


@lru_cache(maxsize=historic.KEPT_CALLBACKS)
def comet(callback: str | None, chunked: bool, talks: bool, ndjson: bool) -> Comet:
    """The wire of a COMET stream."""
    return Comet(callback, chunked, talks, ndjson)


class PerLife(Wire):
    """A wire whose messages name the life of the store they belong to."""

    def __init__(self) -> None:
        self._encoders: dict[int, Encoder] = {}

    @abstractmethod
    def whole(self, message: Message, epoch: int) -> bytes:
        """A message as it goes out."""

    def encoder(self, epoch: int) -> Encoder:
        """One for each life of the store; only the last few are kept."""
        encode = self._encoders.get(epoch)
        if encode is None:
            if len(self._encoders) >= KEPT_LIVES:
                self._encoders.clear()
            encode = self._encoders[epoch] = partial(self.whole, epoch=epoch)
        return encode


class _Framed(PerLife):
    """A wire over HTTP that is chunked, or not (HTTP/1.0)."""

    def __init__(self, chunked: bool) -> None:
        super().__init__()
        self._chunked = chunked

    def whole(self, message: Message, epoch: int) -> bytes:
        """The message in its frame."""
        return self._framed(self._message(message, epoch))

    @abstractmethod
    def _message(self, message: Message, epoch: int) -> bytes: ...

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked else data


class Ndjson(_Framed):
    """Message objects, a line each; an empty line is a sign of life."""

    transport = "ndjson"

    @cached_property
    def heartbeat(self) -> bytes:  # type: ignore[override]
        """An empty line."""
        return self._framed(b"\n")

    def _message(self, message: Message, epoch: int) -> bytes:
        return b"{%b}\n" % members(message, epoch)

    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """The object with its receipt."""
        return self._framed(b"{%b}\n" % leased_members(message, receipt, lease_until_ms))

    def _control(self, word: str, value: dict[str, Any]) -> bytes:
        return self._framed(orjson.dumps({"type": word, **value}) + b"\n")

    def missed(self, queue: str, count: int) -> bytes:
        """An object with a ``type``, which messages have not."""
        return self._control("missed", {"queue": queue, "missed": count})

    def gap(self, gap: Gap, cursor: str) -> bytes:
        """The same."""
        return self._control("gap", {**gap._asdict(), "cursor": cursor})

    def closing(self, reason: str) -> bytes:
        """The same."""
        return self._control("closing", {"reason": reason, "retry": retry_ms() / 1000})


class Sse(_Framed):
    """Server-sent events. Messages have no ``event:``, so that ``onmessage`` sees them."""

    transport = "sse"

    @cached_property
    def heartbeat(self) -> bytes:  # type: ignore[override]
        """A comment."""
        return self._framed(b":\n\n")

    def opening(self, cursor: str) -> bytes:
        """A comment, so that every proxy and browser sees the beginning, and the time to wait."""
        place = b"id: %b\n" % cursor.encode("ascii") if cursor else b""
        return self._framed(b":ok\nretry: %d\n%b\n" % (retry_ms(), place))

    def _message(self, message: Message, epoch: int) -> bytes:
        if message.placed:
            return b"id: %d-%d\ndata: {%b}\n\n" % (epoch, message.id, members(message, epoch))
        return b"data: {%b}\n\n" % members(message, epoch)

    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """The event with its receipt."""
        return self._framed(b"data: {%b}\n\n" % leased_members(message, receipt, lease_until_ms))

    def _control(self, word: str, value: dict[str, Any], more: bytes = b"") -> bytes:
        return self._framed(
            b"%bevent: %b\ndata: %b\n\n" % (more, word.encode("ascii"), orjson.dumps(value))
        )

    def missed(self, queue: str, count: int) -> bytes:
        """``event: missed``."""
        return self._control("missed", {"queue": queue, "missed": count})

    def gap(self, gap: Gap, cursor: str) -> bytes:
        """``event: gap``."""
        place = b"id: %b\n" % cursor.encode("ascii")
        return self._control("gap", gap._asdict(), place)

    def closing(self, reason: str) -> bytes:
        """``event: closing``, and when to come back."""
        return self._control("closing", {"reason": reason}, b"retry: %d\n" % retry_ms())


class SseOfMany(Sse):
    """Events of several queues: their messages have no ``id``, which comes after them, once for all.

    A block with nothing but an id is no event, but the browser remembers it.
    """

    def _message(self, message: Message, epoch: int) -> bytes:
        return b"data: {%b}\n\n" % members(message, epoch)

    def cursor(self, cursor: str) -> bytes:
        """Where the client is in all of them."""
        return self._framed(b"id: %b\n\n" % cursor.encode("ascii"))


SSE: Final = {chunked: Sse(chunked) for chunked in (False, True)}
SSE_OF_MANY: Final = {chunked: SseOfMany(chunked) for chunked in (False, True)}
NDJSON: Final = {chunked: Ndjson(chunked) for chunked in (False, True)}
