"""CloudEvents 1.0 over HTTP, binary mode: attributes are ``ce-`` header fields, the body is the data.

Protocol: CloudEvents 1.0.2, and its HTTP protocol binding, section 3.1. The values are kept as they were
sent, percent-encoded, among the headers of the event. An event that is read has the id ``epoch-id``, as
its cursor; the id its producer gave is the extension ``originid``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import quote, unquote

import orjson

from restmq.errors import BadRequest
from restmq.event import Event
from restmq.web.message_json import field_value, rfc3339

PREFIX: Final = "ce-"
VERSION_FIELD: Final = "ce-specversion"
VERSION: Final = "1.0"
REQUIRED: Final = ("ce-id", "ce-source", "ce-type")
ORIGIN_FIELD: Final = "ce-originid"
DEFAULT_TYPE: Final = "restmq.event"
"""The type of events that were published as something else."""

_NAME: Final = re.compile(r"ce-[a-z0-9]+")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}.*", re.ASCII)


def cloud_event_headers(fields: Mapping[str, str]) -> dict[str, str]:
    """The attributes among a request's header fields (lower-case names); none if it is no CloudEvent.

    Raises BadRequest, which names the field, for one that is missing or makes no sense.
    """
    version = fields.get(VERSION_FIELD)
    if version is None:
        return {}
    if version != VERSION:
        raise BadRequest(f"{VERSION_FIELD}: it is {VERSION} here, not {version[:20]!r}")
    found = {name: value for name, value in fields.items() if name.startswith(PREFIX)}
    for name in REQUIRED:
        if not found.get(name):
            raise BadRequest(f"{name}: a CloudEvent must have it")
    for name, value in found.items():
        _check(name, value)
    return found


def _check(name: str, value: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise BadRequest(f"{name}: an attribute's name has lower-case letters and digits only")
    if name == "ce-datacontenttype":
        raise BadRequest(f"{name}: in binary mode it is Content-Type that says it")
    try:
        decoded = unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(f"{name}: it is not percent-encoded UTF-8") from None
    if name == "ce-time" and not _is_time(decoded):
        raise BadRequest(f"{name}: it is an RFC 3339 time, such as 2026-11-22T12:00:00Z")


def _is_time(text: str) -> bool:
    if _TIME.fullmatch(text) is None:
        return False
    try:
        return datetime.fromisoformat(text.upper()).tzinfo is not None
    except ValueError:
        return False


def as_cloud_event(event: Event, epoch: int) -> tuple[tuple[str, str], ...]:
    """The header fields of an event that is read, its own and those it was published with.

    What was published as something else gets the attributes that every CloudEvent has.
    """
    kept: dict[str, str] = orjson.loads(event.headers) if event.headers else {}
    attributes = {name: value for name, value in kept.items() if name.startswith(PREFIX)}
    found = {
        VERSION_FIELD: VERSION,
        "ce-source": f"/v1/topics/{quote(event.topic, safe='')}",
        "ce-type": DEFAULT_TYPE,
        "ce-time": rfc3339(event.created_ms).decode("ascii"),
        **attributes,
    }
    if "ce-id" in found:
        found[ORIGIN_FIELD] = found["ce-id"]
    found["ce-id"] = f"{epoch}-{event.id}"
    others = [
        (f"RestMQ-Header-{name}", field_value(value))
        for name, value in kept.items()
        if name not in attributes
    ]
    return (*found.items(), *others)
