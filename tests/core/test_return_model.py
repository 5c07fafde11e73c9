"""Who is cut off and comes back, played at random against a real store: each message once, gaps exact."""

from __future__ import annotations

import os

import pytest

from restmq.message import Policy
from tests.core.model import World
from tests.core.test_delivery_model import BOTH, FAULTS, step
from tests.core.travellers import Traveller
from tests.support import ValkeyServer

RUNS = int(os.environ.get("RESTMQ_RETURN_RUNS", "20"))


def travel(world: World, traveller: Traveller) -> None:
    pick = world.random.random
    if traveller.daemon is None:
        if pick() < 0.3:
            daemons = world.daemons or [world.start_daemon()]
            traveller.visit(world.random.choice(daemons))
    elif traveller.daemon not in world.daemons or pick() < 0.1:
        traveller.cut_off()
    elif pick() < 0.3:
        traveller.kernel.drain()


def come_home(world: World, travellers: list[Traveller]) -> None:
    """All that are there still come back once more and stay until nothing moves."""
    world.set_started(True)
    for traveller in travellers:
        if traveller.daemon is not None:
            traveller.cut_off()
    world.settle()
    for traveller in travellers:
        traveller.visit(world.daemons[0] if world.daemons else world.start_daemon())
    world.settle()
    while sum([traveller.kernel.drain() for traveller in travellers]):
        world.settle()
    for traveller in travellers:
        traveller.cut_off(whole=True)


def check(world: World, traveller: Traveller, policies: list[Policy]) -> None:
    seen, gone = set(traveller.seen), set()
    assert traveller.seen == sorted(seen), "each once, in the order of ids"
    for before, after, missed in traveller.gaps:
        between = set(range(before + 1, after + 1))
        assert not between & seen, "told that it is gone, yet it came"
        if missed is not None:
            assert missed == len(between)
            assert not between & set(world.popped), "told that it was broadcast, yet it waited"
        gone |= between
    if policies != [Policy.BROADCAST]:
        return
    assert not traveller.late, "late without a change of policy"
    passed = set(range(traveller.began + 1, traveller.cursor.id + 1))
    unsaid = passed - seen - gone - set(world.popped) - world.forgiven
    assert len(unsaid) <= traveller.missed, f"nobody said that {sorted(unsaid)[:5]} are gone"


def live(valkey: ValkeyServer, seed: int, policies: list[Policy], faults: bool) -> Traveller:
    with valkey.client() as store:
        world = World(store, seed, faults, dict(FAULTS))
        try:
            world.set_policy(policies[0])
            world.run("settings", "", 0, "own", "replay_n", world.random.choice((3, 30, 1000)))
            travellers = [Traveller(world) for _ in range(world.random.choice((1, 1, 2)))]
            for _ in range(150):
                step(world, policies)
                for traveller in travellers:
                    travel(world, traveller)
            come_home(world, travellers)
            received = {i for _, listener in world.listeners for i in listener.received}
            accounted = received | set(world.popped) | world.forgiven
            for traveller in travellers:
                check(world, traveller, policies)
                accounted |= {*traveller.seen, *traveller.late, *traveller.unread}
                for before, after, _ in traveller.gaps:
                    accounted |= set(range(before + 1, after + 1))
            lost = set(world.added) - accounted
            assert len(lost) <= sum(t.missed for t in travellers), f"lost {sorted(lost)[:9]}"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}; {dict(world.notes)}") from error
        finally:
            world.close()
        return travellers[0]


@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.parametrize("policies", [BOTH[:1], BOTH], ids=["broadcast", "both"])
def test_who_comes_back_gets_each_message_once_or_is_told(
    valkey: ValkeyServer, policies: list[Policy], faults: bool
) -> None:
    """Daemons die, others listen or hang or nobody does, and my train goes through tunnels."""
    seen = gaps = 0
    for run in range(RUNS):
        traveller = live(valkey, 7_000_000 + run * 4 + len(policies) + faults, policies, faults)
        seen += len(traveller.seen)
        gaps += len(traveller.gaps)
    assert seen > 0
    assert gaps > 0
