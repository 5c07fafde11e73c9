"""Random lives of a queue of jobs: after every step the store shows what the specification says.

Three brokers on one store take turns. `tests/core/jobs_model.py` is the specification. Longer lives:
``RESTMQ_JOBS_RUNS`` (how many, 20) and ``RESTMQ_JOBS_STEPS`` (how long each at most, 50).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from restmq.core.broker import Broker
from restmq.core.jobs import Leased
from restmq.core.packs import Pack
from restmq.core.receipts import Receipt
from restmq.core.verdicts import Ack, Extend, Nack
from restmq.message import Message, NewMessage
from restmq.redis.keys import Keys
from tests.core.instant import Hall
from tests.core.jobs_model import ALL, DELAYED, LEASED, NONE, PUSH, READY, Dead, Job, Jobs
from tests.support import ValkeyServer

RUNS = int(os.environ.get("RESTMQ_JOBS_RUNS", "20"))
STEPS = int(os.environ.get("RESTMQ_JOBS_STEPS", "50"))
QUEUE, DEAD = "jobs", "jobs.dead"
NOW = 1_800_000_000_000
STATUS = {NONE: b"1", ALL: b"0", PUSH: b"2"}

seconds = st.integers(1, 6).map(lambda n: 1000 * n)
some = st.integers(0, 10_000)
"""A number by which one of what is there is chosen."""


class Held(NamedTuple):
    """A receipt, and what the specification calls it."""

    receipt: Receipt
    id: int
    attempt: int


class Life(RuleBasedStateMachine):
    """One queue, its dead letters, three brokers, a clock."""

    valkey: ValkeyServer
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        with self.valkey.client() as store:
            store.flushall()
        self.hall = Hall(self.valkey, 3, NOW)
        self.jobs = Jobs(NOW)
        self.receipts: list[Held] = []
        self.serial = 0
        self.bounded = False
        self._set(b"mode", b"2", b"prio", b"1", b"max_attempts", b"2", b"backoff_jitter", b"0")
        self.jobs.set(priorities=True, max_attempts=2)

    @property
    def limited(self) -> bool:
        """Whether each put must be looked at by itself."""
        return bool(self.jobs.rules.max_length or self.jobs.rules.ttl)

    def teardown(self) -> None:
        self.hall.close()

    @initialize(bounded=st.booleans())
    def begin(self, bounded: bool) -> None:
        """With a bound or with messages that go before their turn: those keep their place for a while.

        Where something is gone behind what waits, its place is taken until its turn comes.
        """
        self.bounded = bounded

    # ---- what both are asked

    def ask(self, broker: int, question: Callable[[Broker], Any]) -> Any:
        """One of the brokers answers."""
        return self.hall.result(question(self.hall.brokers[broker % 3]))

    def _set(self, *fields: bytes) -> None:
        """As the door for settings does: fields of the queue's hash; a bound of 0 is none."""
        key = Keys("restmq:").base(QUEUE)
        with self.valkey.client() as store:
            store.hset(key, items=[*fields])
            if self.limited:
                store.hset(key, b"lim", 1)
            else:
                store.hdel(key, b"lim")
            if fields[:2] == (b"max_length", b"0"):
                store.hdel(key, b"max_length")

    @rule(
        broker=some,
        several=st.lists(
            st.tuples(
                st.sampled_from([0, 0, 0, 2000, 5000]),
                st.sampled_from([0, 0, 0, 1000, 3000]),
                st.sampled_from([0, 0, 0, 1, 9]),
            ),
            min_size=1,
            max_size=4,
        ),
    )
    def put(self, broker: int, several: list[tuple[int, int, int]]) -> None:
        given, expected = [], []
        for some_ttl, delay, priority in several:
            self.serial += 1
            ttl = 0 if self.bounded else some_ttl
            body = b"body %d" % self.serial
            given.append(NewMessage(body, ttl_ms=ttl, delay_ms=delay, priority=priority))
            expected.append(self.jobs.put(body, ttl, delay, priority))
        found = self.ask(broker, lambda b: b.put(QUEUE, given))
        assert [one.error or one.id for one in found] == expected
        self.look()

    @precondition(lambda self: not self.jobs.rules.max_length)
    @rule(broker=some, count=st.integers(1, 12))
    def put_packed(self, broker: int, count: int) -> None:
        """Many at once, which lie in the store as one or two."""
        numbers = range(self.serial + 1, self.serial + count + 1)
        self.serial += count
        expected = [self.jobs.put(b"body %d" % number) for number in numbers]
        lines = [b"%d" % number for number in numbers]
        halves = filter(None, (lines[: count // 3], lines[count // 3 :]))
        packs = [Pack({b"": (b"body ", b"")}, b"\n".join(half), len(half)) for half in halves]
        assert self.ask(broker, lambda b: b.add_packs(QUEUE, packs)) == expected[0]
        self.look()

    @rule(broker=some, delay=seconds)
    def put_at(self, broker: int, delay: int) -> None:
        """A time instead of a delay."""
        self.serial += 1
        body = b"body %d" % self.serial
        message = NewMessage(body, deliver_at_ms=self.jobs.now + delay)
        (found,) = self.ask(broker, lambda b: b.put(QUEUE, [message]))
        assert (found.error or found.id) == self.jobs.put(body, 0, delay)
        self.look()

    @rule(broker=some, limit=st.integers(1, 5), lease=seconds)
    def receive(self, broker: int, limit: int, lease: int) -> None:
        expected = self.jobs.receive(limit, lease)
        found: list[Leased] = self.ask(
            broker, lambda b: b.receive([QUEUE], limit, lease_ms=lease).done
        )
        assert [self.taken(leased) for leased in found] == expected
        self.receipts += [Held(f.receipt, f.message.id, f.message.attempt) for f in found]
        self.look()

    def _choose(self, which: int, count: int) -> list[Held]:
        """Receipts, of late ones mostly, of stale ones now and then."""
        if not self.receipts:
            return []
        start = len(self.receipts) - 1 - which % min(len(self.receipts), 12)
        return self.receipts[start : start + count]

    @rule(broker=some, which=some, count=st.integers(1, 3))
    def ack(self, broker: int, which: int, count: int) -> None:
        held = self._choose(which, count)
        expected = [self.jobs.ack(one.id, one.attempt) for one in held]
        assert self._settle(broker, held, Ack()) == expected
        self.look()

    @rule(
        broker=some,
        which=some,
        delay=st.sampled_from([None, None, 0, 2000]),
        reason=st.sampled_from(["", "no luck", "ação"]),
    )
    def nack(self, broker: int, which: int, delay: int | None, reason: str) -> None:
        held = self._choose(which, 2)
        expected = [self.jobs.nack(one.id, one.attempt, delay, reason) for one in held]
        assert self._settle(broker, held, Nack(delay, reason)) == expected
        self.look()

    @rule(broker=some, which=some, lease=seconds)
    def extend(self, broker: int, which: int, lease: int) -> None:
        held = self._choose(which, 2)
        expected = [self.jobs.extend(one.id, one.attempt, lease) for one in held]
        assert self._settle(broker, held, Extend(lease)) == expected
        self.look()

    def _settle(self, broker: int, held: list[Held], verb: Any) -> Any:
        return self.ask(broker, lambda b: b.settle([one.receipt for one in held], verb))

    def _number(self, which: int) -> int:
        """The id of something that is there, or was, or will be."""
        there = sorted(self.jobs.jobs)
        return there[which % len(there)] if there and which % 7 else which % (self.serial + 2) + 1

    @rule(broker=some, which=some)
    def release(self, broker: int, which: int) -> None:
        number = self._number(which)
        expected = self.jobs.release(number)
        assert self.ask(broker, lambda b: b.release(QUEUE, number)) == expected
        self.look()

    @precondition(lambda self: not self.bounded)
    @rule(broker=some, which=some)
    def delete(self, broker: int, which: int) -> None:
        number = self._number(which)
        expected = self.jobs.delete(number)
        assert self.ask(broker, lambda b: b.delete(QUEUE, number)) == expected
        self.look()

    @precondition(lambda self: not self.bounded)
    @rule(broker=some, limit=st.integers(1, 3))
    def redrive(self, broker: int, limit: int) -> None:
        expected = self.jobs.redrive(limit)
        assert self.ask(broker, lambda b: b.redrive(DEAD, "", limit)) == expected
        self.look()

    @rule(broker=some, which=some)
    def purge(self, broker: int, which: int) -> None:
        """Now and then."""
        if which % 4 == 0:
            self.jobs.purge()
            self.ask(broker, lambda b: b.purge(QUEUE))
        self.look()

    @rule(paused=st.sampled_from([NONE, NONE, PUSH, ALL]))
    def pause(self, paused: str) -> None:
        self.jobs.set(paused=paused)
        self._set(b"st", STATUS[paused])
        self.look()

    @rule(
        attempts=st.sampled_from([1, 2, 3, 5]),
        first=seconds,
        factor=st.sampled_from([1, 2, 3]),
        most=st.sampled_from([2000, 5000, 300_000]),
    )
    def retry_rules(self, attempts: int, first: int, factor: int, most: int) -> None:
        self.jobs.set(
            max_attempts=attempts, backoff_first=first, backoff_factor=factor, backoff_max=most
        )
        self._set(b"max_attempts", b"%d" % attempts, b"backoff_first_ms", b"%d" % first)
        self._set(b"backoff_factor", b"%d" % factor, b"backoff_max_ms", b"%d" % most)

    @precondition(lambda self: not self.bounded)
    @rule(ttl=st.sampled_from([0, 0, 4000]))
    def time_to_live(self, ttl: int) -> None:
        self.jobs.set(ttl=ttl)
        self._set(b"ttl_ms", b"%d" % ttl)

    @precondition(lambda self: self.bounded)
    @rule(length=st.sampled_from([0, 0, 3, 8]), drop=st.booleans())
    def bounds(self, length: int, drop: bool) -> None:
        self.jobs.set(max_length=length, drop_oldest=drop)
        self._set(b"max_length", b"%d" % length, b"overflow", b"2" if drop else b"1")

    @rule(on=st.booleans())
    def priorities(self, on: bool) -> None:
        self.jobs.set(priorities=on)
        self._set(b"prio", b"%d" % on)

    @rule(count=st.integers(1, 4))
    def time_passes(self, count: int) -> None:
        """Second by second: what happens at one may be due at the next."""
        for _ in range(count):
            self.jobs.advance(1000)
            self.hall.advance(1000)
        self.look()

    # ---- what both show

    def look(self) -> None:
        """All that can be seen is the same, whoever of the brokers is asked."""
        type(self).steps += 1
        found = {state: self.browse(QUEUE, state) for state in (READY, LEASED, DELAYED)}
        assert found[READY] == self.jobs.ready()
        for state in (LEASED, DELAYED):
            expected = [job for job in self.jobs.jobs.values() if job.state == state]
            assert sorted(found[state], key=number) == sorted(expected, key=number), state
        letters = [self.dead_letter(one) for one in self.pages(DEAD, READY)]
        assert letters == self.jobs.dead
        info = self.ask(self.serial, lambda b: b.inspect(QUEUE))
        assert (info.leased, info.delayed) == (len(found[LEASED]), len(found[DELAYED]))
        assert info.length >= len(found[READY]), "what is gone may still have a place"

    def pages(self, queue: str, state: str) -> list[Any]:
        """All of a state, a page of three at a time."""
        found: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self.ask(len(found), lambda b, at=cursor: b.browse(queue, state, at, 3))
            found += page.found
            cursor = page.cursor
        return found

    def browse(self, queue: str, state: str) -> list[Job]:
        return [self.job(one.message, one.state, one.due_ms) for one in self.pages(queue, state)]

    def taken(self, leased: Leased) -> Job:
        return self.job(leased.message, LEASED, leased.until_ms)

    def job(self, message: Message, state: str, due: int) -> Job:
        """When it expires is not told; that it does shows when its time is over."""
        job = self.jobs.jobs.get(message.id)
        assert message.body is not None
        return Job(
            message.id,
            message.body,
            message.priority,
            job.expires if job else 0,
            state,
            due,
            message.attempt,
            message.error,
        )

    def dead_letter(self, found: Any) -> Dead:
        headers = json.loads(found.message.headers)
        origin, _, number = headers["restmq-origin"].rpartition(":")
        assert origin == QUEUE
        return Dead(
            found.message.body,
            int(number),
            headers["restmq-reason"],
            int(headers["restmq-attempts"]),
            headers.get("restmq-error", ""),
        )


def number(job: Job) -> int:
    return job.id


@pytest.mark.slow
def test_the_store_shows_what_the_specification_says(valkey: ValkeyServer) -> None:
    """Puts, leases, acks, retries, delays, dead letters, settings and time, in any order."""
    Life.valkey, Life.steps = valkey, 0
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
    print("steps compared:", Life.steps)


def test_a_page_does_not_pass_over_what_it_did_not_read(valkey: ValkeyServer) -> None:
    """Two that are gone fill the page that was read of one place; the other place waits its turn."""
    Life.valkey = valkey
    life = Life()
    life.begin(bounded=False)
    for _ in range(3):
        life.put_at(broker=0, delay=1000)
    life.put(broker=0, several=[(0, 0, 0), (2000, 0, 1), (2000, 0, 1)])
    life.time_passes(count=2)
    life.teardown()
