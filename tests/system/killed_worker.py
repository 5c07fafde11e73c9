"""A worker that may be shot at any moment: ``python -m tests.system.killed_worker PORTS QUEUE FILE``.

It receives, writes down what it has in hand, works, writes that down, acknowledges; jobs whose body begins
with ``fail`` it gives back. Each line of the file is one write, so a shot worker leaves whole lines:

    start ID ATTEMPT GIVEN UNTIL      times in ms: lease from, lease to
    done ID ATTEMPT TIME              before it is acknowledged
    back ID ATTEMPT TIME              before it is given back
"""

from __future__ import annotations

import os
import random
import sys

from tests.system.clients import Answer, Gone
from tests.system.jobs import Jobs, Lease, now

LEASE_MS = 2000
AT_ONCE = 5


class Patient(Jobs):
    """A connection that a daemon without its store yet ends."""

    def answer(self) -> Answer:
        answer = super().answer()
        if answer.status == 503:
            raise Gone("not ready")
        return answer


def work(ports: list[int], queue: str, file: int) -> None:
    """Until it is shot."""
    chance = random.Random(os.getpid())
    while True:
        try:
            with Patient(chance.choice(ports)) as client:
                while chance.random() < 0.98:
                    leases = client.receive(queue, AT_ONCE, 1, LEASE_MS / 1000)
                    handle(client, leases, file)
        except Gone:  # a daemon that is being replaced
            continue


def handle(client: Jobs, leases: list[Lease], file: int) -> None:
    for one in leases:
        note(file, "start", one, one.until - LEASE_MS, one.until)
    for one in leases:
        if now() >= one.until:
            continue  # somebody else has it
        if one.body.startswith("fail"):
            note(file, "back", one, now())
            client.settle("nack", [one.receipt], delay=0, reason="made to fail")
        else:
            note(file, "done", one, now())
            client.settle("ack", [one.receipt])


def note(file: int, word: str, lease: Lease, *times: int) -> None:
    os.write(file, " ".join(map(str, (word, lease.id, lease.attempt, *times, "\n"))).encode())


if __name__ == "__main__":
    out = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)
    work([int(port) for port in sys.argv[1].split(",")], sys.argv[2], out)
