"""Work queues: put with delay or priority, receive under a lease, ack, nack, extend, look inside.

Every operation is one script call; what a reactor turn brings for a queue goes in one. An operation
fails with a StoreError: after StoreAway and StoreFull nothing changed, after OutcomeUnknown it may have
happened (a lease nobody knows of ends by itself; a put may be tried again under its key).

What time brings (leases that end, delayed messages that are due) is `restmq.core.reaper`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core import asking, commands
from restmq.core.queues import MAX_BYTES, MAX_MESSAGES, Queues
from restmq.core.reaper import Reaper
from restmq.core.receipts import LEASED, Receipt
from restmq.core.scripted import QueueScripts
from restmq.core.verdicts import (
    COUNTED,
    STALE,
    UNDO,
    Once,
    Outcome,
    Verb,
    Verdicts,
    Words,
    fingerprint,
    outcome,
    words_of,
)
from restmq.core.wire import decode_entry
from restmq.errors import (
    Limited,
    OutcomeUnknown,
    QueueFull,
    RateLimited,
    StoreAway,
    StoreError,
    StoreFull,
    StoreRefused,
)
from restmq.message import Message, Mode, NewMessage, Put
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode, encode_arguments

USUAL_LEASE_MS = 30000
SOON_MS = 1000
"""When the queue is looked at if we die before we know more."""

CLOCK_MS = 20
"""What we take the store's clock for may be off by so much."""

UNPUT = {
    StoreAway: "store_away",
    OutcomeUnknown: "outcome_unknown",
    StoreFull: "store_full",
    StoreRefused: "store_refused",
}
"""The errors of messages whose call met a StoreError while others of their batch are in."""


class Leased(NamedTuple):
    """A message in somebody's hands until ``until_ms``; ``message.attempt`` counts from 1."""

    message: Message
    receipt: Receipt
    until_ms: int


class Found(NamedTuple):
    """A message where it lies: ``state`` is ready, leased or delayed; ``due_ms`` when that ends, or 0."""

    message: Message
    state: str
    due_ms: int


class Page(NamedTuple):
    """Some of what was found; ``cursor`` asks for the next page, None: that was all."""

    found: list[Found]
    cursor: str | None


class Asked(NamedTuple):
    """What an ask brought; ``retry_ms``: try again then, whatever comes (0: when something comes)."""

    leased: list[Leased]
    retry_ms: int


class _Ask(NamedTuple):
    """Somebody who wants messages of a queue in this turn."""

    limit: int
    lease_ms: int
    answer: Callable[[Asked | StoreError], None]


