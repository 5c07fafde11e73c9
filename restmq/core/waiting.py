"""Long polls: who asks for messages and waits until there are some.

A queue that somebody waits for has a lease on a word (field ``wait``): while it lasts, whatever makes a
message ready publishes on the queue's channel ``wake``, and every daemon with waiters asks again for the
first of them. The word is given by the same script call that found nothing, after the subscription was
confirmed, so nothing comes unheard; and all ask again every few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.jobs import Asked, Jobs, Leased
from restmq.core.presence import Presence
from restmq.core.scripted import QueueScripts
from restmq.core.verdicts import UNDO
from restmq.errors import StoreError
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode

WAIT_MS = 15000
"""How long the queue goes on to wake its daemons when nobody asks again."""

TRANSPORT = "receive"
"""The word under which who waits is counted among the consumers."""

ASKED_AT_ONCE = 32
"""How many of those that wait ask when something comes; the next when all of these got something."""


class Receiving:
    """One who wants messages of some queues, in the order of preference.

    ``done`` fires with what was taken (of one queue; empty when the time is over), or fails with a
    StoreError when the first look did.
    """

    def __init__(  # noqa: PLR0917 - what a receive may say
        self,
        waiting: Waiting,
        queues: Sequence[str],
        limit: int,
        wait_seconds: float,
        lease_ms: int | None,
        key: bytes,
    ) -> None:
        self.done: Deferred[list[Leased]] = Deferred()
        self.queues = list(dict.fromkeys(queues))
        self.asking = False
        self._pending: dict[str, None] = {}
        self._waiting = waiting
        self._limit = limit
        self._wait_seconds = wait_seconds
        self._lease_ms = lease_ms
        self._key = key
        self._over = wait_seconds <= 0
        self._given_up = False
        self._timer: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None

    def begin(self) -> None:
        """Look at all queues once, then wait."""
        if self._key and len(self.queues) > 1:
            self._look(0, 0, self._second_look)  # a repeat: where the first call found something
        else:
            self._second_look(None)

    def _second_look(self, _: object) -> None:
        self._look(0, self._limit, self._wait)

    def _look(self, place: int, limit: int, otherwise: Callable[[object], None]) -> None:
        """Ask the queues from this place on; whoever has something ends it."""
        if self._given_up:
            return
        self.asking = True

        def answered(asked: Asked | StoreError) -> None:
            self.asking = False
            if isinstance(asked, StoreError):
                self._fail(asked)
            elif asked.leased:
                self._finish(asked.leased)
            elif place + 1 < len(self.queues):
                self._look(place + 1, limit, otherwise)
            elif not self._given_up:
                otherwise(asked)

        self._waiting.jobs.ask(self.queues[place], (limit, self._lease_ms, 0), answered, self._key)

    def _wait(self, _: object) -> None:
        if self._over:
            self._finish([])
            return
        self._timer = self._waiting.clock.callLater(self._wait_seconds, self._time_over)
        self._waiting.came(self)

    def ask(self, queue: str) -> None:
        """Something came to the queue, or may have: ask it."""
        if self.done.called or self._given_up:
            return
        if self.asking:
            self._pending[queue] = None
            return
        self.asking = True

        def answered(asked: Asked | StoreError) -> None:
            self.asking = False
            if isinstance(asked, StoreError):
                self._pending.clear()
                if self._over:
                    self._finish([])
                return  # the store will be back
            if asked.leased:
                self._finish(asked.leased)
                self._waiting.more(queue)
            elif self._over:
                self._finish([])
            else:
                if asked.retry_ms and self._retry is None:
                    seconds = asked.retry_ms / 1000
                    self._retry = self._waiting.clock.callLater(seconds, self._again, queue)
                if self._pending:
                    self.ask(self._pending.popitem()[0])

        self._waiting.jobs.ask(queue, (self._limit, self._lease_ms, WAIT_MS), answered, self._key)

    def _again(self, queue: str) -> None:
        self._retry = None
        self.ask(queue)

    def _time_over(self) -> None:
        self._over = True
        if not self.asking:
            self._finish([])

    def cancel(self) -> None:
        """The client left: what was taken or is being taken goes back, uncounted."""
        if self.done.called:
            leased = self.done.result
            if isinstance(leased, list):
                self._waiting.undo(leased, self._key)
            return
        self._given_up = True
        self._leave()

    def end(self) -> None:
        """The daemon ends: answer now."""
        self._over = True
        if not self.asking and not self.done.called:
            self._finish([])

    def _leave(self) -> None:
        for timer in (self._timer, self._retry):
            if timer is not None and timer.active():
                timer.cancel()
        self._waiting.left(self)

    def _finish(self, leased: list[Leased]) -> None:
        self._leave()
        if self._given_up:
            self._waiting.undo(leased, self._key)
        elif not self.done.called:
            self.done.callback(leased)

    def _fail(self, error: StoreError) -> None:
        self._leave()
        if not self._given_up:
            self.done.errback(error)


class _Awaited:
    """A queue that somebody waits for here."""

    def __init__(self) -> None:
        self.waiters: dict[Receiving, None] = {}
        self.subscribed = False


class Waiting:
    """All long polls of this daemon."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        scripts: QueueScripts,
        jobs: Jobs,
        presence: Presence,
    ) -> None:
        """``presence`` counts who waits among the queue's consumers."""
        self._presence = presence
        self.clock = clock
        self.jobs = jobs
        self._store = store
        self._scripts = scripts
        self._queues: dict[str, _Awaited] = {}
        self._channels: dict[bytes, str] = {}
        self._looking: dict[Receiving, None] = {}

    def receive(
        self,
        queues: Sequence[str],
        limit: int = 1,
        wait_seconds: float = 0.0,
        lease_ms: int | None = None,
        key: bytes = b"",
    ) -> Receiving:
        """Take up to ``limit`` messages of the first of these queues that has any, waiting if need be."""
        receiving = Receiving(self, queues, limit, wait_seconds, lease_ms, key)
        self._looking[receiving] = None
        receiving.begin()
        return receiving

    def came(self, receiving: Receiving) -> None:
        """It waits."""
        for queue in receiving.queues:
            self._presence.came(queue, TRANSPORT)
            awaited = self._queues.get(queue)
            if awaited is None:
                awaited = self._queues[queue] = _Awaited()
                self._subscribe(queue)
            awaited.waiters[receiving] = None
            if awaited.subscribed:
                receiving.ask(queue)

    def left(self, receiving: Receiving) -> None:
        """It waits no more. The subscription stays until the next `tick`: most come back at once."""
        self._looking.pop(receiving, None)
        for queue in receiving.queues:
            awaited = self._queues.get(queue)
            if awaited is not None and receiving in awaited.waiters:
                del awaited.waiters[receiving]
                self._presence.left(queue, TRANSPORT)

    def undo(self, leased: Sequence[Leased], key: bytes = b"") -> None:
        """Nobody got them: they are ready again, the attempt does not count, and ``key`` stands for nothing."""
        if leased:
            if key:
                self.jobs.forget(leased[0].receipt.queue, key)
            self.jobs.settle([one.receipt for one in leased], UNDO).addErrback(self._not_undone)

    def _not_undone(self, failure: Failure) -> None:
        if not isinstance(failure.value, StoreError):  # else the leases end by themselves
            failure.raiseException()
        self.log.debug("not given back: {error}", error=failure.value)

    def more(self, queue: str) -> None:
        """One got something; there may be more for the next."""
        awaited = self._queues.get(queue)
        if awaited is not None and not any(one.asking for one in awaited.waiters):
            self._ask(queue, awaited)

    def _ask(self, queue: str, awaited: _Awaited) -> None:
        for receiving in list(islice(awaited.waiters, ASKED_AT_ONCE)):
            receiving.ask(queue)

    def tick(self) -> None:
        """Every few seconds: ask again, and leave what nobody waits for."""
        for queue, awaited in list(self._queues.items()):
            if awaited.waiters:
                self._ask(queue, awaited)
            else:
                del self._queues[queue]
                channel = self._scripts.keys.wake(queue)
                self._channels.pop(channel, None)
                self._store.listen(encode(b"UNSUBSCRIBE", channel))
                self._say_nobody(queue)

    def _say_nobody(self, queue: str) -> None:
        def replied(reply: object) -> None:
            if isinstance(reply, StoreError):
                self.log.debug("unwait of {queue}: {error}", queue=queue, error=reply)

        self._store.send(self._scripts.call("unwait", queue, []), replied)

    def end(self) -> None:
        """The daemon ends: answer all that wait."""
        for receiving in list(self._looking):
            receiving.end()

    # ---- the channel

    def _subscribe(self, queue: str) -> None:
        """When that has no effect yet the channel is down, and `channel_up` comes."""
        channel = self._scripts.keys.wake(queue)
        self._channels[channel] = queue
        self._store.listen(encode(b"SUBSCRIBE", channel))

    def channel(self, up: bool) -> None:
        """The connection of the channels is new, or lost."""
        for queue, awaited in self._queues.items():
            awaited.subscribed = False
            if up:
                self._subscribe(queue)

    def message(self, kind: bytes, channel: bytes) -> bool:
        """Something came on a channel; False if it is not one of ours."""
        queue = self._channels.get(channel)
        if queue is None:
            return False
        awaited = self._queues[queue]
        if kind == b"subscribe":
            awaited.subscribed = True
        if kind in (b"subscribe", b"message"):
            self._ask(queue, awaited)
        return True
