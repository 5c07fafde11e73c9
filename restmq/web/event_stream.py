"""Open streams of events: the wires they use, and the reader behind each.

A cursor without an event is said where a client without one begins, and in place of a heartbeat when
others' events went by; so who comes back later need not go through them. On server-sent events that
is a block with nothing but an ``id:``, which is no event, but the browser remembers it.

``slow``: what a reader misses that reads too slowly is as on every stream; with ``block``, the default
here, it misses nothing that is kept: it reads on from the log when it can.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cache, cached_property, lru_cache
from typing import Any, Final, NamedTuple

import orjson
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from restmq.core.beats import Beats
from restmq.core.event_subscribers import Lot
from restmq.event import Event, EventCursor, EventGap
from restmq.rules.buffer import Buffer, Part, Slow
from restmq.rules.selection import Selection
from restmq.web.event_json import event_members
from restmq.web.exchange import Exchange
from restmq.web.historic import KEPT_CALLBACKS
from restmq.web.stream import TOO_SLOW, Choices, Stream, Way, bound_kernel_buffer
from restmq.web.wires import Ndjson, Sse, Wire

log = Logger()

EventEncoder = Callable[[Event], bytes]


class EventWire(Wire):
    """What a wire says of events besides what every wire says."""

    @abstractmethod
    def event_encoder(self, epoch: int) -> EventEncoder:
        """The function that encodes events of this life of the store; the same object each time."""

    @abstractmethod
    def place(self, cursor: str) -> bytes:
        """Where the client is."""

    @abstractmethod
    def say(self, word: str, value: Mapping[str, Any]) -> bytes:
        """What is no event."""


class EventNdjson(Ndjson, EventWire):
    """Event objects, a line each; what is no event has a ``type``."""

    def _message(self, message: Any, epoch: int) -> bytes:
        return b"{%b}\n" % event_members(message, epoch)

    def event_encoder(self, epoch: int) -> EventEncoder:
        """See EventWire."""
        encode: Any = self.encoder(epoch)
        return encode  # type: ignore[no-any-return]

    def place(self, cursor: str) -> bytes:
        """``{"type": "cursor", "cursor": ...}``."""
        return self._control("cursor", {"cursor": cursor})

    def say(self, word: str, value: Mapping[str, Any]) -> bytes:
        """An object with a ``type``."""
        return self._control(word, dict(value))


class EventSse(Sse, EventWire):
    """Server-sent events; ``id:`` is the cursor."""

    def _message(self, message: Any, epoch: int) -> bytes:
        return b"id: %d-%d\ndata: {%b}\n\n" % (epoch, message.id, event_members(message, epoch))

    def event_encoder(self, epoch: int) -> EventEncoder:
        """See EventWire."""
        encode: Any = self.encoder(epoch)
        return encode  # type: ignore[no-any-return]

    def place(self, cursor: str) -> bytes:
        """A block with an ``id:`` only."""
        return self._framed(b"id: %b\n\n" % cursor.encode("ascii"))

    def say(self, word: str, value: Mapping[str, Any]) -> bytes:
        """``event: WORD``."""
        return self._control(word, dict(value))


class EventComet(EventNdjson):
    """The same objects as COMET writes lines: with CRLF, or as calls of a JSONP callback."""

    transport = "comet"

    def __init__(self, callback: str | None, chunked: bool) -> None:
        super().__init__(chunked)
        self._callback = callback

    @cached_property
    def heartbeat(self) -> bytes:  # type: ignore[override]
        """An empty line; in a script nothing."""
        return b"" if self._callback is not None else self._framed(b"\r\n")

    def _message(self, message: Any, epoch: int) -> bytes:
        return self._line(b"{%b}" % event_members(message, epoch))

    def _control(self, word: str, value: dict[str, Any]) -> bytes:
        return self._framed(self._line(orjson.dumps({"type": word, **value})))

    def _line(self, data: bytes) -> bytes:
        if self._callback is not None:
            data = b"%b(%b);" % (self._callback.encode("ascii"), data)
        return data + b"\r\n"


@lru_cache(maxsize=KEPT_CALLBACKS)
def event_comet(callback: str | None, chunked: bool) -> EventWire:
    """The wire of a COMET stream of events."""
    return EventComet(callback, chunked)


@cache
def event_wire(sse: bool, chunked: bool) -> EventWire:
    """The one object for streams of this kind over HTTP."""
    return EventSse(chunked) if sse else EventNdjson(chunked)


class EventReader:
    """One client's end of a log: see ``restmq.core.event_subscribers.EventConsumer``."""

    __slots__ = ("_buffer", "_events", "_over", "_stream", "_told", "_way", "_wire", "clogged")

    def __init__(self, events: Any, stream: EventStream) -> None:
        self._events = events
        self._stream = stream
        self._way = stream.way
        self._wire = stream.event_wire
        self._buffer: Buffer | None = None
        self._told: EventCursor | None = None
        self._over = False
        self.clogged = False

    def begins(self, cursor: EventCursor) -> None:
        """Tell a client that came without a cursor that the stream is open, and where it is."""
        self._stream.opened()
        self._tell(cursor)

    def _tell(self, cursor: EventCursor) -> None:
        self._told = cursor
        self._way.write(self._wire.place(cursor.text))

    def deliver_events(self, lot: Lot) -> bool:
        """Send them, or let them wait; False when the log shall keep what comes now."""
        if self.clogged:
            self._wait(lot)
            return True
        if self._way.send(self._encoded(lot)):
            return True
        self._clog()
        return lot.live and self._stream.choices.slow is not Slow.BLOCK

    def _encoded(self, lot: Lot) -> bytes:
        return lot.encoded(self._wire.event_encoder(lot.epoch))

    def gap(self, gap: EventGap) -> None:
        """Something is not kept any more."""
        self._way.write(self._wire.say("gap", gap.members))

    def beat(self) -> bool:
        """Say where the client is, if it does not know; whether something was said."""
        cursor = self._events.position(self)
        if cursor is None or cursor == self._told or self.clogged:
            return False
        self._tell(cursor)
        return True

    # ---- slow clients

    def _clog(self) -> None:
        self.clogged = True
        self._way.when_drained(self._drained)

    def _wait(self, lot: Any) -> None:
        choices = self._stream.choices
        if self._buffer is None:
            self._buffer = Buffer(choices.slow, choices.buffer, choices.buffer_bytes)
        if not self._buffer.add(lot):
            self._stream.close(TOO_SLOW)

    def _encoded_part(self, part: Part | int) -> bytes:
        if isinstance(part, int):
            return self._wire.say("missed", {"missed": part})
        lot: Any = part.batch
        if part.whole:
            return self._encoded(lot)
        return b"".join(
            map(self._wire.event_encoder(lot.epoch), lot.messages[part.start : part.stop])
        )

    def _drained(self) -> None:
        """The transport is empty: send what waits, then read on."""
        if self._over:
            return
        self.clogged = False
        while self._buffer:
            if not self._way.send(self._encoded_part(self._buffer.take())):
                self._clog()
                return
        if self._stream.ending:
            self._stream.shut_down()
        else:
            self._events.resume(self)

    def left(self) -> None:
        """The client is gone, or needs us no more."""
        if self._over:
            return
        self._over = True
        self._events.unsubscribe(self)
        if self._buffer is not None and self._buffer.missed:
            log.info(
                "a reader of events read too slowly and missed {missed}",
                missed=self._buffer.missed,
            )
        self._buffer = None


