"""``/collectd/``: what collectd sends becomes a message.

``/collectd/data`` takes metrics, as text or JSON, into the queue ``collectd_data``; ``/collectd/event``
notifications into ``collectd_event``. A request is one message, or refused as a whole. GET and DELETE
are those of ``/q/``, under the same names, as in the original: GET ``/collectd/data`` pops the queue ``data``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import orjson
from twisted.internet.defer import Deferred

from restmq import collectd_text
from restmq.errors import BadRequest
from restmq.web.dispatcher import Rule
from restmq.web.endpoint import Access, Refusal, Reply, endpoint
from restmq.web.rest import JSON, Queue, Queues, added, refuse_larger

TEXT: Final = "text/plain"


class Collectd(Queue):
    """``/collectd/NAME``."""

    @endpoint(Access.PRODUCER, jsonp=True)
    def post(self, queue: str = "") -> Deferred[Reply]:
        """Add a request of collectd's as one message."""
        convert = _CONVERTERS.get(queue)
        if convert is None:
            raise BadRequest("collectd posts to /collectd/data or /collectd/event")
        content_type: str = self.request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        limit = self.settings.max_message_bytes
        refuse_larger(self.request.body, limit)
        body = convert(kind, self.request.body)
        refuse_larger(body, limit)
        queue = f"collectd_{queue}"
        done: Deferred[int] = self.broker.add(queue, body)
        return done.addCallback(added, queue)


class CollectdList(Collectd):
    """``/collectd/``: the list of queues, as ``/q/``."""

    get = Queues.get


def _data(kind: str, body: bytes) -> bytes:
    if kind == JSON:
        return _json(body)
    if kind != TEXT:
        raise Refusal(415, f"metrics are {TEXT} (PUTVAL) or {JSON}, this is {kind!r}")
    return json.dumps(collectd_text.metrics(_text(body))).encode("ascii")


def _event(kind: str, body: bytes) -> bytes:
    """A notification, whatever it is labelled; curl says it is a form."""
    if kind == JSON:
        return _json(body)
    return json.dumps(collectd_text.event(_text(body))).encode("ascii")


def _json(body: bytes) -> bytes:
    """The JSON as it came, once it is known to be some."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"this is not JSON: {error}") from None
    return body


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the text is not valid UTF-8 at byte {error.start}") from None


_CONVERTERS: Final[dict[str, Callable[[str, bytes], bytes]]] = {"data": _data, "event": _event}

ROUTES: Final[tuple[Rule, ...]] = (
    (r"/collectd/", CollectdList),  #  GET c: list as a page; POST p: 400; DELETE p: of the queue ''
    (r"/collectd/(.+)", Collectd),  #  GET c: pop; POST p: add; DELETE p: purge
)
"""What the collectd daemon has besides the broker's own routes."""
