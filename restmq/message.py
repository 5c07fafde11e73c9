"""The values that travel through the broker: messages, batches, policies."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from restmq.names import message_key


class Policy(enum.Enum):
    """Who gets a message that is pushed: every streaming consumer, or one in turn."""

    BROADCAST = 1
    ROUNDROBIN = 2


class Mode(enum.Enum):
    """What a queue allows: every door, or only those that lease (its messages are jobs)."""

    OPEN = 1
    JOBS = 2


class Message(NamedTuple):
    """A message as it left the store.

    ``body`` is exactly what was put in, or None when it was deleted or its time to
    live ended before it was taken. ``content_type`` is None when none was stated.
    ``created_ms`` is the store's clock, milliseconds since 1970. ``placed``: it was
    broadcast, in the order of ids, so that its id says where in the stream it stands.
    """

    queue: str
    id: int
    body: bytes | None
    content_type: str | None = None
    created_ms: int = 0
    placed: bool = False

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
    ``daemons`` those that have consumers of it. ``consumers`` are open streams by transport, on
    all daemons; ``missed`` what slow ones lost so far. ``epoch`` and ``place`` say where its
    broadcasts are: who comes now gets all with a higher id.
    """

    name: str
    length: int
    started: bool | None
    policy: Policy | None
    in_flight: int
    daemons: int
    last_id: int
    mode: Mode | None = None
    replay_ms: int = 0
    replay_messages: int = 0
    missed: int = 0
    epoch: int = 0
    consumers: Mapping[str, int] = MappingProxyType({})
    place: int = 0


class Batch:
    """Messages of one queue that are pushed together, encoded once per wire format."""

    __slots__ = ("_encoded", "base", "dealt_pos", "epoch", "messages", "size")

    def __init__(
        self,
        messages: Sequence[Message],
        size: int,
        dealt_pos: int = 0,
        epoch: int = 0,
        base: int = 0,
    ) -> None:
        """``messages`` are in order and none is gone; ``size`` is about their bytes.

        ``dealt_pos``: not 0 when this consumer alone gets them (round robin), so that none may be
        dropped; it names the chunk in a receipt. How many a consumer is given at a time is
        bounded by `restmq.core.port.ROOM`. ``epoch`` is the life of the store they belong to.
        ``base``, of broadcasts, is the highest id that was broadcast before them.
        """
        self.messages = messages
        self.size = size
        self.dealt_pos = dealt_pos
        self.epoch = epoch
        self.base = base
        self._encoded: dict[Callable[[Message], bytes], bytes] = {}

    @property
    def dealt(self) -> bool:
        """Nobody else gets them."""
        return self.dealt_pos > 0

    def encoded(self, encode: Callable[[Message], bytes]) -> bytes:
        """All messages through ``encode``, joined; the work is done once per function."""
        data = self._encoded.get(encode)
        if data is None:
            data = self._encoded[encode] = b"".join(map(encode, self.messages))
        return data

    def part(self, messages: Sequence[Message]) -> Batch:
        """Some of its messages, broadcast."""
        return Batch(messages, self.size, epoch=self.epoch, base=self.base)
