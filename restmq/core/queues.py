"""What can be done with a queue: each operation one script, a turn's adds and pops of a queue one call.

Nothing is sent twice. An operation fails with a StoreError: StoreAway and StoreFull changed
nothing, OutcomeUnknown may have happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core import commands
from restmq.core.additions import Adds, Many, Packs, answers, encoded_payload
from restmq.core.asking import ask
from restmq.core.packs import Pack
from restmq.core.queue_settings import own_arguments
from restmq.core.scripted import KEPT, QueueScripts
from restmq.core.wire import encode_payload
from restmq.errors import (
    LeasedOnly,
    Limited,
    StoreError,
)
from restmq.message import Message, Mode, NewMessage, Peeked, Policy, Put, QueueInfo
from restmq.redis.connection import Store
from restmq.redis.pipeline import Callback, encode, encode_arguments
from restmq.rules.profiles import Table

MAX_MESSAGES = 1000
MAX_BYTES = 1048576
"""Bounds of one script call, as in common.lua; a single message may be larger."""

LIFT = 1_000_000
"""By how much ids rise when the store lost time (add.lua)."""

T = TypeVar("T")


def _fingerprint(message: NewMessage) -> bytes:
    """What two messages under one key have in common if the second is a repeat."""
    rest = message._replace(key=b"", body=b"")
    return hashlib.blake2b(
        message.body,
        digest_size=16,
        key=hashlib.blake2b(repr(rest).encode(), digest_size=16).digest(),
    ).digest()


class _Said(NamedTuple):
    """What put.lua is told: idempotency keys, what a new queue gets, the messages, encoded."""

    keys: list[bytes]
    mode: Mode | None
    fields: str
    messages: int
    arguments: bytes


class Queues:
    """The operations, batched per reactor turn."""

    log = Logger()

    def __init__(self, clock: IReactorTime, store: Store, scripts: QueueScripts) -> None:
        """``clock`` only says "after this turn".

        ``creation_fields`` may be set: the fields a new queue of this name and mode gets, as scripts read them.
        """
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._adds: dict[str, list[Adds]] = {}
        self._pops: dict[str, list[Deferred[Message | None]]] = {}
        self._flush_due = False
        self._floors: dict[str, int] = {}
        self._listed: set[str] = set()
        self.creation_fields: Callable[[str, Mode | None], str] = Table().creation_fields

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
            turn = self._adds[queue] = [Adds()]
            self._schedule()
        batch = turn[-1]
        full = batch.size + size > MAX_BYTES or len(batch.waiting) == MAX_MESSAGES
        if batch.waiting and (full or batch.mode is not mode):
            batch = Adds()
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

        A queue with bounds may take some only: PartlyRefused. Each is ASCII. At most MAX_MESSAGES, and not much
        more than MAX_BYTES together. They come behind what was added before.
        """
        done: Deferred[int] = Deferred()
        batch = Many(answers(done), limits=False)
        batch.payloads.append(
            "".join([f"${len(text) + 1}\r\n\0{text}\r\n" for text in texts]).encode("ascii")
        )
        batch.ttls = [0] * len(texts)
        self._send_at_once(queue, batch)
        return done

    def add_packs(self, queue: str, packs: Sequence[Pack]) -> Deferred[int]:
        """Put the messages of packs in, as `add_texts` does with its own; bounds are the same.

        They stay packs while nobody streams or observes the queue and it has no bounds; who reads sees no
        difference.
        """
        done: Deferred[int] = Deferred()
        self._send_at_once(queue, Packs(answers(done), packs))
        return done

    def add_many(
        self,
        queue: str,
        messages: Sequence[NewMessage],
        mode: Mode | None,
        answer: Callable[[int | StoreError], None],
    ) -> None:
        """Put up to MAX_MESSAGES in by one call, together or not at all; the answer is the first one's id.

        Only their body, type, headers and time to live count. Limited is the answer where `put` must be asked.
        """
        batch = Many(answer, limits=True)
        batch.payloads = [encoded_payload(message) for message in messages]
        batch.ttls = [message.ttl_ms for message in messages]
        batch.mode = mode
        self._send_at_once(queue, batch)

    def put(
        self,
        queue: str,
        messages: Sequence[NewMessage],
        mode: Mode | None,
        answer: Callable[[list[Put] | StoreError], None],
        fields: str = "",
    ) -> None:
        """Put up to MAX_MESSAGES in, each by itself: put.lua. ``fields`` are what a new queue gets first."""
        keys = list(dict.fromkeys([message.key for message in messages if message.key]))
        numbers = {key: b"%d" % number for number, key in enumerate(keys, 1)}
        arguments = []
        for message in messages:
            at = message.deliver_at_ms
            due = b"@%d" % at if at else b"%d" % message.delay_ms
            number = numbers.get(message.key, b"0")
            fingerprint = _fingerprint(message) if message.key else b""
            head = encode_arguments(
                b"%d" % message.ttl_ms, due, b"%d" % message.priority, number, fingerprint
            )
            arguments.append(head + encoded_payload(message))
        spelt = [self._scripts.keys.idempotency(queue, key) for key in keys]
        said = _Said(spelt, mode, fields, len(messages), b"".join(arguments))
        self._send_put(queue, said, answer)

    def _send_put(
        self,
        queue: str,
        said: _Said,
        answer: Callable[[list[Put] | StoreError], None],
    ) -> None:
        if queue not in self._listed:
            self._list(queue)
        floor = self._floors.get(queue, 0)
        creation = f"{said.fields} {self.creation_fields(queue, said.mode)}".encode()
        first = encode_arguments(b"%d" % floor, creation)

        def answered(reply: Any) -> None:
            if isinstance(reply, StoreError):
                answer(reply)
                return
            puts = [commands.put_answer(one) for one in reply[2:]]
            new = [put.id for put in puts if put.id and not put.replayed]
            if new:
                self._check_listed(queue, floor, new[0])
                self._saw(queue, new[-1])
            answer(puts)

        if self._flush_due:
            self.flush()
        command = self._scripts.call_encoded(
            "put", queue, 2 + 6 * said.messages, first + said.arguments, said.keys
        )
        self._store.send(command, answered)

    def _put_instead(self, queue: str, batch: Adds) -> None:
        """The queue has bounds: the way in that knows them."""
        arguments = b"".join(
            [
                encode_arguments(b"%d" % ttl, b"0", b"0", b"0", b"") + payload
                for ttl, payload in zip(batch.ttls, batch.each_payload(), strict=True)
            ]
        )

        def answered(puts: list[Put] | StoreError) -> None:
            if isinstance(puts, StoreError):
                batch.failed(puts)
            else:
                batch.put(puts)

        said = _Said([], batch.mode, "", len(batch.ttls), arguments)
        self._send_put(queue, said, answered)

    def _send_at_once(self, queue: str, batch: Adds) -> None:
        """Behind what this turn brought before."""
        if self._flush_due:
            self.flush()
        self._send_adds(queue, batch)

    def _send_adds(self, queue: str, batch: Adds) -> None:
        if queue not in self._listed:
            self._list(queue)
        floor = self._floors.get(queue, 0)
        creation = self.creation_fields(queue, batch.mode).encode()
        how, number, arguments = batch.arguments()
        first_arguments = encode_arguments(b"%d" % floor, how, creation)
        command = self._scripts.call_encoded("add", queue, 3 + number, first_arguments + arguments)
        count = len(batch.ttls)

        def added(reply: Any) -> None:
            if isinstance(reply, Limited) and not (isinstance(batch, Many) and batch.limits):
                self._put_instead(queue, batch)
                return
            if isinstance(reply, StoreError):
                batch.failed(reply)
                return
            number = int(reply)
            self._check_listed(queue, floor, number)
            self._saw(queue, number + count - 1)
            batch.added(number)

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

    def _check_listed(self, queue: str, floor: int, first: int) -> None:
        """The first id of an answer: what does it say of the list of queues?"""
        if floor and first > floor + LIFT:  # the store lost time, and perhaps the list
            self._listed.clear()
            self._list(queue)
        elif first == 1:  # the queue is new; another daemon may have deleted the one we listed
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

    # ---- the turn

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Send what this turn brought: adds, pops, queue by queue."""
        self._flush_due = False
        adds, self._adds = self._adds, {}
        pops, self._pops = self._pops, {}
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
        return self.until_complete(
            "peek", queue, [], lambda r: r[1] == 1, lambda r: commands.peek_answer(queue, r)
        )

    def delete(self, queue: str, number: int) -> Deferred[bool]:
        """Delete a waiting message; its place in the queue stays and is handed out empty."""
        return self.until_complete(
            "delete", queue, [b"%d" % number], lambda r: r[1] == 1, lambda r: bool(r[0] == 1)
        )

    def purge(self, queue: str) -> Deferred[int]:
        """Delete all messages, waiting or out, and end all streams; how many there were."""
        return self.once("purge", queue, [], int)

    def create(self, queue: str, mode: Mode) -> Deferred[bool]:
        """Make sure that the queue exists; True if it is new, and has this mode or what its profiles say."""
        self._list(queue)
        fields = self.creation_fields(queue, mode).encode()
        return self.once("create", queue, [fields], lambda reply: bool(reply == 1))

    def remove(self, queue: str, force: bool) -> Deferred[str]:
        """Delete the queue: see `Broker.remove`."""
        words = {1: "gone", 0: "unknown", -1: "not_empty"}

        def removed(reply: Any) -> str:
            if reply == -1:
                self._list(queue)
            return words[reply]

        def not_removed(failure: Failure) -> Failure:
            self._list(queue)
            return failure

        if self._flush_due:
            self.flush()
        # First, so that whoever makes it anew lists it behind this.
        self._listed.discard(queue)
        shard = self._scripts.keys.shard(queue)
        self._store.send(encode(b"SREM", shard, queue.encode()), lambda _: None)
        done = self.once("remove", queue, [b"1" if force else b"0"], removed)
        return done.addErrback(not_removed)

    def set_started(self, queue: str, started: bool) -> Deferred[None]:
        """Hold the push back, or let it go on."""
        return self.change(queue, {"st": int(started)})

    def set_policy(self, queue: str, policy: Policy) -> Deferred[None]:
        """Who gets what is pushed from now on."""
        return self.change(queue, {"pol": policy.value})

    def change(self, queue: str, fields: Mapping[str, int]) -> Deferred[None]:
        """Set fields of the queue (see settings.lua) that are its own, all in one step."""
        return self.once("settings", queue, own_arguments(fields), lambda r: None)

    @property
    def listed(self) -> Collection[str]:
        """The queues that this daemon put something into since the store came."""
        return self._listed

    def made(self, queue: str) -> None:
        """A queue is there without a message: list it."""
        self._list(queue)

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

    def once(
        self, script: str, queue: str, arguments: list[bytes], value: Callable[[Any], T]
    ) -> Deferred[T]:
        """Call a script once, after what was asked before it; its reply as a value."""
        return self.until_complete(script, queue, arguments, lambda r: False, value)

    def until_complete(
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
        command = self._scripts.call("inspect", queue, [b"%d" % newest])
        return ask(self._store.read, command).addCallback(value)
