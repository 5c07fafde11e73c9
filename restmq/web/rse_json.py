"""Events as RSE's clients read them."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import orjson

from restmq.event import Event, EventGap
from restmq.web.encoded import Encoded
from restmq.web.message_json import is_json, quoted
from restmq.web.rse_request import OPEN_UUID, Sender, channel_of, uuid_in

JSON: Final = "application/json; charset=utf-8"
SENDER: Final = "user-agent"
"""The header of an event that holds its sender's User-Agent."""

NOBODY: Final = Sender("RestMQ uuid/00000000-0000-0000-0000-000000000000", "")
"""The sender of events that came by another door; its UUID is nobody's."""


def sender_headers(sender: Sender) -> bytes:
    """The headers of an event of this sender."""
    return orjson.dumps({SENDER: sender.user_agent})


@lru_cache(maxsize=4096)
def sender_of(headers: bytes) -> Sender:
    """Who sent the event with these headers."""
    user_agent = orjson.loads(headers).get(SENDER) if headers else None
    if not isinstance(user_agent, str):
        return NOBODY
    return Sender(user_agent, uuid_in(user_agent) or OPEN_UUID)


@lru_cache(maxsize=1024)
def created_at(seconds: int) -> str:
    """Seconds since 1970 as ``2011-01-12 13:25:29Z``."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def event_json(event: Event, now_ms: int, with_channel: bool) -> bytes:
    """One event; ``age`` is what the server's clock says, so that no two clocks are compared."""
    before, behind = _round_age(event, with_channel)
    return b"%b%d%b" % (before, max(0, now_ms - event.created_ms) // 1000, behind)


def _parts(event: Event, with_channel: bool) -> tuple[bytes, bytes]:
    channel = b'"channel":%b,' % quoted(channel_of(event.topic)) if with_channel else b""
    before = b'{"id":%d,%b"user_agent":%b,"created_at":"%b","age":' % (
        event.id,
        channel,
        quoted(sender_of(event.headers).user_agent),
        created_at(event.created_ms // 1000).encode("ascii"),
    )
    return before, b',"data":%b}' % _data(event)


_round_age: Final = Encoded(_parts)


def _data(event: Event) -> bytes:
    """The JSON as it was sent; text that came by another door as a string, bytes as base64."""
    if event.content_type is not None and is_json(event.content_type):
        return event.body
    try:
        return orjson.dumps(event.body.decode("utf-8"))
    except UnicodeDecodeError:
        return b'"%b","encoding":"base64"' % b64encode(event.body)


def events_json(
    channel: str, events: Iterable[Event], now_ms: int, gap: EventGap | None, with_channel: bool
) -> bytes:
    """The reply to a read. ``gap`` says that events before these are no longer kept."""
    found = b",".join([event_json(event, now_ms, with_channel) for event in events])
    text = b'{"channel":%b,"events":[%b]' % (quoted(channel), found)
    if gap is None:
        return text + b"}"
    return b'%b,"gap":%b}' % (text, orjson.dumps(gap.members))


def script(callback: str, value: bytes) -> bytes:
    """A call of the JSONP callback; the two characters that end a line in old scripts are escaped."""
    safe = value.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return b"%b(%b);" % (callback.encode("ascii"), safe)


def message_json(text: str) -> bytes:
    """An error."""
    return orjson.dumps({"message": text})
