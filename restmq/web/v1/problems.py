"""The errors of ``/v1`` in words: codes, titles, and a page for each that names cause and cure.

Problem documents: RFC 9457. Their ``type`` is the path of the page.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Final

from restmq.errors import (
    BadRequest,
    LeasedOnly,
    OutcomeUnknown,
    StoreAway,
    StoreFull,
    StoreRefused,
    WrongDelivery,
)
from restmq.web.describe import Content, describe
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint

CODES: Final[Mapping[type[BaseException], str]] = {
    BadRequest: "bad_request",
    LeasedOnly: "leased_only",
    WrongDelivery: "wrong_delivery",
    StoreAway: "store_away",
    OutcomeUnknown: "outcome_unknown",
    StoreFull: "store_full",
    StoreRefused: "store_refused",
}
CODES_OF_STATUS: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
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
    "too_large": ("Too large", "Send less, or raise the limit that detail names."),
    "unsupported_media_type": ("Not this type from a page", "Send application/json."),
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


def code_of(problem: BaseException | None, status: int) -> str:
    """The word for an error."""
    for kind in type(problem).__mro__:
        if kind in CODES:
            return CODES[kind]
    return CODES_OF_STATUS.get(status, "error")


def problem_document(status: int, code: str, detail: str) -> dict[str, Any]:
    """The members that every problem has."""
    title = TITLES.get(code, ("Error", ""))[0]
    return {
        "type": f"/errors/{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail or title,
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
