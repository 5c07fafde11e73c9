"""What time brings: leases that end, delayed messages that are due, messages on their way to another queue.

A sorted set of the store says when to look at which queue. Whoever changes a queue writes into it first, so a
daemon that dies then loses nothing; every daemon claims what is due, so any of them does the work and each once
(`claim.lua`, `tick.lua`). A claim that is not followed by its end falls due again.

What moves between queues (dead letters, redrive) lies in the outbox of the queue it leaves. It is put into the
other under a key of its own and then taken out of the outbox: it arrives once, never lost, though not in the
same instant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from restmq.core.queues import MAX_BYTES, Queues
from restmq.core.scripted import QueueScripts
from restmq.core.wire import Outgoing, decode_outgoing
from restmq.errors import StoreError, StoreFull
from restmq.message import Mode, NewMessage, Put
from restmq.names import message_key
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode, encode_arguments
from restmq.redis.scripts import Script

LOOK_SECONDS = 0.1
"""How often the set is looked at when nothing is known to be due."""

CLAIM_MS = 5000
CLAIMED_AT_ONCE = 100
OUTBOX_AT_ONCE = 64
STUCK = 1000
"""How many that can't be put into their queue are passed over for those behind them."""

LATER_MS = 1000
"""When a message can't be put into its queue (it is full), the next try."""

ORIGIN, REASON, ATTEMPTS, ERROR = (
    "restmq-origin",
    "restmq-reason",
    "restmq-attempts",
    "restmq-error",
)
"""Headers of a dead letter: ``queue:id`` it was, why it is here, how often it was tried, what was said last."""


class Reaper:
    """This daemon's share of the work."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        scripts: QueueScripts,
        scripts_of_due: Mapping[str, Script],
        queues: Queues,
    ) -> None:
        """Nothing happens before `start`. ``scripts_of_due`` are claim.lua and expect.lua, by name."""
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._claim, self._full = scripts_of_due["claim"], scripts_of_due["expect"]
        self._queues = queues
        self._due_key, self._claimed_key = scripts.keys.due()
        self._ahead_ms = 0.0  # how far the store's clock is ahead of ours
        self._running = False
        self._looking = self._failing = False
        self._next: IDelayedCall | None = None

    # ---- when to look

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000 + self._ahead_ms)

    def expect(self, queue: str, after_ms: int) -> int:
        """Something of the queue may be due so long from now; said before it is asked for. When that is."""
        at_ms = self._now_ms() + after_ms
        self._expect(queue, at_ms)
        return at_ms

    def expect_at(self, queue: str, at_ms: int, now_ms: int) -> None:
        """Something of the queue is due at this time of the store's clock, which is at ``now_ms``."""
        self._ahead_ms = now_ms - self._clock.seconds() * 1000
        self._expect(queue, at_ms)

    def expect_delays(self, queue: str, messages: Sequence[NewMessage]) -> None:
        """These messages will be put in, some of them delayed: when the first is due."""
        now = self._now_ms()
        due = [
            message.deliver_at_ms or now + message.delay_ms
            for message in messages
            if message.deliver_at_ms or message.delay_ms
        ]
        if due:
            self._expect(queue, min(due))

    def hurry(self, queue: str) -> None:
        """Something of the queue is due now."""
        self.expect(queue, 0)
        self._look_in(0)

    def _expect(self, queue: str, at_ms: int) -> None:
        said = (b"%d" % at_ms, queue.encode("utf-8"))

        def heard(reply: Any) -> None:
            if isinstance(reply, StoreFull):  # leases are taken all the same, and must end
                script = (b"EVALSHA", self._full.sha, b"1", self._due_key, *said)
                self._store.send(encode(*script), self._heard)
            else:
                self._heard(reply)

        self._store.send(encode(b"ZADD", self._due_key, b"LT", *said), heard)
        if self._next is not None and self._next.active():
            wait = max(0.0, (at_ms - self._now_ms()) / 1000)
            if self._next.getTime() > self._clock.seconds() + wait:
                self._next.reset(wait)

    def _heard(self, reply: Any) -> None:
        if isinstance(reply, StoreError):
            self.log.debug("what is due: {error}", error=reply)

    # ---- looking

    def start(self) -> None:
        """Begin to look, and go on until `stop`."""
        self._running = True
        self._look_in(0)

    def stop(self) -> None:
        """Begin nothing more."""
        self._running = False
        if self._next is not None and self._next.active():
            self._next.cancel()

    def store_back(self) -> None:
        """The connection is new: what was asked may have been lost."""
        self._looking = False
        if self._running:
            self._look_in(0)

    def _look_in(self, seconds: float) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._running:
            self._next = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        if self._looking:  # the answer is awaited, and looks again
            return
        self._looking = True
        self._store.send(
            encode(
                b"EVALSHA",
                self._claim.sha,
                b"2",
                self._due_key,
                self._claimed_key,
                b"0",
                b"%d" % CLAIM_MS,
                b"%d" % CLAIMED_AT_ONCE,
            ),
            self._claimed,
        )

    def _claimed(self, reply: Any) -> None:
        self._looking = False
        if isinstance(reply, StoreError):
            if not self._failing:  # once, not ten times a second
                self.log.debug("claim: {error}", error=reply)
            self._failing = True
            self._look_in(LOOK_SECONDS)
            return
        self._failing = False
        now, following = int(reply[0]), int(float(reply[1]))
        self._ahead_ms = now - self._clock.seconds() * 1000
        for name, again in zip(reply[2::2], reply[3::2], strict=True):
            self._tick(name.decode("utf-8"), again == 1)
        wait = LOOK_SECONDS
        if following:
            wait = min(wait, max(0.0, (following - now) / 1000))
        self._look_in(wait)

    # ---- one queue

    def _tick(self, queue: str, again: bool) -> None:
        """``again``: it was looked at before."""

        def ticked(reply: Any) -> None:
            if isinstance(reply, StoreError):  # the claim falls due again
                self.log.warn("tick of {queue}: {error}", queue=queue, error=reply)
                return
            now, following, outbox = int(reply[0]), int(float(reply[1])), reply[2] == 1
            if following and following <= now:
                self._tick(queue, again)
            elif outbox:
                self._empty(queue, following)
            elif following or again:
                self._end(queue, following)
            # Else somebody may just be leasing who found the queue in the set: the claim is left to
            # fall due, and the queue looked at once more.

        self._store.send(self._scripts.call("tick", queue, []), ticked)

    def _end(self, queue: str, following: int) -> None:
        """All is done that was due; the next time first, then the end of the claim."""
        if following:
            self._expect(queue, following)
        command = encode(b"ZREM", self._claimed_key, queue.encode("utf-8"))
        self._store.send(command, self._heard)

    # ---- the outbox

    def _empty(self, queue: str, following: int, stuck: int = 0) -> None:
        """Deliver the outbox a part at a time, past the ``stuck`` first, whose queues take nothing now."""
        outbox = self._scripts.keys.outbox(queue)

        def read(reply: Any) -> None:
            if isinstance(reply, StoreError):
                self.log.warn("outbox of {queue}: {error}", queue=queue, error=reply)
            elif reply and stuck < STUCK:
                self._deliver_all(queue, _first_part(reply), delivered)
            elif stuck:
                later = self._now_ms() + LATER_MS
                self._end(queue, min(following, later) if following else later)
            elif following:
                self._end(queue, following)
            # Else the claim falls due and the queue is looked at once more, as after a tick.

        def delivered(left: int) -> None:
            self._empty(queue, following, stuck + left)

        span = (b"%d" % stuck, b"%d" % (stuck + OUTBOX_AT_ONCE - 1))
        self._store.send(encode(b"ZRANGE", outbox, *span), read)

    def _deliver_all(self, queue: str, members: list[bytes], done: Callable[[int], None]) -> None:
        """Put them where they go and take them out of the outbox; ``done`` hears how many are still there."""
        by_target: dict[str, list[tuple[bytes, Outgoing]]] = {}
        for member in members:
            outgoing = decode_outgoing(queue, member)
            by_target.setdefault(target_of(outgoing), []).append((member, outgoing))
        waiting, left = len(by_target), len(members)

        def delivered(gone: list[bytes]) -> None:
            nonlocal waiting, left
            waiting, left = waiting - 1, left - len(gone)
            if gone:
                outbox = self._scripts.keys.outbox(queue)
                self._store.send(encode(b"ZREM", outbox, *gone), self._heard)
            if waiting == 0:
                done(left)

        for target, items in by_target.items():
            self._deliver(queue, target, items, delivered)

    def _deliver(
        self,
        source: str,
        target: str,
        items: list[tuple[bytes, Outgoing]],
        delivered: Callable[[list[bytes]], None],
    ) -> None:
        messages = [arriving(source, member, outgoing) for member, outgoing in items]

        def answered(puts: list[Put] | StoreError) -> None:
            if isinstance(puts, StoreError):
                self.log.warn(
                    "from {queue} to {target}: {error}", queue=source, target=target, error=puts
                )
                delivered([])
                return
            delivered([m for (m, _), put in zip(items, puts, strict=True) if put.id])

        dead = any(outgoing.dead for _, outgoing in items)
        fields = "mode 2 max_attempts 0 dead - dlq 1" if dead else ""
        self._queues.put(target, messages, Mode.JOBS, answered, fields)


