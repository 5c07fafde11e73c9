"""Replies as values, and as the one bytes object that goes to the client."""

from __future__ import annotations

import html
import re
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from time import time
from typing import Final, NamedTuple

from restmq import __version__

HTML: Final = "text/html; charset=UTF-8"
JAVASCRIPT: Final = "application/javascript; charset=UTF-8"
NO_STORE: Final = ("Cache-Control", "no-store")
SERVER: Final = f"RestMQ/{__version__}"

_BODILESS: Final = frozenset((204, 304))
_FIELD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\x20-\x7e]*")


class Reply(NamedTuple):
    """What a handler answers; an immutable value.

    ``headers`` are sent besides Content-Length, Content-Type, Server, Date and Connection,
    which are added here. ``no_store`` adds ``Cache-Control: no-store``. ``wrap`` is what
    closes the call when JSONP wraps the body: ``callback(`` body without its line end ``wrap``;
    the historic routes differ in it. ``lines`` are header lines that differ from reply to reply,
    each with its CR LF; nobody checks them, so who makes them answers for every byte.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | bytes = HTML
    headers: tuple[tuple[str, str], ...] = ()
    wrap: str = ");\r\n"
    no_store: bool = False
    lines: bytes = b""


def error_reply(status: int, why: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """The error page: code and reason as the original wrote them, and why if that is known."""
    title = f"{status}: {responses.get(status, 'Unknown')}"
    more = f"<p>{html.escape(why)}</p>" if why else ""
    page = f"<html><title>{title}</title><body>{title}{more}</body></html>"
    return Reply(status, page.encode("utf-8", "replace"), HTML, headers)


def jsonp(reply: Reply, callback: str) -> Reply:
    """The same reply as a script that calls ``callback``, which is a valid identifier."""
    text = reply.body.removesuffix(b"\r\n")
    return reply._replace(
        body=b"%b(%b%b" % (callback.encode("ascii"), text, reply.wrap.encode("ascii")),
        content_type=JAVASCRIPT,
        headers=(*reply.headers, ("X-Content-Type-Options", "nosniff")),
    )


def encode(reply: Reply, connection: str = "", with_body: bool = True) -> bytes:
    """The whole response. ``connection`` is the Connection header, if one is to be sent.

    204 and 304 have no body and no length; without ``with_body`` (HEAD) only the length is
    told. Raises ValueError for a header that cannot be sent.
    """
    status, body, content_type, headers, _, no_store, lines = reply
    if no_store:
        headers = (*headers, NO_STORE)
    head = _head(status, content_type, headers, connection)
    if status in _BODILESS:
        return b"%b%b%b\r\n" % (head, date_line(), lines)
    return b"%b%b%bContent-Length: %d\r\n\r\n%b" % (
        head,
        date_line(),
        lines,
        len(body),
        body if with_body else b"",
    )


def encode_head(
    status: int,
    content_type: str | bytes,
    headers: tuple[tuple[str, str], ...],
    connection: str,
) -> bytes:
    """The head of a response whose body is streamed, up to the empty line and with it."""
    return b"%b%b\r\n" % (_head(status, content_type, headers, connection), date_line())


@lru_cache(maxsize=256)
def _head(
    status: int,
    content_type: str | bytes,
    headers: tuple[tuple[str, str], ...],
    connection: str,
) -> bytes:
    """Status line and header fields, without Date, Content-Length and the empty line."""
    if isinstance(content_type, bytes):
        content_type = content_type.decode("ascii")
    fields = [("Server", SERVER), *headers]
    if status not in _BODILESS:
        fields.insert(0, ("Content-Type", content_type))
    if connection:
        fields.append(("Connection", connection))
    lines = [f"{name}: {value}" for name, value in fields]
    for line in lines:
        if _FIELD.fullmatch(line) is None:
            raise ValueError(f"no header field: {line!r}")
    status_line = f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}"
    return "".join(f"{line}\r\n" for line in (status_line, *lines)).encode("ascii")


class _Date:
    """The Date header, made once a second."""

    second = 0
    line = b""


def date_line() -> bytes:
    """``Date: ...`` with its line end."""
    now = int(time())
    if now != _Date.second:
        _Date.second = now
        _Date.line = b"Date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")
    return _Date.line
