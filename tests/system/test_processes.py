"""``--processes``: one broker of several processes, which die and are replaced under the traffic."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, ROOT, Daemon, free_port, make_certificate, wait_until
from tests.system.clients import Client, Comet, Gone, Ledger, Streams, bodies, drain, warm_up
from tests.system.processes import command_line, is_alive, send_all, serving, stopped
from tests.system.test_kill import embedded_server

pytestmark = pytest.mark.slow

QUEUE = "many"
LONG = 60.0


def wait_for_processes(broker: Daemon, count: int, *, but: Sequence[int] = ()) -> list[int]:
    """Wait until so many processes serve, none of them one of those; their numbers."""

    def look() -> list[int]:
        found = serving(broker.pid)
        lines = [line for line in broker.log.splitlines() if line.endswith(") serves")]
        ready = [pid for pid in found if any(f"(pid {pid}) serves" in line for line in lines)]
        return found if len(found) == len(ready) == count and not set(but) & set(found) else []

    return wait_until(look, lambda: f"{count} processes; the log:\n{broker.log}", LONG)


def only(pid: int, pids: Sequence[int]) -> list[int]:
    """All of them but one."""
    return [other for other in pids if other != pid]


# -- dying under the traffic ----------------------------------------------------------------------


class Posters:
    """Threads that post bodies to one port, each on a connection that is made anew when it is cut."""

    def __init__(self, port: int, queue: str, bodies: Sequence[bytes], producers: int = 4) -> None:
        self.ledger = Ledger()
        self._port, self._queue = port, queue
        self._pool = ThreadPoolExecutor(producers)
        self._work = [self._pool.submit(self._post, bodies[i::producers]) for i in range(producers)]

    def _post(self, bodies: Sequence[bytes]) -> None:
        client = Client(self._port)
        for body in bodies:
            try:
                self.ledger.note(body, client.post(self._queue, body))
            except Gone:
                self.ledger.note(body, None)
                client.close()
                client = Client(self._port)  # nobody refuses it: the ports are the parent's
        client.close()

    def join(self) -> Ledger:
        for work in self._work:
            work.result(120)
        self._pool.shutdown()
        return self.ledger


class Faithful:
    """So many consumers that come back whenever their connection is cut, until ``enough``."""

    def __init__(self, streams: Streams, broker: Daemon, count: int) -> None:
        self._streams, self._broker = streams, broker
        self.open = [streams.open(broker, QUEUE) for _ in range(count)]
        self.past: list[Comet] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._come_back)
        self._thread.start()

    def _come_back(self) -> None:
        while not self._enough.wait(0.02):
            for comet in [comet for comet in self.open if comet.lost]:
                self.open.remove(comet)
                self.past.append(comet)
                self.open.append(self._streams.open(self._broker, QUEUE))

    def enough(self) -> None:
        self._enough.set()
        self._thread.join(DEADLINE_SECONDS)

    @property
    def ids(self) -> Counter[int]:
        return Counter(number for comet in [*self.past, *self.open] for number in comet.ids)


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_processes_killed_at_random_lose_nothing_acknowledged(
    daemon: StartDaemon, streams: Streams, policy: str
) -> None:
    """Four processes, one after the other shot: posts and streams go on, and a restart is clean."""
    broker = daemon("--processes", "4")
    broker.wait_for("/readyz")
    first = wait_for_processes(broker, 4)
    with Client(broker.port) as client:
        client.set_policy(QUEUE, policy)
    consumers = Faithful(streams, broker, 12)
    posting = Posters(broker.port, QUEUE, bodies(4000))
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    print("seed", seed)
    killed: list[int] = []
    while posting.ledger.count() < 4000:
        before = posting.ledger.count()
        victim = chance.choice(wait_until(lambda: serving(broker.pid), "a process", LONG))
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
        more = min(4000, before + chance.randrange(300, 900))
        wait_until(lambda more=more: posting.ledger.count() >= more, "more posts", LONG)  # type: ignore[misc]
    ledger = posting.join()
    now = wait_for_processes(broker, 4, but=killed)
    assert_each_serves(broker, now)
    consumers.enough()
    streams.wait(lambda: all(not comet.lost for comet in consumers.open), "no more cuts")
    warm_up(streams, consumers.open, broker.port, QUEUE)
    with Client(broker.port) as client:
        wait_until(lambda: client.length(QUEUE) == 0, "an empty queue")
    assert not ledger.refused
    server = embedded_server(broker)
    assert broker.stop() == 0
    streams.wait(lambda: all(comet.ended for comet in consumers.open), "the last chunks")
    assert not any(map(is_alive, [*first, *killed, *now, server]))
    broker.start("/readyz")
    left = {message.id for message in drain(broker.port, QUEUE)}
    print("killed", len(killed), "unknown", len(ledger.unknown), "left", len(left))
    assert set(consumers.ids) | left >= ledger.ids
    assert len(killed) >= 4
    if policy == "roundrobin":
        twice = sum(1 for number, times in consumers.ids.items() if times > 1)
        print("seen again after a kill", twice)


def assert_each_serves(broker: Daemon, pids: Sequence[int]) -> None:
    """While all others stand still, each answers by itself."""
    for pid in pids:
        with stopped(*only(pid, pids)):
            assert broker.request("GET", "/readyz").status == 200


def test_one_that_is_told_to_end_ends_gracefully_and_is_replaced(
    daemon: StartDaemon, streams: Streams
) -> None:
    """A process that leaks can be sent home by hand."""
    broker = daemon("--processes", "2")
    pids = wait_for_processes(broker, 2)
    with stopped(pids[1]):
        comet = streams.open(broker, QUEUE)
        warm_up(streams, [comet], broker.port, QUEUE)
        os.kill(pids[0], signal.SIGTERM)
        streams.wait(lambda: comet.ended, "the last chunk")
    assert pids[1] in wait_for_processes(broker, 2, but=[pids[0]])
    assert "(exit code 0): another takes its place in 0.1 s" in broker.log


def test_a_connection_nobody_accepted_outlives_the_process(daemon: StartDaemon) -> None:
    """I connect while all processes hang, and all are shot: their heirs answer me."""
    broker = daemon("--processes", "2")
    pids = wait_for_processes(broker, 2)
    with stopped(*pids), Client(broker.port) as client:
        client.socket.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        send_all(pids, signal.SIGKILL)
        assert client._answer().status == 200


# -- the parent -----------------------------------------------------------------------------------


def test_without_its_parent_everything_ends(daemon: StartDaemon, streams: Streams) -> None:
    """Kill -9 of the parent: the processes end as at a stop, the store too, and all can begin again."""
    broker = daemon("--processes", "2")
    pids = wait_for_processes(broker, 2)
    server = embedded_server(broker)
    comets = [streams.open(broker, QUEUE) for _ in range(4)]
    warm_up(streams, comets, broker.port, QUEUE)
    broker.kill()
    streams.wait(lambda: all(comet.ended for comet in comets), "the last chunks")
    wait_until(lambda: not any(map(is_alive, [*pids, server])), "the end of all")
    broker.start("/readyz")


def test_a_process_that_does_not_end_is_killed_in_time(daemon: StartDaemon) -> None:
    broker = daemon("--processes", "2", "--stop-timeout", "0.5")
    pids = wait_for_processes(broker, 2)
    with stopped(pids[0]):
        assert broker.stop() == 0
        assert not any(map(is_alive, pids))
    assert f"(pid {pids[0]}) did not end in time: killed" in broker.log


def test_one_process_has_no_parent(daemon: StartDaemon) -> None:
    broker = daemon("--processes", "1")
    assert serving(broker.pid) == []


def test_secrets_stay_out_of_command_lines_and_environments(daemon: StartDaemon) -> None:
    """'ps' and /proc are read by whoever watches the machine."""
    env = {"RESTMQ_REDIS_PASSWORD": "geheim-1"}
    broker = daemon("--processes", "2", "--redis-port", "1", env=env)
    for pid in wait_until(lambda: serving(broker.pid), "the processes"):
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"geheim" not in environ
        assert "geheim" not in command_line(pid)
        assert b"RESTMQ_" not in environ


def test_with_the_store_away_one_line_says_so(daemon: StartDaemon) -> None:
    broker = daemon("--processes", "3", "--redis-port", str(free_port()))
    wait_until(lambda: "does not answer" in broker.log, lambda: broker.log)
    assert broker.request("GET", "/readyz").status == 503
    assert broker.request("GET", "/livez").status == 200
    assert broker.stop() == 0
    assert broker.log.count("does not answer") == 1


# -- the ways in ----------------------------------------------------------------------------------


def test_the_access_file_holds_for_all_and_for_those_to_come(daemon: StartDaemon) -> None:
    """I lock the door: no process is left that would still open it."""
    broker = daemon("--processes", "2", "--acl", "acl.conf", start=False)
    broker.folder.mkdir()
    rules = broker.folder / "acl.conf"
    rules.write_text("")
    broker.start("/readyz")
    pids = wait_for_processes(broker, 2)
    assert each_answers(broker, pids) == [204, 204]
    rules.write_text("[rest:consumer]\nhosts_deny = all\n")
    wait_until(lambda: each_answers(broker, pids) == [401, 401], "401 from both")
    rules.write_text("no access file at all")
    wait_until(lambda: "stay in force" in broker.log, lambda: broker.log)
    os.kill(pids[0], signal.SIGKILL)
    pids = wait_for_processes(broker, 2, but=pids[:1])
    assert each_answers(broker, pids) == [401, 401]
    assert broker.log.count("are now in force") == 1


def each_answers(broker: Daemon, pids: Sequence[int]) -> list[int]:
    """The status of a pop at each of the processes."""
    statuses = []
    for pid in pids:
        with stopped(*only(pid, pids)):
            statuses.append(broker.request("GET", "/q/nothing").status)
    return statuses


def test_a_unix_socket_keeps_its_mode_and_place(daemon: StartDaemon, tmp_path: Path) -> None:
    """A process that comes or goes must not touch what the web server is allowed to open."""
    path = tmp_path / "s"
    options = ("--listen", f"unix:{path}:mode=660", "--listen", "127.0.0.1", "--processes", "2")
    broker = daemon(*options)
    pids = wait_for_processes(broker, 2)
    os.kill(pids[0], signal.SIGTERM)
    pids = wait_for_processes(broker, 2, but=pids[:1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    for pid in pids:
        with stopped(*only(pid, pids)), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_SECONDS)
            client.connect(str(path))
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert broker.stop() == 0
    assert not path.exists()


def test_a_process_that_can_not_start_is_one_alarm_and_the_rest_serve_on(
    daemon: StartDaemon, tmp_path: Path
) -> None:
    """Somebody took the key away; a process dies; its heirs can't read it. Then the key is back."""
    key, certificate = make_certificate(tmp_path)
    port = free_port()
    place = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    broker = daemon("--listen", place, "--listen", "127.0.0.1", "--processes", "2")
    pids = wait_for_processes(broker, 2)
    assert tls_status(port) == b"HTTP/1.1 200 OK"
    Path(key).rename(tmp_path / "away")
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: "times in a row" in broker.log, lambda: broker.log, LONG)
    (alarm,) = [line for line in broker.log.splitlines() if "times in a row" in line]
    assert "process " in alarm
    assert "(exit code 1): 1 of 2 serve on" in alarm
    assert f"No such file or directory: {key}" in broker.log
    assert tls_status(port) == b"HTTP/1.1 200 OK"
    (tmp_path / "away").rename(key)
    pids = wait_for_processes(broker, 2, but=pids[:1])
    for pid in pids:
        with stopped(*only(pid, pids)):
            assert tls_status(port) == b"HTTP/1.1 200 OK"


