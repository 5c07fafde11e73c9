"""Listening sockets that another process of ours has opened, in the process that accepts on them.

The sockets are shared: whoever is awake first accepts. So nothing here may undo what the parent did
to them: no ``shutdown``, no new mode, no removed path.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from restmq.handover import Handed
from restmq.listening import Listening
from restmq.settings import Configuration

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase


class Inherited(Listening):
    """The parent's ports, in a process of its. Where an endpoint adds TLS, it is read again here."""

    def __init__(
        self,
        reactor: PosixReactorBase,
        configuration: Configuration,
        handed: Handed,
    ) -> None:
        """Nothing is taken yet."""
        self._taker = _Taker(reactor)
        super().__init__(self._taker, configuration)  # type: ignore[arg-type]
        self._handed = handed

    def open(self, factory: IProtocolFactory) -> None:
        """Take all of them, and accept nobody before ``accept``: others do meanwhile. Raises ConfigError when TLS can't be set up."""
        for descriptor, place in enumerate(self._handed.places, self._handed.first):
            self._taker.descriptor, self._taker.family = descriptor, place.family
            if place.wrapped:
                self._listen(place.name, self._endpoint(place.name), factory)
            else:
                self.ports.append(self._taker.listen(factory))
        for port in self.ports:
            port.stopReading()  # type: ignore[attr-defined]

    def accept(self) -> None:
        """Accept from now on; again does no harm."""
        for port in self.ports:
            port.startReading()  # type: ignore[attr-defined]

    def log_where(self) -> None:
        """The parent has said it."""


class _Taker:
    """Takes the reactor's place for an endpoint that wants to listen: gives it the open socket."""

    descriptor: int
    family: int

    def __init__(self, reactor: PosixReactorBase) -> None:
        self._reactor = reactor

    def listenTCP(  # noqa: N802 - Twisted's name
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        return self.listen(factory)

    def listenUNIX(  # noqa: N802 - Twisted's name
        self, address: str, factory: IProtocolFactory, *rest: Any, **options: Any
    ) -> IListeningPort:
        return self.listen(factory)

    def listenSSL(  # noqa: N802 - Twisted's name
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,  # noqa: N803 - Twisted's name
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        return self.listen(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listen(self, factory: IProtocolFactory) -> IListeningPort:
        """A port on the socket; the descriptor itself is used up."""
        port: Any
        if self.family == socket.AF_UNIX:
            port = _UnixPort._fromListeningDescriptor(  # type: ignore[no-untyped-call]
                self._reactor, self.descriptor, factory
            )
            port.startListening()
        else:
            port = self._reactor.adoptStreamPort(  # type: ignore[no-untyped-call]
                self.descriptor, self.family, factory
            )
        os.close(self.descriptor)
        return port  # type: ignore[no-any-return]


class _UnixPort(unix.Port):
    """A UNIX socket whose path is the parent's: Twisted's would change its mode, and remove it."""

    def startListening(self) -> None:  # noqa: N802 - Twisted's name
        """Accept what comes."""
        taken: Any = self._preexistingSocket
        self._preexistingSocket = None
        assert self.factory is not None
        self.factory.doStart()  # type: ignore[no-untyped-call]
        self.socket = taken
        self.fileno = taken.fileno  # type: ignore[method-assign]
        self.connected = True
        self._shouldShutdown = False
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """Close our copy of the socket and leave the path alone."""
        tcp.Port.connectionLost(self, reason)  # type: ignore[no-untyped-call]
