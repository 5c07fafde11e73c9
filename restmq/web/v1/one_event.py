"""``/v1/topics/TOPIC/events/ID``: one event, as a CloudEvent in binary mode."""

from __future__ import annotations

from typing import Final

from restmq.errors import BadRequest
from restmq.event import Event, EventCursor, EventPage
from restmq.rules.selection import Selection
from restmq.rules.topics import parse_topic
from restmq.web.cloudevents import as_cloud_event
from restmq.web.describe import MESSAGE_BODY, describe
from restmq.web.endpoint import Access, Refusal, Reply, endpoint
from restmq.web.message_json import shown_body
from restmq.web.rest import INERT
from restmq.web.v1.endpoint import V1Endpoint
from restmq.web.v1.events import read_event_cursor, read_log

TOPIC: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,7}([.][A-Za-z0-9_-]{1,7}){0,31}$"}
PLACE: Final = {"type": "string", "pattern": "^[1-9][0-9]{0,14}-[1-9][0-9]{0,14}$"}
LOG: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")


class OneEvent(V1Endpoint):
    """``/v1/topics/TOPIC/events/ID``; the id is a cursor, ``epoch-id``."""

    @endpoint(Access.CONSUMER)
    @describe(path={"topic": TOPIC, "id": PLACE}, query={"log": LOG}, replies={200: MESSAGE_BODY})
    async def get(self, topic: str, id: str) -> Reply:
        """Its data, with its attributes as header fields; 404 when it is no longer kept."""
        given = self.given_in_query(("log",))
        log, name, place = read_log(given), parse_topic(topic), read_event_cursor(id, "id")
        if place is None or place.id == 0:
            raise BadRequest("id: it is an event's, such as 1795000000000-7")
        event = await self._event(log, Selection.exact(name), place)
        if event is None:
            raise Refusal(404, f"the event {id} of {name} is not kept, or never was")
        fields = as_cloud_event(event, place.epoch)
        content_type = shown_body(event)[2]
        more = (*fields, ("X-Request-Id", self.request_id), *INERT, NOSNIFF)
        return Reply(200, event.body, content_type, more, no_store=True)

    async def _event(self, log: str, topic: Selection, place: EventCursor) -> Event | None:
        """The event, if it is kept; ids of an earlier life hold as far as the store has that life's events."""
        before = place._replace(id=place.id - 1)
        page: EventPage = await self.broker.events.read(log, topic, before, 1)
        if not page.events or page.events[0].id != place.id:
            return None
        if page.cursor.epoch != place.epoch:
            # Who reads on from an id that the earlier life did not give, or lost, gets it as a later one's.
            behind: EventPage = await self.broker.events.read(log, topic, place, 1)
            if behind.events and behind.events[0].id == place.id:
                return None
        return page.events[0]