class Jobs:
    """The operations of work queues, batched per reactor turn."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        scripts: QueueScripts,
        queues: Queues,
        reaper: Reaper,
        *,
        usual_lease_ms: int = USUAL_LEASE_MS,
    ) -> None:
        """``queues`` has the plain operations; ``reaper`` is told when to look at a queue again.

        ``usual_lease_ms`` is the lease where neither who asks nor the queue's settings say.
        """
        self._usual_lease_ms = usual_lease_ms
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._queues = queues
        self._reaper = reaper
        self._asks: dict[tuple[str, int], list[_Ask]] = {}
        self._received = Verdicts(
            "settle",
            LEASED,
            store,
            scripts,
            begins=self._schedule,
            before=self._expect,
            heard=self._settled,
        )
        self._dealt = Verdicts(
            "ack",
            0,
            store,
            scripts,
            begins=self._schedule,
            before=self._expect,
            heard=self._acknowledged,
        )
        self._flush_due = False

    # ---- put

    def put(
        self, queue: str, messages: Sequence[NewMessage], mode: Mode = Mode.JOBS
    ) -> Deferred[list[Put]]:
        """Put messages in, each by itself, in their order; what became of each.

        A new queue gets this mode. Up to MAX_MESSAGES or MAX_BYTES of them are put in together. Where some of
        these calls met a StoreError, their messages have it as error (UNPUT). Fails with a StoreError when
        all did: OutcomeUnknown if any did.
        """
        if len(messages) == 1 and _is_plain(messages[0]):
            return self._put_plain(queue, messages[0], mode)
        result: Deferred[list[Put]] = Deferred()
        parts = list(_parts(messages))
        answers: dict[int, list[Put] | StoreError] = {}

        def answered(place: int, answer: list[Put] | StoreError) -> None:
            answers[place] = answer
            if len(answers) == len(parts):
                _answer_all(result, [(parts[at], answers[at]) for at in range(len(parts))])

        if not parts:
            result.callback([])
        for place, part in enumerate(parts):
            self._put(queue, part, mode, partial(answered, place))
        return result

    def _put_plain(self, queue: str, message: NewMessage, mode: Mode) -> Deferred[list[Put]]:
        """One that says nothing but body, type and time to live goes in with all others of its turn."""
        added = self._queues.add(queue, message.body, message.ttl_ms, message.content_type, mode)

        def refused(failure: Failure) -> list[Put] | Failure:
            error = failure.value
            if isinstance(error, RateLimited):
                return [Put(error="rate_limited", retry_ms=error.retry_ms)]
            return [Put(error="queue_full")] if isinstance(error, QueueFull) else failure

        return added.addCallbacks(lambda number: [Put(number)], refused)

    def _put(
        self,
        queue: str,
        messages: Sequence[NewMessage],
        mode: Mode,
        answer: Callable[[list[Put] | StoreError], None],
    ) -> None:
        if any(m.delay_ms or m.deliver_at_ms or m.priority or m.key for m in messages):
            self._reaper.expect_delays(queue, messages)
            self._queues.put(queue, messages, mode, answer)
            return

        def added(first: int | StoreError) -> None:
            if isinstance(first, Limited):
                self._queues.put(queue, messages, mode, answer)
            elif isinstance(first, StoreError):
                answer(first)
            else:
                answer([Put(number) for number in range(first, first + len(messages))])

        self._queues.add_many(queue, messages, mode, added)

    # ---- receive

    def ask(
        self,
        queue: str,
        wanted: tuple[int, int | None, int],
        answer: Callable[[Asked | StoreError], None],
        key: bytes = b"",
    ) -> None:
        """Take messages under a lease, as many as there are, perhaps none.

        ``wanted``: how many at most; the lease in ms, None for the queue's own; for how many ms the queue then
        tells its daemons when something comes (`restmq.core.waiting`), 0 for not at all. ``key`` is the digest of an idempotency key: a repeat gets what is
        still leased of what the first call got.
        """
        limit, lease_ms, waits_ms = wanted
        ask = _Ask(limit, -self._usual_lease_ms if lease_ms is None else lease_ms, answer)
        if key:
            self._send_asks(queue, waits_ms, [ask], key)
            return
        asks = self._asks.get((queue, waits_ms))
        if asks is None:
            asks = self._asks[queue, waits_ms] = []
            self._schedule()
        asks.append(ask)

    def forget(self, queue: str, key: bytes) -> None:
        """What an ask under this key got is given back: the next under it takes anew."""

        def forgotten(reply: Any) -> None:
            if isinstance(reply, StoreError):  # it ends with the lease
                self.log.debug("key of {queue}: {error}", queue=queue, error=reply)

        name = self._scripts.keys.idempotency(queue, b"r" + key)
        self._store.send(encode(b"DEL", name), forgotten)

    def _send_asks(self, queue: str, waits_ms: int, asks: list[_Ask], key: bytes = b"") -> None:
        shortest = min(abs(ask.lease_ms) for ask in asks)
        expected = self._reaper.expect(queue, shortest)
        keys = [self._scripts.keys.idempotency(queue, b"r" + key)] if key else []
        arguments = [b"%d" % waits_ms]
        for ask in asks:
            arguments += [b"%d" % ask.limit, b"%d" % ask.lease_ms]
        command = self._scripts.call_encoded(
            "receive", queue, len(arguments), encode_arguments(*arguments), keys
        )

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                for ask in asks:
                    ask.answer(reply)
                return
            received = commands.receive_answer(reply)
            if received.again:  # for those who got nothing, before the others ask for more
                hungry = [
                    ask for ask, group in zip(asks, received.groups, strict=True) if not group[1]
                ]
                self._send_asks(queue, waits_ms, hungry, key)
            for ask, (until_ms, entries) in zip(asks, received.groups, strict=True):
                if received.again and not entries:
                    continue
                leased = [self._leased(queue, received.epoch, entry, until_ms) for entry in entries]
                if leased and until_ms < expected - CLOCK_MS:
                    self._reaper.expect_at(queue, until_ms, received.now_ms)
                ask.answer(Asked(leased, received.retry_ms))

        self._store.send(command, replied)

    def _leased(self, queue: str, epoch: int, item: bytes, until_ms: int) -> Leased:
        message = decode_entry(queue, item[7:])
        number = int.from_bytes(item[:7], "big")
        return Leased(message, Receipt(queue, epoch, LEASED + number, message.id), until_ms)

    # ---- ack, nack, extend

    def settle(self, receipts: Sequence[Receipt], verb: Verb) -> Deferred[list[bool]]:
        """Say what became of messages; for each receipt whether it counted. A stale one changes nothing.

        They may be of several queues, and of messages that a stream handed out.
        Fails with the first StoreError; some may have counted.
        """
        settled = self._settle_all(receipts, verb, b"")
        return settled.addCallback(lambda words: [word == COUNTED for word in words])

    def settle_once(self, receipts: Sequence[Receipt], verb: Verb, key: bytes) -> Deferred[Outcome]:
        """The same, under the digest of an idempotency key: a repeat changes nothing more.

        Each queue keeps the answer by itself, as long as its setting ``dedup`` says, if any of its receipts counted.
        With another word or other receipts under the same key nothing counts there. At most MAX_MESSAGES receipts.
        """
        return self._settle_all(receipts, verb, key).addCallback(outcome)

    def _settle_all(
        self, receipts: Sequence[Receipt], verb: Verb, key: bytes
    ) -> Deferred[list[int]]:
        result: Deferred[list[int]] = Deferred()
        counted = [STALE] * len(receipts)
        parts = _by_queue(receipts)
        left = len(parts)
        common = fingerprint(receipts, verb) if key else b""
        words = words_of(verb)
        dealt_words = words._replace(word=b"nack") if verb is UNDO else words

        def answered(places: list[int], reply: StoreError | Sequence[int]) -> None:
            nonlocal left
            left -= 1
            if isinstance(reply, StoreError):
                if not result.called:
                    result.errback(reply)
                return
            for place, one in zip(places, reply, strict=True):
                counted[place] = one
            if left == 0 and not result.called:
                result.callback(counted)

        if not parts:
            result.callback(counted)
        for queue, leased, places in parts:
            some = [receipts[place] for place in places]
            once = self._once(queue, leased, key, common)
            if leased:
                self._received.say(queue, words, some, partial(answered, places), once)
            else:
                self._dealt.say(queue, dealt_words, some, partial(answered, places), once)
        return result

    def _once(self, queue: str, leased: bool, key: bytes, common: bytes) -> Once | None:
        if not key:
            return None
        digest = (b"s" if leased else b"a") + key
        return Once(self._scripts.keys.idempotency(queue, digest), common)

    def _expect(self, queue: str, words: Words) -> None:
        """What is about to be said may be due again: before it is, so that a daemon that dies then loses nothing."""
        if words.word == b"nack":
            self._reaper.expect(queue, words.ms if words.ms > 0 else SOON_MS)
        elif words.word == b"extend":
            self._reaper.expect(queue, words.ms)

    def _settled(self, queue: str, reply: Any) -> Sequence[int]:
        """The reply of settle.lua."""
        now, due, outbox = map(int, reply[:3])
        if outbox:
            self._reaper.hurry(queue)
        elif due:
            self._reaper.expect_at(queue, due, now)
        told: Sequence[int] = reply[3:]
        return told

    def _acknowledged(self, queue: str, reply: Any) -> Sequence[int]:
        """The reply of ack.lua."""
        due_in, outbox = map(int, reply[:2])
        if due_in or outbox:
            self._reaper.expect(queue, 0 if outbox else due_in)
        told: Sequence[int] = reply[2:]
        return told

    # ---- the turn

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Send what this turn brought: first what frees, then who asks, behind the turn's adds."""
        self._flush_due = False
        asks, self._asks = self._asks, {}
        self._dealt.flush()
        self._queues.flush()
        self._received.flush()
        for (queue, waits_ms), some in asks.items():
            for start in range(0, len(some), MAX_MESSAGES):
                self._send_asks(queue, waits_ms, some[start : start + MAX_MESSAGES])
        self._store.flush()

    # ---- look inside

    def browse(self, queue: str, state: str, cursor: str, limit: int) -> Deferred[Page]:
        """A page of messages that are ``ready``, ``leased`` or ``delayed``, none of them taken.

        Ready ones in the order they will be handed out, others by when their time is over. ``limit`` is 1 to
        MAX_MESSAGES; a page ends earlier when it is 1 MiB long. Raises BadRequest for a foreign cursor.
        """
        after = commands.browse_cursor(state, cursor)
        return self._look(
            "browse",
            queue,
            [state.encode("ascii"), after, b"%d" % limit],
            lambda reply: _page(queue, state, reply),
        )

    def find(self, queue: str, number: int) -> Deferred[Found | None]:
        """The message with this id, wherever it lies; None if it does not."""

        def found(reply: Any) -> Found | None:
            _, state, due, entry = reply
            if not state:
                return None
            return Found(decode_entry(queue, entry), state.decode("ascii"), int(due))

        return self._look("find", queue, [b"%d" % number], found)

    def release(self, queue: str, number: int) -> Deferred[bool]:
        """Make a leased or delayed message ready at once; False if it is neither."""
        return self._queues.once("release", queue, [b"%d" % number], lambda reply: bool(reply == 1))

    def redrive(self, queue: str, to: str, limit: int) -> Deferred[int]:
        """Send up to ``limit`` (1 to MAX_MESSAGES) ready messages of a dead-letter queue away; how many went.

        ``to`` "" sends each to where it came from. They are on their way, in the outbox, and arrive once;
        their attempts count from 1 again.
        """
        self._reaper.expect(queue, 0)

        def moved(reply: Any) -> int:
            if reply[0]:
                self._reaper.hurry(queue)
            return int(reply[0])

        arguments = [to.encode("utf-8"), b"%d" % limit]
        return self._queues.until_complete("redrive", queue, arguments, lambda r: r[1] == 1, moved)

    def _look(
        self, script: str, queue: str, arguments: list[bytes], value: Callable[[Any], Any]
    ) -> Deferred[Any]:
        command = self._scripts.call(script, queue, arguments)
        return asking.ask(self._store.read, command).addCallback(value)


