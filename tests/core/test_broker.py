"""The broker inside a running reactor, against a real Valkey."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import valkey as valkey_client
from twisted.internet import reactor
from twisted.internet.defer import FirstError, gatherResults
from twisted.trial.unittest import TestCase

from restmq.core.broker import Broker
from restmq.core.packs import Pack
from restmq.core.port import ROOM
from restmq.errors import StoreAway, StoreFull, StoreRefused
from restmq.message import Batch, Policy
from restmq.redis.keys import Keys
from restmq.settings import Settings
from restmq.store_address import parse_redis_url
from tests.support import ValkeyServer
from tests.turns import until


class Reader:
    """A consumer whose client reads everything at once."""

    room = ROOM
    returns = False
    acks = False

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.bodies: list[bytes | None] = []
        self.ended = False

    def deliver(self, batch: Batch) -> bool:
        self.ids += [message.id for message in batch.messages]
        self.bodies += [message.body for message in batch.messages]
        return True

    def lost(self, count: int) -> None:
        self.missed = count

    def end(self) -> None:
        self.ended = True


class Frozen(Reader):
    """A consumer whose client reads nothing: all that it gets waits in its buffer."""

    def deliver(self, batch: Batch) -> bool:
        super().deliver(batch)
        return False


class Brokers(TestCase):
    """Brokers on one store, stopped at the end of each test."""

    @pytest.fixture(autouse=True)
    def _stores(self, valkey: ValkeyServer, start_valkey: Callable[..., ValkeyServer]) -> None:
        self.valkey, self.start_valkey = valkey, start_valkey

    def look(self, server: ValkeyServer | None = None) -> valkey_client.Valkey:
        client = (server or self.valkey).client()
        self.addCleanup(client.close)
        return client

    async def broker(
        self, server: ValkeyServer | None = None, db: int = 0, lease: float = 30.0
    ) -> Broker:
        settings = Settings(redis_url=f"{(server or self.valkey).url}?db={db}", lease=lease)
        broker = Broker(reactor, settings)
        broker.start(parse_redis_url(settings.redis_url or ""))
        self.addCleanup(broker.stop)
        await self.ready(broker)
        return broker

    async def ready(self, broker: Broker) -> None:
        await until(lambda: broker._store.ready and broker._store._reads.connection, "the store")

    async def streaming(self, broker: Broker, queue: str, consumer: Reader) -> Reader:
        """Attach a consumer and wait until messages come to it."""
        broker.attach(queue, consumer, "test")
        feed = broker._feeds._feeds[queue]
        await until(lambda: feed._joined and not feed._busy, f"{queue} is joined")
        return consumer

    async def add(self, broker: Broker, queue: str, count: int, body: bytes = b"x") -> list[int]:
        added = [broker.add(queue, body) for _ in range(count)]
        try:
            return list(await gatherResults(added, consumeErrors=True))
        except FirstError as error:
            raise error.subFailure.value from None

    async def pop_all(self, broker: Broker, queue: str) -> list[int]:
        ids = []
        while (message := await broker.pop(queue)) is not None:
            ids.append(message.id)
        return ids


class Streams(Brokers):
    """Who gets what, through one broker and through two."""

    async def test_client_that_hangs_up_at_once_spoils_nothing(self) -> None:
        """I pressed Ctrl-C at once; the next stream of the queue works."""
        broker = await self.broker()
        first, second = Reader(), Reader()
        broker.attach("q", first, "test")
        broker.detach("q", first, "test")
        client = self.look()
        channel = Keys("restmq:").base("q") + b":out"
        await broker.ping()
        await until(lambda: client.pubsub_numsub(channel)[0][1] == 0, "nobody listens")
        broker.attach("q", second, "test")
        await broker.add("q", b"hello")
        await until(lambda: second.bodies == [b"hello"], "the message", 3)
        assert first.bodies == []

    async def test_hanging_up_and_coming_back_in_one_turn(self) -> None:
        broker = await self.broker()
        consumer = Reader()
        for _ in range(5):
            broker.attach("q", consumer, "test")
            broker.detach("q", consumer, "test")
        broker.attach("q", consumer, "test")
        await broker.add("q", b"hello")
        await until(lambda: consumer.bodies == [b"hello"], "the message", 3)

    async def test_ready_means_that_slow_reads_are_answered_too(self) -> None:
        """Each kind of command has a connection of its own; one of them may come up later."""
        broker = await self.broker()
        await broker.ping()
        read = broker._store.read
        broker._store.read = lambda _, callback: callback(StoreAway("not yet"))  # type: ignore[method-assign]
        with pytest.raises(StoreAway):
            await broker.ping()
        broker._store.read = read  # type: ignore[method-assign]
        await broker.ping()

    async def test_both_brokers_streams_get_everything_in_one_order(self) -> None:
        one, two = await self.broker(), await self.broker()
        readers = [await self.streaming(broker, "q", Reader()) for broker in (one, one, two, two)]
        for _ in range(20):
            await gatherResults([one.add("q", b"a"), two.add("q", b"b"), one.add("q", b"c")])
        await until(lambda: all(len(r.ids) == 60 for r in readers), "60 messages each")
        assert all(reader.ids == list(range(1, 61)) for reader in readers)
        assert all(reader.bodies == readers[0].bodies for reader in readers)

    async def test_many_texts_in_one_call_stand_in_the_order_of_all_adds(self) -> None:
        """Waiting or pushed, between adds of the same turn; the first one's id comes back."""
        broker = await self.broker()
        for attached in (False, True):
            queue = f"q{attached}"
            reader = Reader()
            if attached:
                await self.streaming(broker, queue, reader)
            before = broker.add(queue, b"a")
            many = broker.add_texts(queue, [str(number) for number in range(1000)])
            after = broker.add(queue, b"z")
            assert await gatherResults([before, many, after]) == [1, 2, 1002]
            if not attached:
                await self.streaming(broker, queue, reader)
            await until(lambda r=reader: len(r.ids) == 1002, "all of them")
            assert reader.bodies[:3] == [b"a", b"0", b"1"]
            assert reader.bodies[-2:] == [b"999", b"z"]
            assert reader.ids == list(range(1, 1003))

    async def test_packs_stand_in_the_order_of_all_adds_whatever_the_queue_is_like(self) -> None:
        """New, waiting, pushed, or with bounds of its own: the same messages, the first one's id."""
        broker = await self.broker()
        lines = [str(number).encode() for number in range(400)]
        packs = [
            Pack({b"": (b"<", b">")}, b"\n".join(some), 200) for some in (lines[:200], lines[200:])
        ]
        for kind in ("new", "known", "streamed", "bounded"):
            reader = Reader()
            if kind != "new":
                await broker.add(kind, b"first")
                await broker.pop(kind)
            if kind == "streamed":
                await self.streaming(broker, kind, reader)
            if kind == "bounded":
                await broker.queue_settings.change(kind, {"max_length": "500"})
            start = 0 if kind == "new" else 1
            before = broker.add(kind, b"a")
            many = broker.add_packs(kind, packs)
            after = broker.add(kind, b"z")
            ids = [start + 1, start + 2, start + 402]
            assert await gatherResults([before, many, after]) == ids, kind
            if kind != "streamed":
                assert (await broker.inspect(kind)).length == 402
                await self.streaming(broker, kind, reader)
            await until(lambda r=reader: len(r.ids) == 402, "all of them")
            assert reader.bodies == [b"a", *(b"<%s>" % line for line in lines), b"z"], kind

    async def test_round_robin_goes_in_strict_turn_over_two_brokers(self) -> None:
        one, two = await self.broker(), await self.broker()
        await one.set_policy("q", Policy.ROUNDROBIN)
        readers = [await self.streaming(broker, "q", Reader()) for broker in (one, two, one, two)]
        for _ in range(25):
            await self.add(one, "q", 3)
        await until(lambda: sum(len(r.ids) for r in readers) == 75, "75 messages")
        assert sorted(i for r in readers for i in r.ids) == list(range(1, 76))
        counts = [len(reader.ids) for reader in readers]
        assert max(counts) - min(counts) <= 1

    async def test_purge_ends_streams_of_both_brokers(self) -> None:
        one, two = await self.broker(), await self.broker()
        readers = [await self.streaming(b, "q", Reader()) for b in (one, two)]
        await one.purge("q")
        await until(lambda: all(reader.ended for reader in readers), "their ends")

    async def test_purged_messages_that_frozen_clients_held_stay_away(self) -> None:
        """I deleted the queue; its messages are gone, also those a frozen client had in hand."""
        broker = await self.broker()
        for policy in Policy:
            await broker.set_policy("q", policy)
            assert broker._feeds.empty
            frozen = await self.streaming(broker, "q", Frozen())
            await self.add(broker, "q", 5)
            await until(lambda held=frozen: len(held.ids) == 5, "5 messages")
            assert await broker.purge("q")
            await until(lambda held=frozen: held.ended, "its end")
            broker.detach("q", frozen, "test")
            await until(lambda: broker._feeds.empty, "no feed")
            assert await self.pop_all(broker, "q") == []

    async def test_frozen_client_alone_on_its_daemon_stops_nobody_elsewhere(self) -> None:
        """One client of another daemon reads nothing; mine goes on and on."""
        one, two = await self.broker(), await self.broker()
        await self.streaming(one, "q", Frozen())
        reader = await self.streaming(two, "q", Reader())
        for _ in range(13):
            await self.add(two, "q", 1000)
        await until(lambda: len(reader.ids) == 13_000, "all messages", 5)
        assert reader.ids == list(range(1, 13_001))

    async def test_what_only_a_frozen_client_held_reaches_the_next_one(self) -> None:
        """Nobody but a frozen client had these messages, and it left: they are not lost."""
        broker = await self.broker()
        frozen = await self.streaming(broker, "q", Frozen())
        await self.add(broker, "q", 10)
        await until(lambda: len(frozen.ids) == 10, "10 messages")
        reader = await self.streaming(broker, "q", Reader())
        await self.add(broker, "q", 1)
        await until(lambda: 11 in reader.ids, "the later message")
        broker.detach("q", frozen, "test")
        await until(lambda: len(reader.ids) == 11, "all messages", 3)
        assert reader.ids == list(range(1, 12))

    async def test_stop_and_start_hold_back_and_release(self) -> None:
        one, two = await self.broker(), await self.broker()
        await self.add(two, "q", 1)
        reader = await self.streaming(one, "q", Reader())
        await until(lambda: reader.ids == [1], "the first")
        await two.set_started("q", False)
        await self.add(two, "q", 2499)
        assert (await two.inspect("q")).length == 2499
        assert reader.ids == [1]
        await two.set_started("q", True)
        await until(lambda: len(reader.ids) == 2500, "the backlog")
        assert reader.ids == list(range(1, 2501))

    async def test_large_messages_of_mixed_sizes_stream_in_pieces(self) -> None:
        """A backlog of small messages and then of 300 KiB ones comes whole, in small chunks."""
        broker = await self.broker()
        large = b"L" * 300_000
        await self.add(broker, "q", 600)
        await self.add(broker, "q", 60, large)
        reader = await self.streaming(broker, "q", Reader())
        await until(lambda: len(reader.ids) == 660, "all messages")
        assert reader.ids == list(range(1, 661))
        assert reader.bodies[-60:] == [large] * 60

    async def test_stop_hands_back_what_was_dealt(self) -> None:
        """The daemon ends in order: what its frozen clients had in hand goes to others."""
        one, two = await self.broker(), await self.broker()
        await one.set_policy("q", Policy.ROUNDROBIN)
        frozen = await self.streaming(one, "q", Frozen())
        await self.add(one, "q", 7)
        await until(lambda: len(frozen.ids) == 7, "7 messages")
        await one.stop()
        assert await self.pop_all(two, "q") == list(range(1, 8))


