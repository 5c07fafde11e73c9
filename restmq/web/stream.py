"""The consumer behind every open stream, whatever its transport.

A ``Way`` is how bytes get to the client (a streaming Exchange, a WebSocket), a ``Wire`` what they
look like. A ``StreamConsumer`` takes the messages of one queue; a ``Stream`` is all that goes to one
client, of one queue or several.

A consumer that reads more slowly than messages come has a bounded ``Buffer`` of broadcast messages and
a choice of what is given up; it is told how many it missed. What was dealt to it by round robin is
nobody else's and never dropped; the broker bounds how much that is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet import tcp
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from restmq.core.beats import Beats
from restmq.core.commands import Replay
from restmq.core.port import ROOM
from restmq.core.receipts import Receipt
from restmq.core.wire import chunk_entries, chunk_head, decode_entry
from restmq.message import Batch, Message
from restmq.rules.buffer import Buffer, Part, Slow
from restmq.web.wires import Encoder, Gap, SseOfMany, Wire

log = Logger()

DELETED: Final = "the queue was deleted"
SHUT_DOWN: Final = "the broker is going away"
TOO_SLOW: Final = "slow consumer"
"""Why the server ends a stream."""

KERNEL_BYTES: Final = 128 * 1024
"""SO_SNDBUF of a stream. By itself the kernel takes up to 4 MiB for each client that reads nothing."""


class Choices(NamedTuple):
    """What a client may choose for its stream.

    ``buffer`` counts messages and ``buffer_bytes`` their bodies; ``lease`` is the seconds a message
    may stay unacknowledged (None: no acknowledgements); ``heartbeat`` the seconds between signs of
    life (0: none).
    """

    slow: Slow = Slow.DROP_OLDEST
    buffer: int = 1000
    buffer_bytes: int = 1048576
    lease: float | None = None
    observe: bool = False
    heartbeat: float = 0


class Cursor(NamedTuple):
    """Where a client was: a life of the store, and the id up to which it had what was broadcast."""

    epoch: int
    id: int

    def encode(self) -> str:
        """As clients get it."""
        return f"{self.epoch}-{self.id}"


NOWHERE: Final = Cursor(0, 0)
"""Before the queue was there at all."""


class Way(Protocol):
    """The way to a client: an Exchange that streams, or a WebSocket."""

    def send(self, data: bytes) -> bool:
        """Send at once; False when some of it waits."""

    def write(self, data: bytes) -> None:
        """Send, or let it wait."""

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once, when nothing waits."""

    def finish(self) -> None:
        """End the stream."""


class End(Protocol):
    """A stream's end of one queue, or of a log of events."""

    @property
    def clogged(self) -> bool:
        """The client has not taken all that it was sent."""

    def left(self) -> None:
        """The client is gone, or needs us no more."""


def bound_kernel_buffer(transport: Any) -> None:
    """Have the kernel hold no more than KERNEL_BYTES for a client (plain TCP)."""
    if type(transport) is tcp.Server and not transport.TLS:
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)