def _answer_all(
    result: Deferred[list[Put]],
    parts: Sequence[tuple[Sequence[NewMessage], list[Put] | StoreError]],
) -> None:
    """What became of the messages of all calls."""
    errors = [answer for _, answer in parts if isinstance(answer, StoreError)]
    if len(errors) == len(parts):
        unknown = (error for error in errors if isinstance(error, OutcomeUnknown))
        result.errback(next(unknown, errors[0]))
        return
    puts: list[Put] = []
    for messages, answer in parts:
        if isinstance(answer, StoreError):
            word = UNPUT.get(type(answer), UNPUT[StoreRefused])
            puts += [Put(error=word)] * len(messages)
        else:
            puts += answer
    result.callback(puts)


def _is_plain(message: NewMessage) -> bool:
    _, _, _, delay_ms, deliver_at_ms, priority, headers, key = message
    return not (delay_ms or deliver_at_ms or priority or headers or key)


def _parts(messages: Sequence[NewMessage]) -> list[Sequence[NewMessage]]:
    """In order, as many at a time as one script call takes."""
    if len(messages) <= MAX_MESSAGES and sum(len(m.body) for m in messages) <= MAX_BYTES:
        return [messages] if messages else []
    parts: list[Sequence[NewMessage]] = []
    start = size = 0
    for at, message in enumerate(messages):
        if at > start and (at - start == MAX_MESSAGES or size + len(message.body) > MAX_BYTES):
            parts.append(messages[start:at])
            start, size = at, 0
        size += len(message.body)
    parts.append(messages[start:])
    return parts


def _by_queue(receipts: Sequence[Receipt]) -> list[tuple[str, bool, list[int]]]:
    """The places of receipts that go into one script call: queue, whether of a receive, places."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, receipt in enumerate(receipts):
        groups.setdefault((receipt.queue, receipt.pos >= LEASED), []).append(place)
    return [
        (queue, leased, places[start : start + MAX_MESSAGES])
        for (queue, leased), places in groups.items()
        for start in range(0, len(places), MAX_MESSAGES)
    ]


def _page(queue: str, state: str, reply: Any) -> Page:
    found = []
    for item in reply[2:]:
        if state == "ready":
            found.append(Found(decode_entry(queue, item), state, 0))
        else:
            due = int.from_bytes(item[1:7], "big")
            found.append(Found(decode_entry(queue, item[14:]), state, due))
    return Page(found, commands.cursor_text(state, reply[1]))
