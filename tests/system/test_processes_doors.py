"""``--processes`` of the daemons with more doors: ``twistd syslogd`` and ``twistd collectd``."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, Daemon, free_port, twistd, wait_until
from tests.system.clients import drain
from tests.system.processes import is_alive, serving, stopped
from tests.system.test_processes import only, wait_for_processes

pytestmark = pytest.mark.slow

QUEUE = "syslogd:127.0.0.1"

Lines = list[dict[str, Any]]


class Syslog:
    """A daemon of two processes, and its syslog port."""

    def __init__(self, daemon: StartDaemon, stack: ExitStack, *options: str) -> None:
        self.port = free_port()
        more = ("--processes", "2", "--syslog-port", str(self.port), *options)
        self._open = stack
        self.broker: Daemon = daemon(*more, program=twistd("syslogd"))
        self.pids = wait_for_processes(self.broker, 2)

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)
        return self._open.enter_context(made)

    def udp(self) -> socket.socket:
        made = self._open.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.connect(("127.0.0.1", self.port))
        return made

    def connected_to(self, pid: int) -> socket.socket:
        """A connection that this process serves: the other one sleeps while it is made."""
        with stopped(*only(pid, self.pids)):
            sender = self.connect()
            sender.sendall(b"<13>greeting\n")
            wait_until(self.take, "the greeting")
        return sender

    def length(self) -> int:
        return int(json.loads(self.broker.request("GET", f"/stats/{QUEUE}").body)["len"])

    def take(self) -> Lines:
        """All lines that are there."""
        return [json.loads(message.body) for message in drain(self.broker.port, QUEUE)]

    def lines(self, count: int) -> Lines:
        wait_until(lambda: self.length() >= count, lambda: f"{count}, not {self.length()} lines")
        return self.take()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def syslog(daemon: StartDaemon, stack: ExitStack) -> Syslog:
    return Syslog(daemon, stack)


def numbered(sender: int, count: int) -> list[bytes]:
    return [b"<13>%d %05d\n" % (sender, number) for number in range(count)]


def assert_in_order(found: Lines, senders: int, count: int) -> None:
    """Each sender's lines are all there, once, in their order."""
    by_sender = defaultdict(list)
    for one in found:
        sender, _, number = one["line"].removeprefix("<13>").partition(" ")
        by_sender[int(sender)].append(int(number))
    assert dict(by_sender) == {sender: list(range(count)) for sender in range(senders)}


def test_both_processes_take_lines_and_each_connection_keeps_its_order(syslog: Syslog) -> None:
    senders = [syslog.connected_to(pid) for pid in syslog.pids for _ in range(2)]
    for lines in zip(*(numbered(sender, 2000) for sender in range(4)), strict=True):
        for sender, line in zip(senders, lines, strict=True):
            sender.sendall(line)
    assert_in_order(syslog.lines(8000), 4, 2000)
    assert syslog.broker.stop() == 0


def test_each_sender_of_datagrams_is_read_in_order_by_one_process(syslog: Syslog) -> None:
    senders = [syslog.udp() for _ in range(8)]
    for lines in zip(*(numbered(sender, 200) for sender in range(8)), strict=True):
        for sender, line in zip(senders, lines, strict=True):
            sender.send(line)
        syslog.broker.request("GET", "/livez")  # not faster than the kernel keeps
    assert_in_order(syslog.lines(1600), 8, 200)


def test_datagrams_wait_for_the_heir_of_a_dead_process(syslog: Syslog) -> None:
    """Both are shot with letters in their boxes; their heirs read them."""
    senders = [syslog.udp() for _ in range(16)]
    with stopped(*syslog.pids):
        for number, sender in enumerate(senders):
            for line in numbered(number, 10):
                sender.send(line)
        for pid in syslog.pids:
            os.kill(pid, signal.SIGKILL)
    wait_for_processes(syslog.broker, 2, but=syslog.pids)
    assert_in_order(syslog.lines(160), 16, 10)


