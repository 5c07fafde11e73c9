"""What each script does with a queue's keys, one call at a time."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Callable

import pytest
import valkey as valkey_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restmq.core import commands
from restmq.core.port import Hello, Report, Settled
from restmq.core.wire import (
    chunk_entries,
    chunk_head,
    encode_payload,
    entry_id,
)
from restmq.message import Policy
from restmq.redis.scripts import ALONE, FAMILIES
from restmq.redis.scripts import NAMES as ALL_NAMES
from tests.core.desk import DAEMONS, SCRIPTS, Desk
from tests.support import ValkeyServer

NEXT = itertools.count()


def call_again(call: Callable[[], object], while_it_says: object) -> int:
    """Call as often as it wants; how often that was. For ever is a failure."""
    for count in range(1, 100):
        if call() != while_it_says:
            return count
    pytest.fail("it wants to be called again for ever")


# ---- add, pop, peek, delete, purge


def test_ids_count_up_and_messages_leave_in_order(desk: Desk) -> None:
    assert desk.add(b"a", b"b") == 1
    assert desk.add(b"c") == 3
    popped = desk.pop_once(5)
    assert [(m.id, m.body) for m in popped.messages] == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert [m.created_ms for m in popped.messages] == [desk.now] * 3
    assert desk.add(b"d") == 4, "ids go on when the queue is empty"


def test_expired_message_keeps_its_place_and_loses_its_body(desk: Desk) -> None:
    """Its time to live is over: GET shows the gap, as the original's deleted ones do."""
    desk.add(b"short", b"long", b"for ever", ttls=[10, 1000, 0])
    desk.now += 10
    assert desk.peek()[0].body is None
    assert [m.body for m in desk.pop_once(3).messages] == [None, b"long", b"for ever"]


def test_pop_gives_a_thousand_at_a_time(desk: Desk) -> None:
    desk.fill(1500)
    first, second = desk.pop_once(1500), desk.pop_once(500)
    assert (len(first.messages), first.again) == (1000, True)
    assert (len(second.messages), second.again) == (500, False)
    assert desk.pop_once(1) == commands.Popped([], False)


def test_pop_stops_at_a_mebibyte(desk: Desk) -> None:
    for _ in range(10):
        desk.add(b"x" * 400_000)
    popped = desk.pop_once(10)
    assert (len(popped.messages), popped.again) == (3, True)
    desk.add(b"y" * 3_000_000)
    assert [len(m.body) for _ in range(8) for m in desk.pop_once(1).messages][-1] == 3_000_000


def test_peek_counts_the_looks_at_each_message(desk: Desk) -> None:
    desk.add(b"a", b"b")
    assert [desk.peek()[1] for _ in range(3)] == [1, 2, 3]
    desk.pop_once()
    message, looks = desk.peek()
    assert (message.body, looks) == (b"b", 1)


def test_delete_leaves_a_gap_once(desk: Desk) -> None:
    desk.add(b"a", b"b", b"c")
    assert desk.delete(2) == [1, 0]
    assert desk.delete(2) == [0, 0], "a second time there is nothing"
    assert [m.body for m in desk.pop_once(3).messages] == [b"a", None, b"c"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jumps=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    popped=st.integers(0, 10),
    asked=st.lists(st.integers(-2, 120_000_200), max_size=10),
)
def test_delete_finds_exactly_what_waits(
    desk: Desk, jumps: list[int], popped: int, asked: list[int]
) -> None:
    """A law: whatever holes there are in the ids, delete finds each that waits and no other."""
    desk = Desk(desk.store, f"law {next(NEXT)}")
    floor = 0
    for jump in jumps:
        floor = desk.add(b"x", floor=floor + 1 if jump == 0 else 0) + (jump == 0)
    for _ in range(popped):
        desk.pop_once()
    waiting = desk.waiting()
    near = [i + d for i in waiting[:3] + waiting[-3:] for d in (-1, 0, 1)]
    alive = set(waiting)
    for number in [*asked, *near]:
        desk.store.config_resetstat()
        assert desk.delete(number) == [int(number in alive), 0]
        assert desk.calls("lindex") <= 20
        alive.discard(number)
    assert desk.waiting() == waiting, "every place stays"


