"""The WebSocket door without a network: what it does when time passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from restmq.settings import Settings
from restmq.web import websocket
from restmq.web.handshake import Handshake
from tests.wire.websocket_cases import goodbye


class Transport(StringTransport):
    """A connection whose client reads nothing: it ends only when it is aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Broker:
    """A broker as the door knows it: who is attached, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.attached: list[Any] = []

    def attach(self, queue: str, consumer: Any) -> None:
        self.attached.append(consumer)

    def detach(self, queue: str, consumer: Any) -> None:
        if consumer in self.attached:
            self.attached.remove(consumer)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def door(broker: Broker) -> Iterator[websocket._Door]:
    made = websocket._Door(broker, "q", Handshake("dGhlIHNhbXBsZSBub25jZQ=="), Settings())
    made.factory = websocket._factory(broker.clock, 1000)
    made.makeConnection(Transport())
    assert made.transport.value().startswith(b"HTTP/1.1 101 ")
    yield made
    made.connectionLost(Failure(ConnectionDone()))
    assert not broker.clock.getDelayedCalls()


def test_who_says_goodbye_and_reads_nothing_is_cut_off_in_time(door, broker):
    assert broker.attached
    door.dataReceived(goodbye(1000))
    assert not broker.attached
    assert door.transport.disconnecting
    broker.clock.advance(websocket.CLOSING_SECONDS - 1)
    assert not door.transport.aborted
    broker.clock.advance(1)
    assert door.transport.aborted


def test_who_is_gone_in_time_is_not_cut_off(door, broker):
    door.dataReceived(goodbye(1000))
    door.connectionLost(Failure(ConnectionAborted()))
    broker.clock.advance(websocket.CLOSING_SECONDS)
    assert not door.transport.aborted
