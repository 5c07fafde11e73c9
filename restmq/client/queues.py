"""Queues of a broker, over HTTP, with the standard library only.

A message is bytes and comes back as the very same bytes; text is sent as UTF-8. Errors are one
tree, so that a caller can tell what to do:

    ClientError
      BrokerUnavailable     nothing was done: no connection, or the broker has lost its store
      OutcomeUnknown        the request went out and no whole reply came: it may have been done
      TooSlow               a stream was silent for longer than it was allowed to be
      Refused               the broker said no, and why: status and reason
        NoAccess            401 or 403: another address or password is needed

Nothing is ever sent twice: a put that ended in OutcomeUnknown is the caller's to repeat or not,
and a get that did may have removed a message that nobody has now.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import re
import select
import socket
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

_READ_BYTES = 65536
_FORM = "application/x-www-form-urlencoded"


class ClientError(Exception):
    """The root: every error the client raises on purpose."""


class BrokerUnavailable(ClientError):
    """Nothing was done: the broker can't be reached, or says that its store can't be."""


class OutcomeUnknown(ClientError):
    """The request was sent and no whole reply came: it may have been carried out."""


class TooSlow(ClientError):
    """No message came on a stream within the time given. The stream is closed."""


class Refused(ClientError):
    """The broker refused the request; nothing was changed.

    ``status`` is the HTTP status, ``reason`` the broker's words.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class NoAccess(Refused):
    """This address or this password may not do that."""


