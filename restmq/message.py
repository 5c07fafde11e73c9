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
    ``headers`` is a JSON object of strings, or empty; ``priority`` 0 to 9; ``attempt`` how often it was
    handed out under a lease, ``error`` what was said when it came back last.
    """

    queue: str
    id: int
    body: bytes | None
    content_type: str | None = None
    created_ms: int = 0
    placed: bool = False
    headers: bytes = b""
    priority: int = 0
    attempt: int = 0
    error: str = ""

    @property
    def key(self) -> str:
        """``queue:id``."""
        return message_key(self.queue, self.id)


class NewMessage(NamedTuple):
    """A message to be put in.

    ``delay_ms`` is from now, ``deliver_at_ms`` milliseconds since 1970; the time to live counts from then.
    ``priority`` is 0 to 9; below 0 it counts where the queue has priorities, and is no error elsewhere.
    ``headers`` is a JSON object of strings, or empty. ``key`` is a digest (16 bytes) of an idempotency key: a
    repeat within the queue's window gets the first one's id.
    """

    body: bytes
    content_type: str | None = None
    ttl_ms: int = 0
    delay_ms: int = 0
    deliver_at_ms: int = 0
    priority: int = 0
    headers: bytes = b""
    key: bytes = b""


class Put(NamedTuple):
    """What became of a message: its id, or an error and, with ``rate_limited``, when to try again.

    Errors: ``queue_full``, ``rate_limited``, ``key_reused`` (another message under the same key),
    ``priorities_off``; in a batch that met an error of the store half-way also those of `restmq.core.jobs.UNPUT`.
    """

    id: int = 0
    replayed: bool = False
    error: str = ""
    retry_ms: int = 0


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
    broadcasts are: who comes now gets all with a higher id. ``leased`` and ``delayed`` count
    messages; ``oldest_ms`` is when the oldest waiting one was put in (0: none waits), by the store's
    clock, which was at ``now_ms``. ``redelivered``, ``dropped`` (by a bound) and ``expired`` count since
    the queue began. ``settings`` are the fields of its hash.
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
    leased: int = 0
    delayed: int = 0
    oldest_ms: int = 0
    redelivered: int = 0
    dropped: int = 0
    expired: int = 0
    now_ms: int = 0
    settings: Mapping[str, bytes] = MappingProxyType({})


class StoreInfo(NamedTuple):
    """The server behind the broker: ``valkey`` or ``redis``, its version; ``epoch`` changes when it was emptied."""

    epoch: str
    server: str
    version: str

    @classmethod
    def read(cls, epoch: bytes, info: bytes) -> StoreInfo:
        """From the server's answer to ``INFO server``; "" for what it does not say."""
        lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
        told = {name: value for name, _, value in lines}
        server = told.get("server_name", "redis")
        version = told.get(f"{server}_version") or told.get("redis_version", "")
        return cls(epoch.decode("ascii"), server, version)


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
