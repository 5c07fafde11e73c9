"""``/v1/bindings``: events that match a pattern go into a queue as well, see docs/events.md."""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.internet.defer import Deferred

from restmq.core.bindings import Binding
from restmq.errors import BadRequest
from restmq.rules.topics import parse_pattern
from restmq.web.describe import NAME, STRING, WHOLE, describe, items, record
from restmq.web.endpoint import Access, Refusal, Reply, endpoint
from restmq.web.v1.endpoint import V1Endpoint, v1_name
from restmq.web.v1.events import LOG, read_log

BINDING: Final = record(name=STRING, topic=STRING, queue=NAME)
SHOWN: Final = record(name=STRING, topic=STRING, queue=NAME, dropped=WHOLE)
BINDING_NAME: Final = {"name": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}}

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def binding_name(text: str) -> str:
    """The name itself. Raises BadRequest."""
    if _NAME.fullmatch(text) is None:
        raise BadRequest("the name of a binding is 1 to 64 letters, digits, dots, _ and -")
    return text


def described(name: str, binding: Binding) -> dict[str, str]:
    """The object that tells of a binding."""
    return {"name": name, "topic": binding.pattern.text, "queue": binding.queue}


def shown(name: str, binding: Binding) -> dict[str, Any]:
    """The same for one the store told of."""
    return {**described(name, binding), "dropped": binding.dropped}


class Bindings(V1Endpoint):
    """``/v1/bindings``."""

    @endpoint(Access.CONSUMER)
    @describe(query={"log": LOG}, replies={200: record(bindings=items(SHOWN))})
    def get(self) -> Deferred[Reply]:
        """All bindings of a log."""
        found = self.broker.events.bindings(read_log(self.given_in_query(("log",))))
        return found.addCallback(self._shown)

    def _shown(self, bindings: dict[str, Binding]) -> Reply:
        return self.json({"bindings": [shown(n, b) for n, b in bindings.items()]})


class OneBinding(V1Endpoint):
    """``/v1/bindings/NAME``."""

    @endpoint(Access.CONSUMER)
    @describe(path=BINDING_NAME, query={"log": LOG}, replies={200: SHOWN})
    def get(self, name: str) -> Deferred[Reply]:
        """What it binds."""
        name, log = binding_name(name), read_log(self.given_in_query(("log",)))
        return self.broker.events.bindings(log).addCallback(self._shown, name)

    def _shown(self, bindings: dict[str, Binding], name: str) -> Reply:
        if name not in bindings:
            raise Refusal(404, f"there is no binding {name!r}")
        return self.json(shown(name, bindings[name]))

    @endpoint(Access.PRODUCER)
    @describe(
        path=BINDING_NAME,
        query={"log": LOG},
        body=record(topic=STRING, queue=NAME),
        replies={200: BINDING, 201: BINDING},
    )
    def put(self, name: str) -> Deferred[Reply]:
        """From the answer on each event that ``topic`` chooses goes into ``queue`` as well."""
        given = self.given(("topic", "queue", "log"))
        name, log = binding_name(name), read_log(given)
        pattern = parse_pattern(given.text("topic") or "")
        binding = Binding(pattern, v1_name(given.text("queue") or ""))
        done: Deferred[bool] = self.broker.events.bind(log, name, binding)
        return done.addCallback(self._made, described(name, binding))

    def _made(self, was: bool, told: dict[str, Any]) -> Reply:
        return self.json(told, 200 if was else 201)

    @endpoint(Access.PRODUCER)
    @describe(path=BINDING_NAME, query={"log": LOG}, replies={204: None})
    def delete(self, name: str) -> Deferred[Reply]:
        """No more; what is bound already goes its way. 204 as well if there was none."""
        name, log = binding_name(name), read_log(self.given_in_query(("log",)))
        done: Deferred[bool] = self.broker.events.bind(log, name, None)
        return done.addCallback(lambda _: self.nothing())
