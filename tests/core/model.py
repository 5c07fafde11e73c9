"""A world of daemons, consumers and clients round a real store, driven step by step.

Nothing here waits for a reactor: each daemon's `Feed` is the real one, its port notes what the
feed asks and the world carries it out whenever it likes, or loses the reply, or the daemon.
The clock is the world's own and goes to the scripts as an argument.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import valkey

from restmq.core import commands
from restmq.core.delivery import Feed
from restmq.core.packs import Pack
from restmq.core.port import ROOM, Hello, Report
from restmq.core.wire import encode_payload, encode_ttls, entry_id
from restmq.message import Batch, Message, Policy
from restmq.redis.keys import Keys
from restmq.redis.scripts import load

SCRIPTS = load()
QUEUE = "jobs"


def serial(message: Message) -> int:
    """The number in a body counts what was added, also where the store lost time and ids jumped."""
    assert message.body is not None
    return int(message.body.removeprefix(b"body "))


def entries_of(element: bytes) -> list[bytes]:
    """The heads of the messages of a pack, or of a message that stands alone there."""
    if element[0] != 255:
        return [element]
    first, count = int.from_bytes(element[1:8], "big"), int.from_bytes(element[20:24], "big")
    gone = {
        first + int.from_bytes(element[at : at + 4], "big")
        for at in range(28, 28 + 4 * int.from_bytes(element[24:28], "big"), 4)
    }
    ends = dict.fromkeys(gone, b"\x00\x00\x00\x00\x00\x01")
    return [
        number.to_bytes(7, "big") + element[8:14] + ends.get(number, b"\0" * 6)
        for number in range(first, first + count)
    ]


class Leased(NamedTuple):
    """A message that waits for its acknowledgement."""

    epoch: int
    pos: int
    id: int
    serial: int


class Listener:
    """A consumer: what it received, in order; a slow one has it in hand for a while.

    One that acknowledges received what the store says it acknowledged.
    """

    room = ROOM
    returns = False

    def __init__(
        self,
        slow: bool = False,
        ended: Callable[[Listener], None] | None = None,
        acks: bool = False,
    ) -> None:
        self.slow = slow
        self.acks = acks
        self._leave = ended
        self.received: list[int] = []
        self.in_hand: list[int] = []
        self.leased: list[Leased] = []
        self.dues = 0
        self.ended = False

    def due(self, lease_ms: int | None = None) -> float:
        self.dues += 1
        return self.dues

    def lost(self, count: int) -> None:
        pass

    def deliver(self, batch: Batch) -> bool:
        assert not self.ended, "handed something after its end"
        assert all(m.body is not None for m in batch.messages), "handed something that is gone"
        ids = [serial(m) for m in batch.messages]
        if self.acks and batch.dealt:
            self.leased += [
                Leased(batch.epoch, batch.dealt_pos, m.id, serial(m)) for m in batch.messages
            ]
            return True
        if self.slow:
            self.in_hand += ids
            return False
        self.received += ids
        return True

    def flush(self) -> None:
        self.received += self.in_hand
        self.in_hand = []

    def end(self) -> None:
        self.ended = True
        if self._leave is not None:
            self._leave(self)


class Daemon:
    """One feed and its connections; ``todo`` is what it asked and nobody carried out yet."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = b"daemon%06d" % number
        self.todo: deque[Callable[[], None]] = deque()
        self.channel: valkey.client.PubSub | None = None
        self.heard: deque[bytes] = deque()
        self.feed = Feed(QUEUE, self)
        self.consumers: list[Listener] = []

    # the port

    def subscribe(self, feed: Feed) -> None:
        self.todo.append(self._subscribe)

    def _subscribe(self) -> None:
        if self.channel is None:
            self.channel = self.world.client().pubsub()
            self.channel.subscribe(*self.world.keys.channels(QUEUE, self.name))
            for _ in range(2):
                message = self.channel.get_message(timeout=5)
                assert message is not None
                assert message["type"] == "subscribe"
        self.feed.subscribed()

    def unsubscribe(self, feed: Feed) -> None:
        self.todo.append(self.hang_up)

    def hang_up(self) -> None:
        """Close the channel's connection and wait until the server knows."""
        if self.channel is None:
            return
        self.channel.close()
        self.channel = None
        self.heard.clear()
        _out, to = self.world.keys.channels(QUEUE, self.name)
        while self.world.store.pubsub_numsub(to)[0][1]:
            pass

    def join(self, feed: Feed, hello: Hello) -> None:
        arguments = commands.join_arguments(self.name, hello)
        self._ask("join", arguments, lambda r: self.feed.joined(commands.join_answer(r)))

    def window(self, feed: Feed, dealt: bool, after: int) -> None:
        arguments = commands.window_arguments(self.name, dealt, after)
        self._ask(
            "window", arguments, lambda r: self.feed.window_read(dealt, commands.window_answer(r))
        )

    def confirm(self, feed: Feed, report: Report) -> None:
        self._ask("confirm", commands.confirm_arguments(self.name, report), self.feed.confirmed)

    def leave(self, feed: Feed, report: Report) -> None:
        arguments = commands.leave_arguments(self.name, report)

        def left(reply: int) -> None:
            if reply == 1:
                self.feed.left()
            else:
                self._ask("leave", arguments, left)

        self._ask("leave", arguments, left)

    def _ask(self, script: str, arguments: list[bytes], answer: Callable[..., None]) -> None:
        def carry_out() -> None:
            reply = self.world.run(script, *arguments)
            if self.world.chance("lose reply"):
                self.world.note("reply lost")
                self.feed.store_back()
            elif self.world.random.random() < 0.5:
                answer(reply)
            else:  # what the script published may arrive before its reply
                self.todo.appendleft(lambda: answer(reply))

        self.todo.append(carry_out)

    # what the world does with it

    def work(self) -> bool:
        """Carry out one thing it asked."""
        if not self.todo:
            return False
        self.todo.popleft()()
        return True

    def listen(self) -> bool:
        """Hand it one message of its channel."""
        if not self.heard:
            self._hear()
        if not self.heard:
            return False
        self.feed.received(self.heard.popleft())
        return True

    def _hear(self) -> None:
        """Fetch all that was published so far: a PONG comes behind it. So a seed is one story."""
        if self.channel is None:
            return
        self.channel.ping()
        while True:
            message = self.channel.get_message(timeout=5)
            assert message is not None
            if message["type"] == "pong":
                return
            if message["type"] == "message":
                self.heard.append(message["data"])

    def lose_store(self) -> None:
        """Every connection breaks: what was asked is not answered, and all begins anew."""
        self.todo.clear()
        self.hang_up()
        self.feed.unsubscribed()
        if self.consumers:
            self.todo.append(self._subscribe)
        self.feed.store_back()

    def lose_subscription(self) -> None:
        if self.channel is not None:
            self.hang_up()
            self.feed.unsubscribed()
            self.todo.append(self._subscribe)