def test_a_connection_nobody_accepted_outlives_the_process(syslog: Syslog) -> None:
    with stopped(*syslog.pids):
        with syslog.connect() as sender:
            sender.sendall(b"<13>whole\n")
        for pid in syslog.pids:
            os.kill(pid, signal.SIGKILL)
    assert [one["line"] for one in syslog.lines(1)] == ["<13>whole"]


def test_one_that_is_killed_is_replaced_and_the_other_loses_nothing(syslog: Syslog) -> None:
    first, second = (syslog.connected_to(pid) for pid in syslog.pids)
    second.sendall(b"<13>before\n")
    os.kill(syslog.pids[0], signal.SIGKILL)
    assert first.recv(1) == b""
    second.sendall(b"<13>after\n")
    assert [one["line"] for one in syslog.lines(2)] == ["<13>before", "<13>after"]
    syslog.pids = wait_for_processes(syslog.broker, 2, but=syslog.pids[:1])
    for pid in syslog.pids:
        with syslog.connected_to(pid) as sender:
            sender.sendall(b"<13>x\n")
        assert len(syslog.lines(1)) == 1


def test_what_was_taken_is_with_the_store_when_all_end(syslog: Syslog) -> None:
    senders = [syslog.connected_to(pid) for pid in syslog.pids]
    for sender in senders:
        sender.sendall(b"<13>x\n" * 3000)
    wait_until(lambda: syslog.length() > 0, "a line")
    assert syslog.broker.stop() == 0
    assert not any(map(is_alive, syslog.pids))
    syslog.broker.start("/readyz")
    assert syslog.length() == 6000


def test_access_rules_hold_for_all_processes(
    daemon: StartDaemon, stack: ExitStack, tmp_path: Path
) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("[rest:producer]\nhosts_deny = 127.0.0.1\n")
    syslog = Syslog(daemon, stack, "--acl", str(rules))
    refused: Callable[[], list[bytes]] = lambda: [answer(syslog, pid) for pid in syslog.pids]  # noqa: E731
    assert refused() == [b"", b""]
    rules.write_text("[rest:producer]\nhosts_allow = 127.0.0.1\n")
    wait_until(lambda: "now in force" in syslog.broker.log, "the new rules")
    for pid in syslog.pids:
        with syslog.connected_to(pid):
            pass


def answer(syslog: Syslog, pid: int) -> bytes:
    """What a sender hears from this process; nothing but the end when it may not send."""
    with stopped(*only(pid, syslog.pids)), syslog.connect() as sender:
        return sender.recv(1)


def test_a_taken_port_is_one_line(syslog: Syslog, daemon: StartDaemon) -> None:
    options: Sequence[str] = ("--processes", "2", "--syslog-port", str(syslog.port))
    second = daemon(*options, program=twistd("syslogd"), start=False)
    assert second.launch().wait(DEADLINE_SECONDS) == 1
    (line,) = second.log.splitlines()
    assert f"port {syslog.port} (option --syslog-port) is taken" in line


def test_the_log_says_where_once(syslog: Syslog) -> None:
    log = syslog.broker.log
    assert log.count(f"listening on 127.0.0.1:{syslog.port} (UDP)") == 1
    assert log.count(f"listening on 127.0.0.1:{syslog.port}") == 2


def test_collectd_posts_to_any_process(daemon: StartDaemon) -> None:
    broker = daemon("--processes", "2", program=twistd("collectd"))
    pids = wait_for_processes(broker, 2)
    metrics = b"PUTVAL host/load/load interval=10 1:0.1"
    for count, pid in enumerate(pids, 1):
        with stopped(*only(pid, pids)):
            reply = broker.request(
                "POST", "/collectd/data", metrics, {"Content-Type": "text/plain"}
            )
        assert reply.body == b"collectd_data:%d\r\n" % count


def test_it_can_be_ended_before_it_took_anything(daemon: StartDaemon) -> None:
    """The store never answered, so no process had opened its door when all were told to end."""
    options = ("--processes", "2", "--syslog-port", str(free_port()), "--redis-port", "1")
    broker = daemon(*options, program=twistd("syslogd"))
    pids = wait_until(lambda: serving(broker.pid), "the processes")
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "(exit code 0)" in broker.log, lambda: broker.log)
    assert broker.stop() == 0
