"""The scripts behind streams: acknowledgements, modes, history, observers, presence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from valkey import exceptions

from restmq.core import commands
from restmq.core.dealt import ACKS
from restmq.core.port import Settled
from restmq.core.wire import (
    chunk_entries,
    chunk_head,
    chunk_numbers,
    decode_entry,
    decode_mark,
    encode_payload,
    encode_ttls,
    entry_id,
    shown_entries,
)
from restmq.message import Mode, Policy
from tests.core.desk import DAEMONS, Desk

WORKER = ACKS + 1


def epoch(desk: Desk) -> int:
    return int(desk.store.hget(desk.hash, "epoch"))


def ack(desk: Desk, pairs: Sequence[tuple[int, int]], how: str = "ack", life: int = 0) -> list[int]:
    numbers = [number for pair in pairs for number in (life or epoch(desk), *pair)]
    reply = desk.call("ack", how, 0, b"", 0, *numbers)
    assert isinstance(reply, list)
    return reply[2:]


def dealt(desk: Desk, count: int, room: int = 100) -> bytes:
    """Deal so many messages to one worker; the chunk it heard."""
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {WORKER: room})
    desk.add(*[b"x"] * count)
    (chunk,) = desk.heard(DAEMONS[0])
    return chunk


def set_field(desk: Desk, name: str, value: int) -> None:
    desk.call("settings", "", 0, "own", name, value)


# -- acknowledgements -----------------------------------------------------------------------------


def test_an_acknowledgement_counts_once_and_its_daemon_hears_of_it(desk: Desk) -> None:
    dealt(desk, 3)
    assert ack(desk, [(3, 2), (3, 2), (3, 9), (4, 1)]) == [1, 0, 0, 0]
    (mark,) = desk.heard(DAEMONS[0])
    assert mark[:1] == b"A"
    assert decode_mark(mark) == (epoch(desk), None, [(3, 2)])
    assert ack(desk, [(3, 2)]) == [0]
    assert desk.heard(DAEMONS[0]) == []
    assert desk.inspect().in_flight == 2


def test_an_acknowledgement_of_another_life_is_stale(desk: Desk) -> None:
    dealt(desk, 1)
    assert ack(desk, [(1, 1)], life=epoch(desk) + 1) == [0]
    assert desk.inspect().in_flight == 1


def test_what_is_left_of_a_chunk_keeps_its_consumers(desk: Desk) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {WORKER: 10, WORKER + 1: 10})
    desk.add(b"a", b"b", b"c", b"d")
    assert ack(desk, [(4, 1), (4, 4)]) == [1, 1]
    (left,) = desk.store.zrange(desk.dealt, 0, -1)
    assert [entry_id(entry) for entry in chunk_entries(left)] == [2, 3]
    assert chunk_numbers(left) == (WORKER + 1, WORKER)
    assert chunk_head(left).pos == 4


def test_a_lease_that_ended_counts_and_the_last_one_makes_a_dead_letter(desk: Desk) -> None:
    set_field(desk, "max_attempts", 2)
    dealt(desk, 3)
    desk.report("confirm", DAEMONS[0], settled=[Settled(3, False, [], [2], (1,))])
    (again,) = desk.heard(DAEMONS[0])
    messages = [decode_entry("q", entry) for entry in chunk_entries(again)]
    assert [(message.id, message.attempt) for message in messages] == [(1, 1), (2, 0)]
    pos = chunk_head(again).pos
    desk.report("leave", DAEMONS[0], settled=[Settled(pos, True, [], [2], (1,))])
    assert desk.store.zcard(desk.names[13]) == 1, "on its way to the dead letters"
    assert desk.inspect().length == 2


def test_a_thousand_at_once(desk: Desk) -> None:
    dealt(desk, 1000, room=1000)
    assert sum(ack(desk, [(1000, n) for n in range(1, 1001)])) == 1000
    assert desk.store.zcard(desk.dealt) == 0
    assert desk.inspect().in_flight == 0


def test_nack_deals_it_again_at_once(desk: Desk) -> None:
    dealt(desk, 2)
    assert ack(desk, [(2, 1)], how="nack") == [1]
    mark, again = desk.heard(DAEMONS[0])
    assert decode_mark(mark) == (epoch(desk), None, [(2, 1)])
    assert [entry_id(entry) for entry in chunk_entries(again)] == [1]
    assert ack(desk, [(2, 1)]) == [0], "the old receipt is stale"
    assert ack(desk, [(chunk_head(again).pos, 1)]) == [1]


def test_what_was_acknowledged_is_passed_over_by_its_daemon(desk: Desk) -> None:
    """The lease ended here while the acknowledgement came there: it counts, nothing comes back."""
    dealt(desk, 3)
    desk.set_started(False)
    assert ack(desk, [(3, 2)]) == [1]
    for _ in range(2):
        desk.report("confirm", DAEMONS[0], settled=[Settled(3, False, [1], [2])])
    assert desk.waiting() == []
    assert desk.inspect().in_flight == 1
    desk.report("confirm", DAEMONS[0], settled=[Settled(3, True, [], [2])])
    assert desk.inspect().in_flight == 0
    assert desk.waiting() == []


def test_another_daemon_settles_nothing_of_mine(desk: Desk) -> None:
    dealt(desk, 1)
    desk.arrive(DAEMONS[1], {1: 10})
    desk.report("confirm", DAEMONS[1], settled=[Settled(1, True, [], [])])
    assert desk.inspect().in_flight == 1


# -- modes ----------------------------------------------------------------------------------------


def test_jobs_go_to_those_who_acknowledge_only(desk: Desk) -> None:
    set_field(desk, "mode", Mode.JOBS.value)
    desk.arrive(DAEMONS[0], {1: 10, WORKER: 2})
    desk.add(b"a", b"b", b"c")
    assert desk.dealt_to(DAEMONS[0]) == [(1, WORKER), (2, WORKER)]
    assert desk.waiting() == [3]
    with pytest.raises(exceptions.ResponseError, match="LEASEDONLY"):
        desk.pop_once()
    assert desk.waiting() == [3]
    set_field(desk, "mode", Mode.OPEN.value)
    assert desk.ids_heard(DAEMONS[0]) == [3], "broadcast, as it was before"


def test_a_mode_is_given_to_new_queues_only(desk: Desk) -> None:
    payload = encode_payload(b"x", None)
    for _ in range(2):
        desk.call("add", 0, encode_ttls([0]), "mode 2", payload)
    assert desk.inspect().mode is Mode.JOBS
    old = Desk(desk.store, "old")
    old.add(b"x")
    old.call("add", 1, encode_ttls([0]), "mode 2", payload)
    assert old.inspect().mode is None


# -- history --------------------------------------------------------------------------------------


def replay(desk: Desk, after: int, life: int) -> commands.Replay:
    return commands.replay_answer(desk.call("replay", *commands.replay_arguments(life, after)))


def ids(reply: commands.Replay) -> list[int]:
    return [entry_id(entry) for chunk in reply.chunks for entry in chunk_entries(chunk)]


def gap(reply: commands.Replay, after: int) -> int | None:
    """How many a client that had all up to there is told it missed; None: nobody knows."""
    return max(0, reply.kept_from - after) if after >= reply.solid else None


def broadcast(desk: Desk, *sizes: int) -> None:
    """One chunk for each size."""
    desk.arrive(DAEMONS[0])
    for size in sizes:
        desk.add(*[b"x"] * size)


def taken(desk: Desk, pos: int) -> None:
    """A kernel has all up to there."""
    desk.report("confirm", DAEMONS[0], safe=pos)


def test_what_was_broadcast_can_be_read_again(desk: Desk) -> None:
    broadcast(desk, 1, 2, 3)
    reply = replay(desk, 1, epoch(desk))
    assert reply[:5] == (epoch(desk), 6, 0, 0, 6)
    assert ids(reply) == [2, 3, 4, 5, 6]
    assert ids(replay(desk, 3, epoch(desk))) == [4, 5, 6]
    assert ids(replay(desk, 6, epoch(desk))) == []
    assert ids(replay(desk, 2, epoch(desk))) == [2, 3, 4, 5, 6], "whole chunks"
    assert ids(replay(desk, 4, 77)) == [1, 2, 3, 4, 5, 6], "of another life: all that is kept"
    assert ids(replay(desk, 7, epoch(desk))) == [1, 2, 3, 4, 5, 6], "no id that was given"


def test_what_returned_to_the_list_was_never_broadcast(desk: Desk) -> None:
    """Who was cut off comes back again and again: the history does not fill with repeats."""
    set_field(desk, "replay_n", 30)
    desk.arrive(DAEMONS[0])
    desk.add(b"1", b"2")
    desk.report("leave", DAEMONS[0], safe=2)
    for _ in range(20):
        desk.arrive(DAEMONS[0])
        desk.add(b"x")
        desk.report("leave", DAEMONS[0], safe=0)
    assert desk.waiting() == list(range(3, 23))
    reply = replay(desk, 0, epoch(desk))
    assert (ids(reply), reply.highest, reply.kept_from) == ([1, 2], 2, 0)
    desk.arrive(DAEMONS[0])
    reply = replay(desk, 2, epoch(desk))
    assert (ids(reply), reply.highest, gap(reply, 2)) == (list(range(3, 23)), 22, 0)


def test_what_no_kernel_has_is_kept_longer_than_the_history(desk: Desk) -> None:
    """It still comes to whoever listens: to say that it is gone would be wrong."""
    set_field(desk, "replay_n", 2)
    set_field(desk, "replay", 1000)
    broadcast(desk, 1, 1, 3, 1)
    reply = replay(desk, 0, epoch(desk))
    assert (ids(reply), gap(reply, 0)) == ([1, 2, 3, 4, 5, 6], 0)
    desk.now += 1001
    assert ids(replay(desk, 2, epoch(desk))) == [3, 4, 5, 6]
    taken(desk, 2)
    reply = replay(desk, 1, epoch(desk))
    assert (ids(reply), gap(reply, 1)) == ([3, 4, 5, 6], 1)


def test_a_gap_counts_messages_only_where_ids_have_no_holes(desk: Desk) -> None:
    set_field(desk, "replay", 0)
    desk.add(b"popped", b"popped")
    desk.pop_once(2)
    broadcast(desk, 1)
    assert replay(desk, 0, epoch(desk)).solid == 2
    taken(desk, 1)
    desk.add(b"4", b"5")
    taken(desk, 3)
    reply = replay(desk, 0, epoch(desk))
    assert (ids(reply), reply.kept_from) == ([], 5)
    assert [gap(reply, after) for after in (0, 1, 2, 3, 5)] == [None, None, 3, 2, 0]


def test_what_was_dealt_before_comes_late_and_is_no_past(desk: Desk) -> None:
    dealt(desk, 2)
    desk.set_policy(Policy.BROADCAST)
    desk.add(b"3")
    desk.heard(DAEMONS[0])
    desk.report("confirm", DAEMONS[0], settled=[Settled(2, True, [1], [2])])
    (late,) = desk.heard(DAEMONS[0])
    assert [entry_id(entry) for entry in chunk_entries(late)] == [2]
    assert chunk_head(late).base == 3
    reply = replay(desk, 0, epoch(desk))
    assert (ids(reply), reply.highest, reply.solid) == ([3], 3, 2)


def test_the_place_of_who_comes_now(desk: Desk) -> None:
    """It gets all above it: what was added later, and what waits or is with no kernel yet."""
    assert desk.inspect().place == 0
    desk.add(b"1", b"2")
    desk.pop_once(1)
    assert desk.inspect().place == 1
    desk.pop_once(1)
    assert desk.inspect().place == 2
    broadcast(desk, 2)
    assert desk.inspect().place == 0, "nothing was broadcast before: all of it is the past"
    taken(desk, 2)
    assert desk.inspect().place == 4
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[1], {WORKER: 10})
    desk.add(b"5")
    assert desk.inspect().place == 4, "it may come back and be broadcast"


@pytest.mark.parametrize("most", [1, 5, 7])
def test_history_is_bounded_by_messages(desk: Desk, most: int) -> None:
    set_field(desk, "replay_n", most)
    broadcast(desk, *[1] * 20)
    taken(desk, 20)
    reply = replay(desk, 0, epoch(desk))
    assert ids(reply) == list(range(21 - most, 21))
    assert gap(reply, 0) == 20 - most


def test_history_is_bounded_by_bytes(desk: Desk) -> None:
    desk.arrive(DAEMONS[0])
    for _ in range(8):
        desk.add(bytes(300_000))
    taken(desk, 8)
    assert ids(replay(desk, 0, epoch(desk))) == [6, 7, 8]
    assert desk.store.llen(desk.names[7]) == 3
    desk.add(bytes(2_000_000))
    taken(desk, 9)
    assert ids(replay(desk, 0, epoch(desk))) == [9], "the last one whatever its size"


def test_history_is_bounded_by_time(desk: Desk) -> None:
    set_field(desk, "replay", 10_000)
    broadcast(desk, 2)
    life = epoch(desk)
    assert 0 < desk.store.pttl(desk.names[7]) <= 10_000
    desk.now += 6_000
    desk.add(b"later")
    taken(desk, 3)
    desk.now += 4_001
    assert ids(replay(desk, 0, life)) == [3]
    desk.now += 6_000
    reply = replay(desk, 0, life)
    assert (ids(reply), reply.kept_from, reply.highest) == ([], 3, 3)


def test_without_replay_nothing_is_kept(desk: Desk) -> None:
    set_field(desk, "replay", 0)
    broadcast(desk, 2)
    assert desk.store.exists(desk.names[7]) == 0
    taken(desk, 2)
    assert replay(desk, 0, epoch(desk)).kept_from == 2


def test_a_history_with_a_hole_is_no_history(desk: Desk) -> None:
    """Kept, not kept, kept again: what comes back must not look whole."""
    broadcast(desk, 1)
    set_field(desk, "replay", 0)
    desk.add(b"unkept")
    set_field(desk, "replay", 60_000)
    desk.add(b"kept")
    taken(desk, 3)
    reply = replay(desk, 1, epoch(desk))
    assert (ids(reply), reply.kept_from) == ([3], 2)


def test_dealt_messages_have_no_history(desk: Desk) -> None:
    dealt(desk, 3)
    assert desk.store.exists(desk.names[7]) == 0


def test_a_purge_takes_the_history_along(desk: Desk) -> None:
    broadcast(desk, 3)
    desk.call("purge")
    assert ids(replay(desk, 0, epoch(desk))) == []
    desk.add(b"new")
    reply = replay(desk, 0, epoch(desk))
    assert (ids(reply), reply.kept_from) == ([4], 3)


def test_a_long_past_comes_in_pages(desk: Desk) -> None:
    set_field(desk, "replay_n", 3000)
    broadcast(desk, *[400] * 5)
    reply = replay(desk, 0, epoch(desk))
    assert ids(reply) == list(range(1, 1201))
    rest = replay(desk, ids(reply)[-1], epoch(desk))
    assert ids(rest) == list(range(1201, 2001))


# -- observers and presence -----------------------------------------------------------------------


def test_copies_are_published_while_somebody_observes(desk: Desk) -> None:
    channel = desk.store.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(desk.keys.observers(desk.queue))
    assert channel.get_message(timeout=5) is None
    desk.add(b"unseen")
    assert int(desk.call("observe", 15_000)) == 1
    desk.add(b"one", b"two")
    desk.arrive(DAEMONS[0], {1: 10})
    desk.add(b"three")
    desk.call("observe", 15_000)
    desk.now += 15_001
    desk.add(b"unseen")
    channel.ping()
    seen: list[list[int]] = []
    while (message := channel.get_message(timeout=5)) is None or message["type"] != "pong":
        if message is not None:
            seen.append([entry_id(entry) for entry in shown_entries(message["data"])])
    channel.close()
    assert seen == [[2, 3], [4]]


@pytest.mark.parametrize("dies", [False, True])
def test_who_waits_hears_of_what_comes_back_from_a_stream_that_left(desk: Desk, dies: bool) -> None:
    desk.set_policy(Policy.ROUNDROBIN)
    desk.arrive(DAEMONS[0], {1: 100})
    desk.add(b"x", b"y")
    desk.arrive(DAEMONS[1])
    assert desk.call("receive", 60_000, 1, 1000)[5:] == [0]
    channel = desk.store.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(desk.keys.wake(desk.queue))
    channel.get_message(timeout=5)
    if dies:
        desk.deafen(DAEMONS[0])
        desk.bury(DAEMONS[1])
    else:
        desk.report("leave", DAEMONS[0], settled=[Settled(2, True, [], [1, 2])])
    assert desk.waiting() == [1, 2]
    assert channel.get_message(timeout=5)
    channel.close()


def test_who_observed_an_unknown_queue_leaves_nothing_behind(desk: Desk) -> None:
    desk.call("observe", 15_000)
    desk.call("observe", 0)
    assert desk.store.keys("*") == []


def test_presence_is_the_last_word_of_each_daemon_while_it_counts(desk: Desk) -> None:
    desk.call("presence", DAEMONS[0], 15_000, b"comet=1,sse=2", 0)
    desk.call("presence", DAEMONS[1], 15_000, b"sse=1", 7)
    assert dict(desk.inspect().consumers) == {"comet": 1, "sse": 3}
    assert desk.inspect().missed == 7
    desk.call("presence", DAEMONS[0], 15_000, b"", 3)
    assert dict(desk.inspect().consumers) == {"sse": 1}
    assert desk.inspect().missed == 10
    desk.now += 15_001
    assert dict(desk.inspect().consumers) == {}
    desk.call("presence", DAEMONS[2], 15_000, b"sse=1", 0)
    assert desk.store.hkeys(desk.names[8]) == [DAEMONS[2]], "the dead leave no trace"


def test_an_observer_does_not_deafen_others(desk: Desk) -> None:
    desk.add(b"x")
    desk.call("observe", 15_000)
    desk.call("observe", 0)
    assert desk.store.hexists(desk.hash, "obs"), "another daemon's observer may still be there"


def test_no_message_is_an_error(desk: Desk) -> None:
    with pytest.raises(exceptions.ResponseError, match="wants a message"):
        desk.call("add", 0, b"", b"")
    assert desk.store.keys("*") == []
