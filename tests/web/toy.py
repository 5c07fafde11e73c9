"""A server in this process for tests that speak to it with plain blocking sockets.

It runs on a reactor of its own in a thread, so a test is a short story of bytes sent and bytes
received. What the server logs as a failure is kept and must be expected by the test.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self, TypeVar

from twisted.internet import threads
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from restmq.rules.acl import Acl
from restmq.settings import Settings
from restmq.web.dispatcher import Dispatcher, Rule
from restmq.web.endpoint import Access, Endpoint, Reply, endpoint

DEADLINE = 10.0
T = TypeVar("T")


class Toy(Endpoint):
    """A handler that shares a Broker of ours with the test."""

    @property
    def shared(self) -> Broker:
        broker: Broker = self.application.broker
        return broker


class Queue(Toy):
    """Answers in the next turn, as a handler that asks the store does."""

    @endpoint(Access.PRODUCER, jsonp=True)
    def post(self, queue: str) -> Deferred[Reply]:
        value = self.raw_parameter("value") or b""
        answer: Deferred[Reply] = Deferred()
        reply = Reply(body=queue.encode() + b"=" + value + b"\r\n")
        self.shared.call_later(0, answer.callback, reply)
        return answer

    @endpoint(Access.CONSUMER, jsonp=True)
    def get(self, queue: str) -> Reply:
        return Reply(body=b'{"queue": "%b"}\r\n' % queue.encode())


class Raw(Endpoint):
    """Answers with the body it was sent."""

    @endpoint(Access.NONE)
    def post(self) -> Reply:
        return Reply(body=self.request.body, content_type=b"application/octet-stream")


class Stream(Toy):
    """A stream that stays open until the broker of the test ends it."""

    @endpoint(Access.COMET)
    def get(self, queue: str) -> None:
        exchange = self.start_stream(at_once=queue != "later")
        self.shared.streams.append(exchange)
        exchange.gone.addCallback(lambda _: self.shared.left.append(queue))


class Broker:
    """What the toy's handlers share with the test."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.call_later = reactor.callLater
        self.streams: list[Any] = []
        self.left: list[str] = []
        self.seen: list[Any] = []


ROUTES: list[Rule] = [
    (r"/", Queue),
    (r"/q/(.*)", Queue),
    (r"/raw", Raw),
    (r"/c/(.*)", Stream),
]


@implementer(ILogObserver)
class ToyServer:
    """Use as a context manager; ``port`` is where it listens on 127.0.0.1."""

    def __init__(
        self,
        routes: Iterable[Rule] = ROUTES,
        *,
        acl: str = "",
        listen: Callable[[Any, Dispatcher], IListeningPort] | None = None,
        **settings: Any,
    ) -> None:
        self.reactor = EPollReactor()  # type: ignore[no-untyped-call]
        self.broker = Broker(self.reactor)
        self.failures: list[str] = []
        self.application = Dispatcher(
            routes,
            broker=self.broker,
            config=replace(Settings(), **settings),
            acl=Acl.parse(acl),
            clock=self.reactor,
        )
        self._listen = listen or _listen_tcp
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        globalLogPublisher.addObserver(self)
        self._thread.start()
        self._listening = self.call(self._listen, self.reactor, self.application)
        self.port = getattr(self._listening.getHost(), "port", 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop)
        self._thread.join(DEADLINE)
        globalLogPublisher.removeObserver(self)
        assert not self._thread.is_alive()
        assert self.failures == []

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the server's thread and return its result."""
        result: T = threads.blockingCallFromThread(self.reactor, function, *args)
        return result

    def expect_failure(self, text: str) -> None:
        """Take one failure off the list; it must hold this text."""
        assert text in self.failures.pop(0)

    def connect(self, address: str = "127.0.0.1") -> Client:
        """A new client, from one of the loopback addresses."""
        to = ("127.0.0.1", self.port)
        return Client(socket.create_connection(to, DEADLINE, source_address=(address, 0)))

    def exchange(self, data: bytes) -> bytes:
        """All that a client that sends this gets until the server closes."""
        with self.connect() as client:
            client.send(data)
            return client.rest()

    def _run(self) -> None:
        self.reactor.run(installSignalHandlers=False)

    def _stop(self) -> None:
        closed = maybeDeferred(self._listening.stopListening)
        closed.addCallback(lambda _: self.reactor.callLater(0, self.reactor.stop))

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            self.failures.append(failure.getTraceback())


def _listen_tcp(reactor: Any, application: Dispatcher) -> IListeningPort:
    port: IListeningPort = reactor.listenTCP(0, application, interface="127.0.0.1")
    return port


class Client:
    """A blocking client that reads one response at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to the mark and with it."""
        while mark not in self._buffer:
            data = self.socket.recv(65536)
            assert data, f"closed after {bytes(self._buffer)!r}"
            self._buffer += data
        end = self._buffer.index(mark) + len(mark)
        return self._take(end)

    def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._buffer) < count:
            data = self.socket.recv(65536)
            assert data, f"closed after {bytes(self._buffer)!r}"
            self._buffer += data
        return self._take(count)

    def _take(self, count: int) -> bytes:
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def response(self, *, to_head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, and body of the next response."""
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        status = int(first.split()[1])
        if to_head or status in (100, 204, 304) or "content-length" not in headers:
            return status, headers, b""
        return status, headers, self.read(int(headers["content-length"]))

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                break
            self._buffer += data
        return self._take(len(self._buffer))


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A form POST."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """A request without a body."""
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
