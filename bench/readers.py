"""Readers of events: many polls at an even pace, many subscribers, and a few publishers, all at once.

One process, one epoll loop, raw sockets, as in ``bench.fanout``. Event ``n`` goes to the topic of group
``n % published``; every reader is of one group and must get all events of that group and no others,
each once: they bear their number, and every number that a reader got is counted.

A poll is due each second, on each poller's own connection, all pollers evenly spread over the second.
Its latency is from its being sent (or from when it was due, where the reply before it was not there
yet) to the last byte of its reply.
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
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.fanout import Tally, tally
from bench.figures import Figures, percentile
from bench.request_load import figures_in
from bench.responses import request, response
from bench.streams import AT_ONCE

PATTERNS = (
    "readers.g{}.*",
    "readers.g{}.**",
    "*.g{}.*",
    "**.g{}.**",
    "readers.**.g{}.*",
)
EXACT = ("readers.g{}.done",)
POLLS = (
    "/v1/events?topic=readers.g{}.*&cursor=@",
    "/e/readers/g{}/done?last-known-id=@",
    "/v1/events?topic=readers.g{}.done&cursor=@",
    "/e/readers/g{}?events=all&last-known-id=@",
)
SIZE = 100
"""Bytes of an event."""
PATIENCE_SECONDS = 10.0
QUIET_SECONDS = 0.3
CONNECT_SECONDS = 120.0

_NUMBER = re.compile(rb'\{"n":(\d+),')
_LONGEST = 20
"""No number is longer, with what stands round it."""
_BEGUN = re.compile(rb"id: (\d+-\d+)\n\n")
_CURSOR = re.compile(rb'"cursor":"(\d+-\d+)","more"')
_ID = re.compile(rb'\{"id":(\d+),')


class Readers(NamedTuple):
    """Who reads, and what is published meanwhile, on a server on loopback.

    Reader ``i`` is of group ``i % groups``; events go to the first ``published`` of them.
    ``wildcards``: subscribers name patterns, else their topic. ``per_second``: so many events are
    published, and each that cannot be, since all publishers wait, is an error; 0: each publisher
    sends the next when the last is answered.
    """

    port: int
    subscribers: int
    pollers: int = 0
    groups: int = 1
    published: int = 1
    seconds: float = 10.0
    per_second: float = 0.0
    publishers: int = 8
    wildcards: bool = True


def wrong(group: int, published: int, total: int, arrived: Iterable[int]) -> Tally:
    """What a reader of this group lost of ``total`` events, and what it got that was too much."""
    wanted = len(range(group, total, published)) if group < published else 0
    places = Counter(n // published if n % published == group else -1 for n in arrived)
    return tally(wanted, places)


def _response(one: _Poller | _Publisher, data: bytes) -> tuple[bytes, int] | None:
    """The bytes of the response that these complete, and its status; None: more must come."""
    data = one.partial + data
    found = response(data)
    one.partial = data if found is None else b""
    return None if found is None else (data, found.status)


class _Subscriber:
    """A stream of server-sent events, and the numbers it brought."""

    __slots__ = ("group", "numbers", "rest", "socket")

    def __init__(self, one: socket.socket, group: int) -> None:
        self.socket = one
        self.group = group
        self.rest = b""
        self.numbers: list[int] = []

    def read(self, data: bytes) -> None:
        data = self.rest + data
        end = 0
        for found in _NUMBER.finditer(data):
            self.numbers.append(int(found[1]))
            end = found.end()
        self.rest = data[max(end, len(data) - _LONGEST) :]


class _Poller:
    """A kept-alive connection that asks from its cursor on; ``since`` 0: no reply is awaited."""

    __slots__ = ("_ask", "_rse", "cursor", "group", "numbers", "owed", "partial", "since", "socket")

    def __init__(self, one: socket.socket, number: int, group: int, poll: str, cursor: str) -> None:
        path = poll.format(group)
        self._rse = path.startswith("/e/")
        agent = f"User-Agent: readers uuid/00000000-0000-4000-9000-{number:012}\r\n"
        self._ask = request("GET", path, more=agent).split(b"@")
        self.socket = one
        self.group = group
        self.cursor = cursor.partition("-")[2].encode() if self._rse else cursor.encode()
        self.numbers: list[int] = []
        self.partial = b""
        self.since = 0.0
        self.owed = 0.0

    def ask(self, since: float) -> None:
        self.since = since
        self.socket.sendall(self.cursor.join(self._ask))

    def answer(self, data: bytes) -> int:
        """Take a reply; how many events it had. The cursor is as each protocol's clients know it."""
        found = [int(number) for number in _NUMBER.findall(data)]
        self.numbers += found
        places = (_ID if self._rse else _CURSOR).findall(data)
        if places:
            self.cursor = places[-1]
        return len(found)


