"""Rows of our daemon alone: what consumers cost that get nothing, and one that does not read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench import fanout
from bench.fanout import Fanout
from bench.figures import Figures, Growth, Idle, Lot, Measurement
from bench.rows import COMET, RESTMQ, WEBSOCKET, Scale
from bench.streams import OFFER, Stream, begun
from bench.systems import System


class Alone(NamedTuple):
    """A row of our daemon alone, on a fresh one that is started with ``options``."""

    name: str
    measure: Callable[[System, Scale], Measurement]
    options: Sequence[str] = ()


# ---- consumers that get nothing


class Listeners(NamedTuple):
    """So many consumers of a kind; ``@`` in the path is the number of each."""

    kind: str
    consumers: int
    stream: Stream

    def streams(self, prefix: str = "") -> Sequence[Stream]:
        """What each of them asks for."""
        path = self.stream.path
        return [
            self.stream._replace(path=path.replace("@", f"{prefix}{number}"))
            for number in range(self.consumers)
        ]


def _idle_row(name: str, *groups: Listeners, options: Sequence[str] = ()) -> Alone:
    def measure(system: System, scale: Scale) -> Measurement:
        found = idle(system, groups, scale.idle_seconds)
        return Measurement(name, RESTMQ, 0, Figures(0, 0.0), idle=found)

    return Alone(name, measure, options)


def idle(system: System, groups: Sequence[Listeners], seconds: float) -> Idle:
    """What consumers of a fresh daemon cost while nothing is sent."""
    lots = []
    with ExitStack() as stack:
        for group in groups:
            first, _ = begun(group._replace(consumers=10).streams("first"), system.port)
            stack.enter_context(first)
        for group in groups:
            time.sleep(1.0)
            before, (cpu, _) = system.resident_bytes(), system.cpu_seconds()
            opened, took = begun(group.streams(), system.port)
            stack.enter_context(opened)
            cpu = system.cpu_seconds()[0] - cpu
            time.sleep(1.0)
            daemon, store = (
                (after - earlier) / group.consumers
                for after, earlier in zip(system.resident_bytes(), before, strict=True)
            )
            lots.append(Lot(group.kind, group.consumers, took, cpu, daemon, store))
        earlier, start = system.cpu_seconds(), time.perf_counter()
        time.sleep(seconds)
        used, elapsed = system.cpu_seconds(), time.perf_counter() - start
    daemon, store = (
        100 * (after - before) / elapsed for after, before in zip(used, earlier, strict=True)
    )
    return Idle(lots, daemon, store)


IDLE_COMET = Stream("/c/idle?flush=1")
IDLE_WEBSOCKET = Stream("/ws/idle", websocket=True)
COMPRESSED = "compressed WebSocket"
COMPRESSION = ("--websocket-compression",)

IDLE_ONE = _idle_row("idle 1000", Listeners(COMET, 1000, IDLE_COMET))
IDLE_EACH = _idle_row("idle 1000 queues", Listeners(COMET, 1000, Stream("/c/idle@?flush=1")))
IDLE_CROWD = _idle_row(
    "idle 10000",
    Listeners(COMET, 5000, IDLE_COMET),
    Listeners(WEBSOCKET, 5000, IDLE_WEBSOCKET),
)
IDLE_COMPRESSED = _idle_row(
    "idle 1000 compressed",
    Listeners(COMPRESSED, 1000, IDLE_WEBSOCKET._replace(more=OFFER)),
    options=COMPRESSION,
)


# ---- one that does not read


def _past_sleeper(name: str, sleepers: int) -> Alone:
    """99 consumers that read and so many that do not; messages of 1 KiB."""

    def measure(system: System, scale: Scale) -> Measurement:
        plan = Fanout(
            system.port,
            [Stream("/c/sleeper?slow=drop-oldest")],
            "/q/sleeper",
            99 + sleepers,
            64,
            scale.past_sleeper,
            size=1024,
            sleepers=sleepers,
            limit_seconds=600.0,
        )
        cpu, before = system.cpu_seconds(), system.resident_bytes()
        figures = fanout.run(plan)
        used, peak = system.cpu_seconds(), system.peak_bytes()
        return Measurement(
            name,
            RESTMQ,
            0,
            figures,
            used[0] - cpu[0],
            used[1] - cpu[1],
            growth=Growth(peak[0] - before[0], peak[1] - before[1]),
        )

    return Alone(name, measure)


AWAKE = _past_sleeper("99 awake", 0)
ASLEEP = _past_sleeper("99 awake, 1 asleep", 1)

ALONE: Sequence[Alone] = (IDLE_ONE, IDLE_EACH, IDLE_CROWD, IDLE_COMPRESSED, AWAKE, ASLEEP)
