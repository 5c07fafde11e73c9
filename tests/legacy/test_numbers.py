"""Which numbers were taken over, written as ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.legacy.numbers import Numbers

small = st.lists(st.integers(0, 60))


@given(st.lists(small))
def test_it_is_a_set(rounds: list[list[int]]) -> None:
    """Whatever is put in, in whatever order, is in; nothing else is."""
    numbers, expected = Numbers(), set()
    for added in rounds:
        numbers.add(added)
        expected |= set(added)
        assert [n for n in range(70) if n in numbers] == sorted(expected)
        assert len(numbers) == len(expected)


@given(st.lists(small))
def test_its_text_is_the_shortest_and_comes_back_the_same(rounds: list[list[int]]) -> None:
    numbers = Numbers()
    for added in rounds:
        numbers.add(added)
    again = Numbers(numbers.text())
    assert again.text() == numbers.text()
    assert [n for n in range(70) if n in again] == [n for n in range(70) if n in numbers]
    everything = {n for added in rounds for n in added}
    gaps = sum(n - 1 not in everything for n in everything)
    assert len(numbers.text().split(b",")) == max(gaps, 1)


def test_a_run_of_numbers_is_one_range():
    numbers = Numbers(b"5")
    numbers.add(range(6, 1_000_000))
    assert numbers.text() == b"5-999999"


@pytest.mark.parametrize("text", [b"a", b"1-", b",", b"1,,2", b"-1", b"1 2"])
def test_another_text_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no list of numbers"):
        Numbers(text)
