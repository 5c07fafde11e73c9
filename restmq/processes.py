"""The parent of several processes: it holds the ports and the store, they do the work.

    parent      ports, data folder, embedded store, access file, log, signals
    process     application and broker, see ``restmq.child``; any number of them

The processes accept on the parent's sockets, so a connection that nobody has accepted yet is never
lost with one of them. One that ends is replaced, sooner or later by ``restmq.rules.restarts``. One
that loses its parent ends by itself, since the pipe between them ends.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

from twisted.internet import defer
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from restmq.errors import StoreAway
from restmq.handover import (
    FIRST_DESCRIPTOR,
    Away,
    Begin,
    Message,
    Place,
    Ready,
    Rules,
    Said,
    StoreAt,
    decode,
    encode,
)
from restmq.redis.embedded import python_path
from restmq.rules.restarts import STEADY_SECONDS, Restarts

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase

    from restmq.acl_file import AclFile
    from restmq.listening import Listening
    from restmq.settings import Configuration
    from restmq.store_address import StoreAddress

COMMAND = [sys.executable, "-P", "-m", "restmq.child"]
NOT_FOR_CHILDREN = ("RESTMQ_", "NOTIFY_", "LISTEN_", "WATCHDOG_")
"""What such variables say is for the parent: settings, secrets, and what systemd tells it."""


class Held(Protocol):
    """The sockets of another door than HTTP, which the parent holds and the processes use."""

    def handed(self, number: int) -> tuple[tuple[Place, ...], list[int]]:
        """Those for the process of this number, with their descriptors in the same order."""


class Processes:
    """All processes of one parent: see ``restmq.serving.Serving``."""

    log = Logger()

    def __init__(
        self,
        reactor: PosixReactorBase,
        configuration: Configuration,
        listening: Listening,
        access: AclFile,
        *,
        daemon: str = "restmq",
        door: Held | None = None,
    ) -> None:
        """Nothing is started; ``listening`` holds its ports, ``door`` the other ones of ``daemon``."""
        self._reactor = reactor
        self._configuration = configuration
        self._listening = listening
        self._access = access
        self._daemon = daemon
        self._door = door
        self._store: StoreAt | None = None
        self._restarts = Restarts()
        self._lives: dict[int, Life] = {}
        self._resting: dict[int, IDelayedCall] = {}
        self._asking: list[defer.Deferred[None]] = []
        self._over: defer.Deferred[None] | None = None

    # -- as the daemon sees them --

    def launch(self) -> None:
        """Start all processes; they wait a moment for the store, and answer 503 until it is there."""
        self._access.subscribe(lambda _: self._tell_all(Rules(self._access.text)))
        for number in range(1, self._configuration.settings.processes + 1):
            self._spawn(number)

    def start(self, address: StoreAddress) -> None:
        """The store is there; of one with a name the processes know by the settings."""
        if self._configuration.settings.embedded:
            assert address.path is not None
            self._store = StoreAt(address.path)
            self._tell_all(self._store)

    def ping(self) -> defer.Deferred[None]:
        """Fails with StoreAway while the store answers no process; waits while none can tell."""
        answer: defer.Deferred[None] = defer.Deferred()
        self._asking.append(answer)
        self.heard()
        return answer

    def heard(self) -> None:
        """A process knows of the store, or of its lack: answer who asks, if anybody does."""
        ready = any(life.ready for life in self._lives.values())
        reason = next((life.reason for life in self._lives.values() if life.reason), None)
        if not ready and reason is None:
            return
        asking, self._asking = self._asking, []
        for answer in asking:
            if ready:
                answer.callback(None)
            else:
                answer.errback(StoreAway(reason))

    async def stop(self, seconds: float) -> None:
        """Let all processes end; kill those that have not within this time."""
        over = self._over = defer.Deferred()
        for call in self._resting.values():
            call.cancel()
        self._resting.clear()
        for life in self._lives.values():
            life.end()
        killing = self._reactor.callLater(seconds, self._kill_late)
        self._tell_if_over()
        await over
        if killing.active():
            killing.cancel()

    def kill(self) -> None:
        """End all processes now."""
        for life in self._lives.values():
            life.kill()

    def _kill_late(self) -> None:
        for life in self._lives.values():
            self.log.warn(
                "process {number} (pid {pid}) did not end in time: killed",
                number=life.number,
                pid=life.pid,
            )
            life.kill()

    # -- their lives --

    def _spawn(self, number: int) -> None:
        self._resting.pop(number, None)
        places, descriptors = self._listening.handed()
        more, of_door = self._door.handed(number) if self._door is not None else ((), [])
        pipes: dict[int, str | int] = {0: "w", 1: "r", 2: "r"}
        life = Life(self, number, self._reactor.seconds())
        self._lives[number] = life
        try:
            self._reactor.spawnProcess(  # type: ignore[no-untyped-call]
                life,
                sys.executable,
                COMMAND,
                environment(),
                childFDs=pipes | dict(enumerate([*descriptors, *of_door], FIRST_DESCRIPTOR)),
            )
        except OSError as error:
            self.ended(life, f"it can't be started: {error.strerror}")
            return
        life.tell(Begin(self._configuration, places, self._access.text, self._daemon, more))
        if self._store is not None:
            life.tell(self._store)

    def ended(self, life: Life, why: str) -> None:
        """A process has ended: another takes its place, unless all shall end."""
        del self._lives[life.number]
        if self._over is not None:
            self._tell_if_over()
            return
        again = self._restarts.ended(life.number, self._reactor.seconds() - life.begun)
        if again.alarm:
            self.log.critical(
                "process {number} has ended {times} times in a row less than {steady:g} s after its "
                "start ({why}): {up} of {count} serve on; trying again, every 10 s in the end",
                number=life.number,
                times=again.in_a_row,
                steady=STEADY_SECONDS,
                why=why,
                up=sum(other.ready for other in self._lives.values()),
                count=self._configuration.settings.processes,
            )
        elif not again.quiet:
            self.log.error(
                "process {number} (pid {pid}) ended ({why}): another takes its place in {pause:g} s",
                number=life.number,
                pid=life.pid,
                why=why,
                pause=again.pause,
            )
        self._resting[life.number] = self._reactor.callLater(again.pause, self._spawn, life.number)

    def _tell_if_over(self) -> None:
        if not self._lives and self._over is not None and not self._over.called:
            self._over.callback(None)

    def _tell_all(self, message: Message) -> None:
        for life in self._lives.values():
            life.tell(message)


class Life(ProcessProtocol):
    """One process, from its start to its end."""

    log = Logger()

    def __init__(self, parent: Processes, number: int, begun: float) -> None:
        self._parent = parent
        self.number = number
        self.begun = begun
        self.pid: int | None = None
        self.ready = False
        self.reason = ""
        self._unread = {1: b"", 2: b""}
        self._complaint = ""

    @property
    def _process(self) -> IProcessTransport:
        return cast(IProcessTransport, self.transport)

    def connectionMade(self) -> None:
        """It runs."""
        self.pid = self._process.pid

    def tell(self, message: Message) -> None:
        """Send it a message."""
        self._process.write(encode(message))

    def end(self) -> None:
        """Have it end gracefully."""
        self._process.closeStdin()

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803 - Twisted's name
        """Lines of messages (1), or of a Python that has no better way to complain (2)."""
        *lines, self._unread[childFD] = (self._unread[childFD] + data).split(b"\n")
        for line in lines:
            if childFD == 1:
                self._heard(line)
            else:
                self._complaint = line.decode("utf-8", "replace")
                self._log(LogLevel.error, Logger(), self._complaint)

    def _heard(self, line: bytes) -> None:
        try:
            message = decode(line)
        except (ValueError, LookupError, TypeError):  # a library printed something
            message = Said("info", "restmq.child", line.decode("utf-8", "replace"))
        match message:
            case Ready():
                self.ready = True
                self._parent.heard()
                self.log.info(
                    "process {number} (pid {pid}) serves", number=self.number, pid=self.pid
                )
            case Away(reason):
                self.reason = reason
                self._parent.heard()
            case Said(level, namespace, text):
                self._log(_level(level), Logger(namespace), text)

    def _log(self, level: LogLevel, logger: Logger, text: str) -> None:
        logger.emit(level, "process {number}: {text}", number=self.number, text=text)

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and all it said has been read."""
        self.ready = False
        self._parent.ended(self, " ".join(filter(None, [_why(reason), self._complaint])))


def _why(reason: Failure) -> str:
    ended = reason.value
    if isinstance(ended, ProcessTerminated):
        return f"signal {ended.signal}" if ended.signal else f"exit code {ended.exitCode}"
    return "exit code 0"


def _level(name: str) -> LogLevel:
    return cast(LogLevel, LogLevel.lookupByName(name))


def environment() -> dict[str, str]:
    """What a process shall know of our environment: all but what is for the parent alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_FOR_CHILDREN)}
    paths = [*python_path(), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)} if paths else kept
