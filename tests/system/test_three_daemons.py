"""Any number of daemons on one store act as one broker: seen from outside, with three of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.conftest import StartDaemon
from tests.support import Daemon, ValkeyServer
from tests.system.clients import (
    Client,
    Comet,
    Posting,
    Streams,
    bodies,
    drain,
    total,
    wait_for_lines,
    warm_up,
)

pytestmark = pytest.mark.slow

QUEUE = "three"
MESSAGES = 10_000

Daemons = Sequence[Daemon]


@pytest.fixture
def daemons(daemon: StartDaemon, valkey: ValkeyServer) -> Daemons:
    """Three daemons on one Valkey."""
    started = [daemon("--redis-url", valkey.url) for _ in range(3)]
    for one in started:
        one.wait_for("/readyz")
    return started


def ports(daemons: Daemons) -> list[int]:
    return [daemon.port for daemon in daemons]


def set_policy(daemon: Daemon, policy: str) -> None:
    with Client(daemon.port) as client:
        client.set_policy(QUEUE, policy)


def nine(streams: Streams, daemons: Daemons, small: int | None = None) -> list[Comet]:
    """Nine attached consumers, three on each daemon. The first has a receive buffer so small."""
    comets = [streams.open(daemons[i % 3], QUEUE, None if i else small) for i in range(9)]
    warm_up(streams, comets, daemons[0].port, QUEUE)
    return comets


def test_broadcast_gives_all_messages_to_all_consumers_in_one_order(
    daemons: Daemons, streams: Streams
) -> None:
    """Wherever I listen and wherever they post, I see what everybody sees."""
    comets = nine(streams, daemons)
    begin = time.monotonic()
    ledger = Posting(ports(daemons), QUEUE, bodies(MESSAGES)).join()
    wait_for_lines(streams, comets, 9 * MESSAGES)
    print(f"{9 * MESSAGES} deliveries in {time.monotonic() - begin:.1f} s")
    assert len(ledger.acknowledged) == MESSAGES
    assert [len(comet.lines) for comet in comets] == [MESSAGES] * 9
    first = comets[0].messages
    assert all(comet.lines == comets[0].lines for comet in comets)
    assert {message.body: message.id for message in first} == ledger.acknowledged
    assert [message.id for message in first] == sorted(ledger.ids)
    assert drain(daemons[1].port, QUEUE) == []


def test_round_robin_deals_each_message_to_one_consumer_in_strict_turn(
    daemons: Daemons, streams: Streams
) -> None:
    """Nine workers share the work evenly, wherever they are attached."""
    set_policy(daemons[0], "roundrobin")
    comets = nine(streams, daemons)
    begin = time.monotonic()
    ledger = Posting(ports(daemons), QUEUE, bodies(MESSAGES)).join()
    wait_for_lines(streams, comets, MESSAGES)
    print(f"{MESSAGES} deliveries in {time.monotonic() - begin:.1f} s")
    assert len(ledger.acknowledged) == MESSAGES
    assert_dealt_once(comets, ledger.acknowledged)
    counts = [len(comet.lines) for comet in comets]
    print("counts", counts)
    assert max(counts) <= 1.02 * min(counts), counts
    assert_in_turn(comets)


def assert_dealt_once(comets: Sequence[Comet], acknowledged: dict[bytes, int]) -> None:
    """Everything arrived, nothing twice, each consumer's own part in order."""
    for comet in comets:
        assert comet.ids == sorted(comet.ids)
    got = Counter((message.body, message.id) for comet in comets for message in comet.messages)
    assert set(got.values()) == {1}
    assert dict(got) == dict.fromkeys(acknowledged.items(), 1)


def assert_in_turn(comets: Sequence[Comet]) -> None:
    """By number, the messages go round the consumers in one and the same order."""
    owner = {number: i for i, comet in enumerate(comets) for number in comet.ids}
    turns = [owner[number] for number in sorted(owner)]
    size = len(comets)
    assert sorted(turns[:size]) == list(range(size)), turns[:size]
    wrong = [i for i in range(size, len(turns)) if turns[i] != turns[i - size]]
    assert not wrong, f"{len(wrong)} out of turn, first {turns[wrong[0] - size : wrong[0] + size]}"


LARGE_BODY = 8000
ROOM_BYTES = 1_500_000
"""More than the broker and the kernel hold for one consumer that does not read."""


