"""The store inside: a valkey-server of our own on a unix socket in the data folder.

``EmbeddedStore`` claims the folder, runs the server under a supervisor process of its own (see
``restmq.redis.supervisor``), starts both again when one of them dies, and ends them last of all.
The socket's path is fresh at every start of the daemon and stays the same while the daemon lives,
so whoever is connected finds the server again after a crash.

Messages survive the end of the daemon and of the server. When the machine itself stops, what was
written in the last second is lost, or nothing with ``appendfsync always``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from twisted.application import service
from twisted.internet import defer, task, threads
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

import restmq
from restmq.redis.folder import DataFolder, new_identity, remove_socket
from restmq.redis.server import Server, StoreUnusable, command, find_server
from restmq.settings import Settings

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
STEADY_SECONDS = 60.0
"""A server that ran so long has earned a quick restart again."""
STOP_SECONDS = 15.0
"""The supervisor kills a server after ten seconds; so long we wait for the supervisor."""


class EmbeddedStore(service.Service):
    """The embedded store of one daemon.

    ``start`` gives the path of the socket on which the store answers. It fails with StoreUnusable,
    one line, when the folder belongs to another broker or the server does not come up the first
    time; after that a server that ends is started again, for ever. ``stopService`` fires when the
    server has ended and the folder is free.
    """

    log = Logger()

    def __init__(self, reactor: PosixReactorBase, settings: Settings) -> None:
        """Nothing is started or touched yet."""
        self._reactor = reactor
        self._appendfsync = settings.appendfsync
        self._folder = DataFolder(Path.cwd() / settings.data_dir)
        self._server: Server | None = None
        self._life: _Life | None = None
        self._resting: defer.Deferred[None] | None = None
        self._answers: defer.Deferred[str] = defer.Deferred()
        self._over: defer.Deferred[None] | None = None
        self._killing: IDelayedCall | None = None

    def claim(self) -> Server:
        """Find the server and take the folder; ``start`` does it, unless it was done before.

        Blocks up to fifteen seconds while the server of a daemon that was killed ends.
        Raises StoreUnusable.
        """
        if self._server is None:
            server = find_server()
            self._folder.claim(server.version)
            self._server = server
        return self._server

    def start(self) -> defer.Deferred[str]:
        """Start the server; the path of its socket when it answers. See the class for errors."""
        self.running = 1
        self._over = defer.ensureDeferred(self._run())
        self._over.addErrback(lambda failure: self.log.failure("embedded store", failure=failure))
        return self._answers

    def stopService(self) -> defer.Deferred[None]:
        """End the server; fires when it has ended and the folder is free."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._over is None:
            self._folder.release()
            return defer.succeed(None)
        if self._resting is not None:
            self._resting.cancel()
        if self._life is not None:
            self._life.end()
            self._killing = self._reactor.callLater(STOP_SECONDS, self._life.kill)
        return self._over

    async def _run(self) -> None:
        try:
            server = self._server
            if server is None:
                server = await threads.deferToThread(self.claim)
            self._folder.sign()  # twistd may have forked since
            path = self._folder.socket_path()
            try:
                await self._keep_running(server, path)
            finally:
                remove_socket(path)
        except StoreUnusable as error:
            self._answers.errback(error)
        finally:
            self._folder.release()
            if self._killing is not None and self._killing.active():
                self._killing.cancel()
            if not self._answers.called:
                self._answers.errback(StoreUnusable("the embedded store was stopped"))

    async def _keep_running(self, server: Server, path: str) -> None:
        """Start the server again and again, until ``stopService``; raises if the first fails."""
        pause = FIRST_PAUSE
        while self.running:
            self._life = life = self._spawn(server, path)
            if await life.answers:
                self._answered(server, path)
            begin = self._reactor.seconds()
            why = await life.over
            self._life = None
            if not self.running:
                return
            if not self._answers.called:
                raise StoreUnusable(
                    f"{server.version} does not start in data-dir {self._folder.path}: {why} "
                    f"(its log is {self._folder.log.name} there)"
                )
            if self._reactor.seconds() - begin > STEADY_SECONDS:
                pause = FIRST_PAUSE
            self.log.error(
                "the embedded store ended ({why}), starting it again in {pause} s",
                why=why,
                pause=pause,
            )
            await self._rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _answered(self, server: Server, path: str) -> None:
        self.log.info(
            "embedded store: {version} on {path}, messages in {folder}",
            version=server.version,
            path=path,
            folder=self._folder.path,
        )
        if not self._answers.called:
            self._answers.callback(path)

    async def _rest(self, seconds: float) -> None:
        """Wait; shorter if ``stopService`` comes."""
        self._resting = task.deferLater(self._reactor, seconds, lambda: None)
        try:
            await self._resting
        except defer.CancelledError:
            if self.running:
                raise
        finally:
            self._resting = None

    def _spawn(self, server: Server, path: str) -> _Life:
        life = _Life()
        words = supervised(server, self._folder.path, path, self._appendfsync)
        self._reactor.spawnProcess(life, words[0], words, environment())  # type: ignore[no-untyped-call]
        return life


class _Life(ProcessProtocol):
    """One run of the supervisor and its server.

    ``answers`` fires once, with whether the server ever answered; then ``over`` with why it ended.
    """

    log = Logger()

    def __init__(self) -> None:
        self.answers: defer.Deferred[bool] = defer.Deferred()
        self.over: defer.Deferred[str] = defer.Deferred()
        self._said = b""
        self._complaints = b""

    def end(self) -> None:
        """End the server: the supervisor does when this pipe ends."""
        cast(IProcessTransport, self.transport).closeStdin()

    def kill(self) -> None:
        """Give the supervisor up; the next start ends what it may leave behind."""
        self.log.warn("the supervisor of the embedded store does not end: killed")
        cast(IProcessTransport, self.transport).signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        self._said += data
        if self._said.startswith(b"ready ") and b"\n" in self._said and not self.answers.called:
            self.answers.callback(True)

    def errReceived(self, data: bytes) -> None:
        self._complaints = (self._complaints + data)[-4096:]

    def processEnded(self, reason: Failure) -> None:
        if not self.answers.called:
            self.answers.callback(False)
        said = self._said.decode("utf-8", "replace").splitlines()
        words = [line[6:] for line in said if line.startswith("ended ")]
        words += self._complaints.decode("utf-8", "replace").splitlines()[-1:]
        self.over.callback(words[0] if words else f"its supervisor: {reason.value}")


def supervised(server: Server, folder: Path, path: str, appendfsync: str) -> list[str]:
    """The command line of a server under its supervisor, its socket at ``path``."""
    identity = new_identity()
    run = command(server, folder, path, identity, appendfsync)
    return under_supervisor(server, folder, path, identity, run)


def under_supervisor(
    server: Server, folder: Path, path: str, identity: str, run: Sequence[str]
) -> list[str]:
    """The command line of the supervisor that runs ``run``."""
    words = [str(folder), identity, path, str(server.version), *run]
    return [sys.executable, "-P", "-m", "restmq.redis.supervisor", *words]


def environment() -> dict[str, str]:
    """What the supervisor needs to find Python's modules and ours; no secret of the daemon's."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ", "LANG") if name in os.environ}
    found = python_path()
    return {**kept, "PYTHONPATH": found[0]} if found else kept


def python_path() -> list[str]:
    """The folder that PYTHONPATH must name for another Python to find us; none if it does."""
    home = Path(restmq.__file__).resolve().parent.parent
    return [] if home.name in ("site-packages", "dist-packages") else [str(home)]
