"""Sending at once: the socket first, and Twisted's buffer only for what the kernel refuses.

``transport.write`` costs three system calls a reply (register for writing, send, unregister);
trying the socket first costs one. That is only sound where nothing stands between us and the
socket: a transport whose type *is* ``twisted.internet.tcp.Server``, without TLS, producer,
buffered data or any closing flag. Attribute tests alone would pass through a TLS wrapper to
the raw socket and send plain text (seen), and a pull producer would never be asked again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet import interfaces, tcp
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer

SEND_LIMIT: Final = 128 * 1024
"""Bytes offered to the socket at once; more would block the reactor turn for others."""

READ_ATTRIBUTES: Final = (
    "TLS",
    "_aborting",
    "_tempDataBuffer",
    "_tempDataLen",
    "_writeDisconnected",
    "_writeDisconnecting",
    "connected",
    "dataBuffer",
    "disconnected",
    "disconnecting",
    "offset",
    "producer",
    "socket",
)
"""Everything of ``tcp.Server`` this module relies on; a test holds Twisted to it."""


def send_now(transport: interfaces.ITransport, data: bytes) -> bool:
    """Send what the socket takes now and leave the rest to ``transport.write``.

    True when every byte is with the kernel. An error on the socket is left for the reactor to
    find, so no ``connectionLost`` ever runs inside this call: it is safe in a fan-out loop.
    """
    if type(transport) is not tcp.Server or (
        # A byte sent on the socket now would not come right after all that was written before.
        transport._tempDataBuffer
        or transport.dataBuffer
        or transport.producer is not None
        or transport.disconnecting
        or transport._writeDisconnecting
        or transport._writeDisconnected
        or transport._aborting
        or transport.disconnected
        or not transport.connected
        or transport.TLS
    ):
        transport.write(data)
        return False
    try:
        sent = transport.socket.send(data if len(data) <= SEND_LIMIT else data[:SEND_LIMIT])
    except OSError:
        sent = 0
    if sent == len(data):
        return True
    transport.write(data[sent:] if sent else data)  # type: ignore[no-untyped-call]
    return False


def has_closed(transport: interfaces.ITransport) -> bool:
    """Whether the client has closed its side, even if the reactor has not told yet.

    That is known of plain sockets only, and while nothing that the client sent waits to be read.
    """
    if not isinstance(transport, tcp.Server) or not _is_readable(transport):
        return False
    try:
        return not transport.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _is_readable(transport: tcp.Server) -> bool:
    return not (not transport.connected or transport.TLS)


def is_drained(transport: tcp.Server) -> bool:
    """Whether Twisted holds no byte of this transport back."""
    return not (transport._tempDataBuffer or transport.dataBuffer)


@implementer(interfaces.IPushProducer, interfaces.IPullProducer)
class Outlet:
    """The way out of one connection: send at once, and be told when all is sent.

    On a plain TCP transport "all" is exact: every byte is with the kernel. On any other (TLS,
    a UNIX socket, a test's) it means that Twisted does not ask us to pause, so that less than
    64 KiB wait; those transports keep this object as their producer for good.
    """

    __slots__ = ("_bare", "_full", "_transport", "_waiting")

    def __init__(self, transport: interfaces.ITransport) -> None:
        self._transport = transport
        self._bare = type(transport) is tcp.Server and not transport.TLS
        self._full = False
        self._waiting: list[Callable[[], None]] = []
        if not self._bare:
            transport.registerProducer(self, True)  # type: ignore[attr-defined]

    def send(self, data: bytes) -> bool:
        """Send; False when some of it waits, and ``when_drained`` will tell of its end."""
        if self._bare:
            return send_now(self._transport, data)
        self._transport.write(data)
        return not self._full

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once when nothing waits any more; at once if that is so already.

        Never called if the connection is lost first.
        """
        self._waiting.append(callback)
        if self._bare and self._transport.producer is None:  # type: ignore[attr-defined]
            self._transport.registerProducer(self, False)  # type: ignore[attr-defined]
        elif not self._bare and not self._full:
            self._tell()

    def release(self) -> None:
        """Let go of the transport: somebody else will use it."""
        self._waiting = []
        if not self._bare or self._transport.producer is self:  # type: ignore[attr-defined]
            self._transport.unregisterProducer()  # type: ignore[attr-defined]

    def backlog(self) -> int:
        """How many bytes Twisted holds back, as they go over the wire, where that can be known; else 0.

        It is known of sockets, and of those under TLS, which itself keeps less than a record.
        """
        socket_of: Any = self._transport
        while isinstance(socket_of, ProtocolWrapper):
            socket_of = socket_of.transport
        if not isinstance(socket_of, tcp.Server):
            return 0
        transport = socket_of
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen

    def pauseProducing(self) -> None:
        """Twisted holds more than it likes to."""
        self._full = True

    def resumeProducing(self) -> None:
        """Twisted holds nothing more (or only begins to: see is_drained)."""
        self._full = False
        if self._bare:
            assert isinstance(self._transport, tcp.Server)
            if not is_drained(self._transport):
                return
            self._transport.unregisterProducer()  # type: ignore[no-untyped-call]
        self._tell()

    def stopProducing(self) -> None:
        """The connection is lost; whoever waits hears of it another way."""
        self._waiting = []

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
