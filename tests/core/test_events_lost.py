"""A store that lost its last moments, or everything, when nobody remembers what there was."""

from __future__ import annotations

from restmq.core.broker import Broker
from restmq.core.event_wire import encode_retention
from restmq.event import EventCursor, EventGap
from restmq.redis.pipeline import encode_arguments
from restmq.rules.retention import Limits, Retention
from restmq.rules.selection import Selection
from tests.core.test_events import ALL, EventsCase, Listener, news
from tests.turns import until


class Forgotten(EventsCase):
    """Store and daemons end together, as in a power failure."""

    async def back_in_time(self) -> tuple[Broker, EventCursor, EventCursor]:
        """A broker on a store that lost 10 of 100 events; cursors before and behind these."""
        server = self.start_valkey()
        broker = await self.broker(server)
        await broker.events.publish("main", news(*["a"] * 90))
        before = (await self.read(broker)).cursor
        with server.client() as client:
            kept = {key: client.dump(key) for key in client.scan_iter()}
            await broker.events.publish("main", news(*["lost"] * 10))
            behind = (await self.read(broker)).cursor
            await broker.stop()
        server.kill()
        server.start()
        with server.client() as client:
            for key, value in kept.items():
                client.restore(key, 0, value)
        return await self.broker(server), before, behind

    async def test_whose_cursor_is_of_what_was_lost_is_told(self) -> None:
        broker, before, behind = await self.back_in_time()
        ids = await broker.events.publish("main", news(*["new"] * 15))
        assert ids[0] > behind.id
        page = await self.read(broker, ALL, behind)
        assert page.gap is not None
        assert page.gap.reset
        assert [event.id for event in page.events] == ids
        page = await self.read(broker, ALL, before)
        assert (page.gap, [event.id for event in page.events]) == (None, ids)
        assert page.cursor.epoch == before.epoch

    async def test_so_is_who_reads_before_anybody_publishes(self) -> None:
        broker, _before, behind = await self.back_in_time()
        page = await self.read(broker, ALL, behind)
        assert (page.events, page.gap is not None and page.gap.reset) == ([], True)
        listener = Listener()
        broker.events.subscribe("main", ALL, page.cursor, listener)
        (number,) = await broker.events.publish("main", news("new"))
        await until(lambda: listener.ids == [number], "the event")
        assert listener.gaps == []

    async def test_ids_that_were_left_out_are_not_missed(self) -> None:
        broker, before, _behind = await self.back_in_time()
        ids = await broker.events.publish("main", news(*["new"] * 15))
        few = encode_arguments(encode_retention(Retention(Limits(0, 10))))
        await broker.events._log("main").stored.ask(
            broker.events._scripts.call("log_trim", "main", 1, few)
        )
        page = await self.read(broker, ALL, before)
        assert [event.id for event in page.events] == ids[5:]
        assert page.gap == EventGap(ids[5], False, None)

    async def test_a_server_that_lost_nothing_is_no_gap(self) -> None:
        server = self.start_valkey(appendonly="yes", appendfsync="always")
        broker = await self.broker(server)
        await self.following(broker)
        listener, cursor = Listener(), None
        broker.events.subscribe("main", ALL, EventCursor(0, 0), listener)
        told: list[int] = []
        store = broker._store
        for _ in range(3):
            told += await broker.events.publish("main", news("a"))
            page = await self.read(broker, ALL, cursor)
            assert [event.id for event in page.events] == told[-1:]
            assert page.gap is None
            cursor = page.cursor
            server.kill()
            await until(lambda: not store.ready and not store._reads.connection, "its end")
            server.start()
            await until(lambda: store.ready and store._reads.connection, "the store")
        await until(lambda: listener.ids == told, "all of them")
        assert listener.gaps == []


class Foreign(EventsCase):
    """A reader by number (RSE) comes from another store, which had higher ids."""

    async def test_he_gets_what_there_is_once_then_what_is_new(self) -> None:
        broker = await self.broker()
        await self.following(broker)
        await broker.events.publish("main", news("a", "a"))
        place = 50
        page = await self.read(broker, Selection.exact("a"), place)
        assert [event.id for event in page.events] == [1, 2]
        assert page.gap is not None
        page = await self.read(broker, Selection.exact("a"), place)
        assert page.events == []
        ids = await broker.events.publish("main", news("a", "a"))
        page = await self.read(broker, Selection.exact("a"), place)
        assert [event.id for event in page.events] == ids
        assert ids[0] > place
        page = await self.read(broker, Selection.exact("a"), ids[0])
        assert (page.gap, [event.id for event in page.events]) == (None, ids[1:])

    async def test_nobody_else_hears_of_it(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", news("a", "a"))
        cursor = (await self.read(broker)).cursor
        listener = Listener()
        broker.events.subscribe("main", ALL, cursor, listener)
        await self.read(broker, ALL, 50)
        ids = await broker.events.publish("main", news("a"))
        page = await self.read(broker, ALL, cursor)
        assert (page.gap, [event.id for event in page.events]) == (None, ids)
        await until(lambda: listener.ids == ids, "the event")
        assert listener.gaps == []

    async def test_he_is_believed_once_and_not_just_anything(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", news("a"))
        await self.read(broker, ALL, 2**40)
        assert await broker.events.publish("main", news("a")) == [2]
        await self.read(broker, ALL, 3)
        (number,) = await broker.events.publish("main", news("a"))
        assert number == 2**31 + 1
        await self.read(broker, ALL, number + 1)
        assert await broker.events.publish("main", news("a")) == [number + 1]
