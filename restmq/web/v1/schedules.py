"""``/v1/schedules``: what puts a message into a queue at certain times, see docs/schedules.md.

``PUT /v1/schedules/NAME`` takes ``{"cron", "timezone"?, "queue", "message", "paused"?}``, the message being as an
item of a batch: ``{"body", "content_type"?, "encoding"?, "ttl"?, "priority"?, "headers"?}``. What is wrong is named by the member.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred

from restmq.core.runs import run_time
from restmq.core.schedules import MAX_MESSAGE_BYTES, MAX_SCHEDULES, Found, Made, Page, Schedule
from restmq.errors import BadRequest
from restmq.message import NewMessage
from restmq.rules.schedule import MAX_CRON, Timetable
from restmq.web.describe import (
    ANYTHING,
    BOOLEAN,
    CURSOR,
    NAME,
    SECONDS,
    STRING,
    TIME,
    WHOLE,
    describe,
    items,
    record,
    whole,
    words,
)
from restmq.web.endpoint import Access, Refusal, Reply, endpoint
from restmq.web.message_json import body_members, is_json
from restmq.web.v1.endpoint import V1Endpoint, v1_name
from restmq.web.v1.messages import HEADERS
from restmq.web.v1.new_messages import MAX_PRIORITY, USUAL, Bounds, encode_headers
from restmq.web.v1.problems import Fault, Problem

MEMBERS: Final = ("cron", "timezone", "queue", "message", "paused")
MESSAGE_MEMBERS: Final = ("body", "content_type", "encoding", "ttl", "priority", "headers")
ENCODINGS: Final = ("json", "text", "base64")
MAX_LIST: Final = 1000
DEFAULT_LIST: Final = 100
MAX_TTL_SECONDS: Final = 10 * 365 * 86400
MAX_CONTENT_TYPE: Final = 250

ASKED: Final = record(
    {"timezone?": STRING, "paused?": {"enum": [True, False, 1, 0]}},
    cron={"type": "string", "minLength": 9, "maxLength": MAX_CRON},
    queue=NAME,
    message=record(
        {
            "content_type?": {"type": "string", "maxLength": MAX_CONTENT_TYPE},
            "encoding?": words(*ENCODINGS),
            "ttl?": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TTL_SECONDS},
            "priority?": whole(0, MAX_PRIORITY),
            "headers?": HEADERS,
        },
        body=ANYTHING,
    ),
)
SHOWN: Final = record(
    name=STRING,
    cron=STRING,
    timezone=STRING,
    queue=NAME,
    message=record(
        {"ttl?": SECONDS, "priority?": whole(1, MAX_PRIORITY), "headers?": HEADERS},
        content_type=STRING,
        body=ANYTHING,
        encoding=words(*ENCODINGS),
    ),
    paused=BOOLEAN,
    next_run={**TIME, "type": ["string", "null"]},
    last_run={**TIME, "type": ["string", "null"]},
    last_id={"type": ["integer", "null"]},
    missed=WHOLE,
)


# ---- what a client says


def read_schedule(name: str, value: dict[str, Any], bounds: Bounds = USUAL) -> Schedule:
    """The schedule in the body of a PUT. Raises Problem, which points to the member that is wrong."""
    try:
        return _schedule(name, value, bounds)
    except BadRequest as error:
        member, _, what = str(error).partition(": ")
        fault = Fault("/" + member.replace(".", "/"), what)
        raise Problem("bad_request", str(error), faults=(fault,)) from None


def _schedule(name: str, value: dict[str, Any], bounds: Bounds) -> Schedule:
    """The same. Raises BadRequest, its text beginning with the member and a colon."""
    cron = _text(value, "cron")
    timezone = _text(value, "timezone", "UTC")
    queue = _name("queue", _text(value, "queue"))
    paused = value.get("paused", False)
    if paused not in (True, False):  # 1 and 0 are equal to them
        raise BadRequest(f"paused: true or false, not {_shown(paused)}")
    message = _message(value.get("message"), bounds)
    return Schedule(name, Timetable(cron, timezone), queue, message, bool(paused))


def _name(member: str, text: str) -> str:
    try:
        return v1_name(text)
    except BadRequest as error:
        raise BadRequest(f"{member}: {str(error).replace('a queue name', 'a name')}") from None


def _text(value: dict[str, Any], member: str, default: str | None = None, of: str = "") -> str:
    found = value.get(member, default)
    if found is None:
        raise BadRequest(f"{of}{member}: must be there")
    if not isinstance(found, str):
        raise BadRequest(f"{of}{member}: a string, not {_shown(found)}")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _message(value: Any, bounds: Bounds) -> NewMessage:
    if not isinstance(value, dict):
        raise BadRequest(f'message: an object such as {{"body": "..."}}, not {_shown(value)}')
    unknown = [name for name in value if name not in MESSAGE_MEMBERS and not name.startswith("_")]
    if unknown:
        raise BadRequest(
            f"message.{unknown[0][:60]}: unknown; known here: {', '.join(sorted(MESSAGE_MEMBERS))}"
        )
    body, content_type = _body(value)
    if content_type is not None and is_json(content_type):
        _check_json(body)
    if len(body) > MAX_MESSAGE_BYTES:
        raise Refusal(
            413, f"message.body: at most {MAX_MESSAGE_BYTES} bytes, this one has {len(body)}"
        )
    priority, headers = value.get("priority", 0), _headers(value.get("headers", {}), bounds)
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise BadRequest(
            f"message.priority: a whole number from 0 to {MAX_PRIORITY}, not {_shown(priority)}"
        )
    # Below 0: in a queue without priorities it is no error, which would hold the schedule up.
    return NewMessage(body, content_type, _ttl_ms(value), priority=-priority, headers=headers)


def _ttl_ms(value: dict[str, Any]) -> int:
    if "ttl" not in value:
        return 0
    ttl = value["ttl"]
    if type(ttl) not in (int, float) or not 0 < ttl <= MAX_TTL_SECONDS:
        raise BadRequest(
            f"message.ttl: a number of seconds above 0, at most {MAX_TTL_SECONDS}, not {_shown(ttl)}"
        )
    ms: int = max(1, round(ttl * 1000))
    return ms


def _headers(value: Any, bounds: Bounds) -> bytes:
    """As they are kept: a JSON object, nothing for none."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BadRequest(f"message.headers: an object of strings, not {_shown(value)}")
    try:
        return encode_headers(value, bounds) if value else b""
    except Problem as problem:
        raise BadRequest(f"message.headers: {problem.why}") from None


