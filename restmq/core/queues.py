"""What can be done with a queue: each operation one script, a turn's adds and pops of a queue one call.

Nothing is sent twice. An operation fails with a StoreError: StoreAway and StoreFull changed
nothing, OutcomeUnknown may have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.core import commands
from restmq.core.receipts import Receipt
from restmq.core.scripted import KEPT, QueueScripts
from restmq.core.wire import encode_payload, encode_ttls
from restmq.errors import LeasedOnly, StoreError
from restmq.message import Message, Mode, Peeked, Policy, QueueInfo
from restmq.redis.connection import Store
from restmq.redis.pipeline import Callback, encode, encode_arguments

MAX_MESSAGES = 1000
MAX_BYTES = 1048576
"""Bounds of one script call, as in common.lua; a single message may be larger."""

LIFT = 1_000_000
"""By how much ids rise when the store lost time (add.lua)."""

T = TypeVar("T")


class _Adds:
    """The messages of one queue that this turn brought, encoded, and who waits for their ids."""

    __slots__ = ("mode", "payloads", "size", "ttls", "waiting")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.ttls: list[int] = []
        self.waiting: list[Deferred[int]] = []
        self.size = 0
        self.mode: Mode | None = None


class _Acks:
    """Acknowledgements of messages of one queue that this turn brought."""

    __slots__ = ("arguments", "count", "waiting")

    def __init__(self) -> None:
        self.arguments: list[bytes] = []
        self.count = 0
        self.waiting: list[tuple[int, Callable[[StoreError | list[int]], None]]] = []


class Queues:
    """The operations, batched per reactor turn."""

    log = Logger()

    def __init__(self, clock: IReactorTime, store: Store, scripts: QueueScripts) -> None:
        """``clock`` only says "after this turn"."""
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._adds: dict[str, list[_Adds]] = {}
        self._pops: dict[str, list[Deferred[Message | None]]] = {}
        self._acks: dict[tuple[str, bool], list[_Acks]] = {}
        self._flush_due = False
        self._floors: dict[str, int] = {}
        self._listed: set[str] = set()

    # ---- add

    def add(
        self,
        queue: str,
        body: bytes,
        ttl_ms: int = 0,
        content_type: str | None = None,
        mode: Mode | None = None,
    ) -> Deferred[int]:
        """Put a message in; its id. The order of calls is the order in the queue.

        ``ttl_ms`` 0 keeps it for ever; ``content_type`` is ASCII of at most 255 bytes. ``mode``
        is what the queue becomes if it is new (None: open).
        """
        size = len(body)
        if content_type is None:
            payload = b"$%d\r\n\0%s\r\n" % (size + 1, body)
        else:
            payload = encode_arguments(encode_payload(body, content_type))
        turn = self._adds.get(queue)
        if turn is None:
            turn = self._adds[queue] = [_Adds()]
            self._schedule()
        batch = turn[-1]
        full = batch.size + size > MAX_BYTES or len(batch.waiting) == MAX_MESSAGES
        if batch.waiting and (full or batch.mode is not mode):
            batch = _Adds()
            turn.append(batch)
        batch.mode = mode
        batch.payloads.append(payload)
        batch.ttls.append(ttl_ms)
        batch.size += size
        waiting: Deferred[int] = Deferred()
        batch.waiting.append(waiting)
        return waiting

    def add_texts(self, queue: str, texts: Sequence[str]) -> Deferred[int]:
        """Put many messages in by one call of the script, together or not at all; the first one's id.

        Each is ASCII. At most MAX_MESSAGES, and not much more than MAX_BYTES together. They come
        behind what was added before.
        """
        batch = _Adds()
        batch.payloads.append(
            "".join([f"${len(text) + 1}\r\n\0{text}\r\n" for text in texts]).encode("ascii")
        )
        batch.ttls = [0] * len(texts)
        done: Deferred[int] = Deferred()
        batch.waiting.append(done)
        if self._flush_due:
            self.flush()
        self._send_adds(queue, batch)
        return done

    def _send_adds(self, queue: str, batch: _Adds) -> None:
        if queue not in self._listed:
            self._list(queue)
        floor = self._floors.get(queue, 0)
        mode = b"" if batch.mode is None else b"%d" % batch.mode.value
        first_arguments = encode_arguments(b"%d" % floor, encode_ttls(batch.ttls), mode)
        command = self._scripts.call_encoded(
            "add", queue, 3 + len(batch.ttls), first_arguments + b"".join(batch.payloads)
        )
        waiting, count = batch.waiting, len(batch.ttls)

        def added(reply: Any) -> None:
            if isinstance(reply, StoreError):
                for deferred in waiting:
                    deferred.errback(reply)
                return
            number = int(reply)
            if floor and number > floor + LIFT:
                self._store_forgot(queue)
            self._saw(queue, number + count - 1)
            for deferred in waiting:
                deferred.callback(number)
                number += 1

        self._store.send(command, added)

    def _list(self, queue: str) -> None:
        """Write the name into the list of queues, before the first message that goes there."""

        def listed(reply: Any) -> None:
            if isinstance(reply, StoreError):  # the add behind it tells the client
                self._listed.discard(queue)

        if len(self._listed) >= KEPT:
            self._listed.clear()
        self._listed.add(queue)
        self._store.send(encode(b"SADD", self._scripts.keys.shard(queue), queue.encode()), listed)

    def _store_forgot(self, queue: str) -> None:
        """The ids were lifted: the store lost time, and perhaps the list of queues."""
        self._listed.clear()
        self._list(queue)

    def reconnected(self) -> None:
        """It may be a store that forgot: list the queues anew. What ids were seen stays known."""
        self._listed.clear()

    def _saw(self, queue: str, number: int) -> None:
        """Remember the highest id: a store that lost time must not give it again."""
        known = self._floors.get(queue)
        if known is None and len(self._floors) >= KEPT:
            del self._floors[next(iter(self._floors))]
        if known is None or number > known:
            self._floors[queue] = number

    # ---- pop

    def pop(self, queue: str) -> Deferred[Message | None]:
        """Take the oldest message out, for good; None if there is none."""
        waiting = self._pops.get(queue)
        if waiting is None:
            waiting = self._pops[queue] = []
            self._schedule()
        deferred: Deferred[Message | None] = Deferred()
        waiting.append(deferred)
        return deferred

    def _send_pops(self, queue: str, waiting: list[Deferred[Message | None]]) -> None:
        def popped(reply: Any) -> None:
            if isinstance(reply, StoreError):
                error = LeasedOnly.of(queue) if isinstance(reply, LeasedOnly) else reply
                for deferred in waiting:
                    deferred.errback(error)
                return
            messages, again = commands.pop_answer(queue, reply)
            for deferred, message in zip(waiting, messages, strict=False):
                deferred.callback(message)
            rest = waiting[len(messages) :]
            if rest and again:
                self._send_pops(queue, rest)
            else:
                for deferred in rest:
                    deferred.callback(None)

        command = self._scripts.call("pop", queue, [b"%d" % len(waiting)])
        self._store.send(command, popped)

    # ---- acknowledge

    def acknowledge(self, receipts: Sequence[Receipt], done: bool) -> Deferred[list[bool]]:
        """Acknowledge messages that were handed out, or (not ``done``) give them back at once.

        For each receipt whether it counted; a stale one changes nothing. What a turn brings for a
        queue is one script call for each 1,000. Fails with the first StoreError; some may have counted.
        """
        result: Deferred[list[bool]] = Deferred()
        counted = [False] * len(receipts)
        by_queue: dict[str, list[int]] = {}
        for place, receipt in enumerate(receipts):
            by_queue.setdefault(receipt.queue, []).append(place)
        parts = [
            (queue, places[start : start + MAX_MESSAGES])
            for queue, places in by_queue.items()
            for start in range(0, len(places), MAX_MESSAGES)
        ]
        left = len(parts)

        def answered(places: list[int], reply: StoreError | list[int]) -> None:
            nonlocal left
            left -= 1
            if isinstance(reply, StoreError):
                if not result.called:
                    result.errback(reply)
                return
            for place, one in zip(places, reply, strict=True):
                counted[place] = one == 1
            if left == 0 and not result.called:
                result.callback(counted)

        for queue, places in parts:
            self._acknowledge(queue, done, [receipts[i] for i in places], partial(answered, places))
        if not parts:
            result.callback(counted)
        return result

    def _acknowledge(
        self,
        queue: str,
        done: bool,
        receipts: list[Receipt],
        answered: Callable[[StoreError | list[int]], None],
    ) -> None:
        turn = self._acks.get((queue, done))
        if turn is None:
            turn = self._acks[queue, done] = [_Acks()]
            self._schedule()
        if turn[-1].count + len(receipts) > MAX_MESSAGES:
            turn.append(_Acks())
        batch = turn[-1]
        batch.count += len(receipts)
        batch.arguments += [b"%d" % number for receipt in receipts for number in receipt[1:]]
        batch.waiting.append((len(receipts), answered))

    def _send_acks(self, queue: str, done: bool, batch: _Acks) -> None:
        def replied(reply: Any) -> None:
            start = 0
            for count, answered in batch.waiting:
                failed = isinstance(reply, StoreError)
                answered(reply if failed else reply[start : start + count])
                start += count

        how = b"ack" if done else b"nack"
        self._store.send(self._scripts.call("ack", queue, [how, *batch.arguments]), replied)

    # ---- the turn

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Send what this turn brought: acknowledgements, adds, pops, queue by queue."""
        self._flush_due = False
        acks, self._acks = self._acks, {}
        adds, self._adds = self._adds, {}
        pops, self._pops = self._pops, {}
        for (queue, done), turn in acks.items():
            for acks_of_queue in turn:
                self._send_acks(queue, done, acks_of_queue)
        for queue, batches in adds.items():
            for batch in batches:
                self._send_adds(queue, batch)
        for queue, waiting in pops.items():
            for start in range(0, len(waiting), MAX_MESSAGES):
                self._send_pops(queue, waiting[start : start + MAX_MESSAGES])
        self._store.flush()

    # ---- one at a time

    def peek(self, queue: str) -> Deferred[Peeked | None]:
        """Look at the oldest message, counting the looks."""
        return self._until_complete(
            "peek", queue, [], lambda r: r[1] == 1, lambda r: commands.peek_answer(queue, r)
        )

    def delete(self, queue: str, number: int) -> Deferred[bool]:
        """Delete a waiting message; its place in the queue stays and is handed out empty."""
        return self._until_complete(
            "delete", queue, [b"%d" % number], lambda r: r[1] == 1, lambda r: bool(r[0] == 1)
        )

    def purge(self, queue: str) -> Deferred[bool]:
        """Delete all waiting messages and end all streams; whether there was anything."""
        return self._once("purge", queue, [], lambda r: bool(r == 1))

    def set_started(self, queue: str, started: bool) -> Deferred[None]:
        """Hold the push back, or let it go on."""
        return self._once("status", queue, [b"st", b"1" if started else b"0"], lambda r: None)

    def set_policy(self, queue: str, policy: Policy) -> Deferred[None]:
        """Who gets what is pushed from now on."""
        return self._once("status", queue, [b"pol", b"%d" % policy.value], lambda r: None)

    def change(self, queue: str, fields: Mapping[str, int]) -> Deferred[None]:
        """Set fields of the queue (see status.lua), all in one step."""
        arguments = [b for k, v in fields.items() for b in (k.encode("ascii"), b"%d" % v)]
        return self._once("status", queue, arguments, lambda r: None)

    def inspect(self, queue: str) -> Deferred[QueueInfo]:
        """The numbers of a queue, of one moment."""
        return self._look(queue, 0, lambda r: commands.inspect_answer(queue, r))

    def newest(self, queue: str, count: int) -> Deferred[list[int]]:
        """The newest waiting ids, newest first."""
        return self._look(queue, count, commands.newest_answer)

    def names(self) -> Deferred[list[str]]:
        """All queues that ever got a message, sorted."""
        done: Deferred[list[str]] = Deferred()
        found: list[bytes] = []
        shards = self._scripts.keys.shards()
        left = len(shards)

        def got(reply: Any) -> None:
            nonlocal left
            left -= 1
            if done.called:
                return
            if isinstance(reply, StoreError):
                done.errback(reply)
                return
            found.extend(reply)
            if left == 0:
                done.callback(sorted(name.decode("utf-8", "replace") for name in found))

        for shard in shards:
            self._store.read(encode(b"SMEMBERS", shard), got)
        return done

    def _once(
        self, script: str, queue: str, arguments: list[bytes], value: Callable[[Any], T]
    ) -> Deferred[T]:
        return self._until_complete(script, queue, arguments, lambda r: False, value)

    def _until_complete(
        self,
        script: str,
        queue: str,
        arguments: list[bytes],
        again: Callable[[Any], bool],
        value: Callable[[Any], T],
    ) -> Deferred[T]:
        """Call a script as often as it wants; its last reply as a value."""
        done: Deferred[T] = Deferred()
        command = self._scripts.call(script, queue, arguments)

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                done.errback(reply)
            elif again(reply):
                self._store.send(command, replied)
            else:
                done.callback(value(reply))

        self._send_in_order(command, replied)
        return done

    def _send_in_order(self, command: bytes, callback: Callback) -> None:
        """After the adds and pops that were called before it."""
        if self._flush_due:
            self.flush()
            self._flush_due = True
        self._store.send(command, callback)

    def _look(self, queue: str, newest: int, value: Callable[[Any], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                done.errback(reply)
            else:
                done.callback(value(reply))

        self._store.read(self._scripts.call("inspect", queue, [b"%d" % newest]), replied)
        return done
