"""Work queues through the broker, on a real store: one story each."""

from __future__ import annotations

import orjson
from twisted.internet import reactor
from twisted.internet.task import deferLater

from restmq.core.broker import Broker
from restmq.core.jobs import Leased, Page
from restmq.core.verdicts import UNDO, Ack, Extend, Nack, Outcome
from restmq.message import Mode, NewMessage, Put
from tests.core.test_broker import Brokers
from tests.turns import until


def bodies(leased: list[Leased]) -> list[bytes | None]:
    return [one.message.body for one in leased]


class Jobs(Brokers):
    """Put, receive, ack, nack, extend; what time brings; looking inside."""

    async def receive(self, broker: Broker, *queues: str, **choices: object) -> list[Leased]:
        return await broker.receive(queues or ["q"], **choices).done

    async def put(self, broker: Broker, *texts: bytes, **more: object) -> list[Put]:
        return await broker.put("q", [NewMessage(text, **more) for text in texts])

    async def test_done_is_gone(self) -> None:
        broker = await self.broker()
        puts = await self.put(
            broker, b"a", b"b", b"c", headers=b'{"x":"y"}', content_type="text/plain"
        )
        assert [put.id for put in puts] == [1, 2, 3]
        first, second = await self.receive(broker, limit=2)
        assert (first.message.attempt, first.message.headers, first.message.content_type) == (
            1,
            b'{"x":"y"}',
            "text/plain",
        )
        assert bodies([first, second]) == [b"a", b"b"]
        assert await broker.settle([first.receipt, first.receipt], Ack()) == [True, False]
        info = await broker.inspect("q")
        assert (info.length, info.leased, info.mode) == (1, 1, Mode.JOBS)

    async def test_a_lease_that_ends_gives_the_message_back_and_its_receipt_is_stale(self) -> None:
        broker = await self.broker()
        await self.put(broker, b"a")
        (first,) = await self.receive(broker, lease_ms=50)
        (again,) = await self.receive(broker, wait_seconds=10.0)
        assert again.message.attempt == 2
        assert await broker.settle([first.receipt, again.receipt], Ack()) == [False, True]
        assert (await broker.inspect("q")).redelivered == 1

    async def test_what_was_never_handed_out_is_not_done_with_what_was(self) -> None:
        """One worker acks while another hangs up in the same turn: his message is still there."""
        broker = await self.broker()
        await self.put(broker, b"done", b"not had", b"done", b"not had")
        for verbs in ((Ack(), UNDO), (UNDO, Ack())):
            one, other = await self.receive(broker, limit=2)
            of = {b"done": one, b"not had": other}
            both = [
                broker.settle([(of[b"done"] if verb is not UNDO else of[b"not had"]).receipt], verb)
                for verb in verbs
            ]
            assert [await each for each in both] == [[True], [True]]
            (again,) = await self.receive(broker)
            assert (again.message.body, again.message.attempt) == (b"not had", 1)
            await broker.settle([again.receipt], Ack())

    async def test_the_lease_is_that_of_who_asks_then_of_the_queue_then_the_usual_one(self) -> None:
        broker = await self.broker(lease=7.0)
        await self.put(broker, b"a", b"b", b"c")
        for said, of_queue in ((None, None), (None, 9000), (11000, 9000)):
            if of_queue:
                await broker.change("q", {"lease_ms": of_queue})
            before = (await broker.inspect("q")).now_ms
            (one,) = await self.receive(broker, lease_ms=said)
            after = (await broker.inspect("q")).now_ms
            assert before <= one.until_ms - (said or of_queue or 7000) <= after

    async def test_a_failure_waits_and_then_becomes_a_dead_letter_with_its_story(self) -> None:
        broker = await self.broker()
        await broker.change("q", {"max_attempts": 2, "mode": 2})
        await self.put(broker, b"a", headers=b'{"x":"y"}')
        (one,) = await self.receive(broker)
        assert await broker.settle([one.receipt], Nack(30, "no luck")) == [True]
        assert (await broker.inspect("q")).delayed == 1
        (one,) = await self.receive(broker, wait_seconds=10.0)
        assert (one.message.attempt, one.message.error) == (2, "no luck")
        await broker.settle([one.receipt], Nack(0, "none at all"))
        (dead,) = await self.receive(broker, "q.dead", wait_seconds=10.0)
        assert dead.message.body == b"a"
        assert orjson.loads(dead.message.headers) == {
            "x": "y",
            "restmq-origin": "q:1",
            "restmq-reason": "rejected",
            "restmq-attempts": "2",
            "restmq-error": "none at all",
        }
        assert await broker.settle([dead.receipt], Nack(0)) == [True]
        assert await broker.redrive("q.dead", "", 10) == 1
        (back,) = await self.receive(broker, wait_seconds=10.0)
        assert (back.message.body, back.message.attempt, back.message.headers) == (
            b"a",
            1,
            b'{"x":"y"}',
        )

    async def test_a_delay_holds_a_message_back_and_a_priority_brings_it_forward(self) -> None:
        broker = await self.broker()
        await broker.change("q", {"prio": 1, "mode": 2})
        await self.put(broker, b"later", delay_ms=100)
        await self.put(broker, b"plain")
        await self.put(broker, b"urgent", priority=9)
        assert bodies(await self.receive(broker, limit=10)) == [b"urgent", b"plain"]
        assert bodies(await self.receive(broker, wait_seconds=10.0)) == [b"later"]

    async def test_who_waits_is_woken_by_another_broker(self) -> None:
        broker, other = await self.broker(), await self.broker()
        waiting = [broker.receive(["p", "q"], wait_seconds=20.0) for _ in range(3)]
        await until(
            lambda: "q" in broker._waiting._queues and broker._waiting._queues["q"].subscribed,
            "waiting",
        )
        await deferLater(reactor, 0.05)
        await self.put(other, b"a", b"b", b"c")
        assert sorted(bodies([m for one in waiting for m in await one.done])) == [b"a", b"b", b"c"]
        assert await broker.receive(["q"], wait_seconds=0.05).done == []

    async def test_who_left_takes_nothing(self) -> None:
        broker = await self.broker()
        await self.put(broker, b"a")
        broker.receive(["q"]).cancel()
        (one,) = await self.receive(broker, wait_seconds=10.0)
        assert one.message.attempt == 1

    async def test_a_repeat_under_a_key_is_the_same_message_and_the_same_answer(self) -> None:
        broker = await self.broker()
        key = bytes(16)
        (put,), (again,) = (
            await self.put(broker, b"a", key=key),
            await self.put(broker, b"a", key=key),
        )
        assert (put.id, again) == (1, Put(1, replayed=True))
        (other,) = await self.put(broker, b"other", key=key)
        assert other.error == "key_reused"
        await self.put(broker, b"b")
        first = await self.receive(broker, key=key)
        assert bodies(await self.receive(broker, key=key)) == bodies(first) == [b"a"]

    async def test_what_is_said_again_under_its_key_is_answered_as_then(self) -> None:
        broker, other, key = await self.broker(), await self.broker(), bytes(16)
        await self.put(broker, b"a", b"b", b"c")
        one, two, three = [found.receipt for found in await self.receive(broker, limit=3)]
        stale = one._replace(id=99)
        first = await broker.settle_once([one, stale], Ack(), key)
        assert first == Outcome(["", "stale_receipt"], replayed=False)
        again = await other.settle_once([one, stale], Ack(), key)
        assert again == first._replace(replayed=True)
        for receipts, verb in (([two], Ack()), ([one, stale], Nack(0))):
            found = await other.settle_once(receipts, verb, key)
            assert found == Outcome(["key_reused"] * len(receipts), replayed=False)
        assert (await broker.inspect("q")).leased == 2
        nacked = [await broker.settle_once([two], Nack(0), b"n" * 16) for _ in range(2)]
        assert [one.codes for one in nacked] == [[""], [""]]
        extended = [await broker.settle_once([three], Extend(60_000), b"e" * 16) for _ in range(2)]
        assert [one.codes for one in extended] == [[""], [""]]
        (back,) = await self.receive(broker, limit=3)
        assert (back.message.body, back.message.attempt) == (b"b", 2)

    async def test_who_names_no_key_leaves_none(self) -> None:
        broker = await self.broker()
        await self.put(broker, b"a", b"b", b"c")
        one, two, three = [found.receipt for found in await self.receive(broker, limit=3)]
        for receipt, verb in ((one, Ack()), (two, Nack(0)), (three, Extend(60_000))):
            assert await broker.settle([receipt], verb) == [True]
        look = self.look()
        assert b"string" not in {look.type(key) for key in look.keys("restmq:{q}*")}

    async def test_a_queue_that_remembers_no_keys_takes_them(self) -> None:
        broker, key = await self.broker(), bytes(16)
        await broker.change("q", {"dedup_ms": 0, "mode": 2})
        puts = [(await self.put(broker, b"a", key=key))[0] for _ in range(2)]
        assert [put.id for put in puts] == [1, 2]
        (one,) = await self.receive(broker)
        codes = [(await broker.settle_once([one.receipt], Ack(), key)).codes for _ in range(2)]
        assert codes == [[""], ["stale_receipt"]]

    async def test_more_time(self) -> None:
        broker = await self.broker()
        await self.put(broker, b"a")
        (one,) = await self.receive(broker, lease_ms=60)
        assert await broker.settle([one.receipt], Extend(30000)) == [True]
        assert await broker.receive(["q"], wait_seconds=0.3).done == []
        assert await broker.settle([one.receipt], Ack()) == [True]

    async def test_pages_of_what_is_ready_leased_and_delayed(self) -> None:
        broker = await self.broker()
        await self.put(broker, *[b"%d" % n for n in range(10)])
        await self.put(broker, b"x", b"y", b"z", delay_ms=60000)
        await self.receive(broker, limit=4)
        (back,) = await self.receive(broker)
        await broker.settle([back.receipt], Nack(0))
        for state, wanted in (
            ("ready", [5, 6, 7, 8, 9, 10]),
            ("leased", [1, 2, 3, 4]),
            ("delayed", [11, 12, 13]),
        ):
            found, cursor, pages = [], "", 0
            while True:
                page: Page = await broker.browse("q", state, cursor, 2)
                found += [one.message.id for one in page.found]
                pages += 1
                if page.cursor is None:
                    break
                cursor = page.cursor
            assert found == wanted, state
            assert pages == -(-len(wanted) // 2)
        assert (await broker.find("q", 12)).state == "delayed"
        assert await broker.release("q", 12)
        assert [(await broker.find("q", n)).state for n in (12, 5, 6, 1)] == [
            "ready",
            "ready",
            "ready",
            "leased",
        ]
        assert [await broker.delete("q", n) for n in (1, 5, 6, 11, 11)] == [
            True,
            True,
            True,
            True,
            False,
        ]

    async def test_bounds(self) -> None:
        broker = await self.broker()
        await broker.change("q", {"max_length": 2, "lim": 1, "mode": 2})
        puts = await self.put(broker, b"a", b"b", b"c")
        assert [put.error for put in puts] == ["", "", "queue_full"]
        await broker.change("q", {"overflow": 2})
        await self.put(broker, b"d")
        assert bodies(await self.receive(broker, limit=10)) == [b"b", b"d"]
        assert await broker.remove("q", False) == "not_empty"
        assert [await broker.remove("q", True) for _ in range(2)] == ["gone", "unknown"]
