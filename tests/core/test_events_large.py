"""What reads and retention cost the store where events are large, or topics many: it has one thread."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults

from restmq.core.broker import Broker
from restmq.core.event_tail import Query
from restmq.event import EventCursor, EventPage
from restmq.rules.selection import Selection
from tests.core.test_events import ALL, EventsCase, news

LARGE = b"x" * 1_000_000


class Costs(EventsCase):
    """Each on a store of its own, whose memory tells what a script took out at once."""

    async def alone(self, **options: Any) -> Broker:
        self.server = self.start_valkey()
        return await self.broker(self.server, **options)

    async def stored(self, broker: Broker, selection: Selection, **how: Any) -> EventPage:
        query = Query(selection, how.pop("after", EventCursor(0, 0)), 1000)
        return await broker.events._log("main").stored.read(query._replace(**how))

    def peak(self) -> int:
        """The most that the store ever took since `forget_peak`."""
        with self.server.client() as client:
            return int(client.info("memory")["used_memory_peak"]) - self.before

    def forget_peak(self) -> None:
        with self.server.client() as client:
            client.config_resetstat()
            self.before = int(client.info("memory")["used_memory"])

    async def mixed(self) -> Broker:
        """Many small events, then large ones: an average says nothing of them."""
        broker = await self.alone()
        for _ in range(3):
            await broker.events.publish("main", news(*["small"] * 1000))
        for _ in range(40):
            await broker.events.publish("main", news("large", body=LARGE))
        self.forget_peak()
        return broker

    async def test_large_events_are_not_fetched_by_the_dozen(self) -> None:
        broker = await self.mixed()
        page = await self.stored(
            broker, Selection.matching(["large.**"]), after=EventCursor(0, 3000)
        )
        assert page.events[0].id == 3001
        assert self.peak() < 8_000_000
        page = await self.stored(broker, ALL, newest_first=True)
        assert page.events[0].id == 3040
        assert self.peak() < 8_000_000

    async def test_small_ones_before_large_ones_come_all(self) -> None:
        broker = await self.mixed()
        ids: list[int] = []
        page = await self.stored(broker, ALL)
        while page.more:
            ids += [event.id for event in page.events]
            page = await self.stored(broker, ALL, after=page.cursor)
        assert [*ids, *(event.id for event in page.events)] == list(range(1, 3041))

    async def test_retention_looks_at_one_large_event_at_a_time(self) -> None:
        broker = await self.alone(events_bytes=40_000_000)
        for _ in range(45):
            await broker.events.publish("main", news("a", body=LARGE))
        self.forget_peak()
        await broker.events.publish("main", news("a", body=LARGE))
        assert self.peak() < 16_000_000
        page = await self.stored(broker, ALL, after=EventCursor(0, 1))
        assert page.gap is not None

    async def test_many_topics_cost_what_the_page_holds(self) -> None:
        """Every topic has enough for a page of its own."""
        broker = await self.alone()
        topics = [f"t{number}" for number in range(100)]
        for _ in range(10):
            publish = [broker.events.publish("main", news(*topics * 10)) for _ in range(10)]
            await gatherResults(publish)
        page = await self.stored(broker, Selection.matching(topics))
        assert [event.id for event in page.events] == list(range(1, 1001))
        with self.server.client() as client:
            assert client.info("memory")["used_memory_lua"] < 8_000_000

    async def test_of_many_topics_one_may_have_all_the_events(self) -> None:
        broker = await self.alone()
        topics = [f"t{number}" for number in range(100)]
        await broker.events.publish("main", news(*["t7"] * 900, *topics))
        ids: list[int] = []
        page = await self.stored(broker, Selection.matching(topics))
        while page.more:
            ids += [event.id for event in page.events]
            page = await self.stored(broker, Selection.matching(topics), after=page.cursor)
        assert [*ids, *(event.id for event in page.events)] == list(range(1, 1001))
        newest = await self.stored(broker, Selection.matching(topics), newest_first=True)
        assert [event.id for event in newest.events] == list(range(1000, 0, -1))
