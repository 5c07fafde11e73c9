"""``/v1/ack`` and ``/v1/nack``: what became of messages that were handed out under a lease.

In: ``{"receipts": [...]}``. Out: ``{"results": [{"ok": true} or {"ok": false, "code": ...}], "failed": n}``,
one result for each receipt in their order; 200 if any counted, 409 if none did.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred

from restmq.core import jobs, receipts
from restmq.core.receipts import Receipt
from restmq.errors import BadRequest
from restmq.web.describe import BOOLEAN, RECEIPT, STRING, WHOLE, describe, items, record
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.v1.endpoint import V1Endpoint

MAX_RECEIPTS: Final = 1000


def read_receipts(value: Any) -> list[Receipt | None]:
    """The receipts; None for a text that is none. Raises BadRequest."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RECEIPTS:
        raise BadRequest(f"receipts must be a list of 1 to {MAX_RECEIPTS} receipts")
    for place, text in enumerate(value):
        if not isinstance(text, str):
            raise BadRequest(f"/receipts/{place} must be a string")
    return [receipts.decode(text) for text in value]


def acknowledge(broker: Any, given: list[Receipt | None], done: bool) -> Deferred[list[str]]:
    """For each receipt "" if it counted, else the code that says why not."""
    real = [receipt for receipt in given if receipt is not None]

    def counted(results: list[bool]) -> list[str]:
        left = iter(results)
        return [
            "bad_receipt" if receipt is None else "" if next(left) else "stale_receipt"
            for receipt in given
        ]

    acknowledged: Deferred[list[bool]] = broker.settle(real, jobs.Ack() if done else jobs.Nack(0))
    return acknowledged.addCallback(counted)


def results(codes: list[str]) -> dict[str, Any]:
    """The members of the answer."""
    return {
        "results": [{"ok": False, "code": code} if code else {"ok": True} for code in codes],
        "failed": sum(map(bool, codes)),
    }


RESULTS: Final = record(
    results=items(record({"ok": BOOLEAN, "code?": STRING})),
    failed=WHOLE,
)


class _Acknowledging(V1Endpoint):
    done = True

    @endpoint(Access.COMET, Access.CONSUMER)
    @describe(
        body=record(receipts=items(RECEIPT, 1, MAX_RECEIPTS)),
        replies={200: RESULTS, 409: RESULTS},
    )
    def post(self) -> Deferred[Reply]:
        """Acknowledge, or give back."""
        self.query(())
        given = read_receipts(self.object(("receipts",)).get("receipts"))
        return acknowledge(self.broker, given, self.done).addCallback(self._answer)

    def _answer(self, codes: list[str]) -> Reply:
        return self.json(results(codes), 409 if all(codes) else 200)


class Ack(_Acknowledging):
    """``/v1/ack``: the messages are done."""


class Nack(_Acknowledging):
    """``/v1/nack``: they are not, and go to another consumer at once."""

    done = False