class _Publisher:
    __slots__ = ("busy", "partial", "socket")

    def __init__(self, one: socket.socket) -> None:
        self.socket = one
        self.partial = b""
        self.busy = False


class Load:
    """The whole load: ``connect``, then ``run``."""

    def __init__(self, plan: Readers, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """What has not come ``patience_seconds`` after the last was published is lost."""
        self._plan = plan
        self._patience_seconds = patience_seconds
        self._poll = select.epoll()
        self._sockets: list[socket.socket] = []
        self._subscribers: dict[int, _Subscriber] = {}
        self._pollers: dict[int, _Poller] = {}
        self._publishers: dict[int, _Publisher] = {}
        self._in_turn: deque[_Poller] = deque()
        self._readers: list[_Subscriber | _Poller] = []
        self._free: deque[_Publisher] = deque()
        self._latencies: list[float] = []
        self._begun = ""
        self._sent = self._published = self._polled = self._errors = 0
        self._polling = False
        self._due = self._next_poll = 0.0
        self._more: list[_Poller] = []

    # ---- connecting

    def connect(self) -> None:
        """Open all connections; each subscriber is there when it was told where it begins.

        Raises ValueError when one is refused.
        """
        try:
            self._connect_all()
        except BaseException:
            self._close()
            raise

    def _connect_all(self) -> None:
        plan = self._plan
        for first in range(0, plan.subscribers, AT_ONCE):
            self._subscribe(range(first, min(first + AT_ONCE, plan.subscribers)))
        for number in range(plan.pollers):
            one = self._connected()
            poll = POLLS[number // plan.groups % len(POLLS)]
            poller = _Poller(one, number, number % plan.groups, poll, self._begun)
            self._pollers[one.fileno()] = poller
            self._in_turn.append(poller)
            self._readers.append(poller)
        for _ in range(plan.publishers):
            one = self._connected()
            self._publishers[one.fileno()] = _Publisher(one)
        self._free.extend(self._publishers.values())

    def _connected(self) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self._plan.port), timeout=CONNECT_SECONDS)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll.register(one, select.EPOLLIN)
        self._sockets.append(one)
        return one

    def _subscribe(self, numbers: Iterable[int]) -> None:
        plan, patterns = self._plan, PATTERNS if self._plan.wildcards else EXACT
        some = []
        for number in numbers:
            one, group = self._connected(), number % plan.groups
            pattern = patterns[number // plan.groups % len(patterns)].format(group)
            path = f"/v1/stream?topic={pattern}"
            one.sendall(request("GET", path, more="Accept: text/event-stream\r\n"))
            some.append((_Subscriber(one, group), path))
        for subscriber, path in some:
            head = b""
            while (found := _BEGUN.search(head)) is None:
                data = subscriber.socket.recv(4096)
                head += data
                if not data or not head.startswith(b"HTTP/1.1 200 "[: len(head)]):
                    raise ValueError(f"{path} is refused: {head!r}")
            self._begun = self._begun or found[1].decode()
            self._subscribers[subscriber.socket.fileno()] = subscriber
            self._readers.append(subscriber)

    # ---- the loop

    def run(self) -> Figures:
        """Publish and poll for as long as the plan says, then count what everybody got."""
        cpu, start = time.process_time(), time.perf_counter()
        end = start + self._plan.seconds
        self._due = self._next_poll = start
        self._polling = True
        while (now := time.perf_counter()) < end:
            self._turn(max(0.0, min(end - now, self._send_due(now))))
        seconds, published, polled = now - start, self._published, self._polled
        self._polling = False
        planned = int(self._plan.per_second * self._plan.seconds)
        self._errors += max(0, planned - self._sent - self._plan.publishers)
        cpu = time.process_time() - cpu
        self._listen(lambda: not self._busy)
        self._listen(lambda: all(self._has_all(one) for one in self._subscribers.values()))
        self._last_polls()
        self._listen(lambda: False, QUIET_SECONDS)
        self._close()
        return self._figures(polled if self._pollers else published, seconds, cpu)

    @property
    def _busy(self) -> bool:
        return any(one.busy for one in self._publishers.values()) or any(
            one.since for one in self._pollers.values()
        )

    def _has_all(self, one: _Subscriber) -> bool:
        published = self._plan.published
        wanted = range(one.group, self._sent, published) if one.group < published else ()
        return len(one.numbers) >= len(wanted)

    def _listen(self, enough: Callable[[], bool], seconds: float = 0.0) -> None:
        end = time.perf_counter() + (seconds or self._patience_seconds)
        while not enough() and (left := end - time.perf_counter()) > 0:
            self._turn(min(left, 0.05))

    def _last_polls(self) -> None:
        """Each poller asks once more, and again while something comes."""
        asking = [one for one in self._pollers.values() if not one.since]
        while asking:
            self._more = []
            for poller in asking:
                poller.ask(time.perf_counter())
            self._listen(lambda: not self._busy)
            asking = self._more

    def _turn(self, seconds: float) -> None:
        for fd, _ in self._poll.poll(seconds):
            try:
                data = os.read(fd, 262144)
            except OSError:
                data = b""
            if not data:
                self._ended(fd)
            elif fd in self._subscribers:
                self._subscribers[fd].read(data)
            elif fd in self._pollers:
                self._poll_answered(self._pollers[fd], data)
            else:
                self._publish_answered(self._publishers[fd], data)

    def _ended(self, fd: int) -> None:
        """The server broke off: nothing here has an end."""
        self._poll.unregister(fd)
        self._errors += 1
        self._subscribers.pop(fd, None)
        publisher = self._publishers.pop(fd, None)
        if publisher is not None and not publisher.busy:
            self._free.remove(publisher)
        poller = self._pollers.pop(fd, None)
        if poller is not None:
            self._in_turn.remove(poller)

    def _send_due(self, now: float) -> float:
        """Send what is due; the seconds until something is."""
        waits = [1.0]
        plan = self._plan
        if plan.per_second:
            while self._free and self._due <= now:
                self._due += 1 / plan.per_second
                self._publish(self._free.popleft())
            if self._free:
                waits.append(self._due - now)
        else:
            while self._free:
                self._publish(self._free.popleft())
        if self._in_turn:
            while self._next_poll <= now:
                self._poll_due(self._next_poll)
            waits.append(self._next_poll - now)
        return min(waits)

    # ---- polling

    def _poll_due(self, due: float) -> None:
        """It is the next poller's turn; who still waits for a reply asks when that has come."""
        poller = self._in_turn[0]
        self._in_turn.rotate(-1)
        self._next_poll += 1 / len(self._in_turn)
        if poller.since:
            poller.owed = poller.owed or due
        else:
            poller.ask(time.perf_counter())

    def _poll_answered(self, poller: _Poller, data: bytes) -> None:
        found = _response(poller, data)
        if found is None:
            return
        data, status = found
        came = poller.answer(data)
        self._errors += status not in (200, 204)
        if self._polling:
            self._polled += 1
            self._latencies.append(time.perf_counter() - poller.since)
        elif came:
            self._more.append(poller)
        poller.since = 0.0
        if poller.owed and self._polling:
            poller.ask(poller.owed)
        poller.owed = 0.0

    # ---- publishing

    def _publish(self, publisher: _Publisher) -> None:
        number = self._sent
        self._sent += 1
        body = b'{"n":%d,"x":"' % number
        body = body.ljust(SIZE - 2, b"x") + b'"}'
        path = f"/v1/topics/{EXACT[0].format(number % self._plan.published)}/events"
        publisher.busy = True
        publisher.socket.sendall(request("POST", path, body, "application/json"))

    def _publish_answered(self, publisher: _Publisher, data: bytes) -> None:
        found = _response(publisher, data)
        if found is None:
            return
        _, status = found
        publisher.busy = False
        self._free.append(publisher)
        if status == 201:
            self._published += 1
        else:
            self._errors += 1

    # ---- what came of it

    def _figures(self, operations: int, seconds: float, cpu: float) -> Figures:
        plan = self._plan
        faults = [
            wrong(one.group, plan.published, self._sent, one.numbers) for one in self._readers
        ]
        self._latencies.sort()
        p50, p99 = percentile(self._latencies, 0.5), percentile(self._latencies, 0.99)
        return Figures(
            operations,
            seconds,
            None if p50 is None else p50 * 1000,
            None if p99 is None else p99 * 1000,
            self._errors,
            sum(one.lost for one in faults),
            sum(one.duplicated for one in faults),
            cpu,
            paced=plan.per_second > 0,
        )

    def _close(self) -> None:
        for one in self._sockets:
            one.close()
        self._poll.close()


class Apart:
    """The load in a process of its own: all are connected when this is made, then ``run``."""

    def __init__(self, plan: Readers) -> None:
        """Raises ValueError when the readers cannot connect."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.readers", json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "CONNECTED\n":
            self._process.communicate()
            raise ValueError("the readers are not connected")

    def run(self) -> Figures:
        """Do it."""
        output, _ = self._process.communicate("run\n")
        return figures_in(output)


if __name__ == "__main__":
    gc.disable()
    load = Load(Readers(*json.loads(sys.argv[1])))
    load.connect()
    print("CONNECTED", flush=True)
    sys.stdin.readline()
    print("FIGURES", json.dumps(load.run()._asdict()))
    sys.stdout.flush()
    os._exit(0)
