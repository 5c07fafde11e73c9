"""Clients that are cut off and come back with a cursor, in the world of ``model.py``.

Their end at the daemon is the real consumer of a stream. A kernel is a buffer that is full now and
then; what it has when the client is cut off, the client has read in part.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from restmq.core import commands
from restmq.core.beats import Beats
from restmq.web.stream import Choices, Cursor, Stream
from restmq.web.wires import NDJSON
from tests.core.model import QUEUE, Daemon, World


class Kernel:
    """The way to a client: what was sent is there, or waits until `drain`."""

    def __init__(self, world: World) -> None:
        self.sent = b""
        self._world = world
        self._waits = b""
        self._callbacks: list[Callable[[], None]] = []

    def send(self, data: bytes) -> bool:
        if not self._waits and self._world.random.random() < 0.3:
            some = self._world.random.randrange(len(data))
            self.sent, self._waits = self.sent + data[:some], data[some:]
            return False
        self.write(data)
        return not self._waits

    def write(self, data: bytes) -> None:
        if self._waits:
            self._waits += data
        else:
            self.sent += data

    def when_drained(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def finish(self) -> None:
        pass

    def drain(self) -> bool:
        """It takes all; whether anything waited."""
        callbacks, self._callbacks = self._callbacks, []
        waited = bool(callbacks or self._waits)
        self.sent, self._waits = self.sent + self._waits, b""
        for callback in callbacks:
            callback()
        return waited


class Door:
    """The broker as a stream sees it, on one daemon of the world."""

    def __init__(self, daemon: Daemon) -> None:
        self.clock = Clock()
        self.beats = Beats(self.clock)
        self._daemon = daemon

    def attach(self, queue: str, consumer: Any, transport: str) -> None:
        self._daemon.feed.attach(consumer)

    def detach(self, queue: str, consumer: Any, transport: str) -> None:
        self._daemon.feed.detach(consumer)

    def drained(self, queue: str, consumer: Any) -> None:
        self._daemon.feed.drained(consumer)

    def count_missed(self, queue: str, count: int) -> None:
        pass

    def replay(self, queue: str, consumer: Any, cursor: Cursor, answer: Any) -> None:
        world, daemon = self._daemon.world, self._daemon
        arguments = commands.replay_arguments(*cursor)

        def ask() -> None:
            reply = world.run("replay", *arguments)
            if world.chance("lose reply"):
                daemon.feed.store_back()
                daemon.feed.when_joined(consumer, lambda: daemon.todo.append(ask))
            else:
                answer(commands.replay_answer(reply))

        daemon.feed.when_joined(consumer, lambda: daemon.todo.append(ask))


class Traveller:
    """One client: where it is, the ids it has seen in order, what came late or was dealt, what it was told.

    ``unread`` is what had come without a cursor when it was cut off: nobody gets it again.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        info = commands.inspect_answer(QUEUE, world.run("inspect", 0))
        self.began = info.place
        self.cursor = Cursor(info.epoch, info.place)
        self.seen: list[int] = []
        self.late: list[int] = []
        self.unread: set[int] = set()
        self.gaps: list[tuple[int, int, int | None]] = []
        self.missed = 0
        self.visits = 0
        self.kernel = Kernel(world)
        self.daemon: Daemon | None = None
        self._stream: Stream | None = None

    def visit(self, daemon: Daemon) -> None:
        """Connect, the first time with no cursor but knowing where the queue was."""
        door, self.kernel, self.daemon = Door(daemon), Kernel(self.world), daemon
        buffer = self.world.random.choice((3, 1000))
        stream = Stream(door.beats, self.kernel, NDJSON[False], Choices(buffer=buffer))
        stream.open(door, {QUEUE: self.cursor if self.visits else None})
        self._stream, self.visits = stream, self.visits + 1

    def cut_off(self, whole: bool = False) -> None:
        """Read what the kernel has, or some of it, and be gone."""
        lines = self.kernel.sent.splitlines(keepends=True)
        said = [json.loads(line) for line in lines if line.endswith(b"\n")]
        most = len(said) if whole else self.world.random.randrange(len(said) + 1)
        for line in said[:most]:
            self._read(line)
        self.unread |= {line["id"] for line in said[most:] if "id" in line and "cursor" not in line}
        assert self._stream is not None
        if self.daemon in self.world.daemons:
            self._stream.left()
        self.daemon = None

    def _read(self, line: dict[str, Any]) -> None:
        before = self.cursor
        if "cursor" in line:
            epoch, number = line["cursor"].split("-")
            self.cursor = Cursor(int(epoch), int(number))
        if line.get("type") == "gap":
            self.gaps.append((before.id, self.cursor.id, line["missed"]))
        elif "type" in line:
            self.missed += line["missed"]
        elif "cursor" in line:
            assert line["id"] == self.cursor.id
            if self.visits == 1 and not self.seen:  # nobody owes it what came before
                self.began = line["id"] - 1
            self.seen.append(line["id"])
        else:
            self.late.append(line["id"])
