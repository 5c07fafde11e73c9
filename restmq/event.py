"""Values of events: what is published to a topic of a log, and what is read from there.

A log is the unit of order: ids rise over all its topics. A cursor is a place in a log, with the life
of the store it belongs to (its epoch).
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAIN_LOG = "main"
"""The log of whoever names none."""


class NewEvent(NamedTuple):
    """What is published: ``topic`` as `restmq.rules.topics.parse_topic` gives it.

    ``content_type`` is ASCII of at most 255 bytes; ``headers`` is a JSON object of strings, encoded,
    of less than 64 KiB, or nothing.
    """

    topic: str
    body: bytes
    content_type: str | None = None
    headers: bytes = b""


class Event(NamedTuple):
    """An event of a log; times are the store's clock in milliseconds since 1970.

    ``expires_ms`` is when its retention ends (0: by age never).
    """

    topic: str
    id: int
    body: bytes
    content_type: str | None
    headers: bytes
    created_ms: int
    expires_ms: int = 0


BEFORE_ALL: Final = 1
"""The epoch of a cursor that was given when its log had no event yet; no life of a store has it."""


class EventCursor(NamedTuple):
    """A place in a log: what is read next has higher ids. Epoch 0: of whatever life of the store.

    ``0-0`` is the beginning, from which nothing can be missing. Who was told to go on from an empty log
    may have missed something, and gets ``1-0``.
    """

    epoch: int
    id: int

    @property
    def text(self) -> str:
        """As clients get it."""
        return f"{self.epoch or BEFORE_ALL}-{self.id}"


class EventGap(NamedTuple):
    """What a reader asked for is not kept any more.

    ``oldest`` is the id of the first event it gets behind the gap, if the page has one; ``reset``: the
    store lost time or was wiped, else what is missing went by retention. ``missed`` is how many events,
    for a reader of the whole log, since of other selections nobody counts what is gone.
    """

    oldest: int | None
    reset: bool = False
    missed: int | None = None

    @property
    def members(self) -> dict[str, object]:
        """As clients get it."""
        told: dict[str, object] = {"oldest": self.oldest, "reset": self.reset}
        return told if self.missed is None else {**told, "missed": self.missed}


class EventPage(NamedTuple):
    """What a read gave: ``cursor`` is where the next one begins, ``more`` whether it gives more at once.

    ``now_ms`` is the store's clock.
    """

    events: list[Event]
    cursor: EventCursor
    gap: EventGap | None
    more: bool
    now_ms: int


class LogInfo(NamedTuple):
    """How many events a log keeps, and the ids and times of the oldest and the newest (0: none)."""

    events: int
    oldest: int
    oldest_ms: int
    newest: int
    newest_ms: int
    now_ms: int
    cursor: EventCursor
