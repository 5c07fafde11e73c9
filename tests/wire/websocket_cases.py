"""What a WebSocket endpoint must do with frames, right and wrong: a table (RFC 6455).

The chapters are those of the Autobahn test suite (1 framing, 2 pings, 3 reserved bits, 4 opcodes,
5 fragments, 6 UTF-8, 7 closing, 9 sizes, 10 fragments by themselves), against an endpoint that
echoes messages. Nothing here does I/O.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from tests.wire.websockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    encoded,
)

MAX_MESSAGE = 1048576
"""The default of ``--max-websocket-message``."""

NORMAL, PROTOCOL_ERROR, BAD_PAYLOAD, TOO_BIG = 1000, 1002, 1007, 1009


class Case(NamedTuple):
    """One story: what the client writes, what comes back, and how it ends.

    ``code`` is that of the broker's close frame; None: the client closes, when all has come
    back. ``said_goodbye``: a close frame is among what the client writes. ``chop`` is how many bytes it
    writes at once.
    """

    name: str
    sent: bytes
    back: tuple[tuple[int, bytes], ...] = ()
    code: int | None = None
    said_goodbye: bool = False
    chop: int | None = None


def echo(name: str, payload: bytes, opcode: int, chop: int | None = None) -> Case:
    """A message in one frame comes back as it was."""
    return Case(name, encoded(payload, opcode), ((opcode, payload),), chop=chop)


def fails(name: str, sent: bytes, code: int = PROTOCOL_ERROR, *back: tuple[int, bytes]) -> Case:
    """Something wrong, after ``back``, ends the connection with this code."""
    return Case(name, sent, back, code)


def fragments(parts: list[bytes], opcode: int = TEXT) -> list[bytes]:
    """A message in as many frames."""
    last = len(parts) - 1
    return [
        encoded(part, CONTINUATION if number else opcode, fin=number == last)
        for number, part in enumerate(parts)
    ]


def pieces(payload: bytes, size: int) -> list[bytes]:
    """The payload cut into pieces of this size."""
    return [payload[start : start + size] for start in range(0, len(payload), size)]


def framing() -> Iterator[Case]:
    for opcode, word in ((TEXT, "text"), (BINARY, "binary")):
        for size in (0, 1, 125, 126, 127, 128, 65534, 65535, 65536, 65537):
            byte = b"*" if opcode == TEXT else b"\xfe"
            yield echo(f"1 {word} of {size}", byte * size, opcode)
            if size in (0, 1, 125, 126, 128):
                yield echo(f"1 {word} of {size} byte by byte", byte * size, opcode, 1)
        yield echo(f"1 {word} of 65536 in pieces of 997", b"*" * 65536, opcode, 997)
    yield fails("1 no mask", encoded(b"x", mask=False))
    for size, length_bytes in ((0, 2), (125, 2), (0, 8), (126, 8), (65535, 8)):
        long_way = encoded(b"*" * size, length_bytes=length_bytes)
        yield fails(f"1 length {size} written in {length_bytes} bytes", long_way)
    yield fails("1 length above 2**63", b"\x82\xff" + b"\xff" * 8 + b"mask")


def pings() -> Iterator[Case]:
    for payload in (b"", b"hello", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125):
        name = f"2 ping with {len(payload)} bytes"
        yield Case(name, encoded(payload, PING), ((PONG, payload),))
        yield Case(f"{name} byte by byte", encoded(payload, PING), ((PONG, payload),), chop=1)
    yield fails("2 ping with 126 bytes", encoded(b"\xfe" * 126, PING))
    for payload in (b"", b"unsolicited"):
        sent = encoded(payload, PONG) + encoded(b"p", PING)
        yield Case(f"2 pong with {len(payload)} bytes nobody asked for", sent, ((PONG, b"p"),))
    yield fails("2 pong with 126 bytes", encoded(b"\xfe" * 126, PONG))
    many = [b"ping %d" % number for number in range(500)]
    sent, back = b"".join(encoded(p, PING) for p in many), tuple((PONG, p) for p in many)
    yield Case("2 many pings at once", sent, back)
    yield Case("2 many pings in pieces", sent, back, chop=61)


def reserved_bits() -> Iterator[Case]:
    hello, good = encoded(b"Hello"), (TEXT, b"Hello")
    for rsv in range(RSV3, RSV1 + RSV2 + RSV3 + 1, RSV3):
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG):
            bad = encoded(b"" if opcode == CLOSE else b"x", opcode, rsv=rsv)
            name = f"3 reserved bits {rsv >> 4} with opcode {opcode}"
            yield fails(name, hello + bad, PROTOCOL_ERROR, good)
        bad = encoded(b"x", rsv=rsv) + encoded(b"p", PING)
        yield fails(f"3 reserved bits {rsv >> 4}, then a ping", hello + bad, PROTOCOL_ERROR, good)


def opcodes() -> Iterator[Case]:
    hello, good = encoded(b"Hello"), (TEXT, b"Hello")
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"reserved"):
            bad = encoded(payload, opcode)
            name = f"4 opcode {opcode} with {len(payload)} bytes"
            yield fails(name, bad)
            yield fails(f"{name} after a message", hello + bad, PROTOCOL_ERROR, good)
            after = hello + bad + encoded(b"p", PING)
            yield fails(f"{name} before a ping", after, PROTOCOL_ERROR, good)


def fragmentation() -> Iterator[Case]:
    for opcode in (PING, PONG):
        yield fails(f"5 control {opcode} in fragments", b"".join(fragments([b"a", b"b"], opcode)))
    two, whole = fragments([b"frag1", b"frag2"]), (TEXT, b"frag1frag2")
    ping, pong = encoded(b"p", PING), (PONG, b"p")
    for chop in (None, 1):
        how = "" if chop is None else " byte by byte"
        yield Case(f"5 two fragments{how}", b"".join(two), (whole,), chop=chop)
        between = two[0] + ping + two[1]
        yield Case(f"5 a ping between fragments{how}", between, (pong, whole), chop=chop)
        five = fragments([b"1", b"2", b"", b"4", b"5"])
        mixed = b"".join(part + ping for part in five[:-1]) + five[-1]
        back = (pong,) * 4 + ((TEXT, b"1245"),)
        yield Case(f"5 four pings between five fragments{how}", mixed, back, chop=chop)
        unasked = two[0] + encoded(b"u", PONG) + two[1]
        yield Case(f"5 a pong between fragments{how}", unasked, (whole,), chop=chop)
    for fin in (True, False):
        alone = encoded(b"x", CONTINUATION, fin=fin)
        end = "the last" if fin else "not the last"
        yield fails(f"5 a continuation of nothing, {end}", alone)
        after = encoded(b"Hello") + alone
        good = (TEXT, b"Hello")
        yield fails(f"5 one after a message, {end}", after, PROTOCOL_ERROR, good)
        ended = b"".join(two) + alone
        yield fails(f"5 one after fragments, {end}", ended, PROTOCOL_ERROR, whole)
    for opcode in (TEXT, BINARY):
        for fin in (True, False):
            inside = two[0] + encoded(b"x", opcode, fin=fin)
            yield fails(f"5 opcode {opcode} (fin {fin}) inside a message", inside)
    empty = b"".join(fragments([b"", b"", b""]))
    yield Case("5 three empty fragments", empty, ((TEXT, b""),))
    yield Case("5 empty round something", b"".join(fragments([b"", b"x", b""])), ((TEXT, b"x"),))
    binary = b"".join(fragments([b"\xff", b"\0"], BINARY))
    yield Case("5 binary fragments", binary, ((BINARY, b"\xff\0"),))
    closing = two[0] + encoded(b"\x03\xe8", CLOSE)
    yield Case("5 a close between fragments", closing, (), NORMAL, said_goodbye=True)


WELL_FORMED = (
    b"", "Hello-µ@ßöäüàá-UTF-8!!".encode(), "κόσμε".encode(),
    # the first and the last of each length
    b"\0", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80",
    b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf",
    # round the surrogates, and the replacement character
    b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd",
    # characters that will never be any are characters
    b"\xef\xbf\xbe", b"\xf0\x9f\xbf\xbe", b"\xf0\x9f\xbf\xbf", b"\xf4\x8f\xbf\xbe", b"\xef\xb7\x90",
)  # fmt: skip

ILL_FORMED = (
    # longer than any character, and beyond the last one
    b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xf7\xbf\xbf\xbf",
    b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf", b"\xf4\x90\x80\x80",
    # a continuation of nothing
    b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80\xbf\x80\xbf\x80", bytes(range(0x80, 0xC0)),
    # a beginning without its continuation
    *(bytes((first, 0x20)) for first in (*range(0xC0, 0xF5), *range(0xF8, 0xFE))),
    b"\xe2\x82\x20", b"\xf0\x9f\x98\x20",
    # bytes that are never there
    b"\xfe", b"\xff", b"\xfe\xfe\xff\xff", b"\xc0\xaf", b"\xc1\xbf",
    # longer than need be
    b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf",
    b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80",
    # surrogates, alone and in pairs
    b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80",
    b"\xed\xbe\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf",
)  # fmt: skip

CUT_SHORT = (b"\xc2", b"\xe0\xa0", b"\xe2\x82", b"\xf0\x90", b"\xf0\x9f\x98", b"\xf4\x8f\xbf")


def utf_8() -> Iterator[Case]:
    greek = "κόσμε".encode()
    for good in WELL_FORMED:
        for text in (good, greek + good + greek):
            yield echo(f"6 {text.hex()}", text, TEXT)
        one_by_one = b"".join(fragments([good[i : i + 1] for i in range(len(good))] or [b""]))
        yield Case(f"6 {good.hex()} a byte a frame", one_by_one, ((TEXT, good),))
    for bad in ILL_FORMED:
        yield fails(f"6 {bad.hex()}", encoded(bad), BAD_PAYLOAD)
        yield fails(f"6 {bad.hex()} in text", encoded(greek + bad + b"edited"), BAD_PAYLOAD)
        yield fails(f"6 {bad.hex()} in fragments", b"".join(fragments([greek, bad])), BAD_PAYLOAD)
        # It is refused where it goes wrong: neither the frame nor the message ends.
        first_bytes = encoded(bad + b"*" * 1000)[: 8 + len(bad)]
        yield fails(f"6 {bad.hex()} at the beginning", first_bytes, BAD_PAYLOAD)
        unfinished = encoded(greek, fin=False) + encoded(bad, CONTINUATION, fin=False)
        yield fails(f"6 {bad.hex()} in the second of more", unfinished, BAD_PAYLOAD)
        yield echo(f"6 {bad.hex()} as binary", bad, BINARY)
    for cut in CUT_SHORT:
        yield fails(f"6 {cut.hex()} and the end", encoded(greek + cut), BAD_PAYLOAD)
        parts = b"".join(fragments([greek, cut]))
        yield fails(f"6 {cut.hex()} and the end of fragments", parts, BAD_PAYLOAD)


def goodbye(code: int | None = None, reason: bytes = b"") -> bytes:
    """A close frame."""
    return encoded((b"" if code is None else code.to_bytes(2)) + reason, CLOSE)


def closing() -> Iterator[Case]:
    def close(name: str, sent: bytes, code: int, *back: tuple[int, bytes]) -> Case:
        return Case(f"7 {name}", sent, back, code, said_goodbye=True)

    hello, good = encoded(b"Hello"), (TEXT, b"Hello")
    yield close("after a message", hello + goodbye(1000), NORMAL, good)
    yield close("twice", goodbye(1000) * 2, NORMAL)
    yield close("a ping after it", goodbye(1000) + encoded(b"p", PING), NORMAL)
    yield close("a message after it", goodbye(1000) + hello, NORMAL)
    unfinished = encoded(b"frag", fin=False)
    yield close("a fragment after it", unfinished + goodbye(1000) + encoded(b"x", 0), NORMAL)
    yield close("after much", encoded(b"*" * 262144) + goodbye(1000), NORMAL, (TEXT, b"*" * 262144))
    yield close("without a code", goodbye(), NORMAL)
    yield close("with half a code", encoded(b"\x03", CLOSE), PROTOCOL_ERROR)
    yield close("with a reason", goodbye(1000, b"Hello World!"), NORMAL)
    yield close("with the longest reason", goodbye(1000, b"*" * 123), NORMAL)
    yield close("with a longer reason", goodbye(1000, b"*" * 124), PROTOCOL_ERROR)
    yield close("with a reason that is no UTF-8", goodbye(1000, b"\xce\xba\xed\xa0"), BAD_PAYLOAD)
    yield close("with a reason cut short", goodbye(1000, b"\xce\xba\xce"), BAD_PAYLOAD)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield close(f"with {code}", goodbye(code), NORMAL)
    for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
        yield close(f"with {code}, which nobody may send", goodbye(code), PROTOCOL_ERROR)
    yield Case("7 in fragments", encoded(b"\x03", CLOSE, fin=False), (), PROTOCOL_ERROR)


def sizes() -> Iterator[Case]:
    noise = random.Random(9).randbytes(MAX_MESSAGE)
    for opcode, word, payload in (
        (TEXT, "text", b"*" * MAX_MESSAGE),
        (BINARY, "binary", noise),
    ):
        for size in (262144, MAX_MESSAGE):
            yield echo(f"9 {word} of {size}", payload[:size], opcode)
        for size in (1024, 65536):
            parts = b"".join(fragments(pieces(payload, size), opcode))
            yield Case(f"9 {word} in fragments of {size}", parts, ((opcode, payload),))
        small = b"".join(fragments(pieces(payload[:65536], 64), opcode))
        yield Case(f"9 {word} in fragments of 64", small, ((opcode, payload[:65536]),))
        yield echo(f"9 {word} written in pieces of 2048", payload, opcode, 2048)
        yield echo(f"9 {word} written in pieces of 64", payload[:65536], opcode, 64)
        for size in (0, 16, 64, 256, 1024):
            many = [payload[start : start + size] for start in range(200)]
            sent = b"".join(encoded(part, opcode) for part in many)
            back = tuple((opcode, part) for part in many)
            yield Case(f"9 200 {word} messages of {size}", sent, back)
        # Too long is refused at the header, before anything of it has come.
        header = encoded(b"*" * (MAX_MESSAGE + 1), opcode)[:14]
        yield fails(f"9 {word} one byte too long", header, TOO_BIG)
        parts = encoded(payload, opcode, fin=False) + encoded(b"*", CONTINUATION)
        yield fails(f"9 {word} one byte too long in fragments", parts, TOO_BIG)
    huge = b"\x82\xff" + (1 << 62).to_bytes(8) + b"mask"
    yield fails("9 binary of 4 EiB", huge, TOO_BIG)


def automatic_fragments() -> Iterator[Case]:
    payload = b"*" * 65536
    for size in (1300, 32768, 65535):
        parts = b"".join(fragments(pieces(payload, size)))
        yield Case(f"10 64 KiB in frames of {size}", parts, ((TEXT, payload),))


CASES = tuple(
    chain(
        framing(),
        pings(),
        reserved_bits(),
        opcodes(),
        fragmentation(),
        utf_8(),
        closing(),
        sizes(),
        automatic_fragments(),
    )
)
