"""cyclone.httpserver, for typing only: what handlers read of a request, and of its connection."""

from typing import Any, Protocol

from cyclone.httputil import HTTPHeaders
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport

class _Connection(Protocol):
    xheaders: bool
    no_keep_alive: bool
    @property
    def transport(self) -> ITransport: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def notifyFinish(self) -> Deferred[Any]: ...

class HTTPRequest:
    method: str
    uri: str
    path: str
    query: str
    version: str
    headers: HTTPHeaders
    body: bytes
    remote_ip: str
    protocol: str
    host: str
    arguments: dict[str, list[bytes]]
    files: dict[str, list[dict[str, Any]]]
    connection: _Connection
    def __init__(
        self,
        method: str,
        uri: str,
        version: str = ...,
        headers: HTTPHeaders | None = ...,
        body: bytes | None = ...,
        remote_ip: str | None = ...,
        protocol: str | None = ...,
        host: str | None = ...,
        files: dict[str, list[dict[str, Any]]] | None = ...,
        connection: _Connection | None = ...,
    ) -> None: ...
    def supports_http_1_1(self) -> bool: ...
    def write(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def full_url(self) -> str: ...
    def request_time(self) -> float: ...
    def notifyFinish(self) -> Deferred[Any]: ...
