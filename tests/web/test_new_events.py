"""Batches of events, read without a daemon."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.errors import BadRequest
from restmq.web.endpoint import Refusal
from restmq.web.v1 import events
from restmq.web.v1.new_messages import Bounds

BOUNDS = Bounds(message_bytes=40, items=3)
TOPICS = st.sampled_from(["a", "a.b", "\u00e9", "", "a..b", "*", "a/b"])
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
ITEMS = st.fixed_dictionaries(
    {"topic": TOPICS, "body": BODIES},
    optional={"content_type": st.just("text/plain"), "priority": st.just(1), "x": st.just(1)},
)


def read(data: bytes) -> Any:
    """The events, or what is told of the fault."""
    try:
        return events.read_batch(data, False, BOUNDS)
    except (BadRequest, Refusal) as problem:
        return type(problem), str(problem), vars(problem)


@given(st.lists(ITEMS, max_size=4))
@example([{"topic": "a", "body": "x" * 41}])
@example([{"topic": "a", "body": {"n": 1}}, {"topic": "a", "body": "text"}])
def test_a_batch_with_nothing_but_topics_and_bodies_is_read_as_any_other(batch: list[Any]) -> None:
    """A law: the short way and the long one say the same, also of what is wrong."""
    data = orjson.dumps({"events": batch})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "_plain_batch", lambda data, bounds: None)
        expected = read(data)
    assert read(data) == expected
