"""Fan-out load: messages published on some connections, counted on many streams.

One process, one epoll loop, raw sockets. It serves any stream that carries each message as plain
bytes: COMET lines, chunked HTTP, events, WebSocket frames without compression.

Every message bears ``MARK`` and its number. On most consumers only marks are counted, which costs
about two microseconds for a read of sixty messages. On a sample of them (on all, where there are
few deliveries) what arrived is kept and read afterwards: each number must be there once, and each
one's latency is the time from its being sent to the read that brought it.

The clock runs from the first message sent to the last one that arrived. Before it starts, probes
are published until every consumer has had one; afterwards the loop listens on for a moment, to see
what comes twice.

Sleepers read the probes and then nothing until all is over. Then they must have had each message,
or have been told in ``"missed": N`` that so many were dropped.
"""

from __future__ import annotations

import gc
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench.figures import Figures, percentile
from bench.request_load import figures_in
from bench.responses import request, response
from bench.streams import Stream

MARK = b"@@@@@@@@"
"""One byte over and over, so that a cut one shows at the very end of a read; long, because the
search steps by its length: 8 bytes cost a third of what one costs."""
PROBE = b"probe^"
READ_BYTES = 262144
SAMPLED = 16
KEPT_BYTES = 400_000_000
"""What the sample may keep; with large messages it is smaller."""
FEW_DELIVERIES = 300_000
QUIET_SECONDS = 0.3
PATIENCE_SECONDS = 10.0
CONNECT_SECONDS = 60.0
PROBE_SECONDS = 0.25

_NUMBER = re.compile(MARK + rb"(\d+)x")
_MISSED = re.compile(rb'"missed": ?(\d+)')


