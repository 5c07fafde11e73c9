"""``/c/NAME``: a response that never ends, as the original had it.

Nothing is sent, not even a status line, before the first message (``?flush=1``: the head at once).
Then each message is a line of JSON, in HTTP/1.1 a chunk of its own, in HTTP/1.0 plain, with a
callback a JSONP call. DELETE of the queue ends the response.

With ``Accept: application/x-ndjson`` that is its type and the head comes at once. Who names a choice
of ``restmq.web.choices`` is also told how much it missed, in a line ``{"missed": 3}``.

``/c/?topic=PATTERN`` streams the events of topics: the objects of ``/v1/stream``, in lines such as these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from restmq.errors import BadRequest, LeasedOnly, StoreError
from restmq.message import QueueInfo
from restmq.web import streams, wires
from restmq.web.choices import PARAMETERS, read_choices, read_cursors
from restmq.web.endpoint import Access, Endpoint, endpoint
from restmq.web.event_stream import begin_over_http, event_comet
from restmq.web.reply import JAVASCRIPT
from restmq.web.stream import Choices, Cursor, Stream
from restmq.web.v1.endpoint import query_of
from restmq.web.v1.events import read_event_stream

NDJSON: Final = "application/x-ndjson"
HEADERS: Final = (("X-Content-Type-Options", "nosniff"), ("X-Accel-Buffering", "no"))


class Comet(Endpoint):
    """``/c/NAME``."""

    @endpoint(Access.COMET, jsonp=True, pops=True)
    def get(self, queue: str) -> Any:
        """Stream what is pushed from the queue, or the events of each ``topic``."""
        if any(part.split("=")[0] == "topic" for part in self.request.query.split("&")):
            if queue:
                raise BadRequest(
                    "a stream is of a queue or of topics: /c/?topic=PATTERN names no queue"
                )
            return self._events()
        given = {name: text for name in PARAMETERS if (text := self.parameter(name)) is not None}
        if not given:
            return self._as_recorded(queue)
        choices = read_choices(given, self.settings, heartbeat=0)
        (cursor,) = read_cursors(given.get("cursor"), 1)
        checked = streams.check(self.broker, [queue], choices)
        return checked.addCallback(lambda _: self._begin({queue: cursor}, choices, True) and None)

    def _events(self) -> None:
        """Begin a stream of events; what they may be asked is as on ``/v1/stream``."""
        known = (*PARAMETERS, "log", "callback", "flush")
        given = query_of(self.request.query, known, ("topic",))
        texts = {name: given[name] for name in given if name not in ("callback", "flush")}
        last = self.request.headers.get("last-event-id")
        asked = read_event_stream(texts, self.settings, last, heartbeat=0)
        callback, _, content_type = self._form()
        exchange = self.start_stream(content_type, HEADERS)
        wire = event_comet(callback, exchange.chunked)
        begin_over_http(self.broker, exchange, wire, asked)

    def _as_recorded(self, queue: str) -> Any:
        """No choice made: the client is attached before anything is asked."""
        choices = read_choices({}, self.settings, heartbeat=0)
        stream = self._begin({queue: None}, choices, False)

        def looked(info: QueueInfo) -> None:
            streams.refuse_unfit(info, choices)

        def refused(failure: Any) -> None:
            if failure.check(StoreError) and not failure.check(LeasedOnly):
                return  # it is away: the stream waits
            if stream is not None:
                stream.left()
            failure.raiseException()

        return self.broker.inspect(queue).addCallback(looked).addErrback(refused)

    def _form(self) -> tuple[str | None, bool, str | bytes]:
        """The callback, whether ndjson is asked for, and the content type."""
        callback = self._callback
        ndjson = callback is None and NDJSON in self.request.headers.get("accept", "")
        content_type = JAVASCRIPT if callback is not None else NDJSON if ndjson else "text/plain"
        return callback, ndjson, content_type

    def _begin(
        self, queues: Mapping[str, Cursor | None], choices: Choices, talks: bool
    ) -> Stream | None:
        callback, ndjson, content_type = self._form()
        at_once = ndjson or self.parameter("flush") == "1"
        exchange = self.start_stream(content_type, HEADERS, at_once=at_once)
        wire = wires.comet(callback, exchange.chunked, talks, ndjson)
        return streams.begin(self.broker, exchange, wire, choices, queues)
