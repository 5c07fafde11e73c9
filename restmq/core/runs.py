"""Each daemon's part in running the schedules: it puts the messages that are due.

All daemons do the same, and each run is put once. A run is *claimed* by a script, which moves the schedule
past it and writes what is to be put into an outbox; the put itself goes to the queue's own place in the
store under a key made of the schedule's name and the run, so that whoever repeats it changes nothing; then
the run leaves the outbox. A daemon that dies in between leaves it there, and after HOLD_MS another one goes on.

Time is the store's: every look tells what it is, and a claim that comes too early is refused. While the
store, the daemons or the queue are away, runs are missed; the latest of them is made up for, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.schedules import (
    ScheduleScripts,
    State,
    decode_definition,
    decode_message,
    decode_state,
)
from restmq.errors import BadRequest, StoreError
from restmq.message import NewMessage, Put
from restmq.redis.connection import Store
from restmq.rules.schedule import Timetable

LOOK_SECONDS = 0.5
"""So often a daemon looks for changes and for runs that others left behind."""

HOLD_MS = 2000
"""How long a run stays in the hands of one daemon."""

AT_ONCE = 100
"""How many schedules are looked through in one turn of the reactor."""

PutMessages = Callable[[str, Sequence[NewMessage]], Deferred[list[Put]]]


def run_time(run: int) -> str:
    """A run as people read it: RFC 3339, UTC."""
    return datetime.fromtimestamp(run, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def message_of(name: str, run: int, template: NewMessage) -> NewMessage:
    """What is put for this run: it says which one it is, and is put once.

    The headers ``restmq-schedule`` and ``restmq-run`` come to those of the template.
    """
    headers = orjson.loads(template.headers) if template.headers else {}
    told = {**headers, "restmq-schedule": name, "restmq-run": run_time(run)}
    key = hashlib.blake2b(f"schedule:{name}:{run}".encode(), digest_size=16).digest()
    return template._replace(headers=orjson.dumps(told), key=key)


class _Known:
    """A schedule as this daemon knows it."""

    __slots__ = ("claiming", "complained", "definition", "next_run", "state", "timetable")

    def __init__(self, definition: bytes, timetable: Timetable, state: State) -> None:
        self.definition = definition
        self.timetable = timetable
        self.claiming = False
        self.complained = b""
        self.next_run: int | None = None
        self.state = State(paused=1)
        self.now_is(state)

    def now_is(self, state: State) -> None:
        """It is there now."""
        if state != self.state:
            self.state = state
            self.next_run = None if state.paused else self.timetable.next_run(state.after)

    @property
    def waits_for(self) -> int | None:
        """The run that is to be claimed next, if one may be."""
        return None if self.claiming or self.state.pending else self.next_run


class Runs:
    """The runs that this daemon puts."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, store: Store, scripts: ScheduleScripts, put: PutMessages
    ) -> None:
        """``clock`` says when to look; ``put`` puts messages into a queue, those with a known key not again."""
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._put = put
        self._schedules: dict[bytes, _Known] = {}
        self._version = b""
        self._ahead = 0.0
        self._looking = task.LoopingCall(self.look)
        self._looking.clock = clock
        self._asked = False
        self._waking: IDelayedCall | None = None

    def start(self) -> None:
        """Look, now and again and again."""
        self._looking.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        """Claim nothing more. What is being put is put, here or by the next daemon."""
        if self._looking.running:
            self._looking.stop()
        self._sleep()

    def look(self) -> None:
        """Ask the store for the time and for what changed."""
        if not self._asked and self._store.ready:
            self._asked = True
            self._store.send(self._scripts.call("schedule_look", self._version), self._looked)

    def _looked(self, reply: Any) -> None:
        self._asked = False
        if not self._looking.running:
            return
        if isinstance(reply, StoreError):
            self.log.debug("looking for schedules: {error}", error=reply)
            return
        now_ms, version, pending, *changed = reply
        self._clock_is(int(now_ms))
        if changed:
            self._version = version
            self._learn(changed[0])
        self._take_over(dict(zip(pending[::2], pending[1::2], strict=True)), int(now_ms))
        self._wake_later()

    def _clock_is(self, now_ms: int) -> None:
        self._ahead = now_ms / 1000 - self._clock.seconds()

    def _now(self) -> float:
        """The store's clock, in seconds, as far as we know."""
        return self._clock.seconds() + self._ahead

    def _learn(self, all_of_them: Sequence[bytes]) -> None:
        """These are the schedules."""
        before, self._schedules = self._schedules, {}
        for at in range(0, len(all_of_them), 3):
            name, definition, state = all_of_them[at : at + 3]
            known = before.get(name)
            if known is None or known.definition != definition:
                known = self._make(name, definition, decode_state(state))
            else:
                known.now_is(decode_state(state))
            if known is not None:
                self._schedules[name] = known

    def _make(self, name: bytes, definition: bytes, state: State) -> _Known | None:
        cron, timezone, _ = decode_definition(definition)
        try:
            return _Known(definition, Timetable(cron, timezone), state)
        except BadRequest as error:
            self.log.error(
                "schedule {name}: a newer daemon made it, this one can't run it ({error})",
                name=name.decode(),
                error=error,
            )
            return None

    def _take_over(self, pending: dict[bytes, bytes], now_ms: int) -> None:
        """Take what a daemon left behind; and what is no longer being put may be claimed again."""
        for name, known in self._schedules.items():
            if known.claiming:
                continue
            if name in pending:
                known.state = decode_state(pending[name])
                if known.state.claimed_ms + HOLD_MS <= now_ms:
                    self._claim(name, known, 0, 0)
            elif known.state.pending:
                known.now_is(known.state._replace(pending=0))

    # ---- waking up when a run is due

    def _sleep(self) -> None:
        if self._waking is not None and self._waking.active():
            self._waking.cancel()
        self._waking = None

    def _wake_later(self) -> None:
        self._sleep()
        times = [run for known in self._schedules.values() if (run := known.waits_for) is not None]
        if times:
            wait = min(times) - self._now()
            if wait < LOOK_SECONDS:  # else a look comes before it
                self._waking = self._clock.callLater(max(wait, 0.0), self._run)

    def _run(self) -> None:
        """Claim what is due. Without the store the next look that succeeds brings us back here."""
        if not self._store.ready:
            return
        now = int(self._now())
        due = [
            (name, known)
            for name, known in self._schedules.items()
            if (run := known.waits_for) is not None and run <= now
        ]
        for name, known in due[:AT_ONCE]:
            found = known.timetable.due(known.state.after, now)
            if found is not None:
                self._claim(name, known, found.run, found.missed)
        if not due or len(due) > AT_ONCE:  # else we go on when the claims are answered
            self._wake_later()

    def _claim(self, name: bytes, known: _Known, run: int, missed: int) -> None:
        known.claiming = True
        state = known.state
        numbers = (HOLD_MS, run, state.since, state.after, missed)
        arguments = [b"%d" % number for number in numbers]
        command = self._scripts.call("schedule_claim", name, *arguments)
        self._store.send(command, partial(self._claimed, name, known))

    def _claimed(self, name: bytes, known: _Known, reply: Any) -> None:
        known.claiming = False
        if isinstance(reply, StoreError):  # the next look finds out what happened
            self.log.debug("claiming a run: {error}", error=reply)
            return
        word, now_ms, state, *entry = reply
        self._clock_is(int(now_ms))
        if not state:
            self._schedules.pop(name, None)
            return
        known.now_is(decode_state(state))
        if word == b"taken":
            self._deliver(name, entry[0])
        if self._looking.running:
            self._wake_later()

    # ---- what was claimed

    def _deliver(self, name: bytes, entry: bytes) -> None:
        run, queue, template = entry.split(b"\0", 2)
        message = message_of(name.decode(), int(run), decode_message(template))
        put = self._put(queue.decode(), [message])
        put.addCallbacks(self._delivered, self._failed, (name, run, queue), {}, (name, run))

    def _delivered(self, results: list[Put], name: bytes, run: bytes, queue: bytes) -> None:
        result = results[0]
        if result.error and result.error != "key_reused":  # that one says it is there
            self._complain(name, run, f"the queue {queue.decode()!r} says {result.error}")
            return
        command = self._scripts.call("schedule_done", name, run, b"%d" % result.id)
        self._store.send(command, partial(self._noted, name))

    def _noted(self, name: bytes, reply: Any) -> None:
        """Noted as the last run; if not, it is put again under the same key, which changes nothing."""
        known = self._schedules.get(name)
        if isinstance(reply, StoreError) or known is None or known.claiming:
            return
        known.now_is(known.state._replace(pending=0))
        if self._looking.running:
            self._wake_later()

    def _failed(self, failure: Failure, name: bytes, run: bytes) -> Failure | None:
        if not isinstance(failure.value, StoreError):
            return failure
        self._complain(name, run, str(failure.value))
        return None

    def _complain(self, name: bytes, run: bytes, why: str) -> None:
        """Once for each run; it stays in the outbox and is tried again."""
        known = self._schedules.get(name)
        if known is None or known.complained != run:
            self.log.warn(
                "schedule {name}: the run of {run} is not in its queue yet ({why}); trying again",
                name=name.decode(),
                run=run_time(int(run)),
                why=why,
            )
        if known is not None:
            known.complained = run
