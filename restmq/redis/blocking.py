"""A connection to a Redis server that waits for its replies, for programs that do one thing at a time.

The daemon never uses it: it talks through ``restmq.redis.connection``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import hiredis

from restmq.errors import OutcomeUnknown, StoreAway, StoreError
from restmq.redis.pipeline import encode, store_error
from restmq.store_address import StoreAddress

TIMEOUT_SECONDS = 60.0
_READ_BYTES = 1 << 16


class BlockingConnection:
    """One connection. Use it in a ``with``, or close it."""

    def __init__(self, address: StoreAddress, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Connect, AUTH and SELECT. Raises StoreAway, or StoreRefused if it does not let us in."""
        self.address = address
        self._reader = hiredis.Reader(replyError=store_error)
        try:
            self._socket = _connect(address, timeout_seconds)
        except OSError as error:
            raise StoreAway(f"nothing answers at {address}: {error}") from error
        try:
            self._greet()
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.close()

    def ask(self, *arguments: bytes) -> Any:
        """One command and its reply. Raises StoreError when the reply is an error, or none came."""
        reply = self.ask_all([encode(*arguments)])[0]
        if isinstance(reply, StoreError):
            raise reply
        return reply

    def ask_all(self, commands: Sequence[bytes]) -> list[Any]:
        """Encoded commands in one write, and all their replies; an error stands among them.

        Raises OutcomeUnknown when the connection breaks: any of them may have been done.
        """
        replies: list[Any] = []
        try:
            self._socket.sendall(b"".join(commands))
            while len(replies) < len(commands):
                reply = self._reader.gets()
                if reply is not False:
                    replies.append(reply)
                elif data := self._socket.recv(_READ_BYTES):
                    self._reader.feed(data)
                else:
                    raise ConnectionError("it closed the connection")
        except (OSError, hiredis.ProtocolError) as error:
            raise OutcomeUnknown(f"the connection to {self.address} broke: {error}") from error
        return replies

    def _greet(self) -> None:
        address = self.address
        if address.password is not None:
            user = [address.username.encode()] if address.username else []
            self.ask(b"AUTH", *user, address.password.encode())
        if address.db:
            self.ask(b"SELECT", b"%d" % address.db)
        self.ask(b"PING")


def _connect(address: StoreAddress, timeout_seconds: float) -> socket.socket:
    if address.path is not None:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(timeout_seconds)
        try:
            made.connect(address.path)
        except OSError:
            made.close()
            raise
        return made
    made = socket.create_connection((address.host, address.port), timeout_seconds)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not address.tls:
        return made
    return ssl.create_default_context().wrap_socket(made, server_hostname=address.host)
