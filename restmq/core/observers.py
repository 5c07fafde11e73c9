"""Observers: consumers that get a copy of what is added to a queue, and take nothing from it.

Copies come at most once. An observer is told how many it missed (while the store was away, say): the
ids of a queue have no holes.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from restmq.core.port import Consumer
from restmq.core.scripted import QueueScripts
from restmq.core.wire import decode_entry, shown_entries
from restmq.errors import StoreError
from restmq.message import Batch
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode

LEASE_MS = 15000
"""How long add.lua goes on to publish copies when nobody says that there is an observer."""

LIFT = 1_000_000
"""A jump of ids by so much is no loss: the store lost time."""


class _Watched:
    """One queue that is observed here."""

    __slots__ = ("consumers", "last_id")

    def __init__(self) -> None:
        self.consumers: dict[Consumer, None] = {}
        self.last_id = 0


class Observers:
    """All observers of this daemon."""

    log = Logger()

    def __init__(self, store: Store, scripts: QueueScripts) -> None:
        self._store = store
        self._scripts = scripts
        self._queues: dict[str, _Watched] = {}
        self._names: dict[bytes, str] = {}

    def attach(self, queue: str, consumer: Consumer) -> None:
        """Give a consumer a copy of what is added from about now on."""
        watched = self._queues.get(queue)
        if watched is None:
            watched = self._queues[queue] = _Watched()
            self._listen(queue)
        watched.consumers[consumer] = None

    def detach(self, queue: str, consumer: Consumer) -> None:
        """The consumer is gone."""
        watched = self._queues.get(queue)
        if watched is None or watched.consumers.pop(consumer, 0) == 0 or watched.consumers:
            return
        del self._queues[queue]
        channel = self._scripts.keys.observers(queue)
        self._names.pop(channel, None)
        self._store.listen(encode(b"UNSUBSCRIBE", channel))
        self._say(queue, 0)

    def tick(self) -> None:
        """Every few seconds: say that somebody observes."""
        for queue in self._queues:
            self._say(queue, LEASE_MS)

    def channel_up(self) -> None:
        """The connection of the channels is new."""
        for queue in self._queues:
            self._listen(queue)

    def received(self, channel: bytes, data: bytes) -> bool:
        """What came on a channel; False if it is not one of ours."""
        queue = self._names.get(channel)
        if queue is None:
            return False
        self._show(queue, self._queues[queue], data)
        return True

    def _listen(self, queue: str) -> None:
        """Subscribe; when that has no effect yet the channel is down, and `channel_up` comes."""
        channel = self._scripts.keys.observers(queue)
        self._names[channel] = queue
        self._store.listen(encode(b"SUBSCRIBE", channel))
        self._say(queue, LEASE_MS)

    def _say(self, queue: str, lease_ms: int) -> None:
        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                self.log.debug("observe of {queue}: {error}", queue=queue, error=reply)

        self._store.send(self._scripts.call("observe", queue, [b"%d" % lease_ms]), replied)

    def _show(self, queue: str, watched: _Watched, data: bytes) -> None:
        entries = shown_entries(data)
        messages = [decode_entry(queue, entry) for entry in entries]
        skipped = messages[0].id - watched.last_id - 1 if watched.last_id else 0
        watched.last_id = messages[-1].id
        batch = Batch(messages, sum(map(len, entries)))
        for consumer in list(watched.consumers):
            if 0 < skipped < LIFT:
                consumer.lost(skipped)
            consumer.deliver(batch)
