"""``/ws/NAME``: the WebSocket door of 2010, on autobahn.

The handshake comes through the same port, origin and access checks as every request and is read
by ``restmq.web.handshake``; then autobahn has the connection. Each pushed message is a text frame
``{"key", "value"}``; what the client sends comes back as it was (an echo). The close handshake
ends the subscription.

RFC 6455; compressed as ``restmq.web.deflate`` says, if the settings want it. Credentials: HTTP Basic, or the cookie ``auth=user:password``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.protocol import connectionDone

from restmq.message import Message
from restmq.web import deflate, handshake, historic, streams
from restmq.web.choices import PARAMETERS, read_choices, read_cursors
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint
from restmq.web.frames import PING, TEXT, frame
from restmq.web.stream import (
    DELETED,
    SHUT_DOWN,
    TOO_SLOW,
    Choices,
    Cursor,
    Stream,
    bound_kernel_buffer,
)
from restmq.web.transmit import Outlet
from restmq.web.wires import Encoder, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from restmq.settings import Settings

MIN_ECHO_BACKLOG: Final = 1048576
"""Bytes a client may leave unread before it is cut off for sending without reading.

One echo is always allowed, so with longer messages it is their length.
"""

CLOSE_CODES: Final = {DELETED: 1000, SHUT_DOWN: 1001, TOO_SLOW: 4008}
"""Why we close, by RFC 6455, section 7.4; 4008 is our own: the client asked to be cut off."""

CLOSING_SECONDS: Final = 5
"""How long a client may take for its part of the close handshake, and to read what was sent."""


PING_FRAME: Final = frame(PING, b"")


class HistoricFrames(Wire):
    """The text frames of 2010; who named a choice is told how much it missed.

    Frames are unmasked (RFC 6455, section 5.2), compressed for clients with a window of so many
    bits (None: not), and the same for all clients of a kind.
    """

    transport = "websocket"
    heartbeat = PING_FRAME

    def __init__(self, talks: bool, bits: int | None) -> None:
        self._talks = talks
        self._bits = bits
        self._encode = message_frame(bits)

    def encoder(self, epoch: int) -> Encoder:
        """The same for all lives of the store."""
        return self._encode

    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """The object with its receipt as one member more."""
        text = historic.line(message)[:-3] + b', "receipt": "%b"}' % receipt.encode("ascii")
        return text_frame(text, self._bits)

    def missed(self, queue: str, count: int) -> bytes:
        """``{"missed": 3}``."""
        return text_frame(b'{"missed": %d}' % count, self._bits) if self._talks else b""


@cache
def historic_frames(talks: bool, bits: int | None) -> HistoricFrames:
    """The wire for clients of one kind."""
    return HistoricFrames(talks, bits)


def text_frame(payload: bytes, bits: int | None) -> bytes:
    """A text message, compressed if there is a window."""
    return frame(TEXT, payload) if bits is None else deflate.deflated_frame(payload, bits)


@cache
def message_frame(bits: int | None) -> Encoder:
    """The encoder of messages: one function for all clients with this window."""
    return lambda message: text_frame(historic.line(message)[:-2], bits)


class Plan(NamedTuple):
    """What is to be streamed to a client."""

    queue: str
    choices: Choices
    cursor: Cursor | None
    talks: bool


class WebSocket(Endpoint):
    """``/ws/NAME``."""

    @endpoint(Access.WEBSOCKET)
    def get(self, queue: str) -> Any:
        """Take the handshake, or refuse what is none as the original did."""
        head = self.request.head
        if not handshake.is_upgrade(head.headers):
            return Reply(403, b"Expected WebSocket Headers")
        try:
            asked = handshake.read(head)
        except Refusal as refusal:
            body = f"{refusal.why}\r\n".encode("ascii")
            return Reply(refusal.status, body, "text/plain", refusal.headers)
        given = {name: text for name in PARAMETERS if (text := self.parameter(name)) is not None}
        choices = read_choices(given, self.settings, heartbeat=0)
        (cursor,) = read_cursors(given.get("cursor"), 1)
        plan = Plan(queue, choices, cursor, bool(given))
        checked = streams.check(self.broker, [queue], choices)
        return checked.addCallback(lambda _: self._begin(plan, asked))

    def _begin(self, plan: Plan, asked: handshake.Handshake) -> None:
        if not self.exchange.open:
            return
        bound_kernel_buffer(self.exchange.transport)
        protocol = _Door(self.broker, plan, asked, self.settings)
        protocol.factory = _factory(self.broker.clock, self.settings.max_websocket_message)
        self.exchange.take_over(protocol)

    @endpoint(Access.WEBSOCKET)
    def post(self, queue: str) -> Reply:
        """No handshake."""
        return Reply(403, b"Expected WebSocket Headers")


@cache
def _factory(reactor: Any, max_message: int) -> WebSocketServerFactory:
    """What all connections share. Who may connect was decided before: any origin is right here."""
    factory = WebSocketServerFactory(reactor=reactor)  # type: ignore[no-untyped-call]
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        webStatus=False,
        failByDrop=False,
        maxFramePayloadSize=max_message,
        maxMessagePayloadSize=max_message,
        closeHandshakeTimeout=CLOSING_SECONDS,
        openHandshakeTimeout=CLOSING_SECONDS,
    )
    return factory


class Way:
    """A WebSocket as a stream's consumer sees its exchange."""

    __slots__ = ("_close", "_outlet")

    def __init__(self, outlet: Outlet, close: Callable[[], None]) -> None:
        self._outlet = outlet
        self._close = close

    def send(self, data: bytes) -> bool:
        """Send at once; False when some of it waits."""
        return self._outlet.send(data)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once, when nothing waits."""
        self._outlet.when_drained(callback)

    def write(self, data: bytes) -> None:
        """Send, or let it wait."""
        self._outlet.send(data)

    def finish(self) -> None:
        """Begin the close handshake."""
        self._close()


class _Door(WebSocketServerProtocol):
    """One client: an echo, and a consumer of the queue from the handshake to the close."""

    def __init__(
        self,
        broker: Any,
        plan: Plan,
        asked: handshake.Handshake,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._broker = broker
        self._plan = plan
        self._asked = asked
        self._max_message = settings.max_websocket_message
        compresses = settings.websocket_compression
        self._agreed = deflate.agree(asked.extensions) if compresses else None
        self._stream: Stream | None = None
        self._patience: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """The transport is ours: let autobahn read the handshake."""
        super().connectionMade()
        assert self.transport is not None
        self._outlet = Outlet(self.transport)
        self.dataReceived(self._asked.head())

    def onConnect(self, request: Any) -> Any:
        """What the reply to the handshake says besides: no subprotocol, but the compression."""
        if self._agreed is None:
            return None
        return None, {"Sec-WebSocket-Extensions": self._agreed.answer}

    def onOpen(self) -> None:
        """The handshake is done: messages may come."""
        bits = None
        if self._agreed is not None:
            bits = self._agreed.bits
            self._perMessageCompress = deflate.Codec(bits)  # type: ignore[assignment]
        way = Way(self._outlet, self._say_farewell)
        plan = self._plan
        wire = historic_frames(plan.talks, bits)
        self._stream = Stream(self._broker.clock, way, wire, plan.choices)
        self._stream.open(self._broker, {plan.queue: plan.cursor})

    def onMessage(self, payload: bytes, is_binary: bool) -> None:
        """Echo it, compressed unless autobahn might find the result too long."""
        if self._is_read():
            plain = deflate.longest(len(payload)) > self._max_message
            self.sendMessage(payload, is_binary, doNotCompress=plain)  # type: ignore[no-untyped-call]

    def onPing(self, payload: bytes) -> None:
        """Answer."""
        if self._is_read():
            super().onPing(payload)

    def _is_read(self) -> bool:
        """Whether the client takes what it gets; who sends and never reads is cut off."""
        if self._outlet.backlog() <= max(MIN_ECHO_BACKLOG, self._max_message):
            return True
        self.dropConnection(abort=True)
        return False

    def closing(self) -> None:
        """The daemon ends: close once the kernel has all that is in hand."""
        if self._stream is not None:
            self._stream.shut_down()

    def _say_farewell(self) -> None:
        """Begin the close handshake; autobahn's sendClose takes no code but 1000 of the RFC's."""
        reason = DELETED if self._stream is None else self._stream.reason
        self.sendCloseFrame(CLOSE_CODES[reason], reason.encode("ascii"))

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        """Say goodbye: no message may follow (RFC 6455, section 5.5.1)."""
        super().sendCloseFrame(*args, **kwargs)
        self._leave()

    def dropConnection(self, abort: bool = False) -> None:
        """End the connection.

        After a close handshake, what was sent before still reaches the client, if it reads that
        in time; autobahn would reset the connection and lose the close frame.
        """
        abort = abort and not self.wasClean
        if not abort and self._patience is None:
            self._patience = self._broker.clock.callLater(CLOSING_SECONDS, self._abort)
        super().dropConnection(abort)

    def _abort(self) -> None:
        self._patience = None
        self._closeConnection(abort=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        super().connectionLost(reason)

    def onClose(self, was_clean: bool, code: int | None, reason: str | None) -> None:
        """The client closes, or is gone."""
        self._leave()

    def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.left()
