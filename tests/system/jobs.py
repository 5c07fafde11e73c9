"""Clients of the work queues over plain HTTP, and what they remember of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from tests.support import Daemon
from tests.system.clients import Answer, Client

JSON = "application/json"


class Lease(NamedTuple):
    """A message in hand: times in ms on the store's clock."""

    queue: str
    id: int
    body: Any
    attempt: int
    priority: int
    receipt: str
    until: int


def milliseconds(text: str) -> int:
    """A time of the API."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def now() -> int:
    """The store's clock, which is this machine's: ms."""
    return time.time_ns() // 1_000_000


def lease_of(found: Mapping[str, Any]) -> Lease:
    """The message in a reply."""
    return Lease(
        found["queue"],
        found["id"],
        found["body"],
        found["attempt"],
        found["priority"],
        found["receipt"],
        milliseconds(found["lease_until"]),
    )


class Jobs(Client):
    """A kept-alive connection that speaks to ``/v1``."""

    def ask(self, method: str, path: str, value: object = None) -> Answer:
        """One call with a JSON body, or none."""
        body = b"" if value is None else json.dumps(value).encode()
        return self.request(method, path, body, JSON)

    def ask_good(self, method: str, path: str, value: object = None) -> Any:
        """The same where it must be well; the JSON of the reply."""
        answer = self.ask(method, path, value)
        assert 200 <= answer.status < 300, answer
        return json.loads(answer.body) if answer.body else None

    def make(self, queue: str, **settings: object) -> None:
        """Make sure that there is such a queue."""
        self.ask_good("PUT", f"/v1/queues/{quote(queue)}", settings)

    def put(self, queue: str, body: bytes, **query: object) -> int:
        """Its id."""
        words = f"?{urlencode(query)}" if query else ""
        path = f"/v1/queues/{quote(queue)}/messages{words}"
        answer = self.request("POST", path, body, "text/plain")
        assert answer.status == 201, answer
        return int(json.loads(answer.body)["id"])

    def put_batch(self, queue: str, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """Their ids; all must be taken."""
        path = f"/v1/queues/{quote(queue)}/batch"
        found = self.ask_good("POST", path, {"messages": list(messages)})
        assert found["failed"] == 0, found
        return [one["id"] for one in found["results"]]

    def receive(
        self, queue: str, limit: int = 1, wait: float = 0, lease: float = 30
    ) -> list[Lease]:
        """Up to so many messages, waited for and leased for so many seconds."""
        self.send_receive(queue, limit, wait, lease)
        answer = self.answer()
        assert answer.status == 200, answer
        return [lease_of(one) for one in json.loads(answer.body)["messages"]]

    def send_receive(self, queue: str, limit: int, wait: float, lease: float) -> None:
        """Ask without waiting for the reply."""
        value = {"limit": limit, "wait": wait, "lease": lease}
        path = f"/v1/queues/{quote(queue)}/receive"
        self._send("POST", path, json.dumps(value).encode(), JSON)

    def settle(self, verb: str, receipts: Sequence[str], **more: object) -> list[bool]:
        """``ack``, ``nack`` or ``extend``: of each whether it counted."""
        answer = self.ask("POST", f"/v1/{verb}", {"receipts": list(receipts), **more})
        assert answer.status in (200, 409), answer
        return [one["ok"] for one in json.loads(answer.body)["results"]]

    def look(self, queue: str) -> dict[str, Any]:
        """Its numbers."""
        found: dict[str, Any] = self.ask_good("GET", f"/v1/queues/{quote(queue)}")
        return found

    def browse(self, queue: str, state: str) -> list[dict[str, Any]]:
        """All messages of a state, page by page."""
        found: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            query = urlencode({"state": state, "limit": 1000, **more})
            page = self.ask_good("GET", f"/v1/queues/{quote(queue)}/messages?{query}")
            found += page["messages"]
            if page["cursor"] is None:
                return found
            more = {"cursor": page["cursor"]}


def fill(port: int, queue: str, count: int, more: Mapping[str, object]) -> list[int]:
    """Put so many messages, numbered, in requests of 5,000; their ids."""
    ids: list[int] = []
    with Jobs(port) as client:
        for start in range(0, count, 5000):
            numbers = range(start, min(start + 5000, count))
            ids += client.put_batch(queue, [{"body": str(n), **more} for n in numbers])
    return ids


def three(daemons: Sequence[Daemon]) -> list[int]:
    """Their ports, when all are ready."""
    for each in daemons:
        each.wait_for("/readyz")
    return [each.port for each in daemons]
