"""An event as a JSON object: HTTP, streams, WebSocket.

``{"topic", "id", "cursor", "content_type", "body", "encoding", "created_at"}``, then ``headers`` where it
has some. The body is as a message's: see message_json.py.
"""

from __future__ import annotations

import orjson

from restmq.event import Event, EventGap, EventPage
from restmq.web.encoded import Encoded
from restmq.web.message_json import quoted, rfc3339, shown_body


def event_members(event: Event, epoch: int) -> bytes:
    """The members of the object, without its braces."""
    body, encoding, content_type = shown_body(event)
    text = (
        b'"topic":%b,"id":%d,"cursor":"%d-%d","content_type":%b,"body":%b,"encoding":"%b","created_at":"%b"'
        % (
            quoted(event.topic),
            event.id,
            epoch,
            event.id,
            quoted(content_type),
            body,
            encoding,
            rfc3339(event.created_ms),
        )
    )
    return b'%b,"headers":%b' % (text, event.headers) if event.headers else text


def aged(event: Event, epoch: int, now_ms: int) -> bytes:
    """The object with the seconds since it was published, by the store's clock."""
    age = max(0, now_ms - event.created_ms) / 1000
    return b'{%b,"age":%.3f}' % (_members(event, epoch), age)


_members = Encoded(event_members)


def gap_json(gap: EventGap) -> bytes:
    """``{"oldest", "reset", "missed"?}``."""
    return orjson.dumps(gap.members)


def page_json(page: EventPage) -> bytes:
    """``{"events", "cursor", "more", "gap"?}``."""
    epoch = page.cursor.epoch
    events = b",".join([aged(event, epoch, page.now_ms) for event in page.events])
    gap = b"" if page.gap is None else b',"gap":%b' % gap_json(page.gap)
    more = b"true" if page.more else b"false"
    cursor = page.cursor.text.encode("ascii")
    return b'{"events":[%b],"cursor":"%b","more":%b%b}\n' % (events, cursor, more, gap)
