"""Pollers in RSE's manner: slowly while nothing happens, faster after an event, and nothing is missed."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections.abc import Sequence
from typing import Any, Self

import pytest

from tests.conftest import StartDaemon, StartValkey
from tests.support import DEADLINE_SECONDS, Daemon, ValkeyServer, wait_until

pytestmark = pytest.mark.slow

CHANNEL = "/agents/7/commands"
IDLE_SECONDS, ACTIVE_SECONDS, ACTIVE_POLLS = 0.3, 0.02, 10
"""RSE's guide has 30 s, and 5 s for two minutes."""

WRITER = "Writer/1.0 uuid/550e8400-e29b-41d4-a716-446655440000"
KEPT = ("--events-short-age", "3600")


class Worker:
    """A client in a thread of its own, until it is left."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._thread = threading.Thread(target=self.run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()

    def run(self) -> None:
        raise NotImplementedError


class Poller(Worker):
    """Polls one daemon, or several in turn, and keeps what it got; errors are tried again."""

    def __init__(self, name: str, daemons: Sequence[Daemon], query: str) -> None:
        super().__init__()
        number = sum(name.encode())
        self._agent = f"{name}/1.0 uuid/6fa459ea-ee8a-4ca4-894e-{number:012d}"
        self._daemons = itertools.cycle(daemons)
        self._query = query
        self.found: list[dict[str, Any]] = []
        self.gaps: list[Any] = []
        self.failures = 0

    def run(self) -> None:
        """The client of RSE's guide."""
        active = 0
        while not self.over.wait(ACTIVE_SECONDS if active else IDLE_SECONDS):
            active = ACTIVE_POLLS if self._poll() else max(0, active - 1)

    def _poll(self) -> bool:
        last = self.found[-1]["id"] if self.found else 0
        path = f"/e{CHANNEL}?last-known-id={last}&{self._query}"
        try:
            reply = next(self._daemons).request("GET", path, None, {"User-Agent": self._agent})
        except (OSError, http.client.HTTPException):
            self.failures += 1
            return False
        if reply.status == 204:
            return False
        if reply.status == 503:
            self.failures += 1
            return False
        assert reply.status == 200, reply
        told = json.loads(reply.body)
        if "gap" in told:
            self.gaps.append(told["gap"])
        self.found += told["events"]
        return bool(told["events"])

    @property
    def ids(self) -> list[int]:
        return [event["id"] for event in self.found]

    @property
    def data(self) -> list[Any]:
        return [event["data"] for event in self.found]


class Writer(Worker):
    """Posts numbers to daemons in turn, each until it is confirmed."""

    def __init__(self, daemons: Sequence[Daemon]) -> None:
        super().__init__()
        self._daemons = itertools.cycle(daemons)
        self.confirmed: list[int] = []

    def run(self) -> None:
        """It may post a number twice, when the reply to the first was lost."""
        for number in itertools.count():
            while not self._post(number):
                if self.over.wait(ACTIVE_SECONDS):
                    return
            self.confirmed.append(number)
            if self.over.wait(ACTIVE_SECONDS / 4):
                return

    def _post(self, number: int) -> bool:
        body = json.dumps([number])
        try:
            reply = next(self._daemons).request(
                "POST", f"/e{CHANNEL}", body, {"User-Agent": WRITER}
            )
        except (OSError, http.client.HTTPException):
            return False
        assert reply.status in (201, 503), reply
        return reply.status == 201

    def goes_on(self, count: int = 50) -> None:
        """Wait until so many more are confirmed."""
        wanted = len(self.confirmed) + count
        wait_until(lambda: len(self.confirmed) >= wanted, f"{count} more events")


@pytest.fixture
def store(start_valkey: StartValkey) -> ValkeyServer:
    """A Valkey that writes every event to disk before it confirms it."""
    return start_valkey(appendonly="yes", appendfsync="always")


@pytest.fixture
def daemons(daemon: StartDaemon, store: ValkeyServer) -> Sequence[Daemon]:
    """Two daemons on one store."""
    started = [daemon("--redis-url", store.url, *KEPT) for _ in range(2)]
    for one in started:
        one.wait_for("/readyz")
    return started


def everything(daemon: Daemon) -> list[dict[str, Any]]:
    """What is in the channel in the end, page by page."""
    found: list[dict[str, Any]] = []
    agent = {"User-Agent": "Judge/1.0 uuid/00000000-0000-4000-8000-00000000000f"}
    while True:
        last = found[-1]["id"] if found else 0
        path = f"/e{CHANNEL}?last-known-id={last}&max-events=500"
        reply = daemon.request("GET", path, None, agent)
        if reply.status == 204:
            return found
        found += json.loads(reply.body)["events"]


def test_pollers_miss_nothing_over_restarts_of_daemons_and_store(
    daemons: Sequence[Daemon], store: ValkeyServer
) -> None:
    """Whatever is killed, each poller sees each event once, in one order."""
    kinds = ("events=exact&max-events=7", "events=parent", "events=exact&wait=1")
    with (
        Poller("first", daemons[:1], kinds[0]) as first,
        Poller("second", daemons[1:], kinds[1]) as second,
        Poller("both", daemons, kinds[2]) as both,
    ):
        with Writer(daemons) as writer:
            writer.goes_on()
            daemons[0].kill()
            daemons[0].start("/readyz")
            writer.goes_on()
            store.kill()
            store.start()
            writer.goes_on()
            daemons[1].stop()
            daemons[1].start("/readyz")
            writer.goes_on()
        truth = everything(daemons[0])
        pollers = (first, second, both)
        for poller in pollers:
            wait_until(lambda one=poller: len(one.found) >= len(truth), "the last event")
    ids = [event["id"] for event in truth]
    assert ids == sorted(set(ids))
    numbers = [event["data"][0] for event in truth]
    assert set(writer.confirmed) <= set(numbers)
    print([(len(poller.found), poller.failures, poller.gaps) for poller in pollers])
    for poller in pollers:
        assert poller.ids == ids
        assert poller.data == [event["data"] for event in truth]
    assert first.failures
    assert not any(poller.gaps for poller in pollers)


def test_two_pollers_on_two_daemons_see_one_order_whoever_writes_where(
    daemons: Sequence[Daemon],
) -> None:
    """Four writers at once: an id never becomes visible after a higher one was read."""
    with (
        Poller("first", daemons[:1], "wait=0.2") as first,
        Poller("second", daemons[1:], "max-events=3") as second,
    ):
        writers = [Writer(daemons[n % 2 :] + daemons[: n % 2]) for n in range(4)]
        with writers[0], writers[1], writers[2], writers[3]:
            for writer in writers:
                writer.goes_on(100)
        truth = everything(daemons[1])
        for poller in (first, second):
            wait_until(lambda one=poller: len(one.found) >= len(truth), "the last event")
    assert len(truth) == sum(len(writer.confirmed) for writer in writers)
    assert first.ids == second.ids == [event["id"] for event in truth]
