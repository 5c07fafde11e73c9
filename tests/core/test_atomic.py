"""Every script of ``restmq/redis/lua`` has done all of its work or none of it.

Asked with a key of the wrong type, or at the store's memory limit, a script does its work or refuses, and when it
refuses the database is as it was. A new script fails here until it has a case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import valkey as valkey_client

from restmq.core import commands
from restmq.core.packs import Pack
from restmq.core.port import Hello, Report, Settled
from restmq.core.wire import encode_payload
from restmq.redis.keys import LOG_CLASSES, Keys
from restmq.redis.scripts import Script, load
from tests.core.desk import DAEMONS, Desk
from tests.support import ROOT, ValkeyServer

FOLDER = ROOT / "restmq" / "redis" / "lua"
SHARED = {"common", "jobs", "log_common", "schedule_common"}
"""Put in front of others, never run alone."""
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem not in SHARED)
KINDS = (
    *("hash", "list", "zset", "zset", "hash", "list", "hash", "list", "hash"),
    *("zset", "hash", "zset", "zset", "zset", "list"),
)
WRONG: dict[str, Callable[[valkey_client.Valkey, bytes], object]] = {
    "string": lambda store, key: store.set(key, b"x"),
    "list": lambda store, key: store.rpush(key, b"x"),
    "hash": lambda store, key: store.hset(key, "x", "1"),
    "zset": lambda store, key: store.zadd(key, {b"x": 1}),
    "stream": lambda store, key: store.xadd(key, {"a": "b"}),
}
EPOCH = 5
LOG_KINDS = ("hash", "zset", "zset", "hash", "stream", *("stream",) * LOG_CLASSES, "zset")
SCHEDULE_KINDS = ("hash", "hash", "hash", "hash", "string")
EVENT = b"\x01t\x00\x00\x00body"
"""The payload of an event of the topic t."""


PACK = Pack({b"": (b"", b"")}, b"a\nb\nc", 3)


class Case(NamedTuple):
    """A call that does its work: the keys with their types, and all arguments."""

    keys: tuple[bytes, ...]
    kinds: tuple[str, ...]
    arguments: list[object]


class Store(NamedTuple):
    """A queue with everything there is, and a way to ask scripts."""

    server: valkey_client.Valkey
    desk: Desk

    def ask(self, script: Script, case: Case) -> str | None:
        """What it refuses with; None when it did its work."""
        try:
            self.server.eval(script.source, len(case.keys), *case.keys, *case.arguments)
        except valkey_client.exceptions.ResponseError as error:
            return str(error)
        return None

    def everything(self) -> dict[bytes, tuple[bytes, int]]:
        """Each key with its value and its time to live."""
        keys = self.server.keys("*")
        with self.server.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.dump(key)
                pipeline.pexpiretime(key)
            told = iter(pipeline.execute())
        return {key: (next(told), next(told)) for key in keys}

    def put_back(self, kept: dict[bytes, tuple[bytes, int]]) -> None:
        now = {key: value[0] for key, value in self.everything().items()}
        for key in now.keys() - kept.keys():
            self.server.delete(key)
        for key, (value, expires) in kept.items():
            if now.get(key) != value:
                self.server.restore(key, max(expires, 0), value, replace=True, absttl=expires > 0)


def cases(desk: Desk) -> dict[str, Case]:
    """A case for every script of the folder."""
    now = str(desk.now)
    queue = tuple(desk.names)
    note, due = desk.keys.taken_over(desk.queue), desk.keys.due()
    key = desk.keys.idempotency(desk.queue, b"k" * 16)
    message = encode_payload(b"x", None)
    report = Report(EPOCH, 1, 20, 1, 20, True, [(2, 10)], [Settled(1, True, [], [], (1,))])
    hello = Hello(True, EPOCH, 1, 1, 1, [(1, 10)])

    def of_queue(
        *arguments: object, more: tuple[bytes, ...] = (), kinds: tuple[str, ...] = ()
    ) -> Case:
        return Case((*queue, *more), (*KINDS, *kinds), [now, *arguments])

    def of_log(*arguments: object) -> Case:
        return Case(desk.keys.log("log"), LOG_KINDS, [now, *arguments])

    def of_schedules(*arguments: object) -> Case:
        return Case(desk.keys.schedules(), SCHEDULE_KINDS, [now, *arguments])

    keep_one = b"".join(
        b"\0" * 6 + (1).to_bytes(6, "big") + b"\0" * 7 + b"%c%b" % (len(name), name)
        for name in (b"", b"", b"t")
    )
    return {
        "ack": of_queue("nack", 0, b"", 0, EPOCH, 1, 1, b"f" * 16, more=(key,), kinds=("string",)),
        "add": of_queue(0, b"", b"", message),
        "browse": of_queue("ready", b"", 10),
        "claim": Case(due, ("zset", "zset"), [now, 1000, 10]),
        "confirm": of_queue(*commands.confirm_arguments(DAEMONS[0], report)),
        "create": of_queue(b"mode 2"),
        "delete": of_queue(1),
        "expect": Case(due[:1], ("zset",), [now, b"q"]),
        "find": of_queue(1),
        "import": of_queue(b"old", b"", b"1-2", 1, 1, 9, b"\0" * 13, message, more=(note,),
                           kinds=("hash",)),
        "inspect": of_queue(10),
        "join": of_queue(*commands.join_arguments(DAEMONS[0], hello)),
        "leave": of_queue(*commands.leave_arguments(DAEMONS[0], report)),
        "log_append": of_log(0, 0, 7, keep_one, b"\2", b"r", 1, b"k" * 32, EVENT, 1, b"q"),
        "log_bind": of_log(b"b", b'{"topic":"a","queue":"q"}', 9),
        "log_drop": of_log(b"q", b"1-1"),
        "log_read": of_log(EPOCH, 0, 10, 0, 1, 0),
        "log_state": of_log(0, 0, 1, b"r", 0),
        "log_trim": of_log(keep_one),
        "observe": of_queue(15000),
        "peek": of_queue(),
        "pop": of_queue(1),
        "presence": of_queue(DAEMONS[0], 15000, b"comet=1", 1),
        "profile": Case((desk.keys.profiles,), ("hash",), [b"p", b"{}", 10]),
        "purge": of_queue(),
        "put": of_queue(0, b"mode 2", 0, 0, 9, 1, b"f" * 16, message, 0, 5000, 0, 0, b"", message,
                        more=(key,), kinds=("string",)),
        "receive": of_queue(0, 1, 1000, more=(key,), kinds=("string",)),
        "redrive": of_queue(b"", 1),
        "release": of_queue(desk.store.hkeys(desk.names[10])[0]),
        "remove": of_queue(1),
        "replay": of_queue(*commands.replay_arguments(EPOCH, 0)),
        "schedule_change": of_schedules(b"free", b"pause"),
        "schedule_claim": of_schedules(b"free", 1000, 20, 1, 10, 0),
        "schedule_done": of_schedules(b"taken", 20, 1),
        "schedule_look": of_schedules(b"7"),
        "schedule_read": of_schedules(b"one", b"free"),
        "schedule_set": of_schedules(b"new", b"* * * * *\0UTC\0q", b"{}", 0, 10),
        "settings": of_queue(b"", 0, b"own", "st", 1),
        "settle": of_queue("nack", -1, b"why", 0, EPOCH, 1, 1, b"f" * 16,
                           more=(key,), kinds=("string",)),
        "tick": of_queue(),
        "unwait": of_queue(),
        "window": of_queue(*commands.window_arguments(DAEMONS[0], True, 0)),
    }  # fmt: skip


def build(server: valkey_client.Valkey) -> Store:
    """Messages that wait, that are ready again, leased (one whose lease is over), delayed, pushed, dead."""
    server.flushall()
    desk = Desk(server)
    desk.keys = Keys("desk:")
    message = encode_payload(b"m" * 50, None)
    desk.now = round(time.time() * 1000)
    desk.call(
        "settings", "", 0, "own", "prio", 1, "max_attempts", 1, "epoch", EPOCH, "replay", 10**9
    )
    for delay, priority in ((0, 0), (0, 0), (0, 0), (0, 9), (100, 0), (60_000, 0), (0, 0), (0, 0)):
        desk.call("put", 0, b"", 0, delay, priority, 0, b"", message)
    desk.call("receive", 0, 1, 100)
    desk.call("receive", 0, 2, 60_000)
    desk.call("presence", DAEMONS[1], 10**9, b"sse=1", 1)
    desk.now += 200
    desk.call("tick")
    desk.call("receive", 0, 1, 100)
    desk.now += 200
    desk.arrive(DAEMONS[0], {1: 1, 2: 1})
    server.rpush(desk.list, b"\0" * 5 + (99).to_bytes(2, "big") + b"\0" * 12 + message)
    server.rpush(desk.folded, b"\xff" + (100).to_bytes(7, "big") + b"\0" * 12 + PACK.encoded())
    server.hset(desk.hash, mapping={"id": 102, "fold": 3})
    log = desk.keys.log("log")
    server.hset(log[0], mapping={"id": 2, "epoch": EPOCH, "bv": 7, "b0": 60})
    server.hset(log[3], "b", b"t")
    for number in (1, 2):
        head = number.to_bytes(7, "big") + desk.now.to_bytes(6, "big") + b"\0" * 6
        server.xadd(log[5], {"e": head + EVENT}, f"{number}-0")
        server.zadd(log[1], {b"t\0" + number.to_bytes(7, "big") + b"\0": 0})
    definitions, states, messages, outbox, version = desk.keys.schedules()
    for name, state in ((b"free", b"1 10 0 0 0 0 0 0"), (b"taken", b"1 20 0 0 0 0 20 1")):
        server.hset(definitions, name, b"* * * * *\0UTC\0q")
        server.hset(states, name, state)
        server.hset(messages, name, b"{}")
    server.hset(outbox, b"taken", b"20\0q\0{}")
    server.set(version, 7)
    server.zadd(desk.keys.due()[0], {b"q": 1})
    server.hset(desk.keys.profiles, mapping={":version": 1, "p": b"{}"})
    for daemon in list(desk.channels):
        desk.deafen(daemon)
    return Store(server, desk)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """One store for all; each test puts back what it found."""
    server = ValkeyServer({"maxmemory-policy": "noeviction"})
    try:
        server.start()
        with server.client() as client:
            yield build(client)
    finally:
        server.close()


@pytest.fixture
def restored(store: Store) -> Iterator[dict[bytes, tuple[bytes, int]]]:
    kept = store.everything()
    yield kept
    store.server.config_set("maxmemory", 0)
    store.put_back(kept)
    assert store.everything() == kept


def flags(script: Script) -> bytes:
    return script.source.split(b"\n", 1)[0]


def test_every_script_has_a_case(store: Store) -> None:
    assert sorted(cases(store.desk)) == SCRIPTS


def test_there_is_something_of_every_kind(store: Store) -> None:
    kept = store.everything()
    names = store.desk.names
    there = {place: name in kept for place, name in enumerate(names)}
    assert sum(there.values()) >= 9, there
    assert store.server.zcard(names[12]), "delayed"
    assert store.server.zcard(names[13]), "on its way to the dead letters"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_case_does_its_work(store: Store, restored: Any, name: str) -> None:
    """Else the tests below would prove nothing."""
    assert store.ask(load([name])[name], cases(store.desk)[name]) is None


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_key_of_the_wrong_type_changes_nothing(store: Store, restored: Any, name: str) -> None:
    script, case = load([name])[name], cases(store.desk)[name]
    refused = 0
    for key, kind in zip(case.keys, case.kinds, strict=True):
        for wrong, make in WRONG.items():
            if wrong == kind:
                continue
            store.server.delete(key)
            make(store.server, key)
            before = store.everything()
            why = store.ask(script, case)
            if why is None:  # it did its work, and had none to do here
                assert store.everything()[key] == before[key], (key, wrong)
            else:
                assert "WRONGTYPE" in why
                assert store.everything() == before, (key, wrong, why)
                refused += 1
            store.put_back(restored)
    assert refused, "it looks at one key at least"


@pytest.mark.parametrize("name", SCRIPTS)
def test_at_the_memory_limit_a_script_works_or_changes_nothing(
    store: Store, restored: Any, name: str
) -> None:
    """Who adds is refused as a whole, before the first command; who takes goes on."""
    script, case = load([name])[name], cases(store.desk)[name]
    store.server.config_set("maxmemory", 1)
    why = store.ask(script, case)
    if b"allow-oom" in flags(script) or b"no-writes" in flags(script):
        assert why is None
    else:
        assert why is not None
        assert "maxmemory" in why or "OOM" in why
        assert store.everything() == restored
