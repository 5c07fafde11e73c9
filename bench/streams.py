"""Open streams as a client asks for them: COMET and events by HTTP, and WebSocket."""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.responses import request

AT_ONCE = 100
"""So many handshakes are under way together."""

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
"""What a browser offers (RFC 7692)."""


class Stream(NamedTuple):
    """What a consumer asks for: ``websocket``: it upgrades; ``more`` is further header lines."""

    path: str
    websocket: bool = False
    more: str = ""

    def request(self) -> bytes:
        """The request it begins with (RFC 6455, section 4.1, for a WebSocket)."""
        more = self.more
        if self.websocket:
            key = base64.b64encode(os.urandom(16)).decode()
            more += (
                "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            )
        return request("GET", self.path, more=more)


def begun(streams: Sequence[Stream], port: int) -> tuple[ExitStack, float]:
    """Open them all, ``AT_ONCE`` together: what closes them, and the seconds until each had its head.

    Raises ValueError when one is refused.
    """
    start = time.perf_counter()
    with ExitStack() as stack:
        for first in range(0, len(streams), AT_ONCE):
            some = streams[first : first + AT_ONCE]
            sockets = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                for _ in some
            ]
            for one, stream in zip(sockets, some, strict=True):
                one.sendall(stream.request())
            for one, stream in zip(sockets, some, strict=True):
                _read_head(one, stream)
        return stack.pop_all(), time.perf_counter() - start


def _read_head(one: socket.socket, stream: Stream) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += one.recv(4096) or b"\r\n\r\n"
    wanted = b"HTTP/1.1 101 " if stream.websocket else b"HTTP/1.1 200 "
    if not head.startswith(wanted):
        raise ValueError(f"{stream.path} is refused: {head!r}")
    if stream.more == OFFER and b"permessage-deflate" not in head:
        raise ValueError(f"{stream.path} is not compressed: {head!r}")
