"""One queue on a real store, and every script as a method: no daemon behind it."""

from __future__ import annotations

import valkey as valkey_client

from restmq.core import commands
from restmq.core.port import Hello, Joined, Report, Settled
from restmq.core.wire import chunk_entries, chunk_numbers, encode_payload, encode_ttls, entry_id
from restmq.message import Message, Policy
from restmq.redis.keys import Keys
from restmq.redis.scripts import load

SCRIPTS = load()
DAEMONS = (b"daemon-aaaaa", b"daemon-bbbbb", b"daemon-ccccc")


class Desk:
    """One queue and a clock; every script as a method, no daemon behind it."""

    def __init__(self, store: valkey_client.Valkey, queue: str = "jobs") -> None:
        self.store = store
        self.keys = Keys("desk:")
        self.queue = queue
        self.names = self.keys.queue(queue)
        self.hash, self.list, self.window_key, self.dealt, self.daemons, self.turn, self.room = (
            self.names[:7]
        )
        self.again = self.names[9]
        self.folded = self.names[14]
        self.now = 1_800_000_000_000
        self.channels: dict[bytes, valkey_client.client.PubSub] = {}

    def call(self, script: str, *arguments: object) -> object:
        loaded = SCRIPTS[script]
        args = [*self.names, str(self.now), *arguments]
        try:
            return self.store.evalsha(loaded.sha.decode(), len(self.names), *args)
        except valkey_client.exceptions.NoScriptError:
            self.store.script_load(loaded.source.decode())
            return self.store.evalsha(loaded.sha.decode(), len(self.names), *args)

    # ---- clients

    def add(self, *bodies: bytes, floor: int = 0, ttls: list[int] | None = None) -> int:
        payloads = [encode_payload(body, None) for body in bodies]
        reply = self.call("add", floor, encode_ttls(ttls or [0] * len(bodies)), b"", *payloads)
        assert isinstance(reply, bytes)
        return int(reply)

    def fill(self, count: int, body: bytes = b"x") -> None:
        for start in range(0, count, 1000):
            self.add(*[body] * min(1000, count - start))

    def pop_once(self, count: int = 1) -> commands.Popped:
        return commands.pop_answer(self.queue, self.call("pop", count))

    def pop_ids(self) -> list[int]:
        ids: list[int] = []
        popped = self.pop_once(1000)
        while popped.messages:
            ids += [m.id for m in popped.messages]
            popped = self.pop_once(1000)
        return ids

    def peek(self) -> tuple[Message, int] | None:
        return commands.peek_answer(self.queue, self.call("peek"))

    def delete(self, number: int) -> list[int]:
        reply = self.call("delete", number)
        assert isinstance(reply, list)
        return reply

    def inspect(self) -> commands.QueueInfo:
        return commands.inspect_answer(self.queue, self.call("inspect", 0))

    def set_policy(self, policy: Policy) -> None:
        self.call("settings", "", 0, "own", "pol", policy.value)

    def set_started(self, started: bool) -> None:
        self.call("settings", "", 0, "own", "st", int(started))

    # ---- daemons

    def listen(self, daemon: bytes) -> None:
        channel = self.channels[daemon] = self.store.pubsub(ignore_subscribe_messages=False)
        channel.subscribe(*self.keys.channels(self.queue, daemon))
        for _ in range(2):
            assert channel.get_message(timeout=5)

    def bury(self, living: bytes) -> int:
        """A daemon finds others silent, and again when their time to come back is over."""
        assert self.report("confirm", living, look=True) == 1
        self.now += 3001
        return self.report("confirm", living, look=True)

    def deafen(self, daemon: bytes) -> None:
        self.channels.pop(daemon).close()
        _out, to = self.keys.channels(self.queue, daemon)
        while self.store.pubsub_numsub(to)[0][1]:
            pass

    def join(
        self,
        daemon: bytes,
        slots: dict[int, int] | None = None,
        again: bool = False,
        epoch: int = 0,
        pos: int = 0,
        dealt_pos: int = 0,
        last_id: int = 0,
    ) -> Joined | None:
        hello = Hello(again, epoch, pos, dealt_pos, last_id, list((slots or {}).items()))
        return commands.join_answer(self.call("join", *commands.join_arguments(daemon, hello)))

    def arrive(self, daemon: bytes, slots: dict[int, int] | None = None) -> Joined:
        self.listen(daemon)
        joined = self.join(daemon, slots)
        assert joined is not None
        return joined

    def report(
        self,
        script: str,
        daemon: bytes,
        safe: int = 0,
        taken: int | None = None,
        slots: dict[int, int] | None = None,
        settled: list[Settled] | None = None,
        look: bool = False,
        epoch: int | None = None,
    ) -> int:
        if epoch is None:
            epoch = int(self.store.hget(self.hash, "epoch"))
        up_to = safe if taken is None else taken
        report = Report(
            epoch, safe, safe * 20, up_to, up_to * 20, look, list((slots or {}).items()),
            settled or [],
        )  # fmt: skip
        make = commands.confirm_arguments if script == "confirm" else commands.leave_arguments
        reply = self.call(script, *make(daemon, report))
        assert isinstance(reply, int)
        return reply

    def heard(self, daemon: bytes) -> list[bytes]:
        """All that came on its channels."""
        channel, found = self.channels[daemon], []
        channel.ping()
        while True:
            message = channel.get_message(timeout=5)
            assert message is not None
            if message["type"] == "pong":
                return found
            if message["type"] == "message":
                found.append(message["data"])

    def ids_heard(self, daemon: bytes) -> list[int]:
        return [entry_id(e) for c in self.heard(daemon) if c != b"P" for e in chunk_entries(c)]

    def dealt_to(self, daemon: bytes) -> list[tuple[int, int]]:
        """(id, consumer) of what was dealt to it."""
        pairs: list[tuple[int, int]] = []
        for chunk in self.heard(daemon):
            ids = [entry_id(e) for e in chunk_entries(chunk)]
            pairs += zip(ids, chunk_numbers(chunk), strict=True)
        return pairs

    def waiting(self) -> list[int]:
        """The ids of what is ready, in its order; nothing here has a priority."""
        again = [entry_id(member[1:]) for member in self.store.zrange(self.again, 0, -1)]
        return sorted(again + [entry_id(e) for e in self.store.lrange(self.list, 0, -1)])

    def calls(self, command: str) -> int:
        """How often the server ran a command since the last ``config_resetstat``."""
        return int(self.store.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))