class Message(NamedTuple):
    """A message as it was put: its queue, its number there, and its bytes."""

    queue: str
    id: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text; UnicodeDecodeError if it is not UTF-8."""
        return self.body.decode("utf-8")


class Queues:
    """The queues of the broker at ``base_url``, such as ``http://user:password@localhost:8888``.

    Keeps one connection open between calls, and opens another when the broker has closed it.
    Close it after use, or use it in a ``with``. Not for several threads at once: make one each.
    ``timeout_seconds`` is how long a single step of a call may take.
    """

    def __init__(self, base_url: str, *, timeout_seconds: float = 30.0) -> None:
        self._address = _Address(base_url)
        self._timeout_seconds = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A later call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def put(self, queue: str, body: str | bytes, *, ttl_seconds: int | None = None) -> int:
        """Add a message to the end of a queue and return its number there.

        When this returns, the message is in the store. After ``ttl_seconds`` it is no longer
        handed out.
        """
        raw = body.encode("utf-8") if isinstance(body, str) else body
        if not raw:
            return self._put_empty(queue, ttl_seconds)
        fields: dict[str, bytes | int] = {"value": raw}
        if ttl_seconds is not None:
            fields["ttl"] = ttl_seconds
        reply = self._ask("POST", _path("q", queue), urlencode(fields), _FORM)
        return _number(reply.decode("utf-8").rstrip("\r\n"))

    def _put_empty(self, queue: str, ttl_seconds: int | None) -> int:
        """A form counts a blank field as absent, so an empty message goes as a command."""
        if ttl_seconds is not None:
            raise ValueError("an empty message cannot have a time to live")
        return _number(self._command("add", queue, value="")["key"])

    def get(self, queue: str) -> Message | None:
        """Remove the oldest message and return it; None when there is none.

        At most once: a message whose reply is lost on the way is lost.
        """
        while reply := self._ask("GET", _path("q", queue), none_when={204, 404}):
            if message := _message(queue, json.loads(reply)):
                return message
        return None

    def take(self, queue: str) -> Message | None:
        """As ``get``, by POST: for ways with a cache or a proxy that may repeat a GET."""
        return self._first("take", queue)

    def peek(self, queue: str) -> Message | None:
        """The oldest message, which stays where it is; None when there is none or it expired."""
        found = self._command("get", queue)
        return None if "error" in found else _message(queue, found)

    def delete(self, queue: str, message_id: int) -> bool:
        """Delete one waiting message by its number; whether it was there."""
        found = self._command("del", queue, key=f"{queue}:{message_id}")
        return bool(found["deleted"])

    def purge(self, queue: str) -> bool:
        """Delete all waiting messages and end the queue's streams; whether there were any."""
        return bool(json.loads(self._ask("DELETE", _path("q", queue)))["status"])

    def length(self, queue: str) -> int:
        """How many messages wait; 0 for a queue nobody has used."""
        return int(json.loads(self._ask("GET", _path("stats", queue)))["len"])

    def stream(self, queue: str, *, silence_seconds: float | None = None) -> Stream:
        """Every message from now on, as it comes, on a connection of its own.

        What waits in the queue comes first. The request is sent at once, the reply is looked
        at by the first ``next``. See Stream for how it ends.
        """
        connection = self._address.connect(self._timeout_seconds)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with suppress(OSError):  # the first `next` finds out and says so
            path = self._address.prefix + _path("c", queue)
            connection.request("GET", path, headers=self._headers())
        connection.sock.settimeout(silence_seconds)
        return Stream(queue, connection)

    def _first(self, command: str, queue: str) -> Message | None:
        while "error" not in (found := self._command(command, queue)):
            if message := _message(queue, found):
                return message
        return None

    def _command(self, command: str, queue: str, **members: str) -> dict[str, Any]:
        """Send a command of the JSON protocol; an empty queue is a reply with ``error``."""
        body = json.dumps({"cmd": command, "queue": queue, **members})
        reply = self._ask("POST", "/queue", body, "application/json")
        found: dict[str, Any] = json.loads(reply)
        if "error" in found and found["error"] != "empty queue":
            raise Refused(200, str(found["error"]))
        return found

    def _ask(
        self,
        method: str,
        path: str,
        body: str | None = None,
        content_type: str | None = None,
        none_when: set[int] | frozenset[int] = frozenset(),
    ) -> bytes:
        """The body of a reply, or nothing when its status is one of ``none_when``."""
        connection = self._open()
        headers = self._headers() | ({"Content-Type": content_type} if content_type else {})
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                # A broker that won't read a body to its end has answered why, so look for that.
                connection.request(method, self._address.prefix + path, body, headers)
            response = connection.getresponse()
            reply = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OutcomeUnknown(f"{method} {path}: no whole reply came: {error!r}") from error
        if response.status in none_when:
            return b""
        _check(response, reply)
        return reply

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is not None and _has_ended(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._address.connect(self._timeout_seconds)
        return self._connection

    def _headers(self) -> dict[str, str]:
        return {"Accept": "application/json", **self._address.authorization}


class Stream(Iterator[Message]):
    """The messages of a queue as they come: ``for message in queues.stream("jobs"): ...``.

    Ends by itself when the queue is purged or the broker closes the reply. A connection that
    breaks raises BrokerUnavailable, one that stays silent too long TooSlow. Close it after use,
    or use it in a ``with``.
    """

    def __init__(self, queue: str, connection: http.client.HTTPConnection) -> None:
        self._queue = queue
        self._connection = connection
        self._messages = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except StopIteration:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise TooSlow(f"no message of {self._queue!r} came in time") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise BrokerUnavailable(f"the stream of {self._queue!r} broke: {error!r}") from error

    def close(self) -> None:
        """Leave: messages that come later go to other consumers, or wait."""
        self._messages.close()
        self._connection.close()

    def _read(self) -> Generator[Message]:
        with self._connection.getresponse() as response:
            if response.status != http.client.OK:
                _check(response, response.read())
            for line in _lines(response):
                if line == b"null":  # the queue was purged
                    return
                if message := _message(self._queue, json.loads(line)):
                    yield message


class _Address:
    """Where a broker is, taken apart once."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not the address of a broker: {base_url!r}; http://HOST:PORT is one")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self.prefix = parts.path.rstrip("/")
        self.authorization: dict[str, str] = {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = base64.b64encode(pair.encode("utf-8")).decode("ascii")
            self.authorization = {"Authorization": f"Basic {token}"}

    def connect(self, timeout_seconds: float) -> http.client.HTTPConnection:
        """An open connection, or BrokerUnavailable."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_seconds)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            where = f"{self._host}:{connection.port}"
            raise BrokerUnavailable(f"no connection to the broker at {where}: {error}") from error
        return connection


def _path(door: str, queue: str) -> str:
    return f"/{door}/{quote(queue, safe='')}"


def _number(key: str) -> int:
    return int(key.rpartition(":")[2])


def _message(queue: str, found: dict[str, Any]) -> Message | None:
    """The message in a reply, None if it had expired. Bytes that are no UTF-8 come as base64."""
    value = found["value"]
    if value is None:
        return None
    body = base64.b64decode(value) if found.get("encoding") == "base64" else value.encode("utf-8")
    return Message(queue, _number(found["key"]), body)


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the broker has closed a resting connection: only then is there something to read."""
    if connection.sock is None:
        return True
    return bool(select.select([connection.sock], [], [], 0)[0])


def _check(response: http.client.HTTPResponse, body: bytes) -> None:
    """Raise what a status that is no success means.

    A 503 that says when to try again was given before anything was done; another may have come
    from half-way, or from something between us and the broker.
    """
    status, words = response.status, _words(body) or response.reason
    if status == http.client.OK:
        return
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise NoAccess(status, words)
    if status == http.client.SERVICE_UNAVAILABLE:
        sure = response.getheader("Retry-After") is not None
        raise (BrokerUnavailable if sure else OutcomeUnknown)(words)
    raise Refused(status, words)


def _words(body: bytes) -> str:
    """Why, in the words of an error page: its paragraph, else all it says."""
    page = body.decode("utf-8", "replace")
    why = re.search(r"(?s)<p>(.*?)</p>", page) or re.search(r"(?s)<body>(.*?)</body>", page)
    return html.unescape(why[1] if why else page).strip()


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of a reply as they arrive, without their ends; empty ones are left out.

    ``readline`` would do, but it takes a connection that broke for the reply's end.
    """
    rest = b""
    while chunk := response.read1(_READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for text in lines if (line := text.rstrip(b"\r")))
