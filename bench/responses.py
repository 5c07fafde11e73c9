"""The little of HTTP/1.1 that a load generator needs: where a response ends. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked *\r\n", re.IGNORECASE)


class Response(NamedTuple):
    """A response at the front of some bytes: its status, and where the next one begins."""

    status: int
    end: int


def response(data: bytes) -> Response | None:
    """The response these bytes begin with; None while it is not complete.

    Without a length it is taken to have no body. Raises ValueError for what is no response,
    and for a chunked body: a server that is measured says how long its short replies are.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    end += 4
    if not data.startswith(b"HTTP/1."):
        raise ValueError(f"no HTTP response: {data[:40]!r}")
    found = _LENGTH.search(data, 0, end)
    if found is not None:
        end += int(found[1])
    elif _CHUNKED.search(data, 0, end):
        raise ValueError("a chunked reply where one with a length was expected")
    return Response(int(data[9:12]), end) if len(data) >= end else None


def request(
    method: str, path: str, body: bytes = b"", content_type: str = "", more: str = ""
) -> bytes:
    """A request as bytes; ``more`` is further header lines, each with its end."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}"
    if body or method == "POST":
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode("ascii") + body
