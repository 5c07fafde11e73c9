"""WebSocket frames as a server sends them: whole messages, unmasked (RFC 6455, section 5.2)."""

from __future__ import annotations

from typing import Final

TEXT: Final = 0x81
"""The first byte of a text message in one frame: FIN and the opcode."""

PING: Final = 0x89
"""The same for a ping."""

RSV1: Final = 0x40
"""The bit that marks a compressed message (RFC 7692, section 6)."""


def frame(first: int, payload: bytes) -> bytes:
    """The payload behind its header, whose first byte is given."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
