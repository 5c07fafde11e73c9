"""Stores for a program that is no daemon: the embedded one, and a private one on an RDB file.

Both are context managers that give an address and leave nothing running that was not running before.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restmq.errors import StoreError
from restmq.redis.blocking import BlockingConnection
from restmq.redis.embedded import environment, supervised, under_supervisor
from restmq.redis.folder import DataFolder, new_identity, remove_socket
from restmq.redis.server import StoreUnusable, find_server
from restmq.store_address import StoreAddress

STOP_SECONDS = 15.0
_HEAD_BYTES = 512


@contextmanager
def embedded_store(data_dir: Path, appendfsync: str) -> Iterator[StoreAddress]:
    """The store in this folder: that of the daemon that runs there, else started for the while.

    Raises StoreUnusable when it can't be used.
    """
    folder = DataFolder(data_dir)
    running = _running(folder)
    if running is not None:
        yield running
        return
    server = find_server()
    folder.claim(server.version)
    try:
        path = folder.socket_path()
        complaint = f"{server.version} does not start in data-dir {folder.path}"
        with _running_under(supervised(server, folder.path, path, appendfsync), complaint):
            yield StoreAddress(path=path)
        remove_socket(path)
    finally:
        folder.release()


def _running(folder: DataFolder) -> StoreAddress | None:
    """Where the store of a living daemon answers, under the identity noted in the folder."""
    started = folder.started()
    if started is None:
        return None
    address = StoreAddress(path=started.socket)
    try:
        with BlockingConnection(address) as connection:
            title = connection.ask(b"CONFIG", b"GET", b"proc-title-template")
    except StoreError:
        return None
    return address if started.identity.encode() in b" ".join(title) else None


@contextmanager
def _running_under(words: list[str], complaint: str) -> Iterator[None]:
    """A supervisor and its server, for the while; both end with this process, however it ends."""
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline().decode("utf-8", "replace").strip()
        if not said.startswith("ready "):
            raise StoreUnusable(f"{complaint}: {said.removeprefix('ended ') or 'it said nothing'}")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def store_on_copy(rdb: Path) -> Iterator[StoreAddress]:
    """A private server that has loaded a copy of an RDB file; both are gone afterwards.

    Raises StoreUnusable when the file is none or the server can't read it.
    """
    _check_rdb(rdb)
    server = find_server()
    with tempfile.TemporaryDirectory(prefix="restmq-") as name:
        folder = Path(name)
        try:
            shutil.copyfile(rdb, folder / "dump.rdb")
        except OSError as error:
            raise StoreUnusable(f"no room for a copy of {rdb} in {folder}: {error}") from error
        path = str(folder / "s")
        options = {
            "port": "0",
            "unixsocket": path,
            "unixsocketperm": "700",
            "dir": name,
            "dbfilename": "dump.rdb",
            "save": "",
            "appendonly": "no",
            "databases": "1024",
        }
        run = [word for option, value in options.items() for word in (f"--{option}", value)]
        words = under_supervisor(server, folder, path, new_identity(), [server.path, *run])
        with _running_under(words, f"{server.version} can't read {rdb}"):
            yield StoreAddress(path=path)


def _check_rdb(rdb: Path) -> None:
    try:
        with rdb.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise StoreUnusable(f"can't read {rdb}: {error.strerror or error}") from error
    if not head.startswith((b"REDIS", b"VALKEY")):
        raise StoreUnusable(f"{rdb} is no RDB file: such a file begins with REDIS")
    if any(mark + b"\xc0\x01" in head for mark in (b"aof-preamble", b"aof-base")):
        raise StoreUnusable(
            f"{rdb} is an append-only file, whose end would be lost: "
            "save an RDB file (redis-cli --rdb), or give the address of its server"
        )
