"""Events that were encoded for polls, kept while they are new: many pollers ask for the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from restmq.event import Event

KEPT = 2048
MAX_KEPT_BYTES = 4096
"""Larger bodies are encoded anew each time."""

Text = TypeVar("Text")
Way = TypeVar("Way")


class Encoded(Generic[Way, Text]):
    """``encode`` of an event, done once for each way as long as the event is one of the last KEPT."""

    def __init__(self, encode: Callable[[Event, Way], Text]) -> None:
        self._encode = encode
        self._kept: dict[tuple[int, Way], tuple[Event, Text]] = {}

    def __call__(self, event: Event, way: Way) -> Text:
        """The encoded event."""
        found = self._kept.get((id(event), way))
        if found is not None and found[0] is event:
            return found[1]
        text = self._encode(event, way)
        if len(event.body) <= MAX_KEPT_BYTES:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[id(event), way] = event, text  # it is kept, so nobody else gets its id
        return text
