"""When a process that ended is started again: at once, or later and later if it ends again and again."""

from __future__ import annotations

from typing import Final, NamedTuple

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
STEADY_SECONDS: Final = 10.0
"""A process that lived so long did not die of its start."""
ALARM_AFTER: Final = 5
"""So many short lives in a row are worth an alarm."""


class Again(NamedTuple):
    """What to do about a process that ended."""

    pause: float
    """Seconds until the next start."""
    in_a_row: int
    """How many short lives there were without a long one between; this is the last of them."""
    alarm: bool
    """Whether to tell the operator now: once for all processes, until one has lived long again."""
    quiet: bool
    """Whether the operator knows already, so that nothing need be said."""


class Restarts:
    """The memory of all processes' ends; each is known by a number."""

    def __init__(self) -> None:
        self._in_a_row: dict[int, int] = {}
        self._alarmed = False

    def ended(self, number: int, lived_seconds: float) -> Again:
        """A process ended after so long a life."""
        short = lived_seconds < STEADY_SECONDS
        count = self._in_a_row.get(number, 0) + 1 if short else 1
        self._in_a_row[number] = count
        if not short and max(self._in_a_row.values()) < ALARM_AFTER:
            self._alarmed = False
        pause = min(FIRST_PAUSE * 2.0 ** min(count - 1, 30), LONGEST_PAUSE)
        alarm = count >= ALARM_AFTER and not self._alarmed
        quiet = count >= ALARM_AFTER and self._alarmed
        self._alarmed = self._alarmed or alarm
        return Again(pause, count, alarm, quiet)
