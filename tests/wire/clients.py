"""Clients for wire tests: a form POST, a pop, and a COMET stream read from a raw socket."""

from __future__ import annotations

import json
import socket
from typing import Any, Self
from urllib.parse import quote, urlencode

from tests.support import DEADLINE_SECONDS, Daemon, Response

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def post(server: Daemon, path: str, body: bytes | str = b"", **fields: str | bytes) -> Response:
    """POST a form: given as it is, or by its fields."""
    return server.request("POST", path, urlencode(fields) if fields else body, FORM)


def add(server: Daemon, queue: str, value: str | bytes) -> Response:
    """Put a message in; it must be taken."""
    reply = post(server, f"/q/{quote(queue, safe='')}", value=value)
    assert reply.status == 200, reply
    return reply


def get(server: Daemon, path: str, **headers: str) -> Response:
    """GET; underscores in header names stand for hyphens."""
    return server.request("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})


def pop(server: Daemon, queue: str) -> Any:
    """Take the oldest message out: the JSON of the reply, None when there is none."""
    reply = get(server, f"/q/{quote(queue, safe='')}")
    if reply.status == 204:
        assert reply.body == b""
        return None
    assert reply.status == 200, reply
    return json.loads(reply.body)


def command(server: Daemon, path: str = "/queue", **members: Any) -> Response:
    """A JSON command in the form field ``body``."""
    return post(server, path, urlencode({"body": json.dumps(members)}))


class Comet:
    """A stream from ``/c/``, read line by line; a read that gets nothing in time fails."""

    def __init__(self, port: int, path: str, *headers: str, version: str = "HTTP/1.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
        self._buffer = b""
        self._lines: list[bytes] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        lines = (f"GET {path} {version}", "Host: localhost", *headers)
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> Self:
        """Read status and headers."""
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").rstrip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        return self

    def line(self) -> bytes:
        """The next line, without its end; the head is read before the first one."""
        if not self.status:
            self.head()
        if self.headers.get("transfer-encoding") != "chunked":
            return self._until(b"\r\n")[:-2]
        while not self._lines:
            chunk = self._chunk()
            assert chunk, "the stream is over"
            self.chunks.append(chunk)
            assert chunk.endswith(b"\r\n"), chunk
            self._lines = chunk[:-2].split(b"\r\n")
        return self._lines.pop(0)

    def message(self) -> Any:
        """The next line as JSON."""
        return json.loads(self.line())

    def values(self, count: int) -> list[Any]:
        """The values of the next messages."""
        return [self.message()["value"] for _ in range(count)]

    def is_over(self) -> bool:
        """Read on: is the last chunk next?"""
        if not self.status:
            self.head()
        return self._chunk() == b""

    def said_nothing(self) -> bool:
        """Has nothing come since the last read? Ask after a round trip on another connection."""
        self.socket.setblocking(False)
        try:
            self._buffer += self.socket.recv(65536)
        except BlockingIOError:
            pass
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)
        return not (self._buffer or self._lines)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while data := self.socket.recv(65536):
            self._buffer += data
        return self._buffer

    def _chunk(self) -> bytes:
        size = int(self._until(b"\r\n"), 16)
        data = self._exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._receive()
        end = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"closed after {self._buffer!r}"
        self._buffer += data
