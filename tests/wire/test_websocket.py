"""``/ws/NAME``: the door of 2010, with a client of raw frames."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import DEADLINE_SECONDS, Daemon
from tests.wire.clients import add, get, post

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
Open = Callable[..., "Socket"]


class Socket:
    """A WebSocket: a handshake, frames out with a mask, frames in without."""

    def __init__(self, port: int, path: str, *headers: str, **changes: str) -> None:
        """``headers`` are added to the handshake; ``changes`` take the place of its own fields."""
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
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
        self.headers = {}
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
        size = len(payload)
        first = bytes([(0x80 if fin else 0) | opcode])
        bit = 0x80 if mask else 0
        if size < 126:
            head = first + bytes([bit | size])
        elif size < 65536:
            head = first + bytes([bit | 126]) + size.to_bytes(2, "big")
        else:
            head = first + bytes([bit | 127]) + size.to_bytes(8, "big")
        key = b"\1\2\3\4"
        if mask:
            payload = bytes(b ^ key[i % 4] for i, b in enumerate(payload))
        self.socket.sendall(head + (key if mask else b"") + payload)

    def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, second = self._file.read(2)
        assert first & 0x80, "the broker sends whole messages"
        assert not second & 0x80, "a server never masks"
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
        return first & 0x0F, self._file.read(size)

    def message(self) -> dict[str, str]:
        """The next pushed message."""
        opcode, payload = self.frame()
        assert opcode == TEXT
        return json.loads(payload)

    def close_code(self) -> int:
        """The code of the close frame, which must come next."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big")


@pytest.fixture
def ws(server: Daemon) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_socket(
            path: str, *headers: str, port: int = server.port, **changes: str
        ) -> Socket:
            made = Socket(port, path, *headers, **changes)
            stack.callback(made.close)
            return made

        yield open_socket


def test_messages_are_pushed_as_text_frames(server, queue, ws):
    client = ws(f"/ws/{queue}")
    assert client.status == 101
    for value in ("one", "zwei é €", "x" * 200, "y" * 70_000):
        add(server, queue, value)
    got = [client.message() for _ in range(4)]
    assert [m["value"] for m in got] == ["one", "zwei é €", "x" * 200, "y" * 70_000]
    assert [m["key"] for m in got] == [f"{queue}:{n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_what_is_sent_comes_back(queue, ws, opcode, size):
    client = ws(f"/ws/{queue}")
    client.send(b"a" * size, opcode)
    assert client.frame() == (opcode, b"a" * size)


def test_fragments_come_back_as_one_and_a_ping_between_them_is_answered(queue, ws):
    client = ws(f"/ws/{queue}")
    client.send(b"fr", TEXT, fin=False)
    client.send(b"are you there", PING)
    client.send(b"ag", 0)
    assert client.frame() == (PONG, b"are you there")
    assert client.frame() == (TEXT, b"frag")


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (lambda c: c.send(b"x", mask=False), 1002),
        (lambda c: c.send(b"\xff\xfe"), 1007),
        (lambda c: c.send(b"x" * 1_100_000), 1009),
        (lambda c: c.send(b"x", 3), 1002),
        (lambda c: c.send(b"\x03\xe8bye", CLOSE), 1000),
    ],
    ids=["unmasked", "no UTF-8", "too long", "unknown opcode", "goodbye"],
)
def test_what_is_wrong_is_closed_with_its_code(queue, ws, send, code):
    client = ws(f"/ws/{queue}")
    send(client)
    assert client.close_code() == code


def test_after_the_close_handshake_messages_stay_in_the_queue(server, queue, ws):
    client = ws(f"/ws/{queue}")
    client.send(b"\x03\xe8", CLOSE)
    assert client.close_code() == 1000
    assert client.socket.recv(1) == b""
    add(server, queue, "kept")
    assert b"kept" in get(server, f"/q/{queue}").body


def test_delete_of_the_queue_closes_every_socket(server, queue, ws):
    clients = [ws(f"/ws/{queue}") for _ in range(3)]
    add(server, queue, "first")
    assert [c.message()["value"] for c in clients] == ["first"] * 3
    server.request("DELETE", f"/q/{queue}")
    assert [c.close_code() for c in clients] == [1000] * 3


def test_round_robin_deals_to_sockets_and_streams_alike(server, queue, ws, comet):
    post(server, f"/p/{queue}", policy="roundrobin")
    socket_client, stream = ws(f"/ws/{queue}"), comet(f"/c/{queue}?flush=1").head()
    for number in range(10):
        add(server, queue, str(number))
    got = [socket_client.message()["value"] for _ in range(5)] + stream.values(5)
    assert sorted(got) == [str(n) for n in range(10)]


def test_a_page_of_another_site_gets_no_socket(queue, ws):
    assert ws(f"/ws/{queue}", "Origin: http://evil.example").status == 403
    assert ws(f"/ws/{queue}", "Origin: http://localhost").status in (101, 403)


def test_without_upgrade_it_is_403(server, queue):
    for method in ("GET", "POST"):
        reply = server.request(method, f"/ws/{queue}")
        assert (reply.status, reply.body) == (403, b"Expected WebSocket Headers")


def test_a_handshake_that_is_wrong_is_told_why_in_one_line(queue, ws):
    old = ws(f"/ws/{queue}", Sec_WebSocket_Version="8")
    assert (old.status, old.headers["sec-websocket-version"]) == (426, "13")
    assert old.headers["content-type"] == "text/plain"
    assert old.body() == b"the WebSocket version spoken here is 13\r\n"
    bad = ws(f"/ws/{queue}", Sec_WebSocket_Key="x")
    assert bad.status == 400
    assert bad.body() == b"Sec-WebSocket-Key must be the base64 of 16 bytes, once\r\n"


def test_the_access_file_asks_for_name_and_password(daemon, tmp_path: Path, ws):
    rules = tmp_path / "acl.conf"
    rules.write_text("[websocket:consumer]\nusername = wsu\npassword = pw4\n")
    port = daemon("--acl", rules).port
    basic = base64.b64encode(b"wsu:pw4").decode()
    assert ws("/ws/x", port=port).status == 401
    assert ws("/ws/x", "Cookie: auth=wsu:WRONG", port=port).status == 401
    assert ws("/ws/x", "Cookie: auth=wsu:pw4", port=port).status == 101
    assert ws("/ws/x", 'Cookie: auth="wsu:pw4"', port=port).status == 101
    assert ws("/ws/x", f"Authorization: Basic {basic}", port=port).status == 101
