"""What answers requests in one process: the application and its broker, with their graceful end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet import defer
from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from restmq.core.broker import Broker
    from restmq.store_address import StoreAddress
    from restmq.web.dispatcher import Dispatcher

DRAIN_SHARE = 0.75
"""How much of the time to stop requests and streams have; the rest is for what they leave."""
BROKER_SHARE = 0.2


class Serving(Protocol):
    """Whatever serves behind the ports: see ``ThisProcess`` and ``restmq.processes.Processes``."""

    def launch(self) -> None:
        """The reactor runs; the store is not known yet."""

    def start(self, address: StoreAddress) -> None:
        """The store is there, or will be."""

    def ping(self) -> defer.Deferred[None]:
        """Fails with a StoreError while requests that need the store get 503."""

    async def stop(self, seconds: float) -> None:
        """End within this time, the ports being closed."""

    def kill(self) -> None:
        """The process ends now, without another turn of the reactor."""


class OwnStore(Protocol):
    """The embedded store: ``EmbeddedStore``, or what another process knows of it."""

    def start(self) -> defer.Deferred[str]:
        """The path of its socket, when it answers."""

    def stopService(self) -> defer.Deferred[None]:
        """End it."""


class ThisProcess:
    """The application and the broker of this process."""

    log = Logger()

    def __init__(self, reactor: IReactorTime, application: Dispatcher, broker: Broker) -> None:
        """Nothing is started."""
        self._reactor = reactor
        self._application = application
        self._broker = broker
        self.start = broker.start
        self.ping = broker.ping

    def launch(self) -> None:
        """Requests are answered as soon as the ports are open: nothing to do."""

    async def stop(self, seconds: float) -> None:
        """Let requests finish and streams end; hand back what the broker has in hand.

        What takes longer is cut. Connections are cut before the broker gives their messages to
        others, so that nobody still gets one of them.
        """
        await self._within(DRAIN_SHARE * seconds, self._application.drain(), "connections")
        self._application.cut()
        ending = defer.ensureDeferred(self._broker.stop())
        await self._within(BROKER_SHARE * seconds, ending, "what was in hand")

    def kill(self) -> None:
        """There is nobody else to end."""

    async def _within(self, seconds: float, ending: defer.Deferred[None], what: str) -> None:
        try:
            await ending.addTimeout(seconds, self._reactor)
        except defer.TimeoutError:
            self.log.info("{what}: cut after {time:g} s", what=what, time=seconds)
