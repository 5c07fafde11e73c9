"""An old database comes over: with real servers on both sides, and a daemon that reads what came."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import valkey as valkey_client

from restmq.redis.keys import Keys
from tests.conftest import StartDaemon, StartValkey
from tests.legacy.conftest import SECONDS, Imported, command, run_import
from tests.legacy.old_broker import OldBroker
from tests.support import ROOT, ValkeyServer, wait_until
from tests.system.clients import Client, Streams, drain, wait_for_lines

Import = Callable[..., Imported]

ODD_NAMES = (
    b"42", b"007", b"", b"a/b", b"with space", "\u00e9\u732b".encode(), b"a:b", b"a", b"queue",
    b"a:queue", b"UUID", b"{tag}", b"%7B", b"<b>", b"\x01\x07", b"x" * 3000, b"1:2:3", b":",
)  # fmt: skip
ODD_VALUES = (
    b"5", b"007", b"1.10", b"", b"   ", b"\x00\xff\xfe", b"1e400", b"x" * (3 << 20), b"\r\n", b"null",
)  # fmt: skip


def test_messages_come_over_with_names_numbers_and_bytes(
    old: OldBroker, import_: Import, daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """I move house: every queue, however named, has its messages in order and under their keys."""
    for name in ODD_NAMES:
        for value in ODD_VALUES:
            old.add(name, value)
    found = import_()
    assert (found.code, found.errors) == (0, "")
    assert found["queues"] == len(ODD_NAMES)
    assert found["imported ("] == found["messages in"] == len(ODD_NAMES) * len(ODD_VALUES)
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        for name in ODD_NAMES:
            queue = name.decode()
            got = list(iter(lambda q=queue: client.take(q), None))
            assert [m.body for m in got] == list(ODD_VALUES), queue
            assert [m.id for m in got] == list(range(1, len(ODD_VALUES) + 1))
            assert client.add(queue, b"next") == len(ODD_VALUES) + 1


def test_the_old_database_is_not_changed(old: OldBroker, import_: Import) -> None:
    """If it goes wrong, the old one is as it was."""
    fill_with_all_sorts(old)
    before = old.everything()
    assert import_("--dry-run").code == import_().code == 0
    assert old.everything() == before


def fill_with_all_sorts(old: OldBroker) -> None:
    """120 messages wait, of which 7 have no body; one queue was never listed."""
    for n in range(1, 101):
        old.add(b"jobs", b"job %d" % n)
    for _ in range(10):
        old.get(b"jobs")
    for _ in range(5):
        old.take(b"jobs")
    old.crash_while_taking(b"jobs")
    old.look(b"jobs")
    for n in range(20, 27):
        old.delete_message(b"jobs:%d" % n)
    old.add_with_bad_ttl(b"zombie", b"never queued")
    for n in range(2, 32):
        assert old.add(b"zombie", b"zombie %d" % n) == n
    for _ in range(3):
        old.add(b"drained", b"gone")
        old.get(b"drained")
    old.add(b"late", b"in time", ttl=1000)
    old.add(b"late", b"too late", ttl=0)
    old.add(b"stopped", b"wait")
    old.stop(b"stopped")
    old.set_policy(b"stopped", 2)
    for _ in range(3):
        old.add(b"stopped", b"wait")
    old.set_policy(b"to come", 2)


def test_every_message_is_accounted_for(old: OldBroker, import_: Import) -> None:
    fill_with_all_sorts(old)
    found = import_()
    assert found["queues"] == 5
    assert found["messages in"] == 84 + 30 + 2 + 4
    assert found["have no body"] == 7 + 1
    assert found["imported ("] == 120 - 8
    assert found["earlier"] == found["can't be read"] == 0
    assert found["bodies read by GET"] == 10 + 3 + 1  # and the one that was never queued
    assert found["handing out"] == 1
    dry = import_("--dry-run")
    assert dry["messages in"] == dry["earlier"] == 120


def test_numbers_policies_and_stops_come_along(
    old: OldBroker, import_: Import, daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """Keys that my programs noted still name the same messages, and no number comes twice."""
    fill_with_all_sorts(old)
    import_()
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        got = drain(broker.port, "jobs")
        expected = [n for n in range(17, 101) if not 20 <= n < 27]
        assert [(m.id, m.body) for m in got] == [(n, b"job %d" % n) for n in expected]
        assert [m.id for m in drain(broker.port, "zombie")] == list(range(2, 32))
        assert client.add("drained", b"x") == 4
        assert client.add("late", b"x") == 3
        assert client.add("to come", b"x") == 1
    assert b'"value": "roundrobin"' in broker.request("GET", "/p/stopped").body
    assert b'"value": "roundrobin"' in broker.request("GET", "/p/to%20come").body
    assert b'"value": "broadcast"' in broker.request("GET", "/p/jobs").body
    assert b'"status": 0' in broker.request("GET", "/control/stopped").body
    assert b'"status": 1' in broker.request("GET", "/control/jobs").body
    listed = broker.request("GET", "/stats/").body
    assert all(b'"%s"' % name in listed for name in (b"jobs", b"zombie", b"drained", b"late"))


def test_a_time_to_live_goes_on(
    old: OldBroker, import_: Import, daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """A message that had two seconds left has them still, and then is gone."""
    old.add(b"news", b"short", ttl=2)
    old.add(b"news", b"long", ttl=1000)
    assert import_()["imported ("] == 2
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    look = b'{"cmd": "get", "queue": "news"}'
    kind = {"Content-Type": "application/json"}
    wait_until(
        lambda: b'"value": null' in broker.request("POST", "/queue", look, kind).body,
        "the end of a life",
    )
    assert b'"key": "news:1", "value": null' in broker.request("GET", "/q/news").body
    assert b'"key": "news:2", "value": "long"' in broker.request("GET", "/q/news").body


def test_entries_that_overtook_each_other_come_by_number(
    old: OldBroker, import_: Import, daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """Adds that overlapped stand the wrong way round in the old list."""
    numbers = [old.number(b"race") for _ in range(4)]
    for at in (1, 0, 3, 2):
        old.finish(b"race", numbers[at], b"%d" % numbers[at])
    import_()
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    assert [(m.id, m.body) for m in drain(broker.port, "race")] == [
        (n, b"%d" % n) for n in (1, 2, 3, 4)
    ]


def test_what_can_not_be_imported_is_named_and_fails_the_command(
    old: OldBroker, import_: Import
) -> None:
    old.add(b"good", b"x")
    old.add(b"\xff\xfe", b"no name for a queue")
    old.add(b"y" * 20000, b"too long a name")
    old.store.lpush("good:queue", "other:7", "rubbish")
    old.store.lpush("good:2", "a list, not a body")
    old.store.lpush("good:queue", "good:2")
    found = import_()
    assert found.code == 1
    assert found["imported ("] == 1
    assert found["can't be read"] == 1
    assert found["no key of their queue"] == 2
    assert found["name can't be kept"] == 2
    assert "b'good:2' holds no string" in found.output


def test_keys_of_other_programs_are_left_alone(
    old: OldBroker, import_: Import, new_store: valkey_client.Valkey
) -> None:
    """The old Redis was shared."""
    old.add(b"mine", b"x")
    old.store.set("session:UUID", "4f2c")
    old.store.set("build:UUID", "17")
    old.store.lpush("resque:queue", "job")
    old.store.set("thing:queuepolicy", "lottery")
    found = import_()
    assert (found.code, found["queues"]) == (0, 1)
    assert {k for k in new_store.keys("*") if b"mine" not in k} == {Keys("restmq:").shard("mine")}


def test_a_second_run_imports_nothing_twice(
    old: OldBroker, import_: Import, new_store: valkey_client.Valkey
) -> None:
    """I run it again to be sure, even after the new broker has handed some out."""
    for n in range(2500):
        old.add(b"jobs", b"%d" % n)
    assert import_()["imported ("] == 2500
    new_store.ltrim("restmq:{jobs}:l", 1000, -1)
    again = import_()
    assert again["imported ("] == 0
    assert again["earlier"] == 2500
    old.add(b"jobs", b"one more")
    assert import_()["imported ("] == 1
    assert new_store.llen("restmq:{jobs}:l") == 1501


def test_a_run_that_was_killed_is_gone_on_with(
    old: OldBroker, old_server: ValkeyServer, valkey: ValkeyServer, new_store: valkey_client.Valkey
) -> None:
    """The import is killed five times; in the end every message is there once, in order."""
    for queue in range(20):
        old.add_many(b"q%d" % queue, [b"%d" % n for n in range(3000)])
    words = command("--from", old_server.url, "--redis-url", valkey.url)
    for kill in range(1, 6):
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_until(
            lambda k=kill, p=process: p.poll() is not None or length(new_store) >= 4000 * k,
            "some messages",
        )
        process.kill()
        process.wait(SECONDS)
    found = run_import("--from", old_server.url, "--redis-url", valkey.url)
    assert found.code == 0
    assert found["messages in"] == 60_000
    assert found["imported ("] + found["earlier"] == 60_000
    assert found["earlier"] >= 4000
    for queue in range(20):
        entries = new_store.lrange(f"restmq:{{q{queue}}}:l", 0, -1)
        assert [int.from_bytes(e[:7], "big") for e in entries] == list(range(1, 3001))
        assert [e[20:] for e in entries] == [b"%d" % n for n in range(3000)]


def length(store: valkey_client.Valkey) -> int:
    return sum(store.llen(f"restmq:{{q{queue}}}:l") for queue in range(20))


def test_it_follows_an_old_broker_that_goes_on(
    old: OldBroker,
    old_server: ValkeyServer,
    daemon: StartDaemon,
    valkey: ValkeyServer,
) -> None:
    """Producers still post to the old one; my consumer at the new one gets it all, in order."""
    for n in range(1, 1501):
        old.add(b"live", b"%d" % n)
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    with Streams() as streams:
        comet = streams.open(broker, "live")
        words = command("--from", old_server.url, "--redis-url", valkey.url, "--follow")
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for_lines(streams, [comet], 1500)
        begun = old.number(b"live")  # a post that is half done while others overtake it
        for n in range(1502, 2001):
            assert old.add(b"live", b"%d" % n) == n
        old.add(b"new queue", b"hello")
        wait_for_lines(streams, [comet], 1999)
        old.finish(b"live", begun, b"%d" % begun)
        wait_for_lines(streams, [comet], 2000)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=SECONDS)
        found = Imported(subprocess.CompletedProcess(words, process.returncode, output, errors))
        assert found.code == 0, errors
        assert found["messages in"] == found["imported ("] == 2001
        assert found["under another number"] == 1
        in_order = [n for n in range(1, 2001) if n != begun]
        assert comet.bodies == [b"%d" % n for n in [*in_order, begun]]
        assert comet.ids[:-1] == in_order


def test_a_message_under_way_keeps_its_number(
    old: OldBroker, old_server: ValkeyServer, valkey: ValkeyServer, new_store: valkey_client.Valkey
) -> None:
    """It had its number when the import looked, and came into the list a moment later."""
    old.add(b"busy", b"one")
    number = old.number(b"busy")
    done: list[Imported] = []
    work = threading.Thread(
        target=lambda: done.append(run_import("--from", old_server.url, "--redis-url", valkey.url))
    )
    work.start()
    wait_until(lambda: new_store.llen("restmq:{busy}:l") == 1, "the first message")
    old.finish(b"busy", number, b"two")
    work.join(SECONDS)
    assert done[0]["imported ("] == 2
    assert done[0]["under another number"] == 0
    assert new_store.hget("restmq:{busy}", "id") == b"2"


def test_a_number_that_the_new_broker_has_given_is_not_given_again(
    old: OldBroker, import_: Import, daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """Somebody posted to the new broker before I imported."""
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        for _ in range(2):
            client.add("shared", b"new")
        for _ in range(4):
            old.add(b"shared", b"old")
        assert import_("--dry-run")["under another number"] == 4
        assert import_()["under another number"] == 4
        assert client.add("shared", b"new") == 7
    assert [(m.id, m.body) for m in drain(broker.port, "shared")] == [
        (1, b"new"), (2, b"new"), (3, b"old"), (4, b"old"), (5, b"old"), (6, b"old"), (7, b"new"),
    ]  # fmt: skip


def test_two_old_brokers_need_two_labels(old: OldBroker, import_: Import) -> None:
    """The second one's messages have the same numbers: forgetting the label must not lose them."""
    old.add(b"jobs", b"of the first")
    assert import_()["imported ("] == 1
    assert import_()["earlier"] == 1
    old.store.flushall()
    old.add(b"jobs", b"of the second")
    forgotten = import_()
    assert forgotten.code == 1
    assert "message 1 of the queue 'jobs' is not the one" in forgotten.errors
    found = import_("--label", "second")
    assert (found.code, found["imported ("], found["under another number"]) == (0, 1, 1)


