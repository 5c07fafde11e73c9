"""HTTP/1.1 connections: the ``protocol`` of our cyclone Application.

A ``Channel`` is one connection. It reads requests with ``restmq.web.wire``, one after the
other, and hands each as a ``Request`` to the application; requests that come in before the
reply to the last wait, within bounds. An ``Exchange`` is one request with its reply. cyclone's
own protocol has no limits, mixes up pipelined requests and takes every normal end for a lost
client; here ``exchange.gone`` fires only when the client left before its reply was complete.

How a connection ends: after a reply when the client or HTTP/1.0 wants it so; with 408 or
silently when nothing moves for ``idle_seconds``; after a refusal (see ``wire.Refusal``) by
closing our side, and the other once the client had a moment to read the error page, since
closing with unread input would reset the connection and lose the page. A client that shuts
down its sending side still gets the replies to what it sent, unless somebody waits for
``gone``: then it counts as gone.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

from twisted.internet import address, interfaces, tcp
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from restmq.web.exchange import Exchange, Request, chunk
from restmq.web.reply import Reply, encode
from restmq.web.transmit import Outlet
from restmq.web.wire import (
    HEAD_END,
    MAX_LEADING_LINES,
    Body,
    Head,
    HeadTable,
    Limits,
    Refusal,
    body_reader,
    check_partial,
)

__all__ = ["Channel", "Exchange", "Request", "chunk"]

MAX_UNREAD_BYTES: Final = 65536
"""What may wait behind the request that is being answered."""
MAX_KEPT_HEAD_BYTES: Final = 1024
"""Longer heads are read anew each time."""
MIN_PROGRESS_BYTES: Final = 16384
"""A body this much further on is not too slow, whatever its length."""
MAX_ALL_BODIES: Final = 256 * 1048576
"""Bytes of unfinished bodies that all connections together may hold."""
LINGER_BYTES: Final = 16 * 1048576
LINGER_TICKS: Final = 3
UNIX: Final = "unix"
"""The remote address of whoever comes through a UNIX socket."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server(Protocol):
    """What a channel asks of its factory, the application."""

    limits: Limits
    heads: HeadTable
    body_bytes: int
    """Bytes of unfinished bodies that all channels hold."""

    def __call__(self, request: Any) -> Any:
        """Answer a request."""

    def check_head(self, head: Head, remote_ip: str, secure: bool) -> None:
        """Raise Refusal if the request will be refused, whatever its body is."""

    def refused(self, head: Head | None, refusal: Refusal) -> Reply:
        """The reply to a request that is refused; ``head`` is None if it could not be read."""

    def body_limit(self, head: Head) -> int:
        """How many bytes the body of this request may have."""

    def connected(self, channel: Channel) -> None:
        """A connection was made."""

    def counts(self, channel: Channel) -> None:
        """Ticks count again for a channel whose ``tick`` was False."""

    def disconnected(self, channel: Channel) -> None:
        """A connection is gone."""


