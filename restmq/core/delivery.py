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
* What was handed over is confirmed once per turn; what was not stays in the store. Broadcast
  counts as handed over when it is with the kernel of one consumer at least, so that a daemon
  whose consumers all hang holds messages in the store, and one that hangs delays nobody else.
* A broadcast message goes to a connection once: when messages return to the queue after a
  fault, those it has had are left out for it. One it has not had comes late rather than never.
* Round robin: a message is done when every byte of it is with the kernel; what a consumer
  that left still had in hand goes back to the queue.

A crash of the daemon loses nothing of round robin that was not with a kernel, and of broadcast
at most what was in the buffer of a consumer that fell behind the others.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from restmq.core.wire import (
    ChunkHead,
    chunk_entries,
    chunk_head,
    chunk_numbers,
    decode_entry,
    smaller_chunk,
)
from restmq.message import Batch, Message

ROOM = 1000
"""What a slot may hold of dealt messages, in units: one a message and one for each whole KiB."""


WINDOW = 6000
"""More than a broadcast window ever holds: IN_FLIGHT_MESSAGES and one chunk (common.lua)."""


class Consumer(Protocol):
    """An open stream, as the delivery sees it."""

    def deliver(self, batch: Batch) -> bool:
        """Take messages; True if every byte is with the kernel, else `Feed.drained` is called later."""

    def end(self) -> None:
        """The queue was deleted: finish the response."""


class Joined(NamedTuple):
    """What ``join.lua`` tells; ``known`` when the store remembered this daemon."""

    known: bool
    epoch: int
    pos: int
    bpos: int
    dealt_pos: int
    last_pos: int


class Window(NamedTuple):
    """What ``window.lua`` tells: chunks after a position, and whether there are more."""

    epoch: int
    reached: int
    more: bool
    chunks: list[bytes]


class Settled(NamedTuple):
    """A dealt chunk this daemon is through with, wholly or but for ``rest`` (a smaller chunk).

    ``messages`` is how many it had in the window; ``back`` are entries nobody here got.
    """

    pos: int
    messages: int
    rest: bytes
    back: list[bytes]


class Report(NamedTuple):
    """What is said in a confirm or leave: positions, changed slots, dealt chunks."""

    epoch: int
    pos: int
    bpos: int
    look: bool
    slots: list[tuple[int, int]]
    settled: list[Settled]


class Port(Protocol):
    """What a feed asks of the outside. Each call is answered by one call back, in any later turn."""

    def subscribe(self, feed: Feed) -> None:
        """Listen to both channels; then `Feed.subscribed`, and again after every reconnect."""

    def unsubscribe(self, feed: Feed) -> None:
        """Stop listening; no answer."""

    def join(self, feed: Feed, again: bool, slots: list[tuple[int, int]]) -> None:
        """``join.lua``; then `Feed.joined`."""

    def window(self, feed: Feed, dealt: bool, after: int) -> None:
        """``window.lua``; then `Feed.window_read`."""

    def confirm(self, feed: Feed, report: Report) -> None:
        """``confirm.lua``; then `Feed.confirmed`."""

    def leave(self, feed: Feed, report: Report) -> None:
        """``leave.lua`` until it is done; then `Feed.left`."""


class _Slot:
    """A consumer's place in the turn; ``used`` is the room that dealt messages hold.

    ``behind``: it was handed broadcast messages that are not all with the kernel.
    """

    __slots__ = ("behind", "consumer", "had_chunks", "number", "told", "used", "waiting")

    def __init__(self, number: int, consumer: Consumer, had_chunks: int) -> None:
        self.number = number
        self.consumer = consumer
        self.had_chunks = had_chunks
        self.used = 0
        self.told = self.behind = False
        self.waiting: deque[tuple[_Dealt, int]] = deque()


