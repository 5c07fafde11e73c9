"""The opening handshake of a WebSocket, read before anybody answers it (RFC 6455, section 4.2.1).

``read`` takes a request head to a ``Handshake`` or raises the ``Refusal`` that says what is wrong.
autobahn then sees ``Handshake.head()``: a head of our own that holds nothing it could refuse. Where
the client comes from (Origin, Host) and who it is was decided before, by the rules of every request.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from restmq.web.wire import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from restmq.web.wire import Head, Headers

VERSION: Final = "13"
UPGRADE_REQUIRED: Final = (
    ("Sec-WebSocket-Version", VERSION),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
)
"""What a 426 must say (RFC 6455, section 4.4; RFC 9110, section 15.5.22)."""

_CHARACTER: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_NAME: Final = re.compile(rf"{_CHARACTER}+")
_PARAMETER: Final = re.compile(
    rf'({_CHARACTER}++)(?:[ \t]*+=[ \t]*+(?:({_CHARACTER}++)|"((?:\\?+{_CHARACTER})++)"))?+'
)
_KEY: Final = re.compile(r"[0-9A-Za-z+/]{22}==")
_ESCAPE: Final = re.compile(r"\\(.)")


class Extension(NamedTuple):
    """One offer of ``Sec-WebSocket-Extensions``: its name, and what stands behind it, in order.

    A parameter without a value has None. Names are as sent: they are case-sensitive.
    """

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()


class Handshake(NamedTuple):
    """What a client asks for: the key to answer, and its offers in the order it prefers."""

    key: str
    protocols: tuple[str, ...] = ()
    extensions: tuple[Extension, ...] = ()

    def head(self) -> bytes:
        """A request head with this key and these subprotocols, no extension and nothing else."""
        lines = [
            "GET / HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Version: {VERSION}",
            f"Sec-WebSocket-Key: {self.key}",
        ]
        if self.protocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(self.protocols)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def is_upgrade(headers: Headers) -> bool:
    """Whether the request asks for a WebSocket at all."""
    return "websocket" in map(str.lower, _elements(headers, "upgrade"))


def read(head: Head) -> Handshake:
    """The handshake in the head of a GET that ``is_upgrade``.

    Raises Refusal: 426 with the version spoken here when it is not the client's, else 400.
    """
    headers = head.headers
    if not head.http_1_1:
        raise Refusal(400, "a WebSocket handshake needs HTTP/1.1")
    if "upgrade" not in map(str.lower, _elements(headers, "connection")):
        raise Refusal(400, "the Connection field must name Upgrade")
    if headers.get("sec-websocket-version") != VERSION:
        raise Refusal(426, f"the WebSocket version spoken here is {VERSION}", UPGRADE_REQUIRED)
    return Handshake(_key(headers), _protocols(headers), _extensions(headers))


def _elements(headers: Headers, name: str) -> Iterator[str]:
    """The elements of a field that is a list; empty ones do not count (RFC 9110, 5.6.1)."""
    stripped = (element.strip(" \t") for element in headers.get(name, "").split(","))
    return (element for element in stripped if element)


def _key(headers: Headers) -> str:
    key: str = headers.get("sec-websocket-key", "")
    if _KEY.fullmatch(key) is None:
        raise Refusal(400, "Sec-WebSocket-Key must be the base64 of 16 bytes, once")
    return key


def _protocols(headers: Headers) -> tuple[str, ...]:
    protocols = tuple(_elements(headers, "sec-websocket-protocol"))
    if not all(map(_NAME.fullmatch, protocols)) or len(set(protocols)) < len(protocols):
        raise Refusal(400, "Sec-WebSocket-Protocol must be a list of different names")
    return protocols


def _extensions(headers: Headers) -> tuple[Extension, ...]:
    """The offers (section 9.1); a value in quotation marks must be a token, too."""
    return tuple(map(_extension, _elements(headers, "sec-websocket-extensions")))


def _extension(text: str) -> Extension:
    name, *rest = (part.strip(" \t") for part in text.split(";"))
    parameters = [_PARAMETER.fullmatch(part) for part in rest]
    if _NAME.fullmatch(name) is None or None in parameters:
        raise Refusal(400, "Sec-WebSocket-Extensions is malformed")
    return Extension(name, tuple(_parameter(found) for found in parameters if found))


def _parameter(found: re.Match[str]) -> tuple[str, str | None]:
    name, plain, quoted = found.groups()
    return name, plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
