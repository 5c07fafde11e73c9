"""Work queues where bounds, hang-ups, several daemons and a full store meet, on a real store."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from restmq.core.broker import Broker
from restmq.core.jobs import UNPUT, Leased
from restmq.core.verdicts import Nack
from restmq.errors import (
    OutcomeUnknown,
    PartlyRefused,
    QueueFull,
    StoreAway,
    StoreError,
    StoreFull,
)
from restmq.message import NewMessage, Put
from restmq.redis.keys import Keys
from restmq.rules import queue_settings
from restmq.web.v1.problems import CODES
from tests.core.test_broker import Brokers
from tests.turns import until

KEY = b"k" * 16


def bodies(leased: list[Leased]) -> list[bytes | None]:
    return [one.message.body for one in leased]


async def waits(broker: Broker, *, queue: str = "q") -> None:
    """Somebody waits for messages, and has found none."""
    queues = broker._waiting._queues
    await until(
        lambda: (
            queue in queues
            and queues[queue].subscribed
            and queues[queue].waiters
            and not any(one.asking for one in queues[queue].waiters)
        ),
        "somebody waits",
    )


class Bounds(Brokers):
    """What one call does for one, and what it leaves for the others."""

    async def test_who_is_refused_by_the_rate_drops_nothing(self) -> None:
        broker = await self.broker()
        await broker.change("q", {"max_length": 2, "overflow": 2, "put_rate": 1, "lim": 1})
        puts = [(await broker.put("q", [NewMessage(b"%d" % n)]))[0] for n in range(4)]
        assert [put.error for put in puts[1:]] == ["rate_limited"] * 3
        await broker.change("q", {"put_rate": 1000})
        await broker.put("q", [NewMessage(b"last")])
        await broker.change("q", {"put_rate": 1})
        puts = await broker.put("q", [NewMessage(b"refused"), NewMessage(b"refused")])
        assert [put.error for put in puts] == ["rate_limited"] * 2
        assert bodies(await broker.receive(["q"], 10).done) == [b"0", b"last"]

    async def test_texts_of_which_a_queue_takes_some_are_counted(self) -> None:
        broker = await self.broker()
        await broker.queue_settings.change("q", {"max_length": "3"})
        partly = await self.assertFailure(broker.add_texts("q", ["x"] * 5), PartlyRefused)
        assert (partly.refused, (await broker.inspect("q")).length) == (2, 3)
        none = await self.assertFailure(broker.add_texts("q", ["x"] * 5), QueueFull)
        assert not isinstance(none, PartlyRefused)

    async def test_nothing_is_dropped_where_that_makes_no_room(self) -> None:
        """What is leased or delayed is above the bound by itself, so a put is refused either way."""
        broker = await self.broker()
        for queue, bound, kept in (("q", "max_bytes", 20_000), ("p", "max_length", 3)):
            await broker.put(queue, [NewMessage(b"x" * 9000, delay_ms=60_000)] * 3)
            await broker.put(queue, [NewMessage(b"ready")])
            await broker.change(queue, {bound: kept, "overflow": 2, "lim": 1})
            puts = await broker.put(queue, [NewMessage(b"a"), NewMessage(b"b", delay_ms=60_000)])
            assert [put.error for put in puts] == ["queue_full"] * 2, bound
            assert bodies(await broker.receive([queue], 10).done) == [b"ready"], bound

    async def test_nobody_goes_without_because_another_took_what_one_call_may_give(self) -> None:
        broker = await self.broker()
        await broker.put("q", [NewMessage(b"x")] * 1500)
        both = await gatherResults([broker.receive(["q"], 1000).done for _ in range(2)])
        assert [len(leased) for leased in both] == [1000, 500]
        await broker.put("p", [NewMessage(b"x" * 1_100_000)] * 2)
        both = await gatherResults([broker.receive(["p"]).done for _ in range(2)])
        assert [len(leased) for leased in both] == [1, 1]

    async def test_a_page_of_large_messages_reads_no_more_than_it_shows(self) -> None:
        broker = await self.broker()
        for kind in (0, 5):
            messages = [NewMessage(b"x" * 500_000, priority=kind)] * 100
            await broker.change("q", {"prio": 1})
            await broker.put("q", messages)
        look = self.look()
        look.memory_purge()
        look.config_resetstat()
        before = look.info("memory")["used_memory"]
        page = await broker.browse("q", "ready", "", 1000)
        assert look.info("memory")["used_memory_peak"] - before < 40_000_000
        assert (len(page.found), page.cursor is None) == (3, False)
        seen = [found.message.id for found in page.found]
        while page.cursor:
            page = await broker.browse("q", "ready", page.cursor, 1000)
            seen += [found.message.id for found in page.found]
        assert seen == [*range(101, 201), *range(1, 101)]

    async def test_a_key_of_the_wrong_type_does_not_spoil_the_messages_before_it(self) -> None:
        broker = await self.broker()
        wrong = broker._queues._scripts.keys.idempotency("q", b"w" * 16)
        look = self.look()
        look.rpush(wrong, b"x")
        both = [NewMessage(b"a", key=KEY), NewMessage(b"b", key=b"w" * 16)]
        with pytest.raises(StoreError):
            await broker.put("q", both)
        look.delete(wrong)
        puts = await broker.put("q", both)
        assert [(put.id, put.replayed) for put in puts] == [(1, False), (2, False)]
        assert bodies(await broker.receive(["q"], 10).done) == [b"a", b"b"]


class HangUps(Brokers):
    """A client that leaves and comes again."""

    async def test_who_was_cut_off_gets_messages_with_the_same_key(self) -> None:
        broker = await self.broker()
        await broker.put("q", [NewMessage(b"a")])
        receiving = broker.receive(["q"], wait_seconds=20.0, key=KEY)
        await until(lambda: receiving.done.called, "it has a message")
        receiving.cancel()
        await until(lambda: not broker._jobs._flush_due, "it went back")
        assert bodies(await broker.receive(["q"], key=KEY).done) == [b"a"]


class Settings(Brokers):
    """Who waits hears of it when he may have more."""

    async def test_resuming_wakes_who_waits(self) -> None:
        broker, other = await self.broker(), await self.broker()
        await broker.put("q", [NewMessage(b"a")])
        await broker.change("q", {"st": 0})
        receiving = broker.receive(["q"], wait_seconds=30.0)
        await waits(broker)
        broker._ticking.stop()
        await other.change("q", {"st": 1})
        assert bodies(await receiving.done) == [b"a"]

    async def test_who_leaves_takes_nobody_elses_word(self) -> None:
        """A queue that is not there yet is nothing but a word for those who wait."""
        broker, other = await self.broker(), await self.broker()
        receiving = broker.receive(["q"], wait_seconds=30.0)
        left = other.receive(["q"], wait_seconds=30.0)
        await waits(broker)
        await waits(other)
        broker._ticking.stop()
        left.cancel()
        other._waiting.tick()
        await other.ping()
        await other.put("q", [NewMessage(b"a")])
        assert bodies(await receiving.done) == [b"a"]


class Halves(Brokers):
    """Batches of several calls of which some meet an error of the store."""

    async def put(self, *errors: StoreError | None) -> tuple[Broker, list[Put]]:
        """A call for each; where there is an error, it comes instead of the reply."""
        broker, left = await self.broker(), list(errors)
        add_many = broker._queues.add_many

        def failing(queue: str, messages: Any, mode: Any, answer: Any) -> None:
            error = left.pop(0)
            add_many(queue, messages, mode, answer) if error is None else answer(error)

        self.patch(broker._queues, "add_many", failing)
        return broker, await broker.put("q", [NewMessage(b"x")] * (1000 * len(errors)))

    async def test_what_is_in_has_its_id_and_the_rest_its_error(self) -> None:
        errors = None, OutcomeUnknown("lost"), StoreAway("gone"), None
        broker, puts = await self.put(*errors)
        assert [put.id for put in puts[:1000]] == list(range(1, 1001))
        assert [put.error for put in puts[1000:3000]] == ["outcome_unknown"] * 1000 + [
            "store_away"
        ] * 1000
        assert [put.id for put in puts[3000:]] == list(range(1001, 2001))
        assert (await broker.inspect("q")).length == 2000

    async def test_where_nothing_is_in_it_is_an_error(self) -> None:
        with pytest.raises(StoreFull):
            await self.put(StoreFull("full"), StoreAway("gone"))
        with pytest.raises(OutcomeUnknown):
            await self.put(StoreFull("full"), OutcomeUnknown("lost"))

    def test_the_words_are_those_of_problems(self) -> None:
        assert {kind: CODES[kind] for kind in UNPUT} == UNPUT


class Room(Brokers):
    """A bound on messages in flight, and who waits for its end."""

    async def test_who_waits_hears_when_what_was_in_flight_is_deleted(self) -> None:
        broker, other = await self.broker(), await self.broker()
        await broker.change("q", {"max_flight": 1, "mode": 2})
        await broker.put("q", [NewMessage(b"a"), NewMessage(b"b"), NewMessage(b"c")])
        (first,) = await broker.receive(["q"]).done
        receiving = broker.receive(["q"], wait_seconds=30.0)
        await waits(broker)
        broker._ticking.stop()
        assert await other.delete("q", first.message.id)
        (second,) = await receiving.done
        receiving = broker.receive(["q"], wait_seconds=30.0)
        await waits(broker)
        assert await other.release("q", second.message.id)
        assert bodies(await receiving.done) == [b"b"]


class Lists(Brokers):
    """Which queues there are."""

    async def test_a_queue_that_another_daemon_deleted_is_listed_when_it_comes_back(self) -> None:
        broker, other = await self.broker(), await self.broker()
        for queue, put in (("created", other.add), ("put", other.put)):
            await other.create(queue)
            assert await broker.remove(queue, force=False) == "gone"
            assert queue not in await broker.queue_names()
            await put(queue, b"x" if queue == "created" else [NewMessage(b"x", delay_ms=9)])
            assert queue in await broker.queue_names()

    async def test_a_queue_that_is_not_deleted_stays_in_the_list(self) -> None:
        broker = await self.broker()
        await broker.put("q", [NewMessage(b"x")])
        assert await broker.remove("q", force=False) == "not_empty"
        assert await broker.queue_names() == ["q"]

    async def test_a_key_of_a_deleted_queue_is_forgotten(self) -> None:
        broker = await self.broker()
        message = NewMessage(b"x", key=KEY)
        await broker.put("q", [message])
        assert await broker.remove("q", force=True) == "gone"
        (put,) = await broker.put("q", [message])
        assert not put.replayed
        assert bodies(await broker.receive(["q"]).done) == [b"x"]
        (put,) = await broker.put("q", [message])
        assert put.replayed

    async def test_a_key_of_a_receive_from_a_deleted_queue_opens_no_other(self) -> None:
        broker, other = await self.broker(), await self.broker()
        await broker.put("q", [NewMessage(b"old")])
        (one,) = await broker.receive(["q"], key=KEY).done
        assert await broker.remove("q", force=True) == "gone"
        await other.put("q", [NewMessage(b"new")])
        (two,) = await other.receive(["q"]).done
        assert one.message.id == two.message.id == 1
        assert await broker.receive(["q"], key=KEY).done == []

    async def test_when_a_message_is_due_is_written_before_the_message(self) -> None:
        """A daemon that dies in between forgets nothing."""
        broker = await self.broker()
        sent: list[bytes] = []
        send = broker._store.send
        self.patch(
            broker._store,
            "send",
            lambda command, heard: (sent.append(command), send(command, heard)),
        )
        await broker.put("q", [NewMessage(b"x", delay_ms=ms) for ms in (60_000, 30_000)])
        at = [place for place, command in enumerate(sent) if b"ZADD" in command]
        put = [place for place, command in enumerate(sent) if b"*33" in command[:3]]
        assert at
        assert put
        assert at[0] < put[0], sent


class FullStore(Brokers):
    """At the memory limit."""

    async def test_a_lease_taken_there_ends(self) -> None:
        server = self.start_valkey(maxmemory_policy="noeviction")
        broker = await self.broker(server)
        look = self.look(server)
        await broker.put("q", [NewMessage(b"a")])
        look.config_set("maxmemory", 1)
        (one,) = await broker.receive(["q"], lease_ms=50).done
        (again,) = await broker.receive(["q"], wait_seconds=20.0).done
        assert (one.message.attempt, again.message.attempt) == (1, 2)

    async def test_a_dead_letter_waits_for_room(self) -> None:
        server = self.start_valkey(maxmemory_policy="noeviction")
        broker = await self.broker(server)
        look = self.look(server)
        await broker.change("q", {"max_attempts": 1})
        await broker.put("q", [NewMessage(b"a")])
        look.config_set("maxmemory", 1)
        (one,) = await broker.receive(["q"]).done
        assert await broker.settle([one.receipt], Nack(0)) == [True]
        await until(lambda: look.info("stats")["total_error_replies"] > 3, "it was refused")
        look.config_set("maxmemory", 0)
        assert bodies(await broker.receive(["q.dead"], wait_seconds=20.0).done) == [b"a"]


class Outbox(Brokers):
    """What moves from queue to queue."""

    async def test_a_full_queue_holds_up_no_other(self) -> None:
        """A hundred dead letters can't go home; the one behind them can, and they do when there is room."""
        broker = await self.broker()
        await broker.change("a", {"max_length": 1, "lim": 1, "mode": 2})
        await broker.put("a", [NewMessage(b"in the way")])
        dead = [NewMessage(b"%d" % n, headers=b'{"restmq-origin":"a:1"}') for n in range(100)]
        dead.append(NewMessage(b"free", headers=b'{"restmq-origin":"b:1"}'))
        await broker.put("x.dead", dead)
        assert await broker.redrive("x.dead", "", 1000) == 101
        assert bodies(await broker.receive(["b"], wait_seconds=15.0).done) == [b"free"]
        await broker.change("a", {"max_length": 1000})
        await until(
            lambda: self.look().zcard(Keys("restmq:").outbox("x.dead")) == 0, "all gone", 15
        )
        found = bodies(await broker.receive(["a"], 1000).done)
        assert found == [b"in the way", *[b"%d" % n for n in range(100)]]


class Redrive(Brokers):
    """Dead letters of which some are over."""

    async def test_it_goes_on_past_a_whole_step_that_is_over(self) -> None:
        broker = await self.broker()
        await broker.put("q.dead", [NewMessage(b"old", ttl_ms=1)] * 2500 + [NewMessage(b"x")])
        await deferLater(reactor, 0.005)
        assert await broker.redrive("q.dead", "q", 1000) == 1
        assert bodies(await broker.receive(["q"], wait_seconds=15.0).done) == [b"x"]
        assert await broker.redrive("q.dead", "q", 1000) == 0


class Settled(Brokers):
    """What idempotency keys leave in the queue."""

    async def test_a_key_spoils_no_settings(self) -> None:
        broker = await self.broker()
        await broker.put("q", [NewMessage(b"x", key=KEY)])
        found = queue_settings.explained(await broker.queue_settings.look("q"), 30.0)
        assert found["mode"] == {"value": "jobs", "source": "creation"}
