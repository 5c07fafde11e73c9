"""``/e/CHANNEL``: RSE (Really Simple Events), so that its clients work with ``/e`` in their base URL.

A channel is a topic of the log ``main`` with ``/`` for ``.``. What is asked and answered, to the
byte, and what differs from RSE's own server: docs/rse.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from twisted.internet.defer import CancelledError, Deferred

from restmq.core.event_reading import NOWHERE
from restmq.core.event_tail import Query
from restmq.event import MAIN_LOG, Event, EventCursor, EventGap, EventPage, NewEvent
from restmq.rules import origin
from restmq.rules.exposure import exposed
from restmq.rules.selection import Selection
from restmq.web.endpoint import Access, Endpoint, Operation, Refusal, Reply, check, endpoint
from restmq.web.rest import refuse_larger
from restmq.web.rse_json import JSON, events_json, message_json, script, sender_headers, sender_of
from restmq.web.rse_request import (
    POSTING,
    READING,
    SELECTIONS,
    Poll,
    Sender,
    channel_of,
    check_json,
    is_post,
    read_callback,
    read_poll,
    read_post_data,
    read_query,
    read_sender,
    topic_of,
)
from restmq.web.v1.new_messages import key_digest

JAVASCRIPT: Final = "text/javascript; charset=utf-8"
NEEDS_TOKEN: Final = ("WWW-Authenticate", 'X-Auth-Token realm="RestMQ events"')
NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
REPLAYED: Final = ("Idempotency-Replayed", "true")
SILENT: Final = {401: "Unauthorized", 403: "Forbidden"}
"""What carries no reason, as RSE has it."""

MOST_DUMPED: Final = 10_000
POLLING: Final = (*POSTING, *READING)


class RseEndpoint(Endpoint):
    """A handler under ``/e/``: its errors are ``{"message": ...}``."""

    def error(
        self,
        status: int,
        why: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        problem: BaseException | None = None,
    ) -> Reply:
        """The error in RSE's form."""
        message = SILENT.get(status) or why or "Internal error"
        return Reply(status, message_json(message), JSON, headers, no_store=True)

    def _read_callback(self) -> None:
        """JSONP is the handlers' own here, with RSE's names and type."""


