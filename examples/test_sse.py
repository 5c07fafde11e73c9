"""A consumer by server-sent events, read with nothing but the standard library.

    python examples/test_sse.py [--url http://localhost:8888]            checks itself and ends
    python examples/test_sse.py --queue greetings                        prints what comes, for ever

In a browser this is one line, `new EventSource("/sse/greetings")`. The events are read as the HTML
standard says (section 9.2, server-sent events): fields until a blank line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote
from urllib.request import Request, urlopen

import consumer


class Event(NamedTuple):
    """One event; ``id`` is what a client that connects again sends as Last-Event-ID."""

    type: str
    id: str
    data: str


def stream(url: str, queue: str) -> Iterator[dict[str, str]]:
    """The messages of a queue as they come."""
    address = f"{url.rstrip('/')}/sse/{quote(queue, safe='')}"
    with urlopen(Request(address, headers={"Accept": "text/event-stream"})) as lines:
        for event in events(line.decode("utf-8").rstrip("\r\n") for line in lines):
            if event.type == "message":
                message = json.loads(event.data)
                yield {"key": f"{message['queue']}:{message['id']}", "value": message["body"]}


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Events made of lines; one that begins with a colon is a comment."""
    kind, data, last_id = "", [], ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield Event(kind or "message", last_id, "\n".join(data))
            kind, data = "", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value


if __name__ == "__main__":
    consumer.main(__doc__, stream)
