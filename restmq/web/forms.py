"""Parameters out of query strings and form bodies: bytes in, bytes out.

``&`` separates parameters, and so does ``;``, as the original had it. A blank value counts as
no value; of several the last wins. What is decoded is exact: no byte is cleaned up here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from restmq.errors import BadRequest

MAX_FIELDS: Final = 1000
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"

_BOUNDARY: Final = re.compile(r';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME: Final = re.compile(rb';[ \t]*name=(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE)


def urlencoded(data: bytes) -> dict[bytes, bytes]:
    """The fields of a query string or of an ``application/x-www-form-urlencoded`` body.

    Raises BadRequest when there are more than MAX_FIELDS.
    """
    if b";" in data:
        data = data.replace(b";", b"&")
    pairs = data.split(b"&", MAX_FIELDS)
    if len(pairs) > MAX_FIELDS:
        raise BadRequest(f"a form has at most {MAX_FIELDS} fields")
    fields = {}
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        if value:
            fields[_decoded(name)] = _decoded(value)
    return fields


def _decoded(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def body_fields(content_type: str, body: bytes) -> Mapping[bytes, bytes]:
    """The fields of a form body of either type; none of any other. Raises BadRequest."""
    if content_type == FORM:
        return urlencoded(body)
    kind = content_type[:64].partition(";")[0].strip().lower()
    if kind == FORM:
        return urlencoded(body)
    return _multipart(content_type, body) if kind == MULTIPART else {}


def _multipart(content_type: str, body: bytes) -> dict[bytes, bytes]:
    """The fields of a ``multipart/form-data`` body (RFC 7578); a file is a field like others."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise BadRequest("multipart/form-data needs a boundary")
    line = b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1")
    parts = (b"\r\n" + body).split(line, MAX_FIELDS + 2)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise BadRequest("the multipart/form-data body has no end, or too many fields")
    fields = {}
    for part in parts[1:-1]:
        head, end, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not end or name is None:
            raise BadRequest("a part of the multipart/form-data body has no name")
        if value:
            fields[name[1] or name[2] or b""] = value
    return fields
