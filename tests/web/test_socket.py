"""A WebSocket connection without a network: what it does when time passes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from restmq.settings import Settings
from restmq.web import socket
from restmq.web.handshake import Handshake
from tests.wire.websocket_cases import goodbye


class Transport(StringTransport):
    """A connection whose client reads nothing: it ends only when it is aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Client(socket.Connection):
    """A connection that notes when it is over."""

    gone = False

    def leave(self) -> None:
        self.gone = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Iterator[Client]:
    asked = Handshake("dGhlIHNhbXBsZSBub25jZQ==")
    made = Client(SimpleNamespace(clock=clock), asked, Settings())
    made.makeConnection(Transport())
    assert made.transport.value().startswith(b"HTTP/1.1 101 ")
    yield made
    made.connectionLost(Failure(ConnectionDone()))
    assert not clock.getDelayedCalls()


def test_who_says_goodbye_and_reads_nothing_is_cut_off_in_time(door, clock):
    assert not door.gone
    door.dataReceived(goodbye(1000))
    assert door.gone
    assert door.transport.disconnecting
    clock.advance(socket.CLOSING_SECONDS - 1)
    assert not door.transport.aborted
    clock.advance(1)
    assert door.transport.aborted


def test_who_is_gone_in_time_is_not_cut_off(door, clock):
    door.dataReceived(goodbye(1000))
    door.connectionLost(Failure(ConnectionAborted()))
    clock.advance(socket.CLOSING_SECONDS)
    assert not door.transport.aborted