class World:
    """A store, some daemons, and the books of what was added, popped and received."""

    def __init__(
        self, store: valkey.Valkey, seed: int, faults: bool, rates: dict[str, float]
    ) -> None:
        self.random = random.Random(seed)
        self.store = store
        self.keys = Keys(f"model{seed}:")
        self.queue_keys = self.keys.queue(QUEUE)
        self.faults, self.rates = faults, rates
        self.now = 1_800_000_000_000
        self.daemons: list[Daemon] = []
        self.born = 0
        self.listeners: list[tuple[Daemon, Listener]] = []
        self.added: list[int] = []
        self.highest_id = 0
        self.serials: dict[int, int] = {}
        self.popped: list[int] = []
        self.acked: list[int] = []
        self.purged_up_to = 0
        self.forgiven: set[int] = set()
        self.saved: dict[bytes, bytes] = {}
        self.notes: Counter[str] = Counter()

    def client(self) -> valkey.Valkey:
        return valkey.Valkey(connection_pool=self.store.connection_pool)

    def chance(self, name: str) -> bool:
        return self.faults and self.random.random() < self.rates.get(name, 0)

    def note(self, what: str) -> None:
        self.notes[what] += 1

    def run(self, script: str, *arguments: object) -> object:
        assembled = SCRIPTS[script]
        args = [*self.queue_keys, str(self.now), *arguments]
        try:
            return self.store.evalsha(assembled.sha.decode(), len(self.queue_keys), *args)
        except valkey.exceptions.NoScriptError:
            self.store.script_load(assembled.source.decode())
            return self.store.evalsha(assembled.sha.decode(), len(self.queue_keys), *args)

    # ---- clients

    def add(self, count: int) -> None:
        first = (self.added[-1] if self.added else 0) + 1
        ttls = [0] * count
        if self.random.random() < self.rates.get("ttl", 0):
            ttls = [self.random.choice((0, 1, 50, 5000)) for _ in range(count)]
            self.forgiven.update(first + i for i, ttl in enumerate(ttls) if ttl)
        if not any(ttls) and self.random.random() < self.rates.get("packs", 0.3):
            how, told = b"packs", self.packs(first, count)
        else:
            how = encode_ttls(ttls)
            told = [encode_payload(b"body %d" % (first + i), None) for i in range(count)]
        got = int(self.run("add", self.highest_id, how, b"", *told))
        assert got > self.highest_id, "ids rise"
        assert "lost time" in self.notes or got == first
        self.highest_id = got + count - 1
        self.added += range(first, first + count)
        self.serials.update(zip(range(got, got + count), self.added[-count:], strict=True))

    def packs(self, first: int, count: int) -> list[bytes]:
        """The same messages as one pack or two."""
        serials = [b"%d" % (first + i) for i in range(count)]
        cut = self.random.randrange(count)
        halves = filter(None, (serials[:cut], serials[cut:]))
        return [Pack({b"": (b"body ", b"")}, b"\n".join(h), len(h)).encoded() for h in halves]

    def pop(self, count: int) -> int:
        got = 0
        while True:
            reply = commands.pop_answer(QUEUE, self.run("pop", count - got))
            serials = [self.serials[m.id] if m.body is None else serial(m) for m in reply.messages]
            self.popped += serials
            assert all(number > self.purged_up_to for number in serials), "purged, yet popped"
            got += len(reply.messages)
            if not reply.again or got >= count:
                assert got >= count or self.run("inspect", 0)[0] == b"0", "nothing, yet some wait"
                return got

    def delete(self) -> None:
        """Delete any message by its id: it is found if it waits, and nowhere else."""
        entries = {entry_id(e): e for e in self.store.lrange(self.queue_keys[1], 0, -1)}
        assert list(entries) == sorted(entries), "ids rise along the list"
        for element in self.store.lrange(self.queue_keys[14], 0, -1):
            found = entries_of(element)
            assert entry_id(found[0]) > max(entries, default=0), "ids rise behind the list"
            entries |= {entry_id(entry): entry for entry in found}
        again = self.store.zrange(self.queue_keys[9], 0, -1)
        entries |= {entry_id(member[1:]): member[1:] for member in again}
        number = self.random.choice([*entries, self.highest_id, 1])
        found, again = self.run("delete", number)
        entry = entries.get(number)
        expires = 0 if entry is None else int.from_bytes(entry[13:19], "big")
        gone = entry is None or 0 < expires <= self.now
        assert again or found or gone, "delete finds what waits"
        if found:  # perhaps one that came home just then
            self.forgiven.add(self.serials[number])

    def purge(self) -> None:
        self.note("purge")
        self.run("purge")
        self.purged_up_to = self.added[-1] if self.added else 0

    def save(self) -> None:
        """What a dump file would hold."""
        keys = self.store.scan_iter(match=self.keys.prefix + b"*")
        self.saved = {key: self.store.dump(key) for key in keys}

    def lose_time(self, flush: bool) -> None:
        """The store forgets all without a word, or restarts with what it had saved."""
        self.note("lost time")
        for key in self.store.scan_iter(match=self.keys.prefix + b"*"):
            self.store.delete(key)
        self.forgiven.update(self.added)
        if not flush:
            for key, value in self.saved.items():
                self.store.restore(key, 0, value)
            for daemon in self.daemons:
                daemon.lose_store()

    def set_started(self, started: bool) -> None:
        self.run("settings", "", 0, "own", "st", int(started))

    def set_policy(self, policy: Policy) -> None:
        self.run("settings", "", 0, "own", "pol", policy.value)

    # ---- daemons and consumers

    def start_daemon(self) -> Daemon:
        self.born += 1
        daemon = Daemon(self, self.born)
        self.daemons.append(daemon)
        return daemon

    def kill(self, daemon: Daemon) -> None:
        self.note("kill")
        self.daemons.remove(daemon)
        daemon.hang_up()

    def attach(self, daemon: Daemon) -> None:
        slow = self.random.random() < self.rates.get("slow", 0)
        acks = self.random.random() < self.rates.get("acks", 0)
        listener = Listener(slow, lambda listener: self.detach(daemon, listener), acks)
        daemon.consumers.append(listener)
        self.listeners.append((daemon, listener))
        daemon.feed.attach(listener)

    def detach(self, daemon: Daemon, listener: Listener) -> None:
        daemon.consumers.remove(listener)
        daemon.feed.detach(listener)

    def flush(self, daemon: Daemon) -> None:
        for listener in daemon.consumers:
            if listener.in_hand:
                listener.flush()
                daemon.feed.drained(listener)

    def acknowledge(self, listener: Listener, count: int, how: str = "ack") -> None:
        """Some of what the listener has leased is done, or not done; what is stale says so."""
        some, listener.leased = listener.leased[:count], listener.leased[count:]
        if not some:
            return
        arguments = [number for one in some for number in one[:3]]
        if self.chance("lose reply"):  # it acknowledges again: then it may count only once
            self.note("ack twice")
            some = some * 2
            arguments = arguments * 2
        results = self.run("ack", how, 0, b"", 0, *arguments)[2:]
        for one, result in zip(some, results, strict=True):
            if result and how == "ack":
                self.acked.append(one.serial)
                listener.received.append(one.serial)

    def lease_over(self, daemon: Daemon, listener: Listener, all_of_them: bool = False) -> None:
        """Leases end; the listener does not know and may still acknowledge."""
        by = listener.dues if all_of_them else self.random.randrange(listener.dues + 1)
        daemon.feed.give_back(listener, by)

    def settle(self) -> None:
        """Let everything that is under way come to rest, with a tick for what waits on time."""
        for _ in range(8):
            self.rest()
            self.now += 4000
            for daemon in self.daemons:
                for listener in daemon.consumers:
                    self.lease_over(daemon, listener, all_of_them=True)
            for daemon in self.daemons:
                daemon.feed.tick()
        self.rest()

    def rest(self) -> None:
        self.rates = {**self.rates, "lose reply": 0}
        quiet = 0
        for _ in range(200_000):
            moved = False
            for daemon in self.daemons:
                self.flush(daemon)
                for listener in daemon.consumers:
                    moved |= bool(listener.leased)
                    self.acknowledge(listener, 1000)
                moved |= daemon.work()
                moved |= daemon.listen()
            quiet = 0 if moved else quiet + 1
            if quiet > 3:
                return
        raise AssertionError("the daemons do not come to rest")

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.channel is not None:
                daemon.channel.close()
        for key in self.store.scan_iter(match=self.keys.prefix + b"*"):
            self.store.delete(key)
