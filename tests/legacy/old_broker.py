"""The RestMQ of 2010-2015 as far as its database shows: the same commands in the same order.

What it wrote was recorded command by command; ``/stats/`` and the like do not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence

import valkey


class OldBroker:
    """Writes into a database what the old daemon wrote. Names and values are bytes."""

    def __init__(self, store: valkey.Valkey) -> None:
        self.store = store

    def number(self, queue: bytes) -> int:
        """The first step of an add: its number. The message is nowhere yet."""
        return int(self.store.incrby(queue + b":UUID", 1))

    def finish(self, queue: bytes, number: int, value: bytes, ttl: int | None = None) -> None:
        """The other steps of an add."""
        key = b"%s:%d" % (queue, number)
        self.store.set(key, value)
        if ttl is not None:
            self.store.expire(key, ttl)
        if number == 1:
            self.store.sadd("QUEUESET", queue)
            self.store.set(b"queuestat::" + queue, 1)
        self.store.lpush(queue + b":queue", key)

    def add(self, queue: bytes, value: bytes, ttl: int | None = None) -> int:
        """POST /q/QUEUE."""
        number = self.number(queue)
        self.finish(queue, number, value, ttl)
        return number

    def add_with_bad_ttl(self, queue: bytes, value: bytes) -> None:
        """POST with ttl=abc: it broke off half-way."""
        self.store.set(b"%s:%d" % (queue, self.number(queue)), value)

    def add_many(self, queue: bytes, values: Sequence[bytes]) -> None:
        """The same as many adds to a queue that is new, in a few commands."""
        pipe = self.store.pipeline(transaction=False)
        pipe.incrby(queue + b":UUID", len(values))
        keys = [b"%s:%d" % (queue, n) for n in range(1, len(values) + 1)]
        pipe.mset(dict(zip(keys, values, strict=True)))
        pipe.sadd("QUEUESET", queue)
        pipe.set(b"queuestat::" + queue, 1)
        pipe.lpush(queue + b":queue", *keys)
        pipe.execute()

    def get(self, queue: bytes) -> bytes | None:
        """GET /q/QUEUE: the body stays."""
        key = self.store.rpop(queue + b":queue")
        return None if key is None else self.store.get(key)

    def take(self, queue: bytes) -> None:
        """The JSON take: the body goes, by way of a lock."""
        key = self.store.rpop(queue + b":queue")
        self.store.rename(key, key + b":lock")
        self.store.delete(key + b":lock")

    def crash_while_taking(self, queue: bytes) -> None:
        """A take that never came to its end."""
        key = self.store.rpop(queue + b":queue")
        self.store.rename(key, key + b":lock")

    def look(self, queue: bytes) -> None:
        """The JSON get: counts the looks."""
        key = self.store.lindex(queue + b":queue", -1)
        self.store.incrby(key + b":refcount", 1)

    def delete_message(self, key: bytes) -> None:
        """The JSON del: the list entry stays."""
        self.store.delete(key)

    def purge(self, queue: bytes) -> None:
        """DELETE /q/QUEUE."""
        self.store.delete(queue + b":queue")

    def set_policy(self, queue: bytes, policy: int) -> None:
        """POST /p/QUEUE; 1 broadcast, 2 round robin."""
        self.store.set(queue + b":queuepolicy", policy)

    def stop(self, queue: bytes) -> None:
        """POST /control/QUEUE, status=stop."""
        self.store.set(b"queuestat::" + queue, 0)

    def everything(self) -> dict[bytes, tuple[bytes, bool]]:
        """All keys with their contents and whether they will expire."""
        return {
            key: (self.store.dump(key), self.store.pttl(key) > 0) for key in self.store.keys("*")
        }
