"""A consumer by COMET, read with nothing but the standard library.

    python examples/test_comet.py [--url http://localhost:8888]          checks itself and ends
    python examples/test_comet.py --queue greetings                      prints what comes, for ever

A GET of /c/QUEUE does not end: each message is a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote
from urllib.request import urlopen

import consumer


def stream(url: str, queue: str) -> Iterator[dict[str, str]]:
    """The messages of a queue as they come; ends when somebody deletes the queue."""
    with urlopen(f"{url.rstrip('/')}/c/{quote(queue, safe='')}") as lines:
        for line in lines:
            yield json.loads(line)


if __name__ == "__main__":
    consumer.main(__doc__, stream)
