"""The daemon under a service manager: what it says on NOTIFY_SOCKET, and sockets it is handed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import StartDaemon, StartValkey
from tests.support import DEADLINE_SECONDS, ROOT, ValkeyServer, free_port, wait_until

PROCESSES = pytest.mark.parametrize("processes", ["1", "2"])


class Manager:
    """Hears what is said to NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(DEADLINE_SECONDS)

    def next(self) -> str:
        self.said.append(self._socket.recv(4096).decode())
        return self.said[-1]

    def until(self, start: str) -> str:
        """Listen until something that begins so is said."""
        while not self.next().startswith(start):
            pass
        return self.said[-1]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@PROCESSES
def test_ready_beats_and_stopping(daemon: StartDaemon, manager: Manager, processes: str) -> None:
    """Type=notify, WatchdogSec=: systemd knows when it takes messages, and that its loop turns."""
    watched = {**manager.environ, "WATCHDOG_USEC": "200000"}
    broker = daemon("--processes", processes, env=watched, start=False)
    process = broker.launch()
    assert manager.until("READY=1").startswith("READY=1\nSTATUS=the broker is ready")
    assert set(manager.said[:-1]) == {"EXTEND_TIMEOUT_USEC=20000000"}
    assert broker.request("POST", "/q/x?value=1").status == 200, "ready means ready"
    assert [manager.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
    process.send_signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    assert broker.wait() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_store_that_is_away_is_no_reason_to_be_killed(
    daemon: StartDaemon, manager: Manager, start_valkey: StartValkey, processes: str
) -> None:
    """The database host was rebooting, too: the unit is up, its status says what it waits for."""
    away = ValkeyServer()
    try:
        options = ("--redis-host", away.host, "--redis-port", str(away.port))
        broker = daemon(*options, "--processes", processes, env=manager.environ)
        assert "requests get 503" in manager.until("READY=1")
        away.start()
        broker.wait_for("/readyz")
        assert manager.until("STATUS=").startswith("STATUS=the broker is ready")
        assert broker.stop() == 0
    finally:
        away.close()


# -- socket activation ----------------------------------------------------------------------------

Process = subprocess.Popen[bytes]


@contextmanager
def running(folder: Path, command: Sequence[str | Path], **more: object) -> Iterator[Process]:
    """A process whose words go to ``folder/log``; it is ended here if it has not ended."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RESTMQ_")}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **more,  # type: ignore[call-overload]
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(DEADLINE_SECONDS)
    assert "Traceback" not in (folder / "log").read_text()


def ask(address: str | tuple[str, int], path: str, *, method: str = "GET") -> bytes:
    """One request on a connection of its own; everything that comes until the server closes."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect(address)
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        client.sendall(f"{request}Content-Length: 0\r\n\r\n".encode())
        parts = []
        while data := client.recv(65536):
            parts.append(data)
        return b"".join(parts)


@PROCESSES
def test_the_first_connection_starts_it(
    tool: Callable[[str], str], valkey: ValkeyServer, tmp_path: Path, processes: str
) -> None:
    """`systemctl start restmq.socket`: nothing runs until somebody comes."""
    port, path = free_port(), str(tmp_path / "http.sock")
    activate = [tool("systemd-socket-activate"), "-l", f"127.0.0.1:{port}", "-l", path]
    activate += [f"--setenv=PYTHONPATH={ROOT}"]
    daemon = [sys.executable, "-m", "restmq", "--redis-url", valkey.url, "--processes", processes]
    with running(tmp_path, [*activate, *daemon]) as process:
        wait_until(lambda: Path(path).exists(), "systemd-socket-activate listens")
        assert ask(("127.0.0.1", port), "/livez").startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: b" 200 " in ask(path, "/readyz"), "the store")
        assert b"\r\n\r\nx:1\r\n" in ask(path, "/q/x?value=hello", method="POST")
        assert b'"value": "hello"' in ask(("127.0.0.1", port), "/q/x")
        log = (tmp_path / "log").read_text()
        assert f"listening on 127.0.0.1:{port}" in log
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
    assert Path(path).exists(), "the path is systemd's: the next start listens on it again"


def hand_over(listening: socket.socket, *options: str) -> list[str]:
    """A command that makes the daemon find this socket where systemd puts one."""
    script = 'exec 3<&"$1"; export LISTEN_FDS=1 LISTEN_PID=$$; shift; exec "$@"'
    daemon = [sys.executable, "-m", "restmq", *options]
    return ["bash", "-c", script, "bash", str(listening.fileno()), *daemon]


@PROCESSES
def test_who_comes_during_a_restart_waits_and_is_served(
    valkey: ValkeyServer, tmp_path: Path, processes: str
) -> None:
    """A new version is installed, and no client sees a refused connection."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.set_inheritable(True)
        address = listening.getsockname()
        command = hand_over(listening, "--redis-url", valkey.url, "--processes", processes)
        with running(tmp_path, command, pass_fds=[listening.fileno()]) as process:
            assert b" 200 " in ask(address, "/livez")
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0
        with socket.create_connection(address, DEADLINE_SECONDS) as early:
            early.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with running(tmp_path, command, pass_fds=[listening.fileno()]):
                assert early.recv(100).startswith(b"HTTP/1.1 200 ")


def test_listen_says_more_than_a_passed_socket(valkey: ValkeyServer, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.set_inheritable(True)
        options = ("--redis-url", valkey.url, "--listen", f"tcp:{port}:interface=127.0.0.1")
        command = hand_over(listening, *options)
        with running(tmp_path, command, pass_fds=[listening.fileno()]):
            line = f"listening on 127.0.0.1:{port}"
            wait_until(lambda: line in (tmp_path / "log").read_text(), line)
            assert b" 200 " in ask(("127.0.0.1", port), "/livez")


def test_a_passed_socket_that_is_none_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.set_inheritable(True)
        with running(tmp_path, hand_over(deaf), pass_fds=[deaf.fileno()]) as process:
            assert process.wait(DEADLINE_SECONDS) == 1
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("restmq: sockets passed by systemd: number 3 is no listening stream")
