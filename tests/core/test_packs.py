"""Packs: many messages that lie in the store as one, and come out as if they had been put in one by one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restmq.core.packs import Pack
from restmq.core.wire import encode_more, encode_payload, shown_entries
from restmq.syslog.framing import Frames
from restmq.syslog.messages import FEWEST_PACKED, Encoder
from tests.core.desk import DAEMONS, Desk

TEMPLATES = {b"": (b"[", b"]"), b"13": (b'{"line": "', b'", "pri": 13}'), b"007": (b"", b"")}
LINES = st.lists(
    st.one_of(
        st.sampled_from([b"", b"<13>", b"<007>x", b"<13>a", b"x", b" <13>x", b"<>", b"<13", b"\r"]),
        st.text(st.characters(codec="ascii", exclude_characters="\n<"), max_size=9).map(str.encode),
    ),
    min_size=1,
    max_size=9,
)


LOGGED = st.from_regex(
    r"<(13|22|191)>(Nov  1 00:12:04 box app: )?[ -~é\\\t\x00\ud7ff\u2028]{0,20}", fullmatch=True
)


def pack_of(*lines: bytes) -> Pack:
    return Pack(TEMPLATES, b"\n".join(lines), len(lines))


def many(count: int, first: int = 0, size: int = 0) -> Pack:
    """Lines with a number each."""
    filling = b"x" * size
    return pack_of(*(b"<13>%d%s" % (number, filling) for number in range(first, first + count)))


def put(desk: Desk, *packs: Pack, floor: int = 0) -> int:
    reply = desk.call("add", floor, b"packs", b"", *[pack.encoded() for pack in packs])
    assert isinstance(reply, bytes)
    return int(reply)


@pytest.fixture
def folded(desk: Desk) -> Desk:
    """A queue that is there, so that packs stay packs."""
    desk.add(b"first")
    desk.pop_once()
    return desk


def packs_kept(desk: Desk) -> int:
    """How many elements of packed messages there are; the count that is kept of them is right."""
    elements = desk.store.lrange(desk.folded, 0, -1)
    count = sum(int.from_bytes(e[20:24], "big") if e[0] == 255 else 1 for e in elements)
    assert int(desk.store.hget(desk.hash, "fold") or 0) == count
    assert desk.store.hexists(desk.hash, "fold") == (count > 0)
    return len(elements)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(lines=LINES)
def test_a_message_of_a_pack_is_what_one_alone_would_be(desk: Desk, lines: list[bytes]) -> None:
    """The script makes of each line what Python makes of it, and all around it is the same."""
    pack = pack_of(*lines)
    expected = []
    for line in lines:
        key = next((k for k in TEMPLATES if k and line.startswith(b"<%s>" % k)), b"")
        front, back = TEMPLATES[key]
        expected.append(front + line + back)
    assert pack.bodies() == expected
    desk.store.flushall()
    desk.add(b"there")
    desk.add(*expected)
    alone = desk.store.lrange(desk.list, 1, -1)
    desk.store.flushall()
    desk.add(b"there")
    assert put(desk, pack) == 2
    assert packs_kept(desk) == 1
    assert [desk.call("find", number)[3] for number in range(2, 2 + len(lines))] == alone
    assert [m.body for m in desk.pop_once(1).messages] == [b"there"]
    desk.peek()
    assert packs_kept(desk) == 0
    assert desk.store.lrange(desk.list, 0, -1) == alone
    desk.store.flushall()
    put(desk, pack)
    assert [entry[7:] for entry in desk.store.lrange(desk.list, 0, -1)] == [e[7:] for e in alone]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(lines=st.lists(LOGGED, min_size=FEWEST_PACKED, max_size=30))
def test_a_line_that_was_logged_is_read_as_it_would_be_alone(desk: Desk, lines: list[str]) -> None:
    """From syslog through a pack in the store, to the byte."""
    encoder = Encoder("10.0.0.7")
    raw = [line.encode() for line in lines]
    (pack,) = encoder.encode(Frames(raw), 1.5).values()
    assert isinstance(pack, Pack)
    desk.store.flushall()
    desk.add(b"there")
    desk.pop_once()
    put(desk, pack)
    cut = Frames(raw, frozenset((len(raw) + 1,)))  # a whole read goes the slow way then
    (alone,) = encoder.encode(cut, 1.5).values()
    assert [m.body.decode() for m in desk.pop_once(99).messages] == alone


def test_packs_come_out_in_their_order_between_others(folded: Desk) -> None:
    folded.add(b"before")
    assert put(folded, many(3), many(2, 3)) == 3
    folded.add(b"between")
    put(folded, many(1, 5))
    assert folded.inspect().length == 8
    assert packs_kept(folded) == 4
    popped = folded.pop_once(20)
    assert [m.id for m in popped.messages] == list(range(2, 10))
    assert [m.body for m in popped.messages][::6] == [b"before", b"between"]
    assert not popped.again
    assert (packs_kept(folded), folded.inspect().length) == (0, 0)


def test_packs_are_unfolded_a_bounded_number_at_a_time(folded: Desk) -> None:
    for start in range(0, 5000, 500):
        put(folded, many(500, start))
    assert len(folded.pop_once(1).messages) == 1
    assert folded.store.llen(folded.list) == 999
    folded.pop_once(999)
    assert (folded.store.llen(folded.list), packs_kept(folded)) == (0, 8)
    ids = []
    while (popped := folded.pop_once(700)).messages:
        ids += [m.id for m in popped.messages]
        assert folded.store.llen(folded.list) < 2000
        assert folded.inspect().length == 4000 - len(ids)
    assert ids == list(range(1002, 5002))


def test_large_packs_are_unfolded_one_at_a_time_and_pop_says_that_there_is_more(
    folded: Desk,
) -> None:
    for start in range(0, 60, 20):
        put(folded, many(20, start, 60_000))
    popped = folded.pop_once(50)
    assert (len(popped.messages), popped.again) == (18, True)
    assert (packs_kept(folded), folded.store.llen(folded.list)) == (2, 2)
    popped = folded.pop_once(50)
    assert (len(popped.messages), popped.again) == (18, True)
    small = many(10)
    for _ in range(3):
        put(folded, small)
    assert folded.inspect().length == 54


def test_a_pack_goes_to_those_who_listen(desk: Desk) -> None:
    desk.add(b"first")
    desk.arrive(DAEMONS[0])
    put(desk, many(3), many(2))
    assert desk.ids_heard(DAEMONS[0]) == [1, 2, 3, 4, 5, 6]
    assert packs_kept(desk) == 0


def test_packs_that_wait_go_to_who_comes_and_stop_nobody_behind_them(folded: Desk) -> None:
    """What comes while they wait is not pushed past them."""
    put(folded, many(1000))
    put(folded, many(700))
    folded.set_started(False)
    folded.arrive(DAEMONS[0])
    folded.add(b"late")
    assert folded.ids_heard(DAEMONS[0]) == []
    folded.set_started(True)
    assert folded.ids_heard(DAEMONS[0]) == list(range(2, 1002))
    assert folded.store.llen(folded.list) == 0
    folded.add(b"later")
    for safe in (1000, 2000):
        folded.report("confirm", DAEMONS[0], safe=min(safe, 1702))
    assert folded.ids_heard(DAEMONS[0]) == list(range(1002, 1704))
    assert packs_kept(folded) == 0


def test_who_observes_sees_each(folded: Desk) -> None:
    folded.call("observe", 15_000)
    channel = folded.store.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(folded.keys.observers(folded.queue))
    channel.get_message(timeout=5)
    put(folded, many(3))
    message = channel.get_message(timeout=5)
    assert [int.from_bytes(e[:7], "big") for e in shown_entries(message["data"])] == [2, 3, 4]
    channel.close()


def test_a_queue_with_bounds_takes_no_packs(folded: Desk) -> None:
    put(folded, many(5))
    folded.store.hset(folded.hash, "lim", 1)
    with pytest.raises(Exception, match="LIMITED"):
        put(folded, many(5))
    assert folded.inspect().length == 5


def test_messages_of_a_pack_are_found_deleted_and_listed_where_they_lie(folded: Desk) -> None:
    folded.add(b"a")
    put(folded, many(4))
    folded.add(b"b")
    put(folded, many(2))
    assert folded.delete(4) == [1, 0]
    assert folded.delete(4) == [0, 0], "only once"
    assert folded.delete(7) == [1, 0], "one alone behind a pack"
    assert folded.delete(9) == [1, 0]
    assert [folded.delete(number) for number in (1, 10, 1000)] == [[0, 0]] * 3
    assert packs_kept(folded) == 3
    found = {number: folded.call("find", number)[1] for number in range(1, 12)}
    there = [2, 3, 5, 6, 8]
    assert [number for number, state in found.items() if state == b"ready"] == there
    assert folded.call("find", 8)[3][19:] == encode_payload(b'{"line": "<13>0", "pri": 13}', None)
    for most in range(1, 7):
        listed, after = [], b""
        while True:
            _, after, *entries = folded.call("browse", "ready", after, most)
            listed += [int.from_bytes(entry[:7], "big") for entry in entries]
            if not after:
                break
        assert listed == there
    assert packs_kept(folded) == 3, "looking moves nothing"
    newest = [folded.call("inspect", count)[21:] for count in (1, 3, 99)]
    assert [list(map(int, ids)) for ids in newest] == [[9], [9, 8, 7], [9, 8, 7, 6, 5, 4, 3, 2]]
    gone = [m.id for m in folded.pop_once(99).messages if m.body is None]
    assert gone == [4, 7, 9]


def test_the_head_of_a_pack_counts_as_the_head_of_the_queue(folded: Desk) -> None:
    folded.now += 77
    put(folded, many(3))
    info = folded.inspect()
    assert (info.length, info.oldest_ms, info.place) == (3, folded.now, 1)


def test_a_pack_behind_what_came_back_counts_as_what_waits(folded: Desk) -> None:
    folded.add(b"a")
    folded.call("receive", 0, 1, 1000)
    put(folded, many(3))
    folded.now += 1000
    folded.call("tick")
    assert folded.inspect().length == 4
    assert (folded.inspect().place, folded.delete(2), folded.inspect().place) == (1, [1, 0], 2)
    folded.add(b"b")
    assert [m.id for m in folded.pop_once(9).messages] == [3, 4, 5, 6]


def test_a_message_with_a_priority_goes_before_packs(folded: Desk) -> None:
    put(folded, many(3))
    folded.store.hset(folded.hash, "prio", 1)
    urgent = encode_more(b"", 5) + encode_payload(b"x", None)
    folded.call("put", 0, b"", 0, 0, 5, 0, b"", urgent)
    popped = [folded.pop_once(2).messages for _ in range(3)]
    assert [m.id for messages in popped for m in messages] == [5, 2, 3, 4]


def test_purge_and_remove_take_packs_along(folded: Desk) -> None:
    put(folded, many(7))
    assert folded.call("remove", "0") == -1
    assert folded.call("purge") == 7
    assert (packs_kept(folded), folded.inspect().length) == (0, 0)
    put(folded, many(7))
    assert folded.call("remove", "1") == 1
    assert folded.store.keys("desk:*") == []


def test_a_store_that_lost_time_gives_no_id_again(folded: Desk) -> None:
    put(folded, many(3))
    first = put(folded, many(3), floor=5000)
    assert first == 5000 + 1_000_000 + 1
    assert [m.id for m in folded.pop_once(9).messages] == [2, 3, 4, first, first + 1, first + 2]


def test_when_all_packs_are_read_the_count_is_right_though_the_hash_was_lost(folded: Desk) -> None:
    """An operator deleted one key too many: lengths must not stay below the truth for ever."""
    put(folded, many(100))
    folded.store.delete(folded.hash)
    folded.add(b"a", floor=101)
    assert len(folded.pop_once(99).messages) == 99
    assert (folded.inspect().length, packs_kept(folded)) == (2, 0)


def test_a_pack_that_nobody_can_read_stays_where_it_is(folded: Desk) -> None:
    """Should one ever be broken: nothing is half done, and the others can be purged."""
    put(folded, Pack({b"1": (b"", b""), b"2": (b"", b"")}, b"<3>x", 1))
    before = folded.store.lrange(folded.folded, 0, -1)
    with pytest.raises(Exception, match="script"):
        folded.pop_once()
    assert folded.store.lrange(folded.folded, 0, -1) == before
    assert folded.call("purge") == 1


def test_a_put_with_bounds_counts_packs_and_drops_the_oldest_of_them(folded: Desk) -> None:
    put(folded, many(5))
    folded.store.hset(folded.hash, mapping={"lim": 1, "max_length": 6, "overflow": 2})
    message = encode_payload(b"x", None)
    for _ in range(3):
        folded.call("put", 0, b"", 0, 0, 0, 0, b"", message)
    assert [m.id for m in folded.pop_once(9).messages] == [4, 5, 6, 7, 8, 9]


def test_a_bound_in_bytes_that_was_lowered_is_kept_when_packs_are_opened_for_it(
    folded: Desk,
) -> None:
    """Messages take up more than the packs they came in."""
    for start in range(0, 3000, 1000):
        put(folded, many(1000, start))
    bound = folded.store.memory_usage(folded.folded) * 2 // 3
    folded.store.hset(folded.hash, mapping={"lim": 1, "max_bytes": bound, "overflow": 2})
    message, answer = encode_payload(b"x", None), b"queue_full"
    while answer == b"queue_full":
        *_, answer = folded.call("put", 0, b"", 0, 0, 0, 0, b"", message)
        assert folded.inspect().length > 0
    taken = [folded.store.memory_usage(key) or 0 for key in (folded.list, folded.folded)]
    assert sum(taken) <= bound + 100


def test_what_is_dropped_for_a_bound_in_bytes_is_not_more_than_it_takes(desk: Desk) -> None:
    urgent = encode_more(b"", 3) + encode_payload(b"x" * 20, None)
    desk.add(b"first")
    desk.pop_once()
    desk.store.hset(desk.hash, "prio", 1)
    desk.call("put", 0, b"", *(0, 0, 3, 0, b"", urgent) * 1000)
    bound = desk.store.memory_usage(desk.again) * 2 // 3
    desk.store.hset(desk.hash, mapping={"lim": 1, "max_bytes": bound, "overflow": 2})
    desk.call("put", 0, b"", 0, 0, 3, 0, b"", urgent)
    assert bound * 0.9 < desk.store.memory_usage(desk.again) <= bound + 200


def test_pieces_keep_the_bounds_of_a_call() -> None:
    pack = many(2500, size=100)
    pieces = list(pack.pieces(1000, 1 << 20))
    assert [piece.messages for piece in pieces] == [1000, 1000, 500]
    assert [body for piece in pieces for body in piece.bodies()] == pack.bodies()
    assert list(many(5).pieces(1000, 1 << 20)) == [many(5)]
    large = many(40, size=60_000)
    assert [piece.messages for piece in large.pieces(1000, 1 << 20)] == [17, 17, 6]
    assert [piece.messages for piece in many(2, size=9000).pieces(1000, 100)] == [1, 1]
