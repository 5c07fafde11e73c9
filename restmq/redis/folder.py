"""The data folder of the embedded store: who may write there, and what lies there already.

::

    daemon.lock       held by the one daemon that uses the folder; its pid inside
    store.lock        held by the supervisor *and* by valkey-server, which inherits it: as long as
                      it is held, somebody may write to the append-only file
    server-version    the server that wrote the folder last: "valkey 9.1.2"
    server.json       the server started last: identity, socket, pid
    valkey.log        what the server said; the one before that is valkey.log.1
    appendonlydir/    the messages

Two servers in one folder append to one file without a word, so the lock must not end before the
last of them does; a lock on an open file, passed on, is the only thing that does not.

Plain blocking calls, standard library only: the supervisor uses it as well as the daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from restmq.redis.server import StoreUnusable, Version

SUN_PATH = 103
"""Longest path of a unix socket in bytes: 107 on Linux, 103 elsewhere."""

WAIT_SECONDS = 15.0
"""How long a start waits for the server of a daemon that died: ten until its supervisor kills it."""

_POLL_SECONDS = 0.05


class Started(NamedTuple):
    """A server that was started in the folder. Its identity is in its process title, too."""

    identity: str
    socket: str
    pid: int | None


def new_identity() -> str:
    """A name that no other start of a server ever had."""
    return f"restmq:{secrets.token_hex(8)}"


class DataFolder:
    """One data folder. Make it, ``claim`` it, ``release`` it."""

    def __init__(self, path: Path) -> None:
        """``path`` is absolute; nothing is touched yet."""
        self.path = path
        self.log = path / "valkey.log"
        self._claimed: int | None = None

    # -- the daemon's side --

    def claim(self, reader: Version, wait_seconds: float = WAIT_SECONDS) -> None:
        """Make the folder and take it for this daemon; end what a dead one left running.

        Blocks while such a server still writes. Raises StoreUnusable when another daemon has
        the folder, when it can't be used, or when ``reader`` could not read what is in it.
        """
        try:
            self._make()
            self._claimed = self._claim()
            self.check_readable(reader)
            os.close(self.take_store_lock(wait_seconds))
            self._sweep()
        except OSError as error:
            self.release()
            raise self._unusable(f"{error.strerror} ({error.filename or self.path})") from None
        except StoreUnusable:
            self.release()
            raise

    def release(self) -> None:
        """Give the folder back."""
        if self._claimed is not None:
            os.close(self._claimed)
            self._claimed = None

    @property
    def claimed(self) -> bool:
        """Whether this object holds the folder."""
        return self._claimed is not None

    def sign(self) -> None:
        """Write this process's pid into the lock file (again, once twistd has forked)."""
        if self._claimed is not None:
            os.ftruncate(self._claimed, 0)
            os.pwrite(self._claimed, f"{os.getpid()}\n".encode(), 0)

    def _make(self) -> None:
        """The folder, closed to others. One that is open is closed only if it is ours or empty."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077 == 0:
            return
        if not (self.path / "daemon.lock").exists() and any(self.path.iterdir()):
            raise self._unusable(
                "it is open to other users and other things lie in it: give a folder of its own"
            )
        self.path.chmod(0o700)

    def _claim(self) -> int:
        descriptor = os.open(self.path / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(descriptor):
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise self._unusable(
                f"the broker with pid {pid or 'unknown'} uses it: stop that one, "
                "or give this one another --data-dir"
            )
        self._claimed = descriptor
        self.sign()
        return descriptor

    def check_readable(self, reader: Version) -> None:
        """Raise StoreUnusable if that server can't read what is in the folder."""
        try:
            text = (self.path / "server-version").read_text("utf-8")
        except FileNotFoundError:
            return
        writer = Version.parse(text)
        if writer is None:
            raise self._unusable(
                f"its file server-version says {text.strip()[:40]!r}, "
                'not which server wrote the folder, such as "valkey 9.1.2"'
            )
        if not reader.reads(writer):
            raise self._unusable(
                f"{writer} wrote it, which {reader} can't read: "
                f"install {writer.family} {writer.numbers[0]}.{writer.numbers[1]} or later, "
                "or give another --data-dir"
            )

    def _sweep(self) -> None:
        """Remove the sockets of servers that have ended. Only while nobody else is here."""
        for left in self.path.glob("*.sock"):
            left.unlink()
        started = self.started()
        if started is not None:
            remove_socket(started.socket)

    def socket_path(self) -> str:
        """A fresh path for a socket: in the folder, or in a private one if that is too long."""
        name = f"{secrets.token_hex(4)}.sock"
        path = str(self.path / name)
        if len(os.fsencode(path)) <= SUN_PATH:
            return path
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if not (os.path.isdir(base) and os.access(base, os.W_OK)) or len(base) > 60:  # noqa: PTH112
            base = "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
        return f"{tempfile.mkdtemp(prefix=_PRIVATE, dir=base)}/{name}"

    # -- the supervisor's side --

    def take_store_lock(self, wait_seconds: float = WAIT_SECONDS) -> int:
        """The descriptor of the store's lock, once no server writes in the folder any more.

        A server recorded here that answers under its identity has lost its daemon: it is told
        to shut down. Raises StoreUnusable if one holds the folder longer than we wait.
        """
        descriptor = os.open(self.path / "store.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_seconds
        asked = None
        while not _lock(descriptor):
            started = self.started()
            if started is not None and started != asked and shut_down(started):
                asked = started
            if time.monotonic() > deadline:
                os.close(descriptor)
                pid = started.pid if started and started.pid else "unknown"
                raise self._unusable(
                    f"the server with pid {pid} still writes in it and does not end: "
                    "stop it and start again"
                )
            time.sleep(_POLL_SECONDS)
        return descriptor

    def started(self) -> Started | None:
        """The server started last, or None if none was or nobody can tell."""
        try:
            record = json.loads((self.path / "server.json").read_text("utf-8"))
            return Started(record["identity"], record["socket"], record["pid"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def record(self, started: Started) -> None:
        """Note the server that is being started."""
        self._write("server.json", json.dumps(started._asdict()) + "\n")

    def record_version(self, version: Version) -> None:
        """Note which server writes here from now on."""
        self._write("server-version", f"{version}\n")

    def _write(self, name: str, text: str) -> None:
        draft = self.path / f"{name}.new"
        draft.write_text(text, "utf-8")
        draft.replace(self.path / name)

    def _unusable(self, reason: str) -> StoreUnusable:
        return StoreUnusable(f"data-dir {self.path}: {reason}")


_PRIVATE = "restmq-"


def remove_socket(path: str) -> None:
    """Remove a socket that nobody answers on, and the private folder if one was made for it."""
    with contextlib.suppress(OSError):
        Path(path).unlink()
    folder = Path(path).parent
    if folder.name.startswith(_PRIVATE):
        with contextlib.suppress(OSError):
            folder.rmdir()


def shut_down(started: Started) -> bool:
    """Tell that very server to end, with all it was given on disk; whether it was told."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(started.socket)
            client.sendall(b"CONFIG GET proc-title-template\r\n")
            answer = client.recv(4096)
            while answer and answer.count(b"\r\n") < 5 and not answer.startswith(b"-"):
                answer += client.recv(4096)
            if started.identity.encode() not in answer:
                return False
            client.sendall(b"SHUTDOWN\r\n")
            return True
    except OSError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
