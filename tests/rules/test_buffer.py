"""What waits for a slow consumer: bounded, in order, and what is given up is counted where it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.message import Batch, Message
from restmq.rules.buffer import Buffer, Part, Slow

MOST, MOST_BYTES = 1000, 1_000_000
DROPPING = [Slow.DROP_OLDEST, Slow.DROP_NEWEST, Slow.LATEST]


def batch(first: int, sizes: list[int]) -> Batch:
    messages = [Message("q", first + i, bytes(size)) for i, size in enumerate(sizes)]
    return Batch(messages, sum(sizes))


def taken(buffer: Buffer) -> list[int]:
    """Ids of what is taken; a hole of n as -n."""
    part = buffer.take()
    if isinstance(part, int):
        return [-part]
    return [message.id for message in part.batch.messages[part.start : part.stop]]


def drain(buffer: Buffer) -> list[int]:
    found = []
    while buffer:
        found += taken(buffer)
    return found


@given(
    st.sampled_from(DROPPING),
    st.lists(
        st.lists(st.integers(0, 400_000), min_size=1, max_size=400) | st.none() | st.integers(1, 9),
        max_size=12,
    ),
)
def test_what_comes_out_and_what_is_missed_is_all_there_was(
    choice: Slow, steps: list[list[int] | int | None]
) -> None:
    """A law: each hole stands where its messages would be. None takes a part, a number is a loss."""
    buffer, found, added = Buffer(choice, MOST, MOST_BYTES), [], 0
    for step in steps:
        if step is None:
            found += taken(buffer) if buffer else []
        elif isinstance(step, int):
            buffer.lost(step)
            added += step
        else:
            buffer.add(batch(added, step))
            added += len(step)
    waiting = drain(buffer)
    ids = [number for number in waiting if number >= 0]
    assert len(ids) <= (1 if choice is Slow.LATEST else MOST)
    position = missed = 0
    for number in [*found, *waiting]:
        if number < 0:
            position -= number
            missed -= number
        else:
            assert number == position
            position += 1
    assert position == added
    assert missed == buffer.missed


def test_drop_oldest_keeps_the_newest() -> None:
    buffer = Buffer(Slow.DROP_OLDEST, 3, MOST_BYTES)
    for n in range(1, 6):
        buffer.add(batch(n, [1]))
    assert drain(buffer) == [-2, 3, 4, 5]


def test_drop_newest_keeps_the_oldest_and_tells_of_the_hole_behind_them() -> None:
    buffer = Buffer(Slow.DROP_NEWEST, 3, MOST_BYTES)
    buffer.add(batch(1, [1, 1]))
    buffer.add(batch(3, [1, 1, 1]))
    assert taken(buffer) == [1, 2]
    buffer.add(batch(6, [1]))
    assert drain(buffer) == [3, -2, 6]


def test_latest_keeps_one() -> None:
    buffer = Buffer(Slow.LATEST, 1000, MOST_BYTES)
    buffer.add(batch(1, [1, 1, 1]))
    buffer.add(batch(4, [1]))
    assert drain(buffer) == [-3, 4]
    assert buffer.missed == 3


def test_disconnect_says_when_it_is_too_much() -> None:
    buffer = Buffer(Slow.DISCONNECT, 3, MOST_BYTES)
    assert buffer.add(batch(1, [1, 1, 1]))
    assert not buffer.add(batch(4, [1]))


@pytest.mark.parametrize("choice", DROPPING)
def test_one_message_is_kept_whatever_its_size(choice: Slow) -> None:
    buffer = Buffer(choice, MOST, MOST_BYTES)
    buffer.add(batch(1, [2 * MOST_BYTES]))
    assert drain(buffer) == [1]
    half = MOST_BYTES // 2
    for n in range(3):
        buffer.add(batch(n, [half]))
    assert len([n for n in drain(buffer) if n >= 0]) == (1 if choice is Slow.LATEST else 2)


def test_a_whole_batch_is_shared_by_all_who_wait() -> None:
    shared = batch(1, [1, 2])
    parts = []
    for _ in range(2):
        buffer = Buffer(Slow.DROP_OLDEST, MOST, MOST_BYTES)
        buffer.add(shared)
        parts.append(buffer.take())
    assert all(isinstance(part, Part) and part.whole and part.batch is shared for part in parts)
