"""How many queues there are, and whether ``/v1`` may make one more.

They are counted when the room that the last count found is used up, so the bound is exact for one daemon, and
several together may pass it by what they made since they counted. Historic doors are not asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from twisted.internet.defer import DeferredLock, gatherResults
from twisted.internet.interfaces import IReactorTime

from restmq.core.asking import ask, first_error
from restmq.errors import TooManyQueues
from restmq.redis.connection import Store
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode

FULL_SECONDS = 1.0
"""For so long nobody counts again when there was no room."""

T = TypeVar("T")


class Census:
    """The bound on queues."""

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        keys: Keys,
        most: int,
        listed: Callable[[], Collection[str]],
    ) -> None:
        """``listed`` are the queues that this daemon has put into: they are there."""
        self._clock = clock
        self._store = store
        self._keys = keys
        self._most = most
        self._listed = listed
        self._room = 0
        self._full_until = 0.0
        self._lock = DeferredLock()

    def admits(self, queue: str) -> bool:
        """Whether something may be done at once that makes the queue if it is not there; else `then`."""
        if self._lock.locked:  # in their order
            return False
        if queue in self._listed():
            return True
        if self._room > 0:
            self._room -= 1
            return True
        return False

    async def then(self, queue: str, make: Callable[[], Awaitable[T]]) -> T:
        """Do it if there is room or the queue is there; those who wait come in their order.

        Raises TooManyQueues. Fails with a StoreError.
        """
        await self._lock.acquire()
        try:
            await self._look(queue)
            made = make()
        finally:
            self._lock.release()
        return await made

    async def _look(self, queue: str) -> None:
        if queue in self._listed():
            return
        known = encode(b"HEXISTS", self._keys.base(queue), b"id")
        if await ask(self._store.read, known):
            return
        if self._room <= 0 and self._clock.seconds() >= self._full_until:
            asked = [
                ask(self._store.read, encode(b"SCARD", shard)) for shard in self._keys.shards()
            ]
            counts = await gatherResults(asked, consumeErrors=True).addErrback(first_error)
            self._room = self._most - sum(counts)
            self._full_until = self._clock.seconds() + FULL_SECONDS
        if self._room <= 0:
            raise TooManyQueues(f"there are {self._most} queues already (--max-queues)")
        self._room -= 1
