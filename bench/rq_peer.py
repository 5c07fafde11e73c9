"""RQ at work, run by the Python of its own environment: ``python rq_peer.py PORT JOBS WORKERS``.

One process enqueues one job after the other, so many workers (RQ's fastest, which do not fork for
each job) work them off meanwhile. Its last line is FIGURES, as the other loads print.
"""

import json
import multiprocessing
import signal
import sys
import time

from redis import Redis
from rq import Queue, SimpleWorker

BODY = "x" * 100


def nothing(body):
    """The job."""


def work(port):
    """Until SIGTERM."""
    connection = Redis(port=port)
    SimpleWorker([Queue("jobs", connection=connection)], connection=connection).work(
        logging_level="ERROR"
    )


def main(port, jobs, workers):
    """Enqueue, wait for the end of all, tell."""
    connection = Redis(port=port)
    queue = Queue("jobs", connection=connection)
    processes = [multiprocessing.Process(target=work, args=(port,)) for _ in range(workers)]
    for process in processes:
        process.start()
    done = queue.finished_job_registry
    queue.enqueue(nothing, BODY)
    while not done.count:  # the workers are there
        time.sleep(0.01)
    start = time.perf_counter()
    for _ in range(jobs):
        queue.enqueue(nothing, BODY)
    while done.count < jobs + 1:
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    for process in processes:
        process.terminate()
        process.join()
    print("FIGURES", json.dumps({"operations": jobs, "seconds": seconds}))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The job's name is looked up by the workers: as a module, not as __main__.
    sys.modules["rq_peer"] = sys.modules["__main__"]
    nothing.__module__ = "rq_peer"
    main(*map(int, sys.argv[1:4]))
