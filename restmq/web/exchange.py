"""One request with its reply, as handlers and cyclone see it.

``Request`` is what cyclone calls ``handler.request``: what the client asked. ``Exchange`` is
``request.connection``: the way back, for one whole response or for a stream. Both belong to
one request only; the connection they came by is a ``restmq.web.channel.Channel``.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from time import time
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from restmq.web import forms
from restmq.web.reply import Reply, encode, encode_head
from restmq.web.wire import HEAD_END, Head, Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import ITransport

    from restmq.web.channel import Channel, Successor

LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """The data as one chunk of a chunked body; data must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Request:
    """One request, as cyclone and our handlers see it.

    ``body`` is complete. ``path``, ``query`` and ``uri`` are as sent, percent-encoded.
    ``headers`` are looked up in any case. ``connection`` is the Exchange.
    """

    __slots__ = ("_fields", "body", "connection", "head", "method")

    files: Mapping[str, Any] = {}

    def __init__(self, head: Head, body: bytes, connection: Exchange) -> None:
        self.head = head
        self.body = body
        self.connection = connection
        self.method = head.method
        self._fields: Mapping[bytes, bytes] | None = None

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return self.head.headers

    @property
    def uri(self) -> str:
        """Path and query."""
        return self.head.uri

    @property
    def path(self) -> str:
        """The path, percent-encoded."""
        return self.head.path

    @property
    def query(self) -> str:
        """What stands behind the question mark."""
        return self.head.query

    @property
    def version(self) -> str:
        """``HTTP/1.1`` or ``HTTP/1.0``."""
        return "HTTP/1.1" if self.head.http_1_1 else "HTTP/1.0"

    @property
    def host(self) -> str:
        """The host the client asked for, by Host or in the request line."""
        return self.head.host or "127.0.0.1"

    @property
    def remote_ip(self) -> str:
        """The client's address, or ``unix``; what proxies claim is not looked at."""
        return self.connection.remote_ip

    @property
    def protocol(self) -> str:
        """``https`` when the request came by TLS, else ``http``."""
        return "https" if self.connection.secure else "http"

    def supports_http_1_1(self) -> bool:
        """Whether the client knows chunked bodies and kept connections."""
        return self.head.http_1_1

    def fields(self) -> Mapping[bytes, bytes]:
        """Query and form parameters, exact bytes; the form's win. Raises BadRequest."""
        if self._fields is None:
            self._fields = self._read_fields()
        return self._fields

    def _read_fields(self) -> Mapping[bytes, bytes]:
        head = self.head
        if head.query_fields is None:
            head.query_fields = forms.urlencoded(head.query.encode()) if head.query else {}
        content_type = dict.get(head.headers, "content-type")
        if not self.body or content_type is None:
            return head.query_fields
        fields = forms.body_fields(content_type, self.body)
        return {**head.query_fields, **fields} if head.query_fields else fields

    @property
    def arguments(self) -> dict[str, list[bytes]]:
        """The parameters as cyclone keeps them."""
        return {str(name, "utf-8", "replace"): [v] for name, v in self.fields().items()}

    @property
    def cookies(self) -> SimpleCookie:
        """The cookies; none if they cannot be read."""
        try:
            return SimpleCookie(self.headers.get("cookie", ""))
        except CookieError:
            return SimpleCookie()

    def write(self, data: bytes) -> None:
        """Send part of a response; for cyclone's own handlers."""
        self.connection.write_response(data)

    def finish(self) -> None:
        """End the response; for cyclone's own handlers."""
        self.connection.finish()

    def full_url(self) -> str:
        """The URL the client asked for."""
        return f"{self.protocol}://{self.host}{self.uri}"

    def request_time(self) -> float:
        """Seconds since the request was complete."""
        return time() - self.connection.started

    def notifyFinish(self) -> Deferred[None]:
        """See Exchange.gone."""
        return self.connection.gone


