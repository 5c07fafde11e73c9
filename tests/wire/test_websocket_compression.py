"""``--websocket-compression``: chapters 12 and 13 of the Autobahn test suite, and what is pushed.

The client compresses with a library of its own settings (zlib, level 9) and inflates with the
window that was agreed, a fresh one for each message.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator

import pytest

from tests.support import Daemon
from tests.wire import websockets
from tests.wire.clients import add
from tests.wire.websocket_cases import fragments, pieces
from tests.wire.websockets import BINARY, PONG, RSV1, TEXT, Socket, encoded

EXTENSIONS = "Sec-WebSocket-Extensions"
PLAIN = "permessage-deflate"
TAIL = b"\0\0\xff\xff"
OFFERS = {
    f"{PLAIN}": 15,
    f"{PLAIN}; server_no_context_takeover; client_no_context_takeover": 15,
    f"{PLAIN}; client_max_window_bits": 15,
    f"{PLAIN}; client_max_window_bits=9; server_max_window_bits=9": 9,
    f"{PLAIN}; client_max_window_bits=15; server_max_window_bits=15": 15,
    f"{PLAIN}; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=9": 9,
    f"{PLAIN}; server_max_window_bits=8, {PLAIN}; server_max_window_bits=12": 12,
    f"{PLAIN}; unknown, {PLAIN}": 15,
}
"""What a client may offer, and the window it gets."""

SIZES = (0, 1, 16, 63, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("deflate"), ["--websocket-compression"], {})
    try:
        yield daemon.start("/readyz")
    finally:
        daemon.close()


def deflate(payload: bytes, bits: int = 15) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compressed(payload: bytes, opcode: int = TEXT) -> bytes:
    """A client's compressed message in one frame."""
    return encoded(deflate(payload), opcode, rsv=RSV1)


def next_message(client: Socket, bits: int = 15) -> tuple[int, bytes]:
    """The next message, inflated if it is marked so."""
    opcode, payload, is_compressed = client.next()
    if is_compressed:
        payload = zlib.decompressobj(-bits).decompress(payload + TAIL)
    return opcode, payload


