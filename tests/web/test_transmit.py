"""Sending at once: nothing lost, nothing out of order, nothing past TLS."""

from __future__ import annotations

import inspect
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import pytest
from twisted.internet import tcp
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.internet.threads import blockingCallFromThread

from restmq.web import transmit
from restmq.web.transmit import (
    READ_ATTRIBUTES,
    SEND_LIMIT,
    Outlet,
    has_closed,
    is_drained,
    send_now,
)
from tests.support import wait_until

BIG = bytes(range(256)) * 65536  # 16 MiB: more than any socket buffer


class Accepted(Protocol):
    """A connection that remembers how it ended."""

    def __init__(self) -> None:
        self.made = threading.Event()
        self.lost = threading.Event()

    def connectionMade(self) -> None:
        self.made.set()

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.set()


class Pair:
    """An accepted connection, and the blocking socket at its other end."""

    def __init__(self) -> None:
        self.reactor = EPollReactor()  # type: ignore[no-untyped-call]
        self.protocol = Accepted()
        self._thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        factory = Factory()
        factory.buildProtocol = lambda addr: self.protocol  # type: ignore[method-assign]
        self.port = self.call(self.reactor.listenTCP, 0, factory, 1, "127.0.0.1")
        self.client = socket.create_connection(("127.0.0.1", self.port.getHost().port), 10)
        assert self.protocol.made.wait(10)
        self.transport: Any = self.protocol.transport
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.call(self.port.stopListening)
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(10)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return blockingCallFromThread(self.reactor, function, *args)

    def received(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.client.recv(min(count, 1 << 20))
            assert part
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def test_every_attribute_it_reads_is_there_in_this_twisted() -> None:
    with Pair() as pair:
        assert type(pair.transport) is tcp.Server
        for name in READ_ATTRIBUTES:
            assert hasattr(pair.transport, name), name


def test_the_list_of_attributes_is_complete() -> None:
    source = inspect.getsource(transmit)
    read = {word.split(".")[1] for word in source.split() if word.startswith("transport.")}
    plain = {word.rstrip(",:)").split("(")[0] for word in read}
    methods = {"write", "registerProducer", "unregisterProducer"}
    assert plain - methods <= {*READ_ATTRIBUTES, "socket.send", "socket.recv"}


def test_a_short_reply_is_with_the_kernel_at_once() -> None:
    with Pair() as pair:

        def send() -> tuple[bool, bool]:
            return send_now(pair.transport, b"hello"), is_drained(pair.transport)

        assert pair.call(send) == (True, True)
        assert pair.received(5) == b"hello"


def test_a_client_that_has_closed_is_seen_before_the_reactor_tells() -> None:
    with Pair() as pair:
        assert not pair.call(has_closed, pair.transport)

        def close_and_look() -> tuple[bool, bool]:
            """In one turn of the reactor, which therefore has not looked."""
            pair.client.sendall(b"x")
            wait_until(lambda: readable(pair.transport), "the byte")
            with_more = has_closed(pair.transport)
            pair.transport.socket.recv(1)
            pair.client.close()
            wait_until(lambda: readable(pair.transport), "the end")
            return with_more, has_closed(pair.transport)

        assert pair.call(close_and_look) == (False, True)
        assert pair.protocol.lost.wait(10)
        assert not pair.call(has_closed, pair.transport), "now the reactor has told"


def readable(transport: Any) -> bool:
    return bool(select.select([transport.socket], [], [], 0)[0])


def test_what_the_kernel_does_not_take_follows_in_order() -> None:
    with Pair() as pair:

        def send() -> list[bool]:
            return [send_now(pair.transport, part) for part in (BIG, b"then this", b"and that")]

        assert pair.call(send) == [False, False, False]
        assert pair.received(len(BIG)) == BIG
        assert pair.received(17) == b"then thisand that"


def test_at_most_128_kib_are_offered_to_the_socket() -> None:
    with Pair() as pair:
        data = b"x" * (SEND_LIMIT + 1)
        assert pair.call(send_now, pair.transport, data) is False
        assert pair.received(len(data)) == data


def test_what_was_written_before_is_not_overtaken() -> None:
    with Pair() as pair:

        def send() -> bool:
            pair.transport.write(b"first ")
            return send_now(pair.transport, b"second")

        assert pair.call(send) is False
        assert pair.received(12) == b"first second"


@pytest.mark.parametrize("close", ["loseConnection", "loseWriteConnection", "abortConnection"])
def test_nothing_is_sent_after_the_end(close: str) -> None:
    with Pair() as pair:

        def send() -> bool:
            pair.transport.write(b"x")
            getattr(pair.transport, close)()
            pair.transport._tempDataBuffer = []
            return send_now(pair.transport, b"late")

        assert pair.call(send) is False


def test_a_producer_is_left_its_place() -> None:
    with Pair() as pair:

        def send() -> bool:
            pair.transport.registerProducer(Outlet(pair.transport), True)
            answer = send_now(pair.transport, b"x")
            pair.transport.unregisterProducer()
            return answer

        assert pair.call(send) is False
        assert pair.received(1) == b"x"


def test_a_lost_client_is_found_by_the_reactor_and_not_in_the_loop() -> None:
    """A fan-out loop must not see its list of consumers change under it."""
    with Pair() as pair:

        def send() -> tuple[bool, bool]:
            pair.transport.socket.shutdown(socket.SHUT_WR)
            return send_now(pair.transport, b"x"), pair.protocol.lost.is_set()

        assert pair.call(send) == (False, False)
        assert pair.protocol.lost.wait(10)


def test_other_transports_are_only_written_to() -> None:
    transport = StringTransport()  # type: ignore[no-untyped-call]
    assert send_now(transport, b"x") is False
    assert transport.value() == b"x"  # type: ignore[no-untyped-call]

    class Derived(tcp.Server):
        """Not exactly tcp.Server: whatever it adds must not be passed by."""

        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.written.append(data)

    derived = Derived()
    assert send_now(derived, b"x") is False
    assert derived.written == [b"x"]


def test_an_outlet_tells_when_all_is_sent() -> None:
    with Pair() as pair:
        drained = threading.Event()

        def send() -> tuple[bool, bool]:
            outlet = Outlet(pair.transport)
            sent = outlet.send(BIG)
            outlet.when_drained(drained.set)
            return sent, outlet.backlog() > 0

        assert pair.call(send) == (False, True)
        assert not drained.is_set()
        assert pair.received(len(BIG)) == BIG
        assert drained.wait(10)
        assert pair.transport.producer is None


def test_an_outlet_with_nothing_to_send_tells_at_once() -> None:
    with Pair() as pair:
        drained = threading.Event()
        pair.call(Outlet(pair.transport).when_drained, drained.set)
        assert drained.is_set()


def test_an_outlet_tells_everybody_who_asked_even_if_the_connection_then_closes() -> None:
    with Pair() as pair:
        told: list[int] = []

        def send() -> None:
            outlet = Outlet(pair.transport)
            outlet.send(BIG)
            for number in range(3):
                outlet.when_drained(lambda number=number: told.append(number))  # type: ignore[misc]
            pair.transport.loseConnection()

        pair.call(send)
        assert pair.received(len(BIG)) == BIG
        assert pair.client.recv(1) == b""
        assert pair.protocol.lost.wait(10)
        assert told == [0, 1, 2]


def test_on_another_transport_drained_means_that_twisted_does_not_ask_for_a_pause() -> None:
    transport = StringTransport()  # type: ignore[no-untyped-call]
    outlet = Outlet(transport)
    told: list[str] = []
    assert outlet.send(b"x") is True
    outlet.pauseProducing()
    assert outlet.send(b"y") is False
    outlet.when_drained(lambda: told.append("drained"))
    assert told == []
    outlet.resumeProducing()
    assert told == ["drained"]
    outlet.release()
    assert transport.producer is None
