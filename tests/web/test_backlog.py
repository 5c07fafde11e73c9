"""What waits for a slow consumer: bounded, in order, the newest kept, the rest counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from restmq.message import Batch, Message
from restmq.web import backlog
from restmq.web.backlog import Backlog


def line(message: Message) -> bytes:
    return b"%d\n" % message.id


def numbers(data: bytes) -> list[int]:
    return [int(each) for each in data.split()]


@given(
    st.lists(st.lists(st.integers(0, 400_000), min_size=1, max_size=400) | st.none(), max_size=12)
)
def test_the_newest_are_kept_in_order_and_the_rest_is_counted(steps):
    """A law: taken, still waiting and missed are all there ever was; None takes a batch."""
    waiting, taken, added = Backlog(), [], 0
    for sizes in steps:
        if sizes is None:
            if waiting:
                taken += numbers(waiting.take(line))
            continue
        messages = [Message("q", added + i, bytes(size)) for i, size in enumerate(sizes)]
        added += len(sizes)
        waiting.add(Batch(messages, sum(sizes)))
    held = []
    while waiting:
        held += numbers(waiting.take(line))
    assert len(held) <= backlog.MAX_MESSAGES
    assert held == list(range(added - len(held), added))
    assert [*taken, *held] == sorted({*taken, *held})
    assert len(taken) + len(held) + waiting.missed == added


def test_bytes_are_bounded_but_the_newest_message_always_stays():
    waiting = Backlog()
    half = bytes(backlog.MAX_BYTES // 2)
    for number in range(3):
        waiting.add(Batch([Message("q", number, half)], len(half)))
    assert waiting.missed == 1
    huge = bytes(2 * backlog.MAX_BYTES)
    waiting.add(Batch([Message("q", 3, huge)], len(huge)))
    assert waiting.missed == 3
    assert numbers(waiting.take(line)) == [3]
    assert not waiting


def test_a_whole_batch_is_encoded_once_for_all_who_wait():
    batch = Batch([Message("q", 1, b"a"), Message("q", 2, b"b")], 2)
    first, second = Backlog(), Backlog()
    for each in (first, second):
        each.add(batch)
    assert first.take(line) is second.take(line)