class Faults(Brokers):
    """The store goes, comes back, forgets."""

    async def test_streams_go_on_after_the_store_was_restarted(self) -> None:
        server = self.start_valkey(appendonly="yes", appendfsync="always")
        broker = await self.broker(server)
        reader = await self.streaming(broker, "q", Reader())
        await broker.add("q", b"before")
        await until(lambda: reader.ids == [1], "the first")
        server.kill()
        await until(lambda: not broker._store.ready, "it is gone")
        with pytest.raises(StoreAway):
            await broker.add("q", b"while it is away")
        server.start()
        await self.ready(broker)
        await broker.add("q", b"after")
        await until(lambda: reader.bodies == [b"before", b"after"], "the second")

    async def test_a_store_that_came_back_with_older_data_loses_nothing_more(self) -> None:
        """Redis came back from its last dump: what was put in later than that is gone, no more."""
        server = self.start_valkey()
        adding, streaming = await self.broker(server), await self.broker(server)
        reader = await self.streaming(streaming, "q", Reader())
        await self.add(adding, "q", 5)
        await until(lambda: len(reader.ids) == 5, "5 messages")
        await until(lambda: not streaming._feeds._feeds["q"]._busy, "it confirmed")
        self.look(server).save()
        for _ in range(20):
            await self.add(adding, "q", 1)
        await until(lambda: len(reader.ids) == 25, "25 messages")
        server.kill()
        server.start()
        fresh = await self.broker(server)
        await self.ready(streaming)
        feed = streaming._feeds._feeds["q"]
        await until(lambda: feed._joined and not feed._busy, "it joined again")
        ids = await self.add(fresh, "q", 3)
        await until(lambda: len(reader.ids) == 28, "the later messages", 8)
        assert reader.ids[25:] == ids
        assert ids[0] > 25, "ids rise"

    async def test_flushall_while_streaming(self) -> None:
        """Somebody flushed the store: new messages come, ids rise, the queue is listed."""
        broker = await self.broker()
        reader = await self.streaming(broker, "q", Reader())
        await self.add(broker, "q", 5)
        await until(lambda: len(reader.ids) == 5, "5 messages")
        self.look().flushall()
        (later,) = await self.add(broker, "q", 1)
        assert later > 5
        await until(lambda: reader.ids[5:] == [later], "the later message", 12)
        assert await broker.queue_names() == ["q"]

    async def test_script_flush_is_mended(self) -> None:
        """An operator's SCRIPT FLUSH costs at most the calls that were under way."""
        broker = await self.broker()
        await broker.add("q", b"1")
        self.look().script_flush()
        with pytest.raises(StoreAway):
            await broker.add("q", b"2")
        assert await broker.add("q", b"3") == 2
        self.look().script_flush()
        with pytest.raises(StoreAway):
            await broker.inspect("q")
        assert (await broker.inspect("q")).length == 2

    async def test_lost_listener_is_replaced(self) -> None:
        """Redis cut the subscriber off (a full output buffer): it misses nothing."""
        broker = await self.broker()
        reader = await self.streaming(broker, "q", Reader())
        client = self.look()
        for n in range(5):
            client.client_kill_filter(_type="pubsub")
            await self.add(broker, "q", 10)
            await until(lambda n=n: len(reader.ids) == 10 * (n + 1), "10 more")
        assert reader.ids == list(range(1, 51))

    async def test_full_store_refuses_adds_and_gives_what_it_has(self) -> None:
        server = self.start_valkey(maxmemory="16mb", maxmemory_policy="noeviction")
        broker = await self.broker(server)
        ids = []
        with pytest.raises(StoreFull):
            for _ in range(1000):
                ids += await self.add(broker, "q", 1, b"x" * 100_000)
        await broker.delete("q", ids[1])
        peeked = await broker.peek("q")
        assert peeked is not None
        reader = await self.streaming(broker, "q", Reader())
        await until(lambda: len(reader.ids) >= len(ids) - 1, "the backlog")
        assert reader.ids == [i for i in ids if i != ids[1]]
        await until(lambda: self.look(server).zcard(Keys("restmq:").queue("q")[2]) == 0, "done")
        assert await broker.add("q", b"room again")

    async def test_two_databases_of_one_server_do_not_meet(self) -> None:
        """--redis-db 1 is another world: its streams get none of mine, its purge ends none."""
        mine, other = await self.broker(), await self.broker(db=1)
        reader = await self.streaming(mine, "q", Reader())
        stranger = await self.streaming(other, "q", Reader())
        await self.add(mine, "q", 3)
        await other.purge("q")
        await until(lambda: stranger.ended, "the stranger's end")
        await until(lambda: len(reader.ids) == 3, "3 messages")
        assert (stranger.ids, reader.ended) == ([], False)
        mine.detach("q", reader, "test")
        await until(lambda: mine._feeds.empty, "nobody streams here")
        await self.add(mine, "q", 1)
        assert (await mine.inspect("q")).length == 1

    async def test_wrong_type_is_an_error_and_harms_no_other_queue(self) -> None:
        broker = await self.broker()
        client = self.look()
        client.set(Keys("restmq:").queue("bad")[1], b"a string")
        with pytest.raises(StoreRefused):
            await broker.add("bad", b"x")
        with pytest.raises(StoreRefused):
            await broker.pop("bad")
        assert await broker.add("good", b"x") == 1


