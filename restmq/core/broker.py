"""The broker: queues, consumers and the store behind one door."""

from __future__ import annotations

import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Any

from twisted.internet import task
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.asking import ask, first_error
from restmq.core.beats import Beats
from restmq.core.census import Census
from restmq.core.commands import Replay
from restmq.core.event_wire import LogScripts
from restmq.core.events import Events
from restmq.core.feeds import TICK_SECONDS, Feeds
from restmq.core.jobs import Jobs
from restmq.core.observers import Observers
from restmq.core.port import Consumer
from restmq.core.presence import Presence
from restmq.core.profiles import Profiles
from restmq.core.queue_settings import QueueSettings
from restmq.core.queues import Queues
from restmq.core.reaper import Reaper
from restmq.core.runs import Runs
from restmq.core.schedules import Schedules, ScheduleScripts
from restmq.core.scripted import QueueScripts
from restmq.core.tokens import Tokens
from restmq.core.waiting import Waiting
from restmq.errors import StoreError, TooManyQueues
from restmq.message import Mode, NewMessage, Peeked, Policy, Put, QueueInfo, StoreInfo
from restmq.redis.connection import Store
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode
from restmq.redis.scripts import load
from restmq.rules.retention import Limits, Retention, parse_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.interfaces import IReactorTime

    from restmq.settings import Settings
    from restmq.store_address import StoreAddress

OBSERVER = "observe"
"""The word under which observers are counted, whatever their transport."""

LEAVE_SECONDS = 3.0
"""How long a stopping daemon tries to hand back what it has in hand."""

LOOK_AT_ONCE = 500
"""How many queues are looked at in one go by `Broker.inspect_all`."""


