"""``/v1/queues/QUEUE/messages`` and ``.../batch``: putting messages in, looking at them, deleting one.

All is there without the queue in the path, too: ``/v1/messages?queue=NAME``. What is put under an
``Idempotency-Key`` a second time is answered as the first time, with ``Idempotency-Replayed: true``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from twisted.internet.defer import Deferred

from restmq.core.jobs import Found, Page
from restmq.message import NewMessage, Put, QueueInfo
from restmq.rules.queue_settings import DEAD, NO_DEAD_LETTERS
from restmq.web.describe import (
    ANYTHING,
    CURSOR,
    ID,
    JSON,
    MESSAGE_BODY,
    NAME,
    RECEIPT,
    STRING,
    TIME,
    WHOLE,
    Content,
    Schema,
    describe,
    items,
    record,
    seconds,
    whole,
    words,
)
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.message_json import members, quoted, rfc3339
from restmq.web.v1.endpoint import V1Endpoint, named_queue
from restmq.web.v1.given import Given
from restmq.web.v1.new_messages import (
    MAX_PRIORITY,
    MAX_SECONDS,
    NO_OPTIONS,
    OPTIONS,
    Batch,
    Bounds,
    kept_headers,
    key_digest,
    read_batch,
    read_lines,
    read_options,
    stated_type,
)
from restmq.web.v1.problems import Problem, retry_seconds

MAX_LIST: Final = 1000
DEFAULT_LIST: Final = 100
STATES: Final = ("ready", "leased", "delayed", "dead")
MAX_ID: Final = 2**53 - 1
NDJSON: Final = frozenset(
    ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
)
PUT_OPTIONS: Final[Mapping[str, Schema]] = {
    "ttl": seconds(0, MAX_SECONDS),
    "delay": seconds(0, MAX_SECONDS),
    "deliver_at": TIME,
    "priority": whole(0, MAX_PRIORITY),
}
PUT_HEADERS: Final = {"Idempotency-Key": STRING, "traceparent": STRING}
HEADERS: Final = {"type": "object", "additionalProperties": STRING}
ITEM: Final = record(
    {
        "content_type?": STRING,
        "encoding?": words("json", "text", "base64"),
        **{f"{name}?": schema for name, schema in PUT_OPTIONS.items()},
        "headers?": HEADERS,
        "idempotency_key?": STRING,
    },
    body=ANYTHING,
)
BATCH: Final = record(messages=items(ITEM, 1))
RESULTS: Final = record(
    results=items(
        {
            "anyOf": [
                record({"replayed?": {"type": "boolean"}}, id=ID),
                record(error=STRING),
            ]
        }
    ),
    failed=WHOLE,
)
_MESSAGE: Final[Mapping[str, Schema]] = {
    "queue": NAME,
    "id": ID,
    "content_type": STRING,
    "body": ANYTHING,
    "encoding": words("json", "text", "base64"),
    "headers": HEADERS,
    "priority": whole(0, MAX_PRIORITY),
    "created_at": TIME,
    "error?": STRING,
}
LEASED_MESSAGE: Final = record(_MESSAGE, attempt=ID, receipt=RECEIPT, lease_until=TIME)
SHOWN_MESSAGE: Final = record(
    {**_MESSAGE, "attempt?": ID, "lease_until?": TIME, "deliver_at?": TIME},
    state=words("ready", "leased", "delayed"),
)
MESSAGE_ID: Final = {"id": {"type": "string", "pattern": "^[1-9][0-9]{0,15}$"}}
REPLAYED: Final = b"Idempotency-Replayed: true\r\n"
DUE: Final[Mapping[str, bytes]] = {"leased": b"lease_until", "delayed": b"deliver_at"}
WHY: Final[Mapping[str, str]] = {
    "queue_full": "the queue is at its max_length or max_bytes: nothing was put",
    "rate_limited": "the queue's put_rate is reached: nothing was put",
    "key_reused": "the Idempotency-Key was used for another message: nothing was put",
    "priorities_off": "the queue's setting priorities is off: nothing was put",
    "in_progress": "a request with this Idempotency-Key is under way",
    "too_many_queues": "there are as many queues as there may be: nothing was put",
}


def refuse_larger(body: bytes, limit: int) -> None:
    """Raise Problem, which names the limit, for a message with more bytes."""
    if len(body) > limit:
        raise Problem("too_large", f"a message has at most {limit} bytes, this one {len(body)}")


def refused(put: Put) -> Problem:
    """The error for a message that was not put."""
    wait = retry_seconds(put.retry_ms) if put.error in ("queue_full", "rate_limited") else 0
    return Problem(put.error, WHY[put.error], retry_seconds=wait)


def results_of(puts: Sequence[Put]) -> tuple[bytes, int]:
    """The members of a batch's answer as JSON, and the seconds after which more may work (0: all did)."""
    if not any(put.error or put.replayed for put in puts):
        every = b",".join([b'{"id":%d}' % put.id for put in puts])
        return b'"results":[%b],"failed":0' % every, 0
    parts, failed, wait = [], 0, 0
    for put in puts:
        if put.error:
            failed += 1
            if put.error in ("queue_full", "rate_limited"):
                wait = max(wait, retry_seconds(put.retry_ms))
            parts.append(b'{"error":"%b"}' % put.error.encode("ascii"))
        else:
            parts.append(b'{"id":%d%b}' % (put.id, b',"replayed":true' if put.replayed else b""))
    return b'"results":[%b],"failed":%d' % (b",".join(parts), failed), wait