class Stream:
    """All that goes to one client, from ``open`` to ``left`` or ``close``."""

    __slots__ = (
        "_beats",
        "_closed",
        "_cursors",
        "choices",
        "consumers",
        "ending",
        "reason",
        "way",
        "wire",
    )

    def __init__(self, beats: Beats, way: Way, wire: Wire, choices: Choices) -> None:
        self.way = way
        self.wire = wire
        self.choices = choices
        self.consumers: list[End] = []
        self._cursors: dict[str, Cursor] = {}
        self.reason = DELETED
        self.ending = False
        self._beats = beats
        self._closed = False

    def open(
        self,
        broker: Any,
        queues: Mapping[str, Cursor | None],
        here: Mapping[str, Cursor] = MappingProxyType({}),
    ) -> None:
        """Attach to the queues; with a cursor what was broadcast since comes first.

        ``here`` is where the queues were a moment ago: what a client that comes without a cursor
        is told first, so that it can come back before it got any message.
        """
        begin = {queue: cursor or here.get(queue, NOWHERE) for queue, cursor in queues.items()}
        self._cursors = begin
        came_back = any(queues.values()) or not here or self.choices.observe
        opening = self.wire.opening("" if came_back else self.cursor())
        if opening:
            self.way.write(opening)
        consumers = [StreamConsumer(broker, queue, self) for queue in queues]
        self.consumers = [*consumers]
        for consumer, cursor in zip(consumers, queues.values(), strict=True):
            consumer.attach(cursor)
        self.begin_beating()

    def begin_beating(self) -> None:
        """Give signs of life, if the client wants any."""
        if self.choices.heartbeat and self.wire.heartbeat:
            self._beats.begin(self.choices.heartbeat, self._beat)

    def _beat(self) -> None:
        """A sign of life, unless the client has plenty to read anyway."""
        if not self.clogged:
            self.way.write(self.wire.heartbeat)

    @property
    def clogged(self) -> bool:
        """The client has not taken all that it was sent."""
        return any(consumer.clogged for consumer in self.consumers)

    def cursor(self) -> str:
        """Where the client is, in all queues in their order."""
        return ",".join([cursor.encode() for cursor in self._cursors.values()])

    def reached(self, queue: str, cursor: Cursor) -> None:
        """Messages up to there are sent."""
        self._cursors[queue] = cursor

    def close(self, reason: str) -> None:
        """End the stream from our side."""
        if not self._closed:
            self.reason = reason
            self.way.write(self.wire.closing(reason))
            self._finish()

    def shut_down(self) -> None:
        """The daemon ends: close once the kernel has all that is in hand. May be called again.

        Not before, since dealt messages that are still ours at the end go to somebody else.
        """
        self.ending = True
        if not self.clogged:
            self.close(SHUT_DOWN)

    def ended(self, consumer: StreamConsumer) -> None:
        """A queue was deleted: with the last of them the stream ends."""
        self.consumers.remove(consumer)
        if not self.consumers:
            self._finish()

    def _finish(self) -> None:
        self.left()
        self.way.finish()

    def left(self, _: object = None) -> None:
        """The client is gone, or needs us no more."""
        self._closed = True
        self._beats.end(self.choices.heartbeat, self._beat)
        consumers, self.consumers = self.consumers, []
        for consumer in consumers:
            consumer.left()


class _Replaying:
    """What a client that came back waits for: the past first, and what came meanwhile behind it.

    ``had`` is where it is: what was broadcast up to there it has had, or was told that it is gone.
    ``highest`` is what had been broadcast when the past was read last.
    """

    __slots__ = ("had", "held", "highest")

    def __init__(self, had: Cursor, held: Buffer) -> None:
        self.had = had
        self.highest = 0
        self.held = held

    def is_over(self) -> bool:
        """Whether what waits follows on what it had; what it had of that is dropped."""
        epoch, had = self.had
        while self.held:
            part = self.held.first
            if isinstance(part, Part):
                batch = part.batch
                if batch.epoch > epoch:
                    return False
                if batch.epoch == epoch and batch.messages[part.stop - 1].id > had:
                    before = batch.messages[part.start - 1].id if part.start else batch.base
                    return before <= had
            self.held.take()
        return had >= self.highest


