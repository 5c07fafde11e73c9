"""A message as a JSON object, as all that is new gives it: HTTP, streams, WebSocket.

``{"queue", "id", "content_type", "body", "encoding", "headers", "priority", "created_at"}``, then
``error`` (what was said when it came back last), ``cursor`` where it was broadcast, and ``attempt``, ``receipt``
and ``lease_until`` under a lease. The body is the JSON as it was sent (``encoding`` "json"), a string
("text"), or base64 ("base64"). Times are RFC 3339, UTC, milliseconds.
"""

from __future__ import annotations

import time
from base64 import b64encode
from functools import lru_cache
from typing import Final
from urllib.parse import quote

import orjson

from restmq.event import Event
from restmq.message import Message

TEXT: Final = "text/plain"
BINARY: Final = "application/octet-stream"
_IN_FIELDS: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def is_json(content_type: str) -> bool:
    """Whether a media type says JSON: ``application/json`` or ``...+json`` (RFC 6839)."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


@lru_cache(maxsize=4096)
def quoted(text: str) -> bytes:
    """A JSON string."""
    return orjson.dumps(text)


@lru_cache(maxsize=8)
def _seconds(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode("ascii")


def field_value(text: str) -> str:
    """A text as the value of a header field (RFC 9110, section 5.5): as it is where it is printable ASCII.

    Anything else, a line end above all, is percent-encoded UTF-8 as a whole, ``%`` too.
    """
    return text if text.isascii() and text.isprintable() else quote(text, safe=_IN_FIELDS)


def rfc3339(ms: int) -> bytes:
    """A time in milliseconds since 1970 as ``2026-11-22T01:02:03.004Z``."""
    seconds, rest = divmod(ms, 1000)
    return b"%b.%03dZ" % (_seconds(seconds), rest)


def shown_body(message: Message | Event) -> tuple[bytes, bytes, str]:
    """The body as JSON, how it is encoded, and its content type."""
    body, content_type = message.body, message.content_type
    if body is None:
        return b"null", b"text", content_type or TEXT
    if content_type is not None and is_json(content_type):
        return body.translate(_LINE_BREAKS), b"json", content_type
    try:
        return orjson.dumps(body.decode("utf-8")), b"text", content_type or TEXT
    except UnicodeDecodeError:
        return b'"%b"' % b64encode(body), b"base64", content_type or BINARY


def shown_content_type(message: Message) -> str:
    """The content type that clients are told."""
    return message.content_type or shown_body(message)[2]


def members(message: Message, epoch: int = 0) -> bytes:
    """The members of the object, without its braces."""
    body, encoding, content_type = shown_body(message)
    text = (
        b'"queue":%b,"id":%d,"content_type":%b,"body":%b,"encoding":"%b",'
        b'"headers":%b,"priority":%d,"created_at":"%b"'
    ) % (
        quoted(message.queue),
        message.id,
        quoted(content_type),
        body,
        encoding,
        message.headers or b"{}",
        message.priority,
        rfc3339(message.created_ms),
    )
    if message.error:
        text = b'%b,"error":%b' % (text, orjson.dumps(message.error))
    if message.placed:
        return b'%b,"cursor":"%d-%d"' % (text, epoch, message.id)
    return text


def leased_members(message: Message, receipt: str, lease_until_ms: int) -> bytes:
    """The same under a lease."""
    return b'%b,"attempt":%d,"receipt":"%b","lease_until":"%b"' % (
        members(message),
        message.attempt,
        receipt.encode("ascii"),
        rfc3339(lease_until_ms),
    )


def body_members(body: bytes, content_type: str | None) -> bytes:
    """The members ``content_type``, ``body`` and ``encoding`` alone."""
    text, encoding, kind = shown_body(Message("", 0, body, content_type))
    return b'"content_type":%b,"body":%b,"encoding":"%b"' % (quoted(kind), text, encoding)
