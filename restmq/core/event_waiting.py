"""What waits in a log's outbox because the queue it is bound for refuses it, and how much may."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from restmq.message import NewMessage
from restmq.rules.retention import Limits


class Bound(NamedTuple):
    """An event on its way into a queue; ``place`` is its id in the outbox, ``size`` its bytes there."""

    place: bytes
    queue: str
    message: NewMessage
    size: int
    expires_ms: int


class Waiting:
    """What waits for one queue, oldest first: as many and as large events as the log itself may hold."""

    def __init__(self, limits: Limits) -> None:
        """``limits``: count and bytes count here; its age each event has with it."""
        self._limits = limits
        self._places: deque[tuple[bytes, int]] = deque()
        self._size = 0

    def keep(self, those: Iterable[Bound], now_ms: int) -> list[bytes]:
        """Let these wait as well. The places of those that may not any more: too old, or too many."""
        gone = []
        for bound in those:
            if 0 < bound.expires_ms <= now_ms:
                gone.append(bound.place)
                continue
            self._places.append((bound.place, bound.size))
            self._size += bound.size
        _, most, most_bytes = self._limits
        while self._places and (
            0 < most < len(self._places) or (0 < most_bytes < self._size and len(self._places) > 1)
        ):
            place, size = self._places.popleft()
            self._size -= size
            gone.append(place)
        return gone
