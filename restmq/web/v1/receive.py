"""``/v1/receive`` and ``/v1/queues/QUEUE/receive``: messages under a lease, at once or by a long poll.

A client that leaves while it waits takes nothing: what was being taken for it goes back and does not count
as an attempt. When the daemon is about to end, who waits is answered as if the time were over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import orjson
from twisted.internet.defer import Deferred

from restmq.core.jobs import Leased
from restmq.web.choices import MIN_LEASE
from restmq.web.describe import (
    ANYTHING,
    NAME,
    SECONDS,
    STRING,
    describe,
    items,
    record,
    whole,
    words,
)
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.message_json import field_value, leased_members, shown_content_type
from restmq.web.transmit import has_closed
from restmq.web.v1.endpoint import V1Endpoint, v1_name
from restmq.web.v1.given import Given
from restmq.web.v1.messages import LEASED_MESSAGE
from restmq.web.v1.new_messages import key_digest
from restmq.web.v1.problems import Fault, Problem

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from restmq.settings import Settings
    from restmq.web.exchange import Exchange

MAX_QUEUES: Final = 100
FIELDS: Final = ("queue", "limit", "wait", "lease")
ASKED: Final = {"limit": whole(1, 1000), "wait": SECONDS, "lease": SECONDS}
SNIFFED: Final = (("X-Content-Type-Options", "nosniff"),)


class Asked(NamedTuple):
    """What a client wants to receive; ``lease_ms`` None is the queue's setting."""

    queues: list[str]
    limit: int
    wait_seconds: float
    lease_ms: int | None


def read_asked(given: Given, settings: Settings, queues: list[str]) -> Asked:
    """``limit wait lease``. Raises Problem."""
    return Asked(
        queues,
        given.whole("limit", 1, 1, settings.max_receive),
        given.seconds("wait", 0, settings.max_wait) or 0.0,
        read_lease(given, settings),
    )


def read_lease(given: Given, settings: Settings) -> int | None:
    """``lease`` in ms, None if it is not there."""
    lease = given.seconds("lease", MIN_LEASE, settings.max_lease)
    return None if lease is None else round(lease * 1000)


def read_queues(given: Given, path: str = "") -> list[str]:
    """The queues, in order of preference: of the path, ``queue`` or ``queues``; none said is []. Raises Problem."""
    one, several = given.text("queue"), given.texts("queues", MAX_QUEUES)
    if bool(path) + (one is not None) + (several is not None) > 1:
        member = "queue" if several is None else "queues"
        fault = Fault(given.where(member), "is there twice")
        raise Problem("bad_request", f"{member}: the queue is named already", faults=(fault,))
    if several is None:
        name = path or one
        return [] if name is None else [v1_name(name)]
    if len(set(several)) != len(several):
        raise given.wrong("queues", "are different names", several)
    return [v1_name(name) for name in several]


class Waiting:
    """One receive, until it is answered; ``answer`` fires with what was received. Fails with a StoreError."""

    def __init__(self, receiving: Any, is_there: Callable[[], bool]) -> None:
        """``is_there`` tells whether the client can still be answered."""
        self.answer: Deferred[list[Leased]] = Deferred()
        self._receiving = receiving
        self._is_there = is_there
        receiving.done.addCallbacks(self._received, self._failed)

    def give_up(self, _: object = None) -> None:
        """The client left: nothing is taken."""
        if not self.answer.called:
            self._receiving.cancel()
            self.answer.callback([])

    def end(self) -> None:
        """The daemon is about to end: the time is over."""
        if not self.answer.called:
            self._receiving.end()

    def _received(self, messages: list[Leased]) -> None:
        if not self._is_there():
            self._receiving.cancel()
        elif not self.answer.called:
            self.answer.callback(messages)

    def _failed(self, failure: Failure) -> None:
        if not self.answer.called:
            self.answer.errback(failure)


def wait_for(exchange: Exchange, receiving: Any, wait_seconds: float) -> Deferred[list[Leased]]:
    """What is received, for this client alone; see the module's text. Fails with a StoreError.

    Who does not wait may close its sending side at once, as any client may.
    """

    def is_there() -> bool:
        transport = exchange.transport
        return transport is not None and not (wait_seconds and has_closed(transport))

    waiting = Waiting(receiving, is_there)
    if wait_seconds and not waiting.answer.called:
        exchange.gone.addCallback(waiting.give_up)
        exchange.on_closing = waiting.end
    return waiting.answer


def leased_json(leased: Leased) -> bytes:
    """The message object."""
    message, receipt, until_ms = leased
    return b"{%b}" % leased_members(message, receipt.encode(), until_ms)


def messages_member(messages: Sequence[Leased]) -> bytes:
    """``"messages": [...]``."""
    return b'"messages":[%b]' % b",".join(map(leased_json, messages))


class Receive(V1Endpoint):
    """``/v1/receive``, ``/v1/queues/QUEUE/receive``."""

    @endpoint(Access.COMET, Access.CONSUMER, pops=True)
    @describe(
        headers={"Idempotency-Key": STRING},
        fields={**ASKED, "queues": items(NAME, 1, MAX_QUEUES), "format": words("json", "raw")},
        replies={
            200: {"anyOf": [record(messages=items(LEASED_MESSAGE)), ANYTHING]},
            204: None,
        },
    )
    def post(self, queue: str) -> Deferred[Reply]:
        """Take messages under a lease; with ``format=raw`` one, as it was sent."""
        given = self.given((*FIELDS, "format"), ("queues",))
        asked = read_asked(given, self.settings, read_queues(given, queue))
        if not asked.queues:
            fault = Fault("queue", "is missing")
            raise Problem("bad_request", "queue or queues must say from where", faults=(fault,))
        is_raw = given.word("format", ("json", "raw")) == "raw"
        if is_raw and asked.limit > 1:
            raise given.wrong("limit", "is 1 with format=raw", asked.limit)
        key = key_digest(dict.get(self.request.headers, "idempotency-key", ""))
        receiving = self.broker.receive(*asked, key=key)
        answer: Callable[[list[Leased]], Reply] = self._raw if is_raw else self._json
        return wait_for(self.exchange, receiving, asked.wait_seconds).addCallback(answer)

    def _json(self, messages: list[Leased]) -> Reply:
        return self.encoded(b"{%b}\n" % messages_member(messages))

    def _raw(self, messages: list[Leased]) -> Reply:
        if not messages:
            return self.nothing()
        message, receipt, _ = messages[0]
        lines = [
            self.request_id_line,
            b"RestMQ-Id: %d\r\n" % message.id,
            b"RestMQ-Attempt: %d\r\n" % message.attempt,
            b"RestMQ-Lease: /v1/leases/%b\r\n" % receipt.encode().encode("ascii"),
            b"RestMQ-Queue: %b\r\n" % quote(message.queue, safe="/").encode("ascii"),
        ]
        if message.headers:
            kept = orjson.loads(message.headers)
            told = [f"RestMQ-Header-{n}: {field_value(v)}\r\n" for n, v in kept.items()]
            lines.append("".join(told).encode("ascii"))
        return Reply(
            200,
            message.body or b"",
            shown_content_type(message),
            SNIFFED,
            no_store=True,
            lines=b"".join(lines),
        )
