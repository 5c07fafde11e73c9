"""What all WebSocket doors share: the connection on autobahn, its frames, its end (RFC 6455).

The handshake was read by ``restmq.web.handshake`` and let in by the rules of every request before a
``Connection`` is made. autobahn then speaks the protocol; what streams push goes past it, encoded
once for all clients, while the connection is open.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.protocol import connectionDone

from restmq.web import deflate
from restmq.web.frames import PING, TEXT, frame
from restmq.web.reply import SERVER
from restmq.web.transmit import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from restmq.settings import Settings
    from restmq.web.handshake import Handshake

MIN_UNREAD: Final = 1048576
"""Bytes a client may leave unread before it is cut off for sending without reading.

One answer is always allowed, so with longer messages it is their length.
"""

CLOSING_SECONDS: Final = 5
"""How long a client may take for its part of the close handshake, and to read what was sent."""

PING_FRAME: Final = frame(PING, b"")


def text_frame(payload: bytes, bits: int | None) -> bytes:
    """A text message, compressed for clients with a window of so many bits (None: not)."""
    return frame(TEXT, payload) if bits is None else deflate.deflated_frame(payload, bits)


@cache
def _factory(reactor: Any, max_message: int) -> WebSocketServerFactory:
    """What all connections share. Who may connect was decided before: any origin is right here."""
    factory = WebSocketServerFactory(server=SERVER, reactor=reactor)  # type: ignore[no-untyped-call]
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
        """The stream is over."""
        self._close()


class Connection(WebSocketServerProtocol):
    """One client. Subclasses say what happens when it is there, speaks, and is gone."""

    def __init__(self, broker: Any, asked: Handshake, settings: Settings) -> None:
        super().__init__()
        self.factory = _factory(broker.clock, settings.max_websocket_message)
        self.broker = broker
        self.settings = settings
        self.bits: int | None = None
        self.outlet: Outlet
        self._asked = asked
        self._agreed = deflate.agree(asked.extensions) if settings.websocket_compression else None
        self._patience: IDelayedCall | None = None
        self._over = False

    # ---- for subclasses

    def opened(self) -> None:
        """The handshake is done: messages may come."""

    def heard(self, payload: bytes, is_binary: bool) -> None:
        """The client sent a message."""

    def leave(self) -> None:
        """Nothing more can be sent: the client closes, we close, or it is gone. Called once."""

    def closing(self) -> None:
        """The daemon is about to end: close soon. May be called more than once."""

    def allowance(self) -> int:
        """Bytes that may wait for the client beside the answers to what it says."""
        return 0

    def subprotocol(self) -> str | None:
        """The one that is spoken here, if the client asked for it."""
        return None

    def say_farewell(self, code: int, reason: str) -> None:
        """Begin the close handshake; autobahn's sendClose takes no code but 1000 of the RFC's."""
        self.sendCloseFrame(code, reason.encode("utf-8"))

    # ---- autobahn

    def connectionMade(self) -> None:
        """The transport is ours: let autobahn read the handshake."""
        super().connectionMade()
        assert self.transport is not None
        self.outlet = Outlet(self.transport)
        self.dataReceived(self._asked.head())

    def onConnect(self, request: Any) -> Any:
        """What the reply to the handshake says besides: the subprotocol and the compression."""
        more = {}
        if self._agreed is not None:
            more["Sec-WebSocket-Extensions"] = self._agreed.answer
        return self.subprotocol(), more

    def onOpen(self) -> None:
        """The handshake is done."""
        if self._agreed is not None:
            self.bits = self._agreed.bits
            self._perMessageCompress = deflate.Codec(self.bits)  # type: ignore[assignment]
        self.opened()

    def onMessage(self, payload: bytes, is_binary: bool) -> None:
        """The client sent a message; once we say goodbye nothing it says counts."""
        if not self._over and self._is_read():
            self.heard(payload, is_binary)

    def onPing(self, payload: bytes) -> None:
        """Answer."""
        if not self._over and self._is_read():
            super().onPing(payload)

    def _is_read(self) -> bool:
        """Whether the client takes what it gets; who sends and never reads is cut off."""
        limit = max(MIN_UNREAD, self.settings.max_websocket_message) + self.allowance()
        if self.outlet.backlog() <= limit:
            return True
        self.dropConnection(abort=True)
        return False

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
            self._patience = self.broker.clock.callLater(CLOSING_SECONDS, self._abort)
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
        if not self._over:
            self._over = True
            self.leave()
