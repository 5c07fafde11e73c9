"""``/ws/NAME``: the WebSocket door of 2010, on autobahn.

The handshake comes through the same port, origin and access checks as every request and is read
by ``restmq.web.handshake``; then autobahn has the connection. Each pushed message is a text frame
``{"key", "value"}``; what the client sends comes back as it was (an echo). The close handshake
ends the subscription.

RFC 6455. No compression. Credentials: HTTP Basic, or the cookie ``auth=user:password``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.protocol import connectionDone

from restmq.message import Message
from restmq.web import handshake, historic
from restmq.web.comet import StreamConsumer, bound_kernel_buffer
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint
from restmq.web.frames import TEXT, frame
from restmq.web.transmit import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from restmq.settings import Settings

MIN_ECHO_BACKLOG: Final = 1048576
"""Bytes a client may leave unread before it is cut off for sending without reading.

One echo is always allowed, so with longer messages it is their length.
"""

CLOSING_SECONDS: Final = 5
"""How long a client may take for its part of the close handshake, and to read what was sent."""


def text_frame(message: Message) -> bytes:
    """A message as an unmasked text frame (RFC 6455, section 5.2); the same for all clients."""
    return frame(TEXT, historic.line(message)[:-2])


class WebSocket(Endpoint):
    """``/ws/NAME``."""

    @endpoint(Access.WEBSOCKET)
    def get(self, queue: str) -> Reply | None:
        """Take the handshake, or refuse what is none as the original did."""
        head = self.request.head
        if not handshake.is_upgrade(head.headers):
            return Reply(403, b"Expected WebSocket Headers")
        try:
            asked = handshake.read(head)
        except Refusal as refusal:
            body = f"{refusal.why}\r\n".encode("ascii")
            return Reply(refusal.status, body, "text/plain", refusal.headers)
        bound_kernel_buffer(self.exchange.transport)
        protocol = _Door(self.broker, queue, asked, self.settings)
        protocol.factory = _factory(self.broker.clock, self.settings.max_websocket_message)
        self.exchange.take_over(protocol)
        return None

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


class _Way:
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
        queue: str,
        asked: handshake.Handshake,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._broker = broker
        self._queue = queue
        self._asked = asked
        self._max_message = settings.max_websocket_message
        self._consumer: StreamConsumer | None = None
        self._patience: IDelayedCall | None = None
        self._farewell = self.CLOSE_STATUS_CODE_NORMAL, b"the queue was deleted"

    def connectionMade(self) -> None:
        """The transport is ours: let autobahn read the handshake."""
        super().connectionMade()
        assert self.transport is not None
        self._outlet = Outlet(self.transport)
        self.dataReceived(self._asked.head())

    def onOpen(self) -> None:
        """The handshake is done: messages may come."""
        way = _Way(self._outlet, self._say_farewell)
        self._consumer = StreamConsumer(self._broker, self._queue, way, text_frame)
        self._broker.attach(self._queue, self._consumer)

    def onMessage(self, payload: bytes, is_binary: bool) -> None:
        """Echo it."""
        if self._is_read():
            self.sendMessage(payload, is_binary)  # type: ignore[no-untyped-call]

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
        self._farewell = self.CLOSE_STATUS_CODE_GOING_AWAY, b"the broker is going away"
        if self._consumer is not None:
            self._consumer.closing()

    def _say_farewell(self) -> None:
        """Begin the close handshake; autobahn's sendClose takes no code but 1000 of the RFC's."""
        self.sendCloseFrame(*self._farewell)

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
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.left()