class Fanout(NamedTuple):
    """Who sends what to whom, on a server on loopback.

    Consumers open the ``streams`` in turn. ``form``: a message is sent as the form field
    ``value``, else as the whole body. ``each_once``: a message goes to one of the consumers, not
    to all. ``per_second``: so many messages are sent, 0: each publisher sends the next when the
    last is answered. The first ``sleepers`` consumers read nothing while the clock runs.
    ``limit_seconds``: what has not come by then is lost.
    """

    port: int
    streams: Sequence[Stream]
    publish_path: str
    consumers: int
    publishers: int
    messages: int
    form: bool = True
    each_once: bool = False
    size: int = 100
    per_second: float = 0.0
    sleepers: int = 0
    limit_seconds: float = 180.0

    @property
    def deliveries(self) -> int:
        """How many there must be while the clock runs."""
        return self.messages * (1 if self.each_once else self.consumers - self.sleepers)

    @property
    def sampled(self) -> int:
        """On how many consumers the number of each message is read."""
        if self.each_once or self.deliveries <= FEW_DELIVERIES:
            return self.consumers
        return max(1, min(SAMPLED, KEPT_BYTES // (self.messages * self.size)))


class Tally(NamedTuple):
    """How often messages came too seldom, and how often too many."""

    lost: int
    duplicated: int


def tally(wanted: int, arrived: Counter[int]) -> Tally:
    """Of messages 0 to ``wanted`` - 1, each of which had to arrive once."""
    known = sum(1 for number in arrived if 0 <= number < wanted)
    return Tally(wanted - known, sum(arrived.values()) - known)


def numbers(data: bytes) -> list[int]:
    """The numbers of the messages in these bytes, in order."""
    return [int(found) for found in _NUMBER.findall(data)]


def told_missed(data: bytes) -> int:
    """How many messages these bytes say were dropped."""
    return sum(int(found) for found in _MISSED.findall(data))


def torn(data: bytes | bytearray, size: int) -> bytes:
    """The piece of a MARK at the end of the first ``size`` bytes; empty if it is whole or none."""
    at = size
    while at and data[at - 1] == MARK[0] and size - at < len(MARK):
        at -= 1
    return MARK[: size - at] if size - at < len(MARK) else b""


class _Consumer:
    """A stream: how many marks it had, and what it had if it is one of the sample."""

    __slots__ = ("count", "kept", "probed", "socket", "torn")

    def __init__(self, one: socket.socket, sampled: bool) -> None:
        self.socket = one
        self.count = 0
        self.probed = False
        self.torn = b""
        self.kept: list[tuple[float, bytes]] | None = [] if sampled else None

    def data(self) -> bytes:
        """All that was kept."""
        return b"".join(data for _, data in self.kept or ())


class _Publisher:
    """A kept-alive connection that sends the next message when the last is answered."""

    __slots__ = ("partial", "socket")

    def __init__(self, one: socket.socket) -> None:
        self.socket = one
        self.partial = b""


class _Load:
    def __init__(self, plan: Fanout, patience_seconds: float) -> None:
        self._plan = plan
        self._patience_seconds = patience_seconds
        self._poll = select.epoll()
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._consumers: dict[int, _Consumer] = {}
        self._publishers: dict[int, _Publisher] = {}
        self._unsent = iter(range(plan.messages))
        self._unsent_due = 0.0
        self._free: deque[_Publisher] = deque()
        self._sent_at = [0.0] * plan.messages
        self._total = self._errors = self._answered = 0
        self._probed = 0
        self._last = 0.0
        self._started = False
        self._all: list[_Consumer] = []

    def run(self) -> Figures:
        plan = self._plan
        for number in range(plan.consumers):
            self._connect_consumer(number)
        for _ in range(plan.publishers):
            one = self._connect()
            self._publishers[one.fileno()] = _Publisher(one)
        if plan.each_once:
            self._listen_for(QUIET_SECONDS)
        else:
            self._probe_all()
        sleepers = self._all[: plan.sleepers]
        for sleeper in sleepers:
            self._poll.unregister(sleeper.socket)
        self._started = True
        cpu, start = time.process_time(), time.perf_counter()
        self._unsent_due = start
        for publisher in list(self._publishers.values()):
            self._answered_last(publisher)
        self._until_all_came()
        cpu = time.process_time() - cpu
        self._listen_for(QUIET_SECONDS)
        total, seconds = self._total, self._last - start
        self._wake(sleepers)
        figures = self._figures(total, seconds, cpu)
        self._close()
        return figures

    def _wake(self, sleepers: Sequence[_Consumer]) -> None:
        """Let them read until they had or miss every message, or nothing comes any more."""
        for sleeper in sleepers:
            self._poll.register(sleeper.socket, select.EPOLLIN)
        before = -1
        while sleepers and self._total != before:
            before = self._total
            self._listen_for(QUIET_SECONDS)

    # ---- connecting

    def _connect(self) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self._plan.port), timeout=10)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll.register(one, select.EPOLLIN)
        return one

    def _connect_consumer(self, number: int) -> None:
        plan = self._plan
        one = self._connect()
        one.sendall(plan.streams[number % len(plan.streams)].request())
        one.setblocking(False)
        step = max(1, plan.consumers // plan.sampled)
        consumer = _Consumer(one, number % step == step - 1 or number < plan.sleepers)
        self._consumers[one.fileno()] = consumer
        self._all.append(consumer)

    def _probe_all(self) -> None:
        """Publish probes until every consumer has had one, then until the last is answered."""
        publisher = next(iter(self._publishers.values()))
        deadline = time.perf_counter() + CONNECT_SECONDS
        probes = 0
        while self._probed < len(self._consumers):
            if time.perf_counter() > deadline:
                raise TimeoutError(
                    f"{self._probed} of {self._plan.consumers} consumers get messages"
                )
            if self._answered == probes:
                publisher.socket.sendall(self._request(PROBE))
                probes += 1
            self._listen_for(PROBE_SECONDS, lambda: self._probed == len(self._consumers))
        self._listen_for(PATIENCE_SECONDS, lambda: self._answered == probes)

    # ---- the loop

    def _listen_for(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        end = time.perf_counter() + seconds
        left = seconds
        while left > 0 and not enough():
            self._turn(left)
            left = end - time.perf_counter()

    def _until_all_came(self) -> None:
        """Return when enough arrived and was answered, or nothing did for too long."""
        wanted = self._plan.deliveries
        replies = self._answered + self._plan.messages
        self._last = time.perf_counter()
        limit = self._last + self._plan.limit_seconds
        while self._total < wanted or self._answered + self._errors < replies:
            self._turn(min(0.5, self._publish_due()))
            now = time.perf_counter()
            if now - self._last > self._patience_seconds or now > limit:
                return

    def _turn(self, seconds: float) -> None:
        consumers = self._consumers
        for fd, _ in self._poll.poll(seconds):
            consumer = consumers.get(fd)
            if consumer is not None:
                self._readable(fd, consumer)
            elif fd in self._publishers:
                self._answer(fd, self._publishers[fd])

    def _readable(self, fd: int, consumer: _Consumer) -> None:
        try:
            size = consumer.socket.recv_into(self._view)
        except OSError:
            size = 0
        if not size:
            self._ended(fd)
            return
        count = self._marks(consumer, size)
        if count:
            consumer.count += count
            self._total += count
            self._last = time.perf_counter()
        elif not consumer.probed and self._buffer.find(PROBE, 0, size) >= 0:
            consumer.probed = True
            self._probed += 1
        if consumer.kept is not None:
            consumer.kept.append((self._last, bytes(self._view[:size])))

    def _marks(self, consumer: _Consumer, size: int) -> int:
        """Count the marks that end in this read."""
        buffer: bytearray | bytes = self._buffer
        if consumer.torn:
            buffer = consumer.torn + self._buffer[:size]
            size = len(buffer)
            consumer.torn = b""
        if buffer[size - 1] == MARK[0]:
            consumer.torn = torn(buffer, size)
        return buffer.count(MARK, 0, size)

    def _ended(self, fd: int) -> None:
        """A stream has no end: the server broke off."""
        self._poll.unregister(fd)
        self._consumers.pop(fd).socket.close()
        self._errors += 1

    # ---- publishing

    def _request(self, text: bytes) -> bytes:
        plan = self._plan
        body = b"value=" + text if plan.form else text
        kind = "application/x-www-form-urlencoded" if plan.form else "text/plain"
        return request("POST", plan.publish_path, body, kind)

    def _publish(self, publisher: _Publisher) -> None:
        number = next(self._unsent, None)
        if number is not None:
            text = b"%b%dx" % (MARK, number)
            self._sent_at[number] = time.perf_counter()
            publisher.socket.sendall(self._request(text.ljust(self._plan.size, b"x")))

    def _answered_last(self, publisher: _Publisher) -> None:
        """It may send the next: at once, or when that is due."""
        if self._plan.per_second:
            self._free.append(publisher)
        else:
            self._publish(publisher)

    def _publish_due(self) -> float:
        """Send what is due, if a set pace is wanted; the seconds until the next is."""
        if not self._free:
            return 1.0
        left = self._unsent_due - time.perf_counter()
        if left <= 0:
            self._unsent_due += 1 / self._plan.per_second
            self._publish(self._free.popleft())
        return max(0.0, left)

    def _answer(self, fd: int, publisher: _Publisher) -> None:
        data = publisher.partial + publisher.socket.recv(65536)
        found = response(data) if data else None
        if found is not None and found.status < 300:
            publisher.partial = data[found.end :]
            self._answered += 1
            if self._started:
                self._answered_last(publisher)
        elif found is not None or len(data) == len(publisher.partial):
            self._poll.unregister(fd)
            del self._publishers[fd]
            self._errors += 1
        else:
            publisher.partial = data

    # ---- what came of it

    def _figures(self, total: int, seconds: float, cpu: float) -> Figures:
        lost, duplicated = self._tally()
        latencies = sorted(self._latencies())
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        return Figures(
            total,
            seconds,
            None if p50 is None else p50 * 1000,
            None if p99 is None else p99 * 1000,
            self._errors,
            lost,
            duplicated,
            cpu,
            self._uneven_percent(),
            self._plan.per_second > 0,
        )

    def _latencies(self) -> Iterator[float]:
        """Of every message on a sampled consumer, but for those that two reads share."""
        for consumer in self._all[self._plan.sleepers :]:
            for came_at, data in consumer.kept or ():
                for number in numbers(data):
                    if number < len(self._sent_at):
                        yield came_at - self._sent_at[number]

    def _tally(self) -> Tally:
        wanted = self._plan.messages
        arrived = [
            (one, None if one.kept is None else Counter(numbers(one.data()))) for one in self._all
        ]
        if self._plan.each_once:
            return tally(wanted, sum((found for _, found in arrived if found), Counter()))
        lost = duplicated = 0
        for number, (one, found) in enumerate(arrived):
            if found is None:
                of_one = Tally(max(0, wanted - one.count), max(0, one.count - wanted))
            else:
                of_one = tally(wanted, found)
            if number < self._plan.sleepers:  # a count that is wrong is a fault either way
                of_one = of_one._replace(lost=abs(of_one.lost - told_missed(one.data())))
            lost += of_one.lost
            duplicated += of_one.duplicated
        return Tally(lost, duplicated)

    def _uneven_percent(self) -> float:
        """How far apart the consumers' shares are, of what each should have."""
        if not self._plan.each_once:
            return 0.0
        counts = [one.count for one in self._all]
        return 100 * (max(counts) - min(counts)) * len(counts) / max(1, sum(counts))

    def _close(self) -> None:
        for consumer in self._consumers.values():
            consumer.socket.close()
        for publisher in self._publishers.values():
            publisher.socket.close()
        self._poll.close()


def fan_out(plan: Fanout, patience_seconds: float = PATIENCE_SECONDS) -> Figures:
    """Do it in this process. Raises TimeoutError when a consumer gets nothing at all.

    What has not come when nothing came for ``patience_seconds`` is lost.
    """
    return _Load(plan, patience_seconds).run()


def run(plan: Fanout) -> Figures:
    """Do it in a process of its own."""
    command = [sys.executable, "-m", "bench.fanout", json.dumps(plan)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return figures_in(finished.stdout or finished.stderr)


if __name__ == "__main__":
    gc.disable()
    plan = Fanout(*json.loads(sys.argv[1]))
    plan = plan._replace(streams=[Stream(*stream) for stream in plan.streams])
    print("FIGURES", json.dumps(fan_out(plan)._asdict()))
    sys.stdout.flush()
    os._exit(0)
