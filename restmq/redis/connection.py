"""Connections to the store: connecting by txredisapi, talking by our own pipeline.

A ``Store`` has three connections: one that carries all writes, so that the order of commands is
the order of calls; one for slow reads; one that listens to channels. Each is made anew by itself
when it breaks (0.05 to 1 s between tries). Nothing is sent twice: a command whose reply was lost
fails with OutcomeUnknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import hiredis
import txredisapi
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.application.internet import ClientService
from twisted.internet import endpoints, ssl, task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionAborted
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)
from twisted.python.failure import Failure

from restmq.errors import StoreAway, StoreError
from restmq.redis.pipeline import Callback, Pipeline, encode
from restmq.redis.scripts import Script
from restmq.store_address import StoreAddress

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

REPLY_SECONDS = 5.0
"""A server that owes a reply for so long is taken for dead."""

QUIET_SECONDS = 2.0
"""A channel on which nothing came for so long is asked whether it lives."""

CONNECT_SECONDS = 5

_RUN_ID = re.compile(rb"^run_id:([0-9a-f]{40})\r?$", re.MULTILINE)


class _QuietService(ClientService):
    """Twisted's own, but one that does not log each of several tries a second."""

    _log = Logger(
        observer=FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(LogLevel.warn)])
    )


# txredisapi makes its ClientService by this name and offers no other way to choose one.
txredisapi.ClientService = _QuietService


class _Connection(txredisapi.RedisProtocol):
    """One connection: AUTH, SELECT and the scripts first; usable when all of it is answered."""

    log = Logger()

    def __init__(self, owner: _Factory) -> None:
        super().__init__()
        self._owner = owner
        self.pipeline = Pipeline(self._write, owner.clock.seconds, self._load_scripts_again)
        self._loading = False
        self._watch: task.LoopingCall | None = None
        self._refused = False
        self._late = False
        self.run_id = b""

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def _abort(self) -> None:
        """Close at once; `connectionLost` follows, and another connection."""
        self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionMade(self) -> None:  # type: ignore[override]
        """Say who we are; every reply must be good."""
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)  # a unix socket has none
        if set_no_delay is not None:
            set_no_delay(True)
        commands = self._owner.greeting()
        left = len(commands)

        def greeted(reply: Any) -> None:
            nonlocal left
            left -= 1
            if isinstance(reply, StoreError):
                if not self._refused:
                    self._refused = True
                    self._owner.refused(str(reply))
                    self._abort()
            elif left == 0 and not self._refused:
                self._usable()

        self.pipeline.send(encode(b"INFO", b"server"), self._told_run)
        for command in commands:
            self.pipeline.send(command, greeted)
        self.pipeline.flush()
        self._watch = task.LoopingCall(self._check_silence)
        self._watch.clock = self._owner.clock
        self._watch.start(1.0, now=False)

    def _told_run(self, reply: Any) -> None:
        if isinstance(reply, bytes):  # who may not ask does without
            found = _RUN_ID.search(reply)
            self.run_id = found[1] if found else b""

    def _usable(self) -> None:
        """Tell txredisapi, which then stops counting failures, and the store."""
        self.connected = 1
        self._ready = True
        waiting, self._waiting_for_connect = self._waiting_for_connect, []
        for deferred in waiting:
            deferred.callback(self)
        self._owner.usable(self)

    def _check_silence(self) -> None:
        """Once a second. After a pause of our own the reply may be here, unread: look twice."""
        late = self._silent_for() > REPLY_SECONDS
        if late and self._late:
            self.log.error(
                "the store owes a reply for {time} s: connecting anew", time=REPLY_SECONDS
            )
            self._abort()
        self._late = late

    def _silent_for(self) -> float:
        """For how many seconds the server has owed us a reply."""
        return self.pipeline.silent_for()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Replies, in order."""
        try:
            self.pipeline.feed(data)
        except hiredis.ProtocolError as error:
            self.log.error("the store does not speak RESP: {error}", error=error)
            self._abort()

    def _load_scripts_again(self) -> None:
        """Somebody said SCRIPT FLUSH. What was under way failed: sent again it would lose its order."""
        if self._loading:
            return
        self._loading = True
        self.log.warn("the store lost its scripts: loading them again")

        def loaded(_: Any) -> None:
            self._loading = False

        for command in self._owner.scripts():
            self.pipeline.send(command, loaded)
        self.pipeline.flush()

    def connectionLost(self, why: Failure = txredisapi.ConnectionError) -> None:  # type: ignore[assignment]
        """Fail what was under way."""
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        if not (self._ready or self._refused):
            self._refused = True
            self._owner.cut_short(why)
        self._owner.lost(self)
        super().connectionLost(why)
        self.pipeline.lost()


def _reason(error: BaseException | None, address: StoreAddress) -> str:
    """Why a connection ended before it was usable, in words for the operator."""
    if isinstance(error, SSL.Error) and error.args:
        return "TLS: " + ", ".join(str(reason) for *_, reason in error.args[0])
    if isinstance(error, VerificationError):
        return "TLS: its certificate is for another name"
    reason = "it ends the connection without a word"
    is_plain = address.path is None and not address.tls
    return f"{reason}; one that speaks TLS wants rediss://" if is_plain else reason


class _Complaint:
    """What is said of a store that refuses us: once for each reason, not for each connection."""

    log = Logger()

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._said = ""

    def say(self, reason: str) -> None:
        """Tell the operator, if this is news."""
        if reason != self._said:
            self._said = reason
            self.log.error(
                "the store at {address} refuses us: {reason}", address=self._address, reason=reason
            )

    def is_over(self) -> None:
        """A connection is usable: should it be refused again, that is news."""
        self._said = ""


class _Channel(_Connection):
    """The connection that listens: after the greeting only subscriptions and messages.

    It asks for a sign of life when it hears nothing: else it would not notice that it is dead.
    """

    def __init__(self, owner: _Factory) -> None:
        super().__init__(owner)
        self._heard_at = owner.clock.seconds()
        self._pinged_at: float | None = None

    def _silent_for(self) -> float:
        if not self._ready:
            return super()._silent_for()
        now = self._owner.clock.seconds()
        if self._pinged_at is not None:
            return now - self._pinged_at
        if now - self._heard_at >= QUIET_SECONDS:
            self._pinged_at = now
            self._write(encode(b"PING"))
        return 0.0

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Greeting replies first, then what was published."""
        if not self._ready:
            super().dataReceived(data)
            return
        self._heard_at, self._pinged_at = self._owner.clock.seconds(), None
        reader = self._reader_of_messages
        reader.feed(data)
        try:
            message = reader.gets()
            while message is not False:
                if isinstance(message, list) and len(message) == 3:  # else it is a PONG
                    self._owner.heard(message)
                message = reader.gets()
        except hiredis.ProtocolError as error:
            self.log.error("the store does not speak RESP: {error}", error=error)
            self._abort()

    def _usable(self) -> None:
        self._reader_of_messages = hiredis.Reader()
        super()._usable()