class EventStream(Stream):
    """All events that go to one client."""

    __slots__ = ("_reader", "begun", "event_wire")

    def __init__(self, beats: Beats, way: Way, wire: EventWire, choices: Choices) -> None:
        super().__init__(beats, way, wire, choices)
        self.event_wire = wire
        self._reader: EventReader | None = None
        self.begun: Deferred[None] = Deferred()
        """Fires when what is published from here on comes, or the client is gone."""

    def begin(
        self, events: Any, log_name: str, selection: Selection, after: EventCursor | None
    ) -> None:
        """Send what matches behind a cursor, or from now on.

        The client is told that the stream is open when nothing that is published later is missed.
        """
        if after is not None:
            self.opened()
        self._reader = EventReader(events, self)
        self.consumers = [self._reader]
        self.begin_beating()
        events.subscribe(log_name, selection, after, self._reader)

    def opened(self) -> None:
        """Say so."""
        opening = self.wire.opening("")
        if opening:
            self.way.write(opening)
        self._tell_begun()

    def _tell_begun(self) -> None:
        if not self.begun.called:
            self.begun.callback(None)

    def left(self, _: object = None) -> None:
        """The client is gone."""
        super().left()
        self._tell_begun()

    def _beat(self) -> None:
        if self._reader is None or not self._reader.beat():
            super()._beat()


class AskedStream(NamedTuple):
    """A stream of events as a client wants it; ``after`` None: from now on."""

    log: str
    selection: Selection
    after: EventCursor | None
    choices: Choices


def begin_over_http(broker: Any, exchange: Exchange, wire: EventWire, asked: AskedStream) -> None:
    """Stream to a client whose response has begun; nothing if it left meanwhile."""
    if exchange.open:
        bound_kernel_buffer(exchange.transport)
        stream = EventStream(broker.beats, exchange, wire, asked.choices)
        exchange.gone.addCallback(stream.left)
        exchange.on_closing = stream.shut_down
        stream.begin(broker.events, asked.log, asked.selection, asked.after)


DEFAULT_SLOW: Final = Slow.BLOCK.value