def test_the_very_database_of_the_old_one_may_be_the_new_store(
    old: OldBroker, old_server: ValkeyServer, daemon: StartDaemon
) -> None:
    """I keep my Redis: old and new keys do not meet."""
    fill_with_all_sorts(old)
    before = old.everything()
    words = ("--from", old_server.url, "--redis-url", old_server.url)
    assert run_import(*words)["imported ("] == 112
    again = run_import(*words)
    assert (again.code, again["queues"], again["messages in"]) == (0, 5, 120)
    assert before.items() <= old.everything().items()
    broker = daemon("--redis-url", old_server.url)
    broker.wait_for("/readyz")
    assert len(drain(broker.port, "jobs")) == 77


def test_a_full_store_takes_whole_batches_or_nothing(
    old: OldBroker, import_: Import, old_server: ValkeyServer, start_valkey: StartValkey
) -> None:
    """I gave the new store too little memory, and then more."""
    for queue in range(4):
        old.add_many(b"q%d" % queue, [b"%06d" % n + b"." * 1000 for n in range(2000)])
    small = start_valkey(maxmemory="6mb", maxmemory_policy="noeviction")
    words = ("--from", old_server.url, "--redis-url", small.url)
    full = run_import(*words)
    assert full.code == 1
    assert "OOM" in full.errors
    with small.client() as client:
        client.config_set("maxmemory", "0")
        found = run_import(*words)
        assert found.code == 0
        assert found["earlier"] > 0
        assert found["earlier"] + found["imported ("] == 8000
        for queue in range(4):
            entries = client.lrange(f"restmq:{{q{queue}}}:l", 0, -1)
            assert [e[20:26] for e in entries] == [b"%06d" % n for n in range(2000)]


