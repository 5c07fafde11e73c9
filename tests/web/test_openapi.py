"""``/openapi.json`` says what the route table does, no more and no less."""

from __future__ import annotations

import json
import re

import pytest

from restmq.web.application import ROUTES
from restmq.web.describe import record, whole
from restmq.web.endpoint import Endpoint
from restmq.web.v1.openapi import COVERED, Call, calls, document

DOCUMENT = document(ROUTES)
CALLS = list(calls(ROUTES))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_every_call_is_described_beside_its_handler(call: Call) -> None:
    assert call.description is not None, "say what it takes and gives: restmq/web/describe.py"
    operation = DOCUMENT["paths"][call.path][call.method.lower()]
    assert operation["summary"], "its docstring is the summary"


def test_every_described_call_is_in_the_route_table() -> None:
    there = {(call.path, call.method.lower()) for call in CALLS}
    told = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert told == there
    described = [
        pattern
        for pattern, handler, *_ in ROUTES
        if issubclass(handler, Endpoint)
        for operation in handler.operations.values()
        if hasattr(operation.function, "description") and not pattern.startswith("/sse/")
    ]
    assert all(COVERED.match(pattern) for pattern in described)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_a_path_leads_to_its_own_route(call: Call) -> None:
    """With a word for each parameter the first pattern that matches is the one described."""
    path = re.sub(r"\{[^}]*\}", "w", call.path)
    first = next(
        handler.operations[call.method]
        for pattern, handler, *_ in ROUTES
        if re.fullmatch(pattern, path) and call.method in getattr(handler, "operations", {})
    )
    assert first is call.operation


def test_operations_have_names_of_their_own() -> None:
    names = [op["operationId"] for methods in DOCUMENT["paths"].values() for op in methods.values()]
    assert len(set(names)) == len(names)


def test_every_schema_that_is_referred_to_is_there() -> None:
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert named <= set(DOCUMENT["components"]["schemas"])


def test_a_record_is_strict_and_its_question_marks_are_optional() -> None:
    assert record({"b?": whole(1, 2)}, a=whole(0, 1)) == {
        "type": "object",
        "properties": {
            "b": {"type": "integer", "minimum": 1, "maximum": 2},
            "a": {"type": "integer", "minimum": 0, "maximum": 1},
        },
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
        "required": ["a"],
    }
