"""Parameters of queries."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.web.queries import query_pairs

PIECES = st.sampled_from(["a", "=", "&", "topic", "%20", "+", "%", ";", "1-2", "**", "_"])


@given(st.lists(PIECES, max_size=12).map("".join))
@example("a&&b=&=c&d=e=f")
def test_a_query_that_is_not_encoded_is_read_like_any_other(query: str) -> None:
    """A law: the short way gives what the long one does."""
    with suppress(UnicodeDecodeError):
        expected = parse_qsl(query, keep_blank_values=True, errors="strict")
        assert query_pairs(query, 20) == expected


@pytest.mark.parametrize("query", ["a&b&c", "a=%20&b&c", "&&"])
def test_too_many_parameters_are_refused_either_way(query: str) -> None:
    assert query_pairs(query, 3) == parse_qsl(query, keep_blank_values=True)
    with pytest.raises(ValueError, match="Max number"):
        query_pairs(query, 2)
