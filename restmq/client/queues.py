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
and a get that did may have removed a message that nobody has now. With a ``key`` a put may be repeated
until it succeeds: the message is in the queue once.

For work that must not be lost: `Queues.receive` hands messages out for a time, and each is there until
`Queues.ack`. A queue that is made by `Queues.batch`, or by a put with more than a ttl, is for that alone:
``get``, ``take`` and ``stream`` are refused there.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import re
import select
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

_READ_BYTES = 65536
_FORM = "application/x-www-form-urlencoded"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


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


class Leased(NamedTuple):
    """A message that is in our hands until ``lease_until``; give it, or its receipt, to ``ack``.

    ``attempt`` counts how often it was handed out, from 1; ``error`` is the reason of the last nack.
    A JSON body is equal to what was put; every other is the same to the byte. Times are RFC 3339.
    """

    queue: str
    id: int
    body: bytes
    content_type: str
    headers: Mapping[str, str]
    priority: int
    created_at: str
    attempt: int
    receipt: str
    lease_until: str
    error: str = ""

    @property
    def text(self) -> str:
        """The body as text; UnicodeDecodeError if it is not UTF-8."""
        return self.body.decode("utf-8")

    @property
    def json(self) -> Any:
        """The value of a JSON body; ValueError if it is none."""
        return json.loads(self.body)


