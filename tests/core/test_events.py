"""The events of a broker inside a running reactor, against a real Valkey."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.trial.unittest import TestCase

from restmq.core.broker import Broker
from restmq.core.event_subscribers import Lot
from restmq.core.event_tail import Query
from restmq.errors import StoreAway, StoreError
from restmq.event import EventCursor, EventGap, NewEvent
from restmq.redis.keys import Keys
from restmq.rules.selection import Selection
from restmq.settings import Settings
from restmq.store_address import parse_redis_url
from restmq.web.v1.events import read_event_cursor
from tests.support import ValkeyServer
from tests.turns import until

ALL = Selection.everything()


def news(*topics: str, body: bytes = b"{}") -> list[NewEvent]:
    return [NewEvent(topic, body) for topic in topics]


class Listener:
    """A subscriber that notes what it gets; ``hungry`` False: it wants no more after each lot."""

    def __init__(self, hungry: bool = True) -> None:
        self.hungry = hungry
        self.ids: list[int] = []
        self.gaps: list[EventGap] = []
        self.began: EventCursor | None = None

    def begins(self, cursor: EventCursor) -> None:
        self.began = cursor

    def deliver_events(self, lot: Lot) -> bool:
        self.ids += [event.id for event in lot.messages]
        return self.hungry

    def gap(self, gap: EventGap) -> None:
        self.gaps.append(gap)


class EventsCase(TestCase):
    @pytest.fixture(autouse=True)
    def _stores(self, valkey: ValkeyServer, start_valkey: Callable[..., ValkeyServer]) -> None:
        self.valkey, self.start_valkey = valkey, start_valkey

    async def broker(self, server: ValkeyServer | None = None, **options: Any) -> Broker:
        settings = Settings(redis_url=(server or self.valkey).url, **options)
        broker = Broker(reactor, settings)
        broker.start(parse_redis_url(settings.redis_url or ""))
        self.addCleanup(broker.stop)
        await until(lambda: broker._store.ready and broker._store._reads.connection, "the store")
        return broker

    async def following(self, broker: Broker, log: str = "main") -> None:
        """Wait until the tail answers."""
        await broker.events.read(log, ALL, None, 1)
        await until(lambda: broker.events._log(log).recent.live, "the tail")

    async def read(self, broker: Broker, selection: Selection = ALL, after: Any = None, **how: Any):
        return await broker.events.read("main", selection, after, how.pop("limit", 1000), **how)

    async def ids(self, broker: Broker, selection: Selection = ALL, after: Any = None, **how: Any):
        return [event.id for event in (await self.read(broker, selection, after, **how)).events]


class Reading(EventsCase):
    """What is published can be read, by topic and pattern, from the store and from the tail."""

    async def test_what_was_published_is_read_as_it_was(self) -> None:
        broker = await self.broker()
        whole = NewEvent("log.w\u00f6rker.1", b"\x00\xff", "application/x", b'{"a":"b"}')
        assert await broker.events.publish("main", [whole, *news("b")]) == [1, 2]
        for _ in range(2):  # the second read is the tail's
            page = await self.read(broker)
            first = page.events[0]
            assert first[:1] + first[2:5] == whole
            assert [event.topic for event in page.events] == [whole.topic, "b"]
            assert 0 <= page.now_ms - first.created_ms < 20_000
            assert first.expires_ms == first.created_ms + 86_400_000
            assert page.events[1].content_type is None
            await self.following(broker)

    async def test_selections_choose_alike_in_store_and_tail(self) -> None:
        broker = await self.broker()
        await self.following(broker)
        other = await self.broker()
        topics = ["a", "a.b", "a.b.c", "ab", "a.b", "b"]
        await broker.events.publish("main", news(*topics))
        expected = {
            Selection.exact("a.b"): [2, 5],
            Selection.parents("a.b.c"): [1, 2, 3, 5],
            Selection.below("a"): [1, 2, 3, 5],
            Selection.matching(["a.*", "b"]): [2, 5, 6],
            Selection.matching(["#.c", "ab"]): [3, 4],
            Selection.exact("nobody"): [],
            ALL: [1, 2, 3, 4, 5, 6],
        }
        await until(lambda: broker.events._log("main").recent.tail.last == 6, "the tail")
        for selection, ids in expected.items():
            for after in range(7):
                kept = [number for number in ids if number > after]
                assert await self.ids(broker, selection, after) == kept
                assert await self.ids(other, selection, after) == kept
                other.events._log("main").recent.live = False  # it asks the store each time
                assert await self.ids(other, selection, after, newest_first=True) == kept[::-1]
                assert await self.ids(broker, selection, after, newest_first=True) == kept[::-1]

    async def test_pages_join_without_holes(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", news(*["a", "b", "a", "a", "b"] * 500))
        for selection in (
            Selection.exact("a"),
            Selection.matching(["b", "c"]),
            Selection.below("a"),
        ):
            whole = await self.ids(broker, selection, limit=10_000)
            assert len(whole) in (1500, 1000)
            for limit in (7, 1000):
                found: list[int] = []
                after: Any = None
                while True:
                    page = await self.read(broker, selection, after, limit=limit)
                    found += [event.id for event in page.events]
                    assert len(page.events) <= limit
                    assert page.gap is None
                    if not page.more:
                        break
                    after = page.cursor
                assert found == whole
                assert page.cursor.id == 2500
        newest = await self.ids(broker, Selection.below("a"), limit=1200, newest_first=True)
        whole = await self.ids(broker, Selection.exact("a"), limit=10_000)
        assert newest == whole[::-1][:1200]

    async def test_leaving_out_ones_own_moves_the_cursor(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", [*news("a", body=b"mine") * 3, *news("a")])
        for _ in range(2):
            page = await self.read(broker, limit=2, leave_out=lambda event: event.body == b"mine")
            assert [event.id for event in page.events] == [4]
            assert page.cursor.id == 4
            await self.following(broker)

    async def test_who_publishes_sees_it_at_once(self) -> None:
        """The reply comes on one connection and the chunk on another."""
        broker = await self.broker()
        await self.following(broker)
        for number in range(1, 200):
            (published,) = await broker.events.publish("main", news("a"))
            page = await self.read(broker, Selection.exact("a"), number - 1)
            assert [event.id for event in page.events] == [published]

    async def test_who_publishes_reads_what_the_channel_brings_a_moment_later(self) -> None:
        """Busy readers beside a busy publisher: each asked the store, which made all of them slow."""
        broker = await self.broker()
        await self.following(broker)
        log = broker.events._log("main")
        asked, chunks = [], []
        page, heard = log.stored.page, log.following.heard
        self.patch(log.stored, "page", lambda *how: asked.append(how) or page(*how))
        self.patch(log.following, "heard", lambda *chunk: chunks.append(chunk))
        await broker.events.publish("main", news("a", "b"))
        reading = broker.events.read("main", Selection.exact("a"), 0, 10)
        left = broker.events.read("main", ALL, 0, 10)
        await until(lambda: chunks, "the chunk")
        assert not reading.called
        left.cancel()
        with pytest.raises(CancelledError):
            await left
        await broker.events.publish("main", news("a"))  # what it does not wait for
        heard(*chunks[0])
        assert [event.id for event in (await reading).events] == [1]
        assert not asked

    async def test_who_publishes_reads_the_store_when_the_channel_is_silent(self) -> None:
        broker = await self.broker()
        await self.following(broker)
        following = broker.events._log("main").following
        self.patch(following, "heard", lambda *chunk: None)
        await broker.events.publish("main", news("a"))
        assert await self.ids(broker, after=0) == [1]
        reading = broker.events.read("main", ALL, 0, 10)
        assert not reading.called
        following.deaf()
        assert [event.id for event in (await reading).events] == [1]

    async def test_logs_have_ids_of_their_own(self) -> None:
        broker = await self.broker()
        assert await broker.events.publish("main", news("a", "a")) == [1, 2]
        assert await broker.events.publish("other", news("a")) == [1]
        assert len((await broker.events.read("other", ALL, None, 9)).events) == 1

    async def test_a_large_batch_comes_in_order(self) -> None:
        broker = await self.broker()
        first = broker.events.publish("main", news(*["a"] * 700))
        second = broker.events.publish("main", news(*["b"] * 700))
        third = broker.events.publish("main", news(*["c"] * 2500))
        found = await gatherResults([first, second, third])
        assert [ids == list(range(ids[0], ids[0] + len(ids))) for ids in found] == [True] * 3
        assert [ids[0] for ids in found] == [1, 701, 1401]
        large = [NewEvent("d", b"x" * 700_000)] * 4
        assert await broker.events.publish("main", large) == [3901, 3902, 3903, 3904]
        assert await self.ids(broker, Selection.exact("d"), 3903) == [3904]

    async def test_health_counts_what_is_kept(self) -> None:
        broker = await self.broker()
        assert (await broker.events.health("main"))[:5] == (0, 0, 0, 0, 0)
        await broker.events.publish("main", news("a", "b", "c"))
        info = await broker.events.health("main")
        assert (info.events, info.oldest, info.newest) == (3, 1, 3)
        assert info.oldest_ms <= info.newest_ms <= info.now_ms


class Waiting(EventsCase):
    """A poll that waits ends with the first event that matches, or when its time is over."""

    async def test_it_ends_with_the_event(self) -> None:
        broker, other = await self.broker(), await self.broker()
        after: Any = None
        for _ in range(3):
            waiting = broker.events.wait("main", Selection.matching(["x.*"]), after, 10, 20)
            await self.following(broker)
            number = (await other.events.publish("main", news("y", "x.1")))[1]
            page = await waiting
            assert [event.id for event in page.events] == [number]
            assert page.cursor.id == number
            after = page.cursor

    async def test_it_ends_in_time_with_nothing(self) -> None:
        broker = await self.broker()
        page = await broker.events.wait("main", ALL, None, 10, 0.05)
        assert page.events == []
        assert not broker.events._log_of

    async def test_who_leaves_is_forgotten(self) -> None:
        broker = await self.broker()
        waiting = broker.events.wait("main", ALL, None, 10, 20)
        await until(lambda: broker.events._log_of, "it waits")
        waiting.cancel()
        with pytest.raises(CancelledError):
            await waiting
        assert not broker.events._log_of
        await self.following(broker)
        assert not broker.events._log("main").subscribers.pushed.all


class Pushing(EventsCase):
    """Subscribers get what matches, in order, once, from where they were."""

    async def test_the_past_and_then_what_comes(self) -> None:
        broker, other = await self.broker(), await self.broker()
        await broker.events.publish("main", news(*["a.b", "c"] * 1500))
        listener, late = Listener(), Listener()
        broker.events.subscribe("main", Selection.matching(["a.*"]), 0, listener)
        broker.events.subscribe("main", Selection.matching(["a.*"]), None, late)
        published = [other.events.publish("main", news("a.x", "d")) for _ in range(50)]
        await gatherResults(published)
        await until(lambda: late.began is not None, "it began")
        await until(lambda: len(listener.ids) >= 1550, "all of them")
        assert listener.ids == [*range(1, 3000, 2), *range(3001, 3100, 2)]
        assert late.ids == [number for number in listener.ids if number > late.began.id]
        assert listener.gaps == late.gaps == []
        broker.events.unsubscribe(listener)
        broker.events.unsubscribe(late)
        assert not broker.events._log("main").subscribers.pushed.patterns

    async def test_the_first_event_of_a_log_is_pushed_like_all_others(self) -> None:
        """A log's life begins with it; with 10,000 subscribers each of them read the store for it."""
        broker, other = await self.broker(), await self.broker()
        listener, coming = Listener(), Listener()
        await self.following(broker)
        page = await self.read(broker, Selection.exact("a"))
        broker.events.subscribe("main", Selection.matching(["a", "b.*"]), None, listener)
        broker.events.subscribe("main", ALL, page.cursor, coming)
        log = broker.events._log("main")
        self.patch(log.stored, "page", lambda *how: self.fail("it asks the store"))
        await other.events.publish("main", news("a"))
        await other.events.publish("main", news("b.c", "c"))
        await until(lambda: len(coming.ids) == 3, "what was published")
        assert (listener.ids, coming.ids) == ([1, 2], [1, 2, 3])
        assert listener.gaps == coming.gaps == []
        assert await self.ids(broker, Selection.exact("a"), page.cursor) == [1]
        assert broker.events.position(listener) == EventCursor(log.stored.known.epoch, 3)

    async def test_who_wants_no_more_goes_on_where_it_was(self) -> None:
        broker = await self.broker()
        await self.following(broker)
        listener = Listener(hungry=False)
        broker.events.subscribe("main", ALL, 0, listener)
        for _ in range(10):
            await broker.events.publish("main", news("a"))
        await until(lambda: listener.ids, "the first")
        while len(listener.ids) < 10:
            had = len(listener.ids)
            broker.events.resume(listener)
            await until(lambda had=had: len(listener.ids) > had, "more")
        assert listener.ids == list(range(1, 11))

    async def test_a_lost_channel_loses_nothing(self) -> None:
        broker, other = await self.broker(), await self.broker()
        listener = Listener()
        broker.events.subscribe("main", ALL, 0, listener)
        await self.following(broker)
        with self.valkey.client() as client:
            for _ in range(5):
                await other.events.publish("main", news("a", "b"))
                client.client_kill_filter(_type="pubsub")
                await other.events.publish("main", news("a", "b"))
        await until(lambda: len(listener.ids) >= 20, "all of them")
        assert listener.ids == list(range(1, 21))
        assert listener.gaps == []


