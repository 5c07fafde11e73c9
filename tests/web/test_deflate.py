"""permessage-deflate without context takeover: the agreement, the bytes, and what autobahn asks."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from autobahn.exception import PayloadCorruptError, PayloadExceededError
from hypothesis import given
from hypothesis import strategies as st

from restmq.web.deflate import Codec, agree, deflated, deflated_frame, longest
from restmq.web.handshake import Extension

TAIL = b"\0\0\xff\xff"
PLAIN = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
BODIES = st.binary(max_size=300) | st.integers(0, 70_000).map(lambda n: b"abc " * (n // 4))
WINDOWS = st.integers(9, 15)


def offer(text: str) -> Extension:
    """``name; a; b=1`` as the handshake reads it."""
    name, *rest = text.split("; ")
    pairs = (part.partition("=") for part in rest)
    return Extension(name, tuple((key, value if sign else None) for key, sign, value in pairs))


def inflate(data: bytes, bits: int) -> bytes:
    return zlib.decompressobj(-bits).decompress(data + TAIL)


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (["permessage-deflate"], PLAIN),
        (["permessage-deflate; client_max_window_bits"], PLAIN),
        (["permessage-deflate; client_max_window_bits=10"], PLAIN),
        (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], PLAIN),
        (["permessage-deflate; server_max_window_bits=15"], f"{PLAIN}; server_max_window_bits=15"),
        (["permessage-deflate; server_max_window_bits=9"], f"{PLAIN}; server_max_window_bits=9"),
        (["x-webkit-deflate-frame", "permessage-deflate"], PLAIN),
        (["permessage-deflate; nonsense", "permessage-deflate"], PLAIN),
        (
            ["permessage-deflate; server_max_window_bits=8", "permessage-deflate"],
            PLAIN,
        ),
        (
            ["permessage-deflate; server_max_window_bits=10", "permessage-deflate"],
            f"{PLAIN}; server_max_window_bits=10",
        ),
    ],
)
def test_the_first_offer_that_can_be_taken_is(offers, answer):
    agreed = agree(map(offer, offers))
    assert agreed is not None
    assert agreed.answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "permessage-bzip2",
        "permessage-deflate; nonsense",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
    ],
)
def test_an_offer_that_is_not_valid_is_declined(text):
    assert agree([offer(text)]) is None


def test_nothing_offered_nothing_agreed():
    assert agree([]) is None


@given(BODIES, WINDOWS)
def test_what_is_deflated_inflates_in_the_window_that_was_agreed(body, bits):
    data = deflated(body, bits)
    assert inflate(data, bits) == body
    assert len(data) <= longest(len(body))


def test_noise_becomes_hardly_longer():
    noise = random.Random(7).randbytes(1048576)
    for size in (65, 1000, 16_383, 16_384, 100_000, 1_048_576):
        for bits in (9, 15):
            assert len(deflated(noise[:size], bits)) <= longest(size)


def test_a_frame_is_compressed_where_that_makes_it_shorter():
    text = json.dumps(["the same again"] * 50).encode()
    frame = deflated_frame(text, 15)
    assert frame[0] == 0xC1
    assert len(frame) < len(text) / 5
    assert inflate(frame[2:], 15) == text
    for too_short in (b"", b"x", b"x" * 63):
        assert deflated_frame(too_short, 15) == bytes((0x81, len(too_short))) + too_short
    noise = random.Random(1).randbytes(100)
    assert deflated_frame(noise, 15) == bytes((0x81, 100)) + noise


def test_two_frames_of_one_message_are_the_same_bytes():
    text = b"again and again " * 20
    assert deflated_frame(text, 15) == deflated_frame(text, 15)


@given(BODIES, WINDOWS, st.integers(1, 100))
def test_the_codec_reads_and_writes_messages_in_parts(body, bits, size):
    codec = Codec(bits)
    for _ in range(2):  # a connection has many messages
        codec.start_compress_message()
        sent = codec.compress_message_data(body[:size]) + codec.compress_message_data(body[size:])
        sent += codec.end_compress_message()
        codec.start_decompress_message()
        got = b""
        for start in range(0, len(sent), size):
            left = len(body) - len(got)
            got += codec.decompress_message_data(sent[start : start + size], left)
        codec.end_decompress_message()
        assert got == body


@given(BODIES.filter(len), st.data())
def test_a_message_longer_than_allowed_is_refused_wherever_that_shows(body, data):
    limit = data.draw(st.integers(0, len(body) - 1))
    codec = Codec(15)
    codec.start_decompress_message()
    with pytest.raises(PayloadExceededError):
        codec.decompress_message_data(deflated(body, 15), limit)


def read(data: bytes) -> bytes:
    codec = Codec(15)
    codec.start_decompress_message()
    got = codec.decompress_message_data(data)
    codec.end_decompress_message()
    return got


def test_the_examples_of_the_rfc():
    """Section 7.2.3: one block, no compression, a last block, two blocks; an empty message."""
    for hexadecimal in (
        "f248cdc9c90700",
        "000500faff48656c6c6f00",
        "f348cdc9c9070000",
        "f24805000000ffffcac9c90700",
    ):
        assert read(bytes.fromhex(hexadecimal)) == b"Hello"
    assert read(b"\0") == b""
    assert read(bytes.fromhex("f348cdc9c90700")) == b"Hello"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        b"\x06",  # a block of a kind that does not exist
        bytes.fromhex("f348cdc9c9070000") + b"more",
        bytes.fromhex("f348cdc9c9070000f248cdc9c90700"),
        bytes.fromhex("000500faff4865"),  # five bytes announced, two there
    ],
)
def test_what_is_no_deflate_data_is_an_error(data):
    with pytest.raises(PayloadCorruptError):
        read(data)
