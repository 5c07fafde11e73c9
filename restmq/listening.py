"""The places where the daemon listens, and one clear line for each reason why it can't."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from twisted.internet import defer, tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.handover import Place
from restmq.hosts import ip_address
from restmq.passed import Passed
from restmq.settings import LOOPBACK, ConfigError, Configuration, is_endpoint

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase

BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel has its own limit, somaxconn."""

_WRONG = (ValueError, TypeError, LookupError)
"""What Twisted raises for an endpoint string it can't make sense of."""


class Listening:
    """All ports of one daemon. ``open`` them before the reactor runs, ``close`` them first of all.

    What comes in before the store answers is answered with 503, so the ports need not wait for it,
    and a port that is taken is found before anything else was started.
    """

    log = Logger()

    def __init__(
        self,
        reactor: PosixReactorBase,
        configuration: Configuration,
        port_option: str = "port",
        passed: Sequence[Passed] = (),
    ) -> None:
        """Nothing is opened yet. Sockets that are ``passed`` take the place of all others.

        ``port_option`` is where the operator said the port.
        """
        self._reactor = reactor
        self._passed = passed
        self._places = configuration.settings.listen
        self._port = configuration.settings.port
        self._sources = configuration.sources
        self._port_option = port_option
        self.ports: list[IListeningPort] = []
        self._names: dict[IListeningPort, str] = {}
        self._holder: Factory | None = None

    def open(self, factory: IProtocolFactory) -> None:
        """Listen everywhere. Raises ConfigError, one line that says what to do."""
        for passed in self._passed:
            at = AdoptedStreamServerEndpoint(  # type: ignore[no-untyped-call]
                self._reactor, passed.descriptor, passed.family
            )
            self._listen(passed.place, at, factory)
        if self._passed:
            return
        for place in self._places:
            try:
                self._open(place, factory)
            except _NoSuchAddress:
                if place != "::1" or self._places != LOOPBACK:
                    raise
                self.log.info("this machine has no IPv6: not listening on ::1")

    def hold(self) -> None:
        """Take all places as ``open`` does, but accept nobody: other processes will.

        Raises ConfigError, also for an endpoint whose socket can't be given to another process.
        """
        self._holder = Factory()
        self._holder.noisy = False
        self.open(self._holder)
        for port in self.ports:
            if not isinstance(port, tcp.Port):
                raise self._error(self._names[port], "--processes can't share such an endpoint")
            port.stopReading()  # type: ignore[no-untyped-call]
            port._shouldShutdown = False  # it would end the socket for the others, too

    def handed(self) -> tuple[tuple[Place, ...], list[int]]:
        """What is held, for another process: places, and their descriptors in the same order."""
        ports = [port for port in self.ports if isinstance(port, tcp.Port)]
        places = (
            Place(self._names[port], port.addressFamily, port.factory is not self._holder)
            for port in ports
        )
        return tuple(places), [port.socket.fileno() for port in ports]

    def close(self) -> defer.Deferred[None]:
        """Stop listening everywhere; connections that are open stay so.

        On a passed socket only our own reading ends: who connects now waits for the next daemon,
        and the path of a UNIX socket, which Twisted would remove, stays systemd's. On the others
        those that wait to be accepted are accepted first: the kernel would reset them.
        """
        if self._passed:
            for port in self.ports:
                port.stopReading()  # type: ignore[attr-defined]
            self.ports = []
            return defer.succeed(None)
        for port in self.ports if self._holder is None else ():
            accept_waiting(port)
        closing = [defer.maybeDeferred(port.stopListening) for port in self.ports]
        self.ports = []
        return defer.DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)

    def log_where(self) -> None:
        """Tell the operator where, in words that can be clicked on."""
        for port in self.ports:
            self.log.info("listening on {at}", at=spoken(port.getHost()))

    def addresses(self) -> Iterator[IPv4Address | IPv6Address]:
        """Where it listens by the name of an address, not by that of an endpoint such as ``ssl:``."""
        for port in self.ports:
            at = port.getHost()
            if isinstance(at, IPv4Address | IPv6Address) and not is_endpoint(self._names[port]):
                yield at

    def _open(self, place: str, factory: IProtocolFactory) -> None:
        if is_endpoint(place):
            self._listen(place, self._endpoint(place), factory)
            return
        for address in self._addresses(place):
            kind = TCP6ServerEndpoint if ":" in address else TCP4ServerEndpoint
            self._listen(place, kind(self._reactor, self._port, BACKLOG, address), factory)

    def _endpoint(self, place: str) -> IStreamServerEndpoint:
        try:
            endpoint: IStreamServerEndpoint = serverFromString(self._reactor, place)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise self._error(place, f"{error.strerror}: {error.filename}") from None
        except _WRONG as error:
            raise self._error(place, f"Twisted can't use this endpoint: {error}") from None
        except _tls_errors() as error:
            raise self._error(place, f"no key and certificate in its files: {error}") from None
        return endpoint

    def _addresses(self, host: str) -> Iterator[str]:
        if ip_address(host) is not None:
            yield host
            return
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise self._error(host, f"its address is not known: {error.strerror}") from None
        yield from dict.fromkeys(str(address[0]) for *_, address in found)

    def _listen(self, place: str, at: IStreamServerEndpoint, factory: IProtocolFactory) -> None:
        outcome: list[IListeningPort | Failure] = []
        at.listen(factory).addBoth(outcome.append)
        if not outcome:
            raise self._error(place, "an endpoint of this kind can't be used: it takes its time")
        if isinstance(outcome[0], Failure):
            self._refuse(place, outcome[0].value)
        else:
            self.ports.append(outcome[0])
            self._names[outcome[0]] = place

    def _refuse(self, place: str, problem: BaseException | None) -> NoReturn:
        if isinstance(problem, CannotListenError):
            problem = problem.socketError
        number = problem.errno if isinstance(problem, OSError) else None
        if number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NoSuchAddress(str(self._error(place, "this machine has no such address")))
        if isinstance(problem, OSError | ValueError | TypeError | LookupError):
            raise self._error(place, self._reason(place, number, problem))
        raise problem or AssertionError("a failure without a reason")

    def _reason(self, place: str, number: int | None, problem: object) -> str:
        if number == errno.EADDRINUSE:
            other = "name another" if is_endpoint(place) else f"give another --{self._port_option}"
            return f"{self._what()} is taken: stop the program that has it, or {other}"
        if number == errno.EACCES and not is_endpoint(place):
            return f"{self._what()} needs a permission this user lacks: give a --{self._port_option} above 1023"
        return f"can't listen there: {getattr(problem, 'strerror', None) or problem}"

    def _what(self) -> str:
        return f"port {self._port} ({self._sources[self._port_option]})"

    def _error(self, place: str, reason: str) -> ConfigError:
        text = f"listen {place} ({self._sources['listen']}): {reason}"
        return ConfigError(" ".join(text.split()))


def spoken(at: IAddress) -> str:
    """A place, as a log tells it."""
    if isinstance(at, IPv4Address | IPv6Address):
        return f"[{at.host}]:{at.port}" if ":" in at.host else f"{at.host}:{at.port}"
    if isinstance(at, UNIXAddress) and at.name:
        return os.fsdecode(at.name)
    return str(at)


def accept_waiting(port: IListeningPort) -> None:
    """Accept what the kernel has ready for this port; at most as many as may wait."""
    if not isinstance(port, tcp.Port):
        return
    ready = select.poll()
    ready.register(port.socket, select.POLLIN)
    for _ in range(BACKLOG):
        if not ready.poll(0):
            return
        port.doRead()  # type: ignore[no-untyped-call]


class _NoSuchAddress(ConfigError):
    """The machine has no such address, or no IPv6 at all."""


def _tls_errors() -> tuple[type[Exception], ...]:
    from OpenSSL import SSL, crypto  # noqa: PLC0415 - only for endpoints that got so far

    return (SSL.Error, crypto.Error)
