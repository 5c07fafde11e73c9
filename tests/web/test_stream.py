"""A stream's consumer between a fake broker and a fake way to the client."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from restmq.core.commands import Replay
from restmq.message import Batch, Message
from restmq.web.stream import Choices, Cursor, Stream
from restmq.web.wires import NDJSON, SSE


class Broker:
    """Notes who is drained, and how to answer the one who asks for the past."""

    def __init__(self) -> None:
        self.clock = Clock()
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
    stream = Stream(broker.clock, way, NDJSON[True], Choices())
    stream.open(broker, {"q": Cursor(7, 5)})
    (consumer,) = stream.consumers
    assert not consumer.deliver(Batch([Message("q", 9, b"dealt")], 5, dealt_pos=1, epoch=7))
    broker.answer(Replay(7, 5, 0, 9, []))
    assert broker.drained_queues == []
    assert consumer.clogged
    (drained,) = way.waiting
    drained()
    assert broker.drained_queues == ["q"]


def chunk(epoch: int, first: int, count: int, first_id: int = 0) -> bytes:
    """Broadcast messages whose ids are their positions, unless told."""
    ids = range(first_id or first, (first_id or first) + count)
    entries = [struct.pack(">Q", n)[1:] + bytes(12) + b"\0body" for n in ids]
    numbers = (epoch, first - 1, first + count - 1, 0)
    head = b"b" + b"".join(struct.pack(">Q", number)[1:] for number in numbers)
    lengths = b"".join(struct.pack(">I", len(entry)) for entry in entries)
    return head + struct.pack(">I", count) + b"-" * 12 + lengths + b"".join(entries)


def test_what_comes_during_the_past_and_is_too_much_to_wait_is_read_as_the_past() -> None:
    """The broker was busier than my buffer is long, while I caught up: still I miss nothing."""
    broker, way = Broker(), OpenWay()
    stream = Stream(broker.clock, way, NDJSON[True], Choices(buffer=10))
    stream.open(broker, {"q": Cursor(7, 5)})
    (consumer,) = stream.consumers
    for n in range(6, 46):
        consumer.deliver(Batch([Message("q", n, b"body", pos=n)], 4, epoch=7))
    broker.answer(Replay(7, 8, 0, 8, [chunk(7, 1, 8)]))
    assert broker.asked == [Cursor(7, 5), Cursor(7, 8)]
    broker.answer(Replay(7, 45, 0, 45, [chunk(7, 1, 8), chunk(7, 9, 37)]))
    assert b"missed" not in b"".join(way.sent)
    ids = re.findall(rb'"id":(\d+)', b"".join(way.sent))
    assert list(map(int, ids)) == list(range(6, 46))
    assert broker.drained_queues == ["q"]


def test_a_message_that_was_pushed_twice_has_the_cursor_of_the_first_time() -> None:
    """I was cut off right after it, came back with its id, and did not miss its neighbours."""
    broker, way = Broker(), OpenWay()
    stream = Stream(broker.clock, way, SSE[True], Choices())
    stream.open(broker, {"q": Cursor(7, 5)})
    broker.answer(Replay(7, 12, 0, 9, [chunk(7, 4, 6), chunk(7, 10, 2, first_id=7)]))
    cursors = re.findall(rb"id: (\S+)\ndata: \{[^\n]*\"id\":(\d+)", b"".join(way.sent))
    assert cursors == [(b"7-%d" % n, b"%d" % n) for n in (6, 7, 8, 9)]
