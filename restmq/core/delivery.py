"""One queue on one daemon: from chunks on a channel to consumers, without losing any.

``Feed`` does no I/O and knows no clock: it asks a ``Port`` to subscribe, join, read the
window, confirm and leave, one command at a time, and is told the outcome. So the model
test can drive it against a real store in any order of events, and the daemon drives the
same code.

    SUBSCRIBE confirmed -> join -> [window] -> chunks ... confirm ... -> leave

The rules (see DESIGN.md, "Delivery"):

* Only what came from the store, in the order of positions, is handed to consumers; the
  daemon that added a message does not deliver it by another way.
* A chunk that does not follow on the last one is left alone and the window is read.
* What was handed over is confirmed once per turn; what was not stays in the store. A broadcast
  message is done when every daemon has read it and it is with the kernel of one consumer at least,
  wherever that is: where all hang messages stay in the store, and who hangs delays nobody else.
* While all consumers of a daemon hang it takes nothing more, so that the fastest one sets the pace
  and the store keeps the rest; only who is slower than another loses.
* A consumer that comes gets what is with no kernel yet, so that it is not lost with those who hang.
* A broadcast message goes to a connection once: when messages return to the queue after a
  fault, those it has had are left out for it. One it has not had comes late rather than never.
* Round robin: a message is done when every byte of it is with the kernel; what a consumer
  that left still had in hand goes back to the queue.

So a crash of the daemon loses nothing that was not with a kernel; a consumer of broadcast that
falls behind the others may lose what is in its own buffer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from restmq.core.dealt import Hands
from restmq.core.port import Consumer, Hello, Joined, Port, Report, Window
from restmq.core.wire import (
    ChunkHead,
    Mark,
    chunk_entries,
    chunk_head,
    decode_entry,
    decode_mark,
)
from restmq.message import Batch, Message

LAG_MESSAGES, LAG_BYTES = 4500, 12582912
"""How far a daemon whose consumers all hang may fall behind before it takes and drops: more than the
store pushes while no kernel takes any (UNSAFE in common.lua), less than it pushes at all (IN_FLIGHT)."""

HELD_BYTES, HELD_CHUNKS = 1048576, 64
"""How much that comes on a channel is kept while the window is read."""

WINDOW = 8000
"""More than a broadcast window ever holds: IN_FLIGHT_MESSAGES and one chunk (common.lua)."""


class _Handed:
    """Broadcast messages that consumers were handed together; ``safe`` when a kernel has them."""

    __slots__ = ("chunk", "ids", "pos", "safe")

    def __init__(self, chunk: int, pos: int, ids: Sequence[int]) -> None:
        self.chunk = chunk
        self.pos = pos
        self.ids = ids
        self.safe = False


class Feed:
    """The consumers of one queue on this daemon, and where they are in its stream."""

    def __init__(self, queue: str, port: Port) -> None:
        """A feed without consumers asks for nothing."""
        self.queue = queue
        self.missed = 0
        self._port = port
        self._hands = Hands(queue)
        self._slots = self._hands.slots
        self._busy = False
        self._subscribed = False
        self._joined = False
        self._registered = False
        self._reset(0)
        self._renew = self._again = False
        self._when_joined: dict[Consumer, Callable[[], None]] = {}

    def _reset(self, epoch: int) -> None:
        """Another life of the store: nothing that was known of positions holds."""
        self.epoch = epoch
        self.pos = self.bpos = self.dealt_pos = 0
        self._handed_pos = 0
        self._reported_pos = self._reported_safe_pos = 0
        self._safe_pos = self._safe_bpos = 0
        self._last_id = 0
        self._charged_from = 0
        self._read_from = {False: 0, True: 0}
        self._held: dict[bool, list[bytes]] = {False: [], True: []}
        self._recent: deque[_Handed] = deque()
        self._chunks = 0
        for slot in self._slots.values():
            slot.had_chunks, slot.behind = 0, False
        self._seen = {False: 0, True: 0}
        self._seen_bpos = 0
        self._missing = {False: False, True: False}
        self._hands.forget()

    # ---- consumers

    @property
    def consumers(self) -> Iterable[Consumer]:
        """Those attached now, in the order they came."""
        return self._slots.keys()

    @property
    def idle(self) -> bool:
        """Nothing is attached, asked or registered: the feed may be forgotten."""
        return not (self._slots or self._busy or self._subscribed or self._registered)

    def attach(self, consumer: Consumer) -> None:
        """A consumer gets every chunk from now on (the first one starts the feed)."""
        self._hands.attach(consumer, self._chunks)
        if len(self._slots) == 1 and not self._subscribed:
            self._port.subscribe(self)
        self._rewind()
        self._step()

    def detach(self, consumer: Consumer) -> None:
        """The consumer is gone; what it had in hand of dealt messages goes back."""
        if self._hands.detach(consumer):
            self._when_joined.pop(consumer, None)
            self._step()

    def give_back(self, consumer: Consumer, now: float) -> float | None:
        """Leases that end by now are over; when the next one ends, None if there is none."""
        due = self._hands.give_back(consumer, now)
        self._step()
        return due

    def _rewind(self) -> None:
        """What is with no kernel yet is still in the window: who has not had it shall have it.

        So every consumer had all that is not safe, and what one of them has is safe.
        """
        if self._safe_pos < self.pos:
            self.pos, self.bpos = self._safe_pos, self._safe_bpos
            self._missing[False] = True

    def drained(self, consumer: Consumer) -> None:
        """All that the consumer had in hand is with the kernel now."""
        slot = self._slots.get(consumer)
        if slot is None:
            return
        self._hands.drained(slot)
        if slot.behind:
            slot.behind = False
            self._safe()
        self._step()

    def when_joined(self, consumer: Consumer, callback: Callable[[], None]) -> None:
        """Call back once this daemon takes what is pushed: at once if it does, never if they part.

        What was pushed before that moment and is still kept can be read again (replay.lua), and
        what is pushed later comes to the consumers: nothing lies between.
        """
        if consumer not in self._slots:
            return
        if self._joined:
            callback()
        else:
            self._when_joined[consumer] = callback

    # ---- what the port tells

    def subscribed(self) -> None:
        """Both channels are listened to (the first time, or again): what went by is in the window."""
        self._subscribed = True
        self._joined = False
        self._step()

    def unsubscribed(self) -> None:
        """The subscriber connection is lost; the port subscribes again by itself."""
        self._subscribed = False

    def store_back(self) -> None:
        """The command connection is new: replies that were due will not come."""
        self._busy = False
        self._joined = False
        self._step()

    def failed(self) -> None:
        """The command failed; the next `tick` or `store_back` tries again."""
        self._busy = False
        self._joined = False

    def tick(self) -> None:
        """Every few seconds: renew the registration, look for the dead, try again what failed."""
        self._renew = True
        self._step()

    def joined(self, reply: Joined | None) -> None:
        """Registered from here on; None: call again."""
        self._busy = False
        if reply is not None:
            self._take_position(reply)
            self._joined = True
            waiting, self._when_joined = self._when_joined, {}
            for callback in waiting.values():
                callback()
        self._step()

    def _take_position(self, reply: Joined) -> None:
        if reply.epoch != self.epoch:
            if self.epoch:
                self._lost(1)
            # What was published since may have come before this reply.
            seen, seen_bpos = self._seen, self._seen_bpos
            self._reset(reply.epoch)
            self._seen, self._seen_bpos = seen, seen_bpos
        self._charged_from = reply.dealt_pos
        if not reply.known:
            self._forgotten(reply)
        if reply.pos > self.pos:
            if self.pos:  # we were forgotten, and the others went on
                self._lost(reply.pos - self.pos)
            self.pos, self.bpos = reply.pos, reply.bpos
        if reply.pos > self._safe_pos:
            self._safe_pos, self._safe_bpos = reply.pos, reply.bpos
        self._reported_pos = self._reported_safe_pos = reply.pos
        self._handed_pos = max(self._handed_pos, self.pos)
        self._missing[False] = max(reply.last_pos, self._seen[False]) > self.pos
        self._missing[True] = max(reply.dealt_pos, self._seen[True]) > self.dealt_pos
        for dealt, missing in self._missing.items():
            if not missing:
                self._held[dealt].clear()
        self._again = True  # join drains one chunk's worth; there may be more

    def _forgotten(self, reply: Joined) -> None:
        """The store took back what was dealt here, and went on without us."""
        self.dealt_pos = reply.dealt_pos
        self._hands.forget()

    def window_read(self, dealt: bool, reply: Window) -> None:
        """Chunks that were missed on the channel."""
        self._busy = False
        if reply.epoch != self.epoch:
            self._joined = False
        else:
            self._take_window(dealt, reply)
        self._step()

    def _take_window(self, dealt: bool, reply: Window) -> None:
        if not self._slots:  # all left while we read; `leave` gives it back
            return
        if not dealt and self.pos < self._read_from[False]:  # rewound while we read: read again
            return
        before = self._at(dealt)
        for chunk in reply.chunks:
            head = chunk_head(chunk)
            if not dealt and self._holds_off():
                return
            if head.pos > self._at(dealt):
                self._deliver(chunk, head)
        if not dealt and not reply.chunks and reply.reached > self.pos:
            # What is left out is with a kernel of another daemon, or was purged.
            self._count_missed(reply.reached)
            self.pos = self._safe_pos = reply.reached
        self._missing[dealt] = reply.more
        self._read_from[dealt] = reply.reached if reply.more else 0
        if not reply.more:
            self._take_held(dealt)
            self._check_seen(dealt, before)

    def _take_held(self, dealt: bool) -> None:
        """Go on with what came on the channel while the window was read."""
        held, self._held[dealt] = self._held[dealt], []
        for chunk in held:
            head = chunk_head(chunk)
            if not dealt and self._holds_off():
                self._missing[False] = True
                return
            if head.epoch == self.epoch and head.prev == self._at(dealt):
                self._deliver(chunk, head)

    def _check_seen(self, dealt: bool, before: int) -> None:
        """More came by than was held: read on; if reading brought nothing, ask who we are."""
        if self._seen[dealt] <= self._at(dealt) or (self._missing[dealt] and self._holds_off()):
            return
        if self._at(dealt) > before:
            self._missing[dealt] = True
        else:
            self._seen[dealt] = 0
            self._joined = False

    def _count_missed(self, up_to: int) -> None:
        self._lost(max(0, up_to - max(self.pos, self._handed_pos)))

    def _lost(self, count: int) -> None:
        """So many went by; whoever is here is told."""
        if count:
            self.missed += count
            for consumer in list(self._slots):
                consumer.lost(count)

    def confirmed(self, result: int) -> None:
        """0: the store does not know us; 2: call again."""
        self._busy = False
        self._hands.answered()
        self._joined = result != 0
        self._again = result == 2
        self._step()

    def left(self) -> None:
        """No longer registered."""
        self._busy = self._registered = False
        self._reset(0)
        if not self._slots:
            self._port.unsubscribe(self)
            self._subscribed = False
        self._step()

    def deaf(self) -> list[Consumer]:
        """Consumers that a mark published now may not reach, since we do not listen yet."""
        return [] if self._subscribed else list(self._slots)

    def received(self, data: bytes) -> None:
        """Something came on a channel: a chunk, or the mark that the queue was purged."""
        if data == b"P":
            for consumer in list(self._slots):
                consumer.end()
            return
        mark = decode_mark(data)
        if mark is not None:
            self._marked(mark)
            return
        head = chunk_head(data)
        at = self._at(head.dealt)
        if not self._joined or head.epoch != self.epoch:
            self._leave_for_later(head, data)
            if self._joined:
                self._joined = False
                self._step()
        elif head.pos > at:
            # With nobody here it is left to who comes before we have left.
            hangs = not head.dealt and self._all_hang()
            if head.prev != at or self._missing[head.dealt] or not self._slots or hangs:
                self._leave_for_later(head, data)
                self._missing[head.dealt] = True
            else:
                self._deliver(data, head)
            self._step()

    def _marked(self, mark: Mark) -> None:
        if mark.epoch != self.epoch:
            return
        if mark.lease_ms is None:
            self._hands.acknowledged(mark.pairs)
            self._step()
        else:
            self._hands.extended(mark.pairs, mark.lease_ms)

    def _all_hang(self) -> bool:
        return all(slot.behind for slot in self._slots.values())

    def _holds_off(self) -> bool:
        """All consumers hang: the store keeps what comes, until that would hold up other daemons."""
        return (
            self._seen[False] - self.pos < LAG_MESSAGES
            and self._seen_bpos - self.bpos < LAG_BYTES
            and self._all_hang()
        )

    def _leave_for_later(self, head: ChunkHead, chunk: bytes) -> None:
        """Note that it was there; keep some of it at hand."""
        if head.pos > self._seen[head.dealt]:
            self._seen[head.dealt] = head.pos
            if not head.dealt:
                self._seen_bpos = head.bpos
        held = self._held[head.dealt]
        if len(held) < HELD_CHUNKS and sum(map(len, held)) + len(chunk) <= HELD_BYTES:
            held.append(chunk)

    # ---- handing over

    def _at(self, dealt: bool) -> int:
        return self.dealt_pos if dealt else self.pos

    def _deliver(self, chunk: bytes, head: ChunkHead) -> None:
        if head.dealt:
            self.dealt_pos = head.pos
            last = self._hands.deal(chunk, head, head.pos > self._charged_from)
            self._last_id = max(self._last_id, last)
        elif self._slots:
            self._count_missed(head.prev)
            self.pos, self.bpos = head.pos, head.bpos
            self._handed_pos = max(self._handed_pos, self.pos)
            self._broadcast(chunk_entries(chunk), head.base)

    def _broadcast(self, entries: list[bytes], base: int) -> None:
        messages = [decode_entry(self.queue, entry, base) for entry in entries]
        batch = Batch(messages, sum(map(len, entries)), epoch=self.epoch, base=base)
        parts = self._parts_of_returned(batch) if messages[0].id <= self._last_id else None
        with_a_kernel = False
        for slot in list(self._slots.values()):
            part = batch if parts is None else parts[slot.had_chunks, slot.consumer.returns]
            if part is not None:
                slot.behind = not slot.consumer.deliver(part)
            with_a_kernel |= not slot.behind
        self._remember(messages)
        if with_a_kernel:
            self._safe()

    def _parts_of_returned(self, batch: Batch) -> dict[tuple[int, bool], Batch | None]:
        """Messages that came before, by `Slot.had_chunks` and `returns`: what such a consumer has not had."""
        parts: dict[tuple[int, bool], Batch | None] = {}
        by_oldest: dict[tuple[int, bool], Batch | None] = {}
        oldest = self._recent[0].chunk - 1 if self._recent else 0
        for slot in self._slots.values():
            returns = slot.consumer.returns
            key = (max(slot.had_chunks, oldest), returns)
            if key not in by_oldest:
                new = self._not_had(*key, batch.messages)
                by_oldest[key] = batch.part(new) if new else None
            parts[slot.had_chunks, returns] = by_oldest[key]
        return parts

    def _remember(self, messages: list[Message]) -> None:
        """Keep the ids of as many messages as can come back: what a window holds at most."""
        self._chunks += 1
        self._last_id = max(self._last_id, messages[-1].id)
        first, last = messages[0].id, messages[-1].id
        ids: Sequence[int] = range(first, last + 1)
        if len(ids) != len(messages):
            ids = [message.id for message in messages]
        self._recent.append(_Handed(self._chunks, self.pos, ids))
        while self._recent[0].pos < self.pos - WINDOW:
            self._recent.popleft()

    def _not_had(
        self, had_chunks: int, returns: bool, messages: Sequence[Message]
    ) -> list[Message]:
        """Those that neither such a consumer was handed nor, before its time, a kernel had.

        Who returns knows better: it may have left before it got what it was handed, or ask for
        what a kernel had before its time.
        """
        had: set[int] = set()
        for handed in self._recent:
            if handed.safe or handed.chunk > had_chunks:
                had.update(handed.ids)
        return [m for m in messages if m.id not in had or (returns and m.placed)]

    def _safe(self) -> None:
        """One consumer has all that was handed over so far."""
        for handed in reversed(self._recent):
            if handed.pos <= self._safe_pos:
                break
            if handed.pos <= self.pos:
                handed.safe = True
        self._safe_pos, self._safe_bpos = self.pos, self.bpos

    # ---- what to do next

    def _step(self) -> None:
        """Ask for the next thing, if anything is due and no answer is awaited."""
        if self._busy:
            return
        if not self._slots:
            if self._registered:
                self._busy, self._joined = True, False
                self._port.leave(self, self._report())
            elif self._subscribed:
                self._port.unsubscribe(self)
                self._subscribed = False
        elif self._subscribed:
            self._step_subscribed()

    def _step_subscribed(self) -> None:
        if not self._joined:
            self._busy = True
            hello = self._hello()
            self._registered = True
            self._port.join(self, hello)
        elif self._missing[False] and not self._holds_off():
            self._busy = True
            self._read_from[False] = self.pos
            self._port.window(self, False, self.pos)
        elif self._missing[True]:
            self._busy = True
            self._port.window(self, True, max(self.dealt_pos, self._read_from[True]))
        elif self._something_to_confirm():
            self._busy = True
            self._port.confirm(self, self._report())

    def _hello(self) -> Hello:
        return Hello(
            self._registered,
            self.epoch,
            self._handed_pos,
            self.dealt_pos,
            self._last_id,
            self._hands.all_slots(),
        )

    def _something_to_confirm(self) -> bool:
        return (
            self._safe_pos > self._reported_safe_pos
            or self.pos > self._reported_pos
            or self._renew
            or self._again
            or self._hands.something_to_say
        )

    def _report(self) -> Report:
        """All that changed since the last one.

        If the reply is lost, the join that follows sets positions and slots anew; what was said
        of dealt chunks is said again (`settle` in common.lua does it once).
        """
        look, self._renew, self._again = self._renew, False, False
        self._reported_pos, self._reported_safe_pos = self.pos, self._safe_pos
        return Report(
            self.epoch,
            self._safe_pos,
            self._safe_bpos,
            self.pos,
            self.bpos,
            look,
            self._hands.changed_slots(),
            self._hands.settled(),
        )
