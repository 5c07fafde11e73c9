"""A stream's consumer between a fake broker and a fake way to the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from restmq.core.commands import Replay
from restmq.message import Batch, Message
from restmq.web.stream import Choices, Cursor, Stream
from restmq.web.wires import NDJSON


class Broker:
    """Notes who is drained, and how to answer the one who asks for the past."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.drained_queues: list[str] = []
        self.answer: Callable[[Replay], None]

    def attach(self, queue: str, consumer: Any, transport: str) -> None:
        pass

    def replay(self, queue: str, consumer: Any, cursor: Any, answer: Any) -> None:
        self.answer = answer

    def drained(self, queue: str, consumer: Any) -> None:
        self.drained_queues.append(queue)


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
