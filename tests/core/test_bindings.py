"""Bindings: events that go into a queue as well, once, whatever happens on the way."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import gatherResults, succeed
from twisted.logger import capturedLogs

from restmq.core.bindings import Binding
from restmq.core.broker import Broker
from restmq.errors import StoreAway, TooManyBindings
from restmq.message import Put
from restmq.redis.keys import Keys
from restmq.rules.topics import parse_pattern
from tests.core.test_events import EventsCase, news
from tests.turns import until

PAID = Binding(parse_pattern("*.paid"), "invoices")


class BindingsCase(EventsCase):
    async def names(self, broker: Broker, count: int, queue: str = "invoices") -> list[str]:
        """Which events are in the queue, when so many are."""
        found: list[Any] = []

        async def look() -> bool:
            found[:] = (await broker.browse(queue, "ready", "", 1000)).found
            return len(found) >= count

        while not await look():
            pass
        return [orjson.loads(one.message.headers)["restmq-event"] for one in found]


class ManyBindings(BindingsCase):
    async def test_events_that_match_are_in_the_queue_too(self) -> None:
        broker = await self.broker()
        assert await broker.events.bind("main", "b", PAID) is False
        assert await broker.events.bindings("main") == {"b": PAID}
        await broker.events.publish("main", news("a.paid", "a.sent", "b.paid", "paid"))
        assert await self.names(broker, 2) == ["main:1", "main:3"]
        assert await broker.events.bind("main", "b", None) is True
        await broker.events.publish("main", news("a.paid"))
        assert await broker.events.bindings("main") == {}
        assert len(await self.names(broker, 2)) == 2

    async def test_it_holds_at_once_for_all_daemons(self) -> None:
        """The other daemon has published already, and knows nothing of the binding."""
        broker, other = await self.broker(), await self.broker()
        await other.events.publish("main", news("a.paid"))
        await broker.events.bind("main", "b", PAID)
        sent = [other.events.publish("main", news("a.paid")) for _ in range(3)]
        assert await gatherResults(sent) == [[2], [3], [4]]
        assert await self.names(other, 3) == ["main:2", "main:3", "main:4"]

    async def test_what_was_on_its_way_arrives_once(self) -> None:
        """A daemon put it into the queue and died before it could say so."""
        broker = await self.broker()
        await broker.events.bind("main", "b", PAID)
        outbox = Keys("restmq:").log("main")[4]
        with self.valkey.client() as client:
            await broker.events.publish("main", news("a.paid"))
            (place, fields), *_ = client.xrange(outbox) or [(b"", {})]
            await self.names(broker, 1)
            await until(lambda: client.xlen(outbox) == 0, "it is gone from the outbox")
            assert place, "it was in the outbox"
            client.xadd(outbox, fields)
            other = await self.broker()
            other.events._log("main").bindings.move()
            await until(lambda: client.xlen(outbox) == 0, "it is gone again")
        assert await self.names(other, 1) == ["main:1"]

    async def test_what_lies_in_the_outbox_of_a_dead_daemon_is_moved(self) -> None:
        broker, other = await self.broker(), await self.broker()
        await broker.events.bind("main", "b", PAID)

        def away(queue: str, messages: list[Any]) -> Any:
            raise StoreAway("it died")

        broker.events._log("main").bindings.put = away
        await broker.events.publish("main", news("a.paid", "b.paid"))
        other.events.tick()
        assert await self.names(other, 2) == ["main:1", "main:2"]

    async def test_what_comes_while_others_are_moved_is_moved_at_once(self) -> None:
        """And not only at the next tick."""
        broker = await self.broker()
        await broker.events.bind("main", "b", PAID)
        bindings = broker.events._log("main").bindings
        put, calls = bindings.put, []

        def slow(queue: str, messages: list[Any]) -> Any:
            calls.append(queue)
            if len(calls) > 1:
                return put(queue, messages)
            second = broker.events.publish("main", news("a.paid"))
            return second.addCallback(lambda _: put(queue, messages))

        bindings.put = slow
        await broker.events.publish("main", news("a.paid"))
        assert await self.names(broker, 2) == ["main:1", "main:2"]

    async def test_a_full_queue_holds_up_no_other(self) -> None:
        broker = await self.broker()
        await broker.events.bind("main", "full", Binding(parse_pattern("full"), "full"))
        await broker.events.bind("main", "b", PAID)
        bindings = broker.events._log("main").bindings
        put = bindings.put

        def refusing(queue: str, messages: list[Any]) -> Any:
            if queue == "full":
                return succeed([Put(error="queue_full")] * len(messages))
            return put(queue, messages)

        bindings.put = refusing
        await broker.events.publish("main", news(*["full"] * 500))
        await broker.events.publish("main", news("a.paid"))
        assert await self.names(broker, 1) == ["main:501"]
        bindings.put = put
        broker.events.tick()
        names = await self.names(broker, 500, "full")
        assert names == [f"main:{number}" for number in range(1, 501)]

    async def test_a_queue_that_cannot_be_put_into_holds_up_no_other(self) -> None:
        """Its key belongs to somebody else."""
        broker = await self.broker()
        await broker.events.bind("main", "b", Binding(parse_pattern("*.paid"), "bad"))
        await broker.events.bind("main", "c", PAID)
        with self.valkey.client() as client:
            for key in Keys("restmq:").queue("bad"):
                client.set(key, "x")
        await broker.events.publish("main", news("a.paid"))
        assert await self.names(broker, 1) == ["main:1"]
        assert len(self.flushLoggedErrors()) <= 1

    async def test_a_store_that_lost_time_gives_no_version_again(self) -> None:
        """A daemon knows a binding that the store has lost, and then another one is set."""
        broker, other = await self.broker(), await self.broker()
        await broker.events.bind("main", "b", Binding(parse_pattern("b.*"), "lost"))
        await broker.events.publish("main", news("x"))
        keys = Keys("restmq:").log("main")
        with self.valkey.client() as client:
            client.hdel(keys[0], "bv")
            client.delete(keys[3])
        await other.events.bind("main", "c", PAID)
        await broker.events.publish("main", news("a.paid"))
        assert await self.names(broker, 1) == ["main:2"]

    async def test_bindings_hold_on_when_only_the_hash_is_lost(self) -> None:
        broker = await self.broker()
        await broker.events.bind("main", "b", PAID)
        with self.valkey.client() as client:
            client.delete(Keys("restmq:").log("main")[0])
        for each in (await self.broker(), broker):
            await each.events.publish("main", news("a.paid"))
        assert len(await self.names(broker, 2)) == 2

    async def test_there_are_a_hundred_at_most(self) -> None:
        broker = await self.broker()
        for number in range(100):
            await broker.events.bind("main", f"b{number}", PAID)
        with pytest.raises(TooManyBindings):
            await broker.events.bind("main", "one more", PAID)
        assert await broker.events.bind("main", "b7", PAID) is True
        assert await broker.events.bind("main", "b8", None) is True
        assert await broker.events.bind("main", "one more", PAID) is False


class Full(BindingsCase):
    """What waits for a queue that stays full has the bounds that the log has."""

    async def full(self, **options: Any) -> Broker:
        """A broker whose log is bound to a queue that takes nothing, and to another one."""
        broker = await self.broker(**options)
        await broker.events.bind("main", "b", PAID)
        await broker.events.bind("main", "full", Binding(parse_pattern("full.*"), "full"))
        bindings = broker.events._log("main").bindings
        self.put = bindings.put

        def refusing(queue: str, messages: list[Any]) -> Any:
            if queue == "full":
                return succeed([Put(error="queue_full")] * len(messages))
            return self.put(queue, messages)

        bindings.put = refusing
        return broker

    async def waiting(self, broker: Broker, count: int) -> None:
        bindings = broker.events._log("main").bindings
        with self.valkey.client() as client:
            outbox = Keys("restmq:").log("main")[4]
            await until(lambda: not bindings.moving and client.xlen(outbox) == count, "the outbox")

    async def dropped(self, broker: Broker) -> list[int]:
        return [each.dropped for each in (await broker.events.bindings("main")).values()]

    async def test_as_many_as_the_log_holds(self) -> None:
        broker = await self.full(events_count=20)
        for _ in range(10):
            await broker.events.publish("main", news(*["full.a"] * 5, "a.paid"))
        await self.waiting(broker, 20)
        assert await self.dropped(broker) == [0, 30]
        other = await self.broker(events_count=20)
        other.events._log("main").bindings.put = broker.events._log("main").bindings.put
        with capturedLogs() as told:
            for each in (broker, other):
                each.events._log("main").bindings.move_all()
                await self.waiting(each, 20)
        assert [event["count"] for event in told if event.get("queue") == "full"] == [30]
        assert await self.dropped(other) == [0, 30]
        broker.events._log("main").bindings.put = self.put
        broker.events._log("main").bindings.move_all()
        names = await self.names(broker, 20, "full")
        assert [int(name.split(":")[1]) for name in names] == [
            turn * 6 + n for turn in range(6, 10) for n in range(1, 6)
        ]
        assert len(await self.names(broker, 10)) == 10

    async def test_as_many_bytes(self) -> None:
        broker = await self.full(events_bytes=10_000)
        await broker.events.publish("main", news(*["full.a"] * 30, body=bytes(1000)))
        await self.waiting(broker, 9)
        await broker.events.publish("main", news("full.a", body=bytes(20_000)))
        await self.waiting(broker, 1)
        assert await self.dropped(broker) == [0, 30]

    async def test_as_long(self) -> None:
        broker = await self.full(events_retention=("full.short=0.1",))
        await broker.events.publish("main", news("full.long", "full.short", "full.long"))
        bindings = broker.events._log("main").bindings

        with self.valkey.client() as client:
            outbox = Keys("restmq:").log("main")[4]

            def gone() -> bool:
                bindings.move_all()
                return client.xlen(outbox) == 2

            await until(gone, "the one whose time is over")
        assert await self.dropped(broker) == [0, 1]
