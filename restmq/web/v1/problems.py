"""The errors of ``/v1`` in words: codes, titles, and a page for each that names cause and cure.

Problem documents: RFC 9457. Their ``type`` is the path of the page.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from restmq.errors import (
    BadRequest,
    KeyReused,
    LeasedOnly,
    OutcomeUnknown,
    QueueFull,
    RateLimited,
    StoreAway,
    StoreFull,
    StoreRefused,
    TooManyBindings,
    TooManyQueues,
    WrongDelivery,
)
from restmq.web.describe import Content, describe
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint

CODES: Final[Mapping[type[BaseException], str]] = {
    BadRequest: "bad_request",
    KeyReused: "key_reused",
    LeasedOnly: "leased_only",
    WrongDelivery: "wrong_delivery",
    StoreAway: "store_away",
    OutcomeUnknown: "outcome_unknown",
    StoreFull: "store_full",
    StoreRefused: "store_refused",
    QueueFull: "queue_full",
    TooManyQueues: "too_many_queues",
    TooManyBindings: "too_many_bindings",
    RateLimited: "rate_limited",
}


class Fault(NamedTuple):
    """A part of a request that is wrong: a JSON pointer (RFC 6901) to it, or the parameter's name."""

    where: str
    detail: str

    def members(self) -> dict[str, str]:
        """As an element of the document's ``errors``."""
        word = "pointer" if self.where.startswith("/") else "parameter"
        return {word: self.where, "detail": self.detail}


class Problem(Refusal):
    """A refusal with a code of its own, one of STATUSES.

    ``faults`` say which parts of the request are wrong, ``line`` which line of ndjson (from 1).
    ``retry_seconds`` is when it may work.
    """

    def __init__(
        self,
        code: str,
        why: str,
        *,
        faults: Sequence[Fault] = (),
        line: int = 0,
        retry_seconds: int = 0,
    ) -> None:
        headers = (("Retry-After", str(retry_seconds)),) if retry_seconds else ()
        super().__init__(STATUSES[code], why, headers)
        self.code = code
        self.faults = faults
        self.line = line

    def members(self) -> dict[str, Any]:
        """What the document says besides."""
        found: dict[str, Any] = {}
        if self.faults:
            found["errors"] = [fault.members() for fault in self.faults]
        if self.line:
            found["line"] = self.line
        return found


STATUSES: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "invalid_json": 400,
    "bad_receipt": 400,
    "unknown_queue": 404,
    "unknown_message": 404,
    "stale_receipt": 409,
    "in_progress": 409,
    "not_empty": 409,
    "priorities_off": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "key_reused": 422,
    "rate_limited": 429,
    "queue_full": 507,
    "too_many_queues": 507,
    "too_many_bindings": 507,
}
"""The status of each problem that a handler of ``/v1`` raises."""

