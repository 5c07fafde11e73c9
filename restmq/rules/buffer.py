"""What waits for a consumer that reads more slowly than messages come, and what is given up.

Five choices when the buffer is full: ``drop-oldest``, ``drop-newest``, ``latest`` (keep only the newest
message), ``disconnect``, and ``block`` (take no more; only where messages are dealt round robin: there
nothing is ever dropped, whatever the choice, since nobody else would get it).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import NamedTuple

from restmq.message import Batch, Message


class Slow(enum.Enum):
    """The choices, by the words clients use."""

    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"
    LATEST = "latest"
    DISCONNECT = "disconnect"
    BLOCK = "block"


class Part(NamedTuple):
    """Messages ``start`` to ``stop`` of a batch, which all slow consumers of a queue share."""

    batch: Batch
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """Nothing of the batch is missing."""
        return self.start == 0 and self.stop == len(self.batch.messages)


class Buffer:
    """Broadcast messages in order, at most ``most`` of them and ``most_bytes`` of bodies.

    One message is kept whatever its size. Where messages were dropped `take` gives their number, so
    that the consumer is told at the right place. ``missed`` is the sum.
    """

    __slots__ = ("_bytes", "_choice", "_messages", "_most", "_most_bytes", "_parts", "missed")

    def __init__(self, choice: Slow, most: int, most_bytes: int) -> None:
        self._choice = choice
        self._most = 1 if choice is Slow.LATEST else most
        self._most_bytes = most_bytes
        self._parts: deque[Part | int] = deque()
        self._messages = 0
        self._bytes = 0
        self.missed = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, batch: Batch) -> bool:
        """Let a batch wait. False when that is too much for a consumer that wanted to be cut off."""
        if self._choice is Slow.DROP_NEWEST:
            self._add_what_fits(batch)
            return True
        self._append(Part(batch, 0, len(batch.messages)))
        if self._choice is Slow.DISCONNECT:
            return not self._full
        self._drop_oldest()
        return True

    @property
    def _full(self) -> bool:
        return self._messages > 1 and (
            self._messages > self._most or self._bytes > self._most_bytes
        )

    def _append(self, part: Part) -> None:
        self._parts.append(part)
        self._messages += part.stop - part.start
        self._bytes += sum(map(_size, part.batch.messages[part.start : part.stop]))

    def _drop_oldest(self) -> None:
        dropped = noted = 0
        while self._full:
            part = self._parts.popleft()
            if not isinstance(part, Part):
                noted += part
                continue
            self._messages -= 1
            self._bytes -= _size(part.batch.messages[part.start])
            dropped += 1
            if part.start + 1 < part.stop:
                self._parts.appendleft(part._replace(start=part.start + 1))
        if dropped:
            if self._parts and isinstance(self._parts[0], int):
                noted += self._parts.popleft()  # type: ignore[operator]
            self._parts.appendleft(dropped + noted)
            self.missed += dropped

    def _add_what_fits(self, batch: Batch) -> None:
        fits, size = 0, self._bytes
        for message in batch.messages:
            size += _size(message)
            if self._messages + fits and (
                self._messages + fits >= self._most or size > self._most_bytes
            ):
                break
            fits += 1
        if fits:
            self._append(Part(batch, 0, fits))
        self.lost(len(batch.messages) - fits)

    def lost(self, count: int) -> None:
        """So many that would be next are not there: the consumer is told when it gets so far."""
        if not count:
            return
        self.missed += count
        if self._parts and isinstance(self._parts[-1], int):
            count += self._parts.pop()  # type: ignore[operator]
        self._parts.append(count)

    @property
    def first(self) -> Part | int:
        """What `take` would take."""
        return self._parts[0]

    def take(self) -> Part | int:
        """Take the oldest part, or the number of messages that were dropped there."""
        part = self._parts.popleft()
        if isinstance(part, Part):
            self._messages -= part.stop - part.start
            self._bytes -= sum(map(_size, part.batch.messages[part.start : part.stop]))
        return part


def _size(message: Message) -> int:
    return len(message.body or b"")
