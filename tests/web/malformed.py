"""Requests that are wrong, and what a server may answer to each.

One case for every rule of RFC 9112 (and of its chapter 11 on smuggling and splitting) and of
what llhttp is strict about. ``play`` sends one to any server, byte for byte, and tells what
came back; the statuses allowed are those of an answer that names the fault, and the connection
must be closed after it, with no second response.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

DEADLINE = 10.0
PATH = b"/q/malformed"
CONTROLS = bytes((*range(0x09), *range(0x0B, 0x0D), *range(0x0E, 0x20), 0x7F))
DELIMITERS = b'"(),/:;<=>?@[\\]{}'
SMUGGLED = b"GET /q/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Case(NamedTuple):
    """``data`` is sent as it is; ``statuses`` are the answers allowed."""

    name: str
    data: bytes
    statuses: frozenset[int]


class Outcome(NamedTuple):
    """The statuses of all final responses that came, and whether the server closed."""

    statuses: tuple[int, ...]
    closed: bool
    received: bytes


def play(host: str, port: int, case: Case, deadline: float = DEADLINE) -> Outcome:
    """Send one case and read until the server closes, or the deadline."""
    with socket.create_connection((host, port), deadline) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # It may answer and close early.
            connection.sendall(case.data)
        received = b""
        closed = False
        try:
            while not closed:
                data = connection.recv(65536)
                received += data
                closed = not data
        except ConnectionResetError:
            closed = True
        except TimeoutError:
            pass
    found = re.findall(rb"HTTP/1\.[01] ([0-9]{3}) [ -~]*\r\n", received)
    return Outcome(tuple(int(status) for status in found if status[:1] != b"1"), closed, received)


def is_good(case: Case, outcome: Outcome) -> bool:
    """Whether the server did with the case what it should."""
    return outcome.closed and len(outcome.statuses) == 1 and outcome.statuses[0] in case.statuses


def _case(name: str, data: bytes, *statuses: int) -> Case:
    return Case(name, data, frozenset(statuses or (400,)))


def _get(line: bytes = b"", *, request: bytes = b"GET " + PATH + b" HTTP/1.1") -> bytes:
    """A request that is right but for what is put into it."""
    return request + b"\r\nHost: localhost\r\n" + (line + b"\r\n" if line else b"") + b"\r\n"


def _post(lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
    head = b"POST " + PATH + b" " + version + b"\r\nHost: localhost\r\n" + kind
    return head + lines + b"\r\n\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", body)


def _line_ends() -> Iterator[Case]:
    good = _get(b"X-One: 1")
    for number, place in enumerate(m.start() for m in re.finditer(rb"\r\n", good)):
        before, after = good[:place], good[place + 2 :]
        yield _case(f"bare LF instead of line end {number}", before + b"\n" + after)
        yield _case(f"bare CR instead of line end {number}", before + b"\r" + after + b"\r\n\r\n")
        yield _case(f"LF CR instead of line end {number}", before + b"\n\r" + after + b"\r\n\r\n")
        yield _case(f"CR CR LF at line end {number}", before + b"\r\r\n" + after + b"\r\n\r\n")
    yield _case("only LF line ends", good.replace(b"\r\n", b"\n"))
    yield _case("only CR line ends", good.replace(b"\r\n", b"\r") + b"\r\n\r\n")
    yield _case("LF before the request", b"\n" + good)
    yield _case("CR before the request", b"\r" + good)
    yield _case("space before the request", b" " + good)
    yield _case("tab before the request", b"\t" + good)
    yield _case("NUL before the request", b"\0" + good)
    yield _case("a hundred empty lines before the request", b"\r\n" * 100 + good)
    yield _case("bare CR in a header value", _get(b"X-One: a\rb"))
    yield _case("bare LF in a header value", _get(b"X-One: a\nb"))
    yield _case("bare CR hides a Content-Length", _get(b"X-One: a\rContent-Length: 5"))
    yield _case("bare LF hides a Transfer-Encoding", _get(b"X-One: a\nTransfer-Encoding: chunked"))
    yield _case("byte order mark before the request", b"\xef\xbb\xbf" + good)


def _request_lines() -> Iterator[Case]:
    lines = {
        "nothing but a method": b"GET",
        "no target": b"GET HTTP/1.1",
        "an empty target": b"GET  HTTP/1.1",
        "two spaces before the target": b"GET  /q/malformed HTTP/1.1",
        "two spaces before the version": b"GET /q/malformed  HTTP/1.1",
        "a space after the version": b"GET /q/malformed HTTP/1.1 ",
        "a tab after the version": b"GET /q/malformed HTTP/1.1\t",
        "tab as separator": b"GET\t/q/malformed\tHTTP/1.1",
        "vertical tab as separator": b"GET\x0b/q/malformed\x0bHTTP/1.1",
        "form feed as separator": b"GET\x0c/q/malformed HTTP/1.1",
        "no-break space as separator": b"GET\xa0/q/malformed HTTP/1.1",
        "four words": b"GET /q/malformed x HTTP/1.1",
        "a space in the target": b"GET /q/mal formed HTTP/1.1",
        "lower-case version": b"GET /q/malformed http/1.1",
        "version with blanks": b"GET /q/malformed HTTP / 1.1",
        "version without a slash": b"GET /q/malformed HTTP1.1",
        "version without a dot": b"GET /q/malformed HTTP/11",
        "version without a minor": b"GET /q/malformed HTTP/1.",
        "version without a major": b"GET /q/malformed HTTP/.1",
        "version of three numbers": b"GET /q/malformed HTTP/1.1.1",
        "version with two major digits": b"GET /q/malformed HTTP/01.1",
        "version with two minor digits": b"GET /q/malformed HTTP/1.10",
        "negative version": b"GET /q/malformed HTTP/-1.1",
        "version with a letter": b"GET /q/malformed HTTP/1.1a",
        "version of other digits": "GET /q/malformed HTTP/1.\u0661".encode(),
        "another protocol": b"GET /q/malformed FTP/1.0",
        "HTTPS as protocol": b"GET /q/malformed HTTPS/1.1",
        "RTSP": b"DESCRIBE /q/malformed RTSP/1.0",
        "ICE": b"SOURCE /q/malformed ICE/1.0",
        "the version first": b"HTTP/1.1 GET /q/malformed",
        "a response": b"HTTP/1.1 200 OK",
        "only a space": b" ",
        "only a colon": b":",
    }
    for name, line in lines.items():
        yield _case(f"request line: {name}", _get(request=line))
    for version in ("0.0", "0.9", "1.2", "1.9", "2.0", "2.1", "3.0", "9.9"):
        data = _get(request=b"GET " + PATH + b" HTTP/" + version.encode())
        yield _case(f"version {version}", data, 505)
    for version in ("2", "3", "11.1", "1.11"):
        data = _get(request=b"GET " + PATH + b" HTTP/" + version.encode())
        yield _case(f"version {version}", data, 400, 505)
    yield _case("HTTP/0.9 request", b"GET " + PATH + b"\r\n", 505, 400)
    yield _case("HTTP/0.9 request with an empty line", b"GET " + PATH + b"\r\n\r\n", 505, 400)
    yield _case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
    for byte in (*DELIMITERS, *CONTROLS, 0x80, 0xC3, 0xFF):
        line = b"G" + bytes((byte,)) + b"T " + PATH + b" HTTP/1.1"
        yield _case(f"byte {byte:#04x} in the method", _get(request=line))


def _targets() -> Iterator[Case]:
    targets = {
        "relative path": b"q/malformed",
        "only a query": b"?queue=x",
        "only a fragment": b"#x",
        "a fragment": PATH + b"#x",
        "a fragment in the query": PATH + b"?a=b#c",
        "asterisk": b"*",
        "authority": b"localhost:80",
        "a host alone": b"localhost",
        "a backslash first": b"\\q\\malformed",
        "another scheme": b"ftp://localhost/q/malformed",
        "a data URL": b"data:text/plain,x",
        "a file URL": b"file:///etc/passwd",
        "a scheme alone": b"http:",
        "a scheme and slashes": b"http://",
        "a URL without a host": b"http:///q/malformed",
        "a URL with a port alone": b"http://:80/q/malformed",
        "a URL with one slash": b"http:/localhost/q/malformed",
        "a URL with a user": b"http://user:password@localhost/q/malformed",
        "a URL with a bad port": b"http://localhost:http/q/malformed",
        "a URL with a bad IPv6 address": b"http://[::1/q/malformed",
        "a URL with a bad host": b"http://local^host/q/malformed",
        "a URL with a backslash": b"http://localhost\\@example.org/",
        "a URL with a fragment": b"http://localhost/q/malformed#x",
    }
    for name, target in targets.items():
        yield _case(f"target: {name}", _get(request=b"GET " + target + b" HTTP/1.1"))
    for byte in CONTROLS:
        line = b"GET " + PATH + bytes((byte,)) + b" HTTP/1.1"
        yield _case(f"byte {byte:#04x} in the target", _get(request=line))
    yield _case("OPTIONS asterisk", _get(request=b"OPTIONS * HTTP/1.1"))
    yield _case("CONNECT authority", _get(request=b"CONNECT localhost:80 HTTP/1.1"))


def _fields() -> Iterator[Case]:
    for byte in (*(set(DELIMITERS) - set(b":")), *CONTROLS, 0x80, 0xC3, 0xFF):
        name = b"X" + bytes((byte,)) + b"Y"
        yield _case(f"byte {byte:#04x} in a header name", _get(name + b": 1"))
    for byte in CONTROLS:
        line = b"X-One: a" + bytes((byte,)) + b"b"
        yield _case(f"byte {byte:#04x} in a header value", _get(line))
    lines = {
        "an empty name": b": 1",
        "only a colon": b":",
        "no colon": b"X-One",
        "a blank in the name": b"X One: 1",
        "a blank before the colon": b"X-One : 1",
        "a tab before the colon": b"X-One\t: 1",
        "a blank before the name": b" X-One: 1",
        "a tab before the name": b"\tX-One: 1",
        "a line of blanks": b"   ",
        "folded with a blank": b"X-One: a\r\n b",
        "folded with a tab": b"X-One: a\r\n\tb",
        "folded with nothing": b"X-One: a\r\n ",
        "folded name": b"X-One\r\n : a",
        "folded Host": b"X-One: 1\r\n example.org",
        "folded Content-Length": b"Content-Length:\r\n 5",
        "folded Transfer-Encoding": b"Transfer-Encoding:\r\n chunked",
        "a blank before the colon of Content-Length": b"Content-Length : 5",
        "a blank before the colon of Transfer-Encoding": b"Transfer-Encoding : chunked",
        "a NUL in Transfer-Encoding's name": b"Transfer\0-Encoding: chunked",
        "a request line among the fields": b"GET /q/smuggled HTTP/1.1",
        "a quote in the name": b'"X-One": 1',
    }
    for what, field in lines.items():
        yield _case(f"header: {what}", _get(field))
    first = b"GET " + PATH + b" HTTP/1.1\r\n Host: localhost\r\n\r\n"
    yield _case("header: the first is folded", first)
    yield _case("expectation unknown", _post(b"Expect: tea\r\nContent-Length: 0"), 417)
    yield _case("expectation listed", _post(b"Expect: 100-continue, tea\r\nContent-Length: 0"), 417)
    two = b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 0"
    yield _case("expectation repeated", _post(two), 417)


def _hosts() -> Iterator[Case]:
    line = b"GET " + PATH + b" HTTP/1.1\r\n"
    yield _case("Host: missing", line + b"\r\n")
    yield _case("Host: missing beside others", line + b"X-One: 1\r\n\r\n")
    absolute = b"GET http://localhost/q/malformed HTTP/1.1\r\n\r\n"
    yield _case("Host: missing beside a URL", absolute)
    hosts = {
        "empty": b"",
        "a blank": b"   ",
        "two in one": b"localhost, localhost",
        "two words": b"local host",
        "with a path": b"localhost/q",
        "with a query": b"localhost?x",
        "with a fragment": b"localhost#x",
        "with a scheme": b"http://localhost",
        "with a user": b"user@localhost",
        "with a bad port": b"localhost:http",
        "with two ports": b"localhost:80:80",
        "with a negative port": b"localhost:-1",
        "with a port alone": b":80",
        "IPv6 without brackets": b"::1",
        "IPv6 without an end": b"[::1",
        "IPv6 without a beginning": b"::1]",
        "IPv6 with more behind": b"[::1]x",
        "with a bad escape": b"local%zzhost",
        "with a backslash": b"local\\host",
        "with a quote": b'"localhost"',
        "not ASCII": b"l\xc3\xb6calhost",
    }
    for name, host in hosts.items():
        yield _case(f"Host: {name}", line + b"Host: " + host + b"\r\n\r\n")
    for other in (b"localhost", b"example.org", b""):
        two = line + b"Host: localhost\r\nHost: " + other + b"\r\n\r\n"
        yield _case(f"Host: twice, then {other.decode() or 'empty'}", two)
    two = line + b"Host: localhost\r\nhOST: localhost\r\n\r\n"
    yield _case("Host: twice in another case", two)
    two = b"GET " + PATH + b" HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"
    yield _case("Host: twice in HTTP/1.0", two)


def _lengths() -> Iterator[Case]:
    lengths = {
        "empty": b"",
        "a word": b"abc",
        "negative": b"-1",
        "with a plus": b"+7",
        "negative zero": b"-0",
        "hexadecimal": b"0x7",
        "hexadecimal without a prefix": b"a",
        "a fraction": b"7.0",
        "an exponent": b"7e0",
        "with a blank inside": b"1 0",
        "with an underscore": b"1_0",
        "with a comma": b"7,",
        "after a comma": b",7",
        "a list of the same": b"7, 7",
        "a list of two": b"7, 8",
        "with a semicolon": b"7;x",
        "quoted": b'"7"',
        "a superscript": b"\xb2",
        "Arabic digits": "\u0667".encode(),
    }
    for name, length in lengths.items():
        data = _post(b"Content-Length: " + length, b"value=x")
        yield _case(f"Content-Length: {name}", data)
    for first, second in ((b"7", b"7"), (b"7", b"0"), (b"0", b"7"), (b"7", b"8"), (b"7", b"x")):
        lines = b"Content-Length: " + first + b"\r\ncontent-length: " + second
        name = f"Content-Length: {first.decode()} and {second.decode()}"
        yield _case(name, _post(lines, b"value=x" + SMUGGLED))
    apart = b"Content-Length: 7\r\nX-One: 1\r\nContent-Length: 7"
    yield _case("Content-Length: twice, apart", _post(apart, b"value=x"))
    for number in ("99999999", "4294967296", "18446744073709551616", "9" * 40):
        data = _post(b"Content-Length: " + number.encode(), b"value=x")
        yield _case(f"Content-Length: {number}", data, 413, 400)
    waiting = _post(b"Expect: 100-continue\r\nContent-Length: 99999999")
    yield _case("Content-Length: too long, with 100-continue", waiting, 413)


def _codings() -> Iterator[Case]:
    last = b"0\r\n\r\n"
    for coding in (b"gzip", b"identity", b"deflate", b"gzip, chunked", b"xchunked", b"chunkedx"):
        data = _post(b"Transfer-Encoding: " + coding, last)
        yield _case(f"Transfer-Encoding: {coding.decode()}", data, 501, 400)
    odd = {
        "empty": b"",
        "only a comma": b",",
        "chunked twice": b"chunked, chunked",
        "chunked first": b"chunked, gzip",
        "chunked with a comma": b"chunked,",
        "after a comma": b", chunked",
        "with a parameter": b"chunked;q=1",
        "quoted": b'"chunked"',
        "two words": b"chunked chunked",
        "with a colon": b": chunked",
        "no-break space": b"\xa0chunked",
        "dotless": "chun\u212aed".encode(),
    }
    for name, coding in odd.items():
        data = _post(b"Transfer-Encoding: " + coding, last + SMUGGLED)
        yield _case(f"Transfer-Encoding: {name}", data, 501, 400)
    chunked = b"Transfer-Encoding: chunked"
    for byte in (0x00, 0x0B, 0x0C):
        data = _post(b"Transfer-Encoding: " + bytes((byte,)) + b"chunked", last)
        yield _case(f"Transfer-Encoding: after byte {byte:#04x}", data)
    twice = chunked + b"\r\n" + chunked
    yield _case("Transfer-Encoding: twice", _post(twice, last), 501, 400)
    hidden = chunked + b"\r\nTransfer-Encoding: identity"
    yield _case("Transfer-Encoding: chunked, then identity", _post(hidden, last), 501, 400)
    hidden = b"Transfer-Encoding: identity\r\n" + chunked
    yield _case("Transfer-Encoding: identity, then chunked", _post(hidden, last), 501, 400)
    yield _case("Transfer-Encoding in HTTP/1.0", _post(chunked, last, b"HTTP/1.0"))
    for length in (b"0", b"5", b"50"):
        lines = b"Content-Length: " + length + b"\r\n" + chunked
        name = f"Content-Length {length.decode()} before Transfer-Encoding"
        yield _case(name, _post(lines, last + SMUGGLED))
        lines = chunked + b"\r\nContent-Length: " + length
        name = f"Content-Length {length.decode()} after Transfer-Encoding"
        yield _case(name, _post(lines, last + SMUGGLED))
    lines = b"Content-Length: 5\r\nTransfer-Encoding: gzip"
    yield _case("Content-Length beside another coding", _post(lines, last), 400, 501)
    lines = b"Content-Length: 5\r\nTransfer-Encoding:"
    yield _case("Content-Length beside an empty coding", _post(lines, last), 400, 501)


def _chunks() -> Iterator[Case]:
    last = b"0\r\n\r\n"
    sizes = {
        "empty": b"",
        "negative": b"-7",
        "with a plus": b"+7",
        "with a prefix": b"0x7",
        "a blank before": b" 7",
        "a blank after": b"7 ",
        "a tab after": b"7\t",
        "a blank before an extension": b"7 ;x",
        "not hexadecimal": b"g",
        "with an underscore": b"0_7",
        "a comma": b"7,7",
        "a colon": b"7:x",
        "a full stop": b"7.0",
        "quoted": b'"7"',
        "17 digits": b"0" * 16 + b"7",
        "a NUL": b"7\0",
        "Arabic digits": "\u0667".encode(),
        "an empty extension": b"7;",
        "an extension without a name": b"7;=x",
        "an extension without a value": b"7;x=",
        "an extension with a blank": b"7;x y",
        "an extension with an open quote": b'7;x="y',
        "an extension with a control character": b"7;x=\x01",
        "an extension with a bare CR": b"7;x=\ry",
        "an extension with a bare LF": b"7;x=\ny",
        "a long extension": b"7;x=" + b"y" * 5000,
    }
    for name, size in sizes.items():
        data = _chunked(size + b"\r\nvalue=x\r\n" + last)
        yield _case(f"chunk size: {name}", data)
    for size in (b"F" * 8, b"F" * 16, b"7FFFFFFFFFFFFFFF", b"80000000", b"1000000"):
        data = _chunked(size + b"\r\nvalue=x\r\n" + last)
        yield _case(f"chunk size: {size.decode()}", data, 413, 400)
    yield _case("chunk size: 17 times F", _chunked(b"F" * 17 + b"\r\nvalue=x\r\n" + last), 413, 400)
    frames = {
        "bare LF after the size": b"7\nvalue=x\r\n" + last,
        "bare CR after the size": b"7\rvalue=x\r\n" + last,
        "CR CR LF after the size": b"7\r\r\nvalue=x\r\n" + last,
        "LF CR after the size": b"7\n\rvalue=x\r\n" + last,
        "bare LF after the data": b"7\r\nvalue=x\n" + last,
        "bare CR after the data": b"7\r\nvalue=x\r" + last,
        "nothing after the data": b"7\r\nvalue=x" + last,
        "a blank after the data": b"7\r\nvalue=x \r\n" + last,
        "data longer than said": b"6\r\nvalue=x\r\n" + last,
        "data shorter than said": b"8\r\nvalue=x\r\n" + last,
        "an empty line before the size": b"\r\n7\r\nvalue=x\r\n" + last,
        "bare LF after the last chunk": b"0\n\r\n",
        "bare LF at the end": b"0\r\n\n",
        "bare CR at the end": b"0\r\n\rx\r\n\r\n",
        "a request instead of the end": b"0\r\n" + SMUGGLED,
        "no chunk at all": b"value=x\r\n\r\n",
        "many extensions": b"".join(b"1;" + b"x" * 900 + b"\r\nv\r\n" for _ in range(40)) + last,
    }
    for name, body in frames.items():
        yield _case(f"chunks: {name}", _chunked(body))
    trailers = {
        "without a colon": b"X-One",
        "with a blank before the colon": b"X-One : 1",
        "without a name": b": 1",
        "folded": b"X-One: 1\r\n 2",
        "folded at once": b" X-One: 1",
        "with a bare LF": b"X-One: 1\nX-Two: 2",
        "with a bare CR": b"X-One: 1\rX-Two: 2",
        "with a NUL": b"X-One: \0",
        "with a bad name": b"X(One): 1",
    }
    for name, trailer in trailers.items():
        yield _case(f"trailer {name}", _chunked(b"7\r\nvalue=x\r\n0\r\n" + trailer + b"\r\n\r\n"))
    long = b"0\r\n" + b"X-One: " + b"x" * 20000 + b"\r\n\r\n"
    yield _case("trailer too long", _chunked(long), 431, 400)
    many = b"0\r\n" + b"X: 1\r\n" * 5000 + b"\r\n"
    yield _case("too many trailers", _chunked(many), 431, 400)


def _sizes() -> Iterator[Case]:
    long = b"/q/" + b"x" * 40000
    yield _case("target too long", _get(request=b"GET " + long + b" HTTP/1.1"), 414)
    yield _case("target too long and without end", b"GET " + long, 414)
    yield _case("query too long", _get(request=b"GET /q/x?" + long + b" HTTP/1.1"), 414)
    yield _case("method without end", b"G" * 40000, 414, 400)
    yield _case("header too long", _get(b"X-One: " + b"x" * 20000), 431)
    yield _case("header name too long", _get(b"x" * 20000 + b": 1"), 431)
    open_head = b"GET " + PATH + b" HTTP/1.1\r\nX-One: " + b"x" * 20000
    yield _case("header too long and without end", open_head, 431)
    yield _case("too many headers", _get(b"\r\n".join(b"X-%d: 1" % n for n in range(200))), 431)
    many = b"\r\n".join(b"X-%d: %b" % (n, b"x" * 1000) for n in range(60))
    yield _case("too many bytes of headers", _get(many), 431)
    open_head = b"GET " + PATH + b" HTTP/1.1\r\n" + b"X: 1\r\n" * 20000
    yield _case("headers without end", open_head, 431)
    small = b"1\r\nx\r\n" * 1000
    big = b"%x\r\n%b\r\n" % (4 * 1048576, b"x" * 4 * 1048576)
    yield _case("chunks too long together", _chunked(small + big + b"0\r\n\r\n"), 413)


def _strangers() -> Iterator[Case]:
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))
    strangers = {
        "TLS": hello,
        "SSLv2": bytes.fromhex("802e0100020015000000100100800200"),
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "SMTP": b"EHLO localhost\r\n",
        "Redis": b"*1\r\n$4\r\nPING\r\n",
        "Redis inline": b"PING\r\n",
        "memcached": b"get malformed\r\n",
        "SOCKS5": b"\x05\x01\x00",
        "SOCKS4": b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        "PROXY 1": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + _get(),
        "PROXY 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
        "a WebSocket frame": b"\x81\x85\x00\x00\x00\x00hello",
        "NULs": bytes(100),
        "0xFF": b"\xff" * 100,
        "JSON": b'{"cmd": "get"}\r\n\r\n',
        "XML": b"<policy-file-request/>\0",
        "UTF-16": _get().decode().encode("utf-16"),
        "AMQP": b"AMQP\x00\x00\x09\x01",
        "MQTT": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        "PostgreSQL": bytes.fromhex("0000000804d2162f"),
    }
    for name, data in strangers.items():
        yield _case(f"stranger: {name}", data, 400, 505)


def _all() -> Iterator[Case]:
    yield from _line_ends()
    yield from _request_lines()
    yield from _targets()
    yield from _fields()
    yield from _hosts()
    yield from _lengths()
    yield from _codings()
    yield from _chunks()
    yield from _sizes()
    yield from _strangers()


CASES: tuple[Case, ...] = tuple(_all())
