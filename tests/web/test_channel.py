"""Connections as clients see them: order, limits, time, and who is told of whose leaving."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cyclone.web
import pytest
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.protocols.tls import TLSMemoryBIOFactory

from restmq.rules.acl import Access, Acl
from restmq.settings import Settings
from restmq.web.channel import MAX_UNREAD_BYTES, Channel, chunk
from restmq.web.dispatcher import Dispatcher, Rule
from restmq.web.endpoint import Endpoint, Reply, endpoint
from tests.support import make_certificate, wait_until
from tests.web.toy import ROUTES, Broker, Client, Stream, Toy, ToyServer, get, post

BIG = bytes(range(256)) * 40960  # 10 MiB


class Large(Endpoint):
    """A reply that no socket buffer holds."""

    @endpoint(Access.NONE)
    def get(self) -> Reply:
        return Reply(body=BIG)


class Stock(cyclone.web.RequestHandler):
    """A handler as cyclone's own manual writes it."""

    def get(self, name: str) -> None:
        self.set_header("X-Name", name)
        self.write(f"hello {self.get_argument('who', 'you')}")

    def post(self, name: str) -> None:
        self.set_status(201)
        self.finish(self.request.body)

    def on_connection_close(self, *args: Any, **kwargs: Any) -> None:
        self.application.broker.left.append("stock")  # type: ignore[attr-defined]


class Unframed(cyclone.web.RequestHandler):
    """Writes its head before its length is known."""

    def get(self) -> None:
        self.write("one,")
        self.flush()
        self.finish("two")


class Slow(Toy):
    """Answers when the test says so."""

    @endpoint(Access.NONE)
    def get(self, name: str) -> Deferred[Reply]:
        answer: Deferred[Reply] = Deferred()
        self.shared.seen.append((name, self.exchange, answer))
        return answer


class Poll(Slow):
    """The same, but it wants to know when its client leaves."""

    @endpoint(Access.NONE)
    def get(self, name: str) -> Deferred[Reply]:
        self.exchange.gone.addCallback(lambda _: self.shared.left.append(name))
        answer: Deferred[Reply] = super().get(name)
        return answer


class Shouter(Protocol):
    """A protocol that is no HTTP: answers in capitals."""

    left: list[str]

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data.upper())

    def connectionLost(self, reason: Any = None) -> None:
        self.left.append("shouter")

    def closing(self) -> None:
        assert self.transport is not None
        self.transport.write(b"BYE")
        self.transport.loseConnection()


class Upgrade(Toy):
    @endpoint(Access.NONE)
    def get(self) -> None:
        shouter = Shouter()
        shouter.left = self.shared.left
        self.exchange.take_over(shouter)


class Address(Endpoint):
    @endpoint(Access.NONE)
    def get(self) -> Reply:
        return Reply(body=f"{self.request.remote_ip} {self.request.protocol}".encode())


EXTRA: list[Rule] = [
    (r"/large", Large),
    (r"/stock/(.*)", Stock),
    (r"/unframed", Unframed),
    (r"/slow/(.*)", Slow),
    (r"/poll/(.*)", Poll),
    (r"/upgrade", Upgrade),
    (r"/address", Address),
]


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with ToyServer(ROUTES + EXTRA) as toy:
        yield toy


@pytest.fixture
def hasty() -> Iterator[ToyServer]:
    """A server that waits 0.4 s for nobody."""
    with ToyServer(ROUTES + EXTRA, idle_timeout=0.4) as toy:
        yield toy


@pytest.fixture
def client(server: ToyServer) -> Iterator[Client]:
    with server.connect() as connected:
        yield connected


# -- on paper: no socket, and a clock that stands still ------------------------------------


