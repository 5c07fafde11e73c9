"""Signs of life for many at a steady pace, with one timer of the reactor for each pace.

A timer for each of 10,000 streams makes the reactor's heap that deep, and every other timed call, some for
each request, goes through it: 5.1 us instead of 1.9.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from twisted.internet.interfaces import IReactorTime

Beat = Callable[[], object]


class Beats:
    """Those who are called again and again; who begins later at the same pace has its turn later."""

    def __init__(self, clock: IReactorTime) -> None:
        """Nobody is called yet."""
        self._clock = clock
        self._paces: dict[float, dict[Beat, float]] = {}  # when each is due, the next one first

    def begin(self, seconds: float, beat: Beat) -> None:
        """Call it each time so many seconds have gone by, until `end`. It is not begun yet."""
        due = self._clock.seconds() + seconds
        waiting = self._paces.get(seconds)
        if waiting is None:
            self._paces[seconds] = {beat: due}
            self._clock.callLater(seconds, self._look, seconds)
        else:
            waiting[beat] = due

    def end(self, seconds: float, beat: Beat) -> None:
        """Call it no more; nothing happens if it was not begun at this pace."""
        self._paces.get(seconds, {}).pop(beat, None)

    def _look(self, seconds: float) -> None:
        """Call those who are due; what one of them raises keeps the others waiting for a turn."""
        waiting = self._paces[seconds]
        now = self._clock.seconds()
        due = [beat for beat, _ in takewhile(lambda item: item[1] <= now, waiting.items())]
        try:
            for beat in due:
                if beat in waiting:  # nobody ended it meanwhile
                    del waiting[beat]
                    waiting[beat] = now + seconds
                    beat()
        finally:
            self._look_later(seconds, waiting)

    def _look_later(self, seconds: float, waiting: dict[Beat, float]) -> None:
        if waiting:
            left = next(iter(waiting.values())) - self._clock.seconds()
            self._clock.callLater(max(0.0, left), self._look, seconds)
        else:
            del self._paces[seconds]
