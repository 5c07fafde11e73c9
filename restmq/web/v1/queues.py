"""``/v1/queues/QUEUE/messages`` and ``.../settings``: putting messages in, and what a queue does with them.

A queue that comes into being here has mode ``jobs``; with ``PUT .../settings`` first it is what that says.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred

from restmq.errors import BadRequest
from restmq.message import Mode, Policy, QueueInfo
from restmq.web.describe import (
    ID,
    MESSAGE_BODY,
    NAME,
    SECONDS,
    STRING,
    describe,
    record,
    whole,
    words,
)
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.message_json import is_json
from restmq.web.rest import refuse_larger, ttl_ms
from restmq.web.v1.endpoint import V1Endpoint, v1_name

FORM: Final = "application/x-www-form-urlencoded"
MAX_REPLAY_SECONDS: Final = 3600
MAX_REPLAY_MESSAGES: Final = 10000
DELIVERIES: Final = {"broadcast": Policy.BROADCAST, "roundrobin": Policy.ROUNDROBIN}
MODES: Final = {"open": Mode.OPEN, "jobs": Mode.JOBS}
SETTINGS: Final = {
    "delivery": words("broadcast", "roundrobin"),
    "mode": words("open", "jobs"),
    "replay": SECONDS,
    "replay_messages": whole(0, MAX_REPLAY_MESSAGES),
}
ALL_SETTINGS: Final = record(SETTINGS)


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


class Settings(V1Endpoint):
    """``/v1/queues/QUEUE/settings``."""

    @endpoint(Access.CONSUMER)
    @describe(replies={200: ALL_SETTINGS})
    def get(self, queue: str) -> Deferred[Reply]:
        """What the queue does."""
        self.query(())
        inspected: Deferred[QueueInfo] = self.broker.inspect(v1_name(queue))
        return inspected.addCallback(self._describe)

    @endpoint(Access.PRODUCER)
    @describe(
        body=record({f"{name}?": schema for name, schema in SETTINGS.items()}),
        replies={200: ALL_SETTINGS},
    )
    def patch(self, queue: str) -> Deferred[Reply]:
        """Change what is named; the answer is all of it. Of several all or none are changed."""
        self.query(())
        name, value = v1_name(queue), self.object(SETTINGS)
        inspected: Deferred[QueueInfo] = self.broker.inspect(name)
        return inspected.addCallback(self._change, value)

    put = patch

    def _change(self, info: QueueInfo, value: dict[str, Any]) -> Deferred[Reply]:
        """Raises BadRequest for a value that makes no sense, before anything is changed."""
        changed: Deferred[None] = self.broker.change(info.name, read_settings(value, info))
        inspected = changed.addCallback(lambda _: self.broker.inspect(info.name))
        return inspected.addCallback(self._describe)

    def _describe(self, info: QueueInfo) -> Reply:
        return self.json(described(info))


def described(info: QueueInfo) -> dict[str, Any]:
    """The settings of a queue; where nothing was set, what holds."""
    policy = info.policy or (Policy.ROUNDROBIN if info.mode is Mode.JOBS else Policy.BROADCAST)
    return {
        "delivery": policy.name.lower(),
        "mode": (info.mode or Mode.OPEN).name.lower(),
        "replay": info.replay_ms / 1000,
        "replay_messages": info.replay_messages,
    }


def read_settings(value: dict[str, Any], info: QueueInfo) -> dict[str, int]:
    """The store's fields for these settings. Raises BadRequest."""
    fields: dict[str, int] = {}
    if "delivery" in value:
        fields["pol"] = _word(value, "delivery", DELIVERIES).value
    if "mode" in value:
        fields["mode"] = _word(value, "mode", MODES).value
    if "replay" in value:
        fields["replay"] = round(_number(value, "replay", MAX_REPLAY_SECONDS) * 1000)
    if "replay_messages" in value:
        fields["replay_n"] = int(_number(value, "replay_messages", MAX_REPLAY_MESSAGES))
    if fields.get("mode", info.mode and info.mode.value) == Mode.JOBS.value and (
        fields.get("pol") == Policy.BROADCAST.value
    ):
        raise BadRequest("delivery: a queue in mode jobs is dealt round robin")
    return fields


def _word(value: dict[str, Any], name: str, words: dict[str, Any]) -> Any:
    found = words.get(value[name]) if isinstance(value[name], str) else None
    if found is None:
        raise BadRequest(f"{name} is one of {', '.join(words)}, not {value[name]!r}")
    return found


def _number(value: dict[str, Any], name: str, most: float) -> float:
    number = value[name]
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
        raise BadRequest(f"{name} is a number from 0 to {most}, not {number!r}")
    return number
