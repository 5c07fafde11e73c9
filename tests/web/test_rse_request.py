"""What RSE's clients say, read: whatever is sent, it is a value or a BadRequest."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.errors import BadRequest
from restmq.event import EventCursor
from restmq.rules.topics import MAX_BYTES, parse_topic
from restmq.web.rse_request import (
    OPEN_UUID,
    POSTING,
    READING,
    Sender,
    channel_of,
    check_json,
    read_callback,
    read_poll,
    read_query,
    read_sender,
    topic_of,
    uuid_in,
)

KNOWN = (*READING, *POSTING)
values = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["-1", "true", "exact", "parent", "1-2", "%00", "%", "+", "1e3", "0x1", "１"]),
)
queries = st.lists(
    st.tuples(st.sampled_from([*KNOWN, "_", "x"]) | st.text(max_size=5), values), max_size=6
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))


@given(queries)
def test_any_query_is_a_poll_or_a_bad_request(query):
    """A law: nothing a client can write is a fault of ours."""
    with suppress(BadRequest):
        found = read_query(query, KNOWN)
        assert set(found) <= set(KNOWN)
        read_callback(found)
        poll = read_poll(found, 50.0)
        assert 1 <= poll.limit <= 500
        assert 0 <= poll.wait_seconds <= 50
        assert poll.after is None or poll.after > EventCursor(0, 0)


@given(st.text(alphabet=st.sampled_from("ab/.*#é\n\x00%_-"), max_size=40) | st.text(max_size=300))
def test_any_path_is_a_channel_or_a_bad_request(path):
    """A law: a channel and its topic are two ways to write one thing."""
    try:
        topic = topic_of(path)
    except BadRequest as error:
        assert str(error).startswith("channel")  # noqa: PT017
    else:
        assert channel_of(topic) == f"/{path}"
        assert parse_topic(topic) == topic
        assert len(topic.encode()) <= MAX_BYTES


@given(st.text() | st.text().map(lambda text: f"uuid/{text}"), st.booleans())
def test_any_user_agent_is_a_sender_or_a_bad_request(text, anonymous):
    with suppress(BadRequest):
        sender = read_sender(text, anonymous=anonymous)
        assert sender.user_agent == text
        assert len(sender.uuid) == 36


@given(st.binary(max_size=30))
def test_any_body_is_json_or_a_bad_request(body):
    with suppress(BadRequest):
        check_json(body)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5000 + b"]" * 5000])
def test_json_that_is_nested_without_end_is_a_bad_request(body):
    with pytest.raises(BadRequest, match="Invalid JSON"):
        check_json(body)


def test_the_first_uuid_counts():
    first, second = "a" * 36, "b" * 36
    assert uuid_in(f"x uuid/{first} uuid/{second}") == first
    assert uuid_in(f"x uuid/{first[:35]} uuid/{second}") == second
    assert read_sender("x", anonymous=True) == Sender("x", OPEN_UUID)
