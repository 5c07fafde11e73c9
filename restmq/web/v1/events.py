"""``/v1/events`` and ``/v1/topics/TOPIC/events``: publishing to topics, reading by cursor.

A page's ``cursor`` is where the next read begins, on whatever transport: ``cursor=`` here, on streams and
WebSockets, or ``Last-Event-ID``. See docs/events.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred

from restmq.core.event_reading import NOWHERE
from restmq.core.event_tail import Query
from restmq.errors import BadRequest
from restmq.event import MAIN_LOG, EventCursor, EventPage, NewEvent
from restmq.rules.selection import Selection
from restmq.rules.topics import parse_topic
from restmq.web.choices import read_choices
from restmq.web.cloudevents import cloud_event_headers
from restmq.web.describe import (
    ANYTHING,
    BOOLEAN,
    ID,
    JSON,
    MESSAGE_BODY,
    SECONDS,
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
from restmq.web.event_json import page_json
from restmq.web.event_stream import DEFAULT_SLOW, AskedStream
from restmq.web.message_json import quoted
from restmq.web.v1.endpoint import V1Endpoint
from restmq.web.v1.given import Given
from restmq.web.v1.messages import HEADERS, NDJSON, REPLAYED, refuse_larger
from restmq.web.v1.new_messages import (
    NO_OPTIONS,
    Bounds,
    Item,
    as_item,
    explained,
    kept_headers,
    key_digest,
    not_json,
    plain_body,
    read_item,
    refuse_bad_utf8,
    stated_type,
)
from restmq.web.v1.problems import Fault, Problem

if TYPE_CHECKING:
    from restmq.settings import Settings

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
MAX_TOPICS: Final = 100
"""Patterns of one read or stream."""
MAX_NUMBER: Final = 2**53 - 1

TOPIC: Final = {"type": "string"}
LOG: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
PUBLISHED: Final = record(topic=TOPIC, id=ID, cursor=STRING)
_TYPES: Final[dict[str, Schema]] = {
    "content_type?": STRING,
    "encoding?": words("json", "text", "base64"),
    "headers?": HEADERS,
}
NEW_EVENT: Final = record(_TYPES, topic=TOPIC, body=ANYTHING)
EVENT_OBJECT: Final = record(
    {"headers?": HEADERS},
    topic=TOPIC,
    id=ID,
    cursor=STRING,
    content_type=STRING,
    body=ANYTHING,
    encoding=words("json", "text", "base64"),
    created_at=TIME,
    age=SECONDS,
)

_LOG: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CURSOR: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,16})")


class EventItem(Item, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An event of a batch: an Item that says its topic, and nothing of queues."""

    topic: str


