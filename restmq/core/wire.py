"""The bytes of messages in the store: payloads, entries and chunks (layout in ``lua/common.lua``)."""

from __future__ import annotations

import itertools
import struct
from typing import NamedTuple

from restmq.message import Message

ENTRY_HEAD = 19
_CHUNK_HEAD = 45
_COUNT = struct.Struct(">I")


def encode_payload(body: bytes, content_type: str | None) -> bytes:
    """What follows an entry's head; the content type is ASCII of at most 255 bytes."""
    if content_type is None:
        return b"\0" + body
    kind = content_type.encode("ascii")
    return bytes((len(kind),)) + kind + body


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
    if length == 0:
        return Message(queue, number, entry[ENTRY_HEAD + 1 :], None, created, placed)
    body_at = ENTRY_HEAD + 1 + length
    kind = entry[ENTRY_HEAD + 1 : body_at].decode("ascii")
    return Message(queue, number, entry[body_at:], kind, created, placed)


def entry_id(entry: bytes) -> int:
    """The id of an entry."""
    return int.from_bytes(entry[:7], "big")


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


def mark_pairs(mark: bytes) -> tuple[int, list[tuple[int, int]]]:
    """The mark ``A`` on a daemon's channel: epoch, and (position of the chunk, id) of each message."""
    numbers = [int.from_bytes(mark[at : at + 7], "big") for at in range(1, len(mark), 7)]
    return numbers[0], list(zip(numbers[1::2], numbers[2::2], strict=True))


def encode_numbers(numbers: list[int]) -> bytes:
    """Ids or positions as scripts read them, seven bytes each."""
    return b"".join([number.to_bytes(7, "big") for number in numbers])