def page_limit(given: Given) -> int:
    """``limit`` of a list."""
    return given.whole("limit", DEFAULT_LIST, 1, MAX_LIST)


def message_id(text: str) -> int:
    """The id in a path. Raises Problem 404: what is no id names no message."""
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or not 1 <= int(text) <= MAX_ID:
        raise Problem("unknown_message", f"{text[:40]!r} is no message's id")
    return int(text)


def found_json(found: Found) -> bytes:
    """A message as an object that says where it is."""
    due = DUE.get(found.state)
    more = b',"%b":"%b"' % (due, rfc3339(found.due_ms)) if due else b""
    text = members(found.message)
    if found.message.attempt:
        text = b'%b,"attempt":%d' % (text, found.message.attempt)
    return b'{%b,"state":"%b"%b}' % (text, found.state.encode("ascii"), more)


class Messages(V1Endpoint):
    """``/v1/queues/QUEUE/messages``."""

    @endpoint(Access.PRODUCER)
    @describe(
        query={**PUT_OPTIONS, "content_type": STRING},
        headers=PUT_HEADERS,
        body=MESSAGE_BODY,
        replies={201: record(queue=NAME, id=ID)},
    )
    def post(self, queue: str) -> Deferred[Reply]:
        """Put the body in as a message."""
        fields, body = self.request.headers, self.request.body
        given = self.given_in_query(("queue", "content_type", *OPTIONS))
        name = named_queue(queue, given)
        refuse_larger(body, self.settings.max_message_bytes)
        sent = given.text("content_type") or dict.get(fields, "content-type", "")
        message = NewMessage(
            body,
            stated_type(sent, body),
            *read_options(given),
            kept_headers(fields, Bounds.of(self.settings)),
            key_digest(dict.get(fields, "idempotency-key", "")),
        )
        put: Deferred[list[Put]] = self.broker.put(name, [message])
        return put.addCallback(self._created, name)

    def _created(self, puts: list[Put], queue: str) -> Reply:
        put = puts[0]
        if put.error:
            raise refused(put)
        path = quote(queue, safe="").encode("ascii")
        lines = b"Location: /v1/queues/%b/messages/%d\r\n" % (path, put.id)
        body = b'{"queue":%b,"id":%d}\n' % (quoted(queue), put.id)
        return self.encoded(body, 201, lines=lines + REPLAYED if put.replayed else lines)

    @endpoint(Access.CONSUMER)
    @describe(
        query={"state": words(*STATES), "cursor": STRING, "limit": whole(1, MAX_LIST)},
        replies={200: record(messages=items(SHOWN_MESSAGE), cursor=CURSOR)},
    )
    def get(self, queue: str) -> Deferred[Reply]:
        """A page of messages, all left where they are."""
        given = self.given_in_query(("queue", "state", "cursor", "limit"))
        name, limit = named_queue(queue, given), page_limit(given)
        state = given.word("state", STATES) or "ready"
        cursor = given.text("cursor") or ""
        if state != "dead":
            return self._page(name, state, cursor, limit)
        inspected: Deferred[QueueInfo] = self.broker.inspect(name)
        return inspected.addCallback(self._dead, cursor, limit)

    def _dead(self, info: QueueInfo, cursor: str, limit: int) -> Deferred[Reply] | Reply:
        letters = dead_letters(info)
        if letters is None:
            return self._shown(Page([], None))
        return self._page(letters, "ready", cursor, limit)

    def _page(self, queue: str, state: str, cursor: str, limit: int) -> Deferred[Reply]:
        browsed: Deferred[Page] = self.broker.browse(queue, state, cursor, limit)
        return browsed.addCallback(self._shown)

    def _shown(self, page: Page) -> Reply:
        every = b",".join(map(found_json, page.found))
        cursor = quoted(page.cursor) if page.cursor else b"null"
        return self.encoded(b'{"messages":[%b],"cursor":%b}\n' % (every, cursor))


