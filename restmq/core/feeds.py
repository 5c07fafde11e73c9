"""All feeds of this daemon, and the store's connections that serve them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.core import commands
from restmq.core.delivery import Feed
from restmq.core.port import Consumer, Hello, Report
from restmq.core.scripted import QueueScripts
from restmq.errors import StoreError, StoreRefused
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode

RETRY_SECONDS = 0.2

OUTBOX_MS = 100
"""When what a script put into the outbox is looked for; before that, nobody may have put it there."""

TICK_SECONDS = 5.0
"""How often registrations are renewed and the dead are looked for; a third of the lease."""


class Feeds:
    """The port of every feed: subscriptions and scripts, one answer for each request."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, store: Store, scripts: QueueScripts, daemon: bytes
    ) -> None:
        """``daemon`` is this daemon's name, 12 bytes nobody else has.

        ``on_due`` may be set: it is told after how many ms the reaper is to look at a queue.
        """
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._daemon = daemon
        self._feeds: dict[str, Feed] = {}
        self._by_channel: dict[bytes, Feed] = {}
        self._awaited: dict[bytes, int] = {}
        self.on_due: Callable[[str, int], object] = lambda queue, after_ms: None

    # ---- consumers

    def attach(self, queue: str, consumer: Consumer) -> None:
        """Give a consumer every message of the queue from now on."""
        feed = self._feeds.get(queue)
        if feed is None:
            feed = self._feeds[queue] = Feed(queue, self)
        feed.attach(consumer)

    def detach(self, queue: str, consumer: Consumer) -> None:
        """The consumer is gone."""
        feed = self._feeds.get(queue)
        if feed is not None:
            feed.detach(consumer)
            self._forget_if_idle(feed)

    def drained(self, queue: str, consumer: Consumer) -> None:
        """What the consumer had in hand is with the kernel."""
        feed = self._feeds.get(queue)
        if feed is not None:
            feed.drained(consumer)

    def give_back(self, queue: str, consumer: Consumer, now: float) -> float | None:
        """Leases are over: see `Feed.give_back`."""
        feed = self._feeds.get(queue)
        return None if feed is None else feed.give_back(consumer, now)

    def replay(
        self,
        queue: str,
        consumer: Consumer,
        cursor: tuple[int, int],
        answer: Callable[[commands.Replay], None],
    ) -> None:
        """Read what was broadcast after (epoch, id), once this daemon listens.

        For a consumer that is attached. ``answer`` is not called while the store is away, and
        nothing is asked any more when the consumer has left.
        """
        arguments = commands.replay_arguments(*cursor)

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                self.log.debug("replay of {queue}: {error}", queue=queue, error=reply)
                self._clock.callLater(RETRY_SECONDS, wait)
            else:
                answer(commands.replay_answer(reply))

        def ask() -> None:
            self._store.send(self._scripts.call("replay", queue, arguments), replied)

        def wait() -> None:
            feed = self._feeds.get(queue)
            if feed is not None:
                feed.when_joined(consumer, ask)

        wait()

    def deaf(self, queue: str) -> list[Consumer]:
        """Consumers that a mark published now may not reach: see `Feed.deaf`."""
        feed = self._feeds.get(queue)
        return [] if feed is None else feed.deaf()

    def tick(self) -> None:
        """Every TICK_SECONDS."""
        for feed in list(self._feeds.values()):
            feed.tick()
            self._forget_if_idle(feed)

    def leave_all(self) -> None:
        """The daemon ends: every consumer leaves, and what is not with a kernel goes back."""
        for feed in list(self._feeds.values()):
            for consumer in list(feed.consumers):
                feed.detach(consumer)

    @property
    def empty(self) -> bool:
        """Nothing is registered any more."""
        return all(feed.idle for feed in self._feeds.values())

    def _forget_if_idle(self, feed: Feed) -> None:
        if feed.idle:
            self._feeds.pop(feed.queue, None)
            self.unsubscribe(feed)

    # ---- the port of the feeds

    def subscribe(self, feed: Feed) -> None:
        """Ask for both channels."""
        channels = self._scripts.keys.channels(feed.queue, self._daemon)
        for channel in channels:
            self._by_channel[channel] = feed
        if self._store.listen(encode(b"SUBSCRIBE", *channels)):
            self._awaited[channels[1]] = self._awaited.get(channels[1], 0) + 1

    def unsubscribe(self, feed: Feed) -> None:
        """Leave both channels, if we listen to them or are about to."""
        channels = self._scripts.keys.channels(feed.queue, self._daemon)
        if self._by_channel.get(channels[0]) is feed:
            for channel in channels:
                del self._by_channel[channel]
            self._store.listen(encode(b"UNSUBSCRIBE", *channels))

    def join(self, feed: Feed, hello: Hello) -> None:
        """``join.lua``."""
        arguments = commands.join_arguments(self._daemon, hello)
        self._ask(feed, "join", arguments, lambda r: feed.joined(commands.join_answer(r)))

    def window(self, feed: Feed, dealt: bool, after: int) -> None:
        """``window.lua``."""
        arguments = commands.window_arguments(self._daemon, dealt, after)
        self._ask(
            feed,
            "window",
            arguments,
            lambda r: feed.window_read(dealt, commands.window_answer(r)),
        )

    def confirm(self, feed: Feed, report: Report) -> None:
        """``confirm.lua``."""
        self._expect_dead_letters(feed, report)
        self._ask(feed, "confirm", commands.confirm_arguments(self._daemon, report), feed.confirmed)

    def leave(self, feed: Feed, report: Report) -> None:
        """``leave.lua``, as often as it wants."""
        self._expect_dead_letters(feed, report)
        arguments = commands.leave_arguments(self._daemon, report)

        def answer(reply: int) -> None:
            if reply == 0:
                self._ask(feed, "leave", arguments, answer)
                return
            feed.left()
            self._forget_if_idle(feed)

        self._ask(feed, "leave", arguments, answer)

    def _expect_dead_letters(self, feed: Feed, report: Report) -> None:
        """Where a lease ended that was the last: the outbox is to be looked at."""
        if any(settled.over for settled in report.settled):
            self.on_due(feed.queue, OUTBOX_MS)

    def _ask(
        self, feed: Feed, script: str, arguments: list[bytes], answer: Callable[[Any], None]
    ) -> None:
        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                say = self.log.warn if isinstance(reply, StoreRefused) else self.log.debug
                say("{script} of {queue}: {error}", script=script, queue=feed.queue, error=reply)
                feed.failed()
            else:
                answer(reply)

        self._store.send(self._scripts.call(script, feed.queue, arguments), replied)

    # ---- what the store's connections tell

    def store_back(self) -> None:
        """The command connection is new."""
        for feed in list(self._feeds.values()):
            feed.store_back()

    def channel(self, up: bool) -> None:
        """The connection of the channels is new, or lost."""
        self._awaited.clear()
        for feed in list(self._feeds.values()):
            if up and any(True for _ in feed.consumers):
                self.subscribe(feed)
            elif not up:
                feed.unsubscribed()

    def message(self, message: Any) -> None:
        """Something came on it: kind, channel, content."""
        kind, channel, content = message
        if kind == b"message":
            feed = self._by_channel.get(channel)
            if feed is not None:
                feed.received(content)
        elif kind == b"subscribe" and channel in self._awaited:
            self._confirmed_subscription(channel)

    def _confirmed_subscription(self, channel: bytes) -> None:
        """Confirmations come in order: the last one awaited is of the last SUBSCRIBE."""
        self._awaited[channel] -= 1
        if self._awaited[channel] == 0:
            del self._awaited[channel]
            feed = self._by_channel.get(channel)
            if feed is not None:
                feed.subscribed()
