"""Signs of life: each at its own pace, as long as it is wanted."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from restmq.core.beats import Beats


def test_each_is_called_at_its_pace_until_it_ends() -> None:
    clock, told = Clock(), list[str]()
    beats = Beats(clock)
    slow, fast = (lambda: told.append("slow")), (lambda: told.append("fast"))
    beats.begin(3.0, slow)
    beats.begin(1.0, fast)
    clock.pump([1.0] * 3)
    assert sorted(told) == ["fast", "fast", "fast", "slow"]
    beats.end(1.0, fast)
    beats.end(1.0, slow)
    clock.pump([1.0] * 3)
    assert sorted(told[4:]) == ["slow"]
    beats.end(3.0, slow)
    clock.advance(3.0)
    assert not clock.getDelayedCalls()


def test_many_of_one_pace_take_one_timer_and_each_has_its_own_time() -> None:
    clock, told = Clock(), list[tuple[int, float]]()
    beats = Beats(clock)
    for number in range(100):
        beats.begin(10.0, lambda number=number: told.append((number, clock.seconds())))
        clock.advance(0.0625)
    assert len(clock.getDelayedCalls()) == 1
    clock.pump([0.0625] * 160)
    assert told[:100] == [(number, 10.0 + 0.0625 * number) for number in range(100)]


def test_a_pace_too_short_for_a_clock_lets_others_have_their_turn() -> None:
    clock, told = Clock(), list[int]()
    clock.advance(1.0)
    beats = Beats(clock)
    beats.begin(1e-300, lambda: told.append(1))
    for call in tuple(clock.getDelayedCalls()):
        call.func(*call.args)
    assert told == [1]


def test_one_that_fails_does_not_silence_the_others() -> None:
    clock, told = Clock(), list[str]()
    beats = Beats(clock)

    def fail() -> None:
        raise ValueError("a bug")

    beats.begin(1.0, fail)
    beats.begin(1.0, lambda: told.append("alive"))
    with pytest.raises(ValueError, match="a bug"):
        clock.advance(1.0)
    clock.advance(0.0)
    assert told == ["alive"]


def test_who_ends_another_ends_it_at_once() -> None:
    clock, told = Clock(), list[str]()
    beats = Beats(clock)
    other = lambda: told.append("other")  # noqa: E731
    beats.begin(1.0, lambda: beats.end(1.0, other))
    beats.begin(1.0, other)
    clock.advance(1.0)
    assert told == []
