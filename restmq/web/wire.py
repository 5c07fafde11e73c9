"""HTTP/1.1 as it stands on the wire, with no socket in sight (RFC 9112).

``read_head`` turns the bytes of one request head into a ``Head`` or raises ``Refusal``.
Two readers have to agree on every head: a strict pattern of our own, which holds the rules
llhttp leaves to others (a bare CR, an unknown method, CONNECT, Upgrade, the limits), and
llhttp itself, which splits the head. Nobody else decides where a message ends: a body is a
``FixedBody`` or a ``ChunkedBody``, both of which hand back what belongs to the next request.

Nothing here repairs a broken request: whatever two HTTP readers could take for two different
requests is refused, since that is how requests are smuggled past a proxy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol
from urllib.parse import quote_from_bytes

import httptools

from restmq.errors import RestMQError

if TYPE_CHECKING:
    from restmq.settings import Settings

HEAD_END: Final = b"\r\n\r\n"
MAX_LEADING_LINES: Final = 4
"""Empty lines before a request that are skipped: old clients end a POST with one."""
LARGE_BODY: Final = 16 * 1048576
"""Bytes of a request that brings many messages."""
MAX_CHUNK_LINE: Final = 1024
MAX_CHUNK_EXTENSIONS: Final = 16384
"""Bytes of chunk extensions in one body; nobody uses them, and they are work for nothing."""
MAX_TRAILER_BYTES: Final = 8192


class Refusal(RestMQError):
    """A request that is answered with an error page before any handler sees it.

    ``status`` is the code, ``why`` a sentence for the client, ``headers`` go with the reply.
    The connection is closed after it.
    """

    def __init__(self, status: int, why: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = headers


class Limits(NamedTuple):
    """What one client may ask of us: bytes, header lines, seconds and connections."""

    request_line: int = 16384
    header_line: int = 16384
    header_bytes: int = 32768
    headers: int = 100
    body: int = 3 * 1048576 + 65536
    large_body: int = LARGE_BODY
    idle_seconds: float = 75
    connections: int = 10000

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits in the settings.

        A form is percent-encoded, so a message of n bytes may need a body of 3 n and its names.
        ``large_body`` is for the few requests that bring many messages.
        """
        body = 3 * settings.max_message_bytes + 65536
        return cls(
            request_line=settings.max_request_line,
            header_line=settings.max_header_line,
            header_bytes=settings.max_header_bytes,
            headers=settings.max_headers,
            body=body,
            large_body=max(body, settings.max_batch_bytes),
            idle_seconds=settings.idle_timeout,
            connections=settings.max_connections,
        )


