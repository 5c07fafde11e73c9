"""``python -m bench``: run the rows, print the table and the goals."""

from __future__ import annotations

import argparse
import json
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import systems
from bench.alone import ALONE as STREAMS_ALONE
from bench.events import EVENT_ROWS, EVENTS_ALONE
from bench.figures import Best, Measurement, best_of, judge, ratio, short, table
from bench.goals import GOALS
from bench.jobs import JOB_ROWS, JOBS_ALONE
from bench.rows import FULL, NCHAN, NCHAN_REDIS, OURS, QUICK, RESTMQ, Row, Scale
from bench.rows import ROWS as STREAM_ROWS
from bench.systems import Missing, System

ROWS = (*STREAM_ROWS, *JOB_ROWS, *EVENT_ROWS)
ALONE = (*STREAMS_ALONE, *JOBS_ALONE, *EVENTS_ALONE)
CONFIGURATIONS = {NCHAN_REDIS: NCHAN}
"""A system that is another one's process, asked in another way."""


class Options(NamedTuple):
    """What the command line says."""

    scale: Scale
    rounds: int
    only: re.Pattern[str]
    json_file: Path | None
    peers: bool
    command: Sequence[str]


def options(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute; too short to judge by")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured (2)")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name matches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every measurement as JSON")
    parser.add_argument("--seconds", type=float, help="how long each POST row posts")
    parser.add_argument("--no-peers", action="store_true", help="our daemon alone")
    parser.add_argument("--own-load", action="store_true", help="not wrk, though it is there")
    parser.add_argument("--command", default="", help="start this instead of python -m restmq")
    parser.add_argument("--install-rq", action="store_true", help="from PyPI, into bench/.peers")
    given = parser.parse_args(arguments)
    if given.install_rq:
        systems.install_rq()
    scale = QUICK if given.quick else FULL
    if given.seconds is not None:
        scale = scale._replace(seconds=given.seconds)
    return Options(
        scale._replace(own_load=given.own_load or shutil.which("wrk") is None),
        given.rounds,
        re.compile(given.only),
        given.json,
        not given.no_peers,
        shlex.split(given.command),
    )


# ---- measuring


@contextmanager
def started(
    chosen: Options, stack: ExitStack, more: Sequence[str] = ()
) -> Iterator[dict[str, System]]:
    """All systems that are installed, running at the same time; idle ones cost nothing.

    ``more`` are further options of our daemon.
    """
    running: dict[str, System] = {}
    with stack:
        starts: dict[str, Callable[[Path], System]] = {
            RESTMQ: lambda folder: systems.restmq(folder, chosen.command, more)
        }
        if chosen.peers:
            starts |= systems.STARTS
        for name, start in starts.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            try:
                running[name] = start(folder)
            except Missing as missing:
                say(f"left out: {missing}")
                continue
            stack.callback(running[name].end)
        yield running


def measure(row: Row, name: str, system: System, scale: Scale, number: int) -> Measurement:
    """One row on one system, once."""
    run = row.runs[name]
    run.prepare(system, scale)
    daemon, store = system.cpu_seconds()
    figures = run.measure(system, scale)
    daemon_after, store_after = system.cpu_seconds()
    return Measurement(row.name, name, number, figures, daemon_after - daemon, store_after - store)


def in_order(names: Sequence[str], number: int) -> Sequence[str]:
    """Alternating: every second round the other way round, so that nobody is always first."""
    return names if number % 2 else list(reversed(names))


def measure_rows(chosen: Options, number: int) -> Iterator[Measurement]:
    """One round of all rows whose systems run together."""
    wanted = [row for row in ROWS if chosen.only.search(row.name)]
    if not wanted:
        return
    with started(chosen, ExitStack()) as running:
        for row in wanted:
            for name in in_order(list(row.runs), number):
                system = running.get(CONFIGURATIONS.get(name, name))
                if system is not None:
                    yield measure(row, name, system, chosen.scale, number)


def measure_alone(chosen: Options, number: int) -> Iterator[Measurement]:
    """One round of the rows of our daemon alone, each on a fresh one."""
    for row in ALONE:
        if not chosen.only.search(row.name):
            continue
        with started(chosen._replace(peers=False), ExitStack(), row.options) as running:
            if RESTMQ in running:
                yield row.measure(running[RESTMQ], chosen.scale)._replace(round=number)


# ---- telling


