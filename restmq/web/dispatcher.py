"""The application's base: finds the handler of a request, and keeps its connections.

``cyclone.web.Application`` tries every route's pattern for every request and decodes what it
finds loosely. Here the first segment of the path picks the few patterns that can match, and
what they capture is decoded strictly, once for each different head of a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import cyclone.web
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from restmq.rules.acl import Acl
from restmq.web.channel import Channel
from restmq.web.endpoint import Endpoint
from restmq.web.reply import Reply, error_reply
from restmq.web.v1.endpoint import V1Endpoint, problem_reply
from restmq.web.wire import Head, HeadTable, Limits, Refusal

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.internet.protocol import Protocol

    from restmq.settings import Settings

log = Logger()

Rule = (
    tuple[str, type[cyclone.web.RequestHandler]]
    | tuple[str, type[cyclone.web.RequestHandler], dict[str, Any]]
)

DECODED: Final = "v1"
"""The first segment below which patterns match the decoded path: proxies decode ``%2F``."""

_FIRST_SEGMENT: Final = re.compile(r"/([A-Za-z0-9_-]*)(?:/|\$|\Z)")
LONGEST_TICK: Final = 1.0
KNOWN_PATHS: Final = 4096
LONGEST_KNOWN_PATH: Final = 256


class Found(NamedTuple):
    """The handler of a request, and what its path says."""

    handler_class: type[cyclone.web.RequestHandler]
    arguments: Sequence[str | None]
    options: dict[str, Any]


class _Refused(V1Endpoint):
    """Answers every request with one refusal: no such path, or one that is no UTF-8.

    Under ``/v1`` that is a problem document.
    """

    def initialize(self, refusal: Refusal) -> None:  # type: ignore[override]
        self.refusal = refusal

    def _execute(self, transforms: Any, *args: Any, **kwargs: Any) -> None:
        """Answer."""
        make = self.error if self.request.path.startswith("/v1/") else error_reply
        self.exchange.reply(make(self.refusal.status, self.refusal.why))

    @classmethod
    def check_head(cls, application: Any, head: Head, remote_ip: str, scheme: str) -> None:
        """Raise the refusal."""
        refusal: Refusal = head.route.options["refusal"]
        raise refusal


class Dispatcher(cyclone.web.Application):
    """A table of routes, with the connections that use it.

    ``routes`` are (pattern, handler class[, options]) and are tried in order. ``acl`` may be
    replaced by another Acl at any time; ``broker`` and ``config`` are for the handlers.
    ``clock`` counts idle connections' time while a port listens.
    """

    protocol = Channel
    noisy = False

    def __init__(
        self,
        routes: Iterable[Rule],
        *,
        broker: Any,
        config: Settings,
        acl: Acl,
        clock: IReactorTime,
    ) -> None:
        self.routes = tuple(routes)
        super().__init__(list(self.routes), transforms=[])
        self.broker = broker
        self.config = config
        self.acl = acl
        self.limits = Limits.of(config)
        self.heads = HeadTable(self.limits)
        self._found: dict[str, Found] = {}
        self.channels: set[Channel] = set()
        self._counted: set[Channel] = set()  # those for which ticks count
        self.body_bytes = 0
        self._said_full = False
        self._clock = clock
        self._ticker: LoopingCall | None = None
        self._drained: list[Deferred[None]] = []
        self._table = self._by_first_segment()

    # -- routes --------------------------------------------------------------------------

    def _by_first_segment(self) -> dict[str, list[cyclone.web.URLSpec]]:
        """First segment of a path to the routes that can match; "*" has those for any."""
        specs = [spec for _, handlers in self.handlers for spec in handlers]
        for spec in specs:  # a decoded path may hold any character
            spec.regex = re.compile(spec.regex.pattern, re.DOTALL)
        segments = [_FIRST_SEGMENT.match(spec.regex.pattern) for spec in specs]
        names = {match[1] for match in segments if match} | {"*"}
        return {
            name: [
                spec
                for spec, match in zip(specs, segments, strict=True)
                if match is None or match[1] == name
            ]
            for name in names
        }

    def find(self, head: Head) -> Found:
        """The handler for this head; one that refuses if there is none. The last paths are known."""
        found = self._found.get(head.path)
        if found is None:
            found = self._search(head)
            if len(head.path) <= LONGEST_KNOWN_PATH:
                if len(self._found) >= KNOWN_PATHS:
                    del self._found[next(iter(self._found))]
                self._found[head.path] = found
        return found

    def _search(self, head: Head) -> Found:
        segment = head.path[1:].partition("/")[0]
        path, is_decoded = head.path, segment == DECODED
        if is_decoded:
            try:
                path = unquote_to_bytes(path).decode("utf-8")
            except UnicodeDecodeError:
                return _refusing(400, "the path is not valid UTF-8")
        for spec in self._table.get(segment) or self._table["*"]:
            match = spec.regex.match(path)
            if match is not None:
                return _found(spec, match, is_decoded)
        return _refusing(404, "there is nothing here")

    def __call__(self, request: Any) -> cyclone.web.RequestHandler:
        """Have a request answered."""
        head = request.head
        found = head.route
        if found is None:
            found = head.route = self.find(head)
        handler_class, arguments, options = found
        handler: cyclone.web.RequestHandler = handler_class(self, request, **options)
        handler._execute((), *arguments)
        return handler

    def check_head(self, head: Head, remote_ip: str, secure: bool) -> None:
        """Raise Refusal if the request will be refused, whatever its body is."""
        if head.route is None:
            head.route = self.find(head)
        handler_class = head.route.handler_class
        if issubclass(handler_class, Endpoint):
            handler_class.check_head(self, head, remote_ip, "https" if secure else "http")

    def refused(self, head: Head | None, refusal: Refusal) -> Reply:
        """The reply to a request that no handler sees: a page, under ``/v1`` a problem document."""
        if head is None or not head.path.startswith("/v1/"):
            return error_reply(refusal.status, refusal.why, refusal.headers)
        return problem_reply(refusal)

    def body_limit(self, head: Head) -> int:
        """How many bytes the body of this request may have."""
        if head.route is None:
            head.route = self.find(head)
        operations: dict[str, Any] = getattr(head.route.handler_class, "operations", {})
        operation = operations.get(head.method)
        is_large = operation is not None and operation.large
        return self.limits.large_body if is_large else self.limits.body

    # -- connections ---------------------------------------------------------------------

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A channel for a new connection; None, which closes it, when there are too many."""
        if len(self.channels) >= self.limits.connections:
            self._say_full()
            return None
        self._said_full = False
        channel = Channel()
        channel.factory = self
        return channel

    def _say_full(self) -> None:
        """Warn once, and again when there was room in between."""
        if not self._said_full:
            self._said_full = True
            log.warn("refusing connections: there are {count}", count=len(self.channels))

    def connected(self, channel: Channel) -> None:
        """A connection was made."""
        self.channels.add(channel)
        self._counted.add(channel)

    def counts(self, channel: Channel) -> None:
        """Ticks count again for a connection that said they did not."""
        if channel in self.channels:
            self._counted.add(channel)

    def disconnected(self, channel: Channel) -> None:
        """A connection is gone."""
        self.channels.discard(channel)
        self._counted.discard(channel)
        if not self.channels:
            if not self.numPorts:
                self._stop_ticking()
            drained, self._drained = self._drained, []
            for each in drained:
                each.callback(None)

    def startFactory(self) -> None:
        """Begin to count idle time."""
        tick = min(LONGEST_TICK, self.limits.idle_seconds / 5)
        limit = max(1, round(self.limits.idle_seconds / tick))
        self._ticker = LoopingCall(self.tick, limit)
        self._ticker.clock = self._clock
        self._ticker.start(tick, now=False)

    def stopFactory(self) -> None:
        """No port listens any more; time goes on for the connections that are left."""
        if not self.channels:
            self._stop_ticking()

    def _stop_ticking(self) -> None:
        if self._ticker is not None and self._ticker.running:
            self._ticker.stop()

    @property
    def draining(self) -> bool:
        """Whether the end has begun, and connections are left."""
        return bool(self._drained)

    def drain(self) -> Deferred[None]:
        """Close idle connections, and the others once their request is answered; end all streams.

        Call it when no port listens any more. What the kernel has received until now is read
        first. Fires when no connection is left; a client can hold that up, so give it a time limit.
        """
        done: Deferred[None] = Deferred()
        if not self.channels:
            done.callback(None)
            return done
        self._drained.append(done)
        self._drain_all()
        return done

    def _drain_all(self) -> None:
        """Each in a call of its own: a bug in one handler must not keep the others from it."""
        for channel in self.channels:
            self._clock.callLater(0, self._drain, channel)

    def _drain(self, channel: Channel) -> None:
        if channel in self.channels:
            channel.drain()

    def cut(self) -> None:
        """Send nothing more to anybody: the process is about to end."""
        for channel in tuple(self.channels):
            channel.cut()

    def tick(self, limit: int) -> None:
        """Let every connection know that time passes, and that the end is near if it is."""
        for channel in tuple(self._counted):
            if not channel.tick(limit):  # a walk of 10,000 streams is 5 to 10 ms
                self._counted.discard(channel)
        if self.draining:  # a stream may have begun since
            self._drain_all()


def _found(spec: cyclone.web.URLSpec, match: re.Match[str], is_decoded: bool) -> Found:
    if is_decoded:
        return Found(spec.handler_class, match.groups(), spec.kwargs)
    try:
        arguments = [_decoded(group) for group in match.groups()]
    except UnicodeDecodeError:
        return _refusing(400, "the path is not valid UTF-8")
    return Found(spec.handler_class, arguments, spec.kwargs)


def _decoded(group: str | None) -> str | None:
    """Percent-decoded, ``+`` a space as the original had it. Raises UnicodeDecodeError."""
    return None if group is None else unquote_to_bytes(group.replace("+", " ")).decode("utf-8")


def _refusing(status: int, why: str) -> Found:
    return Found(_Refused, (), {"refusal": Refusal(status, why)})
