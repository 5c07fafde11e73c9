"""A reader of events who remembers how far it came: it goes away, comes back, and has missed nothing.

    python examples/events.py [--url http://localhost:8888]                    checks itself and ends
    python examples/events.py --topic 'orders.**' --cursor FILE                prints what comes, for ever
    curl -H 'Content-Type: application/json' -d '{"n": 1}' http://localhost:8888/v1/topics/orders.eu/events

Reading takes nothing away, so each event is for everybody who asks. The cursor of an answer is where the next
question begins; it is kept in FILE (written when the events before it were printed, so a reader that dies
in between prints them again, and none is left out). If events are gone that should have come, the
answer says so ("gap"), and so does this program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from consumer import expect

WAIT_SECONDS = 20
"""The broker answers when there is an event, or after so long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    parser.add_argument("--topic", help="print the events of this pattern, instead of a check")
    parser.add_argument("--cursor", type=Path, metavar="FILE", help="where to remember the place")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    if options.topic is None:
        check(url)
        return
    for event in read(url, options.topic, options.cursor):
        print(event["topic"], event["id"], json.dumps(event["body"]), flush=True)


def read(url: str, topic: str, place: Path | None = None) -> Iterator[dict[str, Any]]:
    """Events of a pattern, from the remembered place on; without one, all that are kept."""
    cursor = place.read_text("ascii") if place is not None and place.exists() else ""
    while True:
        asked = {"topic": topic, "wait": WAIT_SECONDS, **({"cursor": cursor} if cursor else {})}
        answer = get(f"{url}/v1/events?{urlencode(asked)}")
        if "gap" in answer:
            print(f"some events are gone: {answer['gap']}", file=sys.stderr)
        yield from answer["events"]
        cursor = answer["cursor"]
        if place is not None:
            remember(place, cursor)


def remember(place: Path, cursor: str) -> None:
    """Write it whole or not at all."""
    fresh = place.with_name(f"{place.name}.new")
    fresh.write_text(cursor, "ascii")
    fresh.replace(place)


def get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=2 * WAIT_SECONDS) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def publish(url: str, topic: str, body: object) -> None:
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    address = f"{url}/v1/topics/{quote(topic, safe='')}/events"
    urlopen(Request(address, data, headers)).close()


def check(url: str) -> None:
    """Read some, go away while more are published, and come back to the rest."""
    words = f"example-{os.getpid()}"
    got: list[int] = []
    with TemporaryDirectory() as folder:
        place = Path(folder) / "cursor"
        for batch in range(3):
            for n in range(10):
                publish(url, f"{words}.{'odd' if n % 2 else 'even'}", 10 * batch + n)
            for event in read(url, f"{words}.**", place):
                print(event["topic"], event["id"], event["body"])
                got.append(event["body"])
                if len(got) == 10 * (batch + 1):
                    break
            else:
                raise AssertionError("it goes on for ever")
            remember(place, str(event["cursor"]))
    expect(got, list(range(30)))
    odd = read(url, f"{words}.odd")
    expect([next(odd)["body"] for _ in range(15)], list(range(1, 30, 2)))
    print("ok")


if __name__ == "__main__":
    main()
