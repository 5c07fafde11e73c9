"""The rows of events: what a daemon and its store append to a log, and what readers cost and get."""

from __future__ import annotations

from bench.alone import Alone
from bench.figures import Figures, Measurement
from bench.jobs import HUNDRED, row_of, talking
from bench.readers import Apart, Readers
from bench.rows import RESTMQ, Measure, Run, Scale
from bench.systems import System

PUBLISH_ONE = row_of("publish", Run(talking("publish", "bench.b")))


def _publishing(topic: str) -> Measure:
    """Batches of a hundred for as long as a log must stand it."""

    def measure(system: System, scale: Scale) -> Figures:
        return talking("publish batches", topic, HUNDRED, 10)(
            system, scale._replace(seconds=scale.event_seconds)
        )

    return measure


PUBLISH = row_of("publish 100 a request", Run(_publishing("bench.a")))
EVENT_ROWS = (PUBLISH, PUBLISH_ONE)


def _read(name: str, plan: Readers) -> Alone:
    """The readers' CPU counts from when all are connected."""

    def measure(system: System, scale: Scale) -> Measurement:
        load = Apart(plan._replace(port=system.port, seconds=scale.event_seconds))
        cpu = system.cpu_seconds()
        figures = load.run()
        used = system.cpu_seconds()
        return Measurement(name, RESTMQ, 0, figures, used[0] - cpu[0], used[1] - cpu[1])

    return Alone(name, measure, ("--events-open",))


MIXED = _read(
    "2000 pollers, 1000 subscribers",
    Readers(0, 1000, 2000, groups=100, published=100, per_second=200.0, publishers=32),
)
OF_ONE, OF_MANY = (
    _read(
        f"publish to 1 of {count}",
        Readers(0, count, groups=count, wildcards=False),
    )
    for count in (1, 10_000)
)
EVENTS_ALONE = (MIXED, OF_ONE, OF_MANY)
