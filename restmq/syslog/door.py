"""The syslog ports: TCP (RFC 6587) and UDP (RFC 5426), both feeding one intake.

Who may send is what ``[rest:producer]`` of the access file says of the address. A section that asks for a
password keeps every sender out, since syslog has no way to show one. Nothing is ever answered.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.udp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.handover import Handed
from restmq.hosts import ip_address
from restmq.inherited import Inherited
from restmq.listening import Listening, spoken
from restmq.rules.acl import UNIX, Access, Acl, Decision, HasAcl
from restmq.rules.exposure import check_exposure
from restmq.settings import Configuration
from restmq.syslog.framing import Framer, Frames, Lines
from restmq.syslog.held import UDP_BUFFER_BYTES, for_syslog, udp_refused
from restmq.syslog.intake import Intake
from restmq.syslog.messages import Encoder

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase

    from restmq.core.broker import Broker

LONGEST_LINE: Final = 65536
MOST_CONNECTIONS: Final = 4096
"""Each may hold half a line, so all of them together no more than 256 MiB."""

SHORTEST_LIMIT: Final = 480
"""What every receiver must take (RFC 5424, 6.1)."""

SWELLING: Final = 16
"""How many times as long as a line its message may be: six for control characters, and all of it twice."""

DATAGRAM_BYTES: Final = 65536


class SyslogDoor:
    """All syslog ports of a daemon."""

    log = Logger()

    def __init__(
        self,
        reactor: PosixReactorBase,
        configuration: Configuration,
        access: HasAcl,
        broker: Broker,
        handed: Handed | None = None,
    ) -> None:
        """Nothing is opened yet. What a parent has ``handed`` on takes the place of all other ports."""
        settings = configuration.settings
        self.clock = cast("IReactorTime", reactor)
        self.limit = max(SHORTEST_LIMIT, min(LONGEST_LINE, settings.max_message_bytes // SWELLING))
        self.most_connections = min(MOST_CONNECTIONS, settings.max_connections)
        self.intake = Intake(self.clock, broker.add_texts, broker.add_packs)
        self.connections: set[Connection] = set()
        self.encoder = lru_cache(maxsize=1024)(self._encoder)
        self._by_hostname = settings.syslog_queue == "hostname"
        self._bsd_fields = settings.syslog_fields
        self._reactor = reactor
        self._handed = handed
        self._configuration = for_syslog(configuration)
        self._listening = self._ports()
        self._access = access
        self._udp: list[Port] = []
        self._said_refused = False

    def _encoder(self, host: str) -> Encoder:
        return Encoder(host, self._by_hostname, self._bsd_fields)

    @property
    def _acl(self) -> Acl:
        return self._access.acl

    def _ports(self) -> Listening:
        if self._handed is None:
            return Listening(self._reactor, self._configuration, "syslog-port")
        streams = [place for place in self._handed.places if not place.datagrams]
        handed = Handed(self._handed.first, streams)
        return Inherited(self._reactor, self._configuration, handed)

    def open(self) -> None:
        """Listen everywhere. Raises ConfigError, one line that says what to do."""
        if self._handed is not None:
            self._listening.open(_Factory(self))
            self._take_datagrams(self._handed)
            return
        check_exposure(self._configuration, self._acl.restricts_anything)
        self._listening.open(_Factory(self))
        for at in self._listening.addresses():
            self._open_udp(at)

    def _take_datagrams(self, handed: Handed) -> None:
        """The parent's UDP sockets, which follow those that listen. They are not read yet."""
        for descriptor, place in enumerate(handed.places, handed.first):
            if place.datagrams:
                port = self._reactor.adoptDatagramPort(  # type: ignore[no-untyped-call]
                    descriptor, place.family, Datagrams(self), DATAGRAM_BYTES
                )
                os.close(descriptor)
                port.stopReading()
                self._udp.append(port)

    def accept(self) -> None:
        """Take what comes on the parent's sockets, from now on."""
        cast("Inherited", self._listening).accept()
        for port in self._udp:
            port.startReading()  # type: ignore[no-untyped-call]

    def _open_udp(self, at: IPv4Address | IPv6Address) -> None:
        receiver = Datagrams(self)
        try:
            port = self._reactor.listenUDP(at.port, receiver, at.host, DATAGRAM_BYTES)  # type: ignore[no-untyped-call]
        except CannotListenError as error:
            raise udp_refused(self._configuration, at, error.socketError) from None
        self._udp.append(port)

    def log_where(self) -> None:
        """Tell the operator where."""
        self._listening.log_where()
        for port in self._udp if self._handed is None else ():
            at = port.getHost()  # type: ignore[no-untyped-call]
            self.log.info("listening on {at} (UDP)", at=spoken(at))

    def close(self) -> Deferred[None]:
        """Take nothing more; fires when what was taken is with the store."""
        return defer.ensureDeferred(self._close())

    async def _close(self) -> None:
        await self._listening.close()
        ports, self._udp = self._udp, []
        for port in ports:
            await defer.maybeDeferred(port.stopListening)
        for connection in tuple(self.connections):
            connection.cut_off()
        await self.intake.when_idle()

    def admits(self, host: str) -> bool:
        """Whether this address may send; says once in the log that some may not."""
        decision = self._acl.decide(Access.PRODUCER, host, None)
        if decision is not Decision.ALLOW and not self._said_refused:
            self._said_refused = True
            why = (
                "asks for a password"
                if decision is Decision.NEEDS_PASSWORD
                else "does not allow it"
            )
            self.log.warn(
                "syslog from {host} is refused: [rest:producer] of the access file {why}",
                host=host,
                why=why,
            )
        return decision is Decision.ALLOW

    def put(self, source: Connection | Datagrams, host: str, frames: Frames | Lines) -> None:
        """Give the intake what a source has read."""
        queues = self.encoder(host).encode(frames, self.clock.seconds())
        for queue, bodies in queues.items():
            self.intake.put(source, queue, bodies)