class _Dealt:
    """A dealt chunk in hand: which entries are not with a kernel yet, which go back."""

    __slots__ = ("back", "chunk", "dirty", "entries", "messages", "numbers", "open", "pos")

    def __init__(self, chunk: bytes, head: ChunkHead) -> None:
        self.chunk = chunk
        self.pos = head.pos
        self.messages = head.messages
        self.entries = chunk_entries(chunk)
        self.numbers = chunk_numbers(chunk)
        self.open = set(range(head.messages))
        self.back: list[bytes] = []
        self.dirty = False

    def settle(self) -> Settled:
        """Say what is done of it since the last time."""
        kept = sorted(self.open)
        rest = b""
        if kept:
            rest = smaller_chunk(
                self.chunk, [self.entries[i] for i in kept], [self.numbers[i] for i in kept]
            )
        settled = Settled(self.pos, self.messages, rest, self.back)
        self.messages, self.back, self.dirty = len(kept), [], False
        return settled


def cost(entry: bytes) -> int:
    """The room an entry takes up: as ``take_turns`` in common.lua counts it."""
    return 1 + len(entry) // 1024


class Feed:
    """The consumers of one queue on this daemon, and where they are in its stream."""

    def __init__(self, queue: str, port: Port) -> None:
        """A feed without consumers asks for nothing."""
        self.queue = queue
        self.missed = 0
        self._port = port
        self._slots: dict[Consumer, _Slot] = {}
        self._by_number: dict[int, _Slot] = {}
        self._numbers = itertools.count(1)
        self._busy = False
        self._subscribed = False
        self._joined = False
        self._registered = False
        self._reset(0)
        self._gone_slots: list[int] = []
        self._gained: dict[int, int] = {}
        self._renew = self._again = False

    def _reset(self, epoch: int) -> None:
        """Another life of the store: nothing that was known of positions holds."""
        self.epoch = epoch
        self.pos = self.bpos = self.dealt_pos = 0
        self._confirmed_pos = 0
        self._safe_pos = self._safe_bpos = 0
        self._last_id = 0
        self._recent: deque[tuple[int, int, Sequence[int]]] = deque()
        self._chunks = 0
        for slot in self._slots.values():
            slot.had_chunks, slot.behind = 0, False
        self._seen = {False: 0, True: 0}
        self._missing = {False: False, True: False}
        self._dealt: deque[_Dealt] = deque()
        self._unanswered: list[Settled] = []

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
        slot = _Slot(next(self._numbers), consumer, self._chunks)
        self._slots[consumer] = self._by_number[slot.number] = slot
        if len(self._slots) == 1 and not self._subscribed:
            self._port.subscribe(self)
        self._step()

    def detach(self, consumer: Consumer) -> None:
        """The consumer is gone; what it had in hand of dealt messages goes back."""
        slot = self._slots.pop(consumer, None)
        if slot is None:
            return
        del self._by_number[slot.number]
        self._gained.pop(slot.number, None)
        if slot.told:
            self._gone_slots.append(slot.number)
        for dealt, index in slot.waiting:
            self._give_back(dealt, index)
        self._hand_on()
        self._step()

    def _hand_on(self) -> None:
        """If those who had the last messages in hand are all gone, let the others have them.

        They are still in the window; each consumer gets those it has not had.
        """
        if self._slots and self._safe_pos < self.pos:
            if not any(slot.behind for slot in self._slots.values()):
                self.pos, self.bpos = self._safe_pos, self._safe_bpos
                self._missing[False] = True

    def drained(self, consumer: Consumer) -> None:
        """All that the consumer had in hand is with the kernel now."""
        slot = self._slots.get(consumer)
        if slot is None:
            return
        for dealt, index in slot.waiting:
            self._done(slot, dealt, index)
        slot.waiting.clear()
        if slot.behind:
            slot.behind = False
            self._safe()
        self._step()

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
        self._step()

    def _take_position(self, reply: Joined) -> None:
        if reply.epoch != self.epoch:
            if self.epoch:
                self.missed += 1
            seen = self._seen  # what was published since may have come before this reply
            self._reset(reply.epoch)
            self._seen = seen
        self._gone_slots.clear()
        self._gained.clear()
        if not reply.known:
            self._forgotten(reply)
        if reply.pos > self.pos:
            if self.pos:  # we were forgotten, and the others went on
                self.missed += reply.pos - self.pos
            self.pos, self.bpos = reply.pos, reply.bpos
        if reply.pos > self._safe_pos:
            self._safe_pos, self._safe_bpos = reply.pos, reply.bpos
        self._confirmed_pos = reply.pos
        self._missing[False] = max(reply.last_pos, self._seen[False]) > self.pos
        self._missing[True] = max(reply.dealt_pos, self._seen[True]) > self.dealt_pos

    def _forgotten(self, reply: Joined) -> None:
        """The store took back what was dealt here, and went on without us."""
        self.dealt_pos = reply.dealt_pos
        self._dealt.clear()
        self._unanswered.clear()

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
        for chunk in reply.chunks:
            head = chunk_head(chunk)
            if head.pos <= self._at(dealt):
                continue
            if not dealt and head.prev > self.pos:
                self.missed += head.prev - self.pos
            self._deliver(chunk, head)
        self._missing[dealt] = reply.more
        if not reply.more and self._seen[dealt] > self._at(dealt):
            # It came by while we read, or it is no longer kept: ask what the store knows of us.
            self._seen[dealt] = 0
            self._joined = False

    def confirmed(self, result: int) -> None:
        """0: the store does not know us; 2: call again."""
        self._busy = False
        self._unanswered.clear()
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

    def received(self, data: bytes) -> None:
        """Something came on a channel: a chunk, or the mark that the queue was purged."""
        if data == b"P":
            for consumer in list(self._slots):
                consumer.end()
            return
        if not self._slots:
            return
        head = chunk_head(data)
        at = self._at(head.dealt)
        if not self._joined or head.epoch != self.epoch:
            self._seen[head.dealt] = max(self._seen[head.dealt], head.pos)
            if self._joined:
                self._joined = False
                self._step()
        elif head.pos > at:
            if head.prev != at or self._missing[head.dealt]:
                self._seen[head.dealt] = max(self._seen[head.dealt], head.pos)
                self._missing[head.dealt] = True
            else:
                self._deliver(data, head)
            self._step()

    # ---- handing over

    def _at(self, dealt: bool) -> int:
        return self.dealt_pos if dealt else self.pos

    def _deliver(self, chunk: bytes, head: ChunkHead) -> None:
        if head.dealt:
            self.dealt_pos = head.pos
            self._deal(_Dealt(chunk, head))
        elif self._slots:
            self.pos, self.bpos = head.pos, head.bpos
            self._broadcast(chunk_entries(chunk))

    def _broadcast(self, entries: list[bytes]) -> None:
        messages = [decode_entry(self.queue, entry) for entry in entries]
        batch = Batch(messages, sum(map(len, entries)))
        returned = messages[0].id <= self._last_id
        with_a_kernel = False
        for slot in list(self._slots.values()):
            part = batch
            if returned:
                new = self._not_had(slot, messages)
                if not new:
                    with_a_kernel |= not slot.behind
                    continue
                part = Batch(new, batch.size)
            slot.behind = not slot.consumer.deliver(part)
            with_a_kernel |= not slot.behind
        self._remember(messages)
        if with_a_kernel:
            self._safe()

    def _remember(self, messages: list[Message]) -> None:
        """Keep the ids of as many messages as can come back: what a window holds at most."""
        self._chunks += 1
        self._last_id = max(self._last_id, messages[-1].id)
        first, last = messages[0].id, messages[-1].id
        ids: Sequence[int] = range(first, last + 1)
        if len(ids) != len(messages):
            ids = [message.id for message in messages]
        self._recent.append((self._chunks, self.pos, ids))
        while self._recent[0][1] < self.pos - WINDOW:
            self._recent.popleft()

    def _not_had(self, slot: _Slot, messages: list[Message]) -> list[Message]:
        """Those of the messages that neither this consumer was handed nor, before its time, another."""
        had: set[int] = set()
        for chunk, pos, ids in self._recent:
            if chunk > slot.had_chunks or pos <= self._safe_pos:
                had.update(ids)
        return [message for message in messages if message.id not in had]

    def _safe(self) -> None:
        """One consumer has all that was handed over so far."""
        self._safe_pos, self._safe_bpos = self.pos, self.bpos

    def _deal(self, dealt: _Dealt) -> None:
        self._dealt.append(dealt)
        parts: dict[int, list[int]] = {}
        for index, number in enumerate(dealt.numbers):
            parts.setdefault(number, []).append(index)
        for number, indexes in parts.items():
            slot = self._by_number.get(number)
            if slot is None:
                for index in indexes:
                    self._give_back(dealt, index)
            else:
                self._deal_part(slot, dealt, indexes)

    def _deal_part(self, slot: _Slot, dealt: _Dealt, indexes: Sequence[int]) -> None:
        entries = [dealt.entries[i] for i in indexes]
        slot.used += sum(map(cost, entries))
        messages: list[Message] = [decode_entry(self.queue, entry) for entry in entries]
        slot.waiting.extend((dealt, i) for i in indexes)
        if slot.consumer.deliver(Batch(messages, sum(map(len, entries)), dealt=True)):
            for waited, index in slot.waiting:
                self._done(slot, waited, index)
            slot.waiting.clear()

    def _done(self, slot: _Slot, dealt: _Dealt, index: int) -> None:
        units = cost(dealt.entries[index])
        slot.used -= units
        if slot.told:
            self._gained[slot.number] = self._gained.get(slot.number, 0) + units
        dealt.open.discard(index)
        dealt.dirty = True

    def _give_back(self, dealt: _Dealt, index: int) -> None:
        dealt.back.append(dealt.entries[index])
        dealt.open.discard(index)
        dealt.dirty = True

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
            for slot in self._slots.values():
                slot.told = True
            slots = [(slot.number, ROOM - slot.used) for slot in self._slots.values()]
            again, self._registered = self._registered, True
            self._port.join(self, again, slots)
        elif self._missing[False]:
            self._busy = True
            self._port.window(self, False, self.pos)
        elif self._missing[True]:
            self._busy = True
            self._port.window(self, True, self.dealt_pos)
        elif self._something_to_confirm():
            self._busy = True
            self._port.confirm(self, self._report())

    def _something_to_confirm(self) -> bool:
        return (
            self._safe_pos > self._confirmed_pos
            or self._renew
            or self._again
            or bool(self._gone_slots or self._gained or self._unanswered)
            or any(not slot.told for slot in self._slots.values())
            or any(dealt.dirty for dealt in self._dealt)
        )

    def _report(self) -> Report:
        """All that changed since the last one.

        If the reply is lost, the join that follows sets positions and slots anew; what was said
        of dealt chunks is said again (`settle` in common.lua does it once).
        """
        slots = [(number, -1) for number in self._gone_slots]
        for slot in self._slots.values():
            if not slot.told:
                slot.told = True
                slots.append((slot.number, ROOM - slot.used))
        slots.extend(self._gained.items())
        self._gone_slots, self._gained = [], {}
        self._unanswered.extend([dealt.settle() for dealt in self._dealt if dealt.dirty])
        self._dealt = deque(dealt for dealt in self._dealt if dealt.messages)
        look, self._renew, self._again = self._renew, False, False
        self._confirmed_pos = self._safe_pos
        return Report(
            self.epoch, self._safe_pos, self._safe_bpos, look, slots, list(self._unanswered)
        )
