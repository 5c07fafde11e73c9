"""Events across daemons and restarts: nothing is missed, nothing comes twice."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections.abc import Callable
from typing import Any

from tests.support import DEADLINE_SECONDS, Daemon, wait_until
from tests.wire.test_events import Streaming, post

WRITERS = 20
POLLERS = 10
EACH = 25


def together(tasks: list[Callable[[], None]]) -> None:
    """Run all at once; the first failure is the test's."""
    failures: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except (AssertionError, OSError, http.client.HTTPException, ValueError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * DEADLINE_SECONDS)
        assert not thread.is_alive(), "it hangs"
    if failures:
        raise failures[0]


class Asking:
    """A client that keeps a connection to each daemon."""

    def __init__(self, daemons: list[Daemon], seed: int) -> None:
        self._connections = [daemon.connection() for daemon in daemons]
        self.dice = random.Random(seed)

    def ask(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = self.dice.choice(self._connections)
        fields = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, fields)
        reply = connection.getresponse()
        data = reply.read()
        assert reply.status in (200, 201), data
        found: dict[str, Any] = json.loads(data)
        return found

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def test_twenty_writers_three_daemons_ten_pollers(daemon, start_valkey):
    """Every poller gets every event once, in one order, whichever daemon answers it."""
    server = start_valkey()
    daemons = [daemon("--redis-url", server.url) for _ in range(3)]
    for made in daemons:
        made.wait_for("/readyz")
    published: list[tuple[int, str]] = []
    seen: list[list[tuple[int, str]]] = [[] for _ in range(POLLERS)]

    def write(number: int) -> None:
        client = Asking(daemons, number)
        for n in range(EACH):
            batch = [
                {"topic": f"load.w{number}.{n}", "body": n},
                {"topic": "other", "body": n},
            ]
            told = client.ask("POST", "/v1/events", json.dumps({"events": batch}))["results"][0]
            published.append((told["id"], told["topic"]))
        client.close()

    def poll(number: int) -> None:
        client = Asking(daemons, 100 + number)
        cursor = ""
        while len(seen[number]) < WRITERS * EACH:
            wait = client.dice.choice(("", "&wait=0.2"))
            limit = client.dice.choice((1, 7, 1000))
            path = f"/v1/events?topic=load.**&limit={limit}{cursor}{wait}"
            page = client.ask("GET", path)
            assert "gap" not in page
            seen[number] += [(event["id"], event["topic"]) for event in page["events"]]
            cursor = f"&cursor={page['cursor']}"
        client.close()

    writers = [lambda n=n: write(n) for n in range(WRITERS)]
    pollers = [lambda n=n: poll(n) for n in range(POLLERS)]
    together([*writers, *pollers])
    published.sort()
    for found in seen:
        assert found == published


def test_a_client_of_events_survives_daemon_and_store(daemon, start_valkey):
    """It comes back as a browser does, with the id it got last, and changes the daemon, too."""
    server = start_valkey(appendonly="yes", appendfsync="always")
    first, second = (daemon("--redis-url", server.url) for _ in range(2))
    for made in (first, second):
        made.wait_for("/readyz")
    told = [post(first, "t.0")["id"]]
    stream = Streaming(first, "topic=t.*", Accept="text/event-stream", Last_Event_ID="0-0")
    seen = [next(stream.events())]

    def back(made: Daemon) -> None:
        nonlocal stream
        stream.close()
        made.wait_for("/readyz")
        stream = Streaming(
            made, "topic=t.*", Accept="text/event-stream", Last_Event_ID=seen[-1]["cursor"]
        )

    def publish(made: Daemon) -> None:
        made.wait_for("/readyz")
        told.extend(post(made, f"t.{n}")["id"] for n in range(3))

    def catch_up() -> None:
        events = stream.events()
        while len(seen) < len(told):
            seen.append(next(events))

    first.kill()
    publish(second)
    back(first.start("/readyz"))
    catch_up()
    server.kill()
    server.start()
    publish(first)
    catch_up()  # the same stream: the daemon came back to the store by itself
    publish(second)
    back(second)
    publish(first)
    catch_up()
    stream.close()
    assert [event["id"] for event in seen] == told
    wait_until(lambda: second.request("GET", "/readyz").status == 200, "it is well")