class Headers(dict[str, str]):
    """Header fields under lower-case names, looked up in any case as cyclone does.

    Repeated fields are joined with ``, `` in the order they came (cookies with ``; ``).
    """

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or the default."""
        return super().get(name.lower(), default)

    def add(self, name: str, value: str) -> None:
        """Add a field; ``name`` is lower-case already."""
        if super().__contains__(name):
            joint = "; " if name == "cookie" else ", "
            value = f"{super().__getitem__(name)}{joint}{value}"
        self[name] = value


CHUNKED: Final = -1
"""``Head.body_length`` of a body whose length is not known before its end."""


class Fields:
    """What the header fields of one request say, without its request line; it never changes.

    ``host`` is the Host field or "". ``body_length`` is in bytes, or CHUNKED. ``keep_alive``
    says what the client wants. Requests with the same header block share one, so the layers
    above note in ``admitted`` what follows from it alone.
    """

    __slots__ = (
        "admitted",
        "body_length",
        "expects_continue",
        "headers",
        "host",
        "http_1_1",
        "keep_alive",
    )

    def __init__(self, headers: Headers, http_1_1: bool) -> None:
        self.headers = headers
        self.http_1_1 = http_1_1
        self.host = _host(headers, http_1_1)
        self.body_length = _body_length(headers, http_1_1)
        self.expects_continue = _expects_continue(headers, http_1_1)
        self.keep_alive = _keep_alive(headers, http_1_1)
        self.admitted: dict[object, object] = {}


class Head:
    """One request head, read and checked; it never changes.

    ``size`` is its length in bytes with the empty line. ``path`` and ``query`` are ASCII, still
    percent-encoded. The rest is what its ``fields`` say.

    A client that sends the same head again gets the same ``Head``, so the layers above note
    here what follows from it alone: ``route``, ``query_fields``, and by whom (which
    access list) it was admitted to what.
    """

    __slots__ = (
        "admitted_by",
        "admitted_to",
        "body_length",
        "expects_continue",
        "fields",
        "headers",
        "host",
        "http_1_1",
        "keep_alive",
        "method",
        "path",
        "query",
        "query_fields",
        "route",
        "size",
        "uri",
    )

    def __init__(self, size: int, method: str, target: str, fields: Fields) -> None:
        self.size = size
        self.method = method
        self.uri = target
        self.path, _, self.query = target.partition("?")
        self.fields = fields
        self.headers = fields.headers
        self.http_1_1 = fields.http_1_1
        self.host = fields.host
        self.body_length = fields.body_length
        self.expects_continue = fields.expects_continue
        self.keep_alive = fields.keep_alive
        self.route: Any = None
        self.query_fields: Mapping[bytes, bytes] | None = None
        self.admitted_by: object = None
        self.admitted_to: object = None


_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"
_FIELDS: Final = rb"(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*+\r\n"
_HEAD: Final = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20#\x7f]++) HTTP/1\.([01])\r\n" + _FIELDS)
_TRAILERS: Final = re.compile(_FIELDS)
_REQUEST_LINE: Final = re.compile(_TOKEN + rb" [^\x00-\x20#\x7f]++ HTTP/1\.[01]")
_VERSION: Final = re.compile(rb"HTTP/[0-9](?:\.[0-9])?")
_BROKEN_LINE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?"
)
_ABSOLUTE: Final = re.compile(r"(?i:https?)://([^/?]*)([^\n]*)")
_FIRST_BYTES: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]|\r(?:\n|\Z)")

_PLAIN_METHODS: Final = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD"))


class _Split:
    """What llhttp reports of a head."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers = Headers()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.add(str(name, "ascii").lower(), str(value, "latin-1").rstrip(" \t"))


def read_head(data: bytes, limits: Limits) -> Head:
    """Read one complete head, empty line included, or raise Refusal."""
    if len(data) > 1024:
        _check_sizes(data, limits)
    match = _HEAD.fullmatch(data)
    if match is None:
        _explain(data)
    method, target, minor = match.groups()
    seen = _split(data, method, target)
    if data.count(b"\n") - 2 > limits.headers:
        raise Refusal(431, f"more than {limits.headers} header fields")
    http_1_1, target_text = minor == b"1", seen.target.decode()
    if not target_text.startswith("/"):
        _host(seen.headers, http_1_1)
        target_text, seen.headers["host"] = _origin_form(target_text)
    return Head(len(data), str(method, "ascii"), target_text, Fields(seen.headers, http_1_1))


_SIMPLE: Final = re.compile(
    rb"(GET|POST|PUT|DELETE) (/[0-9A-Za-z._~!$&'()*+,;=:@%/?-]*+) HTTP/1\.1\r\n"
)
"""A request line that says nothing about how the rest is to be read."""


