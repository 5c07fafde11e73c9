"""A WebSocket client of raw frames: it sends what it is told, right or wrong (RFC 6455)."""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import NamedTuple

from tests.support import DEADLINE_SECONDS

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10
MASK = b"\1\2\3\4"


class Frame(NamedTuple):
    """A frame as it came: the opcode, what it carries, and whether it is marked as compressed."""

    opcode: int
    payload: bytes
    compressed: bool = False


def masked(payload: bytes) -> bytes:
    """The payload under MASK, and back (section 5.3)."""
    size = len(payload)
    key = (MASK * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def encoded(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = True,
    length_bytes: int | None = None,
) -> bytes:
    """A client's frame. ``length_bytes`` (0, 2, 8): how its length is written, else the shortest."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes(((0x80 if fin else 0) | rsv | opcode, (0x80 if mask else 0) | short))
    length = size.to_bytes(length_bytes) if length_bytes else b""
    return head + length + (MASK + masked(payload) if mask else payload)


class Socket:
    """A WebSocket: a handshake, frames out with a mask, frames in without."""

    def __init__(
        self, place: int | socket.socket, path: str, *headers: str, **changes: str
    ) -> None:
        """``place`` is a port, or a connection that is there already.

        ``headers`` are added to the handshake; ``changes`` take the place of its own fields.
        """
        if isinstance(place, int):
            self.socket = socket.create_connection(("127.0.0.1", place), DEADLINE_SECONDS)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = place
        self._file = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        own = (f"{name}: {value}" for name, value in fields.items())
        lines = (f"GET {path} HTTP/1.1", *own, *headers)
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        self.status = int(self._file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().rstrip().partition(": ")
            self.headers[name.lower()] = value

    def body(self) -> bytes:
        """The body of a reply that is no handshake."""
        return self._file.read(int(self.headers["content-length"]))

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(
        self, payload: bytes, opcode: int = TEXT, *, fin: bool = True, mask: bool = True
    ) -> None:
        self.socket.sendall(encoded(payload, opcode, fin=fin, mask=mask))

    def next(self) -> Frame:
        """The next frame."""
        first, second = self._file.read(2)
        assert first & 0x80, "the broker sends whole messages"
        assert not first & (RSV2 | RSV3), "no extension uses these"
        assert not second & 0x80, "a server never masks"
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._file.read(2 if size == 126 else 8))
        return Frame(first & 0x0F, self._file.read(size), bool(first & RSV1))

    def frame(self) -> tuple[int, bytes]:
        """The next frame, which is not compressed: opcode and payload."""
        opcode, payload, compressed = self.next()
        assert not compressed
        return opcode, payload

    def message(self) -> dict[str, str]:
        """The next pushed message."""
        opcode, payload = self.frame()
        assert opcode == TEXT
        return json.loads(payload)

    def close_code(self) -> int:
        """The code of the close frame, which must come next."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2])

    def is_over(self) -> bool:
        """Does the connection end here, in good order?"""
        return self._file.read(1) == b""