def _body(value: dict[str, Any]) -> tuple[bytes, str | None]:
    """The body's bytes and the content type to keep."""
    if "body" not in value:
        raise BadRequest("message.body: must be there")
    given, encoding = value["body"], value.get("encoding")
    kind = _text(value, "content_type", "", "message.")
    if len(kind) > MAX_CONTENT_TYPE or not (kind.isascii() and kind.isprintable()):
        raise BadRequest(
            f"message.content_type: at most {MAX_CONTENT_TYPE} printable ASCII characters"
        )
    if "encoding" in value and encoding not in ENCODINGS:
        raise BadRequest(f"message.encoding: one of {', '.join(ENCODINGS)}")
    if encoding == "json" or (encoding is None and not isinstance(given, str)):
        return orjson.dumps(given), kind or "application/json"
    if not isinstance(given, str):
        raise BadRequest(f"message.body: with encoding {encoding} a string")
    if encoding != "base64":
        return given.encode("utf-8"), kind or None
    try:
        return b64decode(given, validate=True), kind or "application/octet-stream"
    except (binascii.Error, ValueError):
        raise BadRequest("message.body: not valid base64") from None


def _check_json(body: bytes) -> None:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"message.body: not the JSON that its type says it is: {error}") from None


def read_cursor(text: str) -> str:
    """The name behind which a page begins. Raises BadRequest."""
    try:
        return urlsafe_b64decode(text).decode("utf-8")
    except (binascii.Error, ValueError):
        raise BadRequest("cursor: the cursor of another page") from None


# ---- what it is told


