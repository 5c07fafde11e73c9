"""What ``/openapi.json`` says is so: schemathesis asks a daemon for whatever the document allows, and for what it does not.

No answer is a fault of ours (5xx), each has a status, a type and a body that the document knows, and bad
input is refused (4xx).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from restmq.web.application import ROUTES
from restmq.web.v1.openapi import document
from tests.support import Daemon

EXAMPLES = 6
"""Of what is allowed, and as many of what is not, for each call."""

TOO_LONG = (414, 431)
"""Said by the reader of heads, which knows no routes."""

load_all_checks()
CONFORMS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(document(ROUTES))
CALLS = [
    operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
    if not operation.definition.raw.get("x-endless")
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that waits for nothing long, whatever it is asked."""
    daemon = Daemon(tmp_path_factory.mktemp("fuzz"), ["--max-wait", "0.05"], {})
    try:
        yield daemon.start("/readyz")
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def has_rules(parameters: Any) -> bool:
    """A text of any kind is always right."""
    return any(set(each.definition["schema"]) - {"type", "minLength"} for each in parameters)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=str)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.label)
def test_each_answer_is_in_the_document(
    fuzzed: Daemon, session: requests.Session, call: Any, mode: GenerationMode
) -> None:
    checks = [*CONFORMS, negative_data_rejection] if mode.is_negative else CONFORMS
    if mode.is_negative and not (call.query or call.body or has_rules(call.path_parameters)):
        return  # there is nothing to get wrong

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=call.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        reply = case.call(base_url=fuzzed.url, session=session)
        if reply.status_code not in TOO_LONG:
            case.validate_response(reply, checks=checks)

    ask()


def test_the_daemon_gives_the_document_of_its_routes(fuzzed: Daemon) -> None:
    reply = fuzzed.request("GET", "/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body) == json.loads(json.dumps(document(ROUTES)))


def test_the_document_is_openapi_3_1(tmp_path: Path) -> None:
    """By the rules of the format itself, as schemathesis reads them."""
    SCHEMA.validate()
