"""Health: for process supervisors, load balancers and people with a doubt.

``/livez``             the process answers: the event loop turns
``/readyz, /health``   the store answers, too, within PATIENCE_SECONDS, and the daemon is not ending
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import TimeoutError as TimedOut

from restmq.errors import StoreError
from restmq.web import historic
from restmq.web.describe import STRING, describe, record
from restmq.web.endpoint import Access, Endpoint, Reply, endpoint
from restmq.web.rest import JSON

PATIENCE_SECONDS: Final = 2.0
WELL: Final = record(status=STRING)


def _health(code: int, **members: str) -> Reply:
    body = historic.dumps(members).encode("ascii") + b"\n"
    return Reply(code, body, JSON, no_store=True)


ALIVE: Final = _health(200, status="ok")
STOPPING: Final = _health(503, status="unavailable", reason="the broker is stopping")


class Livez(Endpoint):
    """``/livez``."""

    @endpoint(Access.NONE)
    @describe(replies={200: WELL})
    def get(self) -> Reply:
        """200, always."""
        return ALIVE

    head = get


class Readyz(Endpoint):
    """``/readyz`` and ``/health``."""

    @endpoint(Access.NONE)
    @describe(replies={200: WELL, 503: record(status=STRING, reason=STRING)})
    async def get(self) -> Reply:
        """200 when the store answers in time and the daemon is not ending, else 503 and the reason."""
        if self.application.draining:
            return STOPPING
        broker = self.broker
        try:
            await broker.ping().addTimeout(PATIENCE_SECONDS, broker.clock)
        except StoreError as error:
            return _health(503, status="unavailable", reason=str(error) or "the store is away")
        except TimedOut:
            reason = f"the store did not answer within {PATIENCE_SECONDS:g} s"
            return _health(503, status="unavailable", reason=reason)
        return ALIVE

    head = get