class StreamConsumer:
    """One client's end of a queue: see ``restmq.core.port.Consumer``."""

    __slots__ = (
        "_broker",
        "_buffer",
        "_encode",
        "_epoch",
        "_had",
        "_of_many",
        "_over",
        "_queue",
        "_replaying",
        "_stream",
        "_timer",
        "_told",
        "_way",
        "acks",
        "clogged",
        "returns",
        "room",
    )

    def __init__(self, broker: Any, queue: str, stream: Stream) -> None:
        self._broker = broker
        self._queue = queue
        self._stream = stream
        self._way = stream.way
        self._epoch = 0
        self._encode: Encoder = stream.wire.encoder(0)
        self._of_many = isinstance(stream.wire, SseOfMany)
        self._buffer: Buffer | None = None  # made when first needed: most never are
        self._replaying: _Replaying | None = None
        self._had = NOWHERE  # where it is, if it returns
        self._timer: IDelayedCall | None = None
        self._told = 0
        self._over = False
        self.clogged = False
        self.acks = stream.choices.lease is not None
        self.returns = False
        self.room = min(stream.choices.buffer, ROOM)

    @property
    def queue(self) -> str:
        """Its name."""
        return self._queue

    @property
    def missed(self) -> int:
        """How many messages were dropped because the client reads too slowly."""
        return 0 if self._buffer is None else self._buffer.missed

    def attach(self, cursor: Cursor | None) -> None:
        """Begin to take messages."""
        if self._stream.choices.observe:
            self._broker.observe(self._queue, self)
            return
        if cursor is not None:
            self.returns = True
            self._replaying = _Replaying(cursor, self._held())
        self._broker.attach(self._queue, self, self._stream.wire.transport)
        if self._replaying is not None:
            self._ask(self._replaying)

    # ---- what the delivery tells

    def deliver(self, batch: Batch) -> bool:
        """Send the batch, or let it wait; True when every byte is with the kernel."""
        if batch.epoch == self._epoch and not (
            self.clogged or self.acks or self.returns or self._of_many
        ):  # most are so, most of the time: no call too many, since a hundred wait for theirs
            if self._way.send(batch.encoded(self._encode)):
                return True
            self._clog()
            return False
        if batch.dealt_pos:
            return self._take(batch)
        if self._replaying is not None:
            self._hold(self._replaying, batch)
            return False
        new = self._new(batch)
        return not self.clogged if new is None else self._take(new)

    def _take(self, batch: Batch) -> bool:
        if not self.clogged:
            if self._way.send(self._encoded(batch)):
                return True
            self._clog()
        elif batch.dealt_pos:
            self._way.write(self._encoded(batch))
        else:
            self._wait(batch)
        return False

    def _encoded(self, batch: Batch) -> bytes:
        if batch.dealt_pos and self.acks:
            return self._leased(batch)
        if batch.epoch != self._epoch:
            self._epoch = batch.epoch
            self._encode = self._stream.wire.encoder(batch.epoch)
        return batch.encoded(self._encode) + self._after(batch.epoch, batch.messages[-1])

    def _after(self, epoch: int, last: Message) -> bytes:
        wire = self._stream.wire
        if not isinstance(wire, SseOfMany) or not last.placed:
            return b""
        self._stream.reached(self._queue, Cursor(epoch, last.id))
        return wire.cursor(self._stream.cursor())

    def lost(self, count: int) -> None:
        """So many went by that this daemon could not get."""
        if self._replaying is not None:
            return  # it will find out by itself
        self._broker.count_missed(self._queue, count)
        if self.clogged:
            self._make_buffer().lost(count)
            self._told += count
        else:
            self._way.write(self._stream.wire.missed(self._queue, count))

    def end(self) -> None:
        """The queue was deleted: send what waits, and end."""
        if self._over:
            return
        while self._buffer:
            self._way.write(self._encoded_part(self._buffer.take()))
        self._leave()
        self._stream.ended(self)

    def left(self) -> None:
        """The client is gone, or needs us no more."""
        if self._over:
            return
        missed = self.missed
        self._leave()
        if missed:
            log.info(
                "a consumer of {queue} read too slowly and missed {missed} messages",
                queue=self._queue,
                missed=missed,
            )

    def _leave(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._replaying = self._buffer = None
        if self._stream.choices.observe:
            self._broker.unobserve(self._queue, self)
        else:
            self._broker.detach(self._queue, self, self._stream.wire.transport)

    # ---- leases

    def due(self, lease_ms: int | None = None) -> float:
        """When a message that is handed out now must be acknowledged."""
        now: float = self._broker.clock.seconds()
        return now + ((self._stream.choices.lease or 0.0) if lease_ms is None else lease_ms / 1000)

    def leases_changed(self) -> None:
        """A lease was extended: look what is due first."""
        if self._timer is not None:
            self._timer.cancel()
        self._leases_over()

    def _leases_over(self) -> None:
        """One timer for all: it goes off when the oldest message in hand is due."""
        self._timer = None
        now = self._broker.clock.seconds()
        due = self._broker.give_back(self._queue, self, now)
        if due is not None and not self._over:
            self._timer = self._broker.clock.callLater(max(0.0, due - now), self._leases_over)

    def _leased(self, batch: Batch) -> bytes:
        lease = self._stream.choices.lease or 0.0
        wire, pos, now = self._stream.wire, batch.dealt_pos, self._broker.clock.seconds()
        until = int((now + lease) * 1000)
        if self._timer is None:
            self._timer = self._broker.clock.callLater(lease, self._leases_over)
        elif self._timer.getTime() > now + lease:  # that of a message whose lease was extended
            self._timer.reset(lease)
        receipts = [
            Receipt(self._queue, batch.epoch, pos, message.id).encode()
            for message in batch.messages
        ]
        return b"".join(
            [
                wire.leased(message, receipt, until)
                for message, receipt in zip(batch.messages, receipts, strict=True)
            ]
        )

    # ---- slow clients

    def _make_buffer(self) -> Buffer:
        if self._buffer is None:
            choices = self._stream.choices
            self._buffer = Buffer(choices.slow, choices.buffer, choices.buffer_bytes)
        return self._buffer

    def _clog(self) -> None:
        """The kernel takes no more: wait until it has taken all that Twisted holds."""
        self.clogged = True
        self._way.when_drained(self._drained)

    def _wait(self, batch: Batch) -> None:
        buffer = self._make_buffer()
        if not buffer.add(batch):
            self._stream.close(TOO_SLOW)
        elif buffer.missed != self._told:
            self._broker.count_missed(self._queue, buffer.missed - self._told)
            self._told = buffer.missed

    def _encoded_part(self, part: Part | int) -> bytes:
        if isinstance(part, int):
            return self._stream.wire.missed(self._queue, part)
        batch, start, stop = part
        if part.whole:
            return self._encoded(batch)
        messages = batch.messages[start:stop]
        encode = self._stream.wire.encoder(batch.epoch)
        return b"".join(map(encode, messages)) + self._after(batch.epoch, messages[-1])

    def _drained(self) -> None:
        """The transport is empty: send what waits; tell the broker when nothing does."""
        if self._over:  # the stream's end is with the client: nothing may follow
            return
        self.clogged = False
        while self._buffer:
            if not self._way.send(self._encoded_part(self._buffer.take())):
                self._clog()
                return
        if self._replaying is None:  # else there is more in hand than what was dealt, or came late
            self._broker.drained(self._queue, self)
        if self._stream.ending:
            self._stream.shut_down()

    # ---- coming back

    def _held(self) -> Buffer:
        choices = self._stream.choices
        return Buffer(Slow.DROP_OLDEST, choices.buffer, choices.buffer_bytes)

    def _ask(self, state: _Replaying) -> None:
        """Read on. What came before that belongs to the past, if the store has not taken it back."""
        state.held = self._held()
        self._broker.replay(self._queue, self, state.had, self._replay)

    def _new(self, batch: Batch) -> Batch | None:
        """What a client that came back has not had yet; ids rise in a batch.

        What comes late is new whatever its id.
        """
        if not self.returns:
            return batch
        epoch, had = self._had
        if batch.epoch == epoch and batch.messages[0].id <= had:
            messages = [m for m in batch.messages if m.id > had or not m.placed]
            if not messages:
                return None
            batch = batch.part(messages)
        if batch.messages[-1].placed:
            self._had = Cursor(batch.epoch, batch.messages[-1].id)
        return batch

    def _hold(self, state: _Replaying, batch: Batch) -> None:
        """It waits for the past; but what comes late belongs nowhere in it."""
        late = [message for message in batch.messages if not message.placed]
        if late:
            self._take(batch.part(late))
        placed = [message for message in batch.messages if message.placed]
        if placed:
            state.held.add(batch.part(placed))

    def _replay(self, reply: Replay) -> None:
        """A page of the past. The next is asked for when the client has taken this one."""
        state = self._replaying
        if state is None:
            return
        epoch, had = state.had
        same = (epoch == reply.epoch and had <= reply.last_id) or state.had == NOWHERE
        if not same:
            had = 0
        messages = [
            message
            for chunk in reply.chunks
            for message in _messages(self._queue, chunk)
            if message.placed and message.id > had
        ]
        if not same or had < reply.kept_from:
            known = same and had >= reply.solid
            missed = reply.kept_from - had if known else None
            self._tell_gap(reply, messages, missed)
            had = max(had, reply.kept_from)
        if messages:
            had = messages[-1].id
        state.had, state.highest = Cursor(reply.epoch, had), reply.highest
        if self._send_past(reply.epoch, messages):
            self._catch_up()
        else:
            self._way.when_drained(self._catch_up)

    def _tell_gap(self, reply: Replay, messages: list[Message], missed: int | None) -> None:
        first = messages[0].id if messages else None
        gap = Gap(self._queue, first, first or reply.highest + 1, missed)
        cursor = Cursor(reply.epoch, reply.kept_from)
        self._stream.reached(self._queue, cursor)
        wire = self._stream.wire
        many = isinstance(wire, SseOfMany)
        self._way.write(wire.gap(gap, self._stream.cursor() if many else cursor.encode()))

    def _send_past(self, epoch: int, messages: list[Message]) -> bool:
        if not messages:
            return True
        encode = self._stream.wire.encoder(epoch)
        return self._way.send(b"".join(map(encode, messages)) + self._after(epoch, messages[-1]))

    def _catch_up(self) -> None:
        """The past is with the client: what came meanwhile follows, or what lies between is read."""
        state = self._replaying
        if state is None:
            return
        if not state.is_over():
            self._ask(state)
            return
        self._replaying, self._had = None, state.had
        while state.held:
            part = state.held.take()
            assert isinstance(part, Part)
            new = self._new(part.batch.part(part.batch.messages[part.start : part.stop]))
            if new is not None:
                self._wait(new)
        if not self.clogged:  # else we are called when the kernel has what was dealt meanwhile
            self._drained()


def _messages(queue: str, chunk: bytes) -> list[Message]:
    base = chunk_head(chunk).base
    return [decode_entry(queue, entry, base) for entry in chunk_entries(chunk)]