def text(size: int) -> bytes:
    """So many bytes of JSON lines."""
    line = json.dumps({"id": 1, "name": "Käthe", "tags": ["a", "b"]}).encode() + b"\n"
    return (line * (size // len(line) + 1))[:size]


@pytest.mark.parametrize("offer", OFFERS)
def test_messages_of_every_size_come_back(queue, ws, offer):
    client, bits = ws(f"/ws/{queue}", f"{EXTENSIONS}: {offer}"), OFFERS[offer]
    agreed = client.headers[EXTENSIONS.lower()]
    assert agreed.startswith(f"{PLAIN}; server_no_context_takeover; client_no_context_takeover")
    assert (f"server_max_window_bits={bits}" in agreed) == ("server_max_window_bits" in offer)
    noise = random.Random(12).randbytes(SIZES[-1])
    for size in SIZES:
        for opcode, payload in ((TEXT, text(size)), (BINARY, noise[:size])):
            for _ in range(3):  # nothing is carried over from the last message
                client.socket.sendall(encoded(deflate(payload, max(bits, 9)), opcode, rsv=RSV1))
                assert next_message(client, bits) == (opcode, payload)
            client.send(payload, opcode)  # not every message need be compressed
            assert next_message(client, bits) == (opcode, payload)


def test_an_echo_of_text_is_compressed(queue, ws):
    client = ws(f"/ws/{queue}", f"{EXTENSIONS}: {PLAIN}")
    client.socket.sendall(compressed(text(4096)))
    frame = client.next()
    assert frame.compressed
    assert len(frame.payload) < 400


def test_a_compressed_message_may_come_in_fragments_with_pings_between_them(queue, ws):
    client = ws(f"/ws/{queue}", f"{EXTENSIONS}: {PLAIN}")
    noise = random.Random(3).randbytes(5000)
    first, *rest = fragments(pieces(deflate(noise), 256), BINARY)
    marked = bytes((first[0] | RSV1,)) + first[1:]
    for part in (marked, *rest):
        client.socket.sendall(encoded(b"p", websockets.PING) + part)
    for _ in (marked, *rest):
        assert client.frame() == (PONG, b"p")
    assert next_message(client) == (BINARY, noise)


def test_the_longest_message_comes_back_whatever_is_in_it(queue, ws):
    client = ws(f"/ws/{queue}", f"{EXTENSIONS}: {PLAIN}")
    for payload in (random.Random(5).randbytes(1048576), text(1048576)):
        client.send(payload, BINARY)
        assert next_message(client) == (BINARY, payload)
    client.socket.sendall(compressed(text(1048576), BINARY))
    assert next_message(client) == (BINARY, text(1048576))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (encoded(b"p", websockets.PING, rsv=RSV1), 1002),
        (encoded(deflate(b"x" * 100), websockets.CLOSE, rsv=RSV1), 1002),
        (encoded(b"x", fin=False) + encoded(b"y", websockets.CONTINUATION, rsv=RSV1), 1002),
        (encoded(deflate(b"x"), rsv=RSV1 | websockets.RSV2), 1002),
        (encoded(b"\xff\xff\xff", rsv=RSV1), 1007),
        (encoded(deflate(b"Hello")[:3], rsv=RSV1), 1007),
        (compressed(b"\xce\xba\xed\xa0\x80"), 1007),
        (compressed(b"\xce\xba\xce"), 1007),
        (compressed(b"*" * 1048577), 1009),
        (compressed(b"*" * 50_000_000, BINARY), 1009),
        (compressed(random.Random(6).randbytes(1048577), BINARY), 1009),
    ],
    ids=[
        "a compressed ping",
        "a compressed close",
        "the mark on a second fragment",
        "another mark beside it",
        "no deflate data",
        "data cut short",
        "no UTF-8 inside",
        "UTF-8 cut short inside",
        "one byte too long inside",
        "a bomb",
        "too long outside",
    ],
)
def test_what_is_wrong_is_closed_with_its_code(queue, ws, sent, code):
    client = ws(f"/ws/{queue}", f"{EXTENSIONS}: {PLAIN}")
    client.socket.sendall(sent)
    assert client.close_code() == code


def test_what_is_pushed_is_compressed_and_the_same_for_all(server, ws):
    queue = "pushed"  # a short name: 64 bytes with name and all are worth compressing
    clients = [ws(f"/ws/{queue}", f"{EXTENSIONS}: {PLAIN}") for _ in range(3)]
    narrow = ws(f"/ws/{queue}", f"{EXTENSIONS}: {PLAIN}; server_max_window_bits=9")
    plain = ws(f"/ws/{queue}")
    value = text(3000).decode()
    for message in (value, "short", value):
        add(server, queue, message)
    for number, message in enumerate((value, "short", value), 1):
        expected = {"key": f"{queue}:{number}", "value": message}
        frames = [client.next() for client in clients]
        assert frames[0].compressed == (message == value)
        assert frames[1:] == frames[:1] * 2
        if frames[0].compressed:
            inflated = zlib.decompressobj(-15).decompress(frames[0].payload + TAIL)
            assert json.loads(inflated) == expected
        assert json.loads(next_message(narrow, 9)[1]) == expected
        assert plain.message() == expected


@pytest.mark.parametrize("offer", [f"{PLAIN}; server_max_window_bits=8", "x-webkit-deflate-frame"])
def test_an_offer_that_cannot_be_taken_leaves_the_socket_uncompressed(queue, ws, offer):
    client = ws(f"/ws/{queue}", f"{EXTENSIONS}: {offer}")
    assert client.status == 101
    assert EXTENSIONS.lower() not in client.headers
    client.send(text(1000))
    assert client.frame() == (TEXT, text(1000))
    client.socket.sendall(compressed(b"Hello"))
    assert client.close_code() == 1002


def test_without_the_option_nothing_is_agreed(daemon, ws):
    client = ws("/ws/x", f"{EXTENSIONS}: {PLAIN}", port=daemon().port)
    assert client.status == 101
    assert EXTENSIONS.lower() not in client.headers
