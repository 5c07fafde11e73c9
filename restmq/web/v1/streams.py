"""``/v1/queues/QUEUE/stream``, ``/v1/stream`` and ``/sse/QUEUE``: server-sent events, or ndjson.

Events when ``Accept`` asks for ``text/event-stream`` (``/sse`` always), else one JSON object a line. A client that
comes back says where it was: ``Last-Event-ID`` or ``cursor``. See docs/streams.md.

WHATWG HTML, section 9.2: after an answer that is not 200 a browser never tries again. So while the
store is away the stream begins and waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from restmq.errors import BadRequest
from restmq.names import queue_name
from restmq.web import streams
from restmq.web.choices import PARAMETERS, read_choices, read_cursors
from restmq.web.describe import NAME, STRING, Content, describe, items
from restmq.web.endpoint import Access, endpoint
from restmq.web.event_stream import begin_over_http, event_wire
from restmq.web.stream import Choices, Cursor
from restmq.web.v1.endpoint import V1Endpoint, v1_name
from restmq.web.v1.events import read_event_stream
from restmq.web.wires import NDJSON, SSE, SSE_OF_MANY, Wire

EVENT_STREAM: Final = "text/event-stream"
MAX_QUEUES: Final = 100
CHOICES: Final = dict.fromkeys(sorted(PARAMETERS), STRING)
STREAM: Final = {200: Content((EVENT_STREAM, "application/x-ndjson"))}
HEADERS: Final = (
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
)


class _Streaming(V1Endpoint):
    def stream(self, queues: list[str], given: dict[str, list[str]], sse: bool) -> Any:
        """Begin the stream when the queues allow it."""
        settings = self.settings
        texts = {name: values[0] for name, values in given.items() if name != "queue"}
        choices = read_choices(texts, settings, settings.heartbeat)
        last = self.request.headers.get("last-event-id") or texts.get("cursor")
        wanted = dict(zip(queues, read_cursors(last, len(queues)), strict=True))
        checked = streams.check(self.broker, queues, choices)
        return checked.addCallback(lambda here: self._begin(wanted, here, choices, sse))

    def _begin(
        self,
        queues: Mapping[str, Cursor | None],
        here: Mapping[str, Cursor],
        choices: Choices,
        sse: bool,
    ) -> None:
        exchange = self.exchange
        chunked = exchange.head.http_1_1
        wire: Wire = NDJSON[chunked]
        if sse:
            wire = (SSE if len(queues) == 1 else SSE_OF_MANY)[chunked]
        headers = (*HEADERS, ("X-Request-Id", self.request_id))
        content_type = EVENT_STREAM if sse else "application/x-ndjson"
        exchange.start_stream(content_type, headers)
        streams.begin(self.broker, exchange, wire, choices, queues, here=here)

    @property
    def wants_events(self) -> bool:
        """Accept asks for server-sent events."""
        return EVENT_STREAM in self.request.headers.get("accept", "")


class QueueStream(_Streaming):
    """``/v1/queues/QUEUE/stream``."""

    @endpoint(Access.COMET, pops=True)
    @describe(query=CHOICES, replies=STREAM, endless=True)
    def get(self, queue: str) -> Any:
        """Stream what is pushed from the queue."""
        return self.stream([v1_name(queue)], self.query(PARAMETERS), self.wants_events)


class ManyStreams(_Streaming):
    """``/v1/stream``."""

    @endpoint(Access.COMET, pops=True)
    @describe(
        query={"queue": items(NAME), "topic": items(STRING), "log": STRING, **CHOICES},
        replies=STREAM,
        endless=True,
    )
    def get(self) -> Any:
        """Stream what is pushed from each ``queue``, or the events of each ``topic``."""
        given = self.query((*PARAMETERS, "log"), ("queue", "topic"))
        if "topic" in given:
            if "queue" in given:
                raise BadRequest(
                    "a stream is of queues or of topics: queue and topic do not go together"
                )
            return self._events(given)
        if "log" in given:
            raise BadRequest("log goes with topic: queues have none")
        queues = [v1_name(queue) for queue in given.get("queue", [])]
        if not 1 <= len(queues) <= MAX_QUEUES or len(set(queues)) != len(queues):
            raise BadRequest(f"queue must name 1 to {MAX_QUEUES} different queues, one each")
        return self.stream(queues, given, self.wants_events)

    def _events(self, given: dict[str, list[str]]) -> None:
        """Begin a stream of events."""
        asked = read_event_stream(given, self.settings, self.request.headers.get("last-event-id"))
        exchange, sse = self.exchange, self.wants_events
        headers = (*HEADERS, ("X-Request-Id", self.request_id))
        exchange.start_stream(EVENT_STREAM if sse else "application/x-ndjson", headers)
        wire = event_wire(sse, exchange.head.http_1_1)
        begin_over_http(self.broker, exchange, wire, asked)


class Sse(_Streaming):
    """``/sse/QUEUE``: the short way, for any name a queue may have."""

    @endpoint(Access.COMET, pops=True)
    def get(self, queue: str) -> Any:
        """Stream events."""
        return self.stream([queue_name(queue)], self.query(PARAMETERS), True)
