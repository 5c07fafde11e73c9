"""What is kept of encoded events."""

from __future__ import annotations

from restmq.event import Event
from restmq.web import encoded
from restmq.web.encoded import Encoded


def event(number: int, body: bytes = b"{}") -> Event:
    return Event("a", number, body, None, b"", 0)


def test_an_event_is_encoded_once_for_each_way() -> None:
    asked: list[tuple[int, str]] = []
    encode: Encoded[str, tuple[int, str]] = Encoded(
        lambda event, way: asked.append((event.id, way)) or asked[-1]
    )
    one, other = event(1), event(1, b"[]")
    for way in ("x", "y", "x", "y"):
        assert encode(one, way) == (1, way)
        assert encode(other, way) == (1, way)  # of another log, or another life of the store
    assert asked == [(1, "x"), (1, "x"), (1, "y"), (1, "y")]


def test_only_the_last_and_small_ones_are_kept() -> None:
    asked: list[int] = []
    encode: Encoded[None, None] = Encoded(lambda event, way: asked.append(event.id))
    events = [event(number) for number in range(encoded.KEPT + 1)]
    large = event(-1, b"x" * (encoded.MAX_KEPT_BYTES + 1))
    for one in (*events, large, large, events[-1], events[1], events[0]):
        encode(one, None)
    assert asked[encoded.KEPT + 1 :] == [-1, -1, 0]
