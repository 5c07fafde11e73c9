"""Schedules on a real store: each run is put once, however many daemons there are and whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import valkey as valkey_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restmq.core.runs import HOLD_MS, LOOK_SECONDS, run_time
from restmq.core.schedules import MAX_SCHEDULES, Made, ScheduleScripts
from restmq.errors import StoreFull, StoreRefused
from restmq.redis.scripts import SCHEDULE_NAMES
from tests.core.clockwork import BEGIN, KEYS, World, schedule
from tests.support import ValkeyServer

DAY = 86400


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[valkey_client.Valkey]:
    with valkey.client() as client:
        yield client


def times(*seconds: int) -> list[str]:
    return [run_time(BEGIN + second) for second in seconds]


# ---- kept in the store


def test_what_is_set_is_found_again(store: valkey_client.Valkey) -> None:
    world = World(store)
    nightly = schedule(
        "ops/nightly", "30 2 * * *", "büro", timezone="Europe/Berlin", body=b"\0\xff"
    )
    assert world.ask(world.schedules.set(nightly)) is Made.NEW
    found = world.found("ops/nightly")
    assert found.schedule.name == "ops/nightly"
    assert found.schedule.timetable.cron == "30 2 * * *"
    assert found.schedule.timetable.timezone == "Europe/Berlin"
    assert found.schedule.queue == "büro"
    assert found.schedule.message == nightly.message
    assert found.next_run == BEGIN + 5400
    assert world.found("other") is None


def test_pages_are_in_the_order_of_names(store: valkey_client.Valkey) -> None:
    world = World(store)
    for name in ("b", "d", "a", "c"):
        world.ask(world.schedules.set(schedule(name)))
    page = world.ask(world.schedules.page("", 3))
    assert ([found.schedule.name for found in page.found], page.more) == (["a", "b", "c"], True)
    page = world.ask(world.schedules.page("c", 3))
    assert ([found.schedule.name for found in page.found], page.more) == (["d"], False)


def test_a_page_of_large_messages_ends_early(store: valkey_client.Valkey) -> None:
    world = World(store)
    for number in range(30):
        world.ask(world.schedules.set(schedule(f"s{number:02}", body=b"x" * 60_000)))
    names: list[str] = []
    more = True
    while more:
        page = world.ask(world.schedules.page(names[-1] if names else "", 1000))
        assert len(page.found) < 20
        names += [found.schedule.name for found in page.found]
        more = page.more
    assert names == [f"s{number:02}" for number in range(30)]


def test_there_are_not_too_many(store: valkey_client.Valkey) -> None:
    world = World(store)
    for number in range(MAX_SCHEDULES):
        assert world.ask(world.schedules.set(schedule(f"s{number}"))) is Made.NEW
    assert world.ask(world.schedules.set(schedule("more"))) is Made.TOO_MANY
    assert world.found("more") is None
    assert world.ask(world.schedules.set(schedule("s7", "0 0 * * *"))) is Made.REPLACED


# ---- run


def test_a_run_is_put_when_it_is_due_and_says_which_it_is(store: valkey_client.Valkey) -> None:
    world = World(store)
    world.ask(world.schedules.set(schedule()))
    world.pass_time(4.75)
    assert world.arrived() == []
    world.pass_time(0.25)
    assert world.arrived() == times(5)
    assert store.lrange("queue:jobs", 0, -1) == [
        b'{"restmq-schedule":"tick","restmq-run":"2026-11-22T00:00:05Z"} work'
    ]
    world.pass_time(10)
    assert world.arrived() == times(5, 10, 15)
    state = world.found().state
    assert (state.last, state.last_id, state.missed, state.pending) == (BEGIN + 15, 3, 0, 0)


def test_three_daemons_put_each_run_once(store: valkey_client.Valkey) -> None:
    world = World(store, daemons=3)
    world.ask(world.schedules.set(schedule(cron="* * * * * *")))
    world.pass_time(30)
    assert world.arrived() == times(*range(1, 31))


def test_what_was_missed_runs_once_and_is_counted(store: valkey_client.Valkey) -> None:
    """All daemons are down for a minute: one late run, then as ever."""
    world = World(store, daemons=2)
    world.ask(world.schedules.set(schedule()))
    world.pass_time(5)
    world.now_ms += 60_000
    for which in range(2):
        world.kill(which)
    world.pass_time(6)
    assert world.arrived() == times(5, 65, 70)
    assert world.found().state.missed == 11


def test_a_change_holds_within_a_second(store: valkey_client.Valkey) -> None:
    world = World(store, daemons=3)
    world.ask(world.schedules.set(schedule(cron="* * * * * *", queue="old")))
    world.pass_time(3)
    world.ask(world.schedules.set(schedule(cron="* * * * * *", queue="new")))
    world.pass_time(3)
    assert world.arrived("old") == times(1, 2, 3)
    assert world.arrived("new") == times(4, 5, 6)
    world.ask(world.schedules.remove("tick"))
    world.pass_time(3)
    assert world.arrived("new") == times(4, 5, 6)
    assert not world.ask(world.schedules.remove("tick"))


def test_what_would_have_run_while_paused_does_not(store: valkey_client.Valkey) -> None:
    world = World(store, daemons=2)
    world.ask(world.schedules.set(schedule()))
    world.pass_time(5)
    assert world.ask(world.schedules.pause("tick"))
    assert world.found().next_run is None
    world.pass_time(20)
    assert world.ask(world.schedules.resume("tick"))
    assert world.found().next_run == BEGIN + 30
    world.pass_time(6)
    assert world.arrived() == times(5, 30)
    assert not world.ask(world.schedules.pause("nobody"))


def test_a_new_message_leaves_no_run_out(store: valkey_client.Valkey) -> None:
    """Replaced while the daemons are away: the missed run comes late, with the new message."""
    world = World(store)
    world.ask(world.schedules.set(schedule()))
    world.now_ms += 7_000
    world.ask(world.schedules.set(schedule(body=b"new")))
    world.pass_time(1)
    assert world.arrived() == times(5)
    assert store.lrange("queue:jobs", 0, -1)[0].endswith(b" new")


def test_other_times_count_from_now_on(store: valkey_client.Valkey) -> None:
    world = World(store)
    world.ask(world.schedules.set(schedule()))
    world.now_ms += 7_000
    world.ask(world.schedules.set(schedule(cron="*/2 * * * * *")))
    world.pass_time(1.5)
    assert world.arrived() == times(8)


def test_a_full_queue_gets_the_run_when_it_has_room_and_the_latest_of_those_behind(
    store: valkey_client.Valkey,
) -> None:
    world = World(store, daemons=2)
    world.ask(world.schedules.set(schedule()))
    for member in world.members:
        member.line.full = "queue_full"
    world.pass_time(28)
    assert world.arrived() == []
    assert world.found().state.pending == BEGIN + 5
    for member in world.members:
        member.line.full = ""
    world.pass_time(HOLD_MS / 1000 + 1)
    assert world.arrived() == times(5, 25, 30)
    assert world.found().state.missed == 3


# ---- the clock


def test_a_clock_that_goes_back_makes_nothing_run_twice(store: valkey_client.Valkey) -> None:
    world = World(store, daemons=2)
    world.ask(world.schedules.set(schedule()))
    world.pass_time(20)
    world.now_ms -= 12_000
    world.pass_time(20)
    assert world.arrived() == times(5, 10, 15, 20, 25)


def test_a_run_never_comes_before_its_time(store: valkey_client.Valkey) -> None:
    """The clock goes back when the daemon knows already when to wake up."""
    world = World(store)
    world.now_ms += 250
    world.ask(world.schedules.set(schedule()))
    world.pass_time(4.5)
    world.now_ms -= 3000
    world.pass_time(0.25)
    assert world.arrived() == []
    world.pass_time(2.75)
    assert world.arrived() == []
    world.pass_time(0.25)
    assert world.arrived() == times(5)


def test_a_clock_that_was_a_year_ahead_is_forgotten_by_resuming(
    store: valkey_client.Valkey,
) -> None:
    world = World(store)
    world.ask(world.schedules.set(schedule()))
    world.now_ms += 365 * DAY * 1000
    world.pass_time(1)
    world.now_ms -= 365 * DAY * 1000
    world.pass_time(5)
    assert world.arrived() == times(365 * DAY)
    world.ask(world.schedules.pause("tick"))
    world.ask(world.schedules.resume("tick"))
    world.pass_time(5)
    assert world.arrived() == times(365 * DAY, 10)


def test_a_store_that_forgot_everything_has_no_schedules(store: valkey_client.Valkey) -> None:
    world = World(store)
    world.ask(world.schedules.set(schedule()))
    world.pass_time(5)
    store.flushall()
    world.pass_time(10)
    assert world.arrived() == []
    world.ask(world.schedules.set(schedule(cron="* * * * * *")))
    world.pass_time(2)
    assert world.arrived() == times(16, 17)


# ---- whatever happens


def until_put(world: World) -> None:
    """The first daemon goes up to where it has claimed a run, and the others do nothing."""
    member = world.members[0]
    world.ask(world.schedules.set(schedule()))
    member.pass_time(LOOK_SECONDS)
    member.line.all()
    world.now_ms += 5000
    member.pass_time(LOOK_SECONDS)
    member.line.all()  # the look
    member.pass_time(0)
    member.line.one()  # the claim
    assert len(member.line.waiting) == 1, "the put"


def test_a_run_that_was_claimed_by_a_daemon_that_died_is_put_by_another(
    store: valkey_client.Valkey,
) -> None:
    world = World(store, daemons=2)
    until_put(world)
    world.kill(0)
    world.pass_time(HOLD_MS / 1000 - LOOK_SECONDS)
    assert world.arrived() == []
    world.pass_time(2 * LOOK_SECONDS)
    assert world.arrived() == times(5)


def test_a_run_that_was_put_by_a_daemon_that_died_is_not_put_again(
    store: valkey_client.Valkey,
) -> None:
    world = World(store, daemons=2)
    until_put(world)
    world.members[0].line.one()
    world.kill(0)
    world.pass_time(HOLD_MS / 1000 + 2 * LOOK_SECONDS)
    assert world.arrived() == times(5)
    assert (world.found().state.last, world.found().state.last_id) == (BEGIN + 5, 1)


ACTS = ["pass"] * 6 + ["say"] * 40 + ["lose"] * 2 + ["kill", "jump"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1, 3]))
def test_no_run_comes_twice_or_out_of_order_and_the_latest_comes(
    store: valkey_client.Valkey, seed: int, step: int
) -> None:
    """Daemons die between any two commands, replies are lost, the clock jumps both ways."""
    store.flushall()
    chance = random.Random(seed)
    world = World(store, daemons=3)
    world.ask(world.schedules.set(schedule(cron="* * * * * *" if step == 1 else "*/3 * * * * *")))
    for _ in range(600):
        what, member = chance.choice(ACTS), chance.choice(world.members)
        if what == "pass":
            seconds = chance.choice([0.1, 0.4, 0.4, 2.5])
            world.now_ms += int(seconds * 1000)
            for each in world.members:
                each.pass_time(seconds)
        elif what == "jump":
            world.now_ms += chance.randrange(-5000, 5000)
        elif what == "kill":
            world.kill(world.members.index(member))
        elif member.line.waiting:
            member.line.one(lose=what == "lose")
            member.pass_time(0)
    world.pass_time(HOLD_MS / 1000 + 4 * LOOK_SECONDS)
    ahead = max(world.found().state.last - world.now_ms // 1000, 0)
    world.pass_time(ahead + 3)
    had, now = world.arrived(), world.now_ms // 1000
    assert had == sorted(set(had))
    assert had[-1] == run_time(max(now - now % step, world.found().state.last))


# ---- what a script does not do


def arguments(script: str) -> list[bytes]:
    return {
        "schedule_set": [b"tick", b"* * * * *\0UTC\0q", b"m", b"0", b"1000"],
        "schedule_change": [b"tick", b"remove"],
        "schedule_claim": [b"tick", b"2000", b"%d" % (BEGIN - 60), b"1", b"2", b"0"],
        "schedule_done": [b"tick", b"60", b"1"],
        "schedule_look": [b""],
        "schedule_read": [b"page", b"", b"10"],
    }[script]


def dump(store: valkey_client.Valkey) -> dict[bytes, bytes | None]:
    return {key: store.dump(key) for key in store.keys("*")}


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("script", SCHEDULE_NAMES)
def test_a_key_of_the_wrong_type_changes_nothing(
    store: valkey_client.Valkey, script: str, place: int
) -> None:
    world = World(store)
    world.ask(world.schedules.set(schedule()))
    store.delete(KEYS.schedules()[place])
    store.rpush(KEYS.schedules()[place], "x")
    before = dump(store)
    line = world.members[0].line
    replies: list[object] = []
    line.send(world.scripts.call(script, *arguments(script)), replies.append)
    line.all()
    assert isinstance(replies[0], StoreRefused)
    assert "WRONGTYPE" in str(replies[0])
    assert dump(store) == before


def test_at_maxmemory_nothing_is_made_or_claimed_and_what_is_there_can_go(start_valkey) -> None:
    server = start_valkey(maxmemory_policy="noeviction")
    with server.client() as store:
        world = World(store)
        world.ask(world.schedules.set(schedule()))
        store.config_set("maxmemory", "1mb")
        before = dump(store)
        assert world.ask(world.schedules.set(schedule("b"))).type is StoreFull
        world.pass_time(7)
        assert dump(store) == before
        assert world.found().next_run == BEGIN + 5
        store.config_set("maxmemory", "0")
        world.pass_time(1)
        assert world.arrived() == times(5)
        store.config_set("maxmemory", "1mb")
        assert world.ask(world.schedules.remove("tick"))
        assert world.ask(world.schedules.page("", 10)).found == []


def test_the_servers_clock_is_the_clock(store: valkey_client.Valkey) -> None:
    world = World(store)
    scripts = ScheduleScripts(KEYS)
    replies: list[list[bytes]] = []
    world.members[0].line.send(scripts.call("schedule_look", b""), replies.append)
    world.members[0].line.all()
    seconds, _ = store.time()
    assert abs(int(replies[0][0]) / 1000 - seconds) < 60
