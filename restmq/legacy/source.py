"""The old broker's database, only ever read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from restmq.errors import StoreError, StoreRefused
from restmq.legacy import layout
from restmq.legacy.layout import Census
from restmq.redis.blocking import BlockingConnection
from restmq.redis.pipeline import encode

SLICE = 1000
"""Entries of a list, or messages, that are read at a time."""
BATCH_BYTES = 1 << 20
_SCAN = b"5000"


class OldQueue(NamedTuple):
    """What stands about a queue beside its messages; ``last`` is the highest number given.

    ``started`` and ``policy`` are None where nothing that means anything stands.
    """

    name: bytes
    last: int
    waiting: int
    started: bool | None
    policy: int | None


class Body(NamedTuple):
    """A message; ``ttl_ms`` 0 is for ever. Body None: it is gone; ``readable``: else no string."""

    number: int
    body: bytes | None
    ttl_ms: int
    readable: bool


class OldBroker:
    """The queues of one old database. Every method may raise StoreError."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._connection = connection

    def listed(self) -> set[bytes]:
        """The queues that the old broker lists."""
        return set(self._connection.ask(b"SMEMBERS", layout.QUEUES))

    def census(self, tell: Callable[[int, int], None]) -> Census:
        """Look at every key once; ``tell`` hears how many of how many."""
        found, cursor, seen = Census(), b"0", 0
        total = int(self._connection.ask(b"DBSIZE"))
        try:
            found.listed |= self.listed()
            while True:
                cursor, keys = self._connection.ask(b"SCAN", cursor, b"COUNT", _SCAN)
                found.look(keys)
                seen += len(keys)
                tell(min(seen, total), total)
                if cursor == b"0":
                    break
        except StoreRefused as error:
            raise StoreRefused(f"the old database can't be listed: {error}") from error
        return found

    def queues(self, names: Sequence[bytes]) -> list[OldQueue]:
        """What stands about these queues."""
        commands = []
        for name in names:
            commands += [
                encode(b"GET", layout.counter_key(name)),
                encode(b"LLEN", layout.list_key(name)),
                encode(b"GET", layout.status_key(name)),
                encode(b"GET", layout.policy_key(name)),
            ]
        replies = [_checked(reply) for reply in self._ask_in_slices(commands)]
        return [_queue(name, *replies[4 * n : 4 * n + 4]) for n, name in enumerate(names)]

    def _ask_in_slices(self, commands: list[bytes]) -> list[Any]:
        replies = []
        for start in range(0, len(commands), SLICE):
            replies += self._connection.ask_all(commands[start : start + SLICE])
        return replies

    def newest_entries(self, name: bytes) -> Iterator[list[bytes]]:
        """The entries of a queue's list in slices, newest first.

        While others write, an entry may come twice, and one that came after the beginning not
        at all; one that was there all the time is never left out.
        """
        at = 0
        while entries := self._slice(name, at):
            yield entries
            if len(entries) < SLICE:
                return
            at += len(entries)

    def _slice(self, name: bytes, at: int) -> list[bytes]:
        key = layout.list_key(name)
        reply = self._connection.ask_all(
            [encode(b"LRANGE", key, b"%d" % at, b"%d" % (at + SLICE - 1))]
        )[0]
        entries = _checked(reply)
        return entries if isinstance(entries, list) else []

    def bodies(self, name: bytes, numbers: Sequence[int]) -> Iterator[list[Body]]:
        """The messages of these numbers, in order, at most SLICE or BATCH_BYTES and one at a time."""
        for start in range(0, len(numbers), SLICE):
            some = numbers[start : start + SLICE]
            keys = [layout.body_key(name, number) for number in some]
            asked = [encode(b"STRLEN", key) for key in keys]
            asked += [encode(b"PTTL", key) for key in keys]
            replies = self._connection.ask_all(asked)
            sizes, ttls = replies[: len(keys)], replies[len(keys) :]
            for low, high in _by_size(sizes):
                yield self._read(some[low:high], keys[low:high], sizes[low:high], ttls[low:high])

    def _read(
        self, numbers: Sequence[int], keys: list[bytes], sizes: list[Any], ttls: list[Any]
    ) -> list[Body]:
        found = self._connection.ask(b"MGET", *keys)
        return [
            Body(number, body, _ttl(_checked(ttl)), not isinstance(_checked(size), StoreError))
            for number, body, size, ttl in zip(numbers, found, sizes, ttls, strict=True)
        ]


def _queue(name: bytes, counter: Any, waiting: Any, status: Any, policy: Any) -> OldQueue:
    last = layout.number(counter) if isinstance(counter, bytes) else None
    return OldQueue(
        name,
        last or 0,
        waiting if isinstance(waiting, int) else 0,
        {b"1": True, b"0": False}.get(status) if isinstance(status, bytes) else None,
        {b"1": 1, b"2": 2}.get(policy) if isinstance(policy, bytes) else None,
    )


def _checked(reply: Any) -> Any:
    """A reply, which may be the error that the key is of another type; other errors are raised."""
    if isinstance(reply, StoreError) and not str(reply).startswith("WRONGTYPE"):
        raise reply
    return reply


def _ttl(reply: Any) -> int:
    """Milliseconds to live; 0 for ever. One that is about to end has one left."""
    return max(reply, 1) if isinstance(reply, int) and reply >= 0 else 0


def _by_size(sizes: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Cut a row of messages so that each part is at most BATCH_BYTES, or one message."""
    start, size = 0, 0
    for at, each in enumerate(sizes):
        bytes_ = each if isinstance(each, int) else 0
        if at > start and size + bytes_ > BATCH_BYTES:
            yield start, at
            start, size = at, 0
        size += bytes_
    if start < len(sizes):
        yield start, len(sizes)
