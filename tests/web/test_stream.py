"""A stream's consumer between a fake broker and a fake way to the client."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from restmq.core.beats import Beats
from restmq.core.commands import Replay
from restmq.message import Batch, Message
from restmq.web.stream import Choices, Cursor, Stream, StreamConsumer
from restmq.web.wires import NDJSON, SSE, SSE_OF_MANY


class Broker:
    """Notes who is drained, and how to answer the one who asks for the past."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.beats = Beats(self.clock)
        self.drained_queues: list[str] = []
        self.answer: Callable[[Replay], None]
        self.asked: list[Cursor] = []

    def attach(self, queue: str, consumer: Any, transport: str) -> None:
        pass

    def replay(self, queue: str, consumer: Any, cursor: Any, answer: Any) -> None:
        self.answer = answer
        self.asked.append(cursor)

    def drained(self, queue: str, consumer: Any) -> None:
        self.drained_queues.append(queue)


class OpenWay:
    """The kernel takes all."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def when_drained(self, callback: Callable[[], None]) -> None:
        raise AssertionError("nothing waits")

    def finish(self) -> None:
        pass


class FullWay:
    """The kernel takes nothing until the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def send(self, data: bytes) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass

    def when_drained(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def finish(self) -> None:
        pass


def test_the_end_of_the_past_does_not_make_dealt_messages_done() -> None:
    """They still wait for the kernel: a crash now must not lose them."""
    broker, way = Broker(), FullWay()
    stream = Stream(broker.beats, way, NDJSON[True], Choices())
    stream.open(broker, {"q": Cursor(7, 5)})
    (consumer,) = stream.consumers
    assert not consumer.deliver(Batch([Message("q", 9, b"dealt")], 5, dealt_pos=1, epoch=7))
    broker.answer(Replay(7, 5, 0, 0, 9, []))
    assert broker.drained_queues == []
    assert consumer.clogged
    (drained,) = way.waiting
    drained()
    assert broker.drained_queues == ["q"]


def chunk(epoch: int, base: int, *ids: int) -> bytes:
    """Broadcast messages."""
    entries = [struct.pack(">Q", n)[1:] + bytes(12) + b"\0body" for n in ids]
    head = b"b" + b"".join(struct.pack(">Q", number)[1:] for number in (epoch, 0, len(ids), 0))
    lengths = b"".join(struct.pack(">I", len(entry)) for entry in entries)
    owner = struct.pack(">Q", base)[1:] + b"-----"
    return head + struct.pack(">I", len(ids)) + owner + lengths + b"".join(entries)


def batch(base: int, *ids: int, epoch: int = 7) -> Batch:
    """The same as it comes live."""
    messages = [Message("q", n, b"body", placed=n > base) for n in ids]
    return Batch(messages, 4 * len(ids), epoch=epoch, base=base)


def told(way: OpenWay) -> list[int | dict[str, Any]]:
    """What the client of an ndjson stream was told: ids of messages, and what else there is."""
    lines = [json.loads(line) for line in re.findall(rb"\{[^\n]*\}\n", b"".join(way.sent))]
    return [line.get("id", line) for line in lines]


def came_back(cursor: Cursor, **choices: Any) -> tuple[Broker, OpenWay, StreamConsumer]:
    """A client with a cursor that asks for the past."""
    broker, way = Broker(), OpenWay()
    stream = Stream(broker.beats, way, NDJSON[True], Choices(**choices))
    stream.open(broker, {"q": cursor})
    (consumer,) = stream.consumers
    return broker, way, consumer


def test_what_comes_during_the_past_and_is_too_much_to_wait_is_read_as_the_past() -> None:
    """The broker was busier than my buffer is long, while I caught up: still I miss nothing."""
    broker, way, consumer = came_back(Cursor(7, 5), buffer=10)
    for n in range(6, 46):
        assert not consumer.deliver(batch(n - 1, n))
    broker.answer(Replay(7, 8, 0, 0, 8, [chunk(7, 0, *range(1, 9))]))
    assert broker.asked == [Cursor(7, 5), Cursor(7, 8)]
    broker.answer(Replay(7, 45, 0, 0, 45, [chunk(7, 8, *range(9, 46))]))
    assert told(way) == list(range(6, 46))
    assert broker.drained_queues == ["q"]


def test_what_waits_follows_on_the_past() -> None:
    broker, way, consumer = came_back(Cursor(7, 5), buffer=10)
    consumer.deliver(batch(5, 6, 7, 8))
    consumer.deliver(batch(8, 9))
    broker.answer(Replay(7, 7, 0, 0, 9, [chunk(7, 5, 6, 7)]))
    assert told(way) == [6, 7, 8, 9]
    assert broker.asked == [Cursor(7, 5)]


def test_what_this_daemon_lost_meanwhile_is_read_too() -> None:
    """7 and 8 went by while its channel was away; 9 came."""
    broker, way, consumer = came_back(Cursor(7, 5))
    consumer.lost(2)
    consumer.deliver(batch(8, 9))
    broker.answer(Replay(7, 6, 0, 0, 6, [chunk(7, 5, 6)]))
    broker.answer(Replay(7, 9, 8, 0, 9, [chunk(7, 8, 9)]))
    gap = {"type": "gap", "queue": "q", "oldest": 9, "next": 9, "missed": 2, "cursor": "7-8"}
    assert told(way) == [6, gap, 9]


@pytest.mark.parametrize("kept", [True, False])
def test_who_had_a_message_does_not_get_it_again_however_long_it_stays(kept: bool) -> None:
    """It returned to the queue and is pushed again, and the history begins right behind my cursor."""
    broker, way, consumer = came_back(Cursor(7, 5))
    chunks = [chunk(7, 5, 6, 7)] if kept else []
    broker.answer(Replay(7, 7 if kept else 5, 5, 0, 7, chunks))
    broker.clock.advance(3600)
    assert consumer.deliver(batch(2, 3, 4, 5))
    assert consumer.deliver(batch(5, 6, 7, 8))
    assert told(way) == ([6, 7, 8])


def test_a_message_that_comes_late_has_no_cursor() -> None:
    """It was dealt, came back, and was broadcast: I never had it. I come back to where I was."""
    broker, way = Broker(), OpenWay()
    stream = Stream(broker.beats, way, SSE[True], Choices())
    stream.open(broker, {"q": Cursor(7, 5)})
    (consumer,) = stream.consumers
    assert not consumer.deliver(batch(6, 4, 7)), "the past comes first"
    broker.answer(Replay(7, 6, 0, 0, 7, [chunk(7, 5, 2, 6)]))
    assert consumer.deliver(batch(7, 3))
    assert consumer.deliver(batch(7, 1, 8))
    blocks = re.findall(rb"(?:id: (\S+)\n)?data: \{[^\n]*\"id\":(\d+)", b"".join(way.sent))
    assert blocks == [
        (b"", b"4"),
        (b"7-6", b"6"),
        (b"7-7", b"7"),
        (b"", b"3"),
        (b"", b"1"),
        (b"7-8", b"8"),
    ]


def test_late_messages_do_not_turn_the_cursor_of_many_back() -> None:
    broker, way = Broker(), OpenWay()
    stream = Stream(broker.beats, way, SSE_OF_MANY[True], Choices())
    stream.open(broker, {"q": Cursor(7, 5), "r": Cursor(8, 1)})
    one, other = stream.consumers
    broker.answer(Replay(8, 3, 2, 0, 3, [chunk(8, 2, 3)]))
    other.deliver(batch(3, 2, epoch=8))
    assert one is not other
    assert re.findall(rb"id: (\S+)", b"".join(way.sent)) == [b"7-5,8-2", b"7-5,8-3"]


def test_dealt_messages_are_done_only_when_the_past_is_with_me_too() -> None:
    """The daemon would count what waits for the past as sent."""
    broker, way = Broker(), FullWay()
    stream = Stream(broker.beats, way, NDJSON[True], Choices())
    stream.open(broker, {"q": Cursor(7, 5)})
    (consumer,) = stream.consumers
    consumer.deliver(Batch([Message("q", 9, b"dealt")], 5, dealt_pos=1, epoch=7))
    consumer.deliver(batch(5, 6))
    (drained,) = way.waiting
    drained()
    assert broker.drained_queues == []
    broker.answer(Replay(7, 6, 5, 0, 9, [chunk(7, 5, 6)]))
    way.waiting[-1]()
    assert broker.drained_queues == ["q"]


def test_a_new_life_during_the_past_is_a_gap() -> None:
    broker, way, consumer = came_back(Cursor(7, 5))
    consumer.deliver(batch(5, 6))
    consumer.deliver(batch(0, 1000006, epoch=8))
    broker.answer(Replay(7, 6, 0, 0, 6, [chunk(7, 5, 6)]))
    broker.answer(Replay(8, 1000006, 6, 1000005, 1000006, [chunk(8, 6, 1000006)]))
    gap = {"type": "gap", "queue": "q", "oldest": 1000006, "next": 1000006, "missed": None}
    assert told(way) == [6, {**gap, "cursor": "8-6"}, 1000006]


def test_a_gap_is_not_counted_where_nobody_knows() -> None:
    """Some of the ids between were never broadcast."""
    broker, way, _ = came_back(Cursor(7, 5))
    broker.answer(Replay(7, 20, 18, 6, 20, [chunk(7, 18, 19, 20)]))
    gap = {"type": "gap", "queue": "q", "oldest": 19, "next": 19, "missed": None, "cursor": "7-18"}
    assert told(way) == [gap, 19, 20]


class LeasingBroker(Broker):
    """Knows when what is in hand is due, and notes when it is asked to give back."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[float] = []
        self.looked: list[float] = []

    def give_back(self, queue: str, consumer: Any, now: float) -> float | None:
        self.looked.append(now)
        self.due = [due for due in self.due if due > now]
        return min(self.due, default=None)


def test_a_lease_that_was_extended_does_not_prolong_those_that_come_after_it() -> None:
    """I asked for an hour for one hard job; the next one, which I lost, must not wait so long."""
    broker = LeasingBroker()
    stream = Stream(broker.clock, OpenWay(), NDJSON[True], Choices(lease=5.0))
    stream.open(broker, {"q": None})
    (consumer,) = stream.consumers
    consumer.deliver(Batch([Message("q", 1, b"hard")], 4, dealt_pos=1, epoch=7))
    broker.due = [3600.0]
    consumer.leases_changed()
    broker.clock.advance(1)
    broker.due.append(6.0)
    consumer.deliver(Batch([Message("q", 2, b"next")], 4, dealt_pos=2, epoch=7))
    broker.clock.advance(5)
    assert broker.looked == [0.0, 6.0]
    broker.clock.advance(3594)
    assert broker.looked == [0.0, 6.0, 3600.0]
