"""``twistd restmq``: from the command line to running services.

The order at the start: settings, access rules, ports, data folder, before the reactor runs; each can
refuse with one line on standard error and exit code 1. Then the store, then the broker. Whoever
connects before they answer gets 503, so an operator sees a taken port before a Valkey was started
for nothing. The order at the end: ports, requests under way and streams, broker, store; all but
the store within ``--stop-timeout``. A second signal ends at once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner

import restmq
from restmq import install
from restmq.acl_file import AclFile
from restmq.errors import RestMQError, StoreError
from restmq.listening import Listening
from restmq.notify import Notifier
from restmq.passed import adopt
from restmq.processes import Held, Processes
from restmq.redis.embedded import EmbeddedStore
from restmq.redis.server import StoreUnusable
from restmq.rules.exposure import check_exposure, needs_rules
from restmq.serving import OwnStore, Serving, ThisProcess
from restmq.settings import FILES, OPTIONS, ConfigError, Configuration, Option, Settings, load
from restmq.store_address import StoreAddress

if TYPE_CHECKING:
    from twisted.internet.posixbase import PosixReactorBase

    from restmq.core.broker import Broker
    from restmq.handover import Handed
    from restmq.rules.acl import HasAcl
    from restmq.web.dispatcher import Rule

DOOR_SECONDS = 1.0
"""How long another daemon's own door may take to put in what it has in hand."""
PATIENCE_SECONDS = 2.0
"""A store that does not answer for so long after the start is worth a line in the log."""


# -- the command line -----------------------------------------------------------------------------


class Options(usage.Options):
    """The options of ``twistd restmq`` and ``restmqd``, made from ``restmq.settings.OPTIONS``.

    A mistake ends the program with one line on standard error and exit code 1.
    """

    longdesc = (
        "Each option can also be an environment variable (RESTMQ_REDIS_HOST) or a key in the file "
        "that --config names (redis-host). Options win over the environment, that over the file."
    )

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}
        self._print = False
        super().__init__()  # type: ignore[no-untyped-call]

    def note(self, name: str, text: str) -> None:
        """Remember what stood behind an option."""
        self._given.setdefault(name, []).append(text)

    def opt_config(self, path: str) -> None:
        """TOML file with options [RESTMQ_CONFIG]"""
        self.note("config", path)

    def opt_print_config(self) -> None:
        """Print each option, its value and where that came from, and exit"""
        self._print = True

    def opt_version(self) -> None:
        """Print the version and exit"""
        print(f"restmq {restmq.__version__}")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is no option."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is no option; restmqd --help lists them")

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Read the command line, the environment and the file they name."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except (usage.UsageError, ConfigError) as error:
            raise SystemExit(f"restmq: {error}") from None

    def postOptions(self) -> None:
        """Make ``configuration`` of what was given; print it and end, if that was asked for."""
        self.configuration = configuration(self._given)
        if self._print:
            print(self.configuration.describe(), end="")
            raise SystemExit(0)


def _add_handlers() -> None:
    for option in OPTIONS:
        _add_handler(option.name, option, option.about)
    for name, option in FILES.items():
        _add_handler(name, option, f"file that holds {option.name}")


def _add_handler(name: str, option: Option, about: str) -> None:
    def flag(self: Options) -> None:
        self.note(name, "true")

    def parameter(self: Options, text: str) -> None:
        self.note(name, text)

    handler: Callable[..., None] = flag if option.flag else parameter
    default = f" [default: {option.default}]" if option.number or option.one_word else ""
    handler.__doc__ = about + (", repeatable" if option.many else "") + default
    setattr(Options, f"opt_{name.replace('-', '_')}", handler)


_add_handlers()


def configuration(given: Mapping[str, Sequence[str]]) -> Configuration:
    """What this process was told: by options, its environment and a file. Raises ConfigError."""
    return _absolute(load(given, os.environ, _read_text))


def _read_text(path: str) -> str:
    return Path(path).read_text("utf-8")


def _absolute(configuration: Configuration) -> Configuration:
    """With a data folder that stays the same when twistd changes its own."""
    settings = configuration.settings
    try:
        data_dir = Path.cwd() / settings.data_dir.expanduser()
    except RuntimeError as error:  # "~nobody-of-that-name"
        source = configuration.sources["data-dir"]
        raise ConfigError(f"data-dir ({source}): {settings.data_dir}: {error}") from None
    return replace(configuration, settings=replace(settings, data_dir=data_dir))