_TAKEN = frozenset(Leased._fields) - {"body"}


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

    def put(
        self,
        queue: str,
        body: str | bytes,
        *,
        ttl_seconds: float | None = None,
        delay_seconds: float | None = None,
        priority: int | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> int:
        """Add a message to the end of a queue and return its number there.

        When this returns, the message is in the store. After ``ttl_seconds`` it is no longer
        handed out; before ``delay_seconds`` not yet. ``priority`` is 0 to 9, in queues that have
        priorities. ``content_type`` and ``headers`` come out with it. A second put under the same
        ``key`` is the first one again, and returns its number.
        """
        raw = body.encode("utf-8") if isinstance(body, str) else body
        options = {"ttl": ttl_seconds, "delay": delay_seconds, "priority": priority}
        fields = {f"RestMQ-Header-{name}": value for name, value in (headers or {}).items()}
        if key is not None:
            fields["Idempotency-Key"] = key
        if fields or content_type or delay_seconds is not None or priority is not None:
            fields["Content-Type"] = content_type or "text/plain"
            query = urlencode({n: _plain(v) for n, v in options.items() if v is not None})
            path = f"{_v1(queue)}/messages?{query}"
            return int(json.loads(self._ask("POST", path, raw, fields))["id"])
        if not raw:
            return self._put_empty(queue, ttl_seconds)
        form: dict[str, bytes | str] = {"value": raw}
        if ttl_seconds is not None:
            form["ttl"] = _plain(ttl_seconds)
        reply = self._ask("POST", _path("q", queue), urlencode(form), {"Content-Type": _FORM})
        return _number(reply.decode("utf-8").rstrip("\r\n"))

    def _put_empty(self, queue: str, ttl_seconds: float | None) -> int:
        """A form counts a blank field as absent, so an empty message goes as a command."""
        if ttl_seconds is not None:
            raise ValueError("an empty message cannot have a time to live")
        return _number(self._command("add", queue, value="")["key"])

    def batch(
        self, queue: str, bodies: Iterable[str | bytes | Mapping[str, Any]]
    ) -> list[int | str]:
        """Add up to 10,000 messages; for each its number, or the word that says why it is not in.

        A mapping is an item as the broker takes it: ``{"body": ..., "ttl"?, "delay"?, "priority"?,
        "headers"?, "idempotency_key"? ...}``.
        """
        reply = self._tell(f"{_v1(queue)}/batch", {"messages": [_item(body) for body in bodies]})
        return [result.get("id") or result["error"] for result in reply["results"]]

    def receive(
        self,
        *queues: str,
        limit: int = 1,
        wait_seconds: float = 0,
        lease_seconds: float | None = None,
    ) -> list[Leased]:
        """Take up to ``limit`` messages of the first of these queues that has any, under a lease.

        Waits up to ``wait_seconds`` (at most 50) for one; an empty list says that none came. What is not
        acknowledged before the lease ends goes to another worker.
        """
        wanted: dict[str, Any] = {"queues": queues, "limit": limit, "wait": wait_seconds}
        if lease_seconds is not None:
            wanted["lease"] = lease_seconds
        reply = self._tell("/v1/receive", wanted, wait_seconds=wait_seconds)
        return [_leased(found) for found in reply["messages"]]

    def ack(self, *messages: Leased | str, key: str | None = None) -> list[bool]:
        """These are done and go; for each whether that counted: False when its lease was over.

        With a ``key`` the same call again is answered as the first was: for one whose reply was lost.
        """
        return self._settle("ack", messages, key=key)

    def nack(
        self, *messages: Leased | str, delay_seconds: float | None = None, reason: str = ""
    ) -> list[bool]:
        """These are not done, and come again after a delay (None: as the queue's settings say)."""
        more: dict[str, Any] = {"reason": reason} if reason else {}
        if delay_seconds is not None:
            more["delay"] = delay_seconds
        return self._settle("nack", messages, more)

    def extend(self, *messages: Leased | str, lease_seconds: float) -> list[bool]:
        """These take longer: the lease ends so many seconds from now."""
        return self._settle("extend", messages, {"lease": lease_seconds})

    def _settle(
        self,
        verb: str,
        messages: Iterable[Leased | str],
        more: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> list[bool]:
        receipts = [one if isinstance(one, str) else one.receipt for one in messages]
        if not receipts:
            return []
        said = {"receipts": receipts, **(more or {})}
        reply = self._tell(f"/v1/{verb}", said, fine={http.client.CONFLICT}, key=key)
        return [result["ok"] for result in reply["results"]]

    def _tell(
        self,
        path: str,
        value: Mapping[str, Any],
        *,
        wait_seconds: float = 0,
        fine: set[int] | frozenset[int] = frozenset(),
        key: str | None = None,
    ) -> dict[str, Any]:
        """Say something in JSON; the object that is the answer."""
        body = json.dumps(value).encode("ascii")
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        found: dict[str, Any] = json.loads(
            self._ask("POST", path, body, headers, fine=fine, wait_seconds=wait_seconds)
        )
        return found

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
        found = self._tell("/queue", {"cmd": command, "queue": queue, **members})
        if "error" in found and found["error"] != "empty queue":
            raise Refused(200, str(found["error"]))
        return found

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        none_when: set[int] | frozenset[int] = frozenset(),
        fine: set[int] | frozenset[int] = frozenset(),
        wait_seconds: float = 0,
    ) -> bytes:
        """The body of a reply, or nothing when its status is one of ``none_when``.

        A status of ``fine`` is no error. ``wait_seconds``: how much longer the broker may take.
        """
        connection = self._open()
        connection.sock.settimeout(self._timeout_seconds + wait_seconds)
        headers = {**self._headers(), **headers}
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
        if response.status not in fine:
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


def _v1(queue: str) -> str:
    return _path("v1/queues", queue)


def _plain(number: float) -> str:
    """A number without an exponent, as the broker reads it in a query."""
    return str(number) if isinstance(number, int) else f"{number:.9f}"


def _item(body: str | bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """A message as an item of a batch; bytes that are no text travel as base64."""
    if isinstance(body, Mapping):
        return body
    if isinstance(body, str):
        return {"body": body}
    return {"body": base64.b64encode(body).decode("ascii"), "encoding": "base64"}


def _leased(found: Mapping[str, Any]) -> Leased:
    """A message object of ``/v1``, its body as bytes."""
    value, encoding = found["body"], found["encoding"]
    if encoding == "json":
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    else:
        body = base64.b64decode(value) if encoding == "base64" else value.encode("utf-8")
    return Leased(body=body, **{name: found[name] for name in _TAKEN if name in found})


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
    status, words = response.status, _words(response, body) or response.reason
    if http.client.OK <= status < http.client.MULTIPLE_CHOICES:
        return
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise NoAccess(status, words)
    if status == http.client.SERVICE_UNAVAILABLE:
        sure = response.getheader("Retry-After") is not None
        raise (BrokerUnavailable if sure else OutcomeUnknown)(words)
    raise Refused(status, words)


def _words(response: http.client.HTTPResponse, body: bytes) -> str:
    """Why, in the words of a problem document, or of an error page: its paragraph, else all it says."""
    page = body.decode("utf-8", "replace")
    if (response.getheader("Content-Type") or "").startswith("application/problem+json"):
        return str(json.loads(page)["detail"])
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