CODES_OF_STATUS: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    426: "upgrade_required",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}
TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "bad_request": ("The request makes no sense", "Mend what detail names; nothing was changed."),
    "unauthorized": (
        "Not allowed to this client",
        "Send a name and a password, or ask the operator.",
    ),
    "forbidden": ("Not allowed from this page", "List the page's origin with --origin."),
    "not_found": ("There is nothing here", "Check the path and the name."),
    "method_not_allowed": ("Not with this method", "The header Allow names those that work."),
    "request_timeout": ("The request did not come to its end in time", "Send it again, faster."),
    "headers_too_large": ("The header fields are too large", "Send fewer, or shorter ones."),
    "conflict": ("Not as things are", "Look at detail."),
    "leased_only": (
        "The queue's messages are handed out under a lease only",
        "Stream with ack=1, observe with observe=1, or set mode to open.",
    ),
    "wrong_delivery": (
        "The choice does not go with the queue's delivery",
        "Set delivery to roundrobin, or leave the choice out.",
    ),
    "stale_receipt": (
        "The receipt counts no more",
        "The lease ended, or it was acknowledged before; the message may be with another consumer.",
    ),
    "bad_receipt": (
        "That is no receipt",
        "Send the receipt as it came with the message; nothing was changed.",
    ),
    "invalid_json": (
        "The body is not valid JSON",
        "Mend what detail names, or send another content type; nothing was stored.",
    ),
    "unknown_queue": (
        "There is no such queue",
        "A queue is there once something was put into it, or after PUT /v1/queues/NAME.",
    ),
    "unknown_message": (
        "There is no such message in this queue",
        "It was acknowledged, deleted or taken, or its time to live ended.",
    ),
    "in_progress": (
        "A request with this Idempotency-Key is still under way",
        "Wait a moment and send it again.",
    ),
    "key_reused": (
        "The Idempotency-Key was used for something else",
        "A key belongs to one message, or one call; take a new one. Nothing was changed.",
    ),
    "not_empty": (
        "There are messages in the queue",
        "Work them off or purge them first, or say force=true.",
    ),
    "priorities_off": (
        "The queue has no priorities",
        "Set priorities to true in the queue's settings, or leave priority out.",
    ),
    "rate_limited": (
        "More than the queue's rate allows",
        "Wait as long as Retry-After says; put_rate and receive_rate are settings of the queue.",
    ),
    "queue_full": (
        "The queue is full",
        "Wait until messages were worked off, or raise max_length or max_bytes in its settings.",
    ),
    "too_many_bindings": (
        "Too many bindings",
        "A log has 100 at most. Take away those that are not needed, or let one pattern choose more.",
    ),
    "too_many_queues": (
        "There are as many queues as there may be",
        "Delete some, or ask the operator to raise the limit.",
    ),
    "too_large": ("Too large", "Send less, or raise the limit that detail names."),
    "unsupported_media_type": ("Not this type from a page", "Send application/json."),
    "upgrade_required": ("This is a WebSocket", "Speak RFC 6455 here."),
    "internal_error": ("A fault of ours", "The log has the traceback."),
    "unavailable": ("Not now", "Try again a little later."),
    "store_away": ("The store does not answer", "Nothing was changed; try again a little later."),
    "outcome_unknown": (
        "It may or may not have happened",
        "The store was lost before its reply; look before you repeat.",
    ),
    "store_full": ("The store is at its memory limit", "Nothing was changed; make room."),
    "store_refused": ("The store answered with an error", "Nothing was changed; see detail."),
}


def retry_seconds(ms: int) -> int:
    """A time in ms as Retry-After has it: whole seconds, at least one."""
    return max(1, -(-ms // 1000))


def code_of(problem: BaseException | None, status: int) -> str:
    """The word for an error."""
    if isinstance(problem, Problem):
        return problem.code
    for kind in type(problem).__mro__:
        if kind in CODES:
            return CODES[kind]
    return CODES_OF_STATUS.get(status, "error")


def problem_document(
    status: int, code: str, detail: str, problem: BaseException | None = None
) -> dict[str, Any]:
    """The members that every problem has, and those of a `Problem`."""
    title = TITLES.get(code, ("Error", ""))[0]
    more = problem.members() if isinstance(problem, Problem) else {}
    return {
        "type": f"/errors/{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail or title,
        **more,
    }


class ErrorPage(Endpoint):
    """``/errors/CODE``."""

    @endpoint(Access.NONE, page=True)
    @describe(
        path={"code": {"type": "string", "pattern": "^[a-z_]+$"}},
        replies={200: Content(("text/html",)), 404: Content(("text/html",))},
    )
    def get(self, code: str) -> Reply:
        """Cause and cure. Raises Refusal 404 for a code that is none."""
        if code not in TITLES:
            raise Refusal(404, "there is no such error")
        title, cure = map(html.escape, TITLES[code])
        page = f"<html><title>{title}</title><body><h1>{title}</h1><p>{cure}</p></body></html>\n"
        return Reply(200, page.encode("ascii"))