def large(count: int) -> list[bytes]:
    return [body.ljust(LARGE_BODY, b"-") for body in bodies(count, "large")]


def test_round_robin_goes_round_a_consumer_that_reads_nothing(
    daemons: Daemons, streams: Streams
) -> None:
    """One worker hangs: the others go on with all but what it has in hand, and get that when it
    is gone.
    """
    set_policy(daemons[0], "roundrobin")
    frozen, *others = nine(streams, daemons, small=4096)
    streams.freeze(frozen)
    ledger = Posting(ports(daemons), QUEUE, large(3000)).join()
    held = ROOM_BYTES // LARGE_BODY
    wait_for_lines(streams, others, 3000 - held)
    before = total(others)
    assert 3000 - before < 3000 // 9, "it was not skipped"
    counts = [len(comet.lines) for comet in others]
    assert max(counts) <= 1.02 * min(counts), counts

    streams.leave(frozen)
    with_its_kernel = 600_000 // LARGE_BODY
    wait_for_lines(streams, others, max(before + 1, 3000 - with_its_kernel))
    got = Counter(number for comet in others for number in comet.ids)
    assert set(got.values()) == {1}
    assert set(got) <= ledger.ids
    print("with the frozen one's kernel:", 3000 - len(got))


def test_round_robin_keeps_what_was_dealt_to_one_that_pauses(
    daemons: Daemons, streams: Streams
) -> None:
    """A worker that was away for a while gets its part, whole and in order."""
    set_policy(daemons[0], "roundrobin")
    comets = nine(streams, daemons, small=4096)
    streams.freeze(comets[0])
    ledger = Posting(ports(daemons), QUEUE, large(2000)).join()
    wait_for_lines(streams, comets, 2000 - ROOM_BYTES // LARGE_BODY)
    streams.thaw(comets[0])
    wait_for_lines(streams, comets, 2000)
    assert_dealt_once(comets, ledger.acknowledged)


def test_broadcast_does_not_wait_for_a_consumer_that_reads_nothing(
    daemons: Daemons, streams: Streams
) -> None:
    """One hangs: the others get everything. When it reads again it has the newest, in order."""
    frozen, *others = nine(streams, daemons, small=4096)
    streams.freeze(frozen)
    ledger = Posting(ports(daemons), QUEUE, large(1500)).join()
    wait_for_lines(streams, others, 8 * 1500)
    assert all(comet.lines == others[0].lines for comet in others)
    assert others[0].ids == sorted(ledger.ids)
    streams.thaw(frozen)
    newest = others[0].lines[-1]
    streams.wait(lambda: newest in frozen.lines[-1:], "the newest message")
    assert 0 < len(frozen.lines) < 1500
    assert frozen.ids == sorted(set(frozen.ids))
    assert set(frozen.lines) < set(others[0].lines)

    later = Posting(ports(daemons), QUEUE, bodies(90)).join()
    wait_for_lines(streams, others, 8 * 1590)
    streams.wait(lambda: frozen.lines[-90:] == others[0].lines[-90:], "what came later")
    assert set(frozen.ids[-90:]) == later.ids


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_stop_on_one_daemon_holds_back_on_all_and_start_lets_go_in_order(
    daemons: Daemons, streams: Streams, policy: str
) -> None:
    """I stop a queue on any daemon: streams rest, posts and pops go on; start brings the rest."""
    set_policy(daemons[2], policy)
    comets = nine(streams, daemons)
    each = 9 if policy == "broadcast" else 1
    with Client(daemons[0].port) as one, Client(daemons[1].port) as other:
        one.control(QUEUE, "stop")
        ledger = Posting(ports(daemons), QUEUE, bodies(500)).join()
        assert other.length(QUEUE) == 500
        popped = other.get(QUEUE)
        assert popped is not None
        assert popped.id == min(ledger.ids)
        assert one.length(QUEUE) == 499
        assert total(comets) == 0
        other.control(QUEUE, "start")
    wait_for_lines(streams, comets, 499 * each)
    later = Posting(ports(daemons), QUEUE, bodies(90, "later")).join()
    wait_for_lines(streams, comets, 589 * each)
    expected = sorted((ledger.ids | later.ids) - {popped.id})
    assert all(comet.ids == sorted(comet.ids) for comet in comets)
    assert Counter(n for comet in comets for n in comet.ids) == dict.fromkeys(expected, each)
    if policy == "roundrobin":
        assert_in_turn(comets)


def test_a_change_of_policy_holds_on_all_daemons(daemons: Daemons, streams: Streams) -> None:
    """I change the policy while messages come: each is for all or for one, and none is lost."""
    comets = nine(streams, daemons)
    posting = Posting(ports(daemons), QUEUE, bodies(2000))
    for turn, policy in enumerate(["roundrobin", "broadcast", "roundrobin"], 1):
        posting.wait_for(turn * 500)
        set_policy(daemons[turn - 1], policy)
    ledger = posting.join()
    got: Counter[int] = Counter()

    def all_there() -> bool:
        got.clear()
        got.update(n for comet in comets for n in comet.ids)
        return set(got) == ledger.ids and set(got.values()) <= {1, 9}

    streams.wait(all_there, "each message at all or at one")
    assert set(got.values()) == {1, 9}
    assert all(len(comet.ids) == len(set(comet.ids)) for comet in comets)

    one = Posting(ports(daemons), QUEUE, bodies(90, "one")).join()
    wait_for_lines(streams, comets, sum(got.values()) + 90)
    set_policy(daemons[0], "broadcast")
    last = Posting(ports(daemons), QUEUE, bodies(90, "all")).join()
    wait_for_lines(streams, comets, sum(got.values()) + 90 + 9 * 90)
    count = Counter(n for comet in comets for n in comet.ids)
    assert {count[n] for n in one.ids} == {1}
    assert {count[n] for n in last.ids} == {9}


def test_delete_on_one_daemon_ends_the_streams_of_all(daemons: Daemons, streams: Streams) -> None:
    """I delete a queue: every stream of it ends in order; what comes later waits anew."""
    comets = nine(streams, daemons)
    with Client(daemons[1].port) as client:
        last = client.add(QUEUE, b"last")
        wait_for_lines(streams, comets, 9)
        assert client.request("DELETE", f"/q/{QUEUE}").status == 200
        streams.wait(lambda: all(comet.ended for comet in comets), "the end of all streams")
        assert not any(comet.lost for comet in comets)
        assert [comet.bodies for comet in comets] == [[b"last"]] * 9
        assert client.add(QUEUE, b"after") == last + 1
    assert drain(daemons[2].port, QUEUE) == [(last + 1, b"after")]


def test_who_comes_to_another_daemon_gets_what_the_others_get(
    daemons: Daemons, streams: Streams
) -> None:
    """I leave one daemon and connect to another: nothing of what follows passes me by."""
    with Client(daemons[0].port) as client:
        waiting = [client.add(QUEUE, b"early %d" % i) for i in range(20)]
    first = streams.open(daemons[1], QUEUE)
    wait_for_lines(streams, [first], 20)
    assert first.ids == waiting

    moving = streams.open(daemons[0], QUEUE)
    warm_up(streams, [first, moving], daemons[0].port, QUEUE)
    for place in (2, 1, 0):
        streams.leave(moving)
        moving = streams.open(daemons[place], QUEUE)
        warm_up(streams, [first, moving], daemons[0].port, QUEUE)
        had = len(first.lines)
        Posting(ports(daemons), QUEUE, bodies(90, f"at {place}")).join()
        wait_for_lines(streams, [first], had + 90)
        wait_for_lines(streams, [moving], 90)
        assert moving.lines == first.lines[had:]


def test_a_daemon_whose_only_consumer_hangs_delays_nobody(
    daemons: Daemons, streams: Streams
) -> None:
    """Everybody at one daemon hangs: who listens to the others gets everything, at full speed."""
    frozen = streams.open(daemons[0], QUEUE, receive_bytes=4096)
    others = [streams.open(daemon, QUEUE) for daemon in daemons[1:]]
    warm_up(streams, [frozen, *others], daemons[0].port, QUEUE)
    streams.freeze(frozen)
    ledger = Posting(ports(daemons), QUEUE, [body * 30 for body in bodies(6000)]).join()
    assert len(ledger.acknowledged) == 6000
    wait_for_lines(streams, others, 2 * 6000)
    assert others[0].ids == sorted(ledger.ids)
    assert others[1].lines == others[0].lines
