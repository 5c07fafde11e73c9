"""What is said of messages that were handed out: done, not done, or that it takes longer.

What a turn brings of a queue with the same words is one script call for each MAX_MESSAGES of them; what
is said under an idempotency key is one by itself.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from restmq.core.queues import MAX_MESSAGES
from restmq.core.receipts import Receipt
from restmq.core.scripted import QueueScripts
from restmq.errors import StoreError
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode_arguments

MAX_REASON = 1000
"""Bytes of what is kept of a reason."""

STALE, COUNTED, WAS_STALE, HAD_COUNTED, KEY_REUSED = range(5)
"""What settle.lua and ack.lua say of a receipt; the last three only where there is a key."""

Answered = Callable[[StoreError | Sequence[int]], None]
"""Hears what became of each receipt."""


class Ack(NamedTuple):
    """Done: the message is gone."""


class Nack(NamedTuple):
    """Not done: ready again after ``delay_ms`` (None: the queue's backoff); ``reason`` is kept with it."""

    delay_ms: int | None = None
    reason: str = ""


class Extend(NamedTuple):
    """The lease ends ``lease_ms`` from now."""

    lease_ms: int


class _Undo(NamedTuple):
    """It was never handed out: ready at once, and the attempt does not count."""


Verb = Ack | Nack | Extend | _Undo

UNDO = _Undo()


class Words(NamedTuple):
    """What the scripts are told: the word, a delay or a lease in ms (-1: the queue's), a reason."""

    word: bytes
    ms: int = 0
    reason: bytes = b""


def words_of(verb: Verb) -> Words:
    """As settle.lua knows them."""
    match verb:
        case Ack():
            return Words(b"ack")
        case Nack(delay_ms, reason):
            return Words(b"nack", -1 if delay_ms is None else delay_ms, cut(reason))
        case Extend(lease_ms):
            return Words(b"extend", lease_ms)
        case _Undo():
            return Words(b"undo")


def cut(reason: str) -> bytes:
    """As much of a reason as is kept, still UTF-8."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore").encode("utf-8")


class Outcome(NamedTuple):
    """What became of receipts: "" for each that counted, else ``stale_receipt`` or ``key_reused``.

    ``replayed``: it was said before, under the same key, and this is the answer of then.
    """

    codes: list[str]
    replayed: bool


def outcome(told: Sequence[int]) -> Outcome:
    """What the scripts said under an idempotency key."""
    codes = {COUNTED: "", HAD_COUNTED: "", KEY_REUSED: "key_reused"}
    replayed = any(one in (WAS_STALE, HAD_COUNTED) for one in told)
    return Outcome([codes.get(one, "stale_receipt") for one in told], replayed)


class Once(NamedTuple):
    """A key of the store that keeps the first answer, and what a call must have in common to be a repeat."""

    key: bytes
    fingerprint: bytes


def fingerprint(receipts: Sequence[Receipt], verb: Verb) -> bytes:
    """What two calls under one key have in common if the second is a repeat."""
    said = repr((tuple(words_of(verb)), [tuple(receipt) for receipt in receipts]))
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


class _Batch:
    """Receipts of one queue that are said the same of, in one call."""

    __slots__ = ("arguments", "count", "waiting")

    def __init__(self) -> None:
        self.arguments: list[bytes] = []
        self.waiting: list[tuple[int, Answered]] = []
        self.count = 0

    def take(self, receipts: Sequence[Receipt], first: int, answered: Answered) -> None:
        """These too; their places are numbered from ``first``."""
        self.count += len(receipts)
        for _, epoch, pos, number in receipts:
            self.arguments += [b"%d" % epoch, b"%d" % (pos - first), b"%d" % number]
        self.waiting.append((len(receipts), answered))


class Verdicts:
    """What is said through one script: settle.lua of what was received, ack.lua of what a stream handed out."""

    def __init__(
        self,
        script: str,
        first: int,
        store: Store,
        scripts: QueueScripts,
        *,
        begins: Callable[[], None],
        before: Callable[[str, Words], None],
        heard: Callable[[str, Any], Sequence[int]],
    ) -> None:
        """``first``: where the script's numbers of places begin. ``begins`` is called when there is something for `flush`.

        ``before`` is told what is about to be said of a queue; ``heard`` gets the reply and gives what it says of
        each receipt.
        """
        self._script = script
        self._first = first
        self._store = store
        self._scripts = scripts
        self._begins = begins
        self._before = before
        self._heard = heard
        self._turn: dict[tuple[str, Words], list[_Batch]] = {}

    def say(
        self,
        queue: str,
        words: Words,
        receipts: Sequence[Receipt],
        answered: Answered,
        once: Once | None = None,
    ) -> None:
        """Say it of up to MAX_MESSAGES messages with this turn; at once if it counts ``once``."""
        if once:
            alone = _Batch()
            alone.take(receipts, self._first, answered)
            self._send(queue, words, alone, once)
            return
        batches = self._turn.get((queue, words))
        if batches is None:
            batches = self._turn[queue, words] = [_Batch()]
            self._begins()
        if batches[-1].count + len(receipts) > MAX_MESSAGES:
            batches.append(_Batch())
        batches[-1].take(receipts, self._first, answered)

    def flush(self) -> None:
        """Send what this turn brought."""
        turn, self._turn = self._turn, {}
        for (queue, words), batches in turn.items():
            for batch in batches:
                self._send(queue, words, batch)

    def _send(self, queue: str, words: Words, batch: _Batch, once: Once | None = None) -> None:
        self._before(queue, words)
        chance = b"%f" % random.random()  # noqa: S311 - for the jitter of a delay
        arguments = [words.word, b"%d" % words.ms, words.reason, chance, *batch.arguments]
        keys = []
        if once:
            keys.append(once.key)
            arguments.append(once.fingerprint)

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                for _, answered in batch.waiting:
                    answered(reply)
                return
            told, start = self._heard(queue, reply), 0
            for count, answered in batch.waiting:
                answered(told[start : start + count])
                start += count

        command = self._scripts.call_encoded(
            self._script, queue, len(arguments), encode_arguments(*arguments), keys
        )
        self._store.send(command, replied)