class Lost(EventsCase):
    """A store that forgot has another epoch, and every reader is told before anything else."""

    async def test_flushed_under_a_daemon_that_remembers(self) -> None:
        broker = await self.broker()
        listener = Listener()
        broker.events.subscribe("main", ALL, 0, listener)
        await self.following(broker)
        await broker.events.publish("main", news("a", "b"))
        before = (await self.read(broker)).cursor
        await until(lambda: listener.ids == [1, 2], "both")
        with self.valkey.client() as client:
            client.flushall()
        (number,) = await broker.events.publish("main", news("a"))
        assert number > before.id
        page = await self.read(broker, ALL, before)
        assert [event.id for event in page.events] == [number]
        assert page.gap == EventGap(number, True)
        assert page.cursor.epoch > before.epoch
        assert (await self.read(broker, ALL, page.cursor)).gap is None
        await until(lambda: listener.ids[-1] == number, "the new one")
        assert listener.ids == [1, 2, number]
        assert [gap.reset for gap in listener.gaps] == [True]

    async def test_wiped_while_no_daemon_was_there(self) -> None:
        """A client holds a cursor that nobody else remembers."""
        broker = await self.broker()
        await self.following(broker)
        await broker.events.publish("main", news("a", "b", "c"))
        page = await self.read(broker)
        with self.valkey.client() as client:
            client.flushall()
        other = await self.broker(redis_prefix="restmq:")
        assert (await self.read(other, ALL, page.cursor)).gap == EventGap(None, True)
        assert (await self.read(other, ALL, 3)).gap == EventGap(None, True)
        await other.events.publish("main", news("a"))
        again = await self.read(other, ALL, page.cursor)
        assert [event.id for event in again.events] == [1]
        assert again.gap == EventGap(1, True)

    async def test_an_older_store_gives_nothing_twice(self) -> None:
        """The last second went with the power: who has seen more is told, and gets what is new."""
        server = self.start_valkey(appendonly="no")
        broker = await self.broker(server)
        await broker.events.publish("main", news("a", "a"))
        with server.client() as client:
            client.save()
        await broker.events.publish("main", news("a"))
        cursor = (await self.read(broker)).cursor
        assert cursor.id == 3
        server.kill(signal.SIGKILL)
        with pytest.raises(StoreError):
            await broker.events.publish("main", news("lost"))
        server.start()
        await until(lambda: broker._store.ready and broker._store._reads.connection, "the store")
        (number,) = await broker.events.publish("main", news("new"))
        page = await self.read(broker, ALL, cursor)
        assert [event.id for event in page.events] == [number]
        assert page.gap is not None
        assert page.gap.reset

    async def test_nor_does_one_that_is_older_twice(self) -> None:
        """A client was away for two losses; each life kept what it had up to where it was cut off."""
        server = self.start_valkey(appendonly="no")
        broker = await self.broker(server)
        cursors, kept = [], []
        for _ in range(3):
            kept += await broker.events.publish("main", news("a", "a"))
            with server.client() as client:
                client.save()
            await broker.events.publish("main", news("a"))
            cursors.append((await self.read(broker)).cursor)
            server.kill(signal.SIGKILL)
            await until(lambda: not broker._store.ready, "it is noticed")
            server.start()
            await until(
                lambda: broker._store.ready and broker._store._reads.connection, "the store"
            )
        (number,) = await broker.events.publish("main", news("new"))
        assert len({cursor.epoch for cursor in cursors}) == 3
        for life, cursor in enumerate(cursors, 1):
            page = await self.read(broker, ALL, cursor)
            assert [event.id for event in page.events] == [*kept[2 * life :], number]
            assert page.gap == EventGap(page.events[0].id, True)

    async def test_away(self) -> None:
        server = self.start_valkey()
        broker = await self.broker(server)
        server.kill()
        await until(lambda: not broker._store.ready, "it is noticed")
        with pytest.raises(StoreAway):
            await broker.events.publish("main", news("a"))
        with pytest.raises(StoreAway):
            await self.read(broker)

    async def test_a_log_without_its_hash_begins_anew(self) -> None:
        broker = await self.broker()
        await broker.events.publish("main", news("a", "a"))
        with self.valkey.client() as client:
            client.delete(Keys("restmq:").log("main")[0])
        other = await self.broker()
        assert await other.events.publish("main", news("a")) == [1]
        assert [event.id for event in (await self.read(other)).events] == [1]


