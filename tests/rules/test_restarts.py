"""When a process that ended is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from restmq.rules.restarts import (
    ALARM_AFTER,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    STEADY_SECONDS,
    Again,
    Restarts,
)

lives = st.lists(st.tuples(st.integers(1, 4), st.floats(0, 100)), max_size=60)


def ends(*lived: float, number: int = 1) -> list[Again]:
    restarts = Restarts()
    return [restarts.ended(number, seconds) for seconds in lived]


def test_a_process_that_was_killed_is_back_at_once() -> None:
    (again,) = ends(3600)
    assert again == Again(FIRST_PAUSE, 1, alarm=False, quiet=False)


def test_one_that_dies_at_once_waits_longer_each_time_but_not_for_ever() -> None:
    pauses = [again.pause for again in ends(*[0.5] * 2000)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_a_long_life_forgives() -> None:
    assert [again.pause for again in ends(0, 0, 0, STEADY_SECONDS, 0)] == [0.1, 0.2, 0.4, 0.1, 0.2]


def test_the_alarm_comes_once_and_then_it_is_quiet() -> None:
    """A log that says it every ten seconds buries the line that says why."""
    found = ends(*[0.0] * 10)
    assert [again.alarm for again in found].index(True) == ALARM_AFTER - 1
    assert sum(again.alarm for again in found) == 1
    assert [again.quiet for again in found] == [False] * ALARM_AFTER + [True] * 5


def test_four_that_die_together_alarm_once() -> None:
    restarts = Restarts()
    found = [restarts.ended(number, 0) for _ in range(10) for number in range(4)]
    assert sum(again.alarm for again in found) == 1


def test_the_alarm_comes_again_after_better_times() -> None:
    found = ends(*[0.0] * 6, 100.0, *[0.0] * 6)
    assert sum(again.alarm for again in found) == 2


@given(lives)
def test_whatever_happens_the_next_start_comes_within_bounds(
    events: list[tuple[int, float]],
) -> None:
    restarts = Restarts()
    for number, lived in events:
        again = restarts.ended(number, lived)
        assert FIRST_PAUSE <= again.pause <= LONGEST_PAUSE
        assert not (again.alarm and again.quiet)
        assert again.in_a_row == 1 or lived < STEADY_SECONDS
