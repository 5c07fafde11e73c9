"""What a client says of its stream: ``slow``, ``buffer``, ``ack``, ``lease``, ``observe``, ``heartbeat``, ``cursor``.

The same words on COMET, server-sent events, ndjson and WebSocket. Texts come in; whatever is wrong is
a BadRequest that names the parameter and what it may be. Numbers above a maximum are refused, not cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from restmq.errors import BadRequest
from restmq.rules.buffer import Slow
from restmq.settings import Settings
from restmq.web.stream import Choices, Cursor

PARAMETERS: Final = frozenset(
    ("slow", "buffer", "buffer_bytes", "ack", "lease", "observe", "heartbeat", "cursor")
)
MAX_HEARTBEAT: Final = 3600.0
MIN_LEASE: Final = 0.05

_TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}
_WHOLE: Final = re.compile(r"[0-9]{1,12}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_CURSOR: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,16})")


def read_choices(given: Mapping[str, str], settings: Settings, heartbeat: float) -> Choices:
    """The choices; ``heartbeat`` is the transport's default. Raises BadRequest."""
    acks = _truth(given, "ack")
    if "lease" in given and not acks:
        raise BadRequest("lease goes with ack=1: only then are messages acknowledged")
    observe = _truth(given, "observe")
    if observe and acks:
        raise BadRequest("an observer gets copies: it has nothing to acknowledge (observe, ack)")
    lease = _seconds(given, "lease", settings.lease, MIN_LEASE, settings.max_lease)
    return Choices(
        slow=_slow(given.get("slow", settings.stream_slow)),
        buffer=_whole(given, "buffer", settings.stream_buffer, settings.max_stream_buffer),
        buffer_bytes=_whole(
            given,
            "buffer_bytes",
            settings.stream_buffer_bytes,
            settings.max_stream_buffer_bytes,
        ),
        lease=lease if acks else None,
        observe=observe,
        heartbeat=_seconds(given, "heartbeat", heartbeat, 0.0, MAX_HEARTBEAT),
    )


def read_cursors(text: str | None, count: int) -> list[Cursor | None]:
    """The cursor of each of so many queues, from what the client got last. Raises BadRequest."""
    if not text:
        return [None] * count
    parts = text.split(",")
    found = [_CURSOR.fullmatch(part) for part in parts]
    if len(parts) != count or not all(found):
        raise BadRequest("cursor (Last-Event-ID) is not one that this stream gave")
    return [Cursor(int(match[1]), int(match[2])) for match in found if match]


def _truth(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "0").lower()
    if text not in _TRUTH:
        raise BadRequest(f"{name} is 1 or 0 (true or false), not {text!r}")
    return _TRUTH[text]


def _slow(text: str) -> Slow:
    try:
        return Slow(text)
    except ValueError:
        words = ", ".join(choice.value for choice in Slow)
        raise BadRequest(f"slow is one of {words}, not {text!r}") from None


def _whole(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= most:
        raise BadRequest(f"{name} is a whole number from 1 to {most}, not {text!r}")
    return int(text)


def _seconds(
    given: Mapping[str, str], name: str, default: float, least: float, most: float
) -> float:
    text = given.get(name)
    if text is None:
        return default
    if not _SECONDS.fullmatch(text) or not (least <= float(text) <= most):
        raise BadRequest(f"{name} is a number of seconds from {least:g} to {most:g}, not {text!r}")
    return float(text)
