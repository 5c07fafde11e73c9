"""One of several processes: ``python -m restmq.child``, started by ``restmq.processes`` only.

Settings, rules and the place of the store come by standard input, the listening sockets as open
descriptors; what it has to say to people goes by standard output to the parent, who has the log.
When standard input ends it stops gracefully, as at SIGTERM, whether the parent stops or is dead.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from twisted.internet import defer, task
from twisted.internet.error import ReactorNotRunning
from twisted.internet.process import ProcessReader
from twisted.logger import LogEvent, Logger, LogLevel, eventAsText, globalLogBeginner
from twisted.python.failure import Failure

from restmq import collectd, syslogd
from restmq.core.broker import Broker
from restmq.errors import RestMQError, StoreError
from restmq.handover import Away, Begin, Message, Ready, Rules, Said, StoreAt, decode, encode
from restmq.inherited import Inherited
from restmq.rules.acl import Acl
from restmq.serving import ThisProcess
from restmq.store_address import StoreAddress
from restmq.tap import PATIENCE_SECONDS, Daemon, Door, More, give_up
from restmq.web.application import make_application

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase
    from twisted.logger import ILogObserver

    from restmq.web.dispatcher import Dispatcher


DAEMONS = {more.name: more for more in (More(), collectd.MORE, syslogd.MORE)}
"""What a process may be one of, by its name for twistd."""


def main() -> None:
    """Run until the parent, a signal or a fault ends it."""
    from twisted.internet import reactor  # noqa: PLC0415 - this is a program of its own

    os.setsid()  # Ctrl-C is for the parent
    globalLogBeginner.beginLoggingTo([cast("ILogObserver", observe)], redirectStandardIO=False)
    ProcessReader(reactor, Parent(reactor), "parent", 0)  # type: ignore[arg-type, no-untyped-call]
    reactor.run()


def tell(message: Message) -> None:
    """Tell the parent something; nothing happens if it is dead."""
    line = encode(message)
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(1, line) :]


def observe(event: LogEvent) -> None:
    """Hand the parent an event for the log: of ours all, of the libraries warnings and worse."""
    level = event.get("log_level") or LogLevel.info
    namespace = str(event.get("log_namespace") or "-")
    if level >= LogLevel.warn or (level >= LogLevel.info and namespace.startswith("restmq")):
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        tell(Said(level.name, namespace, text))


class Parent:
    """The parent at the other end of standard input, and what it makes of this process."""

    log = Logger()

    def __init__(self, reactor: PosixReactorBase) -> None:
        """Wait for the first message."""
        self._reactor = reactor
        self._unread = b""
        self._store = _ToldStore()
        self._application: Dispatcher | None = None

    def childDataReceived(self, _: str, data: bytes) -> None:
        """Bytes of messages."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._heard(decode(line))

    def childConnectionLost(self, _: str, reason: Failure) -> None:
        """The parent wants us to end, or is dead."""
        with suppress(ReactorNotRunning):  # a signal was faster
            self._reactor.stop()

    def _heard(self, message: Message) -> None:
        match message:
            case Begin():
                self._begin(message)
            case Rules(text) if self._application is not None:
                self._application.acl = Acl.parse(text)
            case StoreAt(path):
                self._store.told(path)

    def _begin(self, begin: Begin) -> None:
        settings = begin.configuration.settings
        broker = Broker(self._reactor, settings)
        more = DAEMONS[begin.daemon]
        application = make_application(settings, broker, Acl.parse(begin.rules), more.routes())
        http, others = begin.handed
        listening = Inherited(self._reactor, begin.configuration, http)
        door = None
        try:
            listening.open(application)
            if more.door is not None:
                door = more.door(self._reactor, begin.configuration, application, broker, others)
                door.open()
        except RestMQError as error:
            self.log.critical("{reason}", reason=error)
            give_up(self._reactor)
            return
        self._application = application
        daemon = OneOfMany(
            self._reactor,
            access=None,
            listening=listening,
            door=door,
            serving=ThisProcess(self._reactor, application, broker),
            store=self._store if settings.embedded else None,
            settings=settings,
            told={},
        )
        daemon.startService()
        self._reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)


class _ToldStore:
    """The parent's embedded store, as far as we are concerned: a path we are told of."""

    def __init__(self) -> None:
        self._path: defer.Deferred[str] = defer.Deferred()

    def told(self, path: str) -> None:
        """It answers there."""
        self._path.callback(path)

    def start(self) -> defer.Deferred[str]:
        """The path, when we are told."""
        return self._path

    def stopService(self) -> defer.Deferred[None]:
        """The parent's business."""
        return defer.succeed(None)


class OneOfMany(Daemon):
    """A daemon that tells its parent, not the operator, how it gets on with the store.

    It accepts nobody before the store answers, since the others would not have to answer 503; but
    waits no longer than PATIENCE_SECONDS, as it may be the only one.
    """

    _listening: Inherited
    _door: Door | None
    _accepts = False

    def startService(self) -> None:
        """Begin, in the background."""
        super().startService()
        self._reactor.callLater(PATIENCE_SECONDS, self._accept)

    def _accept(self) -> None:
        if self._accepts:
            return
        self._accepts = True
        self._listening.accept()
        if self._door is not None:
            self._door.accept()

    async def _wait_for(self, address: StoreAddress) -> None:
        begin, told = self._reactor.seconds(), ""
        while self.running:
            try:
                await self._serving.ping()
            except StoreError as error:
                if str(error) != told and self._reactor.seconds() - begin > PATIENCE_SECONDS:
                    told = str(error)
                    tell(Away(told))
                await task.deferLater(self._reactor, 0.05)
            else:
                self._accept()
                tell(Ready())
                return


if __name__ == "__main__":
    main()