# -- the services ---------------------------------------------------------------------------------


def makeService(options: Options) -> service.IService:
    """All services of a daemon, its ports open and its data folder taken.

    SystemExit, one line and code 1, when that can't be.
    """
    return make_service(options, More())


class Ports(Protocol):
    """The sockets of a way in that is not HTTP. They are opened after HTTP's, and closed after them."""

    def open(self) -> None:
        """Open them. Raises ConfigError, one line that says what to do."""

    def log_where(self) -> None:
        """Tell the operator where."""

    def close(self) -> Deferred[None]:
        """Take nothing more; fires when what was taken is with the store."""


class Door(Ports, Protocol):
    """Such a way in, in a process that serves."""

    def accept(self) -> None:
        """One of several processes takes nothing before this; called once."""


class HeldDoor(Ports, Held, Protocol):
    """Such a way in, in the parent of several processes: its sockets are open, and nobody comes in."""


MakeDoor = Callable[["PosixReactorBase", Configuration, "HasAcl", "Broker", "Handed | None"], Door]


class More(NamedTuple):
    """What another daemon has besides; all are called when the libraries are there.

    ``door`` takes what this process was handed by its parent, if it has one; ``held`` is for the parent.
    ``needs_rules``: whether other machines can reach that door, and nobody said that all may come in. Raises ConfigError.
    """

    name: str = "restmq"
    routes: Callable[[], tuple[Rule, ...]] = lambda: ()
    door: MakeDoor | None = None
    held: Callable[[PosixReactorBase, Configuration, HasAcl], HeldDoor] | None = None
    needs_rules: Callable[[Configuration], bool] = lambda configuration: False


def make_service(options: Options, more: More) -> service.IService:
    """As `makeService`, for a daemon that has more."""
    from twisted.internet import reactor  # noqa: PLC0415 - twistd may install another one first

    try:
        return _make(reactor, options.configuration, sheds_privileges(options), more)  # type: ignore[arg-type]
    except ModuleNotFoundError as error:
        raise SystemExit(install.hint(error)) from None
    except RestMQError as error:
        raise SystemExit(f"restmq: {error}") from None


def sheds_privileges(options: Options) -> bool:
    """Whether twistd becomes another user later; the data folder must be made by that one."""
    above = getattr(options, "parent", None)
    return above is not None and above.get("uid") is not None


def _make(
    reactor: PosixReactorBase,
    configuration: Configuration,
    sheds: bool,
    more: More,
) -> Daemon:
    configuration, passed = adopt(configuration)
    settings = configuration.settings
    access = AclFile(reactor, settings.acl)
    check_exposure(configuration, access.acl.restricts_anything)
    access.must_restrict = needs_rules(settings) or more.needs_rules(configuration)

    from restmq.core.broker import Broker  # noqa: PLC0415 - the libraries may be missing
    from restmq.web.application import make_application  # noqa: PLC0415

    listening = Listening(reactor, configuration, passed=passed)
    door: Ports | None = None
    serving: Serving
    if settings.processes == 1:
        broker = Broker(reactor, settings)
        application = make_application(settings, broker, access, more.routes())
        listening.open(application)
        serving = ThisProcess(reactor, application, broker)
        if more.door is not None:
            door = more.door(reactor, configuration, access, broker, None)
            door.open()
    else:
        listening.hold()
        held = None
        if more.held is not None:
            door = held = more.held(reactor, configuration, access)
            held.open()
        serving = Processes(reactor, configuration, listening, access, daemon=more.name, door=held)
    store = EmbeddedStore(reactor, settings) if settings.embedded else None
    if store is not None and not sheds:
        store.claim()
    return Daemon(
        reactor,
        access=access,
        listening=listening,
        door=door,
        serving=serving,
        store=store,
        settings=settings,
    )