class _Factory(txredisapi.RedisFactory):
    """Keeps one connection up; txredisapi does the trying again."""

    initialDelay = 0.05  # noqa: N815 - txredisapi's names
    maxDelay = 1.0  # noqa: N815
    factor = 2.0
    jitter = 0.2
    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        address: StoreAddress,
        complaint: _Complaint,
        scripts: Iterable[Script],
        changed: Callable[[_Factory], None],
        *,
        heard: Callable[[Any], None] | None = None,
    ) -> None:
        """``changed`` is called when the connection is usable or lost; ``heard`` gets messages."""
        super().__init__("restmq", None, 1, isLazy=True)
        self.clock = clock
        self.connection: _Connection | None = None
        self._address = address
        self._scripts = list(scripts)
        self._changed = changed
        self._heard = heard
        self._complaint = complaint
        self._leaving = False

    def buildProtocol(self, addr: Any) -> _Connection:
        """A connection that reports to us."""
        connection = _Connection(self) if self._heard is None else _Channel(self)
        connection.factory = self
        connection.whenConnected().addCallback(self._connectionReady)
        return connection

    def greeting(self) -> list[bytes]:
        """What a new connection says first."""
        address, commands = self._address, []
        if address.password is not None:
            user = [address.username.encode()] if address.username else []
            commands.append(encode(b"AUTH", *user, address.password.encode()))
        if address.db:
            commands.append(encode(b"SELECT", b"%d" % address.db))
        commands.append(encode(b"CLIENT", b"SETNAME", b"restmq"))
        commands += self.scripts()
        commands.append(encode(b"PING"))
        return commands

    def scripts(self) -> list[bytes]:
        """The commands that load the scripts."""
        return [encode(b"SCRIPT", b"LOAD", script.source) for script in self._scripts]

    def refused(self, reason: str) -> None:
        """The server did not like the greeting."""
        if not self._leaving:
            self._complaint.say(reason)

    def cut_short(self, why: Failure) -> None:
        """The connection ended before the greeting was answered."""
        if not isinstance(why.value, ConnectionAborted):  # that was us, and said why
            self.refused(_reason(why.value, self._address))

    def addConnection(self, conn: Any) -> None:  # noqa: N802 - txredisapi's name
        """Into txredisapi's pool, but not into the queue that hands out connections: nobody asks it."""
        super().addConnection(conn)
        if conn in self.connectionQueue.pending:
            self.connectionQueue.remove(conn)

    def leave(self) -> Deferred[None]:
        """Disconnect for good; fires then."""
        self._leaving = True
        done: Deferred[None] = self.disconnect()
        return done

    def usable(self, connection: _Connection) -> None:
        """The greeting is answered."""
        self._complaint.is_over()
        self.connection = connection
        self._changed(self)

    def lost(self, connection: _Connection) -> None:
        """The connection is gone; another one is being made unless we are stopping."""
        if self.connection is connection:
            self.connection = None
            self._changed(self)

    def heard(self, message: Any) -> None:
        """A subscription was confirmed, or something was published."""
        assert self._heard is not None
        self._heard(message)


