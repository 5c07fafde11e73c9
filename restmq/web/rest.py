"""Queues over plain HTTP: ``/``, ``/q/``, ``/p/``, ``/control/`` and ``/stats/``.

What a reply looks like, to the byte, is the contract with clients of 2010-2015: see
docs/protocol.md, and docs/compatibility.md for what was wrong and is not so any more.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.internet.defer import Deferred

from restmq.errors import BadRequest
from restmq.message import Message, Policy, QueueInfo
from restmq.names import queue_name
from restmq.web import historic, pages
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, check, endpoint, error_reply
from restmq.web.reply import HTML

JSON: Final = "application/json"
INERT: Final = (("Content-Security-Policy", "default-src 'none'; sandbox"),)
"""On what the original labels text/html: whoever opens it in a browser runs none of it."""
EMPTY: Final = Reply(204, no_store=True)
TO_INDEX: Final = Reply(302, headers=(("Location", "/static/index.html"),))

MAX_TTL_SECONDS: Final = 10 * 365 * 86400
_TTL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_POLICIES: Final = {"broadcast": Policy.BROADCAST, "roundrobin": Policy.ROUNDROBIN}
_STATUSES: Final = {"start": True, "stop": False}


class _Adding(Endpoint):
    """What the two doors for POST have in common."""

    def add(self, queue: str, first: str, second: str) -> Deferred[Reply]:
        """Add the message in one of two fields; with both the first one wins."""
        body = self.raw_parameter(first) or self.raw_parameter(second)
        if body is None:
            raise BadRequest(f"a form field {first} or {second} must hold the message")
        refuse_larger(body, self.settings.max_message_bytes)
        ttl = self.parameter("ttl")
        done: Deferred[int] = self.broker.add(queue, body, 0 if ttl is None else ttl_ms(ttl))
        return done.addCallback(added, queue)


def added(number: int, queue: str) -> Reply:
    """The reply to a POST: the key of the message."""
    return Reply(body=f"{queue}:{number}\r\n".encode(), headers=INERT)


def refuse_larger(body: bytes, limit: int) -> None:
    """Raise Refusal 413, which names the limit, for a message with more bytes."""
    if len(body) > limit:
        raise Refusal(413, f"a message has at most {limit} bytes, this one {len(body)}")


def ttl_ms(text: str) -> int:
    """A time to live in milliseconds, at least one. Raises BadRequest."""
    seconds = float(text) if _TTL.fullmatch(text) else 0.0
    if not 0 < seconds <= MAX_TTL_SECONDS:
        raise BadRequest(f"ttl is a number of seconds above 0, at most {MAX_TTL_SECONDS}")
    return max(1, round(seconds * 1000))


class Root(_Adding):
    """``/``: the queue is a parameter. Without one it is the way to the page of all queues."""

    @endpoint(Access.CONSUMER, jsonp=True, page=True)
    def get(self) -> Deferred[Reply] | Reply:
        """Pop from ``?queue=``, under the rules of a pop; or lead to the page, as a page may."""
        queue = self.parameter("queue")
        if queue is None:
            return TO_INDEX
        request = self.request
        check(self.application, _POP, request.head, request.remote_ip, request.protocol)
        popped: Deferred[Message | None] = self.broker.pop(queue_name(queue))
        return popped.addCallback(_popped, _NOTHING_HERE)

    @endpoint(Access.PRODUCER, jsonp=True)
    def post(self) -> Deferred[Reply]:
        """Add ``value``, or else ``msg``, to ``queue``."""
        queue = self.parameter("queue")
        if queue is None:
            raise BadRequest("a form field queue must name the queue")
        return self.add(queue_name(queue), "value", "msg")


class Queue(_Adding):
    """``/q/NAME``: one queue."""

    @endpoint(Access.CONSUMER, jsonp=True, pops=True)
    def get(self, queue: str = "") -> Any:
        """Pop the oldest message; 204 when there is none."""
        popped: Deferred[Message | None] = self.broker.pop(queue)
        return popped.addCallback(_popped, EMPTY)

    @endpoint(Access.PRODUCER, jsonp=True)
    def post(self, queue: str = "") -> Deferred[Reply]:
        """Add ``msg``, or else ``value``."""
        return self.add(queue, "msg", "value")

    @endpoint(Access.PRODUCER, jsonp=True)
    def delete(self, queue: str = "") -> Deferred[Reply]:
        """Delete all messages and end the streams; status 1 if there was something."""
        purged: Deferred[int] = self.broker.purge(queue)
        return purged.addCallback(lambda n: _labelled_html({"queue": queue, "status": int(n > 0)}))


class Queues(Queue):
    """``/q/``: the list of all queues as a page; POST and DELETE are those of the queue ''."""

    @endpoint(Access.CONSUMER, page=True)
    def get(self, queue: str = "") -> Any:
        """The list."""
        return self.broker.queue_names().addCallback(pages.queue_list)


_POP: Final = Queue.operations["GET"]
_NOTHING_HERE: Final = error_reply(404, "the queue is empty")._replace(no_store=True)


def _popped(message: Message | None, empty: Reply) -> Reply:
    if message is None:
        return empty
    return Reply(200, historic.popped(message), headers=INERT, no_store=True)


class PolicyOf(Endpoint):
    """``/p/NAME``: who gets what is pushed."""

    @endpoint(Access.CONSUMER, jsonp=True)
    def get(self, queue: str) -> Deferred[Reply]:
        """The policy; broadcast where none was set."""
        return self.broker.inspect(queue).addCallback(_policy)

    @endpoint(Access.PRODUCER, jsonp=True)
    def post(self, queue: str) -> Deferred[Reply] | Reply:
        """Set it. A word that is no policy changes nothing and is answered ``null``."""
        word = self.parameter("policy")
        if word is None:
            raise BadRequest("a form field policy must say broadcast or roundrobin")
        policy = _POLICIES.get(word)
        if policy is None:
            return Reply(body=b"null\r\n")
        return self.broker.set_policy(queue, policy).addCallback(lambda _: Reply(body=b"OK\r\n"))


def _policy(info: QueueInfo) -> Reply:
    policy = info.policy or Policy.BROADCAST
    return _labelled_html({"queue": info.name, "value": policy.name.lower()})


class Control(Endpoint):
    """``/control/NAME``: whether the queue is pushed to streams."""

    @endpoint(Access.CONSUMER)
    def get(self, queue: str = "") -> Any:
        """Its status: 1, 0, or null for a queue nobody has used."""
        return self.broker.inspect(queue).addCallback(self._one)

    def _one(self, info: QueueInfo) -> Reply:
        return _json_line(
            {"queue": info.name, "status": _status(info), "redis": self.broker.description}
        )

    @endpoint(Access.PRODUCER, jsonp=True)
    def post(self, queue: str = "") -> Deferred[Reply] | Reply:
        """Start or stop it. Another word changes nothing and is named in the reply."""
        word = self.parameter("status")
        started = _STATUSES.get(word or "")
        if started is None:
            return _control({"stat": f"invalid status: {word}"})
        done = {"stat": {"queue": queue, "status": int(started)}}
        return self.broker.set_started(queue, started).addCallback(lambda _: _control(done))


class ControlAll(Control):
    """``/control/``: all queues; POST is that of the queue ''."""

    @endpoint(Access.CONSUMER)
    async def get(self, queue: str = "") -> Any:
        """The status of each."""
        queues = {info.name: _status(info) for info in await self.broker.inspect_all()}
        return _json_line(
            {"count": len(queues), "queues": queues, "redis": self.broker.description}
        )


def _status(info: QueueInfo) -> dict[str, Any]:
    started = None if info.started is None else int(info.started)
    return {"queue": info.name, "status": started}


def _control(value: dict[str, Any]) -> Reply:
    return _labelled_html(value)._replace(wrap=")\r\n")


class Stats(Endpoint):
    """``/stats/NAME``: how many messages wait."""

    @endpoint(Access.CONSUMER, jsonp=True)
    def get(self, queue: str) -> Deferred[Reply]:
        """The number; 0 for an unknown queue."""
        return self.broker.inspect(queue).addCallback(self._one)

    def _one(self, info: QueueInfo) -> Reply:
        found = {"queue": info.name, "redis": self.broker.description, "len": info.length}
        return _stats(found | _streaming(info))


class StatsAll(Endpoint):
    """``/stats/``: the numbers of all queues."""

    @endpoint(Access.CONSUMER, jsonp=True)
    async def get(self) -> Reply:
        """Sorted by name."""
        queues = {info.name: _numbers(info) for info in await self.broker.inspect_all()}
        return _stats({"count": len(queues), "queues": queues, "redis": self.broker.description})


def _numbers(info: QueueInfo) -> dict[str, Any]:
    """Policy is 1, 2, or "" where it was never set; status 1 or 0."""
    return {
        "status": 1 if info.started else 0,
        "policy": "" if info.policy is None else info.policy.value,
        "name": info.name,
        "len": info.length,
        **_streaming(info),
    }


def _streaming(info: QueueInfo) -> dict[str, Any]:
    """Who listens, by transport, and what slow consumers missed; nothing where there is nothing."""
    found: dict[str, Any] = {}
    if info.consumers:
        found["consumers"] = dict(info.consumers)
    if info.missed:
        found["missed"] = info.missed
    return found


def _stats(value: dict[str, Any]) -> Reply:
    return Reply(200, historic.dumps(value).encode("ascii"), JSON, wrap=")", no_store=True)


def _json_line(value: dict[str, Any]) -> Reply:
    return Reply(200, historic.dumps(value).encode("ascii") + b"\r\n", JSON, no_store=True)


def _labelled_html(value: dict[str, Any]) -> Reply:
    return _json_line(value)._replace(content_type=HTML, headers=INERT)
