"""Requests one after the other on many kept-alive connections: by wrk, or by a loop of our own.

``run`` starts either in a process of its own. Our own loop is there so that nothing needs to be
installed; it costs about three times wrk's CPU for the same requests.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.figures import Figures, percentile
from bench.responses import request, response

WRK_SCRIPT = Path(__file__).with_name("wrk.lua")


class Load(NamedTuple):
    """What to ask of a server on loopback.

    ``@`` in path and body is a number from 1 to ``queues``, at random. So many ``requests``, or
    with 0 as many as ``seconds`` allow; with a number, ``seconds`` is the most it may take.
    """

    port: int
    method: str
    path: str
    body: str = ""
    content_type: str = ""
    queues: int = 1
    requests: int = 0
    seconds: float = 4.0
    connections: int = 50


def run(load: Load, own: bool = False) -> Figures:
    """Do it in another process: with wrk, or if it is not there (or ``own``) with our loop."""
    wrk = None if own else shutil.which("wrk")
    command = _own_command(load) if wrk is None else _wrk_command(wrk, load)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return figures_in(finished.stdout or finished.stderr)._replace(load_cpu_seconds=cpu)


def figures_in(output: str) -> Figures:
    """Read the line a load generator ends with. Raises ValueError when it is not there."""
    for line in reversed(output.splitlines()):
        if line.startswith("FIGURES "):
            return Figures(**json.loads(line.removeprefix("FIGURES ")))
    raise ValueError(f"the load generator gave no figures: {output.strip()[-300:]!r}")


def _wrk_command(wrk: str, load: Load) -> list[str]:
    seconds = max(1, round(load.seconds))  # wrk knows whole seconds only
    options = ["-t1", f"-c{load.connections}", f"-d{seconds}", "-s", str(WRK_SCRIPT)]
    words = [load.method, load.path, str(load.queues), str(load.requests)]
    if load.body:
        words += [load.body, load.content_type]
    return [wrk, *options, f"http://127.0.0.1:{load.port}/", "--", *words]


def _own_command(load: Load) -> list[str]:
    return [sys.executable, "-m", "bench.request_load", json.dumps(load)]


# ---- our own loop


def _requests(load: Load) -> list[bytes]:
    return [
        request(
            load.method,
            load.path.replace("@", str(n)),
            load.body.replace("@", str(n)).encode("ascii"),
            load.content_type,
        )
        for n in range(1, load.queues + 1)
    ]


def _endless(requests: list[bytes]) -> Iterator[bytes]:
    chance = random.Random(1)
    while True:
        yield requests[0] if len(requests) == 1 else chance.choice(requests)


class _Loop:
    """Connections that each send a request when the reply to the last has come."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._next = _endless(_requests(load))
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._sent: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        self._to_send = load.requests or sys.maxsize
        self._latencies: list[float] = []
        self._errors = 0

    def run(self) -> Figures:
        for _ in range(self._load.connections):
            one = socket.create_connection(("127.0.0.1", self._load.port))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[one.fileno()] = one
            self._poll.register(one, select.EPOLLIN)
        start = time.perf_counter()
        for fd in list(self._sockets):
            self._send(fd)
        while self._sent and time.perf_counter() < start + self._load.seconds:
            for fd, _ in self._poll.poll(0.1):
                self._readable(fd)
        seconds = time.perf_counter() - start
        for one in self._sockets.values():
            one.close()
        self._poll.close()
        return self._figures(seconds)

    def _figures(self, seconds: float) -> Figures:
        self._latencies.sort()
        p50, p99 = percentile(self._latencies, 0.5), percentile(self._latencies, 0.99)
        return Figures(
            len(self._latencies),
            seconds,
            None if p50 is None else p50 * 1000,
            None if p99 is None else p99 * 1000,
            self._errors,
        )

    def _send(self, fd: int) -> None:
        if self._to_send > 0:
            self._to_send -= 1
            self._sent[fd] = time.perf_counter()
            self._sockets[fd].sendall(next(self._next))

    def _readable(self, fd: int) -> None:
        data = self._sockets[fd].recv(65536)
        if not data:
            self._lost(fd)
            return
        if fd in self._partial:
            data = self._partial.pop(fd) + data
        found = response(data)
        if found is None:
            self._partial[fd] = data
            return
        if 200 <= found.status < 400:
            self._latencies.append(time.perf_counter() - self._sent.pop(fd))
        else:
            self._errors += 1
            del self._sent[fd]
        self._send(fd)

    def _lost(self, fd: int) -> None:
        """The server closed: an error where a reply was due."""
        self._errors += fd in self._sent
        self._sent.pop(fd, None)
        self._poll.unregister(fd)
        self._sockets.pop(fd).close()


def make_requests(load: Load) -> Figures:
    """Our own loop, in this process."""
    return _Loop(load).run()


if __name__ == "__main__":
    result = make_requests(Load(*json.loads(sys.argv[1])))
    print("FIGURES", json.dumps(result._asdict()))
    sys.stdout.flush()
    os._exit(0)