class Retaining(EventsCase):
    """What is past its retention is gone, its memory with it, and who missed it is told."""

    async def test_by_age(self) -> None:
        broker = await self.broker(events_short_age=0.2)
        await self.following(broker)
        await broker.events.publish("main", news("short"), short=True)
        await broker.events.publish("main", news("long"))
        cursor = EventCursor((await self.read(broker)).cursor.epoch, 0)
        short = Selection.exact("short")

        async def over() -> bool:
            return not (await self.read(broker, short)).events

        while not await over():
            pass
        assert (await self.read(broker, short, 0)).gap is None  # from the beginning: all there is
        await broker.events.publish("main", news("short", "short", "long"), short=True)
        page = await self.read(broker, Selection.matching(["short", "long"]), cursor)
        assert [event.topic for event in page.events] == ["long", "short", "short", "long"]

    async def test_by_count_with_a_gap_for_whom_it_concerns(self) -> None:
        broker = await self.broker(events_retention=("few.**=0:10",))
        for _ in range(3):
            await broker.events.publish("main", news(*["few.a", "many"] * 20))
        epoch = (await self.read(broker)).cursor.epoch
        info = await broker.events.health("main")
        assert info.events == 70
        for fresh in (await self.broker(), broker):
            few = await self.read(fresh, Selection.below("few"), EventCursor(epoch, 5))
            assert len(few.events) == 10
            assert few.gap == EventGap(few.events[0].id)
            exact = await self.read(fresh, Selection.exact("few.a"), EventCursor(epoch, 5))
            assert exact.gap == few.gap
            many = await self.read(fresh, Selection.exact("many"), EventCursor(epoch, 5))
            assert many.gap is None
            assert len(many.events) == 58
            whole = await self.read(fresh, ALL, EventCursor(epoch, 5))
            assert whole.gap is not None
            assert whole.gap.missed == 115 - len(whole.events)
            newest = EventCursor(epoch, few.events[0].id - 1)
            assert (await self.read(fresh, Selection.below("few"), newest)).gap is None

    async def test_what_another_class_keeps_of_a_topic_stays(self) -> None:
        """The index of a topic is trimmed in one piece, but not where two doors lead to it."""
        broker, other = await self.broker(events_count=6), await self.broker()
        await broker.events.publish("main", news(*["a"] * 3), short=True)
        await broker.events.publish("main", news(*["a"] * 8))
        await broker.events.publish("main", news(*["b"] * 4))
        assert await self.ids(other, Selection.exact("a")) == [1, 2, 3, 10, 11]
        await broker.events.publish("main", news(*["b"] * 8))
        assert await self.ids(other, Selection.exact("a"), 0) == [1, 2, 3]
        assert await self.ids(other, Selection.exact("b"), 0) == [18, 19, 20, 21, 22, 23]
        with self.valkey.client() as client:
            assert client.zcard(Keys("restmq:").log("main")[1]) == 9

    async def test_who_goes_on_from_an_empty_log_is_told_what_went_by(self) -> None:
        broker = await self.broker(events_count=2)
        await self.following(broker)
        empty = (await self.read(broker)).cursor
        cursor = read_event_cursor(empty.text)
        assert cursor is not None
        listener = Listener()
        broker.events.subscribe("main", ALL, cursor, listener)
        for fresh in (broker, await self.broker()):
            assert (await self.read(fresh, after=cursor)).gap is None
        await broker.events.publish("main", news("a"))
        page = await self.read(broker, after=cursor)
        assert ([event.id for event in page.events], page.gap) == ([1], None)
        await until(lambda: listener.ids == [1], "the first")
        await broker.events.publish("main", news("a", "b", "b"))
        await until(lambda: listener.ids == [1, 2, 3, 4], "the others")
        kept = broker.events.look("main", Query(ALL, cursor, 10))
        assert kept is not None, "the tail reaches back so far: nobody need ask the store"
        assert ([event.id for event in kept.events], kept.gap) == ([1, 2, 3, 4], None)
        fresh = await self.broker()
        assert (await self.read(fresh, after=cursor)).gap == EventGap(3, missed=2)
        assert (await self.read(fresh, Selection.exact("b"), cursor)).gap is None
        for beginning in (None, read_event_cursor("0-0")):
            assert (await self.read(fresh, after=beginning)).gap is None
        assert listener.gaps == []

    async def test_memory_comes_back(self) -> None:
        broker = await self.broker(events_age=0.2, events_count=1000, events_bytes=100_000)
        for _ in range(30):
            await broker.events.publish(
                "main", news(*[f"a.{n}" for n in range(100)], body=b"x" * 99)
            )
        keys = Keys("restmq:").log("main")
        with self.valkey.client() as client:
            assert client.xlen(keys[5]) <= 1000
            assert client.zcard(keys[1]) == client.xlen(keys[5])

            def gone() -> bool:
                broker.events._trimmed_at = 0.0
                broker.events.tick()
                return client.exists(keys[5], keys[1]) == 0

            await until(gone, "all gone")
            assert client.hget(keys[0], "b0") == b"0"
            assert client.zcard(keys[2]) == 100
        cursor = EventCursor((await self.read(broker)).cursor.epoch, 5)
        assert (await self.read(broker, Selection.exact("a.5"), cursor)).gap == EventGap(None)

    async def test_what_was_forgotten_of_topics_counts_as_a_gap_for_all(self) -> None:
        broker = await self.broker(events_count=1)
        await broker.events.publish("main", news("first"))
        for start in range(0, 6000, 1000):
            await broker.events.publish("main", news(*[f"t.{start + n}" for n in range(1000)]))
        cursor = EventCursor((await self.read(broker)).cursor.epoch, 3)
        with self.valkey.client() as client:
            assert client.zcard(Keys("restmq:").log("main")[2]) == 4096
        assert (await self.read(broker, Selection.exact("other"), cursor)).gap == EventGap(None)
        late = cursor._replace(id=5990)
        assert (await self.read(broker, Selection.exact("other"), late)).gap is None
