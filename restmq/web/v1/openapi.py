"""``/openapi.json``: the calls of ``/v1`` and of health in OpenAPI 3.1, made of the route table.

What stands beside each handler (`restmq.web.describe`) is put together with the patterns of the
routes; the historic routes are in docs/protocol.md only.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from restmq import __version__
from restmq.rules.queue_settings import DEAD
from restmq.web.describe import (
    ID,
    JSON,
    PROBLEM,
    STRING,
    Content,
    Description,
    Schema,
    describe,
    record,
)
from restmq.web.endpoint import Access, Endpoint, Operation, Reply, endpoint
from restmq.web.v1.endpoint import MAX_NAME_BYTES, V1Endpoint

COVERED: Final = re.compile(r"/(?:v1/|livez|readyz|health|openapi|errors/)")
"""The routes the document is about, by how their patterns begin."""

UNNAMED: Final = "()"
"""In a pattern: the queue is not in the path, but a parameter of the query or the body."""
_GROUP: Final = re.compile(r"\([^()]*\)")

SCHEMAS: Final[Mapping[str, Schema]] = {
    "QueueName": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_NAME_BYTES + len(DEAD),
        "description": "at most 255 bytes, not counting .dead at its end, no control characters, no empty, . or .. segment",
    },
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "properties": {
            "type": {"type": "string", "description": "a page with cause and cure"},
            "title": STRING,
            "status": {"type": "integer"},
            "code": {"type": "string", "description": "the error in one word, as /errors/ has it"},
            "detail": STRING,
            "errors": {
                "type": "array",
                "items": record({"pointer?": STRING, "parameter?": STRING}, detail=STRING),
            },
            "line": {"type": "integer", "description": "of an ndjson body, from 1"},
            "request_id": STRING,
        },
    },
}
SUMMARIES: Final = {200: "done", 201: "made", 204: "done, and nothing to tell"}


class Call(NamedTuple):
    """A method of a route that the document is about."""

    pattern: str
    method: str
    operation: Operation

    @property
    def description(self) -> Description | None:
        """What stands beside the handler."""
        found: Description | None = getattr(self.operation.function, "description", None)
        return found

    @property
    def names(self) -> list[str]:
        """What the path's parameters are called: as in the handler."""
        return list(inspect.signature(self.operation.function).parameters)[1:]

    @property
    def path(self) -> str:
        """The path with its parameters in braces."""
        names = iter(self.names)

        def spelt(group: re.Match[str]) -> str:
            name = next(names)
            return "" if group[0] == UNNAMED else f"{{{name}}}"

        return _GROUP.sub(spelt, self.pattern).replace("\\", "")


def calls(routes: Iterable[tuple[Any, ...]]) -> Iterator[Call]:
    """Every call of these routes that the document is about. HEAD goes without saying."""
    for pattern, handler, *_ in routes:
        if COVERED.match(pattern) and issubclass(handler, Endpoint):
            for method, operation in handler.operations.items():
                if method != "HEAD":
                    yield Call(pattern, method, operation)


def document(routes: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """The OpenAPI document of these routes; a call without a description is left out."""
    paths: dict[str, dict[str, Any]] = {}
    for call in calls(routes):
        if call.description is not None:
            paths.setdefault(call.path, {})[call.method.lower()] = _operation(
                call, call.description
            )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "RestMQ",
            "version": __version__,
            "description": "A small message broker. Parameters that begin with _ are ignored; errors are problem documents (RFC 9457).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _operation(call: Call, description: Description) -> dict[str, Any]:
    summary = (inspect.getdoc(call.operation.function) or "").split("\n\n")[0]
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{call.method.lower()}{call.path}").strip("_"),
        "summary": " ".join(summary.split()).rstrip("."),
        "responses": _responses(description),
    }
    parameters = [
        *(
            {
                "name": n,
                "in": "path",
                "required": True,
                "schema": description.path.get(n) or _path(n),
            }
            for n in call.names
            if f"{{{n}}}" in call.path
        ),
        *(
            {"name": n, "in": "query", "schema": _path(n)}
            for n in call.names
            if f"{{{n}}}" not in call.path
        ),
        *({"name": n, "in": "query", "schema": s} for n, s in description.query.items()),
        *({"name": n, "in": "header", "schema": s} for n, s in description.headers.items()),
    ]
    if parameters:
        found["parameters"] = parameters
    if description.body is not None:
        found["requestBody"] = {"content": _content(description.body)}
    if call.operation.access != (Access.NONE,):
        found["security"] = [{}, {"basic": []}]
    if description.endless:
        found["x-endless"] = True
    return found


def _path(name: str) -> Schema:
    if name == "queue":
        return {"$ref": "#/components/schemas/QueueName"}
    if name == "id":
        return ID
    return {"type": "string", "minLength": 1}


def _content(body: Schema | Content) -> dict[str, Any]:
    content = body if isinstance(body, Content) else Content((JSON,), body)
    return {each: {"schema": content.schema} for each in content.types}


def _responses(description: Description) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, body in description.replies.items():
        found[str(status)] = {"description": SUMMARIES.get(status, "see docs/")}
        if body is not None:
            found[str(status)]["content"] = _content(body)
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    found["default"] = {"description": "a problem", "content": {PROBLEM: problem}}
    return found


class OpenApi(V1Endpoint):
    """``/openapi.json``."""

    @endpoint(Access.NONE)
    @describe(replies={200: {"type": "object"}})
    def get(self) -> Reply:
        """This document."""
        self.query(())
        return self.json(document(self.application.routes))
