"""Consumers on every transport, for tests that want the same of each."""

from __future__ import annotations

import base64
import json
import os
from typing import Final
from urllib.parse import parse_qsl

from tests.system.clients import WARM_UP, Comet, Delivered
from tests.wire.websockets import CLOSE, PING, TEXT, encoded

_WARM_BODY = b'"body":"%b"' % WARM_UP
_WARM_VALUE = b'"%b"}' % WARM_UP


class _OfV1(Comet):
    """A stream of message objects."""

    @staticmethod
    def delivered(line: bytes) -> Delivered:
        found = json.loads(line[line.index(b"{") :])
        body = found["body"]
        if found["encoding"] == "base64":
            return Delivered(found["id"], base64.b64decode(body))
        return Delivered(found["id"], body.encode())

    def _message(self, line: bytes) -> None:
        if _WARM_BODY in line:
            self.warmth += 1
        else:
            self.lines.append(line)


class Events(_OfV1):
    """Server-sent events, each a chunk."""

    name = "sse"
    path = "/sse/{}"
    headers = ("Accept: text/event-stream",)

    def _chunk(self, chunk: bytes) -> None:
        if not chunk:
            self.ended = True
            return
        assert chunk.endswith(b"\n\n"), chunk
        if (at := chunk.find(b"event: ", 0, 30)) >= 0:  # a retry may be before it
            word, _, data = chunk[at + len("event: ") :].partition(b"\ndata: ")
            self._note(word.decode(), json.loads(data))
        elif not chunk.startswith(b":"):
            assert chunk.startswith((b"id: ", b"data: ")), chunk
            self._message(chunk[:-2])


class Ndjson(_OfV1):
    """One JSON object a line, each a chunk."""

    name = "ndjson"
    path = "/v1/queues/{}/stream"

    def _chunk(self, chunk: bytes) -> None:
        if not chunk:
            self.ended = True
            return
        assert chunk.endswith(b"\n"), chunk
        if chunk.startswith(b'{"type":'):
            value = json.loads(chunk)
            self._note(value["type"], value)
        elif chunk != b"\n":
            self._message(chunk[:-1])


class WebSocket(Comet):
    """Text frames of 2010. ``code`` is that of the close frame."""

    name = "websocket"
    path = "/ws/{}"
    head_has = (b"HTTP/1.1 101 ",)
    code = 0

    @property
    def headers(self) -> tuple[str, ...]:  # type: ignore[override]
        key = base64.b64encode(os.urandom(16)).decode()
        return (
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )

    def _parse(self) -> None:
        data, at = self._data, 0
        if not self._head_is_there():
            return
        while len(data) >= at + 2:
            size, start = data[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                if len(data) < start:
                    break
                size = int.from_bytes(data[at + 2 : start])
            if len(data) < start + size:
                break
            self._frame(data[at], bytes(data[start : start + size]))
            at = start + size
        del data[:at]

    def _frame(self, first: int, payload: bytes) -> None:
        assert not self.ended, "a frame behind the close frame"
        if first == 0x80 | CLOSE:
            self.ended, self.code = True, int.from_bytes(payload[:2])
        elif payload.endswith(_WARM_VALUE):
            self.warmth += 1
        elif payload.startswith(b'{"missed"'):
            self._note("missed", json.loads(payload))
        else:
            assert first == 0x80 | TEXT, first
            self.lines.append(payload)

    def say_goodbye(self) -> None:
        self.socket.sendall(encoded((1000).to_bytes(2), CLOSE))


class V1Socket(_OfV1, WebSocket):
    """One subscription on ``/v1/ws``; the choices of ``query`` are members of the command."""

    name = "v1-ws"
    path = "/v1/ws"

    def __init__(
        self, port: int, queue: str, receive_bytes: int | None = None, *, query: str = ""
    ) -> None:
        super().__init__(port, queue, receive_bytes)
        while not self.head:
            assert self.read(), "no handshake"
        choices = dict(parse_qsl(query.removeprefix("?")))
        command = {"id": 1, "cmd": "subscribe", "queue": queue, **choices}
        self.socket.sendall(encoded(json.dumps(command).encode()))

    def _frame(self, first: int, payload: bytes) -> None:
        if payload.startswith(b'{"type":"message"'):
            self._message(payload)
        elif first == 0x80 | TEXT:
            value = json.loads(payload)
            assert value["type"] != "error", value
            if value["type"] not in ("welcome", "reply"):
                self._note(value["type"], value)
        elif first != 0x80 | PING:
            super()._frame(first, payload)


TRANSPORTS: Final[tuple[type[Comet], ...]] = (Comet, Events, Ndjson, WebSocket, V1Socket)
