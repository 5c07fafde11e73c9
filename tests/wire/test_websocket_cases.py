"""The table of ``websocket_cases``, played against the echo of ``/ws/NAME``."""

from __future__ import annotations

import socket

import pytest

from tests.wire.websocket_cases import CASES, MAX_MESSAGE, NORMAL, Case, goodbye, pieces
from tests.wire.websockets import Socket


def play(case: Case, client: Socket) -> None:
    """Write what the case says, and see what comes back, to the end of the connection."""
    for piece in pieces(case.sent, case.chop) if case.chop else [case.sent]:
        client.socket.sendall(piece)
    for expected in case.back:
        assert client.frame() == expected
    if case.code is None:
        client.socket.sendall(goodbye(NORMAL))
    assert client.close_code() == (case.code or NORMAL)
    if case.code is not None and not case.said_goodbye:
        client.socket.shutdown(socket.SHUT_WR)  # some stop in the middle of a frame: no goodbye
    assert client.is_over()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_an_endpoint_that_echoes(case, server, ws):
    play(case, ws("/ws/echo"))


def test_the_cases_have_different_names_and_the_limit_is_the_default(server):
    assert len({case.name for case in CASES}) == len(CASES)
    assert MAX_MESSAGE == 1048576
