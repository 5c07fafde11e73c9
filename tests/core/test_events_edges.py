"""What happens to events between two steps: chunks, calls of one read, lost time, and bounds."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from restmq.core.bindings import Binding
from restmq.core.event_tail import Query, Tail
from restmq.core.event_wire import encode_retention
from restmq.errors import KeyReused
from restmq.event import Event, EventCursor, NewEvent
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode_arguments
from restmq.rules.retention import Limits, Retention
from restmq.rules.selection import Selection
from restmq.rules.topics import parse_pattern
from tests.core.test_events import ALL, EventsCase, Listener, news
from tests.turns import until

MIB = 1048576


class Between(EventsCase):
    """Something comes between two calls that belong together."""

    async def test_a_page_that_ends_inside_a_chunk_is_continued_inside_it(self) -> None:
        """The channel comes back while batches are appended."""
        broker, other = await self.broker(), await self.broker()
        await self.following(broker)
        listener, log = Listener(), broker.events._log("main")
        broker.events.subscribe("main", ALL, None, listener)
        await broker.events.publish("main", news("a"))
        await until(lambda: listener.ids == [1], "the first")
        broker.events.channel(False)
        await other.events.publish("main", news(*["a"] * 500))
        page, asked = log.stored.page, []

        async def slow(query: Query, below: int = 0) -> Any:
            if not asked:
                asked.append(query)
                await other.events.publish("main", news(*["a"] * 1000))
                await until(lambda: log.following._held, "its chunk")
            return await page(query, below)

        log.stored.page = slow
        broker.events.channel(True)
        await until(lambda: listener.ids[-1] == 1501, "all of them")
        assert listener.ids == list(range(1, 1502))
        assert await self.ids(broker, after=1400) == list(range(1401, 1502))

    async def test_what_is_trimmed_between_two_calls_of_a_read_is_a_gap(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", news(*["a"] * 3000))
        stored = broker.events._log("main").stored
        page, asked = stored.page, []
        few = encode_arguments(encode_retention(Retention(Limits(0, 500))))

        async def slow(query: Query, below: int = 0) -> Any:
            asked.append(query)
            if len(asked) == 2:
                command = broker.events._scripts.call("log_trim", "main", 1, few)
                while await stored.ask(command):
                    pass
            return await page(query, below)

        stored.page = slow
        first = await self.read(broker, after=None, limit=2500)
        assert [event.id for event in first.events] == list(range(1, 1001))
        assert (first.gap, first.more, first.cursor.id) == (None, True, 1000)
        second = await self.read(broker, after=first.cursor, limit=2500)
        assert second.gap is not None
        assert [event.id for event in second.events] == list(range(2501, 3001))


class Forgotten(EventsCase):
    async def test_the_mark_of_what_was_forgotten_never_falls(self) -> None:
        """An event that is kept for longer is trimmed after younger ones."""
        broker = await self.broker(events_count=1, events_retention=("old.*=0:1",))
        await broker.events.publish("main", news("old.x"))
        await broker.events.publish("main", news("victim"))
        for number in range(6):
            topics = [f"t.{number}.{each}" for each in range(1000)]
            await broker.events.publish("main", news(*topics))
        await broker.events.publish("main", news(*["filler"] * 1000))
        victim = Selection.exact("victim")
        cursor = EventCursor((await self.read(broker)).cursor.epoch, 1)
        assert (await self.read(broker, victim, cursor)).gap is not None
        await broker.events.publish("main", news("old.y"))
        assert (await self.read(broker, victim, cursor)).gap is not None


class Bounded(EventsCase):
    """Bounds of what one reader, or one name, can make a daemon hold."""

    def test_views_forget_what_the_tail_forgot(self) -> None:
        tail, number, body = Tail(1, 0), 0, bytes(MIB)
        for turn in range(40):
            events = []
            for _ in range(20):
                number += 1
                events.append(Event("a.b", number, body, None, b"", 0, 0))
            tail.append(events, number)
            chosen = Selection.matching(["a.**", f"z{turn}.*"])
            tail.read(Query(chosen, EventCursor(1, tail.start), 10), 0)
        kept = {id(event): len(event.body) for v in tail._views.values() for event in v.events}
        assert sum(kept.values()) <= 40 * MIB

    def test_views_of_a_tail_have_a_bound_together(self) -> None:
        tail = Tail(1, 0)
        tail.append([Event("a.b", n, b"", None, b"", 0, 0) for n in range(1, 10_001)], 10_000)
        for turn in range(60):
            chosen = Selection.matching(["a.**", f"z{turn}.*"])
            reads = [tail.read(Query(chosen, EventCursor(1, 0), 10), 0) for _ in range(5)]
            assert reads[:4] == [None] * 4  # no reader looks through everything at once
            assert len(reads[4].events) == 10
        assert sum(len(view.events) for view in tail._views.values()) <= 500_000

    async def test_a_page_is_a_mebibyte_or_one_event(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", [NewEvent("a", bytes(MIB))] * 3)
        await broker.events.publish("main", [NewEvent("a", bytes(300_000))] * 6)
        pages, more, cursor = [], True, None
        while more:
            page = await self.read(broker, after=cursor)
            pages.append(len(page.events))
            cursor, more = page.cursor, page.more
        assert pages == [1, 1, 1, 3, 3]
        await self.following(broker)
        await broker.events.publish("main", [NewEvent("a", bytes(300_000))] * 6)
        recent = broker.events._log("main").recent
        await until(lambda: recent.tail.last == 15, "the tail")
        assert len((await self.read(broker, after=9)).events) == 3
        newest = await self.read(broker, after=9, newest_first=True)
        assert [event.id for event in newest.events] == [15, 14, 13]

    async def test_a_read_that_finds_nothing_ends_with_a_cursor(self) -> None:
        """So that nobody makes the broker walk through a whole log by one request."""
        broker = await self.broker()
        for _ in range(25):
            await broker.events.publish("main", news(*["a.b"] * 1000))
        nobody = Selection.matching(["nobody.*"])
        page = await self.read(broker, nobody)
        assert (page.events, page.more, page.cursor.id) == ([], True, 20_000)
        page = await self.read(broker, nobody, page.cursor)
        assert (page.events, page.more, page.cursor.id) == ([], False, 25_000)
        await broker.events.publish("main", news("nobody.is"))
        found = await broker.events.wait("main", nobody, None, 10, 20)
        assert [event.id for event in found.events] == [25_001]

    async def test_a_name_of_a_log_costs_nothing_for_ever(self) -> None:
        broker = await self.broker()
        events = broker.events
        await gatherResults([events.read(f"x{number}", ALL, None, 1) for number in range(50)])
        await events.publish("main", news("a"))
        for log in events._logs.values():
            log.used = -10_000.0
        events.tick()
        events.tick()
        assert len(events._logs) <= 1
        with self.valkey.client() as client:
            client.hset(Keys("restmq:").log("main")[0], "id", 0)
        (number,) = await events.publish("main", news("a"))
        assert number > 1_000_000  # the store lost time, and it is still known how far it was


class Away(EventsCase):
    async def test_subscribers_wait_together_while_the_store_is_away(self) -> None:
        """Or thousands that come back at once would keep the daemon busy with nothing else."""
        server = self.start_valkey()
        broker = await self.broker(server)
        await broker.events.publish("main", news("t1"))
        server.kill()
        await until(lambda: not broker._store.ready, "it is noticed")
        listeners = [Listener() for _ in range(500)]
        for number, listener in enumerate(listeners):
            broker.events.subscribe("main", Selection.exact(f"t{number}"), 0, listener)
        await until(lambda: len(broker.events._log("main").subscribers._later) == 500, "they wait")
        assert len(broker.events._retries._waiting) <= 2
        server.start()
        await until(lambda: broker._store.ready and broker._store._reads.connection, "the store")
        await broker.events.publish("main", news(*[f"t{number}" for number in range(500)]))
        await until(lambda: all(listener.ids for listener in listeners), "all of them")

    async def test_an_error_of_ours_does_not_end_the_following(self) -> None:
        broker, listener = await self.broker(), Listener()
        await broker.events.publish("main", news("a"))
        stored = broker.events._log("main").stored
        state, calls = stored.state, []

        async def wrong(count: bool = False) -> Any:
            calls.append(count)
            if len(calls) == 1:
                raise RuntimeError("a bug")
            return await state(count)

        stored.state = wrong
        broker.events.subscribe("main", ALL, 0, listener)
        await broker.events.publish("main", news("a"))
        await until(lambda: listener.ids == [1, 2], "both")
        await until(lambda: broker.events._log("main").recent.live, "the tail")
        assert len(self.flushLoggedErrors(RuntimeError)) == 1


class Raising(Listener):
    """A subscriber with a bug, in this one of its methods."""

    def __init__(self, where: str) -> None:
        super().__init__()
        setattr(self, where, self._fail)
        self.calls = 0

    def _fail(self, _: object) -> bool:
        self.calls += 1
        raise RuntimeError("a bug")


class Wrong(EventsCase):
    """What one consumer does wrong ends nothing for the others."""

    async def test_the_others_are_pushed_to(self) -> None:
        broker = await self.broker()
        await self.following(broker)
        wrong, others = Raising("deliver_events"), [Listener() for _ in range(9)]
        for each in (*others[:4], wrong, *others[4:]):
            broker.events.subscribe("main", ALL, None, each)
        for _ in range(2):
            await broker.events.publish("main", news("a"))
        await until(lambda: all(each.ids == [1, 2] for each in others), "both")
        assert wrong.calls == len(self.flushLoggedErrors(RuntimeError)) == 1
        broker.events.resume(wrong)
        broker.events.unsubscribe(wrong)

    async def test_the_others_catch_up(self) -> None:
        broker = await self.broker(events_count=2)
        await broker.events.publish("main", news(*["a"] * 5))
        epoch = (await self.read(broker)).cursor.epoch
        wrong = [Raising("gap"), Raising("begins"), Raising("deliver_events")]
        others = [Listener() for _ in wrong]
        for bad, good in zip(wrong, others, strict=True):
            after = None if "begins" in vars(bad) else EventCursor(epoch, 1)
            broker.events.subscribe("main", ALL, after, bad)
            broker.events.subscribe("main", ALL, EventCursor(epoch, 1), good)
        await until(lambda: all(each.ids == [4, 5] for each in others), "what there is")
        await until(lambda: all(each.calls == 1 for each in wrong), "each of the wrong ones")
        await broker.events.publish("main", news("a"))
        await until(lambda: all(each.ids == [4, 5, 6] for each in others), "what comes")
        assert len(self.flushLoggedErrors(RuntimeError)) == 3
        for each in wrong:
            broker.events.unsubscribe(each)


class Leaving(EventsCase):
    async def test_who_publishes_after_the_log_was_forgotten_goes_on(self) -> None:
        broker, listener = await self.broker(), Listener()
        for turn in range(3):
            await broker.events.publish("main", news("a"))
            broker.events._log("main").used = -10_000.0
            broker.events.tick()
            assert await self.ids(broker) == list(range(1, turn + 2))
        broker.events.subscribe("main", ALL, 0, listener)
        await broker.events.publish("main", news("a"))
        await until(lambda: listener.ids == [1, 2, 3, 4], "all of them")

    async def test_who_subscribes_first_misses_nothing_that_comes_after(self) -> None:
        """Nobody follows the log yet, so the tail cannot tell where it is."""
        for number in range(5):
            broker, listener = await self.broker(), Listener()
            await broker.events.publish("main", news("a"))
            fresh = await self.broker()
            fresh.events.subscribe("main", ALL, None, listener)
            (published,) = await fresh.events.publish("main", news("a"))
            await until(lambda seen=listener: seen.ids, "the event")
            assert (listener.began.id, listener.ids) == (published - 1, [published]), number


class Mixed(EventsCase):
    """Pages of a log in which large events lie among small ones, and many topics."""

    async def test_large_events_among_small_ones(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", news(*["a"] * 100))
        await broker.events.publish("main", [NewEvent("a", bytes(400_000))] * 5)
        await broker.events.publish("main", news(*["a"] * 100))
        for newest_first in (False, True):
            after, found = EventCursor(0, 0), []
            page = await self.read(broker, after=None, newest_first=newest_first)
            found += [event.id for event in page.events]
            while page.more and not newest_first:
                after = page.cursor
                page = await self.read(broker, after=after)
                found += [event.id for event in page.events]
            if newest_first:
                assert found == list(range(205, 205 - len(found), -1))
                assert len(found) == 102
            else:
                assert found == list(range(1, 206))

    async def test_many_topics_at_once(self) -> None:
        broker = await self.broker()
        topics = [f"t{number % 70}" for number in range(900)] + ["t1"] * 900
        await broker.events.publish("main", news(*topics))
        some = Selection.matching([f"t{number}" for number in range(60)])
        expected = [n for n, topic in enumerate(topics, 1) if int(topic[1:]) < 60]
        for limit in (7, 500, 1000):
            found: list[int] = []
            cursor, more = None, True
            while more:
                page = await self.read(broker, some, cursor, limit=limit)
                assert len(page.events) <= limit
                found += [event.id for event in page.events]
                cursor, more = page.cursor, page.more
            assert found == expected
        newest = await self.ids(broker, some, limit=1200, newest_first=True)
        assert newest == expected[::-1][:1200]


class Once(EventsCase):
    """What is published under an idempotency key is there once, however often it is said."""

    async def test_the_same_key_gives_the_same_ids(self) -> None:
        broker, other = await self.broker(), await self.broker()
        events = news("a", "b")
        assert await broker.events.publish_once("main", events, b"k" * 16) == ([1, 2], False)
        assert await broker.events.publish("main", news("c")) == [3]
        for each in (broker, other):
            assert await each.events.publish_once("main", events, b"k" * 16) == ([1, 2], True)
        with pytest.raises(KeyReused):
            await other.events.publish_once("main", news("a", "c"), b"k" * 16)
        assert await other.events.publish_once("other", news("a"), b"k" * 16) == ([1], False)
        assert await self.ids(broker) == [1, 2, 3]

    async def test_a_large_batch_is_there_once_too(self) -> None:
        broker = await self.broker()
        events = news(*["a"] * 2500)
        first = [
            broker.events.publish_once("main", events, b"k" * 16),
            broker.events.publish("main", news("b")),
            broker.events.publish_once("main", events, b"k" * 16),
        ]
        (ids, replayed), _, again = await gatherResults(first)
        assert (len(set(ids)), replayed) == (2500, False)
        assert again == (ids, True)
        assert len((await self.read(broker, limit=9999)).events) == 2501

    async def test_a_bound_event_goes_into_its_queue_once(self) -> None:
        broker = await self.broker()
        await broker.events.bind("main", "b", Binding(parse_pattern("a"), "q"))
        for _ in range(3):
            await broker.events.publish_once("main", news("a"), b"k" * 16)
        await broker.events.publish("main", news("a"))
        found: list[Any] = []
        while len(found) < 2:
            found = (await broker.browse("q", "ready", "", 10)).found
        assert len(found) == 2

    async def test_keys_are_forgotten_after_a_day(self) -> None:
        broker = await self.broker()
        await broker.events.publish_once("main", news("a"), b"k" * 16)
        log, _, _, _, _, *_, once = Keys("restmq:").log("main")
        with self.valkey.client() as client:
            assert client.hexists(log, b"k" + b"k" * 16)
            client.zadd(once, {b"k" * 16: 1})
            await broker.events.publish_once("main", news("a"), b"l" * 16)
            assert client.zrange(once, 0, -1) == [b"l" * 16]
            assert not client.hexists(log, b"k" + b"k" * 16)
