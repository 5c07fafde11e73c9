"""A broker with time in hand: the real core on a real store, with no reactor and no waiting.

`InstantStore` takes the place of the connections: each command is carried out as it is sent, and
scripts that would ask the server for the time are told it. Both clocks are the test's own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from unittest import mock

import hiredis
from twisted.internet import task
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from restmq.core import broker as broker_module
from restmq.core.broker import Broker
from restmq.core.scripted import SERVER_CLOCK
from restmq.redis.pipeline import Callback, encode, store_error
from restmq.redis.scripts import Script
from restmq.settings import Settings
from restmq.store_address import parse_redis_url
from tests.support import DEADLINE_SECONDS, ValkeyServer

T = TypeVar("T")


class InstantStore:
    """Does at once what `restmq.redis.connection.Store` does over three connections; hears no channel."""

    ready = True

    def __init__(self, path: str, scripts: Iterable[Script], now: Callable[[], int]) -> None:
        """``now`` gives the ms that scripts are told."""
        self._now = now
        self._reader = hiredis.Reader(replyError=store_error)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_SECONDS)
        self._socket.connect(path)
        self.on_ready: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_channel: Callable[[bool], None] = lambda up: None
        self.on_message: Callable[[Any], None] = lambda message: None
        for script in scripts:
            self._carry_out(encode(b"SCRIPT", b"LOAD", script.source))

    def _carry_out(self, command: bytes) -> Any:
        self._socket.sendall(command)
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 20))
        return reply

    def send(self, command: bytes, callback: Callback) -> None:
        if b"EVALSHA" in command[:20]:  # behind the keys the clock is the first argument
            now = b"%d" % self._now()
            command = command.replace(SERVER_CLOCK, b"$%d\r\n%s\r\n" % (len(now), now), 1)
        callback(self._carry_out(command))

    read = send

    def start(self, address: object) -> None:
        self.on_ready()

    def flush(self) -> None:
        """Nothing is kept back."""

    def listen(self, command: bytes) -> bool:
        return True

    def stop(self) -> Deferred[None]:
        self._socket.close()
        return succeed(None)


class Hall:
    """Brokers on one store, and the time."""

    def __init__(self, valkey: ValkeyServer, brokers: int, now: int) -> None:
        self.clock = task.Clock()
        self.clock.advance(now / 1000)
        settings = Settings(redis_url=valkey.url)
        address = parse_redis_url(valkey.url)

        def store(reactor: object, scripts: Iterable[Script]) -> InstantStore:
            return InstantStore(str(valkey.socket), scripts, lambda: self.now)

        with mock.patch.object(broker_module, "Store", store):
            self.brokers = [Broker(self.clock, settings) for _ in range(brokers)]
        for each in self.brokers:
            each.start(address)

    @property
    def now(self) -> int:
        """The time, ms."""
        return round(1000 * self.clock.seconds())

    def advance(self, ms: int) -> None:
        """Time passes in steps of 50 ms; at its end every broker looks at what is due."""
        for _ in range(0, ms, 50):
            self.clock.advance(0.05)
        for each in self.brokers:
            each._reaper._look_in(0)
        for _ in range(20):
            self.clock.advance(0)

    def result(self, deferred: Deferred[T]) -> T:
        """What it fires with in this turn or the next ones; raises its error."""
        found: list[T | Failure] = []
        deferred.addBoth(found.append)
        for _ in range(20):
            self.clock.advance(0)
        assert found, "no answer"
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]  # type: ignore[return-value]

    def close(self) -> None:
        for each in self.brokers:
            each.stop()
        self.clock.pump([0.1] * 40)
