"""Messages out of a TCP stream, in both framings of RFC 6587."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.syslog.framing import Framer, Frames, Lines

LIMIT = 100


def fed(*pieces: bytes, limit: int = LIMIT, end: bool = False) -> list[tuple[bytes, bool]]:
    """What comes out, each with whether it was cut."""
    framer = Framer(limit)
    found = []
    for frames in [*map(framer.feed, pieces), *([framer.end()] if end else [])]:
        found += [(line, n in frames.cut) for n, line in enumerate(frames.messages)]
    return found


def lines(*pieces: bytes, **how: int | bool) -> list[bytes]:
    found = fed(*pieces, **how)
    assert not any(cut for _, cut in found)
    return [line for line, _ in found]


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"<13>a\n<14>b\r\n\n", [b"<13>a", b"<14>b", b""]),
        (b" no pri \t\n", [b" no pri \t"]),
        (b"a\rb\r\r\n", [b"a\rb\r"]),
        (b"4 <1>a5 <2>bc", [b"<1>a", b"<2>bc"]),
        (b"7 <1>a\nb\n<2>line\n4 <3>c", [b"<1>a\nb", b"<2>line", b"<3>c"]),
        (b"404 <html> is no length\n", [b"404 <html> is no length"]),
        (b"10 green bottles\n9\n12 \n1 <\n1 <2\n", [b"10 green bottles", b"9", b"12 ", b"1 <", b"1 <2"]),
        (b"05 <1>a\n", [b"05 <1>a"]),
        (b"\x00\xff\x80<13>\n", [b"\x00\xff\x80<13>"]),
    ],
)  # fmt: skip
def test_messages_are_told_apart_one_by_one(stream, messages):
    assert lines(stream) == messages


MESSAGE = st.binary(max_size=130).map(lambda body: b"<13>" + body)
PART = st.one_of(
    MESSAGE.map(lambda m: b"%d %s" % (len(m), m)),
    MESSAGE.filter(lambda m: b"\n" not in m).map(lambda m: m + b"\n"),
    st.binary(max_size=130).filter(lambda m: b"\n" not in m).map(lambda m: m + b"\n"),
)


@given(st.lists(PART, max_size=6).map(b"".join), st.lists(st.integers(1, 60)))
def test_it_does_not_matter_how_the_stream_arrives(stream, sizes):
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    pieces.append(stream[at:])
    whole = fed(stream, end=True)
    assert fed(*filter(None, pieces), end=True) == whole
    assert fed(*(bytes((byte,)) for byte in stream), end=True) == whole


@given(st.lists(st.binary(max_size=99).map(lambda b: b"<1>" + b[:90]), max_size=8))
def test_any_bytes_survive_when_they_are_counted(messages):
    stream = b"".join(b"%d %s" % (len(message), message) for message in messages)
    assert lines(stream) == [message.removesuffix(b"\n") for message in messages]


@given(st.lists(st.binary(max_size=99).filter(lambda b: b"\n" not in b and not b.endswith(b"\r"))))
def test_any_bytes_but_lf_survive_in_lines(messages):
    stream = b"".join(b"x" + message + b"\n" for message in messages)
    assert lines(stream) == [b"x" + message for message in messages]


START = st.sampled_from([b"<13>", b"<13>Nov", b"<1>1 ", b"<", b"x", b""])


@given(st.lists(st.tuples(START, st.binary(max_size=60)), min_size=1, max_size=20), st.booleans())
def test_lines_are_one_text_only_if_each_begins_as_lines_do(parts, same):
    """What is said of them together is true of each."""
    if same:
        parts = [(parts[0][0], body) for _, body in parts]
    messages = [start + body.replace(b"\n", b" ") for start, body in parts]
    found = Lines.of(b"\n".join(messages))
    assert (found is not None) == all(message.startswith(b"<") for message in messages)
    if found is not None:
        assert found.messages == messages
        assert found.number == len(messages)
        assert found.heads == {message[:7] for message in messages}
        whole = b"".join(messages).decode("latin-1")
        assert found.plain == (json.dumps(whole)[1:-1] == whole)


def test_a_line_that_is_too_long_is_found_in_a_text_of_many():
    short, long = b"<13>" + b"x" * 96 + b"\n", b"<13>" + b"x" * 97 + b"\n"
    for stream in (short * 9, short * 9 + b"<13>rest"):
        assert isinstance(Framer(LIMIT).feed(stream), Lines)
    for stream in (long, short * 5 + long, long + short * 5, short + long + short):
        frames = Framer(LIMIT).feed(stream)
        assert isinstance(frames, Frames)
        assert len(frames.cut) == 1


def test_a_line_that_is_too_long_is_cut_once_and_the_next_is_whole():
    for end in (b"\n", b"\r\n"):
        assert fed(b"<1>" + b"x" * 300 + end + b"<2>next\n") == [
            (b"<1>" + b"x" * 97, True),
            (b"<2>next", False),
        ]
    pieces = [b"y" * 60] * 10
    assert fed(*pieces, b"\nnext\n") == [(b"y" * 100, True), (b"next", False)]
    assert lines(b"z" * 100 + b"\r\n") == [b"z" * 100]


def test_a_counted_message_that_is_too_long_is_cut_and_the_next_is_whole():
    stream = b"300 <1>" + b"x" * 297 + b"4 <2>a"
    expected = [(b"<1>" + b"x" * 97, True), (b"<2>a", False)]
    assert fed(stream) == expected
    assert fed(stream[:50], stream[50:120], stream[120:250], stream[250:]) == expected
    assert fed(b"999999999 <1>", b"x" * 500, b"\n<2>x\n") == [(b"<1>" + b"x" * 97, True)]


def test_a_last_line_without_its_end_is_a_message_and_half_a_counted_one_is_none():
    assert lines(b"<1>a\n<2>b", end=True) == [b"<1>a", b"<2>b"]
    assert lines(b"<1>a\n12", end=True) == [b"<1>a", b"12"]
    assert lines(b"20 <1>a", end=True) == []
    assert lines(b"<1>a\n", end=True) == [b"<1>a"]
    assert fed(b"x" * 300, end=True) == [(b"x" * 100, True)]


def test_what_is_kept_is_bounded():
    for stream in (b"x" * 64, b"999999999 <1>" + b"x" * 51):
        framer = Framer(LIMIT)
        for _ in range(100):
            framer.feed(stream)
            assert sum(map(len, framer._pieces)) <= LIMIT + 100


def test_nothing_is_nothing():
    framer = Framer(LIMIT)
    assert framer.feed(b"") == framer.end() == Frames([])
