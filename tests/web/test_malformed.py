"""Every malformed request gets one answer that names the fault, and harms nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web.malformed import CASES, Case, is_good, play
from tests.web.toy import ToyServer, post


@pytest.fixture(scope="module")
def server() -> Iterator[ToyServer]:
    with ToyServer() as toy:
        yield toy


def test_there_is_a_case_for_every_rule() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_request_is_refused_and_the_next_one_works(
    server: ToyServer, case: Case
) -> None:
    outcome = play("127.0.0.1", server.port, case)
    assert is_good(case, outcome), (case, outcome)
    with server.connect() as client:
        client.send(post("/q/good", b"value=yes"))
        assert client.response()[::2] == (200, b"good=yes\r\n")
    assert server.failures == []
