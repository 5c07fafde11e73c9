"""What a call takes and gives, said beside its handler: the words of ``/openapi.json``.

    @endpoint(Access.PRODUCER)
    @describe(query={"ttl": SECONDS}, body=MESSAGE_BODY, replies={201: record(queue=NAME, id=ID)})
    def post(self, queue: str) -> ...:
        \"\"\"The first paragraph of the docstring is the summary.\"\"\"

A schema is a dict of JSON Schema 2020-12, as OpenAPI 3.1 has it. What every call has needs no word:
the path's parameters (the names of the method's own), the problem document for every error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

Schema = Mapping[str, Any]
_Method = TypeVar("_Method", bound=Callable[..., Any])

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

STRING: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
ID: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {}
NAME: Final[Schema] = {"$ref": "#/components/schemas/QueueName"}
RECEIPT: Final[Schema] = {"type": "string"}
CURSOR: Final[Schema] = {"type": ["string", "null"]}


def record(members: Mapping[str, Schema] | None = None, /, **more: Schema) -> Schema:
    """An object with these members and no others; one whose name ends with ``?`` may be missing.

    Members that begin with ``_`` are always allowed, and nobody reads them.
    """
    together = {**(members or {}), **more}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name.removesuffix("?"): each for name, each in together.items()},
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
    }
    required = [name for name in together if not name.endswith("?")]
    return schema | ({"required": required} if required else {})


def items(schema: Schema, least: int = 0, most: int | None = None) -> Schema:
    """A list of such."""
    bounds = {"minItems": least} if least else {}
    return {
        "type": "array",
        "items": schema,
        **bounds,
        **({} if most is None else {"maxItems": most}),
    }


def words(*choices: str) -> Schema:
    """One of these strings."""
    return {"type": "string", "enum": list(choices)}


def whole(least: int, most: int) -> Schema:
    """A whole number within these bounds."""
    return {"type": "integer", "minimum": least, "maximum": most}


def seconds(least: float, most: float) -> Schema:
    """A number of seconds within these bounds."""
    return {"type": "number", "minimum": least, "maximum": most}


class Content(NamedTuple):
    """A body that is not JSON, or not only."""

    types: Sequence[str]
    schema: Schema = STRING


class Description(NamedTuple):
    """What ``/openapi.json`` says of one call."""

    path: Mapping[str, Schema]
    query: Mapping[str, Schema]
    headers: Mapping[str, Schema]
    body: Schema | Content | None
    replies: Mapping[int, Schema | Content | None]
    endless: bool


NOTHING: Final[Mapping[str, Schema]] = MappingProxyType({})
DONE: Final[Mapping[int, None]] = MappingProxyType({200: None})


def describe(
    *,
    path: Mapping[str, Schema] = NOTHING,
    query: Mapping[str, Schema] = NOTHING,
    headers: Mapping[str, Schema] = NOTHING,
    fields: Mapping[str, Schema] = NOTHING,
    body: Schema | Content | None = None,
    replies: Mapping[int, Schema | Content | None] = DONE,
    endless: bool = False,
) -> Callable[[_Method], _Method]:
    """Say what a method of an Endpoint takes and gives.

    ``path`` has those parameters of the path that are not any text. ``query`` and ``headers`` are optional parameters (a list: may be repeated). ``fields`` may stand in the query
    or in the object of the body. ``replies`` has the body for each status that is no error, None
    where there is none. ``endless``: the reply is a stream.
    """
    if fields:
        body = body or record({f"{name}?": schema for name, schema in fields.items()})
        query = {**query, **fields}

    def decorate(method: _Method) -> _Method:
        description = Description(path, query, headers, body, replies, endless)
        method.description = description  # type: ignore[attr-defined]
        return method

    return decorate


MESSAGE_BODY: Final = Content((JSON, "text/plain", "application/octet-stream"), ANYTHING)
"""The body of a message: any bytes of any type."""