def test_nothing_walks_a_long_list(desk: Desk) -> None:
    """100,000 messages wait: each operation touches a few of them."""
    desk.fill(100_000)
    desk.store.config_resetstat()
    assert desk.delete(77_777) == [1, 0]
    assert desk.delete(100_001) == [0, 0]
    assert desk.calls("lindex") < 20
    desk.peek(), desk.pop_once(), desk.inspect()
    assert (desk.calls("lpop"), desk.calls("lrange")) == (1, 1)  # the numbers need none
    desk.arrive(DAEMONS[0], {1: 10})
    assert len(desk.ids_heard(DAEMONS[0])) == 1000
    assert desk.calls("lrange") <= 70, "join took the head of it"
    assert desk.calls("lrem") == 0
    desk.store.config_resetstat()
    assert desk.call("purge") > 90_000
    assert (desk.calls("unlink"), desk.calls("del")) == (1, 0), "freed in the background"


def test_purge_keeps_ids_and_settings(desk: Desk) -> None:
    assert desk.call("purge") == 0
    desk.set_policy(Policy.ROUNDROBIN)
    desk.add(b"a")
    assert desk.call("purge") == 1
    assert desk.add(b"b") == 2
    assert desk.inspect().policy is Policy.ROUNDROBIN


@pytest.mark.parametrize("policy", Policy)
def test_purge_takes_what_is_out(desk: Desk, policy: Policy) -> None:
    """What a daemon has in hand at the purge does not come back when the daemon leaves."""
    desk.set_policy(policy)
    desk.arrive(DAEMONS[0], {1: 10})
    desk.add(b"a", b"b")
    assert desk.inspect().in_flight == 2
    assert desk.call("purge") == 2
    assert desk.heard(DAEMONS[0])[-1] == b"P"
    assert desk.report("leave", DAEMONS[0], safe=0) == 1
    assert desk.waiting() == []
    assert desk.inspect().in_flight == 0


def test_lost_time_lifts_ids(desk: Desk) -> None:
    """A daemon remembers id 500, the store does not: ids go on a million higher."""
    desk.add(b"a")
    epoch = desk.store.hget(desk.hash, "epoch")
    assert desk.add(b"b", floor=500) == 1_000_501
    assert desk.store.hget(desk.hash, "epoch") != epoch
    assert desk.add(b"c", floor=500) == 1_000_502
    desk.store.flushdb()
    assert desk.add(b"d", floor=1_000_502) == 2_000_503


# ---- broadcast


def test_published_means_in_the_window_too(desk: Desk) -> None:
    desk.arrive(DAEMONS[0])
    desk.add(b"a", b"b")
    (chunk,) = desk.heard(DAEMONS[0])
    assert desk.store.zrange(desk.window_key, 0, -1) == [chunk]
    assert desk.waiting() == []
    assert chunk_head(chunk)[2:4] == (0, 2)


def test_without_a_listener_messages_wait(desk: Desk) -> None:
    """Registered, but its subscription broke: PUBLISH finds nobody, the list gets it."""
    desk.arrive(DAEMONS[0])
    desk.deafen(DAEMONS[0])
    desk.add(b"a")
    assert desk.waiting() == [1]
    assert desk.store.exists(desk.window_key) == 0
    assert desk.pop_ids() == [1]


def test_the_window_keeps_what_someone_did_not_take(desk: Desk) -> None:
    for daemon in DAEMONS[:2]:
        desk.arrive(daemon)
    desk.add(b"a")
    desk.add(b"b")
    assert desk.report("confirm", DAEMONS[0], safe=2) == 1
    assert desk.store.zcard(desk.window_key) == 2, "the other one has taken nothing"
    assert desk.report("confirm", DAEMONS[1], safe=0, taken=1) == 1
    assert desk.store.zcard(desk.window_key) == 1, "one is with a kernel, and both took it"
    assert desk.report("confirm", DAEMONS[1], safe=0, taken=2) == 1
    assert desk.store.zcard(desk.window_key) == 0, "who hangs holds nobody up"


