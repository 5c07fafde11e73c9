"""What the consumers here have in common: their options, and the check of themselves."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

from restmq.client import Queues

Stream = Callable[[str, str], Iterator[dict[str, str]]]
"""Gets the broker's address and a queue; gives its messages, each with ``key`` and ``value``."""

MESSAGES = 10


def main(about: str | None, stream: Stream) -> None:
    """Print the messages of --queue for ever, or check that messages come."""
    options = parse(about)
    if options.queue is None:
        check(options.url, stream)
        return
    for message in stream(options.url, options.queue):
        print(message["key"], message["value"], flush=True)


def parse(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    parser.add_argument("--queue", help="print the messages of this queue, instead of a check")
    return parser.parse_args()


def check(url: str, stream: Stream) -> None:
    """Post to a queue of our own, each message when the one before it has come."""
    queue = f"example-{os.getpid()}"
    bodies = [f"message {n} \N{SNOWMAN}\nof two lines" for n in range(MESSAGES)]
    got = []
    with Queues(url) as broker:
        broker.put(queue, bodies[0])
        for message in stream(url, queue):
            print(message)
            got.append(message["value"])
            if len(got) == MESSAGES:
                break
            broker.put(queue, bodies[len(got)])
    expect(got, bodies)
    print("ok")


def expect(got: object, wanted: object) -> None:
    """End with 1 unless they are the same."""
    if got != wanted:
        raise SystemExit(f"got {got!r}, not {wanted!r}")
