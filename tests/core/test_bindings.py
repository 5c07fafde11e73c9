"""Bindings: events that go into a queue as well, once, whatever happens on the way."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import gatherResults, succeed

from restmq.core.bindings import Binding
from restmq.core.broker import Broker
from restmq.errors import StoreAway, TooManyBindings
from restmq.message import Put
from restmq.redis.keys import Keys
from restmq.rules.topics import parse_pattern
from tests.core.test_events import EventsCase, news
from tests.turns import until

PAID = Binding(parse_pattern("*.paid"), "invoices")


class Bindings(EventsCase):
    async def names(self, broker: Broker, count: int, queue: str = "invoices") -> list[str]:
        """Which events are in the queue, when so many are."""
        found: list[Any] = []

        async def look() -> bool:
            found[:] = (await broker.browse(queue, "ready", "", 1000)).found
            return len(found) >= count

        while not await look():
            pass
        return [orjson.loads(one.message.headers)["restmq-event"] for one in found]

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
