"""Compressed WebSocket messages: permessage-deflate without context takeover (RFC 7692).

Every message is compressed for itself, on both sides. So a connection keeps no state between two
messages (with takeover and 15-bit windows it would keep some 290 KiB), and a pushed message is
compressed once for all clients: ``agree`` makes the same agreement with all of them, but for the
window a client may limit, and ``deflated_frame`` gives the same bytes for the same window.

``Codec`` is what autobahn asks for the messages that it sends and receives itself.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from autobahn.exception import PayloadCorruptError, PayloadExceededError

from restmq.web.frames import RSV1, TEXT, frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from restmq.web.handshake import Extension

NAME: Final = "permessage-deflate"
MAX_BITS: Final = 15
MIN_BITS: Final = 9
"""zlib makes no smaller window (as raw deflate), though the RFC knows 8: such an offer is declined."""

LEVEL: Final = 1
"""zlib's fastest. 1 MiB of JSON takes 10 ms, and 35 at level 6, which makes it 8 % smaller."""

MIN_BYTES: Final = 64
"""Shorter payloads go as they are: there is nothing to gain."""

_TAIL: Final = b"\0\0\xff\xff"
_BITS: Final = re.compile("[89]|1[0-5]")
_SERVER_BITS: Final = "server_max_window_bits"
_CLIENT_BITS: Final = "client_max_window_bits"
_FLAGS: Final = ("server_no_context_takeover", "client_no_context_takeover")


class Agreement(NamedTuple):
    """What was agreed with a client; ``bits`` is the window for messages to it."""

    bits: int
    limited: bool

    @property
    def answer(self) -> str:
        """The reply's Sec-WebSocket-Extensions (RFC 7692, section 7.1)."""
        limit = f"; {_SERVER_BITS}={self.bits}" if self.limited else ""
        return f"{NAME}; {'; '.join(_FLAGS)}{limit}"


def agree(offers: Iterable[Extension]) -> Agreement | None:
    """The agreement on the first offer that can be taken; None when there is none.

    An offer of permessage-deflate with parameters it does not have is declined, no error
    (section 7.1). Neither side keeps its context, whether the client asked for that or not; its
    own window is left to the client.
    """
    for offer in offers:
        parameters = dict(offer.parameters)
        if (
            offer.name == NAME
            and len(parameters) == len(offer.parameters)
            and all(map(_is_valid, parameters, parameters.values()))
            and (bits := int(parameters.get(_SERVER_BITS) or MAX_BITS)) >= MIN_BITS
        ):
            return Agreement(bits, _SERVER_BITS in parameters)
    return None


def _is_valid(name: str, value: str | None) -> bool:
    if name in _FLAGS:
        return value is None
    if value is None:
        return name == _CLIENT_BITS
    return name in {_CLIENT_BITS, _SERVER_BITS} and _BITS.fullmatch(value) is not None


def deflated(payload: bytes, bits: int) -> bytes:
    """The payload of a compressed message whose window is at most ``bits`` (section 7.2.1).

    The window is no wider than the payload is long: to make one of 15 bits ready takes 50 us,
    ten times as long as to compress 100 bytes. What compression makes longer is only wrapped.
    """
    needed = len(payload).bit_length()
    window = min(bits, max(MIN_BITS, needed))
    memory = min(8, max(1, needed - 6))
    data = _deflated(payload, LEVEL, window, memory)
    return data if len(data) <= len(payload) else _deflated(payload, 0, MAX_BITS, 8)


def _deflated(payload: bytes, level: int, window: int, memory: int) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window, memory)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def longest(size: int) -> int:
    """No payload of so many bytes is longer than this when it is compressed."""
    return size + size // 1000 + 64


def deflated_frame(payload: bytes, bits: int) -> bytes:
    """A text message in one frame, compressed where that makes it shorter."""
    if len(payload) >= MIN_BYTES:
        small = deflated(payload, bits)
        if len(small) < len(payload):
            return frame(TEXT | RSV1, small)
    return frame(TEXT, payload)


class Codec:
    """Compression of one connection as autobahn uses it: its ``PerMessageDeflate`` with no memory.

    autobahn's own keeps a compressor and a window between messages even where no context is
    taken over. It calls ``start_``, ``..._data`` and ``end_`` for each message.
    """

    EXTENSION_NAME = NAME

    __slots__ = ("_bits", "_inflater", "_parts")

    def __init__(self, bits: int) -> None:
        """``bits`` is the window for messages to the client."""
        self._bits = bits
        self._parts: list[bytes] = []
        self._inflater: zlib._Decompress | None = None

    def start_compress_message(self) -> None:
        """Begin a message to the client."""
        self._parts = []

    def compress_message_data(self, data: bytes) -> bytes:
        """Take a part of it; nothing comes before the end."""
        self._parts.append(data)
        return b""

    def end_compress_message(self) -> bytes:
        """The whole message, compressed."""
        parts, self._parts = self._parts, []
        return deflated(b"".join(parts), self._bits)

    def start_decompress_message(self) -> None:
        """Begin a message of the client."""
        self._inflater = zlib.decompressobj(-MAX_BITS)

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:
        """What comes of a part of it.

        Raises PayloadExceededError if that is more than ``max_output_len`` bytes, having
        inflated one byte more, and PayloadCorruptError if it is no deflate data.
        """
        assert self._inflater is not None
        most = 0 if max_output_len is None else max(0, max_output_len) + 1
        inflated = self._inflate(data, most)
        if most and len(inflated) == most:
            raise PayloadExceededError(f"it inflates to more than {max_output_len} bytes")
        return inflated

    def end_decompress_message(self) -> None:
        """Its end: raises PayloadCorruptError if it ends in the middle of something."""
        assert self._inflater is not None
        if not self._inflater.eof and self._inflate(_TAIL, 1):
            raise PayloadCorruptError("the deflate data ends too early")
        self._inflater = None

    def _inflate(self, data: bytes, most: int) -> bytes:
        """At most so many bytes (0: all). A block marked as the last must be (7.2.3.4)."""
        inflater = self._inflater
        assert inflater is not None
        try:
            inflated = inflater.decompress(data, most)
        except zlib.error as error:
            raise PayloadCorruptError(f"no deflate data: {error}") from error
        if inflater.unused_data not in (b"", b"\0"):
            raise PayloadCorruptError("data behind the last block")
        return inflated
