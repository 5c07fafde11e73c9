"""Heads and bodies, read without a socket."""

from __future__ import annotations

from contextlib import suppress

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.web.wire import (
    CHUNKED,
    ChunkedBody,
    FixedBody,
    Head,
    HeadTable,
    Limits,
    Refusal,
    body_reader,
    check_partial,
    read_head,
)
from tests.web.malformed import CASES, Case

LIMITS = Limits()


def head(text: str, *lines: str) -> Head:
    lines = lines or ("Host: localhost",)
    data = "\r\n".join((text, *lines)) + "\r\n\r\n"
    return read_head(data.encode("utf-8"), LIMITS)


def test_a_plain_request() -> None:
    found = head("POST /q/a%20b?x=1 HTTP/1.1", "Host: h:80", "X-One:  a b \t", "Content-Length: 5")
    assert (found.method, found.uri, found.path, found.query) == (
        "POST",
        "/q/a%20b?x=1",
        "/q/a%20b",
        "x=1",
    )
    assert (found.host, found.body_length, found.http_1_1) == ("h:80", 5, True)
    assert found.headers.get("X-ONE") == found.headers["x-One"] == "a b"
    assert "x-one" in found.headers
    assert "X-One" in found.headers
    assert "X-Two" not in found.headers


def test_raw_utf8_in_the_path_is_what_its_percent_encoding_would_be() -> None:
    assert head("GET /q/é%C3%A9 HTTP/1.1").uri == "/q/%C3%A9%C3%A9"


def test_a_url_as_target_names_the_host() -> None:
    found = head("GET http://other:81/q/x?y HTTP/1.1")
    assert (found.uri, found.host, found.headers["Host"]) == ("/q/x?y", "other:81", "other:81")
    assert head("GET HTTPS://h HTTP/1.1").uri == "/"
    assert head("GET http://h?x HTTP/1.1").uri == "/?x"


@pytest.mark.parametrize("method", ["FOO", "CONNECT", "M-SEARCH", "PRI", "SOURCE", "get", "!"])
def test_any_token_is_a_method(method: str) -> None:
    assert head(f"{method} /q/x HTTP/1.1").method == method


def test_an_offer_to_upgrade_changes_nothing() -> None:
    lines = ("Host: h", "Upgrade: h2c", "Connection: Upgrade", "Content-Length: 3")
    found = head("POST /q/x HTTP/1.1", *lines)
    assert found.body_length == 3
    assert found.headers["upgrade"] == "h2c"


@pytest.mark.parametrize(
    ("version", "wish", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "Close", False),
        ("1.1", "x, CLOSE ,y", False),
        ("1.1", "closed", True),
        ("1.1", "keep-alive", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "keep-alive, x", True),
        ("1.0", "keep-alive, close", False),
    ],
)
def test_who_wants_the_connection_kept(version: str, wish: str | None, kept: bool) -> None:
    lines = ("Host: h", f"Connection: {wish}") if wish else ("Host: h",)
    assert head(f"GET / HTTP/{version}", *lines).keep_alive is kept


def test_repeated_fields_are_joined() -> None:
    found = head(
        "GET / HTTP/1.1", "Host: h", "Accept: a", "accept: b", "Cookie: a=1", "cookie: b=2"
    )
    assert found.headers["accept"] == "a, b"
    assert found.headers["cookie"] == "a=1; b=2"


def test_what_a_body_is_framed_by() -> None:
    assert head("POST / HTTP/1.1", "Host: h", "Transfer-Encoding: Chunked").body_length == CHUNKED
    assert head("POST / HTTP/1.1", "Host: h", "Content-Length: 007").body_length == 7
    assert head("GET / HTTP/1.0", "Content-Length: 1").body_length == 1
    assert head("GET / HTTP/1.0", "X-One: 1").host == ""


def test_expectations() -> None:
    assert head("POST / HTTP/1.1", "Host: h", "Expect: 100-Continue").expects_continue
    assert not head("POST / HTTP/1.0", "Host: h", "Expect: 100-continue").expects_continue


def test_a_body_too_long_is_refused_before_it_comes() -> None:
    found = head("POST / HTTP/1.1", "Host: h", f"Content-Length: {LIMITS.body + 1}")
    with pytest.raises(Refusal) as refused:
        body_reader(found, LIMITS.body)
    assert refused.value.status == 413
    body_reader(head("POST / HTTP/1.1", "Host: h", f"Content-Length: {LIMITS.body}"), LIMITS.body)