class OnPaper:
    """A channel over a transport that only remembers."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.application = Dispatcher(
            [(r"/stock/(.*)", Stock), (r"/address", Address), (r"/poll/(.*)", Poll)],
            broker=Broker(self.clock),
            config=replace(Settings(), **settings),
            acl=Acl.open(),
            clock=self.clock,
        )
        self.application.startFactory()
        made: Any = StringTransportWithDisconnection
        transport = made(peerAddress=IPv6Address("TCP", "::1", 1))
        self.transport = transport
        channel = self.application.buildProtocol(None)
        assert isinstance(channel, Channel)
        self.channel = channel
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)  # type: ignore[no-untyped-call]

    def is_connected(self) -> bool:
        return bool(self.transport.connected)

    def received(self) -> bytes:
        data: bytes = self.transport.value()
        self.transport.clear()
        return data


def test_on_paper_a_request_is_answered_in_one_write() -> None:
    paper = OnPaper()
    paper.channel.dataReceived(get("/address"))
    answer = paper.received()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n::1 http")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_on_paper_it_does_not_matter_how_requests_are_cut(size: int) -> None:
    data = get("/address") * 3 + post("/stock/x", b"value=1") * 2 + get("/address")
    paper = OnPaper()
    for at in range(0, len(data), size):
        paper.channel.dataReceived(data[at : at + size])
    answers = paper.received().split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 3 + [b"201"] * 2 + [b"200"]


def test_on_paper_an_idle_connection_lives_75_seconds() -> None:
    paper = OnPaper()
    paper.clock.pump([1.0] * 60)
    paper.channel.dataReceived(get("/address"))
    paper.clock.pump([1.0] * 74)
    assert paper.is_connected()
    paper.clock.advance(1.5)
    assert not paper.is_connected()
    assert not paper.application.channels
    paper.application.stopFactory()
    assert not paper.clock.getDelayedCalls()


def test_on_paper_time_counts_again_after_a_slow_answer() -> None:
    """While I wait for an answer no ticks are spent on me; then I have 75 seconds as all have."""
    paper = OnPaper()
    paper.channel.dataReceived(get("/poll/x"))
    paper.clock.pump([1.0] * 200)
    assert paper.is_connected()
    paper.application.broker.seen[0][2].callback(Reply(body=b"late"))
    paper.clock.pump([1.0] * 74)
    assert paper.is_connected()
    paper.clock.advance(1.5)
    assert not paper.is_connected()


def test_on_paper_who_hangs_up_half_way_is_cut_however_long_he_waited() -> None:
    paper = OnPaper()
    paper.transport.loseConnection = lambda: None  # what waits is never taken
    paper.transport.abortConnection = paper.channel.connectionLost
    paper.channel.dataReceived(get("/poll/x"))
    paper.clock.pump([1.0] * 200)
    paper.channel.readConnectionLost()
    assert paper.application.broker.left == ["x"]
    paper.clock.pump([1.0] * 4)
    assert not paper.application.channels


def test_on_paper_a_body_that_comes_on_is_not_late_and_one_that_trickles_is() -> None:
    paper = OnPaper()
    paper.channel.dataReceived(post("/stock/x", b"x" * 1000000)[:-1000000])
    for _ in range(20):
        paper.channel.dataReceived(b"x" * 20000)
        paper.clock.pump([1.0] * 50)
    assert paper.received() == b""
    for _ in range(80):
        paper.channel.dataReceived(b"x")
        paper.clock.advance(1.0)
    assert paper.received().startswith(b"HTTP/1.1 408 ")


# -- one request after the other ----------------------------------------------------------


def test_a_connection_serves_many_requests(client: Client) -> None:
    for number in range(20):
        client.send(post("/q/x", b"value=%d" % (number % 3)))
        assert client.response()[2] == b"x=%d\r\n" % (number % 3)


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    """The original answered one of three, and lost the others (bug 15)."""
    bodies = [b"value=%d" % number for number in range(200)]
    client.send(
        b"".join(post("/q/x", body) if n % 3 else get("/q/y") for n, body in enumerate(bodies))
    )
    for number in range(200):
        answer = client.response()[2]
        assert answer == (b"x=%d\r\n" % number if number % 3 else b'{"queue": "y"}\r\n')


def test_a_request_may_come_byte_by_byte(client: Client) -> None:
    for byte in post("/q/x", b"value=abc") + get("/q/y"):
        client.send(bytes((byte,)))
    assert client.response()[2] == b"x=abc\r\n"
    assert client.response()[2] == b'{"queue": "y"}\r\n'


def test_empty_lines_before_a_request_are_skipped(client: Client) -> None:
    client.send(b"\r\n\r\n" + post("/q/x", b"value=a") + b"\r\n" + post("/q/x", b"value=b"))
    assert client.response()[2] == b"x=a\r\n"
    assert client.response()[2] == b"x=b\r\n"


def test_chunked_requests(client: Client) -> None:
    request = post("/q/x", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    client.send(
        request + b"5\r\nvalue\r\n3;note=x\r\n=ab\r\n0\r\nX-Trailer: 1\r\n\r\n" + get("/q/y")
    )
    assert client.response()[2] == b"x=ab\r\n"
    assert client.response()[2] == b'{"queue": "y"}\r\n'


def test_a_large_body_and_a_large_reply(client: Client) -> None:
    body = bytes(range(256)) * 12000
    client.send(
        b"POST /raw HTTP/1.1\r\nHost: h.localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    client.send(body)
    assert client.response()[2] == body
    client.send(get("/large") + get("/q/y"))
    assert client.response()[2] == BIG
    assert client.response()[2] == b'{"queue": "y"}\r\n'


def test_head_has_no_body(client: Client) -> None:
    client.send(get("/q/x", method="HEAD") + get("/nowhere", method="HEAD") + get("/q/y"))
    status, headers, _ = client.response(to_head=True)
    assert status == 405
    assert int(headers["content-length"]) > 0
    assert client.response(to_head=True)[0] == 404
    assert client.response()[2] == b'{"queue": "y"}\r\n'


@pytest.mark.parametrize(
    "method", ["FOO", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "PRI", "get"]
)
def test_other_methods_are_405_and_the_connection_goes_on(client: Client, method: str) -> None:
    client.send(post("/q/x", b"value=1").replace(b"POST", method.encode()) + get("/q/y"))
    status, headers, body = client.response()
    assert (status, headers["allow"]) == (405, "GET, POST")
    assert body.startswith(b"<html><title>405: Method Not Allowed</title>")
    assert client.response()[2] == b'{"queue": "y"}\r\n'


def test_an_offer_to_upgrade_is_passed_over(client: Client) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    client.send(post("/q/x", b"value=1", *offer) + get("/q/y", *offer) + get("/q/z"))
    assert client.response()[2] == b"x=1\r\n"
    assert client.response()[2] == b'{"queue": "y"}\r\n'
    assert client.response()[2] == b'{"queue": "z"}\r\n'


@pytest.mark.parametrize(
    ("request_line", "headers", "kept", "said"),
    [
        ("GET /q/x HTTP/1.1", "Host: localhost\r\n", True, None),
        ("GET /q/x HTTP/1.1", "Host: localhost\r\nConnection: Close\r\n", False, "close"),
        ("GET /q/x HTTP/1.1", "Host: localhost\r\nConnection: x, close\r\n", False, "close"),
        ("GET /q/x HTTP/1.0", "", False, "close"),
        ("GET /q/x HTTP/1.0", "Connection: keep-alive\r\n", True, "Keep-Alive"),
    ],
)
def test_keep_alive(
    client: Client, request_line: str, headers: str, kept: bool, said: str | None
) -> None:
    client.send(f"{request_line}\r\n{headers}\r\n".encode())
    status, found, _ = client.response()
    assert (status, found.get("connection")) == (200, said)
    if kept:
        client.send(get("/q/y"))
        assert client.response()[0] == 200
    else:
        assert client.rest() == b""


def test_requests_after_the_last_are_not_answered(server: ToyServer) -> None:
    answer = server.exchange(get("/q/x", "Connection: close") + get("/q/y"))
    assert answer.count(b"HTTP/1.1") == 1


# -- expectations -------------------------------------------------------------------------


def test_100_continue_when_the_body_is_wanted(client: Client) -> None:
    request = post("/q/x", b"value=later", "Expect: 100-continue")
    client.send(request[:-11])
    assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"value=later")
    assert client.response()[2] == b"x=later\r\n"


def test_no_100_continue_when_the_body_is_there(client: Client) -> None:
    client.send(post("/q/x", b"value=1", "Expect: 100-continue"))
    assert client.response()[0] == 200
    client.send(post("/q/x", b"", "Expect: 100-continue"))
    assert client.response()[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nowhere", b"POST", 404),
        ("/q/x", b"PUT", 405),
        ("/q/%ff", b"POST", 400),
        ("/q/x", b"POST", 401),
    ],
)
def test_no_100_continue_when_the_answer_is_known(path: str, method: bytes, status: int) -> None:
    acl = "[rest:producer]\nusername = me\npassword = x\n" if status == 401 else ""
    with ToyServer(acl=acl) as toy:
        request = post(path, b"value=later", "Expect: 100-continue")[:-11]
        answer = toy.exchange(request.replace(b"POST", method))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close\r\n" in answer
        assert (b'WWW-Authenticate: Basic realm="RestMQ"' in answer) is (status == 401)


# -- refusals -----------------------------------------------------------------------------


def test_a_refusal_says_why(server: ToyServer) -> None:
    answer = server.exchange(b"GET /q/x HTTP/1.1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close" in head
    assert body == (
        b"<html><title>400: Bad Request</title><body>400: Bad Request"
        b"<p>HTTP/1.1 asks for a Host field</p></body></html>"
    )


def test_a_refusal_waits_for_its_turn(server: ToyServer) -> None:
    answer = server.exchange(post("/q/x", b"value=1") + b"GARBAGE\r\n\r\n" + get("/q/y"))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_a_client_that_is_still_sending_can_read_why(server: ToyServer) -> None:
    """Closing with unread input would reset the connection and lose the page."""
    with server.connect() as client:
        client.send(b"POST /raw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        client.send(b"x" * 9000000)
        assert client.response()[0] == 413
        assert client.rest() == b""


def test_head_is_refused_without_a_body(server: ToyServer) -> None:
    assert server.exchange(b"HEAD /q/x HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_too_many_connections(server: ToyServer) -> None:
    with ToyServer(max_connections=3) as small:
        clients = [small.connect() for _ in range(3)]
        for each in clients:
            each.send(get("/q/x"))
            assert each.response()[0] == 200
        with small.connect() as fourth:
            assert fourth.rest() == b""
        clients[0].socket.close()
        wait_until(lambda: len(small.application.channels) == 2, "a connection less")
        with small.connect() as another:
            another.send(get("/q/x"))
            assert another.response()[0] == 200
        for each in clients:
            each.socket.close()


def test_unfinished_bodies_may_not_fill_the_memory(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restmq.web.channel.MAX_ALL_BODIES", 3 * 1048576)
    half = (
        b"POST /raw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1900000
    )
    with server.connect() as first, server.connect() as second:
        first.send(half)
        wait_until(lambda: server.application.body_bytes == 1900000, "the first body")
        second.send(half)
        assert second.response()[0] == 503
        first.send(b"x" * 100000)
        assert first.response()[0] == 200
    assert server.application.body_bytes == 0


# -- time ---------------------------------------------------------------------------------


def test_an_idle_connection_is_closed(hasty: ToyServer) -> None:
    assert hasty.exchange(b"") == b""
    with hasty.connect() as client:
        client.send(get("/q/x"))
        assert client.response()[0] == 200
        assert client.rest() == b""


@pytest.mark.parametrize(
    "half",
    [b"G", b"GET /q/x HTTP/1.1\r\nHost: loc", post("/q/x", b"value=1")[:-1], b"\r\n"],
)
def test_half_a_request_is_408(hasty: ToyServer, half: bytes) -> None:
    answer = hasty.exchange(half)
    assert answer[:12] == (b"" if half == b"\r\n" else b"HTTP/1.1 408")


def test_a_trickling_request_is_408(hasty: ToyServer) -> None:
    """Each byte on time does not make the whole on time."""
    with hasty.connect() as client:
        client.socket.settimeout(0.05)
        client.send(b"GET /q/x HTTP/1.1\r\nX: ")
        answer = b""
        for _ in range(200):
            try:
                client.send(b"x")
                answer = client.socket.recv(1000)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")


def test_a_handler_may_take_its_time(hasty: ToyServer) -> None:
    with hasty.connect() as client:
        client.send(get("/slow/x"))
        wait_until(lambda: hasty.broker.seen, "the request")
        (channel,) = hasty.application.channels
        for _ in range(100):
            hasty.call(channel.tick, 5)
        hasty.call(hasty.broker.seen[0][2].callback, Reply(body=b"late"))
        assert client.response()[2] == b"late"


def test_a_client_that_takes_nothing_is_cut_off(hasty: ToyServer) -> None:
    with hasty.connect() as client:
        client.send(get("/large"))
        wait_until(lambda: hasty.application.channels, "the connection")
        wait_until(lambda: not hasty.application.channels, "the connection's end")
        assert len(client.rest()) < len(BIG)


def test_a_client_that_takes_it_slowly_gets_all(hasty: ToyServer) -> None:
    with hasty.connect() as client:
        client.send(get("/large", "Connection: close"))
        client.read_until(b"\r\n\r\n")
        received = 0
        began = time.monotonic()
        while received < len(BIG):
            received += len(client.read(min(len(BIG) - received, 1 << 20)))
            (channel,) = hasty.application.channels or (None,)
            if channel is not None:
                for _ in range(4):
                    hasty.call(channel.tick, 5)
        assert client.rest() == b""
        assert time.monotonic() - began < 10


# -- back-pressure ------------------------------------------------------------------------


def test_a_client_that_only_sends_is_not_read_for_ever(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/slow/x"))
        wait_until(lambda: server.broker.seen, "the request")
        client.socket.settimeout(0.5)
        request = get("/q/x", "X-Pad: " + "x" * 8000)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100 * 1048576:
                client.send(request)
                sent += len(request)
        (channel,) = server.application.channels
        assert len(channel._buffer) <= MAX_UNREAD_BYTES + 65536
        client.socket.settimeout(10)
        server.call(server.broker.seen[0][2].callback, Reply(body=b"now"))
        assert client.response()[2] == b"now"
        assert client.response()[2] == b'{"queue": "x"}\r\n'


def test_replies_nobody_takes_do_not_pile_up(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/large") * 8)
        (channel,) = wait_until(lambda: server.application.channels, "the connection")
        wait_until(lambda: channel._clogged, "the first reply")
        assert channel.outlet.backlog() < 2 * len(BIG)
        for _ in range(8):
            assert client.response()[2] == BIG


# -- who left -----------------------------------------------------------------------------


def test_gone_does_not_fire_at_a_normal_end(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/poll/a"))
        wait_until(lambda: server.broker.seen, "the request")
        server.call(server.broker.seen[0][2].callback, Reply(body=b"a"))
        assert client.response()[2] == b"a"
        client.send(get("/q/x"))
        client.response()
    wait_until(lambda: not server.application.channels, "the connection's end")
    assert server.broker.left == []


@pytest.mark.parametrize("how", ["close", "reset", "shutdown"])
@pytest.mark.parametrize("path", ["/poll/a", "/c/a"])
def test_gone_fires_when_the_client_leaves(server: ToyServer, how: str, path: str) -> None:
    with server.connect() as client:
        client.send(get(path))
        wait_until(lambda: server.broker.seen or server.broker.streams, "the request")
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if how == "shutdown":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.socket.close()
        wait_until(lambda: server.broker.left, "the news")
    assert server.broker.left == ["a"]
    exchange = server.broker.seen[0][1] if server.broker.seen else server.broker.streams[0]
    assert exchange.open is False
    assert server.call(exchange.send, b"x") is True
    server.call(exchange.finish)


def test_a_reply_after_the_client_left_is_dropped(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/slow/a"))
        wait_until(lambda: server.broker.seen, "the request")
    client.socket.close()
    server.call(server.broker.seen[0][2].callback, Reply(body=b"too late"))
    wait_until(lambda: not server.application.channels, "the connection's end")


def test_who_only_stops_sending_gets_the_replies(server: ToyServer) -> None:
    """``printf ... | nc -N`` is a client too."""
    with server.connect() as client:
        client.send(post("/q/x", b"value=1") + get("/slow/a") + get("/q/y") + b"GET /ha")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.response()[2] == b"x=1\r\n"
        wait_until(lambda: server.broker.seen, "the request")
        server.call(server.broker.seen[0][2].callback, Reply(body=b"slow"))
        assert client.response()[2] == b"slow"
        assert client.response()[2] == b'{"queue": "y"}\r\n'
        assert client.rest() == b""
        wait_until(lambda: not server.application.channels, "the connection's end")


def test_a_client_that_waits_may_not_send_without_end(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/c/a"))
        client.response()
        with contextlib.suppress(OSError):
            client.send(get("/q/x") * 10000)
        wait_until(lambda: server.broker.left, "the end")
        wait_until(lambda: not server.application.channels, "the connection's end")


# -- streams ------------------------------------------------------------------------------


def test_a_stream_is_chunked_and_the_connection_goes_on(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/c/a") + get("/q/y"))
        status, headers, _ = client.response()
        assert status == 200
        assert headers["transfer-encoding"] == "chunked"
        assert headers["cache-control"] == "no-store"
        exchange = the_stream(server)
        assert server.call(exchange.send, chunk(b"hello")) is True
        assert client.read_until(b"lo\r\n") == b"5\r\nhello\r\n"
        server.call(exchange.finish)
        assert client.read_until(b"\r\n\r\n") == b"0\r\n\r\n"
        assert client.response()[2] == b'{"queue": "y"}\r\n'
    assert server.broker.left == []


def the_stream(server: ToyServer) -> Any:
    """The exchange of the one stream there is."""
    wait_until(lambda: server.broker.streams, "the stream")
    return server.broker.streams[0]


def test_a_stream_to_http_1_0_ends_with_the_connection(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(b"GET /c/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        status, headers, _ = client.response()
        assert (status, headers["connection"]) == (200, "close")
        assert "transfer-encoding" not in headers
        exchange = the_stream(server)
        assert exchange.chunked is False
        server.call(exchange.send, b"hello")
        server.call(exchange.finish)
        assert client.rest() == b"hello"


def test_a_stream_may_keep_its_head_back(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/c/later"))
        wait_until(lambda: server.broker.streams, "the stream")
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        exchange = the_stream(server)
        server.call(exchange.send, chunk(b"now"))
        assert client.response()[0] == 200
        assert client.read(8) == b"3\r\nnow\r\n"


def test_a_slow_consumer_hears_when_it_may_have_more(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/c/a"))
        client.response()
        exchange = the_stream(server)
        told: list[str] = []
        assert server.call(exchange.send, BIG) is False
        server.call(exchange.when_drained, lambda: told.append("drained"))
        assert told == []
        client.read(len(BIG))
        wait_until(lambda: told, "the news")
        assert server.call(exchange.send, b"more") is True
        server.call(exchange.finish)
        assert client.read_until(b"0\r\n\r\n") == b"more0\r\n\r\n"


def test_an_aborted_stream_is_no_complete_one(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/c/a"))
        client.response()
        server.call(the_stream(server).abort)
        assert client.rest() == b""
    wait_until(lambda: server.broker.left == ["a"], "the news")


# -- others on the same connection --------------------------------------------------------


def test_another_protocol_takes_over(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(post("/q/x", b"value=1") + get("/upgrade") + b"hello, ")
        assert client.response()[0] == 200
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.response()[0] == 101
        assert client.read(25) == b"HELLO, GET / HTTP/1.1\r\n\r\n"
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    wait_until(lambda: server.broker.left == ["shouter"], "the news")


def test_handlers_as_cyclone_has_them_work(client: Client, server: ToyServer) -> None:
    client.send(get("/stock/a%20b?who=me") + post("/stock/x", b"value=1") + get("/stock/c"))
    status, headers, body = client.response()
    assert (status, headers["x-name"], body) == (200, "a b", b"hello me")
    assert client.response()[::2] == (201, b"value=1")
    assert client.response()[2] == b"hello you"
    assert server.broker.left == []


def test_a_response_without_a_length_ends_with_the_connection(client: Client) -> None:
    client.send(get("/unframed"))
    assert client.rest().endswith(b"\r\n\r\none,two")


# -- transports ---------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with ToyServer(ROUTES + EXTRA, listen=lambda r, a: r.listenUNIX(path, a)) as toy:
        with Client(socket.socket(socket.AF_UNIX)) as client:
            client.socket.settimeout(10)
            client.socket.connect(path)
            client.send(get("/address") + get("/large") + b"GARBAGE\r\n\r\n")
            assert client.response()[2] == b"unix http"
            assert client.response()[2] == BIG
            assert client.response()[0] == 400
            assert client.rest() == b""
        assert toy.failures == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A key and a certificate that nobody trusts."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_is_not_passed_by(certificate: tuple[str, str]) -> None:
    """Sending at once must never send plain text past TLS."""

    def listen(reactor: Any, application: Any) -> Any:
        context = DefaultOpenSSLContextFactory(*certificate)  # type: ignore[no-untyped-call]
        factory = TLSMemoryBIOFactory(context, False, application, clock=reactor)
        return reactor.listenTCP(0, factory, interface="127.0.0.1")

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with ToyServer(ROUTES + EXTRA, listen=listen) as toy:
        plain = socket.create_connection(("127.0.0.1", toy.port), 10)
        with Client(context.wrap_socket(plain)) as client:
            client.send(get("/address") + get("/large") * 3 + get("/c/a"))
            assert client.response()[2] == b"127.0.0.1 https"
            for _ in range(3):
                assert client.response()[2] == BIG
            assert client.response()[1]["transfer-encoding"] == "chunked"
            exchange = the_stream(toy)
            told: list[str] = []
            assert toy.call(exchange.send, BIG) is False
            toy.call(exchange.when_drained, lambda: told.append("drained"))
            client.read(len(BIG))
            wait_until(lambda: told, "the news")
        wait_until(lambda: toy.broker.left == ["a"], "the client's leaving")


# -- the end ------------------------------------------------------------------------------


def test_drain_closes_the_idle_and_answers_the_busy(server: ToyServer) -> None:
    with server.connect() as idle, server.connect() as busy:
        idle.send(get("/q/x"))
        idle.response()
        busy.send(get("/slow/a"))
        wait_until(lambda: server.broker.seen, "the request")
        done: list[None] = []

        def drain() -> None:
            server.application.drain().addCallback(done.append)

        server.call(drain)
        assert idle.rest() == b""
        assert done == []
        server.call(server.broker.seen[0][2].callback, Reply(body=b"last"))
        status, headers, body = busy.response()
        assert (status, headers["connection"], body) == (200, "close", b"last")
        assert busy.rest() == b""
    wait_until(lambda: done == [None], "the end")
    server.call(drain)
    assert done == [None, None]


def begin_to_drain(server: ToyServer) -> Deferred[None]:
    """What `drain` returns, once it has been called and every connection been told."""
    begun: list[Deferred[None]] = []
    server.call(lambda: begun.append(server.application.drain()))
    server.call(lambda: deferLater(server.reactor, 0, lambda: None))
    return begun[0]


def test_drain_ends_a_stream_with_its_last_chunk(server: ToyServer) -> None:
    with server.connect() as chunked, server.connect() as plain:
        chunked.send(get("/c/a"))
        plain.send(get("/c/b").replace(b"HTTP/1.1", b"HTTP/1.0"))
        wait_until(lambda: len(server.broker.streams) == 2, "two streams")
        begin_to_drain(server)
        assert chunked.rest().endswith(b"\r\n\r\n0\r\n\r\n")
        assert plain.rest().endswith(b"\r\n\r\n")
    assert server.broker.left == []


def test_drain_lets_a_stream_choose_its_end(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/c/a"))
        wait_until(lambda: server.broker.streams, "the stream")
        exchange = server.broker.streams[0]

        def say_goodbye() -> None:
            exchange.send(chunk(b"bye"))
            exchange.finish()

        exchange.on_closing = say_goodbye
        begin_to_drain(server)
        assert client.rest().endswith(b"\r\n\r\n3\r\nbye\r\n0\r\n\r\n")


def test_drain_tells_who_took_a_connection_over(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(get("/upgrade"))
        assert client.read(36) == b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        begin_to_drain(server)
        assert client.rest() == b"BYE"


def test_drain_waits_for_a_request_that_has_begun_to_come(server: ToyServer) -> None:
    with server.connect() as client:
        whole = post("/q/x", b"value=1")
        client.send(whole[:-1])
        wait_until(lambda: any(c._body for c in server.application.channels), "half a body")
        begin_to_drain(server)
        client.send(whole[-1:])
        status, headers, body = client.response()
        assert (status, headers["connection"], body) == (200, "close", b"x=1\r\n")
        assert client.rest() == b""


def test_a_stream_that_begins_while_all_else_ends_is_ended_too() -> None:
    """A second later: nobody knows when a handler will begin to stream."""
    with ToyServer() as server, server.connect() as client:
        client.send(get("/c/a")[:-2])
        wait_until(lambda: any(c._buffer for c in server.application.channels), "half a head")
        begin_to_drain(server)
        client.send(b"\r\n")
        assert client.rest().endswith(b"0\r\n\r\n")


def test_after_a_cut_a_client_gets_what_the_kernel_had_and_no_more() -> None:
    with ToyServer(EXTRA) as server, server.connect() as client:
        client.send(get("/large"))
        wait_until(lambda: any(c._clogged for c in server.application.channels), "a full kernel")
        server.call(server.application.cut)
        (channel,) = server.application.channels
        held = channel.outlet.backlog()
        assert 0 < held < len(BIG)
        client.read_until(b"\r\n\r\n")
        client.read(len(BIG) - held)
        client.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)
        assert channel.outlet.backlog() == held


def test_nobody_keeps_a_closed_connection(server: ToyServer) -> None:
    with server.connect() as client:
        client.send(post("/q/x", b"value=1"))
        client.response()
    wait_until(lambda: not server.application.channels, "the connection's end")
    assert isinstance(Stream.operations["GET"].access, tuple)