class Exchange:
    """One request and its reply.

    A handler answers with ``respond`` (a whole response), or with ``start_stream`` and any
    number of ``send`` and one ``finish``. Once the client is gone or the response complete,
    all of these do nothing.

    ``open`` is True until then; ``streaming`` from ``start_stream`` on; ``chunked`` says
    whether what a stream sends must be framed by ``chunk``. ``keep_alive`` may be set to
    False before the response begins. ``on_closing`` is called, maybe more than once, when the
    daemon is about to end, and shall ``finish`` the stream, or answer what still waits; a stream
    that sets none is finished.
    """

    # Class attributes are the defaults: an exchange that streams nothing sets four of its own.
    xheaders = False
    no_keep_alive = False
    streaming = False
    chunked = False
    on_closing: Callable[[], None] | None = None
    _endless = False
    _gone: Deferred[None] | None = None
    _prefix = b""

    def __init__(self, channel: Channel, head: Head) -> None:
        self._channel: Channel | None = channel
        self.head = head
        self.keep_alive = head.keep_alive
        self.remote_ip = channel.remote_ip
        self.secure = channel.secure
        self.started = time()

    @property
    def with_body(self) -> bool:
        """Whether the response may have a body: not the one to HEAD."""
        return self.head.method != "HEAD"

    @property
    def open(self) -> bool:
        """Whether the response can still be written to somebody."""
        return self._channel is not None

    @property
    def transport(self) -> ITransport | None:
        """The connection's transport while the exchange is open."""
        return None if self._channel is None else self._channel.transport

    @property
    def gone(self) -> Deferred[None]:
        """Fires when the client left before the response was complete, and only then."""
        if self._gone is None:
            self._gone = Deferred()
            if self._channel is not None:
                self._channel.watched(self)
        return self._gone

    def notifyFinish(self) -> Deferred[None]:
        """``gone``, under the name cyclone knows."""
        return self.gone

    @property
    def is_watched(self) -> bool:
        """Whether somebody asked to be told when the client leaves."""
        return self._gone is not None

    def connection_header(self) -> str:
        """What the Connection header of the response must say, if anything."""
        if self.no_keep_alive:
            self.keep_alive = False
        if not self.keep_alive:
            return "close"
        return "" if self.head.http_1_1 else "Keep-Alive"

    def reply(self, reply: Reply) -> None:
        """Answer with this reply and be done. Raises ValueError for impossible headers."""
        if self._channel is not None:
            self.respond(encode(reply, self.connection_header(), self.with_body))

    def respond(self, response: bytes) -> None:
        """Answer with these bytes, a whole response with its head, and be done."""
        channel = self._channel
        if channel is not None:
            self._channel = None
            channel.finished(self, channel.outlet.send(response))

    def start_stream(
        self,
        content_type: str | bytes = "text/plain",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        status: int = 200,
        at_once: bool = True,
    ) -> None:
        """Begin a response whose end is not known; chunked, or up to the close in HTTP/1.0.

        Without ``at_once`` the head goes out with the first data.
        """
        channel = self._channel
        if channel is None:
            return
        self.streaming = self._endless = True
        self.chunked = self.head.http_1_1
        if self.chunked:
            headers = (("Transfer-Encoding", "chunked"), *headers)
        else:
            self.keep_alive = False
        self._prefix = encode_head(status, content_type, headers, self.connection_header())
        channel.watched(self)
        if at_once:
            self.send(b"")

    def recall(self) -> bool:
        """Take back a stream of which nothing was sent; True if another reply may follow."""
        if not self._prefix:
            return False
        self._prefix = b""
        self.streaming = self.chunked = False
        return True

    def send(self, data: bytes) -> bool:
        """Send these bytes, as they are, at once.

        True: every byte is with the kernel (or nobody is there any more). False: some wait;
        ``when_drained`` tells when they are gone. Never raises.
        """
        channel = self._channel
        if channel is None:
            return True
        if self._prefix:
            data = self._prefix + data
            self._prefix = b""
        return channel.outlet.send(data)

    def write(self, data: bytes) -> None:
        """``send``, for whom the answer does not matter."""
        self.send(data)

    def write_response(self, data: bytes) -> None:
        """Send a part of a response that brings its own head.

        Where that head tells no length, only the end of the connection can.
        """
        if not self.streaming:
            self.streaming = True
            head = data.partition(HEAD_END)[0].lower() + b"\r\n"
            framed = b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head
            bodiless = head[9:12] in (b"204", b"304") or not self.with_body
            if self.no_keep_alive or not (framed or bodiless):
                self.keep_alive = False
        self.send(data)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once when nothing waits to be sent; at once if nothing does.

        Never called if the client leaves first.
        """
        if self._channel is not None:
            self._channel.outlet.when_drained(callback)

    def finish(self) -> None:
        """End the response. A chunked stream gets its last chunk."""
        channel = self._channel
        if channel is None:
            return
        done = self.send(LAST_CHUNK) if self.chunked else self.send(b"")
        self._channel = None
        channel.finished(self, done)

    def closing(self) -> None:
        """The daemon is about to end: this response is the connection's last, a stream ends now."""
        self.keep_alive = False
        if self._channel is None:
            return
        if self.on_closing is not None:
            self.on_closing()
        elif self._endless:
            self.finish()

    def abort(self) -> None:
        """Cut the connection: the response cannot be completed. ``gone`` fires."""
        if self._channel is not None:
            self._channel.abort()

    def take_over(self, protocol: Successor) -> None:
        """Hand the connection to another protocol, which speaks from here on (WebSocket).

        ``protocol`` is connected to the transport, given all bytes that came after the
        request, and told when the connection is lost. The exchange is over. Nothing was
        sent: the answer to the handshake is the protocol's to give.
        """
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.hand_over(protocol)

    def client_left(self) -> None:
        """Called by the channel when the connection is lost."""
        self._channel = None
        if self._gone is not None and not self._gone.called:
            self._gone.callback(None)
