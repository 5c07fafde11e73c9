"""Clients that add, pop and take at random on three daemons: what they saw must fit together."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.conftest import StartDaemon
from tests.support import ValkeyServer
from tests.system.clients import Client, Delivered, drain

QUEUES = ("history", "другая", "with a space/and a slash")
CLIENTS = 8
STEPS = 300


class Seen(NamedTuple):
    """What one sequential client saw of one queue, in order."""

    added: list[Delivered]
    popped: list[Delivered]


History = dict[str, Seen]


def act(ports: list[int], name: int, seed: int) -> History:
    """One client: each step goes to a daemon at random."""
    chance = random.Random(f"{seed} {name}")
    history = {queue: Seen([], []) for queue in QUEUES}
    clients = [Client(port) for port in ports]
    try:
        for step in range(STEPS):
            client, queue = chance.choice(clients), chance.choice(QUEUES)
            seen = history[queue]
            match chance.choice(["add", "add", "pop", "take"]):
                case "add":
                    body = f"{name} {step}".encode()
                    seen.added.append(Delivered(client.add(queue, body), body))
                case "pop":
                    seen.popped.extend(filter(None, [client.get(queue)]))
                case _:
                    seen.popped.extend(filter(None, [client.take(queue)]))
    finally:
        for client in clients:
            client.close()
    return history


@pytest.mark.parametrize("time", range(2))
def test_a_history_of_many_clients_on_three_daemons_fits(
    daemon: StartDaemon, valkey: ValkeyServer, time: int
) -> None:
    """Each message comes out at most once, in order, and none is missing at the end."""
    daemons = [daemon("--redis-url", valkey.url) for _ in range(3)]
    for each in daemons:
        each.wait_for("/readyz")
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    ports = [each.port for each in daemons]
    with ThreadPoolExecutor(CLIENTS) as pool:
        histories = list(pool.map(lambda name: act(ports, name, seed), range(CLIENTS)))
    for queue in QUEUES:
        rest = drain(ports[0], queue)
        check([history[queue] for history in histories], rest)


def check(seen: list[Seen], rest: list[Delivered]) -> None:
    """The laws of a queue."""
    for one in seen:
        for part in (one.added, one.popped):
            numbers = [message.id for message in part]
            assert numbers == sorted(set(numbers))
    added = {message for one in seen for message in one.added}
    out = [message for one in seen for message in one.popped] + rest
    assert set(Counter(out).values()) <= {1}
    assert set(out) == added
    assert sorted(message.id for message in added) == list(range(1, len(added) + 1))
    last = max((message.id for one in seen for message in one.popped), default=0)
    assert all(message.id > last for message in rest)
