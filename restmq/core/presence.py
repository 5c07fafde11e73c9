"""Who listens to a queue: each daemon tells the store how many consumers it has, by transport.

The word is renewed every few seconds and counts for 15 s, so a daemon that died is forgotten. What
slow consumers missed is added up in the store by the same call.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from restmq.core.scripted import QueueScripts
from restmq.errors import StoreError
from restmq.redis.connection import Store

LEASE_MS = 15000
DELAY_SECONDS = 0.1
"""Comings and goings of so long are told together."""


class Presence:
    """The consumers of this daemon, counted."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, store: Store, scripts: QueueScripts, daemon: bytes
    ) -> None:
        """``daemon`` is this daemon's name."""
        self._clock = clock
        self._store = store
        self._scripts = scripts
        self._daemon = daemon
        self._counts: dict[str, Counter[str]] = {}
        self._missed: Counter[str] = Counter()
        self._changed: set[str] = set()
        self._due = False
        self._later: IDelayedCall | None = None

    def came(self, queue: str, transport: str) -> None:
        """A consumer is there; ``transport`` is a short ASCII word."""
        self._counts.setdefault(queue, Counter())[transport] += 1
        self._note(queue)

    def left(self, queue: str, transport: str) -> None:
        """It is gone."""
        counts = self._counts[queue]
        counts[transport] -= 1
        if not counts[transport]:
            del counts[transport]
        if not counts:
            del self._counts[queue]
        self._note(queue)

    def missed(self, queue: str, count: int) -> None:
        """A slow consumer lost so many messages."""
        self._missed[queue] += count
        self._note(queue)

    def tick(self) -> None:
        """Every few seconds: say again who is there."""
        self._changed.update(self._counts)
        self.tell()

    def _note(self, queue: str) -> None:
        self._changed.add(queue)
        if not self._due:
            self._due = True
            self._later = self._clock.callLater(DELAY_SECONDS, self.tell)

    def tell(self) -> None:
        """Tell the store what changed."""
        self._due = False
        changed, self._changed = self._changed, set()
        for queue in changed:
            self._tell(queue)

    def stop(self) -> None:
        """Tell what is left to tell, and nothing more."""
        if self._later is not None and self._later.active():
            self._later.cancel()
        self.tell()
        self._due = True

    def _tell(self, queue: str) -> None:
        counts = self._counts.get(queue) or Counter[str]()
        text = ",".join(f"{transport}={count}" for transport, count in sorted(counts.items()))
        missed = self._missed.pop(queue, 0)

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):  # the next tick says it again
                if missed:
                    self._missed[queue] += missed
                self.log.debug("presence in {queue}: {error}", queue=queue, error=reply)

        arguments = [self._daemon, b"%d" % LEASE_MS, text.encode("ascii"), b"%d" % missed]
        self._store.send(self._scripts.call("presence", queue, arguments), replied)
