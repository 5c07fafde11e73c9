"""Workers on kept-alive connections: each says the next thing when the answer to the last has come.

One process, one epoll loop on raw sockets, the same for every peer: a worker is a generator that
yields what to send and is given the answer. ``run`` starts it in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

from bench.figures import Figures, percentile
from bench.request_load import figures_in
from bench.responses import request, response

BODY = b"x" * 100
_RECEIPT = re.compile(rb'"receipt": ?"([^"]+)"')
_FAILED = re.compile(rb'"failed": ?0\b')
JSON = "application/json"


class Talk(NamedTuple):
    """Who talks to what about what.

    ``kind`` is a key of KINDS. ``batch`` messages go in one request. With ``jobs`` it ends when so
    many are done, and ``seconds`` is the most it may take.
    """

    kind: str
    port: int
    queue: str
    seconds: float = 4.0
    jobs: int = 0
    batch: int = 1
    connections: int = 50


class Step(NamedTuple):
    """What a worker wants: to send this; so many jobs are done since its last step, so many went wrong."""

    send: bytes
    done: int = 0
    errors: int = 0


class Answer(NamedTuple):
    """A reply: HTTP's status, or 0 where there is none, and all its bytes."""

    status: int
    data: bytes


Worker = Generator[Step, Answer, None]


# ---- HTTP


def _post(path: str, body: bytes = b"", kind: str = JSON) -> bytes:
    return request("POST", path, body, kind)


def _messages(talk: Talk) -> bytes:
    """The request that puts a batch, of messages with nothing but a body."""
    one = b'{"body":"%s"}' % BODY
    body = b'{"messages":[%s]}' % b",".join([one] * talk.batch)
    return _post(f"/v1/queues/{talk.queue}/batch", body)


def _lines(talk: Talk) -> bytes:
    body = b'"%s"\n' % BODY * talk.batch
    return _post(f"/v1/queues/{talk.queue}/batch", body, "application/x-ndjson")


def _priorities(talk: Talk) -> bytes:
    messages = [b'{"body":"%s","priority":%d}' % (BODY, n * 7 % 10) for n in range(talk.batch)]
    return _post(f"/v1/queues/{talk.queue}/batch", b'{"messages":[%s]}' % b",".join(messages))


def _headed(talk: Talk) -> bytes:
    one = b'{"body":"%s","ttl":86400,"headers":{"x-customer":"4711"}}' % BODY
    body = b'{"messages":[%s]}' % b",".join([one] * talk.batch)
    return _post(f"/v1/queues/{talk.queue}/batch", body)


def _events(talk: Talk) -> bytes:
    """The request that publishes a batch to the topic that is the talk's queue."""
    one = b'{"topic":"%s","body":"%s"}' % (talk.queue.encode("ascii"), BODY)
    return _post("/v1/events", b'{"events":[%s]}' % b",".join([one] * talk.batch))


def _event(talk: Talk) -> bytes:
    return _post(f"/v1/topics/{talk.queue}/events", BODY, "text/plain")


def _publishing(ask: Callable[[Talk], bytes]) -> Callable[[Talk], Worker]:
    """Events, a request after the other."""

    def worker(talk: Talk) -> Worker:
        sent = ask(talk)
        step = Step(sent)
        while True:
            answer = yield step
            step = Step(sent, talk.batch) if answer.status == 201 else Step(sent, 0, 1)

    return worker


def _putting(ask: Callable[[Talk], bytes]) -> Callable[[Talk], Worker]:
    """Batches, one after the other."""

    def worker(talk: Talk) -> Worker:
        sent = ask(talk)
        step = Step(sent)
        while True:
            answer = yield step
            good = answer.status == 200 and _FAILED.search(answer.data)
            step = Step(sent, talk.batch) if good else Step(sent, 0, 1)

    return worker


def _put_receive_ack(talk: Talk) -> Worker:
    """One message at a time: three requests a job."""
    put = _post(f"/v1/queues/{talk.queue}/messages", BODY, "text/plain")
    receive = _post(f"/v1/queues/{talk.queue}/receive")
    yield from _rounds(put, receive, 201, 1)


def _batches(ask: Callable[[Talk], bytes]) -> Callable[[Talk], Worker]:
    """As many as a batch has: three requests for them all."""

    def worker(talk: Talk) -> Worker:
        receive = _post(f"/v1/queues/{talk.queue}/receive?limit={talk.batch}")
        yield from _rounds(ask(talk), receive, 200, talk.batch)

    return worker


def _rounds(put: bytes, receive: bytes, created: int, count: int) -> Worker:
    done = errors = 0
    while True:
        answer = yield Step(put, done, errors)
        errors = int(answer.status != created)
        left, done = count, 0
        while left and not errors:
            answer = yield Step(receive, done)
            receipts = _RECEIPT.findall(answer.data)
            if answer.status != 200 or not receipts:
                errors, done = 1, 0
                break
            answer = yield Step(_post("/v1/ack", b'{"receipts":["%s"]}' % b'","'.join(receipts)))
            good = answer.status == 200 and _FAILED.search(answer.data) is not None
            done, errors = (len(receipts), 0) if good else (0, 1)
            left -= len(receipts)


def _drain(talk: Talk) -> Worker:
    """Receive and say no, until nothing is left: fills the dead letters where one attempt is allowed."""
    receive = _post(f"/v1/queues/{talk.queue}/receive?limit={talk.batch}")
    done = 0
    while True:
        answer = yield Step(receive, done)
        receipts = _RECEIPT.findall(answer.data)
        if not receipts:
            return
        answer = yield Step(_post("/v1/nack", b'{"receipts":["%s"]}' % b'","'.join(receipts)))
        done = len(receipts)


