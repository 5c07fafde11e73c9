"""``/c/NAME``: a response that never ends, and the consumer behind it.

Nothing is sent, not even a status line, before the first message (``?flush=1``: the head at once).
Then each message is a line of JSON, in HTTP/1.1 a chunk of its own, in HTTP/1.0 plain, with a
callback a JSONP call. DELETE of the queue ends the response.

A consumer that reads more slowly than messages come has a bounded ``Backlog`` of broadcast messages,
of which the oldest are dropped. What was dealt to it by round robin is nobody else's and never
dropped; the broker bounds how much that is.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet import tcp
from twisted.logger import Logger

from restmq.message import Batch
from restmq.web import historic
from restmq.web.backlog import Backlog
from restmq.web.endpoint import Access, Endpoint, endpoint
from restmq.web.reply import JAVASCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable

log = Logger()

KERNEL_BYTES: Final = 128 * 1024
"""SO_SNDBUF of a stream. By itself the kernel takes up to 4 MiB for each client that reads nothing."""

HEADERS: Final = (("X-Content-Type-Options", "nosniff"), ("X-Accel-Buffering", "no"))


class Comet(Endpoint):
    """``/c/NAME``."""

    @endpoint(Access.COMET, jsonp=True, pops=True)
    def get(self, queue: str) -> None:
        """Stream what is pushed from the queue."""
        callback = self._callback
        content_type = "text/plain" if callback is None else JAVASCRIPT
        at_once = self.parameter("flush") == "1"
        exchange = self.start_stream(content_type, HEADERS, at_once=at_once)
        if not exchange.open:
            return
        bound_kernel_buffer(exchange.transport)
        encode = historic.line_for(callback, exchange.chunked)
        consumer = StreamConsumer(self.broker, queue, exchange, encode)
        self.broker.attach(queue, consumer)
        exchange.gone.addCallback(consumer.left)
        exchange.on_closing = consumer.closing


def bound_kernel_buffer(transport: Any) -> None:
    """Have the kernel hold no more than KERNEL_BYTES for a client (plain TCP)."""
    if type(transport) is tcp.Server and not transport.TLS:
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)


class Way(Protocol):
    """The way to a client: an Exchange that streams, or a WebSocket."""

    def send(self, data: bytes) -> bool:
        """Send at once; False when some of it waits."""

    def write(self, data: bytes) -> None:
        """Send, or let it wait."""

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once, when nothing waits."""

    def finish(self) -> None:
        """End the stream."""


class StreamConsumer:
    """One client's end of a queue: see ``restmq.core.delivery.Consumer``."""

    __slots__ = ("_backlog", "_broker", "_clogged", "_closing", "_encode", "_exchange", "_queue")

    def __init__(self, broker: Any, queue: str, exchange: Way, encode: historic.Encoder) -> None:
        self._broker = broker
        self._queue = queue
        self._exchange = exchange
        self._encode = encode
        self._clogged = self._closing = False
        self._backlog: Backlog | None = None  # made when first needed: most never are

    @property
    def missed(self) -> int:
        """How many messages were dropped because the client reads too slowly."""
        return 0 if self._backlog is None else self._backlog.missed

    def deliver(self, batch: Batch) -> bool:
        """Send the batch, or let it wait; True when every byte is with the kernel."""
        if not self._clogged:
            if self._exchange.send(batch.encoded(self._encode)):
                return True
            self._clog()
        elif batch.dealt:
            self._exchange.write(batch.encoded(self._encode))
        else:
            self._wait(batch)
        return False

    def end(self) -> None:
        """The queue was deleted: send what waits and complete the response."""
        while self._backlog:
            self._exchange.write(self._backlog.take(self._encode))
        self._exchange.finish()
        self.left()

    def closing(self) -> None:
        """The daemon ends: complete the response once the kernel has all that is in hand.

        Not before, since dealt messages that are still ours at the end go to somebody else.
        """
        begins, self._closing = not self._closing, True
        if begins and not self._clogged:
            self.end()

    def left(self, _: object = None) -> None:
        """The client is gone, or needs us no more."""
        self._broker.detach(self._queue, self)
        if self.missed:
            log.info(
                "a consumer of {queue} read too slowly and missed {missed} messages",
                queue=self._queue,
                missed=self.missed,
            )

    def _clog(self) -> None:
        """The kernel takes no more: wait until it has taken all that Twisted holds."""
        self._clogged = True
        self._exchange.when_drained(self._drained)

    def _wait(self, batch: Batch) -> None:
        if self._backlog is None:
            self._backlog = Backlog()
        self._backlog.add(batch)

    def _drained(self) -> None:
        """The transport is empty: send what waits; tell the broker when nothing does."""
        self._clogged = False
        while self._backlog:
            if not self._exchange.send(self._backlog.take(self._encode)):
                self._clog()
                return
        self._broker.drained(self._queue, self)
        if self._closing:
            self.end()
