"""``/ws/NAME``: the door of 2010, with a client of raw frames."""

from __future__ import annotations

import base64
import socket
import ssl
from pathlib import Path

import pytest

from tests.support import DEADLINE_SECONDS, free_port, make_certificate
from tests.wire.clients import add, get, post
from tests.wire.websockets import BINARY, CLOSE, PING, PONG, TEXT, Socket, encoded


def test_messages_are_pushed_as_text_frames(server, queue, ws):
    client = ws(f"/ws/{queue}")
    assert client.status == 101
    assert client.headers["server"] == get(server, "/livez").headers["server"]
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
    assert client.is_over()
    add(server, queue, "kept")
    assert b"kept" in get(server, f"/q/{queue}").body


def test_after_an_error_nothing_is_pushed_and_messages_stay_in_the_queue(server, queue, ws):
    client = ws(f"/ws/{queue}")
    client.send(b"x", 3)
    assert client.close_code() == 1002
    add(server, queue, "kept")
    assert b"kept" in get(server, f"/q/{queue}").body
    client.send(b"\x03\xea", CLOSE)
    assert client.is_over()


def test_who_sends_pings_and_never_reads_is_cut_off(queue, ws):
    client = ws(f"/ws/{queue}")
    pings = encoded(b"*" * 125, PING) * 1000
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        for _ in range(1000):  # 131 MB, of which the kernel holds a few
            client.socket.sendall(pings)


@pytest.mark.parametrize("way", ["tls", "unix"])
def test_so_is_who_does_it_by_another_way(daemon, tmp_path, way):
    key, certificate = make_certificate(tmp_path)
    port, path = free_port(), tmp_path / "s"
    tls = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    daemon("--listen", "127.0.0.1", "--listen", tls if way == "tls" else f"unix:{path}")
    if way == "tls":
        context = ssl.create_default_context(cafile=certificate)
        plain = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
        connection = context.wrap_socket(plain, server_hostname="localhost")
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE_SECONDS)
        connection.connect(str(path))
    with connection:
        client = Socket(connection, "/ws/x")
        assert client.status == 101
        pings = encoded(b"*" * 125, PING) * 1000
        with pytest.raises((ConnectionError, ssl.SSLError)):
            for _ in range(1000):
                client.socket.sendall(pings)
        client.close()


def test_the_longest_message_is_an_option(daemon, ws):
    port = daemon("--max-websocket-message", "4KiB").port
    client = ws("/ws/x", port=port)
    client.send(b"x" * 4096)
    assert client.frame() == (TEXT, b"x" * 4096)
    client.send(b"x" * 4097)
    assert client.close_code() == 1009


def test_delete_of_the_queue_closes_every_socket(server, queue, ws):
    clients = [ws(f"/ws/{queue}") for _ in range(3)]
    add(server, queue, "first")
    assert [c.message()["value"] for c in clients] == ["first"] * 3
    server.request("DELETE", f"/q/{queue}")
    assert [c.close_code() for c in clients] == [1000] * 3
    for client in clients:
        client.send(b"\x03\xe8", CLOSE)
        assert client.is_over()


def test_round_robin_deals_to_sockets_and_streams_alike(server, queue, ws, comet):
    post(server, f"/p/{queue}", policy="roundrobin")
    client, stream = ws(f"/ws/{queue}"), comet(f"/c/{queue}?flush=1").head()
    while stream.said_nothing():  # the first ones all go to whoever is known to the store first
        add(server, queue, "early")
    later = [f"later {number}" for number in range(10)]
    for value in later:
        add(server, queue, value)
    got = [_five(later, consumer) for consumer in (client, stream)]
    assert sorted(got[0] + got[1]) == later


def _five(values, consumer):
    """Read on until five of these values have come; those five."""
    got = []
    while len(got) < 5:
        value = consumer.message()["value"]
        got += [value] if value in values else []
    return got


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


def test_at_the_end_of_the_daemon_every_socket_is_told(daemon, ws):
    """1001, going away: a browser may come back at once."""
    made = daemon()
    made.wait_for("/readyz")
    sockets = [ws("/ws/x", port=made.port) for _ in range(3)]
    made.terminate()
    for each in sockets:
        assert each.close_code() == 1001
        each.send(b"\x03\xe9", CLOSE)
    assert made.wait() == 0
