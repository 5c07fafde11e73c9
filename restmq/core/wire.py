"""The bytes of messages in the store: payloads, entries and chunks (layout in ``lua/common.lua``)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import NamedTuple

from restmq.message import Message

ENTRY_HEAD = 19
_CHUNK_HEAD = 45
_COUNT = struct.Struct(">I")
_MORE = struct.Struct(">BHBHH")
_MARK = 255
MAX_CONTENT_TYPE = 250
"""Bytes; the length of a content type is one byte, and 255 marks a payload that has more."""


def encode_payload(body: bytes, content_type: str | None) -> bytes:
    """What follows an entry's head; the content type is ASCII of at most MAX_CONTENT_TYPE bytes."""
    if content_type is None:
        return b"\0" + body
    kind = content_type.encode("ascii")
    return bytes((len(kind),)) + kind + body


def encode_more(headers: bytes, priority: int = 0) -> bytes:
    """What stands before a payload that has headers or a priority: never tried, no error."""
    return _MORE.pack(_MARK, 0, priority, len(headers), 0) + headers


def encode_ttls(ttls_ms: list[int]) -> bytes:
    """``add.lua``'s third argument: empty when no message has a time to live."""
    if not any(ttls_ms):
        return b""
    return b"".join(ttl.to_bytes(6, "big") for ttl in ttls_ms)


def decode_entry(queue: str, entry: bytes, base: int | None = None) -> Message:
    """The message of an entry; one without payload is gone (body None).

    ``base`` is that of the broadcast chunk it is of.
    """
    number = int.from_bytes(entry[:7], "big")
    placed = base is not None and number > base
    created = int.from_bytes(entry[7:13], "big")
    if len(entry) == ENTRY_HEAD:
        return Message(queue, number, None, None, created, placed)
    length = entry[ENTRY_HEAD]
    if length == _MARK:
        return _decode_more(queue, entry, placed, number, created)
    if length == 0:
        return Message(queue, number, entry[ENTRY_HEAD + 1 :], None, created, placed)
    body_at = ENTRY_HEAD + 1 + length
    kind = entry[ENTRY_HEAD + 1 : body_at].decode("ascii")
    return Message(queue, number, entry[body_at:], kind, created, placed)


def _decode_more(queue: str, entry: bytes, placed: bool, number: int, created: int) -> Message:
    _, attempt, priority, headers, error = _MORE.unpack_from(entry, ENTRY_HEAD)
    headers_at = ENTRY_HEAD + _MORE.size
    error_at = headers_at + headers
    kind_at = error_at + error
    body_at = kind_at + 1 + entry[kind_at]
    return Message(
        queue,
        number,
        entry[body_at:],
        entry[kind_at + 1 : body_at].decode("ascii") or None,
        created,
        placed,
        entry[headers_at:error_at],
        priority,
        attempt,
        entry[error_at:kind_at].decode("utf-8"),
    )


def entry_id(entry: bytes) -> int:
    """The id of an entry."""
    return int.from_bytes(entry[:7], "big")


class Outgoing(NamedTuple):
    """A message in the outbox: a dead letter, or (redrive) one that goes back; ``target`` "" is the usual.

    ``rejected``: its last attempt was given back; else its lease ended.
    """

    dead: bool
    rejected: bool
    target: str
    message: Message


def decode_outgoing(queue: str, member: bytes) -> Outgoing:
    """What a member of the outbox says: see jobs.lua."""
    end = 10 + int.from_bytes(member[8:10], "big")
    target, message = member[10:end].decode("utf-8"), decode_entry(queue, member[end:])
    return Outgoing(member[7] != 1, member[7] == 2, target, message)


class ChunkHead(NamedTuple):
    """The numbers at the front of a chunk; ``base`` (0 if dealt) is the highest id broadcast before it."""

    dealt: bool
    epoch: int
    prev: int
    pos: int
    bpos: int
    messages: int
    base: int


def chunk_head(chunk: bytes) -> ChunkHead:
    """Read a chunk's head without its entries."""
    dealt = chunk[:1] == b"r"
    return ChunkHead(
        dealt,
        int.from_bytes(chunk[1:8], "big"),
        int.from_bytes(chunk[8:15], "big"),
        int.from_bytes(chunk[15:22], "big"),
        int.from_bytes(chunk[22:29], "big"),
        int.from_bytes(chunk[29:33], "big"),
        0 if dealt else int.from_bytes(chunk[33:40], "big"),
    )


def chunk_entries(chunk: bytes) -> list[bytes]:
    """The entries of a chunk, in order."""
    count = _COUNT.unpack_from(chunk, 29)[0]
    sizes = struct.unpack_from(f">{count}I", chunk, _CHUNK_HEAD)
    at = _CHUNK_HEAD + 4 * count * (2 if chunk[:1] == b"r" else 1)
    entries = []
    for size in sizes:
        entries.append(chunk[at : at + size])
        at += size
    return entries


def shown_entries(data: bytes) -> list[bytes]:
    """The entries of what observers get: see add.lua."""
    count = _COUNT.unpack_from(data, 1)[0]
    sizes = struct.unpack_from(f">{count}I", data, 5)
    ends = list(itertools.accumulate(sizes, initial=5 + 4 * count))
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def chunk_numbers(chunk: bytes) -> tuple[int, ...]:
    """For a dealt chunk: the consumer number of each entry."""
    count = _COUNT.unpack_from(chunk, 29)[0]
    return struct.unpack_from(f">{count}I", chunk, _CHUNK_HEAD + 4 * count)


class Mark(NamedTuple):
    """What the store tells a daemon of messages it has in hand: (position of the chunk, id) of each.

    ``lease_ms`` None: they are out no more; else they are leased so long from now.
    """

    epoch: int
    lease_ms: int | None
    pairs: list[tuple[int, int]]


def decode_mark(mark: bytes) -> Mark | None:
    """The mark ``A`` or ``E`` on a daemon's channel (ack.lua); None for what is none."""
    extends = mark[:1] == b"E"
    if not extends and mark[:1] != b"A":
        return None
    numbers = [int.from_bytes(mark[at : at + 7], "big") for at in range(1, len(mark), 7)]
    start = 2 if extends else 1
    pairs = list(zip(numbers[start::2], numbers[start + 1 :: 2], strict=True))
    return Mark(numbers[0], numbers[1] if extends else None, pairs)


def encode_numbers(numbers: Sequence[int]) -> bytes:
    """Ids or positions as scripts read them, seven bytes each."""
    return b"".join([number.to_bytes(7, "big") for number in numbers])
