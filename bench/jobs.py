"""The rows of work queues: puts, leases and acknowledgements beside valkey-benchmark, beanstalkd and RQ."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path

from bench import systems, talks
from bench.alone import Alone
from bench.figures import Figures, Measurement
from bench.request_load import figures_in
from bench.rows import RESTMQ, Measure, Prepare, Row, Run, Scale
from bench.systems import PipelineSystem, RqSystem, System
from bench.talks import BODY, JSON, Talk

VALKEY = "valkey-benchmark"
BEANSTALKD = "beanstalkd"
RQ = "rq"
HUNDRED = 100
LARGEST = 10_000
"""Messages in a request while a queue is filled."""
RATE = 1000


def talking(kind: str, queue: str, batch: int = 1, connections: int = 50) -> Measure:
    """For as long as the scale says."""

    def measure(system: System, scale: Scale) -> Figures:
        talk = Talk(kind, system.port, queue, scale.seconds, 0, batch, connections)
        return talks.run(talk)

    return measure


def _ask(system: System, method: str, path: str, value: object = None) -> dict[str, object]:
    """One call, with JSON both ways; fails with what came when it is no success."""
    connection = HTTPConnection("127.0.0.1", system.port, timeout=60)
    body = "" if value is None else json.dumps(value)
    connection.request(method, path, body, {"Content-Type": JSON})
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    if not 200 <= reply.status < 300:
        raise ValueError(f"{method} {path}: {reply.status} {data[:200]!r}")
    found: dict[str, object] = json.loads(data) if data else {}
    return found


def fill(system: System, queue: str, messages: int, kind: str = "put batches") -> None:
    """Put so many messages in. Raises ValueError when they are not all there."""
    batch = min(LARGEST, messages)
    talk = Talk(kind, system.port, queue, 1200.0, messages, batch, 1)
    found = talks.run(talk)
    if found.operations < messages or found.errors:
        raise ValueError(f"{queue} is not filled: {found}")


def _settings(queue: str, settings: Mapping[str, object]) -> Prepare:
    def prepare(system: System, scale: Scale) -> None:
        _ask(system, "PUT", f"/v1/queues/{queue}", settings)

    return prepare


def _deep(queue: str) -> Prepare:
    """As many messages wait already as the scale says; a later round finds them still there."""

    def prepare(system: System, scale: Scale) -> None:
        _ask(system, "PUT", f"/v1/queues/{queue}", {})
        there = _ready(system, queue)
        if there < scale.deep:
            fill(system, queue, scale.deep - there)

    return prepare


# ---- the peers


def _pipelined(system: System, scale: Scale) -> Figures:
    """The benchmark's own LPUSH, a hundred commands on the way on each of 50 connections."""
    assert isinstance(system, PipelineSystem)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    count = int(scale.seconds * 250_000)
    words = ["-p", str(system.port), "-P", "100", "-c", "50", "-n", str(count)]
    words += ["-d", str(len(BODY)), "-t", "lpush", "--csv"]
    said = subprocess.run([system.benchmark, *words], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    head, line = [row for row in csv.reader(said.stdout.splitlines()) if len(row) > 1]
    found = dict(zip(head, line, strict=True))
    return Figures(
        count,
        count / float(found["rps"]),
        float(found["p50_latency_ms"]),
        float(found["p99_latency_ms"]),
        load_cpu_seconds=after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
    )


def _rq(system: System, scale: Scale) -> Figures:
    assert isinstance(system, RqSystem)
    jobs, script = int(scale.seconds * 500), Path(__file__).with_name("rq_peer.py")
    words = [system.python, str(script), str(system.port), str(jobs), "2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Client and workers are what RQ is; there is no daemon but the store.
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return figures_in(said.stdout or said.stderr)._replace(load_cpu_seconds=cpu)


# ---- rates, dead letters


def _at_rate(kind: str, queue: str, batch: int, connections: int) -> Measure:
    """Ten seconds against a limit; ``uneven_percent`` is how far off it was."""

    def measure(system: System, scale: Scale) -> Figures:
        seconds = max(10.0, scale.seconds)
        found = talks.run(Talk(kind, system.port, queue, seconds, 0, batch, connections))
        return found._replace(uneven_percent=100 * abs(found.rate / RATE - 1))

    return measure


def _limited_receive(system: System, scale: Scale) -> None:
    _settings("rated-out", {"receive_rate": RATE})(system, scale)
    fill(system, "rated-out", 20 * RATE)


def _ready(system: System, queue: str) -> int:
    found = _ask(system, "GET", f"/v1/queues/{queue}").get("ready")
    assert isinstance(found, int)
    return found


def _await_ready(system: System, queue: str, count: int) -> bool:
    """Whether so many were ready before a minute was over."""
    deadline = time.monotonic() + 60.0
    while _ready(system, queue) < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _buried(system: System, scale: Scale) -> None:
    """Dead letters, as many as are dealt elsewhere, and nothing else. Raises ValueError."""
    _settings("buried", {"max_attempts": 1})(system, scale)
    _ask(system, "POST", "/v1/queues/buried/purge")
    fill(system, "buried", scale.dealt)
    talks.run(Talk("receive-nack", system.port, "buried", 120.0, 0, 1000, 1))
    if not _await_ready(system, "buried.dead", scale.dealt):
        raise ValueError("the dead letters did not all arrive")


def _redrive(system: System, scale: Scale) -> Figures:
    """Until all are ready in the queue they came from."""
    start = time.perf_counter()
    _ask(system, "POST", f"/v1/queues/buried.dead/redrive?limit={scale.dealt}")
    back = _await_ready(system, "buried", scale.dealt)
    seconds = time.perf_counter() - start
    return Figures(scale.dealt, seconds, lost=0 if back else scale.dealt)


# ---- memory


def _memory_row(name: str, kind: str) -> Alone:
    """What a waiting message takes of the store; the store is one that tells."""

    def measure(system: System, scale: Scale) -> Measurement:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            store, port = systems.store(Path(folder))
            options = ("--redis-url", f"redis://127.0.0.1:{port}")
            ours = systems.restmq(Path(folder), options=options)
            try:
                fill(ours, "memory", LARGEST, kind)
                before = systems.used_memory(port)
                fill(ours, "memory", scale.remembered, kind)
                each = (systems.used_memory(port) - before) / scale.remembered
            finally:
                ours.end()
                store.end()
        return Measurement(name, RESTMQ, 0, Figures(0, 0.0), bytes_each=each)

    return Alone(name, measure)


def row_of(name: str, ours: Run, peer: str = "", theirs: Measure | None = None) -> Row:
    runs = {RESTMQ: ours}
    if theirs is not None:
        runs[peer] = Run(theirs)
    return Row(name, "messages", runs, peer)


PUT_BATCHES = row_of(
    "put 100 a request", Run(talking("put batches", "put", HUNDRED, 10)), VALKEY, _pipelined
)
PUT_LINES = row_of("put 100 lines a request", Run(talking("put lines", "lines", HUNDRED, 10)))
SINGLE = Row(
    "put-receive-ack",
    "jobs",
    {
        RESTMQ: Run(talking("put-receive-ack", "single")),
        BEANSTALKD: Run(talking("put-reserve-delete", "single")),
        RQ: Run(_rq),
    },
    BEANSTALKD,
)
BATCHES = row_of("put-receive-ack by 100", Run(talking("batches", "hundreds", HUNDRED, 10)))
SINGLE_DEEP = row_of(
    "put-receive-ack, deep", Run(talking("put-receive-ack", "deep"), _deep("deep"))
)
BATCHES_DEEP = row_of(
    "put-receive-ack by 100, deep", Run(talking("batches", "deep", HUNDRED, 10), _deep("deep"))
)
PRIORITIES = row_of(
    "by 100, priorities",
    Run(
        talking("batches of priorities", "urgent", HUNDRED, 10),
        _settings("urgent", {"priorities": True}),
    ),
)
PUT_RATE = row_of(
    "put_rate 1000",
    Run(_at_rate("limited put", "rated-in", 1, 4), _settings("rated-in", {"put_rate": RATE})),
)
RECEIVE_RATE = row_of(
    "receive_rate 1000", Run(_at_rate("limited receive", "rated-out", 10, 2), _limited_receive)
)
REDRIVE = row_of("redrive", Run(_redrive, _buried))

JOB_ROWS = (
    PUT_BATCHES,
    PUT_LINES,
    SINGLE,
    BATCHES,
    PRIORITIES,
    PUT_RATE,
    RECEIVE_RATE,
    REDRIVE,
    SINGLE_DEEP,
    BATCHES_DEEP,
)

MEMORY_BARE = _memory_row("memory of a message, bare", "put batches")
MEMORY_HEADED = _memory_row("memory of a message, ttl and a header", "put headed")
JOBS_ALONE = (MEMORY_BARE, MEMORY_HEADED)