def shown(found: Found) -> dict[str, Any]:
    """A schedule as a JSON object; orjson writes it."""
    schedule, state = found.schedule, found.state
    message = schedule.message
    ttl = b',"ttl":%b' % orjson.dumps(message.ttl_ms / 1000) if message.ttl_ms else b""
    members = body_members(message.body, message.content_type)
    more = b',"priority":%d' % -message.priority if message.priority else b""
    if message.headers:
        more += b',"headers":' + message.headers
    return {
        "name": schedule.name,
        "cron": schedule.timetable.cron,
        "timezone": schedule.timetable.timezone,
        "queue": schedule.queue,
        "message": orjson.Fragment(b"{%b%b%b}" % (members, ttl, more)),
        "paused": schedule.paused,
        "next_run": None if found.next_run is None else run_time(found.next_run),
        "last_run": run_time(state.last) if state.last else None,
        "last_id": state.last_id or None,
        "missed": state.missed,
    }


class _OfSchedules(V1Endpoint):
    def look(self, name: str, status: int = 200) -> Deferred[Reply]:
        """Answer with the schedule; Refusal 404 if there is none of this name."""

        def found(it: Found | None) -> Reply:
            if it is None:
                raise Refusal(404, f"there is no schedule {name!r}")
            return self.json(shown(it), status)

        return self.broker.schedules.find(name).addCallback(found)


class OneSchedule(_OfSchedules):
    """``/v1/schedules/NAME``."""

    @endpoint(Access.CONSUMER)
    @describe(replies={200: SHOWN})
    def get(self, name: str) -> Deferred[Reply]:
        """The schedule, with its next run and its last."""
        self.query(())
        return self.look(_name("name", name))

    @endpoint(Access.PRODUCER)
    @describe(body=ASKED, replies={200: SHOWN, 201: SHOWN})
    def put(self, name: str) -> Deferred[Reply]:
        """Make it, or replace it as a whole."""
        self.query(())
        bounds = Bounds.of(self.settings)
        schedule = read_schedule(_name("name", name), self.object(MEMBERS), bounds)

        def was_set(made: Made) -> Deferred[Reply]:
            if made is Made.TOO_MANY:
                raise Refusal(409, f"there are {MAX_SCHEDULES} schedules, as many as there may be")
            return self.look(name, 201 if made is Made.NEW else 200)

        return self.broker.schedules.set(schedule).addCallback(was_set)

    @endpoint(Access.PRODUCER)
    @describe(replies={204: None})
    def delete(self, name: str) -> Deferred[Reply]:
        """It is gone, whether or not it was there."""
        self.query(())
        removed = self.broker.schedules.remove(_name("name", name))
        return removed.addCallback(lambda _: Reply(204, no_store=True))


class PauseSchedule(_OfSchedules):
    """``/v1/schedules/NAME/pause``."""

    @endpoint(Access.PRODUCER)
    @describe(replies={200: SHOWN})
    def post(self, name: str) -> Deferred[Reply]:
        """No more runs until it is resumed."""
        self.query(())
        done = self.broker.schedules.pause(_name("name", name))
        return done.addCallback(lambda _: self.look(name))


class ResumeSchedule(_OfSchedules):
    """``/v1/schedules/NAME/resume``."""

    @endpoint(Access.PRODUCER)
    @describe(replies={200: SHOWN})
    def post(self, name: str) -> Deferred[Reply]:
        """Runs are due again, from now on."""
        self.query(())
        done = self.broker.schedules.resume(_name("name", name))
        return done.addCallback(lambda _: self.look(name))


class AllSchedules(V1Endpoint):
    """``/v1/schedules``."""

    @endpoint(Access.CONSUMER)
    @describe(
        query={"limit": whole(1, MAX_LIST), "cursor": STRING},
        replies={200: record(schedules=items(SHOWN), cursor=CURSOR)},
    )
    def get(self) -> Deferred[Reply]:
        """A page of them, in the order of their names."""
        given = self.query(("limit", "cursor"))
        limit = given.get("limit", [str(DEFAULT_LIST)])[0]
        if not (limit.isascii() and limit.isdigit()) or not 1 <= int(limit[:9]) <= MAX_LIST:
            raise BadRequest(f"limit: a whole number from 1 to {MAX_LIST}, not {_shown(limit)}")
        behind = read_cursor(given.get("cursor", [""])[0])
        return self.broker.schedules.page(behind, int(limit)).addCallback(self._page)

    def _page(self, page: Page) -> Reply:
        cursor = None
        if page.more:
            last = page.found[-1].schedule.name.encode("utf-8")
            cursor = urlsafe_b64encode(last).decode("ascii")
        return self.json({"schedules": [shown(it) for it in page.found], "cursor": cursor})
