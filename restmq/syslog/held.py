"""The syslog ports of several processes, in their parent: open, and read by nobody here.

All processes accept on the same TCP sockets, as on HTTP's. Of a UDP port there are as many sockets as
processes: the kernel gives all that one sender (address and port) sends to one of them
(SO_REUSEPORT, socket(7)), so it is read in order, and what has come for a process that died waits for its heir.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from restmq.handover import Place
from restmq.listening import Listening, spoken
from restmq.rules.exposure import check_exposure
from restmq.settings import ConfigError, Configuration, is_endpoint

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase

    from restmq.rules.acl import HasAcl

UDP_BUFFER_BYTES: Final = 4 * 1048576
"""What is asked of the kernel; it gives at most net.core.rmem_max."""


class HeldPorts:
    """All syslog ports of a daemon of several processes."""

    log = Logger()

    def __init__(
        self, reactor: PosixReactorBase, configuration: Configuration, access: HasAcl
    ) -> None:
        """Nothing is opened yet."""
        self._configuration = for_syslog(configuration)
        self._access = access
        self._listening = Listening(reactor, self._configuration, "syslog-port")
        self._udp: dict[IPv4Address | IPv6Address, list[socket.socket]] = {}

    def open(self) -> None:
        """Take all ports. Raises ConfigError, one line that says what to do."""
        check_exposure(self._configuration, self._access.acl.restricts_anything)
        self._listening.hold()
        for at in self._listening.addresses():
            self._udp[at] = list(self._open_udp(at))

    def _open_udp(self, at: IPv4Address | IPv6Address) -> Iterator[socket.socket]:
        for _ in range(self._configuration.settings.processes):
            try:
                yield datagram_socket(at.host, at.port)
            except OSError as error:
                raise udp_refused(self._configuration, at, error) from None

    def handed(self, number: int) -> tuple[tuple[Place, ...], list[int]]:
        """The ports for a process: the same that listen for all, and UDP sockets of its own."""
        places, descriptors = self._listening.handed()
        own = [sockets[number - 1] for sockets in self._udp.values()]
        more = (Place("", found.family, wrapped=False, datagrams=True) for found in own)
        return (*places, *more), [*descriptors, *(found.fileno() for found in own)]

    def log_where(self) -> None:
        """Tell the operator where."""
        self._listening.log_where()
        for at in self._udp:
            self.log.info("listening on {at} (UDP)", at=spoken(at))

    def close(self) -> Deferred[None]:
        """Give all ports up; the processes still have them."""
        for sockets in self._udp.values():
            for found in sockets:
                found.close()
        self._udp = {}
        return self._listening.close()


def datagram_socket(host: str, port: int) -> socket.socket:
    """A UDP socket beside others of ours on the same port. Raises OSError."""
    ((family, kind, protocol, _, address),) = socket.getaddrinfo(
        host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    found = socket.socket(family, kind, protocol)
    found.setblocking(False)  # for whoever takes it over: Twisted reads until there is nothing more
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
        found.bind(address)
    except OSError:
        found.close()
        raise
    return found


def udp_refused(
    configuration: Configuration, at: IPv4Address | IPv6Address, error: OSError
) -> ConfigError:
    """What to tell the operator when a UDP port can't be had."""
    source = configuration.sources["syslog-port"]
    return ConfigError(
        f"syslog-port ({source}): UDP port {at.port} of {at.host} can't be had: {error}"
    )


def for_syslog(configuration: Configuration) -> Configuration:
    """The same with the syslog ports in the place of the HTTP ports."""
    settings, sources = configuration.settings, dict(configuration.sources)
    places = settings.syslog_listen
    if places:
        sources["listen"] = sources["syslog-listen"]
    else:
        places = tuple(place for place in settings.listen if not is_endpoint(place))
    if not places:
        raise ConfigError(
            f"listen ({sources['listen']}): it names endpoints only, which are for HTTP: "
            "give --syslog-listen"
        )
    settings = replace(settings, listen=places, port=settings.syslog_port)
    return Configuration(settings, sources)
