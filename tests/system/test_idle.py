"""A daemon with nothing to do costs next to nothing, with 1,000 consumers waiting, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import StartDaemon
from tests.support import Daemon, ValkeyServer, wait_until
from tests.system.clients import Client, Comet
from tests.system.processes import cpu_seconds, memory

QUEUE = "idle"
CONSUMERS = 1000
BYTES_EACH = 16 * 1024


@pytest.fixture
def broker(daemon: StartDaemon, valkey: ValkeyServer) -> Daemon:
    started = daemon("--redis-url", valkey.url)
    started.wait_for("/readyz")
    return started


@contextmanager
def idle_consumers(broker: Daemon, count: int) -> Iterator[list[Comet]]:
    """So many consumers, all accepted: each was sent the head of its response."""
    comets: list[Comet] = []
    try:
        comets.extend(Comet(broker.port, QUEUE, query="?flush=1") for _ in range(count))
        for comet in comets:
            while not comet.head:
                comet.read()
        yield comets
    finally:
        for comet in comets:
            comet.close()


def test_1000_idle_consumers_cost_little_memory_and_no_time(broker: Daemon) -> None:
    """A thousand browsers wait for news: at most 16 KiB each, and the processor rests."""
    with idle_consumers(broker, 10), Client(broker.port) as client:
        before = memory(broker.pid)
        with idle_consumers(broker, CONSUMERS) as comets:
            each = (memory(broker.pid) - before) / CONSUMERS
            print(f"{each:.0f} bytes each")
            assert each <= BYTES_EACH

            begin, used = time.monotonic(), cpu_seconds(broker.pid)
            wait_until(lambda: time.monotonic() > begin + 6, "six seconds, with a renewal")
            share = (cpu_seconds(broker.pid) - used) / (time.monotonic() - begin)
            print(f"{100 * share:.2f} % of a processor")
            assert share <= 0.05

            client.add(QUEUE, b"news")
            for comet in comets:
                while not comet.lines:
                    assert comet.read()
                assert comet.bodies == [b"news"]
