"""The values that travel through the broker: messages, batches, policies."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from restmq.names import message_key


class Policy(enum.Enum):
    """Who gets a message that is pushed: every streaming consumer, or one in turn."""

    BROADCAST = 1
    ROUNDROBIN = 2


class Message(NamedTuple):
    """A message as it left the store.

    ``body`` is exactly what was put in, or None when it was deleted or its time to
    live ended before it was taken. ``content_type`` is None when none was stated.
    ``created_ms`` is the store's clock, milliseconds since 1970.
    """

    queue: str
    id: int
    body: bytes | None
    content_type: str | None = None
    created_ms: int = 0

    @property
    def key(self) -> str:
        """``queue:id``."""
        return message_key(self.queue, self.id)


class Peeked(NamedTuple):
    """The oldest waiting message, and how often it has been looked at (1 the first time)."""

    message: Message
    looks: int


class QueueInfo(NamedTuple):
    """What is known of a queue at one moment.

    ``started`` and ``policy`` are None where they were never set (an unknown queue);
    ``length`` counts waiting messages, ``in_flight`` pushed ones nobody confirmed yet,
    ``daemons`` those that have consumers of it.
    """

    name: str
    length: int
    started: bool | None
    policy: Policy | None
    in_flight: int
    daemons: int
    last_id: int


class Batch:
    """Messages of one queue that are pushed together, encoded once per wire format."""

    __slots__ = ("_encoded", "dealt", "messages", "size")

    def __init__(self, messages: Sequence[Message], size: int, dealt: bool = False) -> None:
        """``messages`` are in order and none is gone; ``size`` is about their bytes.

        ``dealt``: this consumer alone gets them (round robin), so none may be dropped; how many
        it is given at a time is bounded by `restmq.core.delivery.ROOM`.
        """
        self.messages = messages
        self.size = size
        self.dealt = dealt
        self._encoded: dict[Callable[[Message], bytes], bytes] = {}

    def encoded(self, encode: Callable[[Message], bytes]) -> bytes:
        """All messages through ``encode``, joined; the work is done once per function."""
        data = self._encoded.get(encode)
        if data is None:
            data = self._encoded[encode] = b"".join(map(encode, self.messages))
        return data
