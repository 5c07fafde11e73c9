"""Work that must not be lost: workers that take jobs under a lease, and acknowledge what is done.

    python examples/work_queue.py [--url http://localhost:8888]          checks itself and ends
    python examples/work_queue.py --queue NAME                           is a worker, for ever
    curl -H 'Content-Type: text/plain' -d 12 http://localhost:8888/v1/queues/NAME/messages

A job is a number; its square goes into the queue NAME.done. A worker that dies with a job in its hands
loses nothing: the lease ends, and another one gets the job. One that can't do a job gives it back
with the reason (nack); after some attempts the broker puts such a job aside, among the dead letters.
A job may be done twice (its worker died between the work and the ack), so the result is put under a
key made of the job: the broker takes only the first.

The check starts three workers and gives them forty jobs; one of these kills the worker that takes it first,
and one is no number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from consumer import expect

from restmq.client import Leased, Queues

LEASE_SECONDS = 2
DEADLY = "deadly"
"""The header of a job that kills whoever takes it for the first time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    parser.add_argument("--queue", help="work for this queue, instead of a check")
    options = parser.parse_args()
    with Queues(options.url) as queues:
        if options.queue is None:
            check(queues, options.url)
        else:
            work(queues, options.queue)


def work(queues: Queues, queue: str) -> None:
    """Be a worker: one job after the other, each acknowledged when its result is safe."""
    while True:
        for job in queues.receive(queue, wait_seconds=20, lease_seconds=LEASE_SECONDS):
            try:
                result = square(job)
            except ValueError as error:
                queues.nack(job, delay_seconds=0.1, reason=str(error))
                continue
            queues.put(f"{queue}.done", result, key=f"{job.queue}:{job.id}")
            queues.ack(job)


def square(job: Leased) -> str:
    """Do a job. ValueError when it can't be done."""
    if DEADLY in job.headers and job.attempt == 1:
        os._exit(1)  # as a crash: nothing is said to anybody
    return str(int(job.text) ** 2)


def check(queues: Queues, url: str) -> None:
    """Have workers of our own do jobs; see that each is done, and what became of the others."""
    queue = f"jobs-{os.getpid()}"
    numbers = range(40)
    jobs = [{"body": str(n), "headers": {DEADLY: "yes"} if n == 7 else {}} for n in numbers]
    with ExitStack() as stack:
        workers = [start_worker(url, queue, stack) for _ in range(3)]
        set_attempts(url, queue, 3)
        queues.batch(queue, [*jobs, "no number"])
        squares = sorted(int(done.text) for done in take(queues, f"{queue}.done", len(numbers)))
        (dead,) = take(queues, f"{queue}.dead", 1)
        alive = sum(worker.poll() is None for worker in workers)
    expect(squares, [n * n for n in numbers])
    expect(dead.text, "no number")
    expect(alive, 2)
    print(f"{len(squares)} jobs done, one of them after its worker had died")
    print(f"put aside: {dead.text!r} ({dead.headers})")
    print("ok")


def set_attempts(url: str, queue: str, attempts: int) -> None:
    """Say how often a job of this queue may fail before it is put aside."""
    address = f"{url.rstrip('/')}/v1/queues/{quote(queue, safe='')}/settings"
    said = json.dumps({"max_attempts": attempts}).encode()
    urlopen(Request(address, said, {"Content-Type": "application/json"}, method="PATCH")).close()


def take(queues: Queues, queue: str, count: int) -> list[Leased]:
    """So many messages of a queue, as they come."""
    found: list[Leased] = []
    while len(found) < count:
        more = queues.receive(queue, limit=count - len(found), wait_seconds=20)
        queues.ack(*more)
        found += more
    return found


def start_worker(url: str, queue: str, stack: ExitStack) -> subprocess.Popen[bytes]:
    """A worker in a process of its own; it is ended with the stack."""
    command = [sys.executable, str(Path(__file__).resolve()), "--url", url, "--queue", queue]
    worker = stack.enter_context(subprocess.Popen(command))
    stack.callback(worker.kill)
    return worker


if __name__ == "__main__":
    main()
