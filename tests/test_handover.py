"""What a parent and its processes tell each other arrives as it was sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.handover import (
    Away,
    Begin,
    Message,
    Place,
    Ready,
    Rules,
    Said,
    StoreAt,
    decode,
    encode,
)
from restmq.settings import load

texts = st.text(st.characters())  # with surrogates, which paths may hold


@given(
    st.one_of(
        st.builds(Rules, texts),
        st.builds(StoreAt, texts),
        st.builds(Said, texts, texts, texts),
        st.just(Ready()),
        st.builds(Away, texts),
    )
)
def test_a_message_is_one_line_and_comes_back(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_settings_arrive_as_they_were_resolved() -> None:
    """Each of its kind: tuples are tuples, the folder a path, secrets among them."""
    configuration = load(
        {"listen": ["::1", "unix:/a"], "redis-password": ["geheim"], "idle-timeout": ["2.5"]},
        {"HOME": "/home/ann", "RESTMQ_JSONP": "1"},
        Path.read_text,
    )
    places = (Place("::1", 10, False), Place("ssl:443", 2, True))
    door = (Place("::1", 10, False), Place("", 2, False, datagrams=True))
    begin = Begin(configuration, places, "[rest:producer]\n", "syslogd", door)
    assert decode(encode(begin)) == begin
    assert [(first, len(found)) for first, found in begin.handed] == [(3, 2), (5, 2)]
    assert "geheim" not in repr(begin)


@pytest.mark.parametrize("line", [b"", b"hello", b"{}", b"[]", b'["Nonsense"]', b'["Rules"]'])
def test_what_is_no_message_is_told_from_one(line: bytes) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        decode(line)