def dead_letters(info: QueueInfo) -> str | None:
    """The queue where the messages that failed wait; None: they are deleted."""
    said = info.settings.get("dead", b"").decode("utf-8")
    return None if said == NO_DEAD_LETTERS else said or info.name + DEAD


class BatchOfMessages(V1Endpoint):
    """``/v1/queues/QUEUE/batch``."""

    @endpoint(Access.PRODUCER, large=True)
    @describe(
        query=PUT_OPTIONS,
        headers=PUT_HEADERS,
        body=Content((JSON, "application/x-ndjson"), BATCH),
        replies={200: RESULTS},
    )
    def post(self, queue: str) -> Deferred[Reply]:
        """Put many messages in, each by itself; the answer says what became of each."""
        given = self.given_in_query(("queue", *OPTIONS))
        batch = self._read(given)
        if batch.queue is not None:
            given = given.also("queue", batch.queue)
        name = named_queue(queue, given)
        messages = keyed(batch.messages, dict.get(self.request.headers, "idempotency-key", ""))
        put: Deferred[list[Put]] = self.broker.put(name, messages)
        return put.addCallback(self._results)

    def _read(self, given: Given) -> Batch:
        request = self.request
        fields, body, bounds = request.headers, request.body, Bounds.of(self.settings)
        options = read_options(given) if given else NO_OPTIONS
        headers = kept_headers(fields, bounds)
        sent = dict.get(fields, "content-type", "").partition(";")[0].strip().lower()
        if sent in NDJSON:
            return Batch(read_lines(body, bounds, options, headers))
        self.refuse_form()
        return read_batch(body, bounds, options, headers)

    def _results(self, puts: list[Put]) -> Reply:
        results, wait = results_of(puts)
        retry = b"Retry-After: %d\r\n" % wait if wait else b""
        return self.encoded(b"{%b}\n" % results, lines=retry)


def keyed(messages: list[NewMessage], key: str) -> list[NewMessage]:
    """The messages of a batch under one key: each that has none gets one of its own from it."""
    if not key:
        return messages
    key_digest(key)
    return [
        message if message.key else message._replace(key=key_digest(f"{key[:240]} {place}"))
        for place, message in enumerate(messages)
    ]


class _One(V1Endpoint):
    def named(self, queue: str, text: str) -> tuple[str, int]:
        """Queue and id."""
        return named_queue(queue, self.given(("queue",))), message_id(text)

    def done(self, was: bool, queue: str, number: int) -> Reply:
        """204 if there was such a message."""
        if not was:
            raise unknown_message(queue, number)
        return self.nothing()


class OneMessage(_One):
    """``/v1/queues/QUEUE/messages/ID``."""

    @endpoint(Access.CONSUMER)
    @describe(path=MESSAGE_ID, replies={200: SHOWN_MESSAGE})
    def get(self, queue: str, id: str) -> Deferred[Reply]:
        """The message, wherever it is in the queue."""
        name, number = self.named(queue, id)
        found: Deferred[Found | None] = self.broker.find(name, number)
        return found.addCallback(self._shown, name, number)

    def _shown(self, found: Found | None, queue: str, number: int) -> Reply:
        if found is None:
            raise unknown_message(queue, number)
        return self.encoded(found_json(found) + b"\n")

    @endpoint(Access.PRODUCER)
    @describe(path=MESSAGE_ID, replies={204: None})
    def delete(self, queue: str, id: str) -> Deferred[Reply]:
        """Delete it, ready, delayed or leased."""
        name, number = self.named(queue, id)
        deleted: Deferred[bool] = self.broker.delete(name, number)
        return deleted.addCallback(self.done, name, number)


class Release(_One):
    """``/v1/queues/QUEUE/messages/ID/release``."""

    @endpoint(Access.PRODUCER)
    @describe(path=MESSAGE_ID, replies={204: None})
    def post(self, queue: str, id: str) -> Deferred[Reply]:
        """Make a delayed or leased message ready at once."""
        name, number = self.named(queue, id)
        released: Deferred[bool] = self.broker.release(name, number)
        return released.addCallback(self.done, name, number)


def unknown_message(queue: str, number: int) -> Problem:
    """The error for a message that is not there."""
    return Problem("unknown_message", f"there is no message {number} in {queue!r}")


def result_of(put: Put, queue: str) -> dict[str, Any]:
    """The members of the answer to one put. Raises Problem."""
    if put.error:
        raise refused(put)
    more = {"replayed": True} if put.replayed else {}
    return {"queue": queue, "id": put.id, **more}