class Daemon(service.MultiService):
    """The whole daemon: the watch on the access file as a child, and the rest in its order."""

    log = Logger()

    def __init__(
        self,
        reactor: PosixReactorBase,
        *,
        access: AclFile | None,
        listening: Listening,
        serving: Serving,
        store: OwnStore | None,
        settings: Settings,
        door: Ports | None = None,
        told: Mapping[str, str] = os.environ,
    ) -> None:
        """``store`` is the embedded one; without it the settings name another."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._listening = listening
        self._door = door
        self._serving = serving
        self._store = store
        self._address = settings.store_address
        self._stop_seconds = settings.stop_timeout
        self._notifier = Notifier(reactor, told)
        if access is not None:
            access.setServiceParent(self)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Start the store and the broker, in the background."""
        super().startService()  # type: ignore[no-untyped-call]
        self._listening.log_where()
        if self._door is not None:
            self._door.log_where()
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        _end_on_signals(self._reactor, self._serving.kill)
        self._serving.launch()
        self._notifier.startService()
        defer.ensureDeferred(self._start()).addErrback(self._failed)

    async def _start(self) -> None:
        address = self._address
        if self._store is not None:
            address = StoreAddress(path=await self._store.start())
        if not self.running or address is None:
            return
        self._serving.start(address)
        await self._wait_for(address)

    async def _wait_for(self, address: StoreAddress) -> None:
        """Wait until the store answers, and tell the operator: once if not, and once when it does."""
        begin, told = self._reactor.seconds(), False
        while self.running:
            try:
                await self._serving.ping()
            except StoreError as error:
                if not told and self._reactor.seconds() - begin > PATIENCE_SECONDS:
                    told = True
                    self.log.error(
                        "the store at {address} does not answer ({error}): start it, or mend "
                        "--redis-host, --redis-port, --redis-url or the password; requests get 503 "
                        "until it does",
                        address=address,
                        error=error,
                    )
                    self._notifier.ready(
                        "the store does not answer: requests get 503 until it does"
                    )
                await task.deferLater(self._reactor, 0.05)
            else:
                self.log.info("the broker is ready, its store {address}", address=address)
                self._notifier.ready(f"the broker is ready, its store {address}")
                return

    def _failed(self, failure: Any) -> None:
        if not self.running:
            return
        if failure.check(StoreUnusable):
            self.log.critical("{reason}", reason=failure.value)
        else:
            self.log.failure("the daemon can't start", failure=failure)
        give_up(self._reactor)

    def stopService(self) -> Deferred[None]:
        """End everything in its order; fires when the embedded store has ended."""
        return defer.ensureDeferred(self._stop())

    async def _stop(self) -> None:
        self._notifier.stopping()
        await defer.maybeDeferred(super().stopService)
        try:
            await self._listening.close()
            if self._door is not None:
                await self._close(self._door)
            await self._serving.stop(self._stop_seconds)
        finally:
            if self._store is not None:
                await self._store.stopService()
            self._notifier.stopService()

    async def _close(self, door: Ports) -> None:
        try:
            await door.close().addTimeout(DOOR_SECONDS, self._reactor)
        except defer.TimeoutError:
            self.log.info("lines in hand: cut after {time:g} s", time=DOOR_SECONDS)


def _end_on_signals(reactor: PosixReactorBase, kill: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT end the daemon with exit code 0; twistd would die of the signal.

    The second one calls ``kill`` and then has its usual effect: this process dies of it, and the
    supervisor of an embedded store ends that.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def end() -> None:
        with contextlib.suppress(ReactorNotRunning):  # it ends for another reason
            reactor.stop()

    def first(*_: object) -> None:
        for number in numbers:
            signal.signal(number, second)
        reactor.callFromThread(end)

    def second(number: int, _: object) -> None:
        kill()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    for number in numbers:
        signal.signal(number, first)


def give_up(reactor: PosixReactorBase) -> None:
    """End all in its order, and then leave with exit code 1."""
    atexit.register(_exit_with_one)
    reactor.stop()


def _exit_with_one() -> None:
    """Leave with 1 after all has been tidied up: twistd has no exit code for what came later."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


# -- in the foreground ----------------------------------------------------------------------------


class _Foreground(UnixApplicationRunner):
    """Twistd's own runner, with our service in the place of a plug-in's."""

    def __init__(self, config: ServerOptions, options: Options) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self._options = options

    def createOrGetApplication(self) -> Any:  # noqa: N802 - Twisted's name
        application = service.Application("restmq")  # type: ignore[no-untyped-call]
        parent = service.IServiceCollection(application)
        makeService(self._options).setServiceParent(parent)  # type: ignore[no-untyped-call]
        return application


def run_in_foreground(options: Options) -> None:
    """Run the daemon in this process until it ends."""
    config = ServerOptions()  # type: ignore[no-untyped-call]
    config.parseOptions(["--nodaemon", "--pidfile=", "--no_save", "--logfile=-"])  # type: ignore[no-untyped-call]
    _Foreground(config, options).run()  # type: ignore[no-untyped-call]