def test_the_window_keeps_what_no_kernel_has(desk: Desk) -> None:
    for daemon in DAEMONS[:2]:
        desk.arrive(daemon)
    desk.add(b"a")
    for daemon in DAEMONS[:2]:
        assert desk.report("confirm", daemon, safe=0, taken=1) == 1
    assert desk.inspect().in_flight == 1
    for daemon in DAEMONS[:2]:
        assert desk.report("leave", daemon, safe=0, taken=1) == 1
    assert desk.waiting() == [1]


def test_in_flight_is_bounded(desk: Desk) -> None:
    desk.arrive(DAEMONS[0])
    desk.fill(7000)
    assert (desk.inspect().in_flight, desk.inspect().length) == (3000, 4000)
    assert desk.report("confirm", DAEMONS[0], safe=1000) == 2, "call again"
    assert desk.inspect().in_flight == 3000


def test_a_daemon_that_takes_nothing_holds_the_others_up_at_last(desk: Desk) -> None:
    for daemon in DAEMONS[:2]:
        desk.arrive(daemon)
    desk.fill(9000)
    for safe in (3000, 6000):
        call_again(lambda safe=safe: desk.report("confirm", DAEMONS[0], safe=safe, taken=safe), 2)
    assert (desk.inspect().in_flight, desk.inspect().length) == (6000, 3000)


def test_chunks_stay_near_a_mebibyte(desk: Desk) -> None:
    """Small messages, then large ones: no chunk that breaks a channel."""
    desk.add(*[b"s"] * 600)
    for _ in range(24):
        desk.add(b"L" * 300_000)
    desk.arrive(DAEMONS[0])
    call_again(lambda: desk.report("confirm", DAEMONS[0], safe=0), 2)
    chunks = desk.heard(DAEMONS[0])
    assert max(map(len, chunks)) < 1_048_576 + 300_000 + 20_000
    assert sum(chunk_head(c).messages for c in chunks) == 624


def test_expired_messages_at_the_head_do_not_stop_the_stream(desk: Desk) -> None:
    desk.add(*[b"short"] * 1000, ttls=[1] * 1000)
    desk.add(*[b"short"] * 1000, ttls=[1] * 1000)
    desk.add(b"for ever")
    desk.now += 10
    desk.arrive(DAEMONS[0])
    assert call_again(lambda: desk.report("confirm", DAEMONS[0], safe=0), 2) <= 4
    assert desk.ids_heard(DAEMONS[0]) == [2001]


def test_stop_holds_back_and_start_releases(desk: Desk) -> None:
    desk.add(b"a")
    desk.set_started(False)
    desk.arrive(DAEMONS[0])
    desk.add(b"b")
    assert desk.ids_heard(DAEMONS[0]) == []
    desk.set_started(True)
    assert desk.ids_heard(DAEMONS[0]) == [1, 2]


def test_window_gives_what_came_after_a_position(desk: Desk) -> None:
    desk.arrive(DAEMONS[0])
    for _ in range(3):
        desk.add(b"a", b"b")
    reply = commands.window_answer(desk.call("window", DAEMONS[0], "b", 2))
    assert [chunk_head(c).pos for c in reply.chunks] == [4, 6]
    assert (reply.reached, reply.more) == (6, False)
    desk.report("confirm", DAEMONS[0], safe=6)
    reply = commands.window_answer(desk.call("window", DAEMONS[0], "b", 2))
    assert (reply.chunks, reply.reached, reply.more) == ([], 6, False)


