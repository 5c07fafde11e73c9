"""The delivery, played at random against a real store: nothing lost, nothing popped twice, order kept."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from restmq.message import Policy
from tests.core.model import Daemon, Listener, World
from tests.support import ValkeyServer

RUNS = int(os.environ.get("RESTMQ_MODEL_RUNS", "320"))
STEPS = 250
FAULTS = {
    "lose reply": 0.02,
    "kill": 0.02,
    "lose subscription": 0.04,
    "forgotten": 0.01,
    "slow": 0.2,
}


def some_daemon(world: World) -> Daemon | None:
    return world.random.choice(world.daemons) if world.daemons else None


def step(world: World, policies: list[Policy]) -> None:
    pick = world.random.random
    daemon = some_daemon(world)
    if pick() < 0.35:
        world.add(world.random.choice((1, 1, 2, 5, 40)))
    if pick() < world.rates.get("bursts", 0):
        world.add(world.random.choice((300, 900)))
    if pick() < 0.06:
        world.pop(world.random.choice((1, 1, 3)))
    if pick() < 0.03:
        world.delete()
    if pick() < world.rates.get("purge", 0):
        world.purge()
    if pick() < world.rates.get("save", 0):
        world.save()
    if pick() < world.rates.get("lose time", 0):
        world.lose_time(flush=pick() < 0.4)
    if pick() < 0.03:
        world.set_started(pick() < 0.7)
    if pick() < 0.02:
        world.set_policy(world.random.choice(policies))
    if len(world.daemons) < 3 and pick() < 0.1:
        daemon = world.start_daemon()
    if daemon is None:
        return
    if len(daemon.consumers) < 3 and pick() < 0.12:
        world.attach(daemon)
    if daemon.consumers and pick() < 0.04:
        world.detach(daemon, world.random.choice(daemon.consumers))
    if pick() < 0.3:
        world.flush(daemon)
    workers = [listener for listener in daemon.consumers if listener.leased]
    if workers:
        work(world, daemon, world.random.choice(workers))
    for _ in range(world.random.randrange(6)):
        other = some_daemon(world)
        assert other is not None
        other.work() if pick() < 0.5 else other.listen()
    world.now += world.random.choice((1, 5, 100))
    if pick() < 0.05:
        daemon.feed.tick()
    if world.chance("lose subscription"):
        world.note("lost subscription")
        daemon.lose_subscription()
    if world.chance("forgotten"):
        world.note("forgotten")
        world.now += 16000
    if world.chance("kill"):
        world.kill(daemon)


def work(world: World, daemon: Daemon, worker: Listener) -> None:
    """A consumer that acknowledges does so, or says no, or is late, or leaves without a word."""
    pick = world.random.random()
    if pick < 0.5:
        world.acknowledge(worker, world.random.choice((1, 2, 1000)))
    elif pick < 0.6:
        world.acknowledge(worker, 1, "nack")
    elif pick < 0.7:
        world.lease_over(daemon, worker)
    elif pick < 0.73:
        world.detach(daemon, worker)


def play(world: World, policies: list[Policy], steps: int = STEPS) -> None:
    world.set_policy(policies[0])
    if world.random.random() < 0.5 and world.rates["slow"] < 0.9:
        world.rates["slow"] = 0
    for _ in range(steps):
        step(world, policies)
    world.set_started(True)
    world.settle()
    if not any(d.consumers for d in world.daemons):
        world.attach(world.start_daemon())
        world.settle()


def check(world: World, policies: list[Policy]) -> None:
    received = Counter(i for _, listener in world.listeners for i in listener.received)
    popped = Counter(i for i in world.popped if i not in world.forgiven)
    assert all(n == 1 for n in popped.values()), "popped twice"
    acked = Counter(i for i in world.acked if i not in world.forgiven)
    assert all(n == 1 for n in acked.values()), "acknowledged twice"
    assert not set(acked) & set(popped), "acknowledged and popped"
    lost = set(world.added) - set(received) - set(popped) - world.forgiven
    assert not {i for i in lost if i > world.purged_up_to}, f"lost {sorted(lost)[:9]}"
    waiting, flight = world.run("inspect", 0)[0], world.run("inspect", 0)[3]
    assert waiting == b"0", "all could be handed over, yet some wait"
    if "lost time" not in world.notes:  # else what was settled may be out again, for ever
        assert flight == b"0", "all was handed over, yet some is out"
        windows = world.queue_keys[2:4]
        assert [world.store.zcard(window) for window in windows] == [0, 0]
    check_slots(world)
    if not world.notes:
        assert not any(daemon.feed.missed for daemon in world.daemons), "a gap without a fault"
        assert not set(received) & set(popped), "popped and pushed without a fault"
    if policies == [Policy.ROUNDROBIN] and not world.notes:
        assert set(received.values()) <= {1}, "dealt twice without a fault"
    if policies == [Policy.BROADCAST]:
        check_broadcast(world)


def check_slots(world: World) -> None:
    """Everybody who is there has a place in the turn, with all its room, and nobody else."""
    turn, room = world.queue_keys[5:7]
    slots = world.store.lrange(turn, 0, -1)
    assert world.store.hgetall(room) == dict.fromkeys(slots, b"%d" % Listener.room)
    places = Counter(slot[:12] for slot in slots)
    assert places == {d.name: len(d.consumers) for d in world.daemons if d.consumers}


def check_broadcast(world: World) -> None:
    """Every consumer: ids rise, and nothing that another one got in between is missing."""
    if "lost time" in world.notes or "purge" in world.notes:
        return
    everywhere = sorted({i for _, listener in world.listeners for i in listener.received})
    for daemon, listener in world.listeners:
        got = listener.received
        assert len(got) == len(set(got)), "twice on one connection"
        if got and not daemon.feed.missed:
            if not world.rates["slow"]:  # else what hung with one that died may come late
                assert got == sorted(got), "out of order"
            between = {i for i in everywhere if got[0] <= i <= got[-1]} - world.forgiven
            assert between <= set(got), f"{daemon.name!r} missed {sorted(between - set(got))[:5]}"


BOTH = [Policy.BROADCAST, Policy.ROUNDROBIN]
KINDS = {"broadcast": BOTH[:1], "roundrobin": BOTH[1:], "both": BOTH}


def live(
    valkey: ValkeyServer, seed: int, kind: str, faults: bool, steps: int, **rates: float
) -> None:
    with valkey.client() as store:
        world = World(store, seed, faults, {**FAULTS, **rates})
        try:
            play(world, KINDS[kind], steps)
            check(world, KINDS[kind])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}; {dict(world.notes)}") from error
        finally:
            world.close()


def seed_of(kind: str, faults: bool, number: int) -> int:
    return number + list(KINDS).index(kind) * 100_000 + faults * 1_000_000


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", range(8))
def test_random_lives(valkey: ValkeyServer, kind: str, faults: bool, block: int) -> None:
    """Daemons come, go, die and lose connections; messages come out all the same."""
    for run in range(RUNS // 48 + 1):
        live(valkey, seed_of(kind, faults, block * 1000 + run), kind, faults, STEPS)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
def test_short_lives(valkey: ValkeyServer, kind: str, faults: bool) -> None:
    """Nothing later comes to the rescue: what the first steps leave behind shows."""
    for run in range(RUNS // 4):
        live(valkey, seed_of(kind, faults, 50_000 + run), kind, faults, 4 + run % 24)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
def test_lives_with_little_room(
    valkey: ValkeyServer, kind: str, faults: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that is lost stops a consumer for ever, room that grows drowns it."""
    monkeypatch.setattr(Listener, "room", 4)
    for run in range(RUNS // 32 + 1):
        live(valkey, seed_of(kind, faults, 60_000 + run), kind, faults, STEPS, slow=0.5)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
def test_lives_with_purges_and_expiry(valkey: ValkeyServer, kind: str, faults: bool) -> None:
    """What was purged is never popped; what has no time to live is not lost."""
    for run in range(RUNS // 32 + 1):
        seed = seed_of(kind, faults, 70_000 + run)
        live(valkey, seed, kind, faults, STEPS, purge=0.02, ttl=0.3)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
def test_lives_of_a_store_that_loses_time(valkey: ValkeyServer, kind: str, faults: bool) -> None:
    """Flushed, or restarted with older data: what was added after that is not lost, ids rise."""
    for run in range(RUNS // 32 + 1):
        seed = seed_of(kind, faults, 80_000 + run)
        rates = {"save": 0.05, "lose time": 0.02}
        live(valkey, seed, kind, faults, STEPS, **rates)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
def test_lives_with_more_packs_than_are_opened_at_a_time(
    valkey: ValkeyServer, kind: str, faults: bool
) -> None:
    """Some are messages of the list, some still packs, and what comes meanwhile stays behind them."""
    for run in range(RUNS // 64 + 1):
        seed = seed_of(kind, faults, 95_000 + run)
        live(valkey, seed, kind, faults, 60 + run % 60, bursts=0.15, packs=0.8)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", KINDS)
def test_lives_of_slow_clients(valkey: ValkeyServer, kind: str, faults: bool) -> None:
    """Hardly anybody reads at once: what no kernel has must outlive those who have it in hand."""
    for run in range(RUNS // 8 + 1):
        seed = seed_of(kind, faults, 90_000 + run)
        live(valkey, seed, kind, faults, 10 + run % 60, slow=0.95)


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("kind", ["roundrobin", "both"])
@pytest.mark.parametrize("room", [3, 1000])
def test_lives_of_workers_that_acknowledge(
    valkey: ValkeyServer, kind: str, faults: bool, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acks, nacks, leases that end, workers that leave: each message is acknowledged once."""
    monkeypatch.setattr(Listener, "room", room)
    for run in range(RUNS // 16 + 1):
        seed = seed_of(kind, faults, 40_000 + run)
        live(valkey, seed, kind, faults, 20 + run * 10, acks=0.6)


@pytest.mark.parametrize("kind", ["roundrobin", "both"])
def test_lives_of_workers_on_a_store_that_loses_time(valkey: ValkeyServer, kind: str) -> None:
    """Receipts of a life that is lost are stale; nobody is stuck with them."""
    for run in range(RUNS // 32 + 1):
        rates = {"acks": 0.6, "save": 0.05, "lose time": 0.02}
        live(valkey, seed_of(kind, True, 30_000 + run), kind, True, STEPS, **rates)
