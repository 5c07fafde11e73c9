"""Schedules with real daemons that are killed: each run is in the queue once, and the latest comes late."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from restmq.core.wire import decode_entry
from restmq.redis.keys import Keys
from tests.conftest import StartDaemon
from tests.support import Daemon, ValkeyServer, wait_until

pytestmark = pytest.mark.slow

QUEUE = "ticks"
NAME = "every-second"


@pytest.fixture
def daemons(daemon: StartDaemon, valkey: ValkeyServer) -> Sequence[Daemon]:
    """Three daemons on one Valkey, and a schedule that runs each second."""
    started = [daemon("--redis-url", valkey.url) for _ in range(3)]
    for one in started:
        one.wait_for("/readyz")
    schedule = {"cron": "* * * * * *", "queue": QUEUE, "message": {"body": {"n": 1}}}
    reply = started[0].request("PUT", f"/v1/schedules/{NAME}", json.dumps(schedule))
    assert reply.status == 201, reply
    return started


def look(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.request("GET", f"/v1/schedules/{NAME}").body)
    return found


def runs(valkey: ValkeyServer) -> list[int]:
    """The runs whose messages are in the queue, in its order."""
    with valkey.client() as store:
        entries = store.lrange(Keys("restmq:").queue(QUEUE)[1], 0, -1)
    messages = [decode_entry(QUEUE, entry) for entry in entries]
    assert {message.body for message in messages} <= {b'{"n":1}'}
    headers = [json.loads(message.headers) for message in messages]
    assert {found["restmq-schedule"] for found in headers} <= {NAME}
    return [int(datetime.fromisoformat(found["restmq-run"]).timestamp()) for found in headers]


def account(daemon: Daemon, valkey: ValkeyServer) -> list[int]:
    """Each second since the first run has a message, or was counted as missed, and none has two."""
    reply = daemon.request("POST", f"/v1/schedules/{NAME}/pause")
    assert reply.status == 200
    wait_until(lambda: settled(valkey), "the end of the last run")
    had = runs(valkey)
    assert had == sorted(set(had))
    assert had[-1] - had[0] + 1 == len(had) + look(daemon)["missed"]
    return had


def settled(valkey: ValkeyServer) -> bool:
    """Nothing is on its way."""
    with valkey.client() as store:
        return not store.exists(Keys("restmq:").schedules()[3])


def test_three_daemons_that_are_killed_put_each_run_once(
    daemons: Sequence[Daemon], valkey: ValkeyServer
) -> None:
    """Whoever is killed at whatever moment: no tick comes twice, and the others go on."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(6):
        wanted = len(runs(valkey)) + chance.randrange(1, 3)
        wait_until(lambda n=wanted: len(runs(valkey)) >= n, "more runs")
        victim = chance.choice(daemons)
        victim.kill()
        victim.start("/readyz")
    had = len(runs(valkey))
    wait_until(lambda: len(runs(valkey)) >= had + 2, "runs after the last kill")
    print("runs", len(account(daemons[0], valkey)), "missed", look(daemons[0])["missed"])


def test_after_downtime_the_latest_run_comes_once(
    daemons: Sequence[Daemon], valkey: ValkeyServer
) -> None:
    """All brokers were down for some seconds: one late tick, the others are counted as missed."""
    wait_until(lambda: runs(valkey), "a run")
    for one in daemons:
        one.kill()
    had = runs(valkey)
    with valkey.client() as store:
        wait_until(lambda: store.time()[0] >= had[-1] + 4, "four seconds without a broker")
    for one in daemons:
        one.launch()
    for one in daemons:
        one.wait_for("/readyz")
    wait_until(lambda: len(runs(valkey)) > len(had) + 1, "the late run and another")
    after = account(daemons[0], valkey)
    missed = look(daemons[0])["missed"]
    print("missed", missed)
    assert missed >= 2
    assert after[len(had)] - had[-1] == missed + 1