class Store:
    """The store as the broker sees it: send, read, listen."""

    def __init__(self, reactor: Any, scripts: Iterable[Script]) -> None:
        """Nothing is connected before `start`."""
        self._reactor = reactor
        self._scripts = list(scripts)
        self._factories: list[_Factory] = []
        self._flush_due = False
        self.on_ready: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_channel: Callable[[bool], None] = lambda up: None
        self.on_message: Callable[[Any], None] = lambda message: None

    def start(self, address: StoreAddress) -> None:
        """Connect, and stay connected."""
        clock, scripts, said = self._reactor, self._scripts, _Complaint(address)
        self._writes = _Factory(clock, address, said, scripts, self._writes_changed)
        self._reads = _Factory(clock, address, said, scripts, lambda _: None)
        self._channel = _Factory(
            clock, address, said, (), self._channel_changed, heard=self.on_message
        )
        self._factories = [self._writes, self._reads, self._channel]
        for factory in self._factories:
            factory.startConnecting(self._endpoint(address))

    def _endpoint(self, address: StoreAddress) -> IStreamClientEndpoint:
        if address.path is not None:
            return endpoints.UNIXClientEndpoint(  # type: ignore[no-untyped-call]
                self._reactor, address.path, CONNECT_SECONDS
            )
        tcp = endpoints.HostnameEndpoint(self._reactor, address.host, address.port, CONNECT_SECONDS)
        if not address.tls:
            return tcp
        return endpoints.wrapClientTLS(ssl.optionsForClientTLS(address.host), tcp)

    def stop(self) -> Deferred[None]:
        """Send what has gathered, disconnect; fires when all connections are closed."""
        self.flush()
        done = gatherResults([factory.leave() for factory in self._factories])
        return done.addCallback(lambda _: None)

    @property
    def run_id(self) -> bytes:
        """Which life of the server process the writes go to; nothing while that is not known."""
        connection = self._writes.connection if self._factories else None
        return b"" if connection is None else connection.run_id

    @property
    def ready(self) -> bool:
        """Whether commands can be sent."""
        return bool(self._factories) and self._writes.connection is not None

    def send(self, command: bytes, callback: Callback) -> None:
        """Send an encoded command; it leaves in this turn's one write, at the latest in the next turn.

        The callback gets the reply or a StoreError; StoreAway at once when there is no connection.
        """
        self._send(self._writes if self._factories else None, command, callback)

    def read(self, command: bytes, callback: Callback) -> None:
        """As `send`, on the connection for slow reads."""
        self._send(self._reads if self._factories else None, command, callback)

    def _send(self, factory: _Factory | None, command: bytes, callback: Callback) -> None:
        connection = factory.connection if factory is not None else None
        if connection is None:
            callback(StoreAway("no connection to the store"))
            return
        connection.pipeline.send(command, callback)
        if not self._flush_due:
            self._flush_due = True
            self._reactor.callLater(0, self.flush)

    def flush(self) -> None:
        """Write what has gathered."""
        self._flush_due = False
        for factory in self._factories:
            if factory.connection is not None:
                factory.connection.pipeline.flush()

    def listen(self, command: bytes) -> bool:
        """SUBSCRIBE or UNSUBSCRIBE; False when there is no connection (it is asked anew then)."""
        connection = self._channel.connection if self._factories else None
        if connection is None or connection.transport is None:
            return False
        connection.transport.write(command)
        return True

    def _writes_changed(self, factory: _Factory) -> None:
        if factory.connection is None:
            self.on_lost()
        else:
            self.on_ready()

    def _channel_changed(self, factory: _Factory) -> None:
        self.on_channel(factory.connection is not None)