class Successor(Protocol):
    """A protocol that takes a connection over: one of Twisted's that can be told of the end."""

    def makeConnection(self, transport: interfaces.ITransport) -> None:
        """Begin."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the client."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""

    def closing(self) -> None:
        """The daemon is about to end: tell the client and close. May be called more than once."""


@implementer(interfaces.IHalfCloseableProtocol)
class Channel(TwistedProtocol):
    """One connection: reads requests, has them answered in order, and ends in time.

    ``idle_ticks`` counts the application's ticks since anything moved; nothing on the way of
    a request looks at a clock.
    """

    factory: Server

    def __init__(self) -> None:
        self.idle_ticks = 0
        self._uncounted = False  # no ticks come: what is on the way may take any time
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._checked = 0
        self._blank_lines = 0
        self._head: Head | None = None  # the last one, and its bytes, kept while short
        self._head_bytes = b""
        self._whole = -1  # head and body together, if the same request comes again
        self._body: Body | None = None
        self._body_head: Head | None = None
        self._body_bytes = 0
        self._held = 0
        self._ready = False  # nothing buffered, nothing on the way: the short way is open
        self._pumping = False
        self._clogged = False
        self._backlog = 0
        self._paused = False
        self._ended = False  # the client sends nothing more
        self._lingering = False
        self._closing = False  # the daemon is about to end
        self._drained = 0
        self._successor: Successor | None = None

    def connectionMade(self) -> None:
        """Learn who is there."""
        assert self.transport is not None
        self.limits = self.factory.limits
        self.heads = self.factory.heads
        self.outlet = Outlet(self.transport)
        self.remote_ip = _remote_ip(self.transport.getPeer())
        self.secure = interfaces.ISSLTransport.providedBy(self.transport)
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None and self.remote_ip != UNIX:
            set_no_delay(True)
        self._ready = True
        self.factory.connected(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes: mostly one whole request with the head the last one had."""
        if self._ready and len(data) == self._whole and data.startswith(self._head_bytes):
            assert self._head is not None
            self._begin(self._head, data[len(self._head_bytes) :])
        elif self._ready and (head := self._whole_request(data)) is not None:
            self._keep(head, data[: head.size])
            self._begin(head, data[head.size :])
        elif self._lingering:
            self._drain(len(data))
        else:
            if self._ready:
                self._ready = False
                self.idle_ticks = 0
            self._buffer = self._buffer + data if self._buffer else data
            if self._exchange is None and not self._clogged:
                self._pump()
            else:
                self._hold_back()

    def readConnectionLost(self) -> None:
        """The client sends nothing more; what it has asked for may still be answered."""
        self._ended = True
        exchange = self._exchange
        if self._successor is not None:
            self._lose()
        elif exchange is not None and (exchange.is_watched or exchange.streaming):
            self._exchange = None
            self._close()
            exchange.client_left()
        elif self._lingering or exchange is None:
            self._close()

    def writeConnectionLost(self) -> None:
        """Our side is closed, as we wanted."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: tell whoever is still answering."""
        self._let_go()
        self.factory.disconnected(self)
        if self._successor is not None:
            self._successor.connectionLost(reason)
            return
        self._ready = False
        self._buffer = b""
        self._body = self._body_head = self._head = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    # -- reading -------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start what can be started of what has come."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._may_start() and self._step():
                pass
        except Refusal as refusal:
            self._refuse(refusal)
        finally:
            self._pumping = False
        self._settle()

    def _may_start(self) -> bool:
        return (
            self._exchange is None
            and bool(self._buffer)
            and not self._clogged
            and not self._lingering
            and self._successor is None
        )

    def _settle(self) -> None:
        """After the last thing that could be started was."""
        if self._exchange is not None or self._lingering or self._successor is not None:
            return
        self._let_in()
        if self._ended and not self._clogged:
            self._close()
        self._ready = not (self._buffer or self._body or self._clogged or self._ended)

    def _step(self) -> bool:
        """Read one head, or more of a body; False when more must come first."""
        if self._body is None and not self._read_head():
            return False
        assert self._body is not None
        assert self._body_head is not None
        self._note_progress(len(self._buffer))
        rest = self._body.feed(self._buffer)
        if rest is None:
            self._hold(len(self._buffer))
            return False
        self._buffer = rest
        self._let_go()
        head, body = self._body_head, self._body.content()
        self._body = self._body_head = None
        self._begin(head, body)
        return True

    def _read_head(self) -> bool:
        """Read a head from the buffer, and make ready for its body."""
        head = self._next_head()
        if head is None:
            return False
        self._buffer = self._buffer[head.size :]
        self._checked = self._blank_lines = self._body_bytes = 0
        self._body_head = head
        limit = self.limits.body
        if not 0 <= head.body_length <= limit:
            limit = self.factory.body_limit(head)
        self._body = body_reader(head, limit)
        if head.expects_continue and head.body_length and not self._buffer:
            self.factory.check_head(head, self.remote_ip, self.secure)
            self.outlet.send(CONTINUE)
        return True

    def _next_head(self) -> Head | None:
        if self._head is not None and self._buffer.startswith(self._head_bytes):
            return self._head
        self._skip_blank_lines()
        end = self._buffer.find(HEAD_END, max(0, self._checked - 3))
        if end < 0:
            if self._buffer:
                check_partial(self._buffer, self._checked, self.limits)
            self._checked = len(self._buffer)
            return None
        data = self._buffer[: end + 4]
        head = self.heads.find(data, self._head, self._head_bytes) or self.heads.read(data)
        self._keep(head, data)
        return head

    def _skip_blank_lines(self) -> None:
        while self._buffer.startswith(b"\r\n"):
            self._buffer = self._buffer[2:]
            self._checked = 0
            self._blank_lines += 1
            if self._blank_lines > MAX_LEADING_LINES:
                raise Refusal(400, "empty lines where a request should be")

    def _keep(self, head: Head, data: bytes) -> None:
        """Remember a head: clients send the same one again and again."""
        if len(data) > MAX_KEPT_HEAD_BYTES:
            self._head, self._head_bytes, self._whole = None, b"", -1
            return
        self._head, self._head_bytes = head, data
        self._whole = head.size + head.body_length if self._is_plain(head) else -1

    def _is_plain(self, head: Head) -> bool:
        """Nothing has to be said before the body comes, and its length is known."""
        return 0 <= head.body_length <= self.limits.body and not head.expects_continue

    def _whole_request(self, data: bytes) -> Head | None:
        """The head, if it is a known one and the data is this request, whole, and nothing else."""
        head = self.heads.find(data, self._head, self._head_bytes)
        if head is not None and len(data) == head.size + head.body_length and self._is_plain(head):
            return head
        return None

    def _begin(self, head: Head, body: bytes) -> None:
        """Have a complete request answered."""
        self._ready = False
        self.idle_ticks = 0
        exchange = self._exchange = Exchange(self, head)
        if self._closing:
            exchange.keep_alive = False
        self.factory(Request(head, body, exchange))

    def _hold(self, count: int) -> None:
        """Account for what is buffered of an unfinished body."""
        self._buffer = b""
        self._held += count
        self.factory.body_bytes += count
        if self.factory.body_bytes > MAX_ALL_BODIES:
            raise Refusal(503, "too many large requests at once", (("Retry-After", "1"),))

    def _let_go(self) -> None:
        """The body is complete, or nobody wants it any more."""
        self.factory.body_bytes -= self._held
        self._held = 0

    def _note_progress(self, count: int) -> None:
        """A body that comes on is not idle; one that trickles is."""
        self._body_bytes += count
        if self._body_bytes >= MIN_PROGRESS_BYTES:
            self._body_bytes = 0
            self.idle_ticks = 0

    def _hold_back(self) -> None:
        """More has come while a reply is on its way: stop reading when it is too much."""
        if len(self._buffer) <= MAX_UNREAD_BYTES:
            return
        exchange = self._exchange
        if exchange is not None and (exchange.is_watched or exchange.streaming):
            self.abort()
        elif not self._paused:
            self._paused = True
            self._producer().pauseProducing()

    def watched(self, exchange: Exchange) -> None:
        """Somebody wants to know when the client leaves: from now on always keep reading."""
        if self._ended:
            self._close()
        elif self._paused:
            self.abort()

    def _let_in(self) -> None:
        if self._paused and len(self._buffer) <= MAX_UNREAD_BYTES:
            self._paused = False
            self._producer().resumeProducing()

    def _producer(self) -> interfaces.IPushProducer:
        return cast("interfaces.IPushProducer", self.transport)

    # -- after a reply -------------------------------------------------------------------

    def finished(self, exchange: Exchange, all_sent: bool) -> None:
        """Called by the exchange when its response is complete."""
        if exchange is not self._exchange:
            return
        self._exchange = None
        self.idle_ticks = 0
        if self._uncounted:
            self._count()
        if not all_sent:
            self._clogged = True
            self.outlet.when_drained(self._unclogged)
        if not exchange.keep_alive:
            self._close()
        elif self._buffer or self._paused or self._ended or self._clogged:
            self._pump()
        elif not self._pumping:
            self._ready = True

    def _unclogged(self) -> None:
        """The client has taken its reply: it may have the next."""
        self._clogged = False
        self.idle_ticks = 0
        self._pump()

    def hand_over(self, protocol: Successor) -> None:
        """Called by the exchange: everything from here on is for another protocol."""
        assert self.transport is not None
        self._exchange = None
        self._successor = protocol
        data, self._buffer = self._buffer, b""
        self.outlet.release()
        if self._paused:
            self._paused = False
            self._producer().resumeProducing()
        self.dataReceived = protocol.dataReceived  # type: ignore[method-assign]
        protocol.makeConnection(self.transport)
        if data:
            protocol.dataReceived(data)

    # -- the end -------------------------------------------------------------------------

    def tick(self, limit: int) -> bool:
        """One tick of the application's clock; ``limit`` ticks without a move are too many.

        False while a request is being answered, or a successor has the connection: no more ticks
        are wanted until the application is told that they count again.
        """
        if self._exchange is not None or self._successor is not None:
            self._uncounted = True
            return False
        self.idle_ticks += 1
        if self._clogged:
            self._note_backlog()
        if self._lingering and not self._clogged:
            limit = LINGER_TICKS
        if self.idle_ticks >= limit:
            self._time_out()
        return True

    def _count(self) -> None:
        """Have ticks again."""
        if self._uncounted:
            self._uncounted = False
            self.factory.counts(self)

    def _note_backlog(self) -> None:
        """A client that takes its reply slowly is not idle."""
        backlog = self.outlet.backlog()
        if backlog != self._backlog:
            self._backlog = backlog
            self.idle_ticks = 0

    def _time_out(self) -> None:
        if self._clogged or self._lingering:
            self.abort()
        elif self._buffer or self._body is not None:
            self._refuse(Refusal(408, "the request did not come to its end in time"))
        else:
            self._close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error page and close."""
        page = self.factory.refused(self._body_head, refusal)
        is_head = self._body_head is not None and self._body_head.method == "HEAD"
        with_body = not (is_head or self._buffer.startswith(b"HEAD "))
        self._body = self._body_head = None
        self._let_go()
        self.outlet.send(encode(page, "close", with_body))
        self._linger()

    def _linger(self) -> None:
        """Close our side, and read on for a moment so that the client can read the reply."""
        self._lingering = True
        self._ready = False
        self._buffer = b""
        self.idle_ticks = 0
        if self._paused:
            self._paused = False
            self._producer().resumeProducing()
        transport: Any = self.transport
        if isinstance(transport, tcp.Server):
            self.outlet.when_drained(transport.loseWriteConnection)
        else:
            self._lose()

    def _drain(self, count: int) -> None:
        self._drained += count
        if self._drained > LINGER_BYTES:
            self.abort()

    def _close(self) -> None:
        """Close when all is sent; if that takes too long, tick() cuts the connection."""
        self._ready = False
        self._count()
        if self._buffer:
            self._linger()
            return
        self._lingering = True
        self.idle_ticks = 0
        self._lose()

    def drain(self) -> None:
        """End soon: answer the request on the way, or one that has begun to come; end a stream.

        May be called again.
        """
        self._closing = True
        if self._exchange is not None:
            self._exchange.closing()
        elif self._successor is not None:
            self._successor.closing()
        elif not (self._lingering or self._buffer or self._body is not None):
            self._close()

    def cut(self) -> None:
        """Send nothing more of what the kernel has not got yet.

        What it has still reaches the client when the process ends; closing the connection before
        all is sent would take that back (Twisted resets it).
        """
        transport: Any = self.transport
        if isinstance(transport, tcp.Server):
            transport.stopWriting()  # type: ignore[no-untyped-call]
        else:
            self.abort()

    def _lose(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def abort(self) -> None:
        """Cut the connection now."""
        cast("interfaces.ITCPTransport", self.transport).abortConnection()


def _remote_ip(peer: interfaces.IAddress) -> str:
    if isinstance(peer, (address.IPv4Address, address.IPv6Address)):
        return peer.host
    return UNIX