def _first_part(members: list[bytes]) -> list[bytes]:
    """The first of them, about as many bytes as one script call takes."""
    size = 0
    for count, member in enumerate(members):
        size += len(member)
        if size > MAX_BYTES and count:
            return members[:count]
    return members


def target_of(outgoing: Outgoing) -> str:
    """The queue a message goes to."""
    if outgoing.target:
        return outgoing.target
    if outgoing.dead:
        return f"{outgoing.message.queue}.dead"
    origin = _headers(outgoing).get(ORIGIN, "")
    queue = origin.rpartition(":")[0]
    return queue or outgoing.message.queue.removesuffix(".dead")


def arriving(source: str, member: bytes, outgoing: Outgoing) -> NewMessage:
    """The message as it is put into its new queue: a dead letter says where it comes from and why."""
    message, headers = outgoing.message, dict(_headers(outgoing))
    if outgoing.dead:
        headers |= {
            ORIGIN: message_key(source, message.id),
            REASON: "rejected" if outgoing.rejected else "max_attempts",
            ATTEMPTS: str(message.attempt),
        }
        if message.error:
            headers[ERROR] = message.error
    else:
        for name in (ORIGIN, REASON, ATTEMPTS, ERROR):
            headers.pop(name, None)
    key = hashlib.blake2b(
        encode_arguments(b"outbox", source.encode("utf-8"), member),
        digest_size=16,
    )
    return NewMessage(
        message.body or b"",
        message.content_type,
        priority=-message.priority,
        headers=orjson.dumps(headers) if headers else b"",
        key=key.digest(),
    )


def _headers(outgoing: Outgoing) -> Mapping[str, str]:
    headers = outgoing.message.headers
    return orjson.loads(headers) if headers else {}
