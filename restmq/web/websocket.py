"""``/ws/NAME``: the WebSocket door of 2010, on autobahn.

The handshake comes through the same port, origin and access checks as every request and is read
by ``restmq.web.handshake``; then autobahn has the connection. Each pushed message is a text frame
``{"key", "value"}``; what the client sends comes back as it was (an echo). The close handshake
ends the subscription.

RFC 6455; compressed as ``restmq.web.deflate`` says, if the settings want it. Credentials: HTTP Basic, or the cookie ``auth=user:password``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from restmq.message import Message
from restmq.web import deflate, handshake, historic, streams
from restmq.web.choices import PARAMETERS, read_choices, read_cursors
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint
from restmq.web.socket import PING_FRAME, Connection, Way, text_frame
from restmq.web.stream import (
    DELETED,
    SHUT_DOWN,
    TOO_SLOW,
    Choices,
    Cursor,
    Stream,
    bound_kernel_buffer,
)
from restmq.web.wires import Encoder, Wire

if TYPE_CHECKING:
    from restmq.settings import Settings

CLOSE_CODES: Final = {DELETED: 1000, SHUT_DOWN: 1001, TOO_SLOW: 4008}
"""Why we close, by RFC 6455, section 7.4; 4008 is our own: the client asked to be cut off."""


class HistoricFrames(Wire):
    """The text frames of 2010; who named a choice is told how much it missed.

    Frames are unmasked (RFC 6455, section 5.2), compressed for clients with a window of so many
    bits (None: not), and the same for all clients of a kind.
    """

    transport = "websocket"
    heartbeat = PING_FRAME

    def __init__(self, talks: bool, bits: int | None) -> None:
        self._talks = talks
        self._bits = bits
        self._encode = message_frame(bits)

    def encoder(self, epoch: int) -> Encoder:
        """The same for all lives of the store."""
        return self._encode

    def leased(self, message: Message, receipt: str, lease_until_ms: int) -> bytes:
        """The object with its receipt as one member more."""
        text = historic.line(message)[:-3] + b', "receipt": "%b"}' % receipt.encode("ascii")
        return text_frame(text, self._bits)

    def missed(self, queue: str, count: int) -> bytes:
        """``{"missed": 3}``."""
        return text_frame(b'{"missed": %d}' % count, self._bits) if self._talks else b""


@cache
def historic_frames(talks: bool, bits: int | None) -> HistoricFrames:
    """The wire for clients of one kind."""
    return HistoricFrames(talks, bits)


@cache
def message_frame(bits: int | None) -> Encoder:
    """The encoder of messages: one function for all clients with this window."""
    return lambda message: text_frame(historic.line(message)[:-2], bits)


class Plan(NamedTuple):
    """What is to be streamed to a client."""

    queue: str
    choices: Choices
    cursor: Cursor | None
    talks: bool


class WebSocket(Endpoint):
    """``/ws/NAME``."""

    @endpoint(Access.WEBSOCKET)
    def get(self, queue: str) -> Any:
        """Take the handshake, or refuse what is none as the original did."""
        head = self.request.head
        if not handshake.is_upgrade(head.headers):
            return Reply(403, b"Expected WebSocket Headers")
        try:
            asked = handshake.read(head)
        except Refusal as refusal:
            body = f"{refusal.why}\r\n".encode("ascii")
            return Reply(refusal.status, body, "text/plain", refusal.headers)
        given = {name: text for name in PARAMETERS if (text := self.parameter(name)) is not None}
        choices = read_choices(given, self.settings, heartbeat=0)
        (cursor,) = read_cursors(given.get("cursor"), 1)
        plan = Plan(queue, choices, cursor, bool(given))
        checked = streams.check(self.broker, [queue], choices)
        return checked.addCallback(lambda _: self._begin(plan, asked))

    def _begin(self, plan: Plan, asked: handshake.Handshake) -> None:
        if not self.exchange.open:
            return
        bound_kernel_buffer(self.exchange.transport)
        self.exchange.take_over(_Door(self.broker, plan, asked, self.settings))

    @endpoint(Access.WEBSOCKET)
    def post(self, queue: str) -> Reply:
        """No handshake."""
        return Reply(403, b"Expected WebSocket Headers")


class _Door(Connection):
    """One client: an echo, and a consumer of the queue from the handshake to the close."""

    def __init__(
        self, broker: Any, plan: Plan, asked: handshake.Handshake, settings: Settings
    ) -> None:
        super().__init__(broker, asked, settings)
        self._plan = plan
        self._stream: Stream | None = None

    def opened(self) -> None:
        """Begin the stream."""
        plan = self._plan
        wire = historic_frames(plan.talks, self.bits)
        way = Way(self.outlet, self._finished)
        self._stream = Stream(self.broker.beats, way, wire, plan.choices)
        self._stream.open(self.broker, {plan.queue: plan.cursor})

    def heard(self, payload: bytes, is_binary: bool) -> None:
        """Echo it, compressed unless autobahn might find the result too long."""
        plain = deflate.longest(len(payload)) > self.settings.max_websocket_message
        self.sendMessage(payload, is_binary, doNotCompress=plain)  # type: ignore[no-untyped-call]

    def closing(self) -> None:
        """The daemon ends: close once the kernel has all that is in hand."""
        if self._stream is not None:
            self._stream.shut_down()

    def _finished(self) -> None:
        reason = DELETED if self._stream is None else self._stream.reason
        self.say_farewell(CLOSE_CODES[reason], reason)

    def leave(self) -> None:
        """The stream is over."""
        if self._stream is not None:
            self._stream.left()
