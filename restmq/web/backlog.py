"""What waits for a consumer that reads more slowly than messages come: bounded, newest kept."""

from __future__ import annotations

from collections import deque
from typing import Final

from restmq.message import Batch, Message
from restmq.web.historic import Encoder

MAX_MESSAGES: Final = 1000
MAX_BYTES: Final = 1048576


class Backlog:
    """Broadcast messages in order, of which the oldest are dropped when there are too many.

    It holds at most MAX_MESSAGES, and MAX_BYTES of bodies, but always the newest message whatever
    its size. It keeps the batches themselves, which all slow consumers of a queue share, and their
    encoding with them. ``missed`` counts what was dropped.
    """

    __slots__ = ("_batches", "_bytes", "_messages", "_start", "missed")

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._start = 0  # the first message of the first batch that is still wanted
        self._messages = 0
        self._bytes = 0
        self.missed = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batch: Batch) -> None:
        """Let a batch wait, at the cost of the oldest."""
        self._batches.append(batch)
        self._messages += len(batch.messages)
        self._bytes += sum(map(_size, batch.messages))
        while self._messages > 1 and (self._messages > MAX_MESSAGES or self._bytes > MAX_BYTES):
            self._drop()

    def _drop(self) -> None:
        messages = self._batches[0].messages
        self._messages -= 1
        self._bytes -= _size(messages[self._start])
        self.missed += 1
        self._start += 1
        if self._start == len(messages):
            self._batches.popleft()
            self._start = 0

    def take(self, encode: Encoder) -> bytes:
        """Take the oldest batch, or what is left of it, as bytes. There must be one."""
        batch, start, self._start = self._batches.popleft(), self._start, 0
        messages = batch.messages[start:]
        self._messages -= len(messages)
        self._bytes -= sum(map(_size, messages))
        return b"".join(map(encode, messages)) if start else batch.encoded(encode)


def _size(message: Message) -> int:
    return len(message.body or b"")
