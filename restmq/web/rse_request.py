"""What a client of RSE (Really Simple Events) says: channel, sender and parameters, as values.

The words are those of RSE's own requests; what it left open and what its server let pass is in
docs/rse.md. Everything that is wrong is a BadRequest that names the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import orjson

from restmq.errors import BadRequest
from restmq.event import EventCursor
from restmq.rules.selection import Selection
from restmq.rules.topics import parse_topic
from restmq.web.queries import query_pairs

OPEN_UUID: Final = "00000000-0000-4000-8000-000000000000"
"""Of clients that name none, where that is allowed."""

DEFAULT_EVENTS: Final = 200
MOST_EVENTS: Final = 500
MAX_ID: Final = (1 << 53) - 1
MAX_FIELDS: Final = 200
MAX_CALLBACK: Final = 128
SHORT: Final = 256
"""Queries of so many characters are remembered: a poller sends the same one until something comes."""

READING: Final = ("last-known-id", "max-events", "sort", "echo", "events", "wait")
POSTING: Final = ("method", "post-data", "callback")

_UUID: Final = re.compile(r"uuid/([\x21-\x7e]{36})")
_CALLBACK: Final = re.compile(r"[A-Za-z0-9_]+")
_PLACE: Final = re.compile(r"(?:([0-9]{1,16})-)?([0-9]{1,16})")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_TRUE: Final = ("true", "yes", "on", "1")

SELECTIONS: Final[Mapping[str, Callable[[str], Selection]]] = {
    "exact": Selection.exact,
    "parent": Selection.parents,
    "all": Selection.below,
}


# ---- channels


@lru_cache(maxsize=4096)
def topic_of(path: str) -> str:
    """The topic of the channel ``/path``. Raises BadRequest for what is none."""
    if "." in path:
        raise BadRequest("channel: a segment holds no dot")
    if path.startswith("/") or path.endswith("/") or "//" in path:
        raise BadRequest("channel: a segment is empty (// or a / at the end)")
    return parse_topic(path.replace("/", "."), "channel")


def channel_of(topic: str) -> str:
    """The channel that a topic is."""
    return "/" + topic.replace(".", "/")


# ---- senders


class Sender(NamedTuple):
    """Who asks: the whole User-Agent, and the UUID in it, by which own events are told."""

    user_agent: str
    uuid: str


def read_sender(user_agent: str | None, *, anonymous: bool) -> Sender:
    """The sender; without a UUID it is OPEN_UUID's, where ``anonymous`` ones may be. Raises BadRequest."""
    if not user_agent:
        raise BadRequest("Missing header: User-Agent")
    if '"' in user_agent or "\\" in user_agent:
        raise BadRequest('User-Agent header: it holds neither " nor \\')
    uuid = uuid_in(user_agent)
    if uuid is None and not anonymous:
        raise BadRequest("Missing UUID in User-Agent header")
    return Sender(user_agent, uuid or OPEN_UUID)


def uuid_in(user_agent: str) -> str | None:
    """The 36 characters behind ``uuid/``."""
    found = _UUID.search(user_agent)
    return None if found is None else found[1]


# ---- parameters


def read_query(query: str, known: tuple[str, ...]) -> Mapping[str, str]:
    """The parameters by name, those that begin with ``_`` left out.

    Raises BadRequest, which names it, for one that is unknown or there twice.
    """
    return (_short_query if len(query) <= SHORT else _query)(query, known)


def _query(query: str, known: Collection[str]) -> Mapping[str, str]:
    try:
        pairs = query_pairs(query, MAX_FIELDS)
    except UnicodeDecodeError:
        raise BadRequest("a parameter is not valid UTF-8") from None
    except ValueError:
        raise BadRequest(f"there are more than {MAX_FIELDS} parameters") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name.startswith("_"):
            continue
        if name not in known:
            raise BadRequest(f"{name}: no such parameter here; known: {', '.join(known)}")
        if name in found:
            raise BadRequest(f"{name}: it is there twice")
        found[name] = value
    return found


_short_query: Final = lru_cache(maxsize=4096)(_query)


def read_callback(given: Mapping[str, str]) -> str | None:
    """The JSONP callback, if one is named. Raises BadRequest."""
    name = given.get("callback")
    if name is not None and (len(name) > MAX_CALLBACK or not _CALLBACK.fullmatch(name)):
        raise BadRequest("Invalid callback name: callback is letters, digits and _")
    return name


def is_true(text: str) -> bool:
    """RSE's booleans: true, yes, on and 1 in any case; everything else is false."""
    return text.lower() in _TRUE


class Poll(NamedTuple):
    """What a reader asks for. ``after`` None: the oldest that is kept."""

    after: EventCursor | None
    limit: int
    newest_first: bool
    echo: bool
    events: str
    wait_seconds: float

    @property
    def by_number(self) -> bool:
        """The place is an id as RSE has it, which shows nothing of the life of the store."""
        return self.after is not None and self.after.epoch == 0


def read_poll(given: Mapping[str, str], max_wait_seconds: float) -> Poll:
    """The parameters of a read. Raises BadRequest."""
    events = given.get("events", "exact")
    if events not in SELECTIONS:
        raise BadRequest(f"events: it is one of {', '.join(SELECTIONS)}")
    return Poll(
        after=_place(given.get("last-known-id", "0")),
        limit=_limit(given.get("max-events")),
        newest_first=given.get("sort") == "-1",
        echo=given.get("echo") == "true",
        events=events,
        wait_seconds=_wait(given.get("wait", "0"), max_wait_seconds),
    )


def _place(text: str) -> EventCursor | None:
    found = _PLACE.fullmatch(text)
    if found is None or int(found[2]) > MAX_ID or int(found[1] or 0) > MAX_ID:
        raise BadRequest(f"last-known-id: it is an id, a whole number from 0 to {MAX_ID}")
    cursor = EventCursor(int(found[1] or 0), int(found[2]))
    return cursor if any(cursor) else None


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_EVENTS
    if not _WHOLE.fullmatch(text) or int(text) == 0:
        raise BadRequest(f"max-events: it is a whole number from 1; {MOST_EVENTS} is the most")
    return min(int(text), MOST_EVENTS)


def _wait(text: str, most: float) -> float:
    if not _SECONDS.fullmatch(text) or float(text) > most:
        raise BadRequest(f"wait: it is a number of seconds from 0 to {most:g}")
    return float(text)


# ---- what is posted


def is_post(given: Mapping[str, str]) -> bool:
    """Whether a GET is a JSONP post. Raises BadRequest for a method that is none here."""
    method = given.get("method", "GET")
    if method not in ("GET", "POST"):
        raise BadRequest("method: it is POST or GET, in capitals")
    if method == "GET" and "post-data" in given:
        raise BadRequest("post-data: it goes with method=POST")
    return method == "POST"


def read_post_data(given: Mapping[str, str]) -> bytes:
    """The event of a JSONP post. Raises BadRequest."""
    if not given.get("post-data"):
        raise BadRequest("post-data: it must hold the event")
    return given["post-data"].encode("utf-8")


def check_json(body: bytes) -> None:
    """Raise BadRequest unless this is JSON with an object or an array at its root."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict | list):
        raise BadRequest("Invalid JSON: the event is a JSON object or array")
