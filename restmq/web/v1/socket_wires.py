"""What ``/v1/ws`` pushes: messages and events as objects with a ``type``, a text frame each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson

from restmq.message import Message
from restmq.web.event_json import event_members
from restmq.web.event_stream import EventEncoder, EventWire
from restmq.web.message_json import leased_members, members
from restmq.web.socket import text_frame
from restmq.web.wires import Gap, PerLife


class Frames(PerLife):
    """Message objects with a ``type``, a text frame each; the same for all clients of a kind."""

    transport = "websocket"

    def __init__(self, bits: int | None) -> None:
        super().__init__()
        self._bits = bits

    def whole(self, message: Message, epoch: int) -> bytes:
        """The message in its frame."""
        return text_frame(b'{"type":"message",%b}' % members(message, epoch), self._bits)

    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """The object with its receipt."""
        text = leased_members(message, receipt, lease_until_ms)
        return text_frame(b'{"type":"message",%b}' % text, self._bits)

    def say(self, word: str, value: Mapping[str, Any]) -> bytes:
        """A frame that is no message."""
        return text_frame(orjson.dumps({"type": word, **value}), self._bits)

    def missed(self, queue: str, count: int) -> bytes:
        """``missed``."""
        return self.say("missed", {"queue": queue, "missed": count})

    def gap(self, gap: Gap, cursor: str) -> bytes:
        """``gap``."""
        return self.say("gap", {**gap._asdict(), "cursor": cursor})


@cache
def frames(bits: int | None) -> Frames:
    """The wire for clients of one kind."""
    return Frames(bits)


class EventFrames(Frames, EventWire):
    """Event objects with a ``type``, a text frame each."""

    def whole(self, message: Any, epoch: int) -> bytes:
        """The event in its frame."""
        return text_frame(b'{"type":"event",%b}' % event_members(message, epoch), self._bits)

    def event_encoder(self, epoch: int) -> EventEncoder:
        """See EventWire."""
        encode: Any = self.encoder(epoch)
        return encode  # type: ignore[no-any-return]

    def place(self, cursor: str) -> bytes:
        """``cursor``."""
        return self.say("cursor", {"cursor": cursor})


@cache
def event_frames(bits: int | None) -> EventFrames:
    """The wire of events for clients of one kind."""
    return EventFrames(bits)
