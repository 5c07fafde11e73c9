"""The bytes of events in the store, and what the log scripts are told and answer (``lua/log_*.lua``)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from restmq.event import Event, EventCursor, LogInfo, NewEvent
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode_arguments
from restmq.redis.scripts import Script
from restmq.rules.retention import Retention

HEAD: Final = 19
_CHUNK_HEAD: Final = 26
KEPT: Final = 4096
"""How many logs' encoded keys are kept."""


def encode_event(event: NewEvent) -> bytes:
    """The payload of an entry: see log_common.lua."""
    topic = event.topic.encode("utf-8")
    kind = (event.content_type or "").encode("ascii")
    return b"%c%b%c%b%b%b%b" % (
        len(topic),
        topic,
        len(kind),
        kind,
        len(event.headers).to_bytes(2, "big"),
        event.headers,
        event.body,
    )


def decode_event(entry: bytes) -> Event:
    """The event of an entry."""
    kind_at = HEAD + 1 + entry[HEAD]
    headers_at = kind_at + 1 + entry[kind_at]
    body_at = headers_at + 2 + int.from_bytes(entry[headers_at : headers_at + 2], "big")
    return Event(
        entry[HEAD + 1 : kind_at].decode("utf-8"),
        int.from_bytes(entry[:7], "big"),
        entry[body_at:],
        entry[kind_at + 1 : headers_at].decode("ascii") or None,
        entry[headers_at + 2 : body_at],
        int.from_bytes(entry[7:13], "big"),
        int.from_bytes(entry[13:19], "big"),
    )


class Chunk(NamedTuple):
    """Events that were appended in one step: ``prev + 1`` to ``last``; ``size`` is about their bytes."""

    epoch: int
    prev: int
    last: int
    events: list[Event]
    size: int


def decode_chunk(data: bytes) -> Chunk:
    """What comes on a log's channel."""
    count = int.from_bytes(data[22:26], "big")
    sizes = struct.unpack_from(f">{count}I", data, _CHUNK_HEAD)
    at = _CHUNK_HEAD + 4 * count
    events = []
    for size in sizes:
        events.append(decode_event(data[at : at + size]))
        at += size
    epoch, prev, last = (int.from_bytes(data[at : at + 7], "big") for at in (1, 8, 15))
    return Chunk(epoch, prev, last, events, len(data))


def encode_retention(retention: Retention) -> bytes:
    """The rules of log_common.lua: limits and pattern of each, in this daemon's order."""
    told = []
    for limits, name in zip(retention.limits, retention.patterns, strict=True):
        pattern = name.encode("utf-8")
        told += [number.to_bytes(6, "big") for number in limits]
        told += [len(pattern).to_bytes(2, "big"), pattern]
    return b"".join(told)


class State(NamedTuple):
    """What ``log_state.lua`` tells; ``bindings`` is their version."""

    epoch: int
    last: int
    bindings: bytes
    info: LogInfo


def state_answer(reply: Any) -> State:
    """Where the log is."""
    now, epoch, last = map(int, reply[:3])
    ends = [decode_event(entry) if entry else None for entry in reply[5:7]]
    numbers = [(event.id, event.created_ms) if event else (0, 0) for event in ends]
    info = LogInfo(reply[4], *numbers[0], *numbers[1], now, EventCursor(epoch, last))
    return State(epoch, last, reply[3], info)


class Found(NamedTuple):
    """What ``log_read.lua`` tells. ``reached`` 0: to the end; ``trimmed``: topic ("": any) and id."""

    now_ms: int
    epoch: int
    last: int
    after: int
    reset: bool
    reached: int
    trimmed: list[tuple[str, int]]
    events: list[Event]


def found_answer(reply: Any) -> Found:
    """A page."""
    now, epoch, last, after = map(int, reply[:4])
    gone = reply[6]
    trimmed = [
        (topic.decode("utf-8"), int(number))
        for topic, number in zip(gone[::2], gone[1::2], strict=True)
    ]
    events = [decode_event(entry) for entry in reply[7]]
    return Found(now, epoch, last, after, reply[4] == 1, int(reply[5]), trimmed, events)


class LogScripts:
    """EVALSHA commands for the log scripts, with a log's keys encoded once."""

    def __init__(self, keys: Keys, scripts: Mapping[str, Script]) -> None:
        """``scripts`` by name; ``keys`` spells the keys of logs."""
        self.keys = keys
        self._scripts = scripts
        self._heads: dict[tuple[str, str], bytes] = {}
        self._count = len(keys.log("main"))

    def call(self, script: str, log: str, count: int, arguments: bytes) -> bytes:
        """The command, encoded; ``arguments`` is ``count`` arguments encoded already."""
        head = self._heads.get((script, log))
        if head is None:
            if len(self._heads) >= KEPT:
                self._heads.clear()
            names = self.keys.log(log)
            sha = self._scripts[script].sha
            head = encode_arguments(b"EVALSHA", sha, b"%d" % len(names), *names, b"0")
            self._heads[script, log] = head
        return b"*%d\r\n%s%s" % (self._count + 4 + count, head, arguments)