class HeadTable:
    """The header blocks read last: what stands below a simple request line is read once.

    Clients send the same fields with request after request, whatever its path. Both readers
    accepted a block before it is noted, and what they made of it does not depend on a request
    line of that form. Bounded: KNOWN_BLOCKS of at most MAX_BLOCK bytes, the oldest leaves.
    """

    __slots__ = ("_known", "_limits", "_max_line")

    KNOWN_BLOCKS: Final = 1024
    MAX_BLOCK: Final = 1024
    MAX_LINE: Final = 1024

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._max_line = min(self.MAX_LINE, limits.request_line + 2)
        self._known: dict[bytes, Fields] = {}

    def find(self, data: bytes, last: Head | None = None, last_bytes: bytes = b"") -> Head | None:
        """The head at the beginning of the data, if its line is simple and its block known.

        ``last`` is the connection's last head, which stood as ``last_bytes``: where more clients come
        than the table holds, each still finds its own block.
        """
        match = _SIMPLE.match(data, 0, self._max_line)
        if match is None:
            return None
        start = match.end()
        end = data.find(HEAD_END, start - 2, start + self.MAX_BLOCK) + 4
        block = data[start:end]
        fields = self._known.get(block)
        if fields is None:
            if last is None or not block or not last_bytes.endswith(block):
                return None
            line = _SIMPLE.match(last_bytes, 0, self._max_line)
            if line is None or line.end() + len(block) != len(last_bytes):
                return None
            fields = last.fields
        method, target = match.groups()
        return Head(end, method.decode(), target.decode(), fields)

    def read(self, data: bytes) -> Head:
        """As `read_head`; what can be found again is noted."""
        head = read_head(data, self._limits)
        match = _SIMPLE.match(data, 0, self._max_line)
        if match is not None and len(data) - match.end() <= self.MAX_BLOCK - 4:
            if len(self._known) >= self.KNOWN_BLOCKS:
                del self._known[next(iter(self._known))]
            self._known[data[match.end() :]] = head.fields
        return head


def _split(data: bytes, method: bytes, target: bytes) -> _Split:
    """Have llhttp split a head that our pattern lets through.

    It is shown no method it does not know (it would refuse FOO, and take CONNECT for the end
    of HTTP), and no byte above 127 in the target: those are percent-encoded, as UTF-8.
    A fresh parser each time: nothing is carried over from one request to the next.
    """
    if method not in _PLAIN_METHODS:
        data = b"POST" + data[len(method) :]
    if not target.isascii():
        data = data.replace(target, _ascii(target), 1)
    seen = _Split()
    try:
        httptools.HttpRequestParser(seen).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # An offer to change the protocol, which we need not take: see Exchange.take_over.
    except httptools.HttpParserError as error:
        _explain_llhttp(seen, str(error))
    return seen


def _ascii(target: bytes) -> bytes:
    """The target with every byte above 127 percent-encoded and all else as it is."""
    return quote_from_bytes(target, safe=bytes(range(0x21, 0x7F))).encode("ascii")


def _explain_llhttp(seen: _Split, reason: str) -> NoReturn:
    """Name what llhttp refused though the pattern let it through, if that has its own status."""
    if "transfer-encoding" in seen.headers:
        _body_length(seen.headers, True)
    if "content-length" in seen.headers:
        _body_length(seen.headers, True)
    raise Refusal(400, reason)


def _check_sizes(data: bytes, limits: Limits) -> None:
    """Raise Refusal when a line or the whole head is too long."""
    line_end = data.find(b"\r\n")
    if line_end > limits.request_line or (line_end < 0 and len(data) > limits.request_line + 1):
        raise Refusal(414, f"the request line has more than {limits.request_line} bytes")
    if line_end < 0:
        return
    if len(data) - line_end > limits.header_bytes + 4:
        raise Refusal(431, f"the header fields have more than {limits.header_bytes} bytes")
    if max(map(len, data[line_end:].split(b"\r\n"))) > limits.header_line:
        raise Refusal(431, f"a header line has more than {limits.header_line} bytes")


def check_partial(data: bytes, seen: int, limits: Limits) -> None:
    """Raise Refusal if what has come of a head can never become a good one.

    ``seen`` bytes were checked before. Without this a client with bare line feeds, or one
    that speaks TLS to a plain port, would wait for an answer until its time is up.
    """
    if _FIRST_BYTES.match(data) is None:
        _explain(data)
    start = max(seen - 1, 0)
    if _BROKEN_LINE.search(data, start) or _CONTROL.search(data, start):
        _explain(data)
    line_end = data.find(b"\r\n")
    if seen <= line_end + 1 and line_end >= 0 and not _REQUEST_LINE.fullmatch(data, 0, line_end):
        _explain(data[: line_end + 2])
    if data.count(b"\n") - 1 > limits.headers:
        raise Refusal(431, f"more than {limits.headers} header fields")
    if len(data) > 1024:
        _check_sizes(data, limits)