class _Events(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    events: Annotated[list[EventItem], Meta(min_length=1)]


class _PlainEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event with nothing but a topic and a body."""

    topic: str
    body: msgspec.Raw


class _PlainEvents(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    events: list[_PlainEvent]


_PLAIN: Final = msgspec.json.Decoder(_PlainEvents)
_EVENTS: Final = msgspec.json.Decoder(_Events)
_EVENT: Final = msgspec.json.Decoder(EventItem)
_NOT_HERE: Final = {
    **dict.fromkeys(("ttl", "delay", "deliver_at", "priority"), "is for messages of queues"),
    "idempotency_key": "is for messages; one header Idempotency-Key is for all events of a request",
}
EVENT: Final = frozenset(EventItem.__struct_fields__) - {*_NOT_HERE}


def read_log(given: Given) -> str:
    """``log``, the main one if none is named. Raises Problem."""
    name = given.text("log")
    if name is None:
        return MAIN_LOG
    if _LOG.fullmatch(name) is None:
        raise given.wrong("log", "is 1 to 64 letters, digits, _ and -", name)
    return name


def read_event_cursor(text: str | None, name: str = "cursor") -> EventCursor | None:
    """A cursor as clients send it back, None for none. Raises Problem."""
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None or max(int(found[1]), int(found[2])) > MAX_NUMBER:
        what = "is one that this broker gave, such as 1795000000000-7"
        why = f"{name} {what}, not {text[:60]!r}"
        raise Problem("bad_request", why, faults=(Fault(name, what),))
    return EventCursor(int(found[1]), int(found[2]))


def read_selection(topics: Sequence[str] | None) -> Selection:
    """The patterns; everything for none. Raises BadRequest."""
    if topics is None:
        return Selection.everything()
    if not 1 <= len(topics) <= MAX_TOPICS:
        what = f"is given at most {MAX_TOPICS} times"
        raise Problem("bad_request", f"topic {what}", faults=(Fault("topic", what),))
    return Selection.matching(topics)


def read_event_stream(
    given: Mapping[str, Sequence[str]],
    settings: Settings,
    last_event_id: str | None,
    heartbeat: float | None = None,
) -> AskedStream:
    """``topic`` (several), ``log``, ``cursor``, and the choices of every stream. Raises BadRequest.

    ``Last-Event-ID`` counts before ``cursor``, which stays in the URL of a page that comes back.
    ``heartbeat`` is the transport's default, None the operator's.
    """
    texts = {name: values[0] for name, values in given.items() if name != "topic"}
    for name in ("ack", "lease", "observe"):
        if name in texts:
            raise BadRequest(f"{name} is for queues: events are read, not taken")
    log = texts.pop("log", MAIN_LOG)
    if _LOG.fullmatch(log) is None:
        raise BadRequest(f"log is 1 to 64 letters, digits, _ and -, not {log[:60]!r}")
    texts.setdefault("slow", DEFAULT_SLOW)
    choices = read_choices(texts, settings, settings.heartbeat if heartbeat is None else heartbeat)
    after = read_event_cursor(last_event_id, "Last-Event-ID")
    if after is None:
        after = read_event_cursor(texts.get("cursor"))
    return AskedStream(log, read_selection(given["topic"]), after, choices)


def read_batch(data: bytes, lines: bool, bounds: Bounds) -> list[NewEvent]:
    """``{"events": [...]}``, or an event object a line. Raises Problem, 413 for one that is too large."""
    refuse_bad_utf8(data)
    if not lines and (plain := _plain_batch(data, bounds)):
        return plain
    try:
        if lines:
            found = [_EVENT.decode(line) for line in data.split(b"\n") if line.strip()]
        else:
            found = _EVENTS.decode(data).events
    except msgspec.ValidationError as error:
        raise explained(error, bounds) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise not_json(error) from None
    if not 1 <= len(found) <= bounds.items:
        raise Problem("bad_request", f"a batch has 1 to {bounds.items} events")
    where = "" if lines else "/events"
    events = [read_event(item, f"{where}/{place}", bounds) for place, item in enumerate(found)]
    for event in events:
        refuse_larger(event.body, bounds.message_bytes)
    return events


def _plain_batch(data: bytes, bounds: Bounds) -> list[NewEvent] | None:
    """The events, if they have nothing but topic and body; None: `read_batch` tells what there is."""
    try:
        found = _PLAIN.decode(data).events
        for topic in {item.topic for item in found}:
            parse_topic(topic)
    except (msgspec.DecodeError, RecursionError, BadRequest):
        return None
    if not 1 <= len(found) <= bounds.items:
        return None
    events = [NewEvent(item.topic, *plain_body(bytes(item.body))) for item in found]
    if len(data) > bounds.message_bytes:
        for event in events:
            refuse_larger(event.body, bounds.message_bytes)
    return events


def read_event(item: EventItem, where: str, bounds: Bounds) -> NewEvent:
    """One event of a batch. Raises Problem or BadRequest."""
    for name, why in _NOT_HERE.items():
        if getattr(item, name) not in (None, ""):
            raise Problem("bad_request", f"{name} {why}", faults=(Fault(f"{where}/{name}", why),))
    topic = parse_topic(item.topic, f"{where}/topic")
    message = read_item(item, where, bounds, NO_OPTIONS, b"")
    return NewEvent(topic, message.body, message.content_type, message.headers)


def read_event_command(members: Mapping[str, Any], bounds: Bounds) -> NewEvent:
    """One event of the members of a command on a WebSocket, its body as it was sent. Raises as `read_batch`."""
    return read_event(as_item(members, EventItem, bounds), "", bounds)


def published(broker: Any, log: str, topic: str, number: int) -> bytes:
    """The members that tell of one event."""
    return _published(topic, *broker.events.cursor(log, number))


def _published(topic: str, epoch: int, number: int) -> bytes:
    return b'"topic":%b,"id":%d,"cursor":"%d-%d"' % (quoted(topic), number, epoch, number)


def publish(
    broker: Any, log: str, events: list[NewEvent], digest: bytes
) -> Deferred[tuple[list[int], bool]]:
    """Append them, once if there is the digest of an idempotency key: their ids, and whether they were there."""
    if digest:
        once: Deferred[tuple[list[int], bool]] = broker.events.publish_once(log, events, digest)
        return once
    done: Deferred[list[int]] = broker.events.publish(log, events)
    return done.addCallback(lambda ids: (ids, False))


class TopicEvents(V1Endpoint):
    """``/v1/topics/TOPIC/events``."""

    @endpoint(Access.PRODUCER)
    @describe(
        path={"topic": TOPIC},
        query={"content_type": STRING, "log": LOG},
        headers={"Idempotency-Key": STRING},
        body=MESSAGE_BODY,
        replies={201: PUBLISHED},
    )
    def post(self, topic: str) -> Deferred[Reply]:
        """Publish the body to a topic; with ``ce-`` header fields it is a CloudEvent in binary mode."""
        fields, body = self.request.headers, self.request.body
        given = self.given_in_query(("content_type", "log"))
        name, log = parse_topic(topic), read_log(given)
        refuse_larger(body, self.settings.max_message_bytes)
        sent = given.text("content_type") or dict.get(fields, "content-type", "")
        event = NewEvent(
            name,
            body,
            stated_type(sent, body),
            kept_headers(fields, Bounds.of(self.settings), more=cloud_event_headers(fields)),
        )
        key = key_digest(dict.get(fields, "idempotency-key", ""))
        done = publish(self.broker, log, [event], key)
        return done.addCallback(self._created, log, name)

    def _created(self, told: tuple[list[int], bool], log: str, topic: str) -> Reply:
        ids, replayed = told
        data = b"{%b}\n" % published(self.broker, log, topic, ids[0])
        return self.encoded(data, 201, lines=REPLAYED if replayed else b"")


class EventsOfTopics(V1Endpoint):
    """``/v1/events``."""

    @endpoint(Access.PRODUCER, large=True)
    @describe(
        query={"log": LOG},
        headers={"Idempotency-Key": STRING},
        body=Content((JSON, "application/x-ndjson"), record(events=items(NEW_EVENT, 1))),
        replies={201: record(results=items(PUBLISHED), cursor=STRING, failed=WHOLE)},
    )
    def post(self) -> Deferred[Reply]:
        """Publish many events, all or, where they are 1,000 and 1 MiB at most, none."""
        request = self.request
        log = read_log(self.given_in_query(("log",)))
        sent = dict.get(request.headers, "content-type", "").partition(";")[0].strip().lower()
        lines = sent in NDJSON
        if not lines:
            self.refuse_form()
        events = read_batch(request.body, lines, Bounds.of(self.settings))
        key = key_digest(dict.get(request.headers, "idempotency-key", ""))
        return publish(self.broker, log, events, key).addCallback(self._results, log, events)

    def _results(self, done: tuple[list[int], bool], log: str, events: list[NewEvent]) -> Reply:
        ids, replayed = done
        epoch, last = self.broker.events.cursor(log, ids[-1])
        told = b"},{".join(
            [
                _published(event.topic, epoch, number)
                for event, number in zip(events, ids, strict=True)
            ]
        )
        return self.encoded(
            b'{"results":[{%b}],"cursor":"%d-%d","failed":0}\n' % (told, epoch, last),
            201,
            lines=REPLAYED if replayed else b"",
        )

    @endpoint(Access.CONSUMER)
    @describe(
        query={
            "topic": items(STRING),
            "cursor": STRING,
            "wait": seconds(0, 50),
            "limit": whole(1, MAX_LIMIT),
            "log": LOG,
        },
        replies={
            200: record(
                {
                    "gap?": record(
                        {"missed?": WHOLE}, oldest={"type": ["integer", "null"]}, reset=BOOLEAN
                    )
                },
                events=items(EVENT_OBJECT),
                cursor=STRING,
                more=BOOLEAN,
            )
        },
    )
    def get(self) -> Reply | Deferred[Reply]:
        """What matches behind a cursor, at once or when there is something."""
        given = self.given(("cursor", "wait", "limit", "log"), ("topic",))
        log, selection = read_log(given), read_selection(given.texts("topic", MAX_TOPICS))
        sent = self.request.headers.get("last-event-id")
        after = read_event_cursor(given.text("cursor"))
        if after is None:
            after = read_event_cursor(sent, "Last-Event-ID")
        limit = given.whole("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        wait = given.seconds("wait", 0, self.settings.max_wait) or 0.0
        events = self.broker.events
        page = events.look(log, Query(selection, after or NOWHERE, limit))
        if page is not None and (page.events or not wait):
            return self._page(page)
        if not wait:
            reading: Deferred[EventPage] = events.read(log, selection, after, limit)
            if not reading.called:  # it may take many calls of the store
                self.exchange.gone.addCallback(lambda _: reading.cancel())
            return reading.addCallback(self._page)
        return self._waited(events.wait(log, selection, after, limit, wait))

    def _waited(self, waiting: Deferred[EventPage]) -> Deferred[Reply]:
        """Nobody waits for a client that left, nor when the daemon is about to end."""
        exchange = self.exchange

        def give_up(_: object = None) -> None:
            if not waiting.called:
                waiting.cancel()

        if not waiting.called:
            exchange.gone.addCallback(give_up)
            exchange.on_closing = give_up
        return waiting.addCallback(self._page)

    def _page(self, page: EventPage) -> Reply:
        return self.encoded(page_json(page))
