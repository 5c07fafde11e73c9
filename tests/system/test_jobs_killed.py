"""Eight workers that are killed at random work off a queue, and daemons too: nothing is lost or in two hands.

``RESTMQ_KILLED_JOBS`` (2000) is how many jobs; 20000 for the full proof.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import StartDaemon
from tests.support import ROOT, Daemon, ValkeyServer, wait_until
from tests.system.jobs import Jobs, three

pytestmark = pytest.mark.slow

QUEUE = "killed"
WORKERS = 8
JOBS = int(os.environ.get("RESTMQ_KILLED_JOBS", "2000"))
FAILING = 20
ATTEMPTS = 30
"""More than the kills will cost a job that is well; the failing ones use them up."""
LIMIT_SECONDS = 60.0
"""For the work between two shots."""


class Line(NamedTuple):
    """What a worker wrote down."""

    word: str
    id: int
    attempt: int
    time: int
    until: int = 0


def read(path: Path) -> list[Line]:
    return [
        Line(word, *map(int, rest)) for word, *rest in map(str.split, path.read_text().splitlines())
    ]


class Workers:
    """Eight processes, one of which is shot and replaced again and again."""

    def __init__(self, ports: Sequence[int], path: Path, seed: int) -> None:
        self._command = [sys.executable, "-m", "tests.system.killed_worker"]
        self._command += [",".join(map(str, ports)), QUEUE, str(path)]
        self._chance = random.Random(seed)
        self.shot = 0
        self._all = [self._start() for _ in range(WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT)

    def shoot(self) -> None:
        """One of them, and another takes its place."""
        place = self._chance.randrange(WORKERS)
        assert self._all[place].poll() is None, "a worker ended by itself"
        self.end(self._all[place])
        self._all[place] = self._start()
        self.shot += 1

    @staticmethod
    def end(worker: subprocess.Popen[bytes]) -> None:
        worker.kill()
        worker.wait()

    def close(self) -> None:
        for worker in self._all:
            self.end(worker)


@contextmanager
def working(ports: Sequence[int], path: Path, seed: int) -> Iterator[Workers]:
    workers = Workers(ports, path, seed)
    try:
        yield workers
    finally:
        workers.close()


def work_off(
    client: Jobs, workers: Workers, daemons: Sequence[Daemon], chance: random.Random
) -> int:
    """Until nothing is left: some work gets done, one is shot, and so on; how many daemons were."""
    shot = 0

    def left() -> int:
        found = client.look(QUEUE)
        return int(found["ready"] + found["leased"] + found["delayed"])

    while (there := left()) > 0:
        more = max(0, there - chance.randrange(1, 100))
        wait_until(lambda more=more: left() <= more, f"{more} left", LIMIT_SECONDS)  # type: ignore[misc]
        if chance.random() < 0.05:
            victim = chance.choice(daemons)
            victim.kill()
            victim.start("/readyz")
            shot += 1
        else:
            for _ in range(chance.randrange(1, 5)):
                workers.shoot()
    return shot


def test_workers_killed_at_random_lose_nothing(
    daemon: StartDaemon, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Kill -9 whom you like: each job is done, and nobody else has it while its lease lasts."""
    daemons = [daemon("--redis-url", valkey.url) for _ in range(3)]
    ports = three(daemons)
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    path = tmp_path / "hands"
    path.touch()
    with Jobs(ports[0]) as client:
        client.make(QUEUE, max_attempts=ATTEMPTS)
        bodies = [f"job {n}" for n in range(JOBS)]
        for place in range(0, JOBS, JOBS // FAILING):
            bodies[place] = f"fail {place}"
        ids = []
        for start in range(0, JOBS, 5000):
            some = bodies[start : start + 5000]
            ids += client.put_batch(QUEUE, [{"body": body} for body in some])
        with working(ports, path, seed) as workers:
            shot = work_off(client, workers, daemons[1:], random.Random(seed))
        dead = f"{QUEUE}.dead"
        wait_until(lambda: client.look(dead)["ready"] >= FAILING, "the dead letters", LIMIT_SECONDS)
        letters = client.browse(dead, "ready")
    failing = {number for number, body in zip(ids, bodies, strict=True) if body[0] == "f"}
    lines = read(path)
    check_all_done(lines, set(ids), failing)
    check_one_hand(lines)
    check_letters(letters, failing)
    again = sum(line.word == "start" and line.attempt > 1 for line in lines)
    print("workers shot", workers.shot, "daemons shot", shot, "handed out again", again)


def check_all_done(lines: Sequence[Line], ids: set[int], failing: set[int]) -> None:
    done = {line.id for line in lines if line.word == "done"}
    assert done == ids - failing


def check_one_hand(lines: Sequence[Line]) -> None:
    """Of one message a lease begins when the one before has ended, or was given back."""
    starts: dict[int, dict[int, Line]] = defaultdict(dict)
    back = {(line.id, line.attempt) for line in lines if line.word == "back"}
    for line in lines:
        if line.word == "start":
            assert line.attempt not in starts[line.id], f"twice: {line}"
            starts[line.id][line.attempt] = line
    for number, attempts in starts.items():
        for one, other in pairwise(sorted(attempts.values(), key=lambda line: line.attempt)):
            given_back = (number, one.attempt) in back
            assert given_back or other.time >= one.until, f"in two hands: {one} {other}"


def check_letters(letters: Sequence[dict[str, object]], failing: set[int]) -> None:
    """Exactly those made to fail, each with all its attempts."""
    origins = []
    for letter in letters:
        headers = letter["headers"]
        assert isinstance(headers, dict)
        queue, _, number = headers["restmq-origin"].rpartition(":")
        assert queue == QUEUE
        assert int(headers["restmq-attempts"]) == ATTEMPTS
        origins.append(int(number))
    assert sorted(origins) == sorted(failing)
