"""``/v1/queues/QUEUE/messages``: putting messages in.

A queue that comes into being here has mode ``jobs``; with ``PUT .../settings`` first it is what that says.
"""

from __future__ import annotations

from typing import Final

import orjson
from twisted.internet.defer import Deferred

from restmq.errors import BadRequest
from restmq.message import Mode
from restmq.web.describe import (
    ID,
    MESSAGE_BODY,
    NAME,
    SECONDS,
    STRING,
    describe,
    record,
)
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.message_json import is_json
from restmq.web.rest import refuse_larger, ttl_ms
from restmq.web.v1.endpoint import V1Endpoint, v1_name

FORM: Final = "application/x-www-form-urlencoded"


def stated_type(sent: str, body: bytes) -> str | None:
    """The content type to keep. curl's form type says nothing: JSON if it parses, else text (None).

    Raises BadRequest for a body that says it is JSON and is not, or an impossible type.
    """
    if not sent or sent.partition(";")[0].strip().lower() == FORM:
        return "application/json" if _parses(body) else None
    if not sent.isascii() or not sent.isprintable() or len(sent) > 255:
        raise BadRequest("the content type has at most 255 ASCII characters")
    if is_json(sent) and not _parses(body):
        raise BadRequest("invalid_json: the body is not the JSON that its type says it is")
    return sent


def _parses(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


class Messages(V1Endpoint):
    """``/v1/queues/QUEUE/messages``."""

    @endpoint(Access.PRODUCER)
    @describe(
        query={"ttl": SECONDS, "content_type": STRING},
        body=MESSAGE_BODY,
        replies={201: record(queue=NAME, id=ID)},
    )
    def post(self, queue: str) -> Deferred[Reply]:
        """Put the body in as a message."""
        name, body = v1_name(queue), self.request.body
        given = self.query(("ttl", "content_type"))
        refuse_larger(body, self.settings.max_message_bytes)
        sent = given.get("content_type", [self.request.headers.get("content-type", "")])[0]
        ttl = given.get("ttl")
        added: Deferred[int] = self.broker.add(
            name,
            body,
            0 if ttl is None else ttl_ms(ttl[0]),
            stated_type(sent, body),
            Mode.JOBS,
        )
        return added.addCallback(self._created, name)

    def _created(self, number: int, queue: str) -> Reply:
        return self.json({"queue": queue, "id": number}, 201)
