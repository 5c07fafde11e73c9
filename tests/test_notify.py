"""What the daemon tells systemd: the notifier with a clock of our own and a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from restmq.notify import BEFORE_READY_SECONDS, Notifier


class Systemd:
    """The other end of NOTIFY_SOCKET. ``heard`` gives what came since the last call."""

    def __init__(self, name: str) -> None:
        self.environ = {"NOTIFY_SOCKET": name}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0"))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@restmq-test-{os.getpid()}"
    made = Systemd(name)
    yield made
    made.close()


def test_a_life(systemd: Systemd) -> None:
    clock = Clock()
    notifier = Notifier(clock, {**systemd.environ, "WATCHDOG_USEC": "3000000"})
    assert systemd.heard() == []
    notifier.startService()
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=20000000"]
    clock.advance(BEFORE_READY_SECONDS)
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=20000000"], "a store that loads may take longer"
    notifier.ready("good")
    assert systemd.heard() == ["READY=1\nSTATUS=good", "WATCHDOG=1"]
    clock.pump([1.5] * 4)
    assert systemd.heard() == ["WATCHDOG=1"] * 4
    notifier.ready("better")
    assert systemd.heard() == ["STATUS=better"]
    notifier.stopping()
    assert systemd.heard()[0].startswith("STOPPING=1\n")
    clock.advance(1.5)
    assert systemd.heard() == ["WATCHDOG=1"]
    notifier.stopService()
    clock.advance(60)
    assert systemd.heard() == []
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_where_no_watchdog_waits_for_us_there_is_no_beat(
    systemd: Systemd, watchdog: dict[str, str]
) -> None:
    clock = Clock()
    notifier = Notifier(clock, {**systemd.environ, **watchdog})
    notifier.startService()
    notifier.ready("good")
    systemd.heard()
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "notify"])
def test_where_nobody_listens_it_is_silent(name: str) -> None:
    clock = Clock()
    notifier = Notifier(clock, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    notifier.startService()
    notifier.ready("good")
    notifier.stopping()
    notifier.stopService()
    assert not clock.getDelayedCalls()


def test_a_manager_that_is_gone_is_one_warning_and_no_error(tmp_path: Path) -> None:
    seen = []
    globalLogPublisher.addObserver(seen.append)
    try:
        notifier = Notifier(Clock(), {"NOTIFY_SOCKET": str(tmp_path / "gone")})
        notifier.startService()
        notifier.ready("good")
        notifier.stopping()
        notifier.stopService()
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert [event["log_level"].name for event in seen] == ["warn"]
