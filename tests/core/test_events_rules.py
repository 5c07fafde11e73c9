"""Rules of retention: a class is its pattern's, whatever rules the daemons of a log have."""

from __future__ import annotations

from twisted.logger import capturedLogs

from restmq.core import events
from restmq.core.broker import Broker
from restmq.redis.keys import LOG_CLASSES, Keys
from restmq.rules.retention import MAX_RULES
from restmq.rules.selection import Selection
from tests.core.test_events import EventsCase, news
from tests.turns import until

LOG = "log.**=3600:1000"
DEBUG = "debug.**=3600:10"


class Empty(EventsCase):
    """A log that holds nothing costs nothing, and is there again when somebody writes to it."""

    async def test_it_leaves_the_list_and_comes_back(self) -> None:
        self.patch(events, "EMPTY_SECONDS", 0.0)
        broker, other = await self.broker(events_age=0.1), await self.broker(events_age=0.1)
        logs = Keys("restmq:").logs()
        with self.valkey.client() as client:
            for turn in range(3):
                await other.events.publish("quiet", news("a"))
                await broker.events.publish("kept", news("a"), short=True)
                assert set(client.smembers(logs)) == {b"quiet", b"kept"}, turn

                def left() -> bool:
                    for each in (broker, other):
                        each.events._trimmed_at = 0.0
                        each.events.tick()
                    return list(client.smembers(logs)) == [b"kept"]

                await until(left, "it is empty")
        assert await other.events.publish("quiet", news("a")) == [4]

    async def test_what_is_written_meanwhile_is_listed_again(self) -> None:
        self.patch(events, "EMPTY_SECONDS", -1.0)
        broker = await self.broker(events_age=0.1)
        await broker.events.publish("quiet", news("a"))
        keys, logs = Keys("restmq:").log("quiet"), Keys("restmq:").logs()
        stored = broker.events._log("quiet").stored
        strike, struck = stored.strike, []
        with self.valkey.client() as client:

            def late() -> None:
                """Another daemon, which listed it long ago, publishes just before."""
                entry = (2).to_bytes(7, "big") + bytes(12) + b"\x01b\0\0\0{}"
                client.xadd(keys[5], {"e": entry}, id="2-0")
                client.hset(keys[0], "id", 2)
                strike()
                struck.append(True)

            stored.strike = late

            def looked() -> bool:
                broker.events._trimmed_at = 0.0
                broker.events.tick()
                return bool(struck)

            await until(looked, "it is empty")
            await broker.events.health("quiet")  # behind the strike
            await until(lambda: client.sismember(logs, "quiet"), "it is listed")


class Rules(EventsCase):
    async def trim(self, *brokers: Broker) -> None:
        """As each of them does from time to time."""
        for broker in brokers:
            broker.events._trimmed_at = 0.0
            broker.events.tick()
            await broker.events.health("main")  # behind it on the connection that writes
            await broker.events.health("main")

    async def kept(self, broker: Broker, below: str) -> int:
        return len(await self.ids(broker, Selection.below(below)))

    async def test_another_order_trims_nothing_of_other_rules(self) -> None:
        """A rolling restart with one rule more in front."""
        old = await self.broker(events_retention=(LOG,))
        new = await self.broker(events_retention=(DEBUG, LOG))
        await old.events.publish("main", news(*["log.a"] * 500))
        await self.trim(new, old)
        assert await self.kept(new, "log") == 500
        for broker in (new, old, new):
            await broker.events.publish("main", news(*["log.a"] * 50, *["debug.a"] * 50))
            await self.trim(old, new)
        assert await self.kept(old, "log") == 650
        with self.valkey.client() as client:
            debug = client.xlen(Keys("restmq:").log("main")[5 + 3])
        assert debug == 10

    async def test_what_a_rule_left_behind_keeps_its_limits(self) -> None:
        old = await self.broker(events_retention=("few.**=0:5", LOG))
        await old.events.publish("main", news(*["few.a"] * 20, *["log.a"] * 20))
        new = await self.broker(events_retention=(LOG,), events_count=2)
        await self.trim(new)
        assert await self.kept(new, "few") == 5
        await new.events.publish("main", news(*["few.a"] * 20))
        await self.trim(new)
        assert await self.kept(new, "few") == 5 + 2  # without a rule they are ordinary ones
        assert await self.kept(new, "log") == 20

    async def test_other_limits_hold_for_what_there_is(self) -> None:
        old = await self.broker(events_retention=(LOG,))
        await old.events.publish("main", news(*["log.a"] * 20))
        new = await self.broker(events_retention=("log.**=3600:10",))
        await self.trim(new)
        assert await self.kept(new, "log") == 10

    async def test_a_class_that_holds_nothing_is_for_another_rule(self) -> None:
        for turn in range(3):
            names = [f"t{turn}.{n}" for n in range(MAX_RULES)]
            broker = await self.broker(events_retention=tuple([f"{name}=0.2" for name in names]))
            await broker.events.publish("main", news(*names))

            async def gone(broker: Broker = broker) -> bool:
                await self.trim(broker)
                return (await broker.events.health("main")).events == 0

            while not await gone():
                pass
        with self.valkey.client() as client:
            kept = client.hgetall(Keys("restmq:").log("main")[0])
        fields = {b"r%d" % number for number in range(2, LOG_CLASSES)}
        rules = {value[18:] for field, value in kept.items() if field in fields}
        assert rules == {name.encode() for name in names}

    async def test_where_no_class_is_free_its_events_are_ordinary_but_for_their_age(self) -> None:
        names = [f"t{n}" for n in range(MAX_RULES)]
        full = await self.broker(events_retention=tuple([f"{name}=0" for name in names]))
        await full.events.publish("main", news(*names))
        more = await self.broker(events_retention=("more=60:1",), events_count=3)
        with capturedLogs() as told:
            for _ in range(5):
                await more.events.publish("main", news("more"))
        assert len([event for event in told if "other rules" in event["log_format"]]) == 1
        page = await self.read(more, Selection.exact("more"))
        assert [event.expires_ms - event.created_ms for event in page.events] == [60_000] * 3
        await self.trim(more, full)
        assert (await full.events.health("main")).events == 3 + MAX_RULES