class Operations(Brokers):
    """What can be done with a queue."""

    async def test_adds_of_one_turn_are_one_call(self) -> None:
        broker = await self.broker()
        client = self.look()
        client.config_resetstat()
        ids = await self.add(broker, "q", 500)
        assert ids == list(range(1, 501))
        assert client.info("commandstats")["cmdstat_rpush"]["calls"] == 1

    async def test_adds_keep_the_order_of_calls_beyond_one_call(self) -> None:
        broker = await self.broker()
        bodies = [b"%d" % n for n in range(2500)]
        ids = await gatherResults([broker.add("q", body) for body in bodies])
        assert ids == list(range(1, 2501))
        popped = await gatherResults([broker.pop("q") for _ in range(2501)])
        assert [m.body for m in popped if m is not None] == bodies
        assert popped[-1] is None

    async def test_pops_of_one_turn_are_one_call(self) -> None:
        broker = await self.broker()
        await self.add(broker, "q", 10)
        client = self.look()
        client.config_resetstat()
        popped = await gatherResults([broker.pop("q") for _ in range(12)])
        assert [m and m.id for m in popped] == [*range(1, 11), None, None]
        assert client.info("commandstats")["cmdstat_hmget"]["calls"] == 1

    async def test_operations_of_one_turn_keep_their_order(self) -> None:
        """Add, delete and peek in one turn happen in the order they were called."""
        broker = await self.broker()
        asked = [
            broker.add("q", b"1"), broker.delete("q", 1), broker.add("q", b"2"),
            broker.peek("q"), broker.purge("q"), broker.add("q", b"3"), broker.pop("q"),
        ]  # fmt: skip
        _, deleted, _, peeked, purged, last, popped = await gatherResults(asked)
        assert (deleted, purged, last) == (True, 2, 3)
        assert peeked.message.body is None
        assert popped.id == 3

    async def test_bytes_come_out_as_they_went_in(self) -> None:
        broker = await self.broker()
        bodies = [b"", b"007", b"1.5", b"\0\r\n$-1\r\n", bytes(range(256)), b"x" * 3_000_000]
        for body in bodies:
            await broker.add("q", body, content_type="application/octet-stream")
        for body in bodies:
            message = await broker.pop("q")
            assert message is not None
            assert (message.body, message.content_type) == (body, "application/octet-stream")

    async def test_names_of_every_kind_are_queues_of_their_own(self) -> None:
        broker = await self.broker()
        names = ["", "%", "%25", "{", "}", "{}", "{a}", "a}:l", "a", "é", "x" * 16384, "a:l", "*"]
        for n, name in enumerate(names):
            await broker.add(name, b"%d" % n)
        assert await broker.queue_names() == sorted(names)
        infos = await broker.inspect_all()
        assert [(i.name, i.length) for i in infos] == [(name, 1) for name in sorted(names)]
        for n, name in enumerate(names):
            message = await broker.pop(name)
            assert message is not None
            assert message.body == b"%d" % n

    async def test_an_unknown_queue_has_no_numbers(self) -> None:
        broker = await self.broker()
        info = await broker.inspect("never")
        assert (info.length, info.started, info.policy, info.last_id) == (0, None, None, 0)
        assert await broker.pop("never") is None
        assert await broker.peek("never") is None
        assert not await broker.delete("never", 1)
        assert not await broker.purge("never")
        assert self.look().keys("*") == []

    async def test_inspect_tells_what_was_set(self) -> None:
        broker = await self.broker()
        await self.add(broker, "q", 3)
        await broker.set_policy("q", Policy.ROUNDROBIN)
        await broker.set_started("q", False)
        info = await broker.inspect("q")
        assert (info.length, info.started, info.policy) == (3, False, Policy.ROUNDROBIN)
        assert (info.in_flight, info.daemons, info.last_id) == (0, 0, 3)
        assert await broker.newest("q", 2) == [3, 2]

    async def test_two_brokers_share_a_queue(self) -> None:
        one, two = await self.broker(), await self.broker()
        await one.add("q", b"from one")
        assert await two.add("q", b"from two") == 2
        first, second = await two.pop("q"), await one.pop("q")
        assert first is not None
        assert second is not None
        assert (first.body, second.body) == (b"from one", b"from two")

    async def test_consumer_joins_what_waits_and_what_comes(self) -> None:
        broker = await self.broker()
        await self.add(broker, "q", 3)
        reader = await self.streaming(broker, "q", Reader())
        await self.add(broker, "q", 3)
        await until(lambda: reader.ids == [1, 2, 3, 4, 5, 6], "six messages")
        assert (await broker.inspect("q")).length == 0
        broker.detach("q", reader, "test")
        await until(lambda: broker._feeds.empty, "it left")
        assert await broker.add("q", b"waits") == 7
        assert (await broker.inspect("q")).length == 1

    async def test_without_a_store_everything_says_so_at_once(self) -> None:
        broker = Broker(reactor, Settings(redis_url=self.valkey.url))
        for asked in (broker.add("q", b""), broker.pop("q"), broker.inspect("q"), broker.ping()):
            with pytest.raises(StoreAway):
                await asked

    async def test_a_store_that_hangs_is_noticed(self) -> None:
        """The store hangs without closing anything: the broker says so within seconds."""
        server = self.start_valkey()
        broker = await self.broker(server)
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        errors: list[object] = []
        broker.ping().addErrback(errors.append)
        await until(lambda: errors, "an error", 9)
