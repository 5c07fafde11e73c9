"""A consumer by COMET that lets curl do the reading.

    python examples/test_comet_curl.py [--url http://localhost:8888]     checks itself and ends
    python examples/test_comet_curl.py --queue greetings                 prints what comes, for ever

Any program that can start another one and read its lines can consume a queue so.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import consumer

CURL = ("curl", "--no-buffer", "--silent", "--show-error", "--fail")


def stream(url: str, queue: str) -> Iterator[dict[str, str]]:
    """The messages of a queue as they come; curl ends with us."""
    address = f"{url.rstrip('/')}/c/{quote(queue, safe='')}"
    with subprocess.Popen([*CURL, address], stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        try:
            for line in curl.stdout:
                yield json.loads(line)
        finally:
            curl.terminate()


if __name__ == "__main__":
    consumer.main(__doc__, stream)