@pytest.mark.parametrize("over", [0, 1])
def test_limits_are_met_to_the_byte(over: int) -> None:
    limits = Limits(request_line=2000, header_line=3000, header_bytes=8000, headers=20)
    line = b"GET /" + b"x" * (2000 - 14 + over) + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    field = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * (3000 - 3 + over) + b"\r\n\r\n"
    many = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: 1\r\n" * (19 + over) + b"\r\n"
    for data, status in ((line, 414), (field, 431), (many, 431)):
        if over:
            with pytest.raises(Refusal) as refused:
                read_head(data, limits)
            assert refused.value.status == status
        else:
            read_head(data, limits)


PIECES = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b",",
            b"0",
            b"5",
            b"x",
            b"\0",
            b"\xe9",
            b"\x0b",
        ),
        *(b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding", b"Host: h"),
        *(b"Connection: close", b"Upgrade: x", b"GET", b"POST", b"/", b"HTTP/1.1", b"HTTP/1.0"),
    ]
)


class Witness:
    """What llhttp alone makes of a request."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.target = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode().lower(), value.decode("latin-1").strip(" \t")))


@given(st.lists(PIECES, max_size=12), st.booleans())
def test_whatever_is_accepted_llhttp_reads_the_same(pieces: list[bytes], start: bool) -> None:
    """Law: a head we take is a head for llhttp too, with the same fields in the same order."""
    prefix = b"POST /q/x HTTP/1.1\r\nHost: h\r\n" if start else b""
    data = prefix + b"".join(pieces) + b"\r\n\r\n"
    data = data[: data.index(b"\r\n\r\n") + 4]
    try:
        found = read_head(data, LIMITS)
    except Refusal:
        return
    witness = Witness()
    try:
        httptools.HttpRequestParser(witness).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        assert not found.uri.isascii() or b"\xe9" in data or found.method not in ("GET", "POST")
        return
    assert [name for name, _ in witness.headers] == [
        line.split(b":")[0].decode().lower() for line in data.split(b"\r\n")[1:-2]
    ]
    for name, value in witness.headers:
        assert value in found.headers[name]


@given(st.lists(PIECES, max_size=6), st.lists(PIECES, max_size=6))
def test_a_remembered_block_is_read_as_it_would_be_read_anew(
    line: list[bytes], fields: list[bytes]
) -> None:
    """Law: whatever the table finds, the reader itself would have said the same."""
    table = HeadTable(LIMITS)
    block = b"Host: h\r\n" + b"".join(fields) + b"\r\n\r\n"
    block = block[: block.index(b"\r\n\r\n") + 4]
    last, last_bytes = None, b"POST /q/x?y HTTP/1.1\r\n" + block
    with suppress(Refusal):
        last = table.read(last_bytes)
    for data in (
        b"GET /q/z HTTP/1.1\r\n" + block,
        b"".join(line) + b"\r\n" + block,
        b"DELETE /" + b"".join(line) + b" HTTP/1.1\r\n" + block,
        b"GET /" + b"".join(line) + b" HTTP/1.0\r\n" + block,
    ):
        found = table.find(data + b"GET / HTTP/1.1\r\n")
        by_last = HeadTable(LIMITS).find(data, last, last_bytes)
        assert (found is None) == (by_last is None)
        if found is None:
            continue
        anew = read_head(data[: found.size], LIMITS)
        for name in ("size", "method", "uri", "path", "query", "host", "http_1_1", "body_length"):
            assert getattr(found, name) == getattr(anew, name)
        assert found.headers == anew.headers
        assert found.keep_alive == anew.keep_alive
        assert found.expects_continue == anew.expects_continue


def test_what_the_table_finds() -> None:
    table = HeadTable(LIMITS)
    block = b"Host: h\r\nContent-Length: 3\r\n\r\n"
    assert table.find(b"POST /q/a HTTP/1.1\r\n" + block) is None
    fields = table.read(b"POST /q/a HTTP/1.1\r\n" + block).fields
    found = table.find(b"PUT /q/b%20?c=d HTTP/1.1\r\n" + block + b"abc")
    assert found is not None
    assert found.fields is fields
    assert (found.method, found.path, found.query) == ("PUT", "/q/b%20", "c=d")
    for line in (b"POST /q/a HTTP/1.0", b"FOO /q HTTP/1.1", b"GET http://x/ HTTP/1.1", b"GET / b"):
        assert table.find(line + b"\r\n" + block) is None
    assert table.find(b"POST /q/a HTTP/1.1\r\nX: y\r\n" + block) is None
    assert table.find(b"POST /q/a HTTP/1.1\r\n" + block[:-1]) is None


def test_the_table_refuses_nothing_less_than_the_reader() -> None:
    """A longer line than is allowed is not let in because its fields are known."""
    tight = LIMITS._replace(request_line=100)
    table = HeadTable(tight)
    block = b"Host: h\r\n\r\n"
    table.read(b"GET / HTTP/1.1\r\n" + block)
    fits = b"GET /" + b"a" * 86 + b" HTTP/1.1\r\n" + block
    assert table.find(fits) is not None
    assert table.find(fits.replace(b"aa", b"aaa", 1)) is None


def test_a_connection_finds_its_own_block_when_the_table_has_lost_it() -> None:
    """2,000 pollers with a User-Agent each went through the table, and each was read anew."""
    table, block = HeadTable(LIMITS), b"Host: h\r\nUser-Agent: uuid/1\r\n\r\n"
    before = b"GET /e/a?last-known-id=1 HTTP/1.1\r\n" + block
    now = b"GET /e/a?last-known-id=2 HTTP/1.1\r\n" + block
    last = read_head(before, LIMITS)
    found = table.find(now, last, before)
    assert found is not None
    assert found.fields is last.fields
    assert found.uri == "/e/a?last-known-id=2"
    assert table.find(now) is None
    assert table.find(now.replace(b"uuid/1", b"uuid/2"), last, before) is None
    assert table.find(now.replace(b"Host", b"X: Host"), last, before) is None
    for line in (b"GET / HTTP/1.0", b"GET http://x/ HTTP/1.1"):  # says more than the path
        other = line + b"\r\n" + block
        assert table.find(now, read_head(other, LIMITS), other) is None
    longer = b"GET / HTTP/1.1\r\nConnection: close\r\n" + block
    assert table.find(now, read_head(longer, LIMITS), longer) is None


def test_the_table_is_bounded() -> None:
    table = HeadTable(LIMITS)
    for n in range(HeadTable.KNOWN_BLOCKS + 1):
        table.read(b"GET / HTTP/1.1\r\nHost: h%d\r\n\r\n" % n)
    assert table.find(b"GET / HTTP/1.1\r\nHost: h0\r\n\r\n") is None
    for n in (1, HeadTable.KNOWN_BLOCKS):
        assert table.find(b"GET / HTTP/1.1\r\nHost: h%d\r\n\r\n" % n) is not None
    long = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * HeadTable.MAX_BLOCK + b"\r\n\r\n"
    table.read(long)
    assert table.find(long) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise_than_by_refusing(data: bytes) -> None:
    for attempt in (data, b"GET / HTTP/1.1\r\nHost: h\r\n" + data):
        whole = attempt.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        with suppress(Refusal):
            read_head(whole, LIMITS)
        with suppress(Refusal):
            check_partial(whole, 0, LIMITS)


@given(st.data())
def test_what_is_refused_early_is_refused_in_the_end(data: st.DataObject) -> None:
    """Law: a head that comes in pieces gets no refusal that it would not get whole."""
    good = (
        b"POST /q/x?y=1 HTTP/1.1\r\nHost: localhost\r\nX-One: a\tb\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 3\r\n\r\n"
    )
    seen = 0
    while seen < len(good) - 1:
        end = data.draw(st.integers(seen + 1, len(good) - 1))
        check_partial(good[:end], seen, LIMITS)
        seen = end


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.data())
def test_a_chunked_body_comes_out_whole_however_it_is_cut(
    parts: list[bytes], data: st.DataObject
) -> None:
    extension = data.draw(st.sampled_from([b"", b";a", b";a=b", b';a="x;\\"y"', b";a=1;b=2"]))
    trailer = data.draw(st.sampled_from([b"", b"X-One: 1\r\n", b"X: 1\r\nY: 2\r\n"]))
    wire = b"".join(b"%X%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    wire += b"0" + extension + b"\r\n" + trailer + b"\r\nNEXT"
    body = ChunkedBody(10**6)
    rest = None
    while rest is None:
        cut = data.draw(st.integers(1, len(wire)))
        piece, wire = wire[:cut], wire[cut:]
        rest = body.feed(piece)
    assert rest + wire == b"NEXT"
    assert body.content() == b"".join(parts)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name.startswith("chunk")], ids=lambda c: c.name
)
def test_a_malformed_chunked_body_is_refused_byte_by_byte_too(case: Case) -> None:
    data = case.data.partition(b"\r\n\r\n")[2]
    body = ChunkedBody(LIMITS.body)
    with pytest.raises(Refusal):
        for at in range(len(data)):
            if body.feed(data[at : at + 1]) is not None:
                break


def test_a_fixed_body_keeps_its_hands_off_the_next_request() -> None:
    body = FixedBody(5)
    assert body.feed(b"ab") is None
    assert body.feed(b"cdeNEXT") == b"NEXT"
    assert body.content() == b"abcde"