def _explain(data: bytes) -> NoReturn:
    """Say what is wrong with a head, whole or not, that is known to be bad."""
    if _BROKEN_LINE.search(data):
        raise Refusal(400, "a line does not end in CR LF")
    line, _, fields = data.partition(b"\r\n")
    if _REQUEST_LINE.fullmatch(line) is None:
        _explain_request_line(line)
    for field in fields.split(b"\r\n"):
        _explain_field(field)
    raise Refusal(400, "the request head is malformed")


def _explain_request_line(line: bytes) -> NoReturn:
    words = line.split(b" ")
    if len(words) == 3 and _VERSION.fullmatch(words[2]) and words[2][5:] not in (b"1.0", b"1.1"):
        raise Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if len(words) == 2 and words[1][:1] == b"/" and not _CONTROL.search(line):
        raise Refusal(505, "a request line without a version is HTTP/0.9")
    if b"#" in line:
        raise Refusal(400, "a request target has no fragment")
    raise Refusal(400, "the request line is malformed")


def _explain_field(field: bytes) -> None:
    name, colon, value = field.partition(b":")
    if field[:1] in (b" ", b"\t"):
        raise Refusal(400, "a header field is folded over two lines")
    if field and not colon:
        raise Refusal(400, "a header line has no colon")
    if name[-1:] in (b" ", b"\t"):
        raise Refusal(400, "there is white space before the colon of a header field")
    if field and re.fullmatch(_TOKEN, name) is None:
        raise Refusal(400, "a header field's name is not valid")
    if re.fullmatch(_VALUE, value) is None:
        raise Refusal(400, "a header field's value has a control character")


def _host(headers: Headers, http_1_1: bool) -> str:
    """The Host field; HTTP/1.0 may go without."""
    host = dict.get(headers, "host")
    if host is None:
        if http_1_1:
            raise Refusal(400, "HTTP/1.1 asks for a Host field")
        return ""
    if _HOST.fullmatch(host) is None:
        raise Refusal(400, "the Host field must hold one host, once")
    return host


def _origin_form(target: str) -> tuple[str, str]:
    """Path and host of an absolute-form target; the other forms are refused."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Refusal(400, "the request target must be a path or an http URL")
    host, rest = match.groups()
    if _HOST.fullmatch(host) is None:
        raise Refusal(400, "the URL in the request line has no valid host")
    return (rest if rest.startswith("/") else "/" + rest), host


def _body_length(headers: Headers, http_1_1: bool) -> int:
    coding = dict.get(headers, "transfer-encoding")
    length = dict.get(headers, "content-length")
    if coding is not None:
        if length is not None or not http_1_1:
            raise Refusal(400, "Transfer-Encoding with Content-Length, or in HTTP/1.0")
        if coding.lower() != "chunked":
            raise Refusal(501, "the only transfer coding known here is chunked")
        return CHUNKED
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()):
        raise Refusal(400, "Content-Length must be one decimal number, once")
    return int(length) if len(length) < 19 else 10**18


def _expects_continue(headers: Headers, http_1_1: bool) -> bool:
    expected = dict.get(headers, "expect")
    if expected is None or not http_1_1:
        return False
    if expected.lower() != "100-continue":
        raise Refusal(417, "the only expectation known here is 100-continue")
    return True


def _keep_alive(headers: Headers, http_1_1: bool) -> bool:
    wishes = dict.get(headers, "connection")
    if wishes is None:
        return http_1_1
    tokens = [token.strip(" \t") for token in wishes.lower().split(",")]
    return "close" not in tokens and (http_1_1 or "keep-alive" in tokens)


class Body(Protocol):
    """A request body on its way in."""

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes. None: more must come; else what belongs to the next request."""

    def content(self) -> bytes:
        """The whole body, once ``feed`` said it is there."""


def body_reader(head: Head, limit: int) -> Body:
    """The reader for the body this head announces; Refusal 413 if that is longer than the limit."""
    if head.body_length == CHUNKED:
        return ChunkedBody(limit)
    if head.body_length > limit:
        raise Refusal(413, f"a request body has at most {limit} bytes")
    return FixedBody(head.body_length)