@pytest.mark.parametrize("which", ["b", "r"])
def test_window_is_read_in_bounded_pieces_to_its_end(desk: Desk, which: str) -> None:
    """Whatever others have in it: every call reads on, and the last one says so."""
    desk.set_policy(Policy.BROADCAST if which == "b" else Policy.ROUNDROBIN)
    mine, other = DAEMONS[:2]
    desk.arrive(other, {1: 100_000})
    for _ in range(30):
        desk.add(b"x" * 100_000)
    desk.arrive(mine, {1: 1000, 2: 1000})
    desk.add(b"y", b"y", b"y")
    after, calls, found = 0, 0, []
    more = True
    while more:
        reply = commands.window_answer(desk.call("window", mine, which, after))
        assert reply.reached > after
        found, calls, after, more = found + reply.chunks, calls + 1, reply.reached, reply.more
    assert calls <= 5
    assert len(found) == (31 if which == "b" else 1)


# ---- round robin


def everything_dealt(desk: Desk, daemons: tuple[bytes, ...]) -> Counter[tuple[bytes, int]]:
    counts: Counter[tuple[bytes, int]] = Counter()
    for daemon in daemons:
        counts.update((daemon, number) for _, number in desk.dealt_to(daemon))
    return counts


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_slots_of_all_daemons_take_strict_turns(desk: Desk, batch: int) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    for n, daemon in enumerate(DAEMONS):
        desk.arrive(daemon, dict.fromkeys(range(1, n + 3), 1000))
    for _ in range(200 // batch):
        desk.add(*[b"x"] * batch)
    counts = everything_dealt(desk, DAEMONS)
    assert len(counts) == 9
    assert max(counts.values()) - min(counts.values()) <= 1


def test_slots_without_room_are_skipped_and_come_back(desk: Desk) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 2, 2: 1000})
    desk.add(*[b"x"] * 10)
    assert [n for _, n in desk.dealt_to(DAEMONS[0])] == [1, 2, 1, 2, 2, 2, 2, 2, 2, 2]
    desk.report("confirm", DAEMONS[0], slots={1: 1})
    desk.add(*[b"x"] * 3)
    assert sorted(n for _, n in desk.dealt_to(DAEMONS[0])) == [1, 2, 2]


def test_with_no_room_anywhere_messages_wait(desk: Desk) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 3})
    desk.add(*[b"x"] * 5)
    assert [i for i, _ in desk.dealt_to(DAEMONS[0])] == [1, 2, 3]
    assert desk.waiting() == [4, 5]
    assert desk.report("confirm", DAEMONS[0]) == 1, "nothing to do: no busy loop"
    assert desk.report("confirm", DAEMONS[0], slots={1: 1}) == 2
    assert [i for i, _ in desk.dealt_to(DAEMONS[0])] == [4]


def test_large_messages_take_more_room(desk: Desk) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 100})
    for _ in range(5):
        desk.add(b"x" * 64 * 1024)
    assert [i for i, _ in desk.dealt_to(DAEMONS[0])] == [1, 2]
    assert desk.waiting() == [3, 4, 5]


def test_a_deaf_daemon_loses_its_turn_to_the_others(desk: Desk) -> None:
    """Kill -9 of a daemon: from the next message on the others get everything."""
    desk.set_policy(Policy.ROUNDROBIN)
    for daemon in DAEMONS:
        desk.arrive(daemon, {1: 1000, 2: 1000})
    desk.deafen(DAEMONS[1])
    desk.add(*[b"x"] * 12)
    ids = [i for d in (DAEMONS[0], DAEMONS[2]) for i, _ in desk.dealt_to(d)]
    assert sorted(ids) == list(range(1, 13))
    assert desk.waiting() == []


def test_what_was_dealt_to_the_dead_goes_to_the_living(desk: Desk) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    for daemon in DAEMONS[:2]:
        desk.arrive(daemon, {1: 1000})
    desk.add(*[b"x"] * 10)
    lost = [i for i, _ in desk.dealt_to(DAEMONS[1])]
    desk.heard(DAEMONS[0])
    desk.deafen(DAEMONS[1])
    desk.bury(DAEMONS[0])
    assert [i for i, _ in desk.dealt_to(DAEMONS[0])] == lost


