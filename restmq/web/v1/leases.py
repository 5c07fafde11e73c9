"""``/v1/ack``, ``/v1/nack``, ``/v1/extend`` and ``/v1/leases/RECEIPT``: what becomes of leased messages.

In: ``{"receipts": [...]}``, of any queues. Out: ``{"results": [{"ok": true} or {"ok": false, "code": ...}], "failed": n}``,
one result for each receipt in their order; 200 if any counted, 409 if none did. A stale receipt changes
nothing. Under an ``Idempotency-Key`` a repeat is answered as the first was, and ``next`` gives what is still leased of what it gave then. ``next`` in an ack receives at once; where no receipt counted nothing is received, since a
client may not look into a 409 for messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from restmq.core import receipts, verdicts
from restmq.core.jobs import Leased
from restmq.core.receipts import Receipt
from restmq.core.verdicts import MAX_REASON, Outcome, Verb
from restmq.web.describe import (
    BOOLEAN,
    NAME,
    RECEIPT,
    SECONDS,
    STRING,
    WHOLE,
    describe,
    items,
    record,
    seconds,
)
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.v1.endpoint import V1Endpoint
from restmq.web.v1.given import Given
from restmq.web.v1.messages import LEASED_MESSAGE, REPLAYED
from restmq.web.v1.new_messages import MAX_SECONDS, key_digest
from restmq.web.v1.problems import Fault, Problem
from restmq.web.v1.receive import (
    ASKED,
    FIELDS,
    MAX_QUEUES,
    Asked,
    messages_member,
    read_asked,
    read_lease,
    read_queues,
    wait_for,
)

MAX_RECEIPTS: Final = 1000


def read_receipts(given: Given) -> list[Receipt | None]:
    """The receipts; None for a text that is none. Raises Problem."""
    texts = given.texts("receipts", MAX_RECEIPTS)
    if texts is None:
        fault = Fault("/receipts", "is missing")
        raise Problem("bad_request", "receipts must be a list of receipts", faults=(fault,))
    return [receipts.decode(text) for text in texts]


def read_nack(given: Given) -> verdicts.Nack:
    """``delay`` (the queue's backoff if it is not there) and ``reason``. Raises Problem."""
    delay, reason = given.seconds("delay", 0, MAX_SECONDS), given.text("reason") or ""
    if len(reason.encode("utf-8")) > MAX_REASON:
        raise given.wrong("reason", f"has at most {MAX_REASON} bytes", reason)
    return verdicts.Nack(None if delay is None else round(delay * 1000), reason)


def read_extend(given: Given, settings: Any) -> verdicts.Extend:
    """``lease``, from now on. Raises Problem."""
    lease_ms = read_lease(given, settings)
    if lease_ms is None:
        fault = Fault("lease", "is missing")
        raise Problem("bad_request", "lease must say for how long from now", faults=(fault,))
    return verdicts.Extend(lease_ms)


def settle(
    broker: Any, given: Sequence[Receipt | None], verb: Verb, key: bytes
) -> Deferred[Outcome]:
    """What became of each receipt; ``key`` is the digest of an idempotency key, or empty.

    Fails with Problem when the key was used for other receipts, or another word, and so none counted.
    """
    real = [receipt for receipt in given if receipt is not None]

    def read(settled: Outcome) -> Outcome:
        if "key_reused" in settled.codes and all(settled.codes):
            raise Problem("key_reused", "the Idempotency-Key was used for another call")
        left = iter(settled.codes)
        codes = ["bad_receipt" if receipt is None else next(left) for receipt in given]
        return Outcome(codes, settled.replayed)

    settled: Deferred[Outcome] = broker.settle_once(real, verb, key)
    return settled.addCallback(read)


def key_of_next(key: bytes) -> bytes:
    """Under what the messages of ``next`` are received; a receive under the same key is another call."""
    return hashlib.blake2b(b"next" + key, digest_size=16).digest() if key else b""


_OK: Final = b'{"ok":true}'
_FAILED: Final = {
    code: b'{"ok":false,"code":"%b"}' % code.encode("ascii")
    for code in ("bad_receipt", "stale_receipt", "key_reused")
}


def results_member(codes: Sequence[str]) -> bytes:
    """``"results": [...], "failed": n``."""
    if not any(codes):
        return b'"results":[%b],"failed":0' % b",".join([_OK] * len(codes))
    every = b",".join([_FAILED[code] if code else _OK for code in codes])
    return b'"results":[%b],"failed":%d' % (every, sum(map(bool, codes)))


def read_next(given: Given, settings: Any, of: Sequence[Receipt | None]) -> Asked | None:
    """``next`` of an ack: what to receive then, by default from the queues of the receipts."""
    wanted = given.object("next", (*FIELDS, "queues"))
    if wanted is None:
        return None
    queues = read_queues(wanted)
    return read_asked(wanted, settings, queues or list({r.queue: None for r in of if r}))


RESULTS: Final = record(
    results=items(record({"ok": BOOLEAN, "code?": STRING})),
    failed=WHOLE,
)


ACKED: Final = record(
    {"messages?": items(LEASED_MESSAGE)},
    results=items(record({"ok": BOOLEAN, "code?": STRING})),
    failed=WHOLE,
)
RECEIPTS: Final = items(RECEIPT, 1, MAX_RECEIPTS)
NEXT: Final = record(
    {
        "queue?": NAME,
        "queues?": items(NAME, 1, MAX_QUEUES),
        **{f"{name}?": schema for name, schema in ASKED.items()},
    }
)


KEYED: Final = {"Idempotency-Key": STRING}


class _Settling(V1Endpoint):
    def key(self) -> bytes:
        """The digest of the ``Idempotency-Key``. Raises Problem."""
        return key_digest(dict.get(self.request.headers, "idempotency-key", ""))

    def settle(self, of: list[Receipt | None], verb: Verb) -> Deferred[Reply]:
        """The answer to receipts that are settled so."""
        return settle(self.broker, of, verb, self.key()).addCallback(self.answer)

    def answer(self, settled: Outcome, more: bytes = b"") -> Reply:
        """What became of each, and more members."""
        codes, replayed = settled
        body = b"{%b%b}\n" % (results_member(codes), more)
        return self.encoded(body, 409 if all(codes) else 200, lines=REPLAYED if replayed else b"")


class Ack(_Settling):
    """``/v1/ack``: the messages are done."""

    @endpoint(Access.COMET, Access.CONSUMER)
    @describe(
        headers=KEYED,
        body=record({"next?": NEXT}, receipts=RECEIPTS),
        replies={200: ACKED, 409: RESULTS},
    )
    def post(self) -> Deferred[Reply]:
        """Acknowledge, and receive the next if that is wanted."""
        given = self.given(("next",), ("receipts",))
        of = read_receipts(given)
        then = read_next(given, self.settings, of)
        key = self.key()
        return settle(self.broker, of, verdicts.Ack(), key).addCallback(self._settled, then, key)

    def _settled(self, settled: Outcome, then: Asked | None, key: bytes) -> Reply | Deferred[Reply]:
        if then is None or all(settled.codes):
            return self.answer(settled)
        receiving = self.broker.receive(*then, key=key_of_next(key))
        received = wait_for(self.exchange, receiving, then.wait_seconds)
        return received.addCallback(self._with_next, settled)

    def _with_next(self, messages: list[Leased], settled: Outcome) -> Reply:
        return self.answer(settled, b",%b" % messages_member(messages))


class Nack(_Settling):
    """``/v1/nack``: they are not done, and come again after a while."""

    @endpoint(Access.COMET, Access.CONSUMER)
    @describe(
        headers=KEYED,
        body=record({"delay?": seconds(0, MAX_SECONDS), "reason?": STRING}, receipts=RECEIPTS),
        replies={200: RESULTS, 409: RESULTS},
    )
    def post(self) -> Deferred[Reply]:
        """Give back."""
        given = self.given(("delay", "reason"), ("receipts",))
        return self.settle(read_receipts(given), read_nack(given))


class Extend(_Settling):
    """``/v1/extend``: they take longer."""

    @endpoint(Access.COMET, Access.CONSUMER)
    @describe(
        headers=KEYED,
        body=record(receipts=RECEIPTS, lease=SECONDS),
        replies={200: RESULTS, 409: RESULTS},
    )
    def post(self) -> Deferred[Reply]:
        """Lease them anew from now on."""
        given = self.given(("lease",), ("receipts",))
        return self.settle(read_receipts(given), read_extend(given, self.settings))


class Lease(_Settling):
    """``/v1/leases/RECEIPT``: for workers that have nothing but an address."""

    @endpoint(Access.COMET, Access.CONSUMER)
    @describe(headers=KEYED, replies={204: None})
    def delete(self, receipt: str) -> Deferred[Reply]:
        """The message is done."""
        self.given(())
        found = receipts.decode(receipt)
        if found is None:
            raise Problem("bad_receipt", "the path ends with no receipt")
        return settle(self.broker, [found], verdicts.Ack(), self.key()).addCallback(self._done)

    def _done(self, settled: Outcome) -> Reply:
        if settled.codes[0]:
            raise Problem("stale_receipt", "the lease ended, or it was settled before")
        return self.nothing(lines=REPLAYED if settled.replayed else b"")