class FixedBody:
    """A body whose length was announced."""

    __slots__ = ("_missing", "_parts")

    def __init__(self, length: int) -> None:
        self._missing = length
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes: see Body."""
        taken = data[: self._missing]
        self._parts.append(taken)
        self._missing -= len(taken)
        return None if self._missing else data[len(taken) :]

    def content(self) -> bytes:
        """The whole body."""
        return b"".join(self._parts)


_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"((?:;"
    + _TOKEN
    + rb"(?:=(?:"
    + _TOKEN
    + rb'|"(?:[^\x00-\x08\x0a-\x1f"\\\x7f]|\\[\t -~])*+"))?)*+)'
)


class ChunkedBody:
    """A chunked body (RFC 9112, 7.1): extensions are skipped, trailers dropped, all bounded.

    No white space round the size, no bare line feed, no sign or ``0x``: readers differ on
    those. Raises Refusal 413 as soon as the chunks announced exceed ``limit`` bytes.
    """

    __slots__ = ("_extensions", "_limit", "_parts", "_read", "_rest", "_size", "_step", "_want")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._want = 0
        self._extensions = 0
        self._parts: list[bytes] = []
        self._rest = b""
        self._step = self._read_size

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes: see Body."""
        self._rest += data
        self._read = 0
        while self._step():
            if self._step == self._finished:
                return self._rest[self._read :]
        self._rest = self._rest[self._read :]
        return None

    def content(self) -> bytes:
        """The whole body."""
        return b"".join(self._parts)

    def _read_size(self) -> bool:
        end = self._rest.find(b"\r\n", self._read, self._read + MAX_CHUNK_LINE)
        if end < 0:
            self._check_open_line()
            return False
        match = _CHUNK_LINE.fullmatch(self._rest, self._read, end)
        if match is None:
            raise Refusal(400, "a chunk's size line is malformed")
        self._read = end + 2
        self._announce(int(match[1], 16), len(match[2]))
        return True

    def _check_open_line(self) -> None:
        line = self._rest[self._read :]
        if len(line) >= MAX_CHUNK_LINE:
            raise Refusal(400, f"a chunk's size line has more than {MAX_CHUNK_LINE} bytes")
        if _BROKEN_LINE.search(line) or _CONTROL.search(line):
            raise Refusal(400, "a chunk's size line is malformed")

    def _announce(self, size: int, extension: int) -> None:
        self._size += size
        self._want = size
        self._extensions += extension
        if self._size > self._limit:
            raise Refusal(413, f"a request body has at most {self._limit} bytes")
        if self._extensions > MAX_CHUNK_EXTENSIONS:
            raise Refusal(400, f"more than {MAX_CHUNK_EXTENSIONS} bytes of chunk extensions")
        self._step = self._read_data if size else self._read_trailers

    def _read_data(self) -> bool:
        data = self._rest[self._read : self._read + self._want]
        if not data:
            return False
        self._parts.append(data)
        self._read += len(data)
        self._want -= len(data)
        if not self._want:
            self._step = self._read_data_end
        return True

    def _read_data_end(self) -> bool:
        end = self._rest[self._read : self._read + 2]
        if not b"\r\n".startswith(end):
            raise Refusal(400, "a chunk is longer than its size line says")
        if len(end) < 2:
            return False
        self._read += 2
        self._step = self._read_size
        return True

    def _read_trailers(self) -> bool:
        """The last chunk is read; trailer fields must be well formed and are dropped."""
        if self._rest.startswith(b"\r\n", self._read):
            self._read += 2
            self._step = self._finished
            return True
        end = self._rest.find(HEAD_END, self._read)
        waiting = (end if end >= 0 else len(self._rest)) - self._read
        if waiting > MAX_TRAILER_BYTES:
            raise Refusal(431, f"more than {MAX_TRAILER_BYTES} bytes of trailer fields")
        if end < 0:
            if _BROKEN_LINE.search(self._rest, self._read):
                raise Refusal(400, "a trailer line does not end in CR LF")
            return False
        if _TRAILERS.fullmatch(self._rest, self._read, end + 4) is None:
            raise Refusal(400, "a trailer field is malformed")
        self._read = end + 4
        self._step = self._finished
        return True

    def _finished(self) -> bool:
        return False
