"""Round robin on one daemon: who has which dealt messages in hand, and what became of them.

A dealt message is in the store (in a chunk of the round-robin window) until it is settled. It is
done when every byte is with the kernel of its consumer or, for a consumer that acknowledges, when
the store took the acknowledgement. What a consumer that left had in hand goes back to the queue;
where it had a lease, that is over, which counts as an attempt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from restmq.core.port import Consumer, Settled
from restmq.core.wire import ChunkHead, chunk_entries, chunk_numbers, decode_entry, entry_id
from restmq.message import Batch, Message

REPORTED = 1000
"""How many dealt chunks a confirm settles at most; the next one says the rest."""

ACKS = 1 << 31
"""The numbers of slots whose consumers acknowledge begin here, so that the scripts know them."""


class Slot:
    """A consumer's place in the turn; ``used`` is the room that dealt messages hold.

    ``waiting`` are the messages in its hand, in the order they came, and when each is due; ``extended``: some
    are not due in that order.

    ``behind``: it was handed broadcast messages that are not all with the kernel.
    """

    __slots__ = (
        "behind",
        "consumer",
        "extended",
        "had_chunks",
        "number",
        "told",
        "used",
        "waiting",
    )

    def __init__(self, number: int, consumer: Consumer, had_chunks: int) -> None:
        self.number = number
        self.consumer = consumer
        self.had_chunks = had_chunks
        self.used = 0
        self.told = self.behind = self.extended = False
        self.waiting: dict[tuple[Dealt, int], float] = {}


class Dealt:
    """A dealt chunk in hand: which entries are not done yet, by index, and what is to be said.

    ``charged``: the room that the store counts for our slots is less by these entries.
    """

    __slots__ = (
        "_places",
        "back",
        "charged",
        "done",
        "entries",
        "ids",
        "numbers",
        "open",
        "over",
        "pos",
    )

    def __init__(self, chunk: bytes, head: ChunkHead, charged: bool) -> None:
        self.charged = charged
        self.pos = head.pos
        self.entries = chunk_entries(chunk)
        self.numbers = chunk_numbers(chunk)
        self.ids = [entry_id(entry) for entry in self.entries]
        self.open = set(range(head.messages))
        self.done: list[int] = []
        self.back: list[int] = []
        self.over: list[int] = []
        self._places: dict[int, int] | None = None

    def place(self, number: int) -> int | None:
        """The index of the message with this id."""
        if self._places is None:
            self._places = {id_: index for index, id_ in enumerate(self.ids)}
        return self._places.get(number)

    @property
    def dirty(self) -> bool:
        """There is something to say of it."""
        return bool(self.done or self.back or self.over)

    def settle(self) -> Settled:
        """Say what is done of it since the last time."""
        whole = not self.open
        settled = Settled(self.pos, whole, [] if whole else self.done, self.back, tuple(self.over))
        self.done, self.back, self.over = [], [], []
        return settled

    def give_back(self, index: int) -> None:
        """Nobody here got it."""
        self.open.discard(index)
        self.back.append(self.ids[index])

    def end_lease(self, index: int) -> None:
        """Somebody got it and did not say that it is done."""
        self.open.discard(index)
        self.over.append(self.ids[index])


def cost(entry: bytes) -> int:
    """The room an entry takes up: as ``take_turns`` in common.lua counts it."""
    return 1 + len(entry) // 1024


class Hands:
    """The slots of one feed, and the dealt chunks that are in their hands."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.slots: dict[Consumer, Slot] = {}
        self._by_number: dict[int, Slot] = {}
        self._numbers = itertools.count(1)
        self._chunks: dict[int, Dealt] = {}
        self._gone: list[int] = []
        self._gained: dict[int, int] = {}
        self._unanswered: list[Settled] = []

    def forget(self) -> None:
        """The store took back what was dealt here: nothing in hand counts any more."""
        self._chunks.clear()
        self._unanswered.clear()
        for slot in self.slots.values():
            if slot.consumer.acks:
                if slot.told and slot.used:
                    self._gained[slot.number] = self._gained.get(slot.number, 0) + slot.used
                slot.used = 0
                slot.waiting.clear()

    # ---- slots

    def attach(self, consumer: Consumer, had_chunks: int) -> None:
        """A place for a consumer."""
        number = next(self._numbers) + (ACKS if consumer.acks else 0)
        slot = Slot(number, consumer, had_chunks)
        self.slots[consumer] = self._by_number[number] = slot

    def detach(self, consumer: Consumer) -> bool:
        """Its consumer is gone: what it had in hand goes back. False if it was not here."""
        slot = self.slots.pop(consumer, None)
        if slot is None:
            return False
        del self._by_number[slot.number]
        self._gained.pop(slot.number, None)
        if slot.told:
            self._gone.append(slot.number)
        for dealt, index in slot.waiting:
            if consumer.acks:
                dealt.end_lease(index)
            else:
                dealt.give_back(index)
        return True

    # ---- messages

    def deal(self, chunk: bytes, head: ChunkHead, charged: bool) -> int:
        """Hand the entries of a chunk to the consumers they are for; the last one's id."""
        dealt = self._chunks[head.pos] = Dealt(chunk, head, charged)
        parts: dict[int, list[int]] = {}
        for index, number in enumerate(dealt.numbers):
            parts.setdefault(number, []).append(index)
        for number, indexes in parts.items():
            slot = self._by_number.get(number)
            if slot is None:
                for index in indexes:
                    dealt.give_back(index)
            else:
                self._deal_part(slot, dealt, indexes, head.epoch)
        return dealt.ids[-1]

    def _deal_part(self, slot: Slot, dealt: Dealt, indexes: Sequence[int], epoch: int) -> None:
        entries = [dealt.entries[i] for i in indexes]
        slot.used += sum(map(cost, entries))
        messages: list[Message] = [decode_entry(self.queue, entry) for entry in entries]
        due = 0.0
        if slot.consumer.acks:
            due = slot.consumer.due()
            messages = [message._replace(attempt=message.attempt + 1) for message in messages]
        slot.waiting.update(dict.fromkeys([(dealt, i) for i in indexes], due))
        batch = Batch(messages, sum(map(len, entries)), dealt.pos, epoch)
        if slot.consumer.deliver(batch):
            self.drained(slot)

    def drained(self, slot: Slot) -> None:
        """All that the slot's consumer has in hand is with the kernel."""
        if slot.consumer.acks:
            return
        for dealt, index in slot.waiting:
            self._done(slot, dealt, index)
        slot.waiting.clear()

    def acknowledged(self, pairs: Iterable[tuple[int, int]]) -> None:
        """The store says that these messages, (position of the chunk, id), are out no more."""
        for slot, dealt, index in self._in_hand(pairs):
            del slot.waiting[dealt, index]
            self._done(slot, dealt, index)

    def extended(self, pairs: Iterable[tuple[int, int]], lease_ms: int) -> None:
        """These are leased so long from now; what is in nobody's hand any more is passed over."""
        slots: dict[Slot, None] = {}
        for slot, dealt, index in self._in_hand(pairs):
            if not slot.consumer.acks:
                continue
            slot.waiting[dealt, index] = slot.consumer.due(lease_ms)
            slots[slot] = None
        for slot in slots:
            slot.extended = True
            slot.consumer.leases_changed()

    def _in_hand(self, pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[Slot, Dealt, int]]:
        for pos, number in pairs:
            dealt = self._chunks.get(pos)
            index = None if dealt is None else dealt.place(number)
            if dealt is None or index is None:
                continue
            slot = self._by_number.get(dealt.numbers[index])
            if slot is not None and (dealt, index) in slot.waiting:
                yield slot, dealt, index

    def give_back(self, consumer: Consumer, now: float) -> float | None:
        """What is due by now goes back; when the next is due, None if nothing is."""
        slot = self.slots.get(consumer)
        if slot is None:
            return None
        if slot.extended:
            slot.waiting = dict(sorted(slot.waiting.items(), key=lambda item: item[1]))
        while slot.waiting:
            (dealt, index), due = next(iter(slot.waiting.items()))
            if due > now:
                return due
            del slot.waiting[dealt, index]
            self._free(slot, dealt, index)
            dealt.end_lease(index)
        slot.extended = False
        return None

    def _done(self, slot: Slot, dealt: Dealt, index: int) -> None:
        self._free(slot, dealt, index)
        dealt.open.discard(index)
        dealt.done.append(dealt.ids[index])

    def _free(self, slot: Slot, dealt: Dealt, index: int) -> None:
        units = cost(dealt.entries[index])
        slot.used -= units
        if slot.told and dealt.charged:
            self._gained[slot.number] = self._gained.get(slot.number, 0) + units

    # ---- what to say

    @property
    def something_to_say(self) -> bool:
        """A slot came, went or has room again, or a chunk is to be settled."""
        return (
            bool(self._gone or self._gained or self._unanswered)
            or any(not slot.told for slot in self.slots.values())
            or any(dealt.dirty for dealt in self._chunks.values())
        )

    def all_slots(self) -> list[tuple[int, int]]:
        """For a join, which sets all slots anew: what they hold comes back as room later."""
        self._gone, self._gained = [], {}
        for slot in self.slots.values():
            slot.told = True
            for dealt, _ in slot.waiting:
                dealt.charged = True
        return [(slot.number, slot.consumer.room - slot.used) for slot in self.slots.values()]

    def changed_slots(self) -> list[tuple[int, int]]:
        """For a confirm: the slots that came (their room), went (-1), have more room."""
        slots = [(number, -1) for number in self._gone]
        for slot in self.slots.values():
            if not slot.told:
                slot.told = True
                slots.append((slot.number, slot.consumer.room - slot.used))
        slots.extend(self._gained.items())
        self._gone, self._gained = [], {}
        return slots

    def settled(self) -> list[Settled]:
        """What is to be settled: REPORTED chunks at a time while there are consumers.

        If the reply is lost it is said again, see `answered`.
        """
        dirty = [dealt for dealt in self._chunks.values() if dealt.dirty]
        if self.slots:
            del dirty[REPORTED:]
        self._unanswered.extend([dealt.settle() for dealt in dirty])
        for dealt in dirty:
            if not dealt.open:
                del self._chunks[dealt.pos]
        return list(self._unanswered)

    def answered(self) -> None:
        """What was said has been heard."""
        self._unanswered.clear()