def test_after_all_died_a_pop_finds_everything_in_order(desk: Desk) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    for daemon in DAEMONS[:2]:
        desk.arrive(daemon, {1: 5, 2: 5})
    desk.add(*[b"x"] * 25)
    assert desk.pop_ids() == [21, 22, 23, 24, 25], "the others are out"
    for daemon in DAEMONS[:2]:
        desk.deafen(daemon)
    assert desk.inspect().length == 20
    ids = [m.id for _ in range(6) for m in desk.pop_once(7).messages]
    assert ids == list(range(1, 21))


def test_a_silent_daemon_is_forgotten_and_learns_it(desk: Desk) -> None:
    """Paused for more than 15 s: its messages went home; it must join again."""
    desk.arrive(DAEMONS[0], {1: 10})
    desk.add(b"a")
    desk.now += 15_001
    assert desk.pop_ids() == [1]
    assert desk.report("confirm", DAEMONS[0], safe=1) == 0
    joined = desk.join(DAEMONS[0], {1: 10}, again=True)
    assert joined is not None
    assert not joined.known


def test_settle_is_done_once(desk: Desk) -> None:
    """The reply was lost and the report comes again: nothing goes back twice."""
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 10})
    desk.add(b"a", b"b")
    settled = [Settled(2, True, [], [1])]
    desk.set_started(False)
    for _ in range(3):
        assert desk.report("confirm", DAEMONS[0], settled=settled) == 1
    assert desk.waiting() == [1]
    assert desk.inspect().in_flight == 0


def test_taking_apart_a_daemon_is_bounded_and_final(desk: Desk) -> None:
    """5,000 chunks of others and 2,500 of its own: a thousand a call; it can't come back half way."""
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 100_000})
    for _ in range(1500):
        desk.add(b"x")
    desk.arrive(DAEMONS[1], {1: 100_000})
    for _ in range(3000):
        desk.add(b"x")
    desk.set_started(False)
    desk.deafen(DAEMONS[1])
    desk.store.config_resetstat()
    assert desk.bury(DAEMONS[0]) == 2
    assert desk.calls("zrevrangebyscore") <= 1001
    assert desk.report("confirm", DAEMONS[1]) == 0, "it must join again"
    desk.listen(DAEMONS[1])
    assert call_again(lambda: desk.join(DAEMONS[1], {1: 10}, again=True), None) <= 6
    assert desk.waiting() == list(range(1502, 4501, 2))
    assert desk.inspect().in_flight == 3000


def test_what_comes_back_late_is_sorted_in_without_a_call_for_each_that_waits(desk: Desk) -> None:
    """5,000 came back before; one that lies behind them costs a few calls, not 10,000."""
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 100_000})
    chunks: list[bytes] = []
    for _ in range(6):
        desk.add(*[b"x"] * 1000)
        chunks += desk.heard(DAEMONS[0])
    desk.set_started(False)
    for chunk in chunks[:5]:
        ids = [entry_id(e) for e in chunk_entries(chunk)]
        back = [Settled(chunk_head(chunk).pos, True, [], ids)]
        desk.report("confirm", DAEMONS[0], settled=back)
    desk.store.config_resetstat()
    mixed = [entry_id(e) for e in chunk_entries(chunks[5])[::2]]
    back = [Settled(chunk_head(chunks[5]).pos, True, [], mixed)]
    desk.report("confirm", DAEMONS[0], settled=back)
    assert desk.calls("zadd") <= 2
    assert desk.waiting() == [*range(1, 5001), *range(5001, 6001, 2)]


def test_many_slots_leave_at_once_without_walking_the_turn_for_each(desk: Desk) -> None:
    desk.arrive(DAEMONS[0], dict.fromkeys(range(3000), 10))
    desk.store.config_resetstat()
    assert desk.report("confirm", DAEMONS[0], slots=dict.fromkeys(range(2999), -1)) == 1
    assert desk.calls("lrem") == 0
    assert desk.store.lrange(desk.turn, 0, -1) == [DAEMONS[0] + b":2999"]
    assert desk.store.hgetall(desk.room) == {DAEMONS[0] + b":2999": b"10"}


