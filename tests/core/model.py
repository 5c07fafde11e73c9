"""A world of daemons, consumers and clients round a real store, driven step by step.

Nothing here waits for a reactor: each daemon's `Feed` is the real one, its port notes what the
feed asks and the world carries it out whenever it likes, or loses the reply, or the daemon.
The clock is the world's own and goes to the scripts as an argument.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable

import valkey

from restmq.core import commands
from restmq.core.delivery import Feed, Report
from restmq.core.wire import encode_payload
from restmq.message import Batch, Policy
from restmq.redis.keys import Keys
from restmq.redis.scripts import load

SCRIPTS = load()
QUEUE = "jobs"


class Listener:
    """A consumer: what it received, in order; a slow one holds dealt messages in hand."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow
        self.received: list[int] = []
        self.in_hand: list[int] = []
        self.ended = False

    def deliver(self, batch: Batch) -> bool:
        ids = [m.id for m in batch.messages]
        assert all(m.body == b"body %d" % m.id for m in batch.messages)
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


class Daemon:
    """One feed and its connections; ``todo`` is what it asked and nobody carried out yet."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = b"daemon%06d" % number
        self.todo: deque[Callable[[], None]] = deque()
        self.channel: valkey.client.PubSub | None = None
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
        _out, to = self.world.keys.channels(QUEUE, self.name)
        while self.world.store.pubsub_numsub(to)[0][1]:
            pass

    def join(self, feed: Feed, again: bool, slots: list[tuple[int, int]]) -> None:
        arguments = commands.join_arguments(self.name, again, slots)
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
        if self.channel is None:
            return False
        message = self.channel.get_message(timeout=0)
        if message is None or message["type"] != "message":
            return False
        self.feed.received(message["data"])
        return True

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
        self.popped: list[int] = []
        self.purged_up_to = 0
        self.notes: Counter[str] = Counter()
        self.died_with: set[int] = set()

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
            return self.store.evalsha(assembled.sha.decode(), 7, *args)
        except valkey.exceptions.NoScriptError:
            self.store.script_load(assembled.source.decode())
            return self.store.evalsha(assembled.sha.decode(), 7, *args)

    # ---- clients

    def add(self, count: int) -> None:
        floor = self.added[-1] if self.added else 0
        payloads = [encode_payload(b"body %d" % (floor + 1 + i), None) for i in range(count)]
        first = int(self.run("add", floor, b"", *payloads))
        assert first == floor + 1
        self.added += range(first, first + count)

    def pop(self, count: int) -> int:
        got = 0
        while True:
            reply = commands.pop_answer(QUEUE, self.run("pop", count - got))
            self.popped += [m.id for m in reply.messages]
            got += len(reply.messages)
            if not reply.again or got >= count:
                return got

    def set_started(self, started: bool) -> None:
        self.run("status", "st", int(started))

    def set_policy(self, policy: Policy) -> None:
        self.run("status", "pol", policy.value)

    # ---- daemons and consumers

    def start_daemon(self) -> Daemon:
        self.born += 1
        daemon = Daemon(self, self.born)
        self.daemons.append(daemon)
        return daemon

    def kill(self, daemon: Daemon) -> None:
        self.note("kill")
        self.daemons.remove(daemon)
        for listener in daemon.consumers:
            self.died_with.update(listener.in_hand)
        daemon.hang_up()

    def attach(self, daemon: Daemon) -> None:
        listener = Listener(slow=self.random.random() < self.rates.get("slow", 0))
        daemon.consumers.append(listener)
        self.listeners.append((daemon, listener))
        daemon.feed.attach(listener)

    def detach(self, daemon: Daemon, listener: Listener) -> None:
        daemon.consumers.remove(listener)
        self.died_with.update(listener.in_hand)
        daemon.feed.detach(listener)

    def flush(self, daemon: Daemon) -> None:
        for listener in daemon.consumers:
            if listener.in_hand:
                listener.flush()
                daemon.feed.drained(listener)

    def settle(self) -> None:
        """Let everything that is under way come to rest, with a tick for what waits on time."""
        for _ in range(8):
            self.rest()
            self.now += 4000
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