def test_two_at_once_are_noticed(
    old: OldBroker, old_server: ValkeyServer, valkey: ValkeyServer
) -> None:
    """Two colleagues start it at the same time: what comes over comes once."""
    for queue in range(5):
        old.add_many(b"q%d" % queue, [b"x"] * 10_000)
    words = command("--from", old_server.url, "--redis-url", valkey.url)
    both = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=SECONDS)[1] for process in both]
    for process, said in zip(both, errors, strict=True):
        assert process.returncode == 0 or "run one at a time" in said
    assert run_import("--from", old_server.url, "--redis-url", valkey.url).code == 0
    with valkey.client() as store:
        assert [store.llen(f"restmq:{{q{queue}}}:l") for queue in range(5)] == [10_000] * 5


# -- where from, where to -------------------------------------------------------------------------


def save_rdb(server: ValkeyServer) -> Path:
    with server.client() as client:
        client.save()
    return server.folder / "dump.rdb"


def test_an_rdb_file_into_the_embedded_store(
    old: OldBroker, old_server: ValkeyServer, tmp_path: Path, daemon: StartDaemon
) -> None:
    """The old machine is gone, I have its dump.rdb; the new broker is not running yet."""
    fill_with_all_sorts(old)
    rdb = save_rdb(old_server)
    before = rdb.read_bytes()
    broker = daemon(start=False)
    data = str(broker.folder / "data")
    dry = run_import("--from", str(rdb), "--data-dir", data, "--dry-run")
    assert dry["imported ("] == 112
    assert not Path(data).exists()
    found = run_import("--from", str(rdb), "--data-dir", data)
    assert (found.code, found["imported ("]) == (0, 112), found.errors
    assert rdb.read_bytes() == before
    broker.start("/readyz")
    assert len(drain(broker.port, "jobs")) == 77
    again = run_import("--from", str(rdb), "--data-dir", data)  # while the broker runs
    assert (again["imported ("], again["earlier"]) == (0, 120), again.errors


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_broken_off_leaves_no_server_behind(
    with_signal: signal.Signals, old: OldBroker, old_server: ValkeyServer, tmp_path: Path
) -> None:
    """Ctrl-C while it reads the file and fills a store that it started itself."""
    old.add_many(b"jobs", [b"." * 200 for _ in range(60_000)])
    rdb = save_rdb(old_server)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        command("--from", str(rdb), "--data-dir", str(tmp_path / "data")),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    servers = wait_until(lambda: two(servers_in(tmp_path)), "two servers")
    process.send_signal(with_signal)
    said = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == (-9 if with_signal is signal.SIGKILL else 130)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers), "their end")
    if with_signal is not signal.SIGKILL:
        assert "run it again to go on" in said
        assert list(scratch.iterdir()) == []