def test_unknown_queue_leaves_nothing_behind(desk: Desk) -> None:
    """Someone streamed a queue nobody ever wrote to, and left."""
    desk.arrive(DAEMONS[0], {1: 10})
    assert desk.report("leave", DAEMONS[0]) == 1
    assert desk.store.keys("*") == []


# ---- a store that lost time


def test_joining_with_a_later_position_starts_a_new_epoch(desk: Desk) -> None:
    """The store came back from an old dump: what it gives again is no old news."""
    joined = desk.arrive(DAEMONS[0], {1: 10})
    desk.add(b"a")
    again = desk.join(DAEMONS[0], {1: 10}, True, joined.epoch, pos=1, last_id=1)
    assert again.epoch == joined.epoch, "it knows what the store knows"
    later = desk.join(DAEMONS[0], {1: 10}, True, joined.epoch, pos=7, last_id=7)
    assert later.epoch > joined.epoch
    assert desk.add(b"b") == 1_000_008
    assert desk.report("confirm", DAEMONS[0], epoch=joined.epoch) == 0, "the others hear of it"


# ---- what every script owes


def arguments(script: str) -> list[object]:
    """Arguments with which a script does its work."""
    report = Report(5, 1, 20, 1, 20, True, [(2, 10)], [Settled(1, True, [], [1])])
    hello = Hello(True, 5, 1, 1, 1, [(1, 10)])
    return {
        "ack": ["nack", 0, b"", 0, 5, 1, 1],
        "browse": ["ready", b"", 10],
        "create": [b"mode 2"],
        "find": [1],
        "put": [0, b"", 0, 0, 0, 0, b"", b"\0x", 0, 5000, 0, 0, b"", b"\0y"],
        "receive": [0, 1, 1000],
        "redrive": [b"", 1],
        "release": [1],
        "remove": [1],
        "settle": ["nack", -1, b"", 0, 5, 1, 1],
        "tick": [],
        "unwait": [],
        "add": [0, b"", b"", encode_payload(b"x", None)],
        "confirm": commands.confirm_arguments(DAEMONS[0], report),
        "delete": [1],
        "inspect": [10],
        "join": commands.join_arguments(DAEMONS[0], hello),
        "leave": commands.leave_arguments(DAEMONS[0], report),
        "observe": [15000],
        "peek": [],
        "pop": [1],
        "presence": [DAEMONS[0], 15000, b"comet=1", 1],
        "purge": [],
        "replay": commands.replay_arguments(5, 0),
        "settings": ["", 0, "own", "st", 1],
        "window": commands.window_arguments(DAEMONS[0], True, 0),
    }[script]


def dump(store: valkey_client.Valkey) -> dict[bytes, bytes]:
    return {key: store.dump(key) for key in store.keys("*")}


def restore(store: valkey_client.Valkey, dumped: dict[bytes, bytes]) -> None:
    store.flushdb()
    for key, value in dumped.items():
        store.restore(key, 0, value)


def outcome(desk: Desk, script: str) -> str | None:
    """The error's text, or None when it did its work."""
    try:
        desk.call(script, *arguments(script))
    except valkey_client.exceptions.ResponseError as error:
        return str(error)
    return None


NAMES = [name for name in ALL_NAMES if name not in ALONE and not name.startswith(FAMILIES)]
"""Those that have the keys of a queue; test_atomic.py has them all."""

IDLE = (
    *("add", "browse", "delete", "find", "inspect", "peek", "pop", "replay", "settle", "unwait"),
    "window",
)
"""Scripts that may not touch a key of the wrong type at all."""