def _limited_put(talk: Talk) -> Worker:
    """As fast as it can; a 429 is what the limit is for."""
    put = _post(f"/v1/queues/{talk.queue}/messages", BODY, "text/plain")
    step = Step(put)
    while True:
        answer = yield step
        step = Step(put, int(answer.status == 201), int(answer.status not in (201, 429)))


def _limited_receive(talk: Talk) -> Worker:
    receive = _post(f"/v1/queues/{talk.queue}/receive?limit={talk.batch}&lease=600")
    step = Step(receive)
    while True:
        answer = yield step
        taken = len(_RECEIPT.findall(answer.data))
        step = Step(receive, taken, int(answer.status not in (200, 429)))


# ---- beanstalkd


def _put_reserve_delete(talk: Talk) -> Worker:
    """Three commands a job, as its protocol.txt has them."""
    put = b"put 0 0 60 %d\r\n%s\r\n" % (len(BODY), BODY)
    done = errors = 0
    while True:
        answer = yield Step(put, done, errors)
        errors = int(not answer.data.startswith(b"INSERTED "))
        answer = yield Step(b"reserve\r\n")
        words = answer.data.split(b" ", 2)
        answer = yield Step(b"delete %s\r\n" % words[1])
        done = int(answer.data == b"DELETED\r\n")
        errors += 1 - done


KINDS: Mapping[str, Callable[[Talk], Worker]] = {
    "put batches": _putting(_messages),
    "put lines": _putting(_lines),
    "put headed": _putting(_headed),
    "put priorities": _putting(_priorities),
    "put-receive-ack": _put_receive_ack,
    "batches": _batches(_messages),
    "batches of priorities": _batches(_priorities),
    "receive-nack": _drain,
    "limited put": _limited_put,
    "limited receive": _limited_receive,
    "put-reserve-delete": _put_reserve_delete,
    "publish batches": _publishing(_events),
    "publish": _publishing(_event),
}


# ---- where an answer ends


def _http_answer(data: bytes) -> tuple[Answer, int] | None:
    found = response(data)
    return None if found is None else (Answer(found.status, data[: found.end]), found.end)


def line_answer(data: bytes) -> tuple[Answer, int] | None:
    """A line; behind ``RESERVED <id> <bytes>`` the body."""
    end = data.find(b"\r\n") + 2
    if end < 2:
        return None
    if data.startswith(b"RESERVED "):
        end += int(data[: end - 2].rsplit(b" ", 1)[1]) + 2
    return (Answer(0, data[:end]), end) if len(data) >= end else None


# ---- the loop


class _Loop:
    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._answer = line_answer if talk.kind == "put-reserve-delete" else _http_answer
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Worker]] = {}
        self._data: dict[int, bytes] = {}
        self._since: dict[int, float] = {}
        self._latencies: list[float] = []
        self._done = self._errors = 0

    def run(self) -> Figures:
        for _ in range(self._talk.connections):
            self._begin()
        start = time.perf_counter()
        for fd, (_, worker) in list(self._open.items()):
            self._since[fd] = start
            self._step(fd, next(worker))
        deadline = start + self._talk.seconds
        while self._open and time.perf_counter() < deadline and not self._enough:
            for fd, _ in self._poll.poll(0.1):
                self._readable(fd)
        seconds = time.perf_counter() - start
        for one, _ in self._open.values():
            one.close()
        self._latencies.sort()
        p50, p99 = percentile(self._latencies, 0.5), percentile(self._latencies, 0.99)
        return Figures(
            self._done,
            seconds,
            None if p50 is None else p50 * 1000,
            None if p99 is None else p99 * 1000,
            self._errors,
        )

    @property
    def _enough(self) -> bool:
        return 0 < self._talk.jobs <= self._done

    def _begin(self) -> None:
        one = socket.create_connection(("127.0.0.1", self._talk.port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[one.fileno()] = one, KINDS[self._talk.kind](self._talk)
        self._poll.register(one, select.EPOLLIN)

    def _step(self, fd: int, step: Step) -> None:
        self._errors += step.errors
        if step.done:
            now = time.perf_counter()
            self._done += step.done
            self._latencies.append(now - self._since[fd])
            self._since[fd] = now
        if not self._enough:
            self._open[fd][0].sendall(step.send)

    def _readable(self, fd: int) -> None:
        one, worker = self._open[fd]
        data = one.recv(1 << 18)
        if not data:
            self._errors += 1
            self._leave(fd)
            return
        if fd in self._data:
            data = self._data.pop(fd) + data
        found = self._answer(data)
        if found is None:
            self._data[fd] = data
            return
        try:
            self._step(fd, worker.send(found[0]))
        except StopIteration:
            self._leave(fd)

    def _leave(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._open.pop(fd)[0].close()


def talk_here(talk: Talk) -> Figures:
    """In this process."""
    return _Loop(talk).run()


def run(talk: Talk) -> Figures:
    """In a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bench.talks", json.dumps(talk)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return figures_in(finished.stdout or finished.stderr)._replace(load_cpu_seconds=cpu)


if __name__ == "__main__":
    result = talk_here(Talk(*json.loads(sys.argv[1])))
    print("FIGURES", json.dumps(result._asdict()))
    sys.stdout.flush()
    os._exit(0)
