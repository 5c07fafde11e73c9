"""Publishing to a log: the events of a reactor turn go out as one script call.

An append names the bindings it went by. Where they are older than the store's, it changes nothing, and
what waits is appended again when the bindings that hold are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.bindings import LogBindings
from restmq.core.event_reading import StoredLog
from restmq.core.event_wire import encode_event, encode_retention
from restmq.errors import KeyReused, StoreError, StoreRefused
from restmq.event import NewEvent
from restmq.redis.pipeline import encode_arguments
from restmq.rules.retention import Retention

MAX_EVENTS = 1000
MAX_BYTES = 1048576
"""Bounds of one script call, as in log_common.lua; a single event may be larger."""


class _Turn:
    """The events of one script call, encoded, and who waits for their ids."""

    __slots__ = ("key", "payloads", "replayed", "rules", "size", "topics", "waiting")

    def __init__(self, key: bytes = b"") -> None:
        self.key = key  # an idempotency key's digest: then the events are one client's alone
        self.replayed = False
        self.payloads: list[bytes] = []
        self.topics: list[str] = []
        self.rules = bytearray()
        self.size = 0
        self.waiting: list[tuple[int, Callable[[int | StoreError], None]]] = []

    def once(self) -> bytes:
        """The key with a fingerprint of the events, for log_append.lua."""
        if not self.key:
            return b""
        seen = blake2b(digest_size=16)
        for payload in self.payloads:
            seen.update(b"%d " % len(payload))
            seen.update(payload)
        return self.key + seen.digest()

    def failed(self, error: StoreError) -> None:
        """Tell all who wait."""
        for _, answer in self.waiting:
            answer(error)


class Publishing:
    """What this daemon appends to one log."""

    log = Logger()

    def __init__(
        self,
        stored: StoredLog,
        bindings: LogBindings,
        retention: Retention,
        due: Callable[[Publishing], None],
    ) -> None:
        """``due`` is called with this when there is something for `flush`."""
        self._stored = stored
        self._bindings = bindings
        self._rule_of = retention.rule_of
        self._rules = encode_retention(retention)
        self._crowded = False  # somebody was told that the log has too many rules
        self._due = due
        self._turns: list[_Turn] = []
        self._parked: list[_Turn] | None = None  # what waits for the bindings that hold
        self._asked = 0

    def publish(self, events: Sequence[NewEvent], short: bool) -> Deferred[list[int]]:
        """See `Events.publish`."""
        whole = (
            len(events) <= MAX_EVENTS and sum([len(event.body) for event in events]) <= MAX_BYTES
        )
        return self._publish(events, short, self._turn(events if whole else ()), [])

    def publish_once(
        self, events: Sequence[NewEvent], short: bool, key: bytes
    ) -> Deferred[tuple[list[int], bool]]:
        """See `Events.publish_once`."""
        turns = [_Turn(key)]
        self._turns += turns
        self._due(self)
        done = self._publish(events, short, turns[0], turns)
        return done.addCallback(lambda ids: (ids, all(turn.replayed for turn in turns)))

    def _publish(
        self, events: Sequence[NewEvent], short: bool, turn: _Turn, turns: list[_Turn]
    ) -> Deferred[list[int]]:
        """Fill this turn and as many more as it takes, which are put into ``turns``."""
        key, here = turn.key, 0
        done: Deferred[list[int]] = Deferred()
        ids: list[int] = []
        left = 0

        def numbered(count: int, first: int | StoreError) -> None:
            nonlocal left
            left -= 1
            if done.called:
                return
            if isinstance(first, StoreError):
                done.errback(first)
                return
            ids.extend(range(first, first + count))
            if not left:
                done.callback(ids)

        for event in events:
            size = len(event.body)
            if turn.payloads and (len(turn.payloads) == MAX_EVENTS or turn.size + size > MAX_BYTES):
                if here:
                    turn.waiting.append((here, _with_count(numbered, here)))
                    left += 1
                turn, here = _Turn(_part(key, len(turns))), 0
                turns.append(turn)
                self._turns.append(turn)
            turn.payloads.append(encode_event(event))
            turn.topics.append(event.topic)
            turn.rules.append(self._rule_of(event.topic, short))
            turn.size += size
            here += 1
        if not here:
            return succeed([])
        turn.waiting.append((here, _with_count(numbered, here)))
        left += 1
        return done

    def _turn(self, whole: Sequence[NewEvent]) -> _Turn:
        """The script call that goes out with this turn and takes all of ``whole``."""
        turn = self._turns[-1] if self._turns else None
        if turn is None or (
            turn.key
            or len(turn.payloads) + len(whole) > MAX_EVENTS
            or (turn.size and turn.size + sum([len(event.body) for event in whole]) > MAX_BYTES)
        ):
            self._turns.append(_Turn())
        self._due(self)
        return self._turns[-1]

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing is under way."""
        return not self._turns and self._parked is None and not self._asked

    def flush(self) -> None:
        """Send what this turn brought."""
        turns, self._turns = self._turns, []
        for turn in turns:
            self._append(turn)

    def _append(self, turn: _Turn) -> None:
        stored = self._stored
        stored.enlist()
        if self._parked is not None:
            self._parked.append(turn)
            return
        table = self._bindings.table
        count, bound = len(turn.payloads), table.bound(turn.topics)
        arguments = encode_arguments(
            b"%d" % stored.known.id,
            b"%d" % stored.known.epoch,
            table.version,
            self._rules,
            bytes(turn.rules),
            stored.store.run_id,
            b"%d" % count,
            turn.once(),
            *turn.payloads,
            *bound,
        )

        def appended(reply: Any) -> None:
            self._asked -= 1
            if isinstance(reply, StoreError):
                turn.failed(reply)
                return
            if len(reply) == 1:  # somebody changed the bindings; nothing was appended
                self._park(turn)
                return
            epoch, first, *again = map(int, reply)
            if again == [2]:
                turn.failed(KeyReused("the Idempotency-Key was used for other events"))
                return
            turn.replayed = again == [1]
            if not turn.replayed:
                stored.saw(epoch, first + count - 1)
            if again == [3] and not self._crowded:
                self._crowded = True
                self.log.warn(
                    "the log {name} has events of other rules of retention in all its classes;"
                    " by count and bytes those of a new rule are kept as ordinary ones",
                    name=stored.name,
                )
            for number, answer in turn.waiting:
                answer(first)
                first += number
            if bound and not turn.replayed:
                self._bindings.move()

        command = stored.scripts.call("log_append", stored.name, 8 + count + len(bound), arguments)
        self._asked += 1
        stored.store.send(command, appended)

    def _park(self, turn: _Turn) -> None:
        """Learn the bindings that hold now, then append what waits."""
        if self._parked is not None:
            self._parked.append(turn)
            return
        self._parked = [turn]
        learning = ensureDeferred(self._bindings.learn())
        learning.addBoth(self._unpark)

    def _unpark(self, result: Any) -> None:
        parked, self._parked = self._parked or [], None
        if isinstance(result, Failure):
            error = result.value
            if not isinstance(error, StoreError):
                self.log.failure("bindings cannot be read", result)
                error = StoreRefused("the bindings cannot be read")
            for turn in parked:
                turn.failed(error)
            return
        for turn in parked:
            self._append(turn)


def _part(key: bytes, number: int) -> bytes:
    """The key of another script call of the same request."""
    return key and blake2b(b"%b %d" % (key, number), digest_size=16).digest()


def _with_count(
    numbered: Callable[[int, int | StoreError], None], count: int
) -> Callable[[int | StoreError], None]:
    return lambda first: numbered(count, first)