class Broker:
    """What the doors ask. Every operation fails with a StoreError when the store does not do it."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings) -> None:
        """Nothing is connected before `start`; until then all operations fail with StoreAway."""
        scripts = load()
        self.daemon = secrets.token_hex(6).encode()
        self._reactor = reactor
        self.clock: IReactorTime = reactor
        self._settings = settings
        self._address: StoreAddress | None = None
        named = settings.store_address
        keys = Keys(settings.redis_prefix, named.db if named else 0)
        self._keys = keys
        schedule_scripts = ScheduleScripts(keys)
        self._store = Store(reactor, [*scripts.values(), *schedule_scripts.scripts.values()])
        queue_scripts = QueueScripts(keys, scripts)
        self._queues = Queues(reactor, self._store, queue_scripts)
        self._feeds = Feeds(reactor, self._store, queue_scripts, self.daemon)
        self._observers = Observers(self._store, queue_scripts)
        self._presence = Presence(reactor, self._store, queue_scripts, self.daemon)
        self.tokens = Tokens(reactor, self._store, keys)
        self.profiles = Profiles(
            reactor, self._store, scripts["profile"], keys.profiles, settings.max_profiles
        )
        self._census = Census(
            reactor, self._store, keys, settings.max_queues, lambda: self._queues.listed
        )
        self.queue_settings = QueueSettings(
            self._store,
            queue_scripts,
            self._census,
            table=lambda: self.profiles.table,
            newer_profiles=self.profiles.reload,
            made=self._queues.made,
        )
        self.profiles.names = self._queues.names
        self.profiles.listed = lambda: self._queues.listed
        self._queues.creation_fields = self.profiles.creation_fields
        self.profiles.apply = self.queue_settings.apply_all
        self._ticking = task.LoopingCall(self._tick)
        self._ticking.clock = reactor
        self._store.on_ready = self._store_ready
        self._store.on_channel = self._channel
        self._store.on_message = self._message
        self.add = self._queues.add
        self.add_texts = self._queues.add_texts
        self.add_packs = self._queues.add_packs
        self.pop = self._queues.pop
        self._reaper = Reaper(reactor, self._store, queue_scripts, scripts, self._queues)
        self._feeds.on_due = self._reaper.expect
        self._jobs = Jobs(
            reactor,
            self._store,
            queue_scripts,
            self._queues,
            self._reaper,
            usual_lease_ms=round(settings.lease * 1000),
        )
        self._waiting = Waiting(reactor, self._store, queue_scripts, self._jobs, self._presence)
        log_scripts = LogScripts(keys, scripts)
        retention = _retention(settings)
        self.events = Events(reactor, self._store, log_scripts, retention, self.put)
        self.receive = self._waiting.receive
        self.settle = self._jobs.settle
        self.settle_once = self._jobs.settle_once
        self.browse = self._jobs.browse
        self.find = self._jobs.find
        self.release = self._jobs.release
        self.redrive = self._jobs.redrive
        self.schedules = Schedules(self._store, schedule_scripts)
        self._runs = Runs(reactor, self._store, schedule_scripts, self._jobs.put)

    def start(self, address: StoreAddress) -> None:
        """Connect to the store, and stay connected."""
        self._address = address
        self._store.start(address)
        self._ticking.start(TICK_SECONDS, now=False)
        self._reaper.start()
        self._runs.start()

    def stop(self) -> Deferred[None]:
        """Hand back what consumers have not got, leave every queue, disconnect; fires then."""
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        if self._ticking.running:
            self._ticking.stop()
        self._reaper.stop()
        self._waiting.end()
        self._runs.stop()
        self._feeds.leave_all()
        self._presence.stop()
        deadline = self._reactor.seconds() + LEAVE_SECONDS
        while not self._feeds.empty and self._store.ready and self._reactor.seconds() < deadline:
            await task.deferLater(self._reactor, 0.01)
        await self._store.stop()
        self.events.stop()

    # ---- messages: `add`, `add_texts`, `add_packs` and `pop` are those of Queues

    def peek(self, queue: str) -> Deferred[Peeked | None]:
        """The oldest message, left in its place; None if there is none."""
        return self._queues.peek(queue)

    def delete(self, queue: str, message_id: int) -> Deferred[bool]:
        """Delete one waiting message; False if it is not there."""
        return self._queues.delete(queue, message_id)

    def purge(self, queue: str) -> Deferred[int]:
        """Delete all messages and end the queue's streams on all daemons; how many there were."""
        deaf = self._feeds.deaf(queue)

        def purged(count: int) -> int:
            for consumer in deaf:
                consumer.end()
            return count

        return self._queues.purge(queue).addCallback(purged)

    def put(self, queue: str, messages: Sequence[NewMessage]) -> Deferred[list[Put]]:
        """Put messages in, each by itself: see `Jobs.put`. A new queue has mode jobs.

        Each is ``too_many_queues`` where it would be one more than there may be.
        """
        if self._census.admits(queue):
            return self._jobs.put(queue, messages)
        put = self._census.then(queue, lambda: self._jobs.put(queue, messages))

        def refused(failure: Failure) -> list[Put]:
            failure.trap(TooManyQueues)  # type: ignore[no-untyped-call]
            return [Put(error="too_many_queues")] * len(messages)

        return ensureDeferred(put).addErrback(refused)

    def create(self, queue: str, mode: Mode = Mode.JOBS) -> Deferred[bool]:
        """Make sure that the queue exists; True if it is new. Fails with TooManyQueues."""
        if self._census.admits(queue):
            return self._queues.create(queue, mode)
        return ensureDeferred(self._census.then(queue, lambda: self._queues.create(queue, mode)))

    def remove(self, queue: str, force: bool) -> Deferred[str]:
        """Delete the queue and end its streams: "gone", "unknown", or "not_empty" unless ``force``."""
        return self._queues.remove(queue, force)

    def answer_waiting(self) -> None:
        """The daemon stops: who waits for messages gets none."""
        self._waiting.end()

    # ---- settings and numbers

    def set_started(self, queue: str, started: bool) -> Deferred[None]:
        """Stop or start the push to consumers, on all daemons."""
        return self._queues.set_started(queue, started)

    def set_policy(self, queue: str, policy: Policy) -> Deferred[None]:
        """Broadcast or round robin, for what is pushed from now on."""
        return self._queues.set_policy(queue, policy)

    def change(self, queue: str, fields: Mapping[str, int]) -> Deferred[None]:
        """Set fields of the queue, as settings.lua names them, all in one step."""
        return self._queues.change(queue, fields)

    def inspect(self, queue: str) -> Deferred[QueueInfo]:
        """The numbers of one queue; zeros and None for an unknown one."""
        return self._queues.inspect(queue)

    def newest(self, queue: str, count: int) -> Deferred[list[int]]:
        """Ids of the newest waiting messages, newest first."""
        return self._queues.newest(queue, count)

    def queue_names(self) -> Deferred[list[str]]:
        """All queues that ever got a message, sorted."""
        return self._queues.names()

    async def inspect_all(self) -> list[QueueInfo]:
        """The numbers of all queues, sorted by name; each is of its own moment."""
        found: list[QueueInfo] = []
        names = await self.queue_names()
        for start in range(0, len(names), LOOK_AT_ONCE):
            asked = [self.inspect(name) for name in names[start : start + LOOK_AT_ONCE]]
            found += await gatherResults(asked, consumeErrors=True).addErrback(first_error)
        return found

    def ping(self) -> Deferred[None]:
        """Fails with a StoreError when the store does not answer, to commands or to slow reads."""
        done: Deferred[None] = Deferred()
        left = 2

        def replied(reply: Any) -> None:
            nonlocal left
            left -= 1
            if isinstance(reply, StoreError):
                if not done.called:
                    done.errback(reply)
            elif left == 0 and not done.called:
                done.callback(None)

        self._store.send(encode(b"PING"), replied)
        self._store.read(encode(b"PING"), replied)
        return done

    def store_facts(self) -> Deferred[dict[str, str]]:
        """What the store says of itself (INFO), by name. Fails with a StoreError."""

        def facts(reply: bytes) -> dict[str, str]:
            lines = reply.decode("utf-8", "replace").splitlines()
            pairs = (line.partition(":") for line in lines)
            return {name: value for name, colon, value in pairs if colon}

        return ask(self._store.send, encode(b"INFO")).addCallback(facts)

    async def store_info(self) -> StoreInfo:
        """What kind of server the store is, and the life it is in."""
        now = b"%d" % round(self.clock.seconds() * 1000)
        command = encode(b"SET", self._keys.epoch, now, b"NX", b"GET")
        before = await ask(self._store.send, command)
        return StoreInfo.read(
            before or now, await ask(self._store.read, encode(b"INFO", b"server"))
        )

    @property
    def description(self) -> str:
        """The store in the words of the original's ``redis`` member."""
        return f"<Redis Connection: {self._address or 'none'} - 3 connection(s)>"

    # ---- consumers

    def attach(self, queue: str, consumer: Consumer, transport: str) -> None:
        """Give the consumer what is pushed from the queue, until `detach`.

        ``transport`` is the word under which it is counted.
        """
        self._presence.came(queue, transport)
        self._feeds.attach(queue, consumer)

    def detach(self, queue: str, consumer: Consumer, transport: str) -> None:
        """The consumer is gone; what it had in hand of dealt messages goes to others."""
        self._presence.left(queue, transport)
        self._feeds.detach(queue, consumer)

    def observe(self, queue: str, consumer: Consumer) -> None:
        """Give the consumer copies of what is added, until `unobserve`."""
        self._presence.came(queue, OBSERVER)
        self._observers.attach(queue, consumer)

    def unobserve(self, queue: str, consumer: Consumer) -> None:
        """The observer is gone."""
        self._presence.left(queue, OBSERVER)
        self._observers.detach(queue, consumer)

    def replay(
        self,
        queue: str,
        consumer: Consumer,
        cursor: tuple[int, int],
        answer: Callable[[Replay], None],
    ) -> None:
        """Read what was broadcast after (epoch, id), for a consumer that is attached already.

        Epoch 0: from the oldest that is kept. What is pushed after the highest id of the answer
        comes to the consumer. While the store is away there is no answer.
        """
        self._feeds.replay(queue, consumer, cursor, answer)

    def give_back(self, queue: str, consumer: Consumer, now: float) -> float | None:
        """What is due by now and was not acknowledged goes to another consumer; when the next is due."""
        return self._feeds.give_back(queue, consumer, now)

    def count_missed(self, queue: str, count: int) -> None:
        """A slow consumer lost so many messages."""
        self._presence.missed(queue, count)

    def drained(self, queue: str, consumer: Consumer) -> None:
        """All that the consumer had in hand is with the kernel."""
        self._feeds.drained(queue, consumer)

    @cached_property
    def beats(self) -> Beats:
        """The signs of life of all streams."""
        return Beats(self.clock)

    def _tick(self) -> None:
        self._feeds.tick()
        self._observers.tick()
        self._presence.tick()
        self._waiting.tick()
        self.events.tick()
        self.profiles.tick()

    def _channel(self, up: bool) -> None:
        self._feeds.channel(up)
        self._waiting.channel(up)
        self.events.channel(up)
        if up:
            self._observers.channel_up()
            self.profiles.channel_up()

    def _message(self, message: Any) -> None:
        if self.events.message(message):
            return
        kind, channel, content = message
        if self._waiting.message(kind, channel):
            return
        if kind == b"message" and self.profiles.heard(channel):
            return
        if kind != b"message" or not self._observers.received(channel, content):
            self._feeds.message(message)

    def _store_ready(self) -> None:
        self._queues.reconnected()
        self.profiles.store_ready()
        self._feeds.store_back()
        self._reaper.store_back()
        self.events.store_back()
        self._runs.look()


def _retention(settings: Settings) -> Retention:
    """How long events are kept."""
    count, size = settings.events_count, settings.events_bytes
    return Retention(
        Limits(round(settings.events_age * 1000), count, size),
        Limits(round(settings.events_short_age * 1000), count, size),
        [parse_rule(text) for text in settings.events_retention],
    )
