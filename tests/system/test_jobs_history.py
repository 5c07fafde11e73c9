"""Eight clients of one queue of jobs on three daemons at once: what they saw fits some order."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.conftest import StartDaemon
from tests.support import ValkeyServer
from tests.system.jobs import Jobs, Lease, now, three
from tests.system.jobs_history import History, Put, Receive, Settle, Span, check

QUEUE = "history/jobs"
CLIENTS = 8
STEPS = int(os.environ.get("RESTMQ_HISTORY_STEPS", "150"))


class Actor:
    """One client: each step goes to a daemon at random."""

    def __init__(self, ports: list[int], name: int, seed: int) -> None:
        self.chance = random.Random(f"{seed} {name}")
        self.clients = [Jobs(port) for port in ports]
        self.history = History()
        self.held: list[Lease] = []
        self.name = name

    def act(self) -> History:
        try:
            for step in range(STEPS):
                client = self.chance.choice(self.clients)
                match self.chance.choice(["put", "put", "receive", "receive", "word", "word"]):
                    case "put":
                        self.put(client, f"{self.name} {step}".encode())
                    case "receive":
                        self.receive(client)
                    case _ if self.held:
                        self.word(client)
        finally:
            for client in self.clients:
                client.close()
        return self.history

    def put(self, client: Jobs, body: bytes) -> None:
        priority, start = self.chance.choice([0, 0, 0, 5]), now()
        number = client.put(QUEUE, body, priority=priority)
        self.history.puts.append(Put(Span(start, now()), number, priority))

    def receive(self, client: Jobs) -> None:
        limit, lease = self.chance.choice([1, 1, 3]), self.chance.choice([50, 300, 30_000])
        wait, start = self.chance.choice([0.0, 0.0, 0.02]), now()
        found = client.receive(QUEUE, limit, wait, lease / 1000)
        self.history.receives.append(Receive(Span(start, now()), lease, tuple(found), limit))
        self.held += found

    def word(self, client: Jobs) -> None:
        place = self.chance.randrange(len(self.held))
        verb = self.chance.choice(["ack", "ack", "ack", "nack", "extend"])
        held, lease = self.held[place], self.chance.choice([100, 20_000])
        more = {"nack": {"delay": 0}, "extend": {"lease": lease / 1000}}.get(verb, {})
        start = now()
        (counted,) = client.settle(verb, [held.receipt], **more)
        self.history.settles.append(Settle(Span(start, now()), verb, held, counted, lease))
        if verb != "extend" and self.chance.random() < 0.9:
            del self.held[place]


def finish(port: int, history: History) -> None:
    """Take and acknowledge all that is left, also what somebody still has; then nothing is lost."""
    with Jobs(port) as client:
        for state in ("leased", "delayed"):
            for one in client.browse(QUEUE, state):
                client.ask("POST", f"/v1/queues/{QUEUE}/messages/{one['id']}/release")
        left = set()
        while found := client.receive(QUEUE, 1000):
            left |= {lease.id for lease in found}
            assert all(client.settle("ack", [lease.receipt for lease in found]))
        numbers = client.look(QUEUE)
    acked = [one.held.id for one in history.settles if one.verb == "ack" and one.counted]
    assert len(set(acked)) == len(acked)
    assert not set(acked) & left
    assert set(acked) | left == {put.id for put in history.puts}
    assert (numbers["ready"], numbers["leased"], numbers["delayed"]) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("time", range(2))
def test_what_eight_clients_saw_fits_some_order(
    daemon: StartDaemon, valkey: ValkeyServer, time: int
) -> None:
    """No message is in two hands, none is acknowledged twice or lost, none overtakes."""
    ports = three([daemon("--redis-url", valkey.url) for _ in range(3)])
    with Jobs(ports[0]) as client:
        client.make(QUEUE, priorities=True, max_attempts=0)
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    history = History()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for part in pool.map(lambda name: Actor(ports, name, seed).act(), range(CLIENTS)):
            history += part
    check(history)
    finish(ports[0], history)
    again = sum(lease.attempt > 1 for one in history.receives for lease in one.found)
    print("puts", len(history.puts), "handed out again", again, "words", len(history.settles))


# ---- the checker finds what is wrong


def span(start: int, end: int | None = None) -> Span:
    return Span(start, start + 1 if end is None else end)


def lease(number: int, attempt: int, until: int) -> Lease:
    return Lease(QUEUE, number, "", attempt, 0, "", until)


def good() -> History:
    """1 is put, received, given back, received again and acknowledged; 2 is put and stays."""
    one, two = lease(1, 1, 1020), lease(1, 2, 1040)
    return History(
        [Put(span(1), 1, 0), Put(span(5), 2, 0)],
        [Receive(span(20), 1000, (one,), 1), Receive(span(40), 1000, (two,), 1)],
        [Settle(span(30), "nack", one, True), Settle(span(50), "ack", two, True)],
    )


def test_a_history_that_fits() -> None:
    check(good())


def broken(**changes: object) -> History:
    return replace(good(), **changes)  # type: ignore[arg-type]


NACK, ACK = good().settles
LATER = Receive(span(60), 1000, (lease(2, 1, 1060),), 1)
IN_TWO_HANDS = broken(settles=[])
AFTER_ITS_ACK = broken(settles=[replace(NACK, verb="ack")])
STALE = broken(settles=[replace(NACK, counted=False)])
TOO_LATE = broken(settles=[replace(NACK, at=span(2000))])
TWO_WORDS = broken(settles=[NACK, ACK, replace(ACK, at=span(55))])
FROM_NOWHERE = broken(puts=[replace(good().puts[1], id=1), replace(good().puts[1], id=3)])
OVERTAKEN = broken(
    puts=[Put(span(1), 1, 0), Put(span(5), 2, 9)], receives=[*good().receives, LATER]
)
OUT_OF_ORDER = broken(
    receives=[replace(LATER, at=span(12), found=(lease(2, 1, 1012),))], settles=[]
)
TWICE = broken(receives=good().receives * 2)
NOTHING = broken(receives=[*good().receives, Receive(span(60), 9, (), 1)])


@pytest.mark.parametrize(
    ("history", "why"),
    [
        (IN_TWO_HANDS, "in two hands"),
        (AFTER_ITS_ACK, "received after its ack"),
        (STALE, "stale without a reason"),
        (TOO_LATE, "counted after its end"),
        (TWO_WORDS, "settled"),
        (FROM_NOWHERE, "ids with holes"),
        (OVERTAKEN, "overtook"),
        (OUT_OF_ORDER, "overtook"),
        (TWICE, "the same lease twice"),
        (NOTHING, "waited"),
    ],
)
def test_a_history_that_fits_no_order_is_found(history: History, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check(history)
