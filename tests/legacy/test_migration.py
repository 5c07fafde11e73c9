"""The law of the import: every message once, whatever the old broker does and wherever a run breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import valkey as valkey_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restmq.errors import StoreRefused
from restmq.legacy import source
from restmq.legacy.migration import Migration
from restmq.legacy.source import Body
from restmq.legacy.target import ImportedMeanwhile, NewBroker
from restmq.redis.blocking import BlockingConnection
from restmq.redis.keys import Keys
from restmq.store_address import StoreAddress
from tests.legacy.old_broker import OldBroker
from tests.support import ValkeyServer

QUEUES = ("a", "b")
OLD_DB = 1


class BrokenOff(Exception):
    """A run that ended in the middle."""


class House:
    """An old database and a new store in one server, and runs of the import between them."""

    def __init__(self, server: ValkeyServer, store: valkey_client.Valkey) -> None:
        self._server = server
        self._store = store
        self.old = OldBroker(valkey_client.Valkey(unix_socket_path=str(server.socket), db=OLD_DB))
        self.begun: list[tuple[bytes, int]] = []
        self.ever: set[bytes] = set()

    def close(self) -> None:
        self.old.store.close()

    @contextmanager
    def migration(self, breaks_at: int = -1) -> Iterator[Migration]:
        """A run; it breaks off when it has told so often how far it is."""
        left = breaks_at

        def tell(_what: str, _done: int, _total: int) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise BrokenOff

        path = str(self._server.socket)
        with (
            BlockingConnection(StoreAddress(path=path, db=OLD_DB)) as old,
            BlockingConnection(StoreAddress(path=path)) as new,
        ):
            broker = NewBroker(new, Keys("restmq:"), "old")
            yield Migration(source.OldBroker(old), broker, tell, pause=lambda _: self.finish_all())

    def begin(self, queue: bytes) -> None:
        """A post gets its number."""
        self.begun.append((queue, self.old.number(queue)))

    def finish(self, which: int) -> None:
        """A post comes to its end; those begun before it may still be under way."""
        if self.begun:
            queue, number = self.begun.pop(which % len(self.begun))
            self.ever.add(b"%s %d" % (queue, number))
            self.old.finish(queue, number, b"%s %d" % (queue, number))

    def finish_all(self) -> None:
        while self.begun:
            self.finish(0)

    def waiting(self) -> set[bytes]:
        """The bodies that wait in the old database."""
        keys = [k for q in QUEUES for k in self.old.store.lrange(f"{q}:queue", 0, -1)]
        return {body for body in (self.old.store.get(key) for key in keys) if body is not None}

    def imported(self, queue: str) -> list[tuple[int, bytes]]:
        """Ids and bodies in the new store."""
        entries = self._store.lrange(f"restmq:{{{queue}}}:l", 0, -1)
        return [(int.from_bytes(e[:7], "big"), e[20:]) for e in entries]

    def last_id(self, queue: str) -> int:
        return int(self._store.hget(f"restmq:{{{queue}}}", "id") or 0)


queues = st.sampled_from([q.encode() for q in QUEUES])
steps = st.one_of(
    st.tuples(st.just("begin"), queues),
    st.tuples(st.just("finish"), st.integers(0, 5)),
    st.tuples(st.just("add"), queues),
    st.tuples(st.sampled_from(["get", "take", "purge"]), queues),
    st.tuples(st.just("del"), queues),
    st.tuples(st.just("run"), st.integers(0, 12)),
    st.tuples(st.just("look"), st.just(0)),
)


@pytest.fixture
def house(valkey: ValkeyServer) -> Iterator[House]:
    with valkey.client() as store:
        made = House(valkey, store)
        yield made
        made.close()


def play(house: House, step: tuple[str, bytes | int]) -> None:
    """One thing happens."""
    match step:
        case ("begin", bytes(queue)):
            house.begin(queue)
        case ("finish", int(which)):
            house.finish(which)
        case ("add", bytes(queue)):
            house.begin(queue)
            house.finish(-1)
        case ("get", bytes(queue)):
            house.old.get(queue)
        case ("take", bytes(queue)):
            with suppress(valkey_client.ResponseError, TypeError):  # nothing there
                house.old.take(queue)
        case ("purge", bytes(queue)):
            house.old.purge(queue)
        case ("del", bytes(queue)):
            house.old.delete_message(house.old.store.lindex(queue + b":queue", 0) or b"none")
        case ("run", int(breaks_at)):
            with suppress(BrokenOff), house.migration(breaks_at) as migration:
                migration.run()
        case _:
            with house.migration() as migration:
                migration.begin()
                migration.look_again(last=False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=30))
def test_every_message_comes_over_once(
    house: House, valkey: ValkeyServer, story: list[tuple[str, bytes | int]]
) -> None:
    with valkey.client() as client:
        client.flushall()
    house.begun.clear()
    house.ever.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "SLICE", 3)
        for step in story:
            play(house, step)
        house.finish_all()
        with house.migration() as migration:
            migration.run()
    assert migration.counts.complete
    found = {queue: house.imported(queue) for queue in QUEUES}
    bodies = [body for queue in QUEUES for _, body in found[queue]]
    assert len(bodies) == len(set(bodies))
    assert house.waiting() <= set(bodies) <= house.ever
    for queue in QUEUES:
        ids = [number for number, _ in found[queue]]
        assert ids == sorted(set(ids))
        counter = int(house.old.store.get(f"{queue}:UUID") or 0)
        assert house.last_id(queue) >= counter


def test_one_pass_after_another_takes_what_is_new(house: House) -> None:
    """As --follow does it, with a queue longer than what is read at a time.

    The whole database is looked at in the first and the last pass only.
    """
    scans = []
    with house.migration() as migration:
        migration.begin()
        for _ in range(3):
            for _ in range(1500):
                house.begin(b"a")
            house.finish_all()
            migration.look_again(last=False)
            scans.append(house.old.store.info("commandstats")["cmdstat_scan"]["calls"])
        migration.look_again(last=True)
    assert scans[0] == scans[2]
    assert migration.counts.messages == migration.counts.imported == 4500
    assert house.imported("a") == [(n, b"a %d" % n) for n in range(1, 4501)]


# -- the new store --


@pytest.fixture
def two_importers(valkey: ValkeyServer) -> Iterator[tuple[NewBroker, NewBroker]]:
    address = StoreAddress(path=str(valkey.socket))
    with BlockingConnection(address) as one, BlockingConnection(address) as two:
        both = NewBroker(one, Keys("restmq:"), "old"), NewBroker(two, Keys("restmq:"), "old")
        both[0].prepare()
        yield both


def message(number: int) -> Body:
    return Body(number, b"%d" % number, 0, True)


def test_who_comes_second_does_nothing(
    two_importers: tuple[NewBroker, NewBroker], house: House
) -> None:
    """Both have looked, then both want to take the same messages over."""
    one, two = two_importers
    (mine,), (yours,) = one.known(["a"]), two.known(["a"])
    mine.taken.add([1, 2])
    yours.taken.add([1, 2])
    assert one.take_over("a", [message(1), message(2)], mine.taken) == 2
    with pytest.raises(
        ImportedMeanwhile, match="another import took over messages of the queue 'a'"
    ):
        two.take_over("a", [message(1), message(2)], yours.taken)
    assert house.imported("a") == [(1, b"1"), (2, b"2")]


def test_a_queue_that_is_in_use_keeps_its_policy_and_status(
    two_importers: tuple[NewBroker, NewBroker], valkey: ValkeyServer
) -> None:
    one, _ = two_importers
    (known,) = one.known(["a"])
    one.take_over("a", [message(1)], known.taken, started=True, policy=2)
    one.take_over("a", [message(2)], known.taken, started=False, policy=1)
    with valkey.client() as store:
        assert store.hmget("restmq:{a}", "st", "pol") == [b"1", b"2"]


def test_a_key_of_another_type_is_an_error_and_nothing_has_changed(
    two_importers: tuple[NewBroker, NewBroker], valkey: ValkeyServer
) -> None:
    one, _ = two_importers
    (known,) = one.known(["a"])
    with valkey.client() as store:
        store.set("restmq:{a}:l", "not a list")
        before = store.keys("*")
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            one.take_over("a", [message(1)], known.taken)
        assert store.keys("*") == before
