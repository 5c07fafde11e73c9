"""Sockets the daemon is handed: which are taken, and what they count as."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from restmq.passed import Passed, listening_there, passed_sockets
from restmq.rules.exposure import check_exposure
from restmq.settings import ConfigError, load

FIRST = 200
"""Descriptors that nothing in a test process holds."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def hand_over(stack: ExitStack, *sockets: socket.socket) -> dict[str, str]:
    for number, one in enumerate(sockets, FIRST):
        stack.enter_context(one)
        os.dup2(one.fileno(), number)
        stack.callback(closed, number)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}


def closed(number: int) -> None:
    with suppress(OSError):  # where a later set took the number, it is closed already
        os.close(number)


def listening(family: int, address: object) -> socket.socket:
    made = socket.socket(family)
    made.bind(address)  # type: ignore[arg-type]
    made.listen()
    return made


def test_each_kind_is_taken_with_its_address(stack: ExitStack, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    environ = hand_over(
        stack, listening(socket.AF_INET, ("127.0.0.1", 0)), listening(socket.AF_UNIX, path)
    )
    assert passed_sockets(environ, FIRST) == (
        Passed(FIRST, socket.AF_INET, "127.0.0.1"),
        Passed(FIRST + 1, socket.AF_UNIX, f"unix:{path}"),
    )
    assert not os.get_inheritable(FIRST), "the store must not hold the port"


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}])
def test_what_is_meant_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    assert passed_sockets(environ) == ()


def test_what_can_not_be_listened_on_is_refused(stack: ExitStack, tmp_path: Path) -> None:
    for wrong in (
        socket.socket(),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        listening(socket.AF_UNIX, "\0" + str(tmp_path)),
    ):
        environ = hand_over(stack, wrong)
        if wrong.family == socket.AF_UNIX and wrong.type == socket.SOCK_STREAM:
            assert passed_sockets(environ, FIRST)[0].place == f"unix:@{tmp_path}"
            continue
        with pytest.raises(ConfigError, match=f"number {FIRST} is no listening stream socket"):
            passed_sockets(environ, FIRST)
    with pytest.raises(ConfigError, match="number 900: Bad file descriptor"):
        passed_sockets({**environ, "LISTEN_FDS": "1"}, 900)
    with pytest.raises(ConfigError, match="LISTEN_FDS: 'some' is no number"):
        passed_sockets({**environ, "LISTEN_FDS": "some"})


def test_a_passed_socket_that_others_can_reach_needs_a_rule() -> None:
    """`ListenStream=8888` is every address: as open as `--listen ::`."""
    configuration = load({}, {}, Path.read_text)
    there = listening_there(configuration, (Passed(3, socket.AF_INET6, "::"),))
    with pytest.raises(ConfigError, match=r"listen \(sockets passed by systemd\): :: can be"):
        check_exposure(there, restricted=False)
    check_exposure(there, restricted=True)
    for place in ("127.0.0.1", "::1", "unix:/run/restmq.sock", "unix:@restmq"):
        here = listening_there(configuration, (Passed(3, socket.AF_INET, place),))
        check_exposure(here, restricted=False)