def servers_in(folder: Path) -> list[int]:
    """The servers whose sockets are in a folder, when both answer."""
    records = [json.loads(path.read_text()) for path in folder.rglob("server.json")]
    return [
        record["pid"] for record in records if record["pid"] and Path(record["socket"]).exists()
    ]


def two(pids: list[int]) -> list[int]:
    return pids if len(pids) == 2 else []


def test_an_rdb_file_of_redis(
    old: OldBroker, old_server: ValkeyServer, tool: Callable[[str], str], tmp_path: Path
) -> None:
    """What a Redis saved is read, too. (One of before 7 reads alike: the format only grew.)"""
    server = subprocess.Popen(
        [tool("redis-server"), "--port", "0", "--unixsocket", str(tmp_path / "s"), "--save", "",
         "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = valkey_client.Valkey(unix_socket_path=str(tmp_path / "s"), db=3)
        wait_until(lambda: (tmp_path / "s").exists() and client.ping(), "a redis-server")
        OldBroker(client).add(b"jobs", b"x")
        client.save()
        client.close()
    finally:
        server.kill()
        server.wait(SECONDS)
    words = ("--from", str(tmp_path / "dump.rdb"), "--data-dir", str(tmp_path / "new"), "--dry-run")
    assert run_import(*words)["imported ("] == 0
    assert run_import(*words, "--from-db", "3")["imported ("] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "nowhere.rdb"), "can't read nowhere.rdb: No such file"),
        (("--from", "README.md"), "is no RDB file"),
        (("--from", "http://localhost"), "does not begin with redis://"),
        (("--from", "unix:///nowhere"), "nothing answers at /nowhere"),
        (("--from", "redis://localhost", "--from-db", "3"), "--from-db is for RDB files"),
        (("--from", "x.rdb", "--follow"), "--follow needs an old database that is live"),
        (("--from", "unix:///nowhere", "--redis-db", "x"), "'x' is not a whole number"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], words: str, valkey: ValkeyServer
) -> None:
    extra = () if "--redis-db" in arguments else ("--redis-url", valkey.url)
    found = run_import(*arguments, *extra)
    assert found.code == 1
    assert found.errors.startswith("restmq import-legacy: ")
    assert found.errors.count("\n") == 1
    assert words in found.errors


