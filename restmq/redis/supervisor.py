"""A small process between the daemon and its valkey-server, so that neither outlives the other.

    python -m restmq.redis.supervisor DATA_DIR IDENTITY SOCKET VERSION COMMAND...

It takes the store's lock, starts the server with that lock inherited, and waits. Its standard input
is a pipe that the daemon holds: when that ends, because the daemon closed it or was killed, the
server gets SIGTERM, and SIGKILL ten seconds later. There is no other way to end it: signals that
a terminal or an init system sends to everybody are left to the daemon, which stops the store last.

On standard output it tells the daemon, a line each::

    ready PID          the server answers
    ended WORDS        it has ended; the words are its own last ones, or why it was never started
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from restmq.redis.folder import DataFolder, Started
from restmq.redis.server import StoreUnusable, Version

GRACE_SECONDS = 10.0
LOG_BYTES = 1 << 20
"""A log longer than this makes room for a new one at the next start."""


def main(arguments: list[str]) -> int:
    """Run one server until it or the daemon ends; the exit code is 0 if it was told to end."""
    os.umask(0o077)
    os.setsid()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _heedless)
    data_dir, identity, socket_path, version, *command = arguments
    folder = DataFolder(Path(data_dir))
    daemon = _Daemon()
    try:
        lock = folder.take_store_lock()
        with _log(folder.log) as log:
            begin = log.seek(0, os.SEEK_END)
            folder.record(Started(identity, socket_path, None))
            server = daemon.start(command, lock, log)
        folder.record(Started(identity, socket_path, server.pid))
        _announce(server, socket_path, folder, version)
        status = server.wait()
        if daemon.gone and status == 0:
            return 0
        _tell(f"ended {_status(status)}: {last_words(folder.log, begin)}")
    except (OSError, StoreUnusable) as error:
        _tell(f"ended {error}")
    return 1


def _heedless(_number: int, _frame: object) -> None:
    """Do nothing. Unlike SIG_IGN, a handler is not inherited by the server."""


class _Daemon:
    """The daemon, at the other end of standard input: when that ends, so must the server."""

    def __init__(self) -> None:
        """Begin to watch."""
        self.gone = False
        self._starting = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self, command: list[str], lock: int, log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start the server, which inherits the lock."""
        with self._starting:
            self._server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock]
            )
            return self._server

    def _watch(self) -> None:
        while os.read(0, 4096):
            pass
        with self._starting:
            self.gone = True
            server = self._server
        if server is None:
            os._exit(0)
        server.terminate()
        try:
            server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _announce(
    server: subprocess.Popen[bytes], socket_path: str, folder: DataFolder, version: str
) -> None:
    """Wait until the server answers (it may load for minutes) or has ended."""
    pause = 0.01
    while server.poll() is None:
        if _answers(socket_path):
            writer = Version.parse(version)
            if writer is not None:
                folder.record_version(writer)
            _tell(f"ready {server.pid}")
            return
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def _answers(socket_path: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(socket_path)
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _log(path: Path) -> BinaryIO:
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


def _status(status: int) -> str:
    return f"exit code {status}" if status >= 0 else f"signal {-status}"


_LINE = re.compile(r"\d+:[A-Za-z-]+ .*?\d\d:\d\d:\d\d\.\d+ ([.*#-]) (.*)")


def last_words(log: Path, begin: int) -> str:
    """The last warning a server wrote behind that place of the log, else its last line."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read(1 << 20).decode("utf-8", "replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    found = [match for match in map(_LINE.fullmatch, said) if match]
    warnings = [match[2] for match in found if match[1] == "#" and "overcommit" not in match[2]]
    words = warnings[-1:] or [match[2] for match in found[-1:]] or said[-1:]
    return words[0][:300] if words else "it said nothing"


def _tell(line: str) -> None:
    """Write a line to the daemon, if it is still there."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (" ".join(line.split()) + "\n").encode("utf-8", "replace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