def say(line: str) -> None:
    """A line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def progress(one: Measurement) -> str:
    """A line for a measurement just made."""
    if one.idle is not None:
        return f"  round {one.round}  {one.row}: {one.idle.cpu_percent:.2f} % CPU"
    if one.bytes_each is not None:
        return f"  round {one.round}  {one.row}: {one.bytes_each:.0f} bytes"
    figures = one.figures
    return f"  round {one.round}  {one.row}  {one.system}: {short(figures.rate)}/s"


HEAD = (
    "row", "system", "rate/s", "x peer", "p50 ms", "p99 ms", "daemon s", "store s", "load s",
    "us each", "errors", "lost", "twice",
)  # fmt: skip


def cells(one: Measurement, peer: str, best: Best) -> Sequence[str]:
    """A line of the table."""
    figures = one.figures
    times = ratio(best, (one.row, one.system), (one.row, peer))
    return (
        one.row,
        one.system,
        short(figures.rate),
        "-" if times is None else f"{times:.2f}",
        "-" if figures.p50_ms is None else f"{figures.p50_ms:.1f}",
        "-" if figures.p99_ms is None else f"{figures.p99_ms:.1f}",
        f"{one.daemon_cpu_seconds:.2f}",
        f"{one.store_cpu_seconds:.2f}",
        f"{figures.load_cpu_seconds:.2f}",
        f"{one.microseconds_each:.1f}",
        str(figures.errors),
        str(figures.lost),
        str(figures.duplicated),
    )


def memory_lines(one: Measurement) -> Iterator[str]:
    """What a row of our daemon alone has to say besides."""
    if one.idle is not None:
        yield (
            f"{one.row}: daemon {one.idle.cpu_percent:.2f} % CPU, store {one.idle.store_cpu_percent:.2f} %"
        )
        for lot in one.idle.lots:
            yield (
                f"  {lot.consumers} x {lot.kind}: connected in {lot.connect_seconds:.1f} s, "
                f"{lot.connect_cpu_seconds:.1f} s of CPU; a consumer "
                f"{lot.bytes_each / 1024:.1f} KiB, of the store {lot.store_bytes_each / 1024:.1f} KiB"
            )
    if one.bytes_each is not None:
        yield f"{one.row}: {one.bytes_each:.0f} bytes of the store"
    if one.growth is not None:
        yield (
            f"{one.row}: memory grew by {one.growth.daemon_bytes / 2**20:.1f} MiB, "
            f"the store's by {one.growth.store_bytes / 2**20:.1f} MiB"
        )


def report(best: Best) -> str:
    """The whole result."""
    lines = [cells(best[row.name, name], row.peer, best) for row in ROWS for name in row.runs
             if (row.name, name) in best]  # fmt: skip
    alone = [best[row.name, RESTMQ] for row in ALONE if (row.name, RESTMQ) in best]
    lines += [cells(one, "", best) for one in alone if one.idle is None and one.bytes_each is None]
    parts = [table(HEAD, lines)] if lines else []
    parts += [
        "\n".join(memory_lines(one)) for one in alone if one.idle or one.growth or one.bytes_each
    ]
    parts.append("\n".join(verdict.line() for verdict in judge(GOALS, best)))
    return "\n\n".join(parts)


def plain(one: Measurement) -> dict[str, Any]:
    """A measurement for JSON."""
    return {
        **one._asdict(),
        "figures": {**one.figures._asdict(), "rate": one.figures.rate},
        "idle": None
        if one.idle is None
        else {**one.idle._asdict(), "lots": [lot._asdict() for lot in one.idle.lots]},
        "growth": None if one.growth is None else one.growth._asdict(),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; 1 when our daemon failed a request, lost a message or sent one twice."""
    chosen = options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all we started is ended
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    say(f"requests by {'our own loop' if chosen.scale.own_load else 'wrk'}, {chosen.rounds} rounds")
    found: list[Measurement] = []
    for number in range(1, chosen.rounds + 1):
        for step in (measure_rows, measure_alone):
            for one in step(chosen, number):
                say(progress(one))
                found.append(one)
    best = best_of(found)
    print(report(best))
    print(
        f"\nbest of {chosen.rounds} rounds; 'us each' is CPU of daemon and store for one operation"
    )
    if chosen.json_file is not None:
        chosen.json_file.write_text(json.dumps([plain(one) for one in found], indent=1))
    return 1 if any(one.figures.faults for one in best.values() if one.system in OURS) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
