"""Rules of how long events are kept, as an operator writes them."""

from __future__ import annotations

import pytest

from restmq.rules.retention import Limits, parse_rule


def test_seconds_count_and_bytes() -> None:
    assert parse_rule("log.**=3600:10000:16MiB").limits == Limits(3_600_000, 10_000, 16 << 20)
    assert parse_rule("log.**=0.5").limits == Limits(500, 0, 0)
    assert parse_rule("a=1:1:1024GiB").limits.most_bytes == 1 << 40


@pytest.mark.parametrize(
    "text", ["a", "a=", "a=x", "=1", "a=1:1:99999999999999GiB", "a=1:1:1025GiB", "a=999999999"]
)
def test_what_makes_no_sense_is_told_in_a_line(text: str) -> None:
    with pytest.raises(ValueError, match="PATTERN=SECONDS"):
        parse_rule(text)