MAKE: dict[str, Callable[[valkey_client.Valkey, bytes], object]] = {
    "string": lambda store, key: store.set(key, b"x"),
    "hash": lambda store, key: store.hset(key, "x", "1"),
    "list": lambda store, key: store.rpush(key, struct.pack(">QQI", 0, 0, 0)),
    "zset": lambda store, key: store.zadd(key, {b"x": 1}),
    "stream": lambda store, key: store.xadd(key, {"a": "b"}),
}
KINDS = (
    *("hash", "list", "zset", "zset", "hash", "list", "hash", "list", "hash"),
    *("zset", "hash", "zset", "zset", "zset"),
)


def live_queue(desk: Desk, policy: Policy) -> None:
    """Two daemons, messages out and waiting, everything there is."""
    desk.set_policy(policy)
    for daemon in DAEMONS[:2]:
        desk.arrive(daemon, {1: 2, 2: 2})
    desk.fill(6000 if policy is Policy.BROADCAST else 12)
    desk.store.hset(desk.hash, "epoch", 5)
    assert desk.waiting()


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("place", range(len(KINDS)))
@pytest.mark.parametrize("script", NAMES)
def test_wrong_type_changes_nothing(desk: Desk, script: str, place: int, policy: Policy) -> None:
    """A script that can't do its work has done none of it."""
    live_queue(desk, policy)
    desk.store.set("backup", b"")
    for deaf in (False, True):
        if deaf:
            for daemon in list(desk.channels):
                desk.deafen(daemon)
        for kind, make in MAKE.items():
            if kind == KINDS[place]:
                continue
            key = desk.names[place]
            kept = desk.store.dump(key)
            desk.store.delete(key)
            make(desk.store, key)
            before = dump(desk.store)
            refusal = outcome(desk, script)
            if refusal is not None:
                assert "WRONGTYPE" in refusal
                assert dump(desk.store) == before
            else:  # it had no business there, and did its work elsewhere: put that back
                assert dump(desk.store)[key] == before[key]
                assert script in IDLE
                restore(desk.store, before)
            if kept is None:
                desk.store.delete(key)
            else:
                desk.store.restore(key, 0, kept, replace=True)


def test_every_script_fails_on_a_hash_of_the_wrong_type(desk: Desk) -> None:
    desk.store.set(desk.hash, b"x")
    for script in set(NAMES) - {"browse", "find"}:  # they look at messages only
        with pytest.raises(valkey_client.exceptions.ResponseError, match="WRONGTYPE"):
            desk.call(script, *arguments(script))
    assert desk.store.keys("*") == [desk.hash]


@pytest.mark.parametrize("policy", Policy)
def test_at_maxmemory_adding_changes_nothing_and_taking_works(
    start_valkey: Callable[..., ValkeyServer], policy: Policy
) -> None:
    server = start_valkey(maxmemory_policy="noeviction")
    with server.client() as store:
        desk = Desk(store)
        live_queue(desk, policy)
        for script in NAMES:
            store.script_load(SCRIPTS[script].source.decode())
        store.config_set("maxmemory", "1mb")
        before = dump(store)
        with pytest.raises(valkey_client.exceptions.ResponseError, match=r"OOM|maxmemory"):
            desk.call("add", *arguments("add"))
        assert dump(store) == before
        length = desk.inspect().length
        assert len(desk.pop_once(1).messages) == 1
        assert desk.peek() is not None
        assert desk.delete(desk.waiting()[1]) == [1, 0]
        assert desk.inspect().length == length - 1
        assert commands.window_answer(desk.call("window", DAEMONS[0], "b", 0)).epoch == 5
        for daemon in DAEMONS[:2]:
            call_again(lambda d=daemon: desk.report("confirm", d, safe=5000, epoch=5), 2)
        desk.set_started(True)
        for daemon in DAEMONS[:2]:
            call_again(lambda d=daemon: desk.report("leave", d, safe=5000, epoch=5), 0)
        assert desk.call("purge") >= 0
        assert desk.inspect().length == 0
        for daemon in list(desk.channels):
            desk.deafen(daemon)