def test_a_damaged_or_append_only_file_is_refused(old_server: ValkeyServer, tmp_path: Path) -> None:
    rdb = save_rdb(old_server)
    damaged = tmp_path / "damaged.rdb"
    damaged.write_bytes(rdb.read_bytes()[:9] + b"rubbish")
    to = ("--data-dir", str(tmp_path / "new"), "--dry-run")
    assert "can't read" in run_import("--from", str(damaged), *to).errors
    log = tmp_path / "appendonly.aof"
    log.write_bytes(b"REDIS0011\xfa\x0caof-preamble\xc0\x01")
    assert "append-only file" in run_import("--from", str(log), *to).errors


def test_a_terminal_sees_a_bar(
    old: OldBroker, old_server: ValkeyServer, valkey: ValkeyServer
) -> None:
    old.add_many(b"jobs", [b"x"] * 3000)
    ours, theirs = pty.openpty()
    try:
        words = command("--from", old_server.url, "--redis-url", valkey.url)
        done = subprocess.run(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs, timeout=SECONDS, check=False
        )
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert f"messages [{'#' * 30}] 3000 of 3000" in seen


@pytest.mark.slow
def test_two_hundred_thousand_messages_over_five_hundred_queues(
    old: OldBroker, import_: Import, new_store: valkey_client.Valkey
) -> None:
    """All of them, in order. (The goal is under 30 s; the time is printed, not asserted.)"""
    for queue in range(500):
        old.add_many(
            b"queue-%d" % queue,
            [b"message %d of queue %d " % (n, queue) + b"." * 80 for n in range(400)],
        )
    began = time.monotonic()
    found = import_()
    print(f"200,000 messages over 500 queues imported in {time.monotonic() - began:.1f} s")
    assert found.code == 0
    assert found["imported ("] == found["messages in"] == 200_000
    for queue in range(500):
        entries = new_store.lrange(f"restmq:{{queue-{queue}}}:l", 0, -1)
        assert [int.from_bytes(e[:7], "big") for e in entries] == list(range(1, 401))
        assert all(
            e[20:].startswith(b"message %d of queue %d " % (n, queue))
            for n, e in enumerate(entries)
        )
