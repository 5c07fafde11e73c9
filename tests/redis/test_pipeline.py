"""The pipeline alone: bytes out, bytes in."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from restmq.errors import OutcomeUnknown, StoreAway, StoreError, StoreFull, StoreRefused
from restmq.redis.pipeline import Pipeline, encode, encode_arguments, store_error


class Wire:
    """A pipeline whose far end is the test."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.replies: list[Any] = []
        self.now = 100.0
        self.scripts_gone = 0
        self.pipeline = Pipeline(self.written.append, lambda: self.now, self._gone)

    def _gone(self) -> None:
        self.scripts_gone += 1

    def send(self, *arguments: bytes) -> None:
        self.pipeline.send(encode(*arguments), self.replies.append)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_commands_are_arrays_of_bulk_strings() -> None:
    assert encode(b"GET", b"\r\n") == b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n"
    assert encode_arguments(b"", b"a") == b"$0\r\n\r\n$1\r\na\r\n"


def test_what_gathers_leaves_in_one_write(wire: Wire) -> None:
    wire.send(b"PING")
    wire.send(b"GET", b"a")
    assert wire.written == []
    wire.pipeline.flush()
    wire.pipeline.flush()
    assert wire.written == [encode(b"PING") + encode(b"GET", b"a")]


def test_replies_come_in_order_however_they_are_cut(wire: Wire) -> None:
    for _ in range(4):
        wire.send(b"PING")
    for byte in b"+PONG\r\n:7\r\n$3\r\n007\r\n*2\r\n$1\r\na\r\n$-1\r\n":
        wire.pipeline.feed(bytes((byte,)))
    assert wire.replies == [b"PONG", 7, b"007", [b"a", None]]


@pytest.mark.parametrize("text", [b"007", b"1.0", b"1e5", b"nan", b"", b"\xff\0", b"None", b"-1"])
def test_bytes_that_look_like_something_stay_bytes(wire: Wire, text: bytes) -> None:
    wire.send(b"GET", b"a")
    wire.pipeline.feed(b"$%d\r\n%s\r\n" % (len(text), text))
    assert wire.replies == [text]
    assert type(wire.replies[0]) is bytes


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull),
        ("LOADING Valkey is loading the dataset in memory", StoreAway),
        ("READONLY You can't write against a read only replica.", StoreAway),
        ("NOSCRIPT No matching script.", StoreAway),
        ("MISCONF Errors writing to the AOF file", StoreAway),
        ("BUSY Valkey is busy running a script", StoreAway),
        ("NOPERM User x has no permissions", StoreRefused),
        ("WRONGTYPE Operation against a key", StoreRefused),
        ("WRONGPASS invalid username-password pair", StoreRefused),
        ("ERR unknown command", StoreRefused),
        ("", StoreRefused),
    ],
)
def test_error_replies_have_a_kind(wire: Wire, text: str, kind: type[StoreError]) -> None:
    assert type(store_error(text)) is kind
    wire.send(b"GET", b"a")
    wire.send(b"PING")
    wire.pipeline.feed(f"-{text}\r\n+PONG\r\n".encode())
    assert type(wire.replies[0]) is kind
    assert str(wire.replies[0]) == text
    assert wire.replies[1] == b"PONG", "and the next one is not lost"
    assert wire.scripts_gone == text.startswith("NOSCRIPT")


def test_lost_scripts_are_told_before_the_callback_can_send(wire: Wire) -> None:
    order: list[object] = []
    pipeline = Pipeline(wire.written.append, lambda: 0.0, lambda: order.append("gone"))
    pipeline.send(encode(b"EVALSHA"), order.append)
    pipeline.feed(b"-NOSCRIPT No matching script.\r\n")
    assert order[0] == "gone"


def test_lost_tells_what_may_have_happened_from_what_did_not(wire: Wire) -> None:
    wire.send(b"SENT")
    wire.pipeline.flush()
    wire.send(b"GATHERED")
    wire.pipeline.lost()
    assert [type(reply) for reply in wire.replies] == [OutcomeUnknown, StoreAway]
    wire.pipeline.lost()
    wire.pipeline.flush()
    assert len(wire.replies) == 2
    assert len(wire.written) == 1


def test_callback_may_send(wire: Wire) -> None:
    wire.pipeline.send(encode(b"FIRST"), lambda reply: wire.send(b"SECOND"))
    wire.pipeline.feed(b"+OK\r\n")
    wire.pipeline.flush()
    assert wire.written[-1].endswith(encode(b"SECOND"))
    wire.pipeline.feed(b"+OK\r\n")
    assert wire.replies == [b"OK"]


def test_silence_counts_only_while_a_reply_is_due(wire: Wire) -> None:
    wire.now += 50
    assert wire.pipeline.silent_for() == 0
    wire.send(b"PING")
    wire.now += 3
    assert wire.pipeline.silent_for() == 3
    wire.pipeline.feed(b"+PO")
    assert wire.pipeline.silent_for() == 0, "something came"
    wire.now += 2
    wire.pipeline.feed(b"NG\r\n")
    wire.now += 50
    assert wire.pipeline.silent_for() == 0
    assert wire.replies == [b"PONG"]


def test_garbage_is_an_error(wire: Wire) -> None:
    wire.send(b"PING")
    with pytest.raises(hiredis.ProtocolError):
        wire.pipeline.feed(b"HTTP/1.1 400 Bad Request\r\n")
