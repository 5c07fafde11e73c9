"""Daemons that run schedules on a real Valkey, moved by hand: one command and one reply at a time.

The store's clock is a number that goes where a test wants it. Queues are lists; a put under a key is a
script, as in the broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import valkey as valkey_client
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from restmq.core.runs import LOOK_SECONDS, Runs
from restmq.core.schedules import Found, Schedule, Schedules, ScheduleScripts
from restmq.errors import OutcomeUnknown, StoreError, StoreFull
from restmq.message import NewMessage, Put
from restmq.redis.keys import Keys
from restmq.redis.pipeline import store_error
from restmq.rules.schedule import Timetable

BEGIN = 1_795_305_600  # 2026-11-22T00:00:00Z
PUT = b"""#!lua
local id = redis.call('GET', KEYS[2])
if id then return {tonumber(id), 1} end
id = redis.call('RPUSH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
redis.call('SET', KEYS[2], id)
return {id, 0}
"""
KEYS = Keys("clockwork:")


def schedule(
    name: str = "tick", cron: str = "*/5 * * * * *", queue: str = "jobs", **more: Any
) -> Schedule:
    timetable = Timetable(cron, more.pop("timezone", "UTC"))
    message = NewMessage(more.pop("body", b"work"), "text/plain")
    return Schedule(name, timetable, queue, message, **more)


class Line:
    """A daemon's connection to the store: what it says waits here until a test lets it through."""

    def __init__(self, store: valkey_client.Valkey) -> None:
        self._store = store
        self._put = store.register_script(PUT)
        self.ready = True
        self.full = ""
        self.waiting: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()

    def send(self, command: bytes, callback: Callable[[Any], None]) -> None:
        reader = hiredis.Reader()
        reader.feed(command)
        arguments = reader.gets()
        self.waiting.append((lambda: self._execute(arguments), callback))

    def _execute(self, arguments: Sequence[bytes]) -> Any:
        try:
            return self._store.execute_command(*arguments)
        except valkey_client.exceptions.OutOfMemoryError as error:  # it cuts the first word off
            return StoreFull(str(error))
        except valkey_client.exceptions.ResponseError as error:
            return store_error(str(error))

    def put(self, queue: str, messages: Sequence[NewMessage]) -> Deferred[list[Put]]:
        done: Deferred[list[Put]] = Deferred()
        (message,) = messages

        def execute() -> Any:
            if self.full:
                return Put(error=self.full)
            keys = [f"queue:{queue}", b"key:" + message.key]
            number, replayed = self._put(keys=keys, args=[message.headers, message.body])
            return Put(number, replayed == 1)

        def replied(put: Any) -> None:
            if isinstance(put, StoreError):
                done.errback(put)
            else:
                done.callback([put])

        self.waiting.append((execute, replied))
        return done

    def one(self, *, lose: bool = False) -> None:
        """Let one command through, and its reply too, unless that is lost."""
        execute, replied = self.waiting.popleft()
        reply = execute()
        replied(OutcomeUnknown("lost") if lose else reply)

    def all(self) -> None:
        while self.waiting:
            self.one()


class Member:
    """One daemon."""

    def __init__(self, world: World) -> None:
        self.clock = Clock()
        self.line = Line(world.store)
        self.runs = Runs(self.clock, self.line, world.scripts, self.line.put)  # type: ignore[arg-type]
        self.runs.start()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class World:
    """The store, its clock, and the daemons."""

    def __init__(self, store: valkey_client.Valkey, daemons: int = 1) -> None:
        self.store = store
        self.now_ms = BEGIN * 1000
        self.scripts = ScheduleScripts(KEYS, lambda: self.now_ms)
        for script in self.scripts.scripts.values():
            store.script_load(script.source.decode())
        self._line = Line(store)
        self.schedules = Schedules(self._line, self.scripts)  # type: ignore[arg-type]
        self.members = [Member(self) for _ in range(daemons)]

    def kill(self, which: int) -> None:
        """SIGKILL: nothing it said reaches the store any more; another one takes its place."""
        self.members[which] = Member(self)

    def ask(self, answer: Deferred[Any]) -> Any:
        """What the store answers to an operation of `schedules`."""
        self._line.all()
        got: list[Any] = []
        answer.addBoth(got.append)
        return got[0]

    def found(self, name: str = "tick") -> Found:
        found: Found = self.ask(self.schedules.find(name))
        return found

    def pass_time(self, seconds: float) -> None:
        """All is quick: time passes in small steps, everything is answered."""
        for _ in range(round(seconds / LOOK_SECONDS * 2)):
            self.now_ms += round(LOOK_SECONDS * 500)
            for member in self.members:
                member.pass_time(LOOK_SECONDS / 2)
            while any(member.line.waiting for member in self.members):
                for member in self.members:
                    member.line.all()
                    member.pass_time(0)

    def arrived(self, queue: str = "jobs") -> list[str]:
        """The runs that were put, as seconds behind BEGIN; several schedules by name."""
        lines = self.store.lrange(f"queue:{queue}", 0, -1)
        return [line.split(b'"restmq-run":"')[1][:20].decode() for line in lines]
