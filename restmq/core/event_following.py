"""Following a log: its channel, and the tail that is filled from it.

Each chunk on the channel names the id before it, so a chunk that was not heard shows at once: what comes
is held then, until what lies between is read from the store.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.asking import Retries
from restmq.core.event_reading import PAGE, Recent, StoredLog
from restmq.core.event_subscribers import Subscribers
from restmq.core.event_tail import Query, Tail
from restmq.core.event_wire import Chunk, State, decode_chunk
from restmq.errors import StoreError
from restmq.event import EventCursor
from restmq.redis.pipeline import encode
from restmq.rules.selection import Selection

BEHIND: Final = 10_000
"""A tail that is further behind begins anew; its subscribers read the store by themselves."""

HELD: Final = 1000
"""Chunks that wait while what was before them is read."""

HELD_BYTES: Final = 33_554_432
"""And about their bytes; beyond either they are read from the store as well."""


class Following:
    """This daemon's ear on one log."""

    log = Logger()

    def __init__(
        self, stored: StoredLog, recent: Recent, subscribers: Subscribers, retries: Retries
    ) -> None:
        """``subscribers`` are pushed what comes."""
        self.channel: bytes = stored.scripts.keys.log_channel(stored.name)
        self.wanted = False
        self._stored = stored
        self._recent = recent
        self._subscribers = subscribers
        self._retries = retries
        self._joined = False
        self._filling = False
        self._fill_again = False
        self._held: list[Chunk] = []

    def begin(self) -> None:
        """Listen to the log's channel, if we do not yet."""
        if not self.wanted:
            self.wanted = True
            self._stored.store.listen(encode(b"SUBSCRIBE", self.channel))

    def end(self) -> None:
        """Nobody reads the log any more: forget what was heard."""
        if self.wanted:
            self._stored.store.listen(encode(b"UNSUBSCRIBE", self.channel))
        self.wanted = False
        self.deaf()
        self._recent.tail = None

    def deaf(self) -> None:
        """Nothing comes on the channel from here on."""
        self._joined = False
        self._recent.lost()
        self._held.clear()

    def connected(self) -> None:
        """The connection of the channels is new."""
        if self.wanted:
            self._stored.store.listen(encode(b"SUBSCRIBE", self.channel))

    def perhaps_another_store(self) -> None:
        """The connection that writes is new: what was heard may be of another store."""
        if self._joined:
            self._recent.lost()
            self._fill()

    def heard(self, kind: bytes, content: Any) -> None:
        """Something came on the channel."""
        if not self.wanted:
            return  # it was under way when we left
        if kind == b"subscribe":
            self._joined = True
            self._fill()
        elif kind == b"message":
            self._chunk(decode_chunk(content))

    def _chunk(self, chunk: Chunk) -> None:
        self._stored.saw(chunk.epoch, chunk.last)
        tail = self._recent.tail
        if not self._recent.live or tail is None:
            self._held.append(chunk)
            if len(self._held) > HELD or sum([each.size for each in self._held]) > HELD_BYTES:
                self._held.clear()
                if tail is not None and not self._filling:
                    self._fill()
            return
        if chunk.epoch < tail.epoch:
            return  # of a life that is over
        if not (tail.epoch or chunk.prev):  # the first there ever was: nothing lies between
            tail.epoch = chunk.epoch
        if chunk.epoch > tail.epoch or chunk.prev > tail.last:
            self._recent.lost()
            self._held.append(chunk)
            self._fill()
        elif chunk.last > tail.last:
            events = chunk.events
            if chunk.prev < tail.last:  # what was read from the store ended inside this chunk
                events = [event for event in events if event.id > tail.last]
            tail.append(events, chunk.last)
            self._recent.came()
            self._subscribers.push(chunk.epoch, events, chunk.last)

    def _fill(self) -> None:
        """Learn what the channel did not tell; then what was held, and live."""
        if self._filling:
            self._fill_again = True
        if self._filling or not self._joined:
            return
        self._filling = True
        self._recent.lost()  # what comes meanwhile is held, or it would be there twice
        filling = ensureDeferred(self._filled())
        filling.addErrback(self._fill_failed)

    def _fill_failed(self, failure: Failure) -> None:
        """While the store is away it is tried again; so is what else goes wrong, which is a bug."""
        self._filling = self._fill_again = False
        self._retries.later(self._fill)
        if not isinstance(failure.value, StoreError):
            self.log.failure("following a log failed", failure)

    async def _filled(self) -> None:
        here = await self._stored.state()
        tail = self._recent.tail
        fresh = tail is None or tail.epoch != here.epoch or here.last > tail.last + BEHIND
        if tail is None or fresh:
            self._begin_tail(here)
        else:
            await self._read_missing(tail, here.last)
        self._filling = False
        if self._fill_again:  # the channel was new meanwhile, and perhaps the store
            self._fill_again = False
            self._fill()
            return
        if not self._joined:
            return
        self._recent.live = True
        held, self._held = self._held, []
        for chunk in held:
            self._chunk(chunk)
        if self._recent.live:
            self._subscribers.caught_up()

    def _begin_tail(self, here: State) -> None:
        """A new tail; who was pushed from the old one reads on from where that was."""
        old = self._recent.end()
        if old is not None:
            self._subscribers.stand_aside(old)
        self._recent.tail = Tail(here.epoch, here.last)

    async def _read_missing(self, tail: Tail, last: int) -> None:
        everything = Selection.everything()
        while tail.last < last:
            query = Query(everything, EventCursor(tail.epoch, tail.last), PAGE)
            found = await self._stored.page(query)
            gone = any(number > tail.last for _, number in found.trimmed)
            if found.reset or gone:
                self._begin_tail(await self._stored.state())
                return
            reached = found.reached or found.last
            tail.append(found.events, reached)
            self._subscribers.push(tail.epoch, found.events, reached)
