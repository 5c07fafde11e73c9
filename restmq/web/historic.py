r"""JSON exactly as the original wrote it, for clients that compare bytes.

Members come in a fixed order, ``", "`` and ``": "`` stand between them, everything beyond ASCII is
escaped in small hexadecimal digits, and ``</`` is written ``<\/`` so that no value can end a
script element. What is sent for every message is put together by hand round the C encoder for
strings; the rest goes through ``dumps``.

A body that is not UTF-8 comes back as base64, and then, and only then, there is one member more at
the end: ``"encoding": "base64"``.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from restmq.message import Message, Peeked
from restmq.web.channel import chunk

ENCODED: Final = ', "encoding": "base64"'
KEPT_CALLBACKS: Final = 256
"""Callback names whose encoders are kept, so that consumers with one name share the work."""

Encoder = Callable[[Message], bytes]


def dumps(value: Any) -> str:
    """Any JSON value; dicts in their order."""
    return json.dumps(value).replace("</", "<\\/")


def quoted(text: str) -> str:
    """A JSON string, with its quotation marks."""
    return encode_basestring_ascii(text).replace("</", "<\\/")


def _value(body: bytes | None) -> tuple[str, str]:
    """A message's body as JSON, and the member that is added at the end if it is base64."""
    if body is None:
        return "null", ""
    try:
        return quoted(str(body, "utf-8")), ""
    except UnicodeDecodeError:
        return f'"{b64encode(body).decode("ascii")}"', ENCODED


# -- single messages ------------------------------------------------------------------------------


def popped(message: Message) -> bytes:
    """The reply of GET /q/Q and GET /?queue=Q; ``count`` was never anything but 0 there."""
    value, more = _value(message.body)
    key = quoted(message.key)
    return f'{{"count": 0, "key": {key}, "value": {value}{more}}}\r\n'.encode("ascii")


def added(queue: str, value: str, key: str) -> bytes:
    """The reply to the command add."""
    text = f'{{"queue": {quoted(queue)}, "value": {quoted(value)}, "key": {quoted(key)}}}'
    return text.encode("ascii")


def peeked(found: Peeked) -> bytes:
    """The reply to the command get."""
    message, count = found
    value, more = _value(message.body)
    queue, key = quoted(message.queue), quoted(message.key)
    text = f'{{"queue": {queue}, "count": {count}, "value": {value}, "key": {key}{more}}}'
    return text.encode("ascii")


def taken(message: Message) -> bytes:
    """The reply to the command take."""
    value, more = _value(message.body)
    queue, key = quoted(message.queue), quoted(message.key)
    return f'{{"queue": {queue}, "value": {value}, "key": {key}{more}}}'.encode("ascii")


# -- messages on a stream -------------------------------------------------------------------------


def line(message: Message) -> bytes:
    """A message on a COMET stream of HTTP/1.0: one line."""
    value, more = _value(message.body)
    return f'{{"key": {quoted(message.key)}, "value": {value}{more}}}\r\n'.encode("ascii")


def chunked_line(message: Message) -> bytes:
    """A message on a COMET stream of HTTP/1.1: one line in a chunk of its own."""
    return chunk(line(message))


@lru_cache(maxsize=KEPT_CALLBACKS)
def line_for(callback: str | None, chunked: bool) -> Encoder:
    """The encoder for a stream, with or without a JSONP callback (a valid identifier).

    Streams of one kind get the same function, so that a Batch is encoded once for all of them.
    """
    if callback is None:
        return chunked_line if chunked else line
    start = callback.encode("ascii") + b"("

    def call(message: Message) -> bytes:
        return start + line(message)[:-2] + b");\r\n"

    def chunked_call(message: Message) -> bytes:
        return chunk(call(message))

    return chunked_call if chunked else call