class Channel(RseEndpoint):
    """``/e/CHANNEL``."""

    @endpoint(Access.CONSUMER, Access.PRODUCER, jsonp=True)
    async def get(self, path: str) -> Reply:
        """Read events; with ``method=POST`` post one by JSONP; ``all`` dumps every event in test mode."""
        sender = await self._admitted(path)
        given = read_query(self.request.query, POLLING)
        callback = self._callback_of(given)
        if is_post(given):
            return await self._post_by_get(path, sender, given, callback)
        self.admit(Access.CONSUMER)
        poll = read_poll(given, self.settings.max_wait)
        if path == "all" and self.settings.events_open:
            return _page(await self._dump(poll), "/", poll, callback, with_channel=True)
        topic = topic_of(path)
        page = await self._read(topic, poll, sender)
        return _page(page, channel_of(topic), poll, callback, with_channel=poll.events != "exact")

    @endpoint(Access.PRODUCER)
    async def post(self, path: str) -> Reply:
        """Post an event: the body, JSON with an object or an array at its root."""
        sender = await self._admitted(path)
        read_query(self.request.query, ())
        key = dict.get(self.request.headers, "idempotency-key", "")
        return await self._publish(topic_of(path), self.request.body, sender, key)

    # ---- who asks

    async def _admitted(self, path: str) -> Sender:
        """The sender, if its token lets it in. Raises Refusal, BadRequest, StoreError."""
        if not path:
            raise Refusal(404, "URI not found: /")
        is_open = self.settings.events_open
        if not is_open and not await self._has_token():
            raise Refusal(401, "", (NEEDS_TOKEN,))
        return read_sender(dict.get(self.request.headers, "user-agent"), anonymous=is_open)

    async def _has_token(self) -> bool:
        """Its token is known, or none is needed: on loopback while there are none."""
        settings, tokens = self.settings, self.broker.tokens
        token = dict.get(self.request.headers, "x-auth-token")
        if token is not None and await tokens.knows(token):
            return True
        return not _reachable(settings.listen) and not await tokens.exist()

    def _callback_of(self, given: Mapping[str, str]) -> str | None:
        """The JSONP callback, if this page may use one. Raises BadRequest and Refusal."""
        callback = read_callback(given)
        if callback is not None:
            head = self.request.head
            reason = origin.jsonp_refusal(head.headers, head.host or None, self.settings.jsonp)
            if reason is not None:
                raise Refusal(403, reason)
        return callback

    # ---- posting

    @endpoint(Access.PRODUCER, jsonp=True, pops=True)
    async def _post_by_get(
        self, path: str, sender: Sender, given: Mapping[str, str], callback: str | None
    ) -> Reply:
        """A JSONP post, under the rules of what changes something: no prefetch, no image."""
        request = self.request
        check(self.application, _JSONP_POST, request.head, request.remote_ip, request.protocol)
        body = read_post_data(given)
        reply = await self._publish(topic_of(path), body, sender)
        return reply if callback is None else _script(callback, b"{}")

    async def _publish(self, topic: str, body: bytes, sender: Sender, key: str = "") -> Reply:
        refuse_larger(body, self.settings.max_message_bytes)
        check_json(body)
        event = NewEvent(topic, body, "application/json", sender_headers(sender))
        digest, events = key_digest(key), self.broker.events
        if not digest:
            await events.publish(MAIN_LOG, [event], short=True)
            return Reply(201, b"", JSON, no_store=True)
        _, replayed = await events.publish_once(MAIN_LOG, [event], digest, short=True)
        return Reply(201, b"", JSON, (REPLAYED,) if replayed else (), no_store=True)

    # ---- reading

    async def _read(self, topic: str, poll: Poll, sender: Sender) -> EventPage:
        """What there is, or else the first that comes while the poll waits."""
        selection = SELECTIONS[poll.events](topic)

        def is_own(event: Event) -> bool:
            return sender_of(event.headers).uuid == sender.uuid

        leave_out = None if poll.echo else is_own

        events = self.broker.events
        start = poll.after or NOWHERE

        def look(after: EventCursor = start) -> Deferred[EventPage]:
            return events.read(
                MAIN_LOG,
                selection,
                after,
                poll.limit,
                newest_first=poll.newest_first,
                leave_out=leave_out,
            )

        query = Query(selection, start, poll.limit, poll.newest_first, leave_out)
        page = events.look(MAIN_LOG, query) or await look()
        while page.more and not page.events and not poll.newest_first:
            further = await look(page.cursor)
            page = further._replace(gap=page.gap or further.gap)
        if page.events or not poll.wait_seconds or (_gap(page, poll) and not poll.by_number):
            return page
        waiting = events.wait(
            MAIN_LOG, selection, page.cursor, poll.limit, poll.wait_seconds, leave_out=leave_out
        )
        found = await self._while_here(waiting)
        if found is None:
            return page
        again = found.events and (poll.newest_first or page.gap is not None)
        if again:
            return await look()
        return page if _gap(page, poll) is not None else found

    async def _while_here(self, waiting: Deferred[EventPage]) -> EventPage | None:
        """What was waited for; None when the client leaves first, or the daemon is about to end."""
        exchange = self.exchange
        exchange.on_closing = waiting.cancel
        exchange.gone.addCallback(lambda _: waiting.cancel())
        try:
            return await waiting
        except CancelledError:
            return None

    def _dump(self, poll: Poll) -> Deferred[EventPage]:
        return self.broker.events.read(
            MAIN_LOG, Selection.everything(), None, MOST_DUMPED, newest_first=poll.newest_first
        )


def _gap(page: EventPage, poll: Poll) -> EventGap | None:
    """Events the reader asked for that are gone; who asked for the oldest there is, misses none.

    Who polls by number is told with the next events: without any he could not move on, and would be
    told with each poll. What is gone may be his own, as far as we know.
    """
    told = page.gap if poll.after is not None else None
    quiet = told is not None and not told.reset and not page.events and poll.by_number
    return None if quiet else told


def _page(
    page: EventPage, channel: str, poll: Poll, callback: str | None, *, with_channel: bool
) -> Reply:
    """The events; 204 where there is nothing to say and no script that must be said it."""
    lines, gap = b"RestMQ-Cursor: %b\r\n" % page.cursor.text.encode("ascii"), _gap(page, poll)
    if not page.events and gap is None and callback is None:
        return Reply(204, no_store=True, lines=lines)
    body = events_json(channel, page.events, page.now_ms, gap, with_channel)
    if callback is not None:
        return _script(callback, body, lines)
    return Reply(200, body, JSON, no_store=True, lines=lines)


def _script(callback: str, value: bytes, lines: bytes = b"") -> Reply:
    text = script(callback, value)
    return Reply(200, text, JAVASCRIPT, (NOSNIFF,), no_store=True, lines=lines)


_JSONP_POST: Final[Operation] = Channel._post_by_get.operation  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def _reachable(listen: tuple[str, ...]) -> bool:
    """Whether other machines can reach the daemon."""
    return bool(exposed(listen))