def host_of(peer: IAddress) -> str:
    """A sender's address as queues are named by it; ``unix`` for those without one."""
    if not isinstance(peer, IPv4Address | IPv6Address):
        return UNIX
    found = ip_address(peer.host.partition("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found or peer.host)


class _Factory(Factory):
    """A connection for each sender that may come in."""

    noisy = False

    def __init__(self, door: SyslogDoor) -> None:
        self._door = door

    def buildProtocol(self, addr: IAddress | None) -> Connection | None:
        """None, which closes it, when there are too many or the sender may not."""
        host = UNIX if addr is None else host_of(addr)
        if len(self._door.connections) >= self._door.most_connections or not self._door.admits(
            host
        ):
            return None
        return Connection(self._door, host)


class Connection(Protocol):
    """One sender's stream."""

    def __init__(self, door: SyslogDoor, host: str) -> None:
        self.held = 0
        self._door = door
        self._host = host
        self._framer = Framer(door.limit)

    def connectionMade(self) -> None:
        """A sender that dies without a word is found by the kernel."""
        if ITCPTransport.providedBy(self.transport) and self._host != UNIX:
            self.transport.setTcpKeepAlive(True)
        self._door.connections.add(self)
        self._door.intake.attach(self)

    def dataReceived(self, data: bytes) -> None:
        """Take lines."""
        self._door.put(self, self._host, self._framer.feed(data))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """An orderly end completes a last line without its end; any other loses it."""
        if reason is not None and isinstance(reason.value, ConnectionDone):
            self._door.put(self, self._host, self._framer.end())
        self._door.connections.discard(self)
        self._door.intake.detach(self)

    def pause(self) -> None:
        """Read no more: the sender waits."""
        cast("IPushProducer", self.transport).pauseProducing()

    def resume(self) -> None:
        """Read on."""
        cast("IPushProducer", self.transport).resumeProducing()

    def cut_off(self) -> None:
        """The daemon ends."""
        cast("ITCPTransport", self.transport).abortConnection()


class Datagrams(DatagramProtocol):
    """A UDP port: one message a datagram, a turn's of one sender together."""

    noisy = False

    def __init__(self, door: SyslogDoor) -> None:
        self.held = 0
        self._door = door
        self._came: dict[str, Frames] = {}

    def startProtocol(self) -> None:
        """The port is open."""
        port = cast("Port", self.transport)
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
        self._door.intake.attach(self)

    def stopProtocol(self) -> None:
        """The port is closed."""
        self._put()
        self._door.intake.detach(self)

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """Keep it until the turn is over."""
        host = host_of(IPv4Address("UDP", addr[0], addr[1]))
        if not self._door.admits(host):
            return
        if not self._came:
            self._door.clock.callLater(0, self._put)
        frames = self._came.setdefault(host, Frames([], frozenset()))
        line = datagram.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) > self._door.limit:
            line = line[: self._door.limit]
            cut = frames.cut | {len(frames.messages)}
            self._came[host] = frames._replace(cut=cut)
        frames.messages.append(line)

    def _put(self) -> None:
        came, self._came = self._came, {}
        for host, frames in came.items():
            self._door.put(self, host, frames)

    def pause(self) -> None:
        """Read no more: the kernel keeps some, and drops the rest."""
        cast("Port", self.transport).stopReading()  # type: ignore[no-untyped-call]

    def resume(self) -> None:
        """Read on."""
        cast("Port", self.transport).startReading()  # type: ignore[no-untyped-call]
