"""The rows of events: what a daemon and its store append to a log."""

from __future__ import annotations

from bench.jobs import HUNDRED, row_of, talking
from bench.rows import Run

PUBLISH = row_of("publish 100 a request", Run(talking("publish batches", "bench.a", HUNDRED, 10)))
PUBLISH_ONE = row_of("publish", Run(talking("publish", "bench.b")))
EVENT_ROWS = (PUBLISH, PUBLISH_ONE)