def tls_status(port: int) -> bytes:
    """The status line of a request by TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
    with context.wrap_socket(plain) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.recv(1000).partition(b"\r\n")[0]


def test_twistd_does_the_same_as_a_daemon(tmp_path: Path) -> None:
    """``twistd restmq --processes 2`` in the background: its log has what they say, its pid file ends all."""
    port = free_port()
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    options = ["restmq", "--processes", "2", "--port", str(port), "--data-dir", "data"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RESTMQ_")}
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    env = {**inherited, "PYTHONPATH": path}
    subprocess.run(
        [*command, *options], cwd=tmp_path, env=env, check=True, timeout=DEADLINE_SECONDS
    )
    log = tmp_path / "twistd.log"
    pid = int(wait_until(lambda: read(tmp_path / "twistd.pid"), "the pid file"))
    pids: list[int] = []
    try:
        wait_until(lambda: read(log).count(") serves") == 2, lambda: read(log), LONG)
        pids = serving(pid)
        assert len(pids) == 2
        with Client(port) as client:
            assert client.add(QUEUE, b"x") == 1
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not any(map(is_alive, [pid, *pids])), lambda: read(log), LONG)
    assert "Traceback" not in read(log)
    assert not (tmp_path / "twistd.pid").exists()


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_numbers_are_the_same_whoever_is_asked(daemon: StartDaemon) -> None:
    broker = daemon("--processes", "2")
    pids = wait_for_processes(broker, 2)
    with Client(broker.port) as client:
        for body in bodies(10):
            client.add(QUEUE, body)
    lengths = []
    for pid in pids:
        with stopped(*only(pid, pids)):
            lengths.append(json.loads(broker.request("GET", f"/stats/{QUEUE}").body)["len"])
    assert lengths == [10, 10]
