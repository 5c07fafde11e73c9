"""Listening sockets that the process was started with, as systemd's socket units pass them.

The protocol is that of sd_listen_fds(3): ``LISTEN_FDS`` counts the descriptors from 3 on, and
``LISTEN_PID`` says which process they are for. Twisted's own ``systemd:`` endpoints read the same
variables, but want each socket's kind and number spelt out, know no address to judge, and remove a
UNIX socket's path when they close it, which is systemd's to keep.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from restmq.settings import ConfigError, Configuration

FIRST = 3
SOURCE = "sockets passed by systemd"
_KINDS = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Passed(NamedTuple):
    """One listening socket; ``place`` is its address as ``--listen`` would have it."""

    descriptor: int
    family: socket.AddressFamily
    place: str


def first_environment() -> dict[str, str]:
    """The environment this process was started with.

    Twisted takes ``LISTEN_...`` out of ``os.environ`` as soon as it is imported, and loses count
    where the sockets have no names; the kernel shows what there was. Elsewhere no one passes any.
    """
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in block.split(b"\0"))
    return {name: value for name, _, value in pairs}


def passed_sockets(environ: Mapping[str, str], first: int = FIRST) -> tuple[Passed, ...]:
    """All sockets that are meant for this process; they are closed to its children from now on.

    Raises ConfigError when one of them is no listening stream socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        raise ConfigError(f"LISTEN_FDS: {count!r} is no number of sockets")
    return tuple(map(_look, range(first, first + int(count))))


def _look(descriptor: int) -> Passed:
    try:
        os.set_inheritable(descriptor, False)
        with socket.socket(fileno=os.dup(descriptor)) as found:
            listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and found.type == socket.SOCK_STREAM and found.family in _KINDS:
                return Passed(descriptor, socket.AddressFamily(found.family), _place(found))
    except OSError as error:
        raise ConfigError(f"{SOURCE}: number {descriptor}: {error.strerror}") from None
    raise ConfigError(
        f"{SOURCE}: number {descriptor} is no listening stream socket: "
        "its unit needs ListenStream=, and Accept=no"
    )


def _place(found: socket.socket) -> str:
    name = found.getsockname()
    if found.family == socket.AF_UNIX:
        return "unix:" + os.fsdecode(name).replace("\0", "@")
    return str(name[0])


def adopt(configuration: Configuration) -> tuple[Configuration, tuple[Passed, ...]]:
    """The sockets to listen on, and the configuration whose ``listen`` names them.

    There are none where nobody passed any, or where ``--listen`` says something else.
    """
    passed: tuple[Passed, ...] = ()
    if configuration.sources["listen"] == "default":
        passed = passed_sockets(first_environment())
    return (listening_there(configuration, passed) if passed else configuration), passed


def listening_there(configuration: Configuration, passed: tuple[Passed, ...]) -> Configuration:
    """The configuration with ``listen`` naming the passed sockets."""
    settings = replace(configuration.settings, listen=tuple(one.place for one in passed))
    return replace(
        configuration, settings=settings, sources={**configuration.sources, "listen": SOURCE}
    )
