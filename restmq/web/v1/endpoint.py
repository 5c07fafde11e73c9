"""The base of the handlers under ``/v1``: errors as problem documents, parameters read strictly.

An error is ``application/problem+json`` (RFC 9457) with ``type``, ``title``, ``status``, ``code``,
``detail`` and ``request_id``; ``type`` is a page that names cause and cure.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Collection
from typing import Any, Final

import orjson

from restmq.errors import BadMember, BadRequest
from restmq.rules.queue_settings import DEAD
from restmq.web.endpoint import Endpoint, Refusal, Reply
from restmq.web.queries import query_pairs
from restmq.web.v1.given import Given, read_given
from restmq.web.v1.problems import Fault, Problem, code_of, problem_document

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
MAX_NAME_BYTES: Final = 255
MAX_FIELDS: Final = 200
RESERVED: Final = frozenset(
    (
        *("messages", "batch", "receive", "stream", "settings", "purge", "pause", "resume"),
        *("redrive", "release"),
    )
)
"""Words that end a path after a queue's name; no name ends with one."""

_numbers: Final = itertools.count(1)
_DAEMON: Final = secrets.token_hex(6)
"""Begins every request id of this process."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")


def v1_name(name: str) -> str:
    """The name if a queue may bear it under ``/v1``. Raises BadRequest.

    Each has a dead-letter queue, so that ending does not count.
    """
    if not name or len(name.removesuffix(DEAD).encode("utf-8")) > MAX_NAME_BYTES:
        raise BadRequest(f"a queue name has 1 to {MAX_NAME_BYTES} bytes, not counting {DEAD}")
    if _CONTROL.search(name):
        raise BadRequest("a queue name has no control characters")
    segments = name.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise BadRequest("a queue name has no empty segment, and none that is . or ..")
    if segments[-1] in RESERVED:
        raise BadRequest(f"a queue name does not end with the word {segments[-1]!r}")
    return name


def named_queue(path: str, given: Given) -> str:
    """The queue a call is for: named in its path, or (there it is empty) by the parameter ``queue``.

    Raises Problem.
    """
    named = given.text("queue")
    if not path and named is None:
        why = "queue must name the queue, in the path or as a parameter"
        raise Problem("bad_request", why, faults=(Fault("queue", "is missing"),))
    if path and named is not None:
        fault = Fault(given.where("queue"), "is there twice")
        raise Problem("bad_request", "the path names the queue already", faults=(fault,))
    return v1_name(path or named or "")


def new_request_id() -> str:
    """A request id that no other request has."""
    return f"{_DAEMON}-{next(_numbers)}"


def problem_reply(refusal: Refusal) -> Reply:
    """The problem document of a request that no handler sees."""
    request_id, code = new_request_id(), code_of(refusal, refusal.status)
    document = problem_document(refusal.status, code, refusal.why, refusal)
    body = orjson.dumps({**document, "request_id": request_id}) + b"\n"
    headers = (*refusal.headers, ("X-Request-Id", request_id))
    return Reply(refusal.status, body, PROBLEM, headers, no_store=True)


def query_of(
    text: str, known: Collection[str], several: Collection[str] = ()
) -> dict[str, list[str]]:
    """See `V1Endpoint.query`."""
    try:
        pairs = query_pairs(text, MAX_FIELDS)
    except UnicodeDecodeError:
        raise BadRequest("the query is not valid UTF-8") from None
    except ValueError:
        raise BadRequest(f"the query has more than {MAX_FIELDS} fields") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.startswith("_"):
            continue
        if name not in known and name not in several:
            raise BadRequest(f"unknown parameter {name!r}; known here: {', '.join(sorted(known))}")
        if name in found and name not in several:
            raise BadRequest(f"the parameter {name!r} is there twice")
        found.setdefault(name, []).append(value)
    return found


class V1Endpoint(Endpoint):
    """A handler under ``/v1``. HEAD is there wherever GET takes nothing."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        get = cls.__dict__.get("get")
        operation = getattr(get, "operation", None)
        if operation is not None and not (operation.pops or operation.handshake):
            cls.head = get  # type: ignore[attr-defined]
        super().__init_subclass__(**kwargs)

    _request_id: str | None = None

    @property
    def request_id(self) -> str:
        """The client's X-Request-Id if it is a good one, else one of ours."""
        if self._request_id is None:
            sent = self.request.headers.get("x-request-id", "")
            self._request_id = sent if _REQUEST_ID.fullmatch(sent) else new_request_id()
        return self._request_id

    @property
    def request_id_line(self) -> bytes:
        """The header line that tells it."""
        return b"X-Request-Id: %b\r\n" % self.request_id.encode("ascii")

    def json(
        self, value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()
    ) -> Reply:
        """A value as a reply that nobody stores."""
        return self.encoded(orjson.dumps(value) + b"\n", status, headers)

    def encoded(
        self,
        body: bytes,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        lines: bytes = b"",
    ) -> Reply:
        """JSON as a reply that nobody stores; ``lines`` as in Reply."""
        lines = self.request_id_line + lines
        return Reply(status, body, JSON, headers, no_store=True, lines=lines)

    def nothing(self, status: int = 204, lines: bytes = b"") -> Reply:
        """A reply without a body; ``lines`` as in Reply."""
        return Reply(status, no_store=True, lines=self.request_id_line + lines)

    def error(
        self,
        status: int,
        why: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        problem: BaseException | None = None,
    ) -> Reply:
        """The problem document."""
        code = code_of(problem, status)
        if code == "store_full":
            status = 507
        document = problem_document(status, code, why, problem)
        if isinstance(problem, BadMember):
            document["errors"] = [{"pointer": problem.pointer, "detail": problem.detail}]
        document["request_id"] = self.request_id
        body, lines = orjson.dumps(document) + b"\n", self.request_id_line
        return Reply(status, body, PROBLEM, headers, no_store=True, lines=lines)

    # ---- parameters

    def given(self, known: Collection[str], lists: Collection[str] = ()) -> Given:
        """The parameters of the query and of the JSON object in the body, which may be missing.

        With an Origin (a page) the type must be JSON, so that no form of another site passes.
        Raises Problem; see `read_given`.
        """
        request = self.request
        if request.body:
            self.refuse_form()
        return read_given(request.query, request.body, known, lists)

    def given_in_query(self, known: Collection[str]) -> Given:
        """The parameters of a call whose body is something else."""
        return read_given(self.request.query, b"", known, ())

    def refuse_form(self) -> None:
        """Raise Refusal 415 for a body that a page sent and that does not say it is JSON."""
        if dict.__contains__(self.request.headers, "origin"):
            sent = self.request.headers.get("content-type", "").partition(";")[0].strip()
            if sent.lower() != JSON:
                raise Refusal(415, "from a page the type must be application/json")

    def query(self, known: Collection[str], several: Collection[str] = ()) -> dict[str, list[str]]:
        """The query's parameters by name. Raises BadRequest for unknown and repeated ones.

        Those that begin with ``_`` are ignored; only ``several`` may be repeated.
        """
        return query_of(self.request.query, known, several)

    def object(self, known: Collection[str] | None) -> dict[str, Any]:
        """The JSON object in the body; an empty body is an empty one. Raises BadRequest.

        ``known`` None: whoever asks looks at the members. With an Origin (a page) the type must be JSON, so that no form of another site passes.
        """
        body = self.request.body
        if not body:
            return {}
        self.refuse_form()
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise BadRequest("the body must be a JSON object")
        if known is None:
            return value
        unknown = [name for name in value if name not in known and not name.startswith("_")]
        if unknown:
            raise BadRequest(
                f"unknown member {unknown[0]!r}; known here: {', '.join(sorted(known))}"
            )
        return value
