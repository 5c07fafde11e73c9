"""``/v1/ws``: everything over one WebSocket, subprotocol ``restmq.v1.json`` (docs/websocket.md).

A client sends JSON objects ``{"id": 1, "cmd": ...}``; each gets one frame with its ``id`` when it is done:
``reply`` with the ``result`` that HTTP would give, or ``error``. What the server says by itself has a ``type``, too: ``welcome``, ``message``, ``missed``,
``gap``, ``closing``. A mistake is an ``error`` frame, never the end of the connection.

A page cannot see the status of a refused handshake, so who may not come in is let in and closed with
4401 or 4403. Who only lacks a name and a password has AUTH_SECONDS to send ``auth``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from restmq.core.jobs import Leased
from restmq.core.verdicts import Ack, Outcome, Verb
from restmq.errors import BadRequest, RestMQError
from restmq.message import Put
from restmq.rules.acl import Decision
from restmq.web import handshake, streams
from restmq.web.choices import PARAMETERS, read_choices, read_cursors
from restmq.web.describe import describe
from restmq.web.endpoint import (
    STATUS,
    Access,
    Endpoint,
    Refusal,
    Reply,
    cookie_credentials,
    credentials,
    endpoint,
    origin_refusal,
)
from restmq.web.event_stream import EventStream
from restmq.web.socket import PING_FRAME, Connection, Way
from restmq.web.stream import (
    DELETED,
    SHUT_DOWN,
    TOO_SLOW,
    Choices,
    Cursor,
    Stream,
    bound_kernel_buffer,
)
from restmq.web.transmit import has_closed
from restmq.web.v1.endpoint import V1Endpoint, named_queue
from restmq.web.v1.events import (
    EVENT,
    MAX_TOPICS,
    publish,
    published,
    read_event_command,
    read_event_stream,
    read_log,
)
from restmq.web.v1.given import Given, shown
from restmq.web.v1.leases import (
    key_of_next,
    read_extend,
    read_nack,
    read_next,
    read_receipts,
    results_member,
    settle,
)
from restmq.web.v1.messages import refuse_larger, result_of, results_of
from restmq.web.v1.new_messages import (
    Bounds,
    Item,
    keep_as_sent,
    key_digest,
    read_batch,
    read_command,
)
from restmq.web.v1.problems import Problem, code_of
from restmq.web.v1.receive import FIELDS, Asked, Waiting, messages_member, read_asked, read_queues
from restmq.web.v1.socket_wires import event_frames, frames
from restmq.web.v1.standing import MAX_CREDIT, Standing
from restmq.web.wires import retry_ms

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure


log = Logger()

REPLAYED: Final = b',"replayed":true'
"""In an answer: it was done before, under the same idempotency key."""

SUBPROTOCOL: Final = "restmq.v1.json"
AUTH_SECONDS: Final = 10.0
MAX_UNDER_WAY: Final = 1000
"""Commands that may be under way on one connection; then nothing is read until some are done."""
MAX_SUBSCRIPTIONS: Final = 100
DEALT_BYTES: Final = 4 * 1048576
"""More than one subscription has in hand of dealt messages: ROOM of them, as JSON."""

UNAUTHORIZED: Final = 4401
FORBIDDEN: Final = 4403
WITH_PASSWORD: Final = (Access.WEBSOCKET, Access.PRODUCER)
CLOSE_CODES: Final = {SHUT_DOWN: 1012, TOO_SLOW: 4008}
"""RFC 6455, section 7.4.1 (1012: service restart, IANA); 4000-4999 are for private use."""


class Socket(V1Endpoint):
    """``/v1/ws``."""

    @endpoint(Access.NONE, handshake=True)
    @describe(replies={101: None}, endless=True)
    def get(self) -> Reply | None:
        """Take the handshake."""
        head = self.request.head
        if not handshake.is_upgrade(head.headers):
            raise Refusal(426, "this is a WebSocket", handshake.UPGRADE_REQUIRED)
        asked = handshake.read(head)
        self.query(())
        bound_kernel_buffer(self.exchange.transport)
        shown = credentials(head) or cookie_credentials(head)
        session = Session(self, asked, shown)
        session.foreign = origin_refusal(self.application, head, self.request.protocol)
        self.exchange.take_over(session)
        return None


class Session(Connection):
    """One client, from the handshake to the close."""

    def __init__(
        self, door: Endpoint, asked: handshake.Handshake, shown: tuple[str, str] | None
    ) -> None:
        super().__init__(door.broker, asked, door.settings)
        self.foreign: str | None = None
        self._application = door.application
        self._remote_ip = door.request.remote_ip
        self._protocols = asked.protocols
        self._shown = shown
        self._streams: dict[str, Stream] = {}
        self._waiting: set[Waiting] = set()
        self._standing: dict[int, Standing] = {}
        self._next_standing = 1
        self._under_way = 0
        self._timers: list[IDelayedCall] = []
        self._wire = frames(None)

    # ---- the connection

    def allowance(self) -> int:
        """What was dealt is always sent: its room bounds it, for each subscription and receive."""
        return DEALT_BYTES * (len(self._streams) + len(self._standing) + len(self._waiting))

    def subprotocol(self) -> str | None:
        """Ours, if the client names it; a client that names none speaks it all the same."""
        return SUBPROTOCOL if SUBPROTOCOL in self._protocols else None

    def opened(self) -> None:
        """Greet, or refuse."""
        self._wire = frames(self.bits)
        decision = self._decide(Access.WEBSOCKET)
        if self.foreign is not None:
            self.say_farewell(FORBIDDEN, self.foreign[:120])
        elif decision is Decision.DENIED_ADDRESS and self._decide(Access.PRODUCER) is decision:
            self.say_farewell(UNAUTHORIZED, "your address may not do this")
        else:
            if decision is Decision.NEEDS_PASSWORD:
                self._later(AUTH_SECONDS, self._give_up_on)
            self._say("welcome", self._welcome(decision is Decision.ALLOW))
            self._beat_later()

    def _welcome(self, welcome: bool) -> dict[str, Any]:
        settings = self.settings
        limits = {
            "message": settings.max_message_bytes,
            "frame": settings.max_websocket_message,
            "commands": MAX_UNDER_WAY,
            "subscriptions": MAX_SUBSCRIPTIONS,
        }
        return {"heartbeat": settings.heartbeat, "limits": limits, "authenticated": welcome}

    def _decide(self, access: Access) -> Decision:
        decision: Decision = self._application.acl.decide(access, self._remote_ip, self._shown)
        return decision

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if timer.active()]
        self._timers.append(self.broker.clock.callLater(seconds, call))

    def _give_up_on(self) -> None:
        if not any(self._decide(access) is Decision.ALLOW for access in WITH_PASSWORD):
            self.say_farewell(UNAUTHORIZED, "no name and password came in time")

    def _beat_later(self) -> None:
        self._later(self.settings.heartbeat, self._beat)

    def _beat(self) -> None:
        if not self.outlet.backlog():
            self.outlet.send(PING_FRAME)
        self._beat_later()

    def closing(self) -> None:
        """The daemon ends: tell the client when to come back, once it has what is in hand."""
        for waiting in tuple(self._waiting):
            waiting.end()
        self._stop_standing()
        clogged = any(stream.clogged for stream in self._streams.values())
        if self._over or self._under_way or clogged:
            return  # we are asked again
        self._say("closing", {"reason": SHUT_DOWN, "retry": retry_ms() / 1000})
        self.say_farewell(CLOSE_CODES[SHUT_DOWN], SHUT_DOWN)

    def leave(self) -> None:
        """End all that goes on here."""
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        streams_here, self._streams = self._streams, {}
        for stream in streams_here.values():
            stream.left()
        for waiting in tuple(self._waiting):
            waiting.give_up()
        self._stop_standing()

    def _stop_standing(self) -> None:
        standing_here, self._standing = self._standing, {}
        for standing in standing_here.values():
            standing.stop()

    def _say(self, word: str, value: Mapping[str, Any]) -> None:
        if not self._over:
            self.outlet.send(self._wire.say(word, value))

    # ---- commands

    def heard(self, payload: bytes, is_binary: bool) -> None:
        """Do what the client says."""
        try:
            command = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            self._error(None, 400, "invalid_json", f"the frame is not valid JSON: {error}")
            return
        if is_binary or not isinstance(command, dict):
            self._error(None, 400, "bad_request", "a command is a JSON object in a text frame")
            return
        number = command.pop("id", None)
        if isinstance(number, dict | list):
            self._error(None, 400, "bad_request", "id is a number or a string")
            return
        self._started()
        done: Deferred[Any] = maybeDeferred(self._perform, command, payload)
        done.addCallbacks(self._reply, self._failed, (number,), {}, (number,))
        done.addBoth(self._ended)

    def _perform(self, command: dict[str, Any], frame: bytes) -> Any:
        word = command.pop("cmd", None)
        found = COMMANDS.get(word) if isinstance(word, str) else None
        if found is None:
            raise BadRequest(f"cmd is one of {', '.join(COMMANDS)}, not {shown(word)}")
        keep_as_sent(command, frame)
        function, access, known = found
        if self._decide(access) is not Decision.ALLOW:
            raise Refusal(401, "this needs a name and a password: send auth first")
        return function(self, Given.of_object(command, known))

    def _reply(self, value: Mapping[str, Any], number: Any) -> None:
        self._say("reply", {"id": number, "result": value})

    def _failed(self, failure: Failure, number: Any) -> None:
        error = failure.value
        if isinstance(error, Refusal):
            self._error(number, error.status, code_of(error, error.status), error.why, error)
            return
        if isinstance(error, RestMQError):
            status = next((STATUS[k] for k in type(error).__mro__ if k in STATUS), 500)
            self._error(number, status, code_of(error, status), str(error))
            return
        log.failure("a command on /v1/ws failed", failure)
        self._error(number, 500, "internal_error", "a fault of ours; the log has the traceback")

    def _error(
        self,
        number: Any,
        status: int,
        code: str,
        detail: str,
        problem: BaseException | None = None,
    ) -> None:
        more = problem.members() if isinstance(problem, Problem) else {}
        value = {"id": number, "code": code, "status": status, "detail": detail, **more}
        self._say("error", value)

    def _started(self) -> None:
        self._under_way += 1
        if self._under_way == MAX_UNDER_WAY:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def _ended(self, _: object) -> None:
        self._under_way -= 1
        if self._under_way == MAX_UNDER_WAY - 1 and not self._over:
            self.transport.resumeProducing()  # type: ignore[union-attr]

    # ---- what can be done

    def put(self, given: Given) -> Any:
        """``{"queue", "body", "content_type"?, "encoding"?, "ttl"? ...}`` -> ``{"queue", "id"}``."""
        queue = named_queue("", given)
        message = read_command(given.members(MESSAGE), Bounds.of(self.settings))
        refuse_larger(message.body, self.settings.max_message_bytes)
        put: Deferred[list[Put]] = self.broker.put(queue, [message])
        return put.addCallback(lambda puts: result_of(puts[0], queue))

    def batch(self, given: Given) -> Any:
        """``{"queue", "messages"}`` -> ``{"results", "failed"}``."""
        queue = named_queue("", given)
        messages = given.members(("messages",)).get("messages")
        data = b"{}" if messages is None else b'{"messages":%b}' % bytes(messages)
        batch = read_batch(data, Bounds.of(self.settings))
        put: Deferred[list[Put]] = self.broker.put(queue, batch.messages)
        return put.addCallback(lambda puts: _result(results_of(puts)[0]))

    def receive(self, given: Given) -> Any:
        """``{"queue" or "queues", "limit"?, "wait"?, "lease"?}`` -> ``{"messages"}``.

        With ``credit``, and without limit and wait, so many messages come by themselves, each a frame
        of type ``message``; the answer is ``{"receive"}``, the number for `credit` and `unsubscribe`.
        """
        asked = read_asked(given, self.settings, read_queues(given))
        if not asked.queues:
            raise BadRequest("queue names one queue, or queues is a list of them")
        if "credit" not in given:
            return self._receive(asked).addCallback(lambda m: _result(messages_member(m)))
        for name in ("limit", "wait"):
            if name in given:
                raise given.wrong(name, "does not go with credit", given.members((name,))[name])
        credit = given.whole("credit", 0, 1, MAX_CREDIT)
        self._refuse_too_many(1)
        number, self._next_standing = self._next_standing, self._next_standing + 1
        standing = Standing(self.broker, self.outlet, asked, self._deliver, self._is_there)
        self._standing[number] = standing
        # After the reply: the client learns the number before it gets anything.
        self.broker.clock.callLater(0, standing.give, credit)
        return {"receive": number}

    def _deliver(self, leased: Leased) -> None:
        message, receipt, until_ms = leased
        self.outlet.send(self._wire.leased(message, receipt.encode(), until_ms))

    def _is_there(self) -> bool:
        return not (self._over or self.transport is None or has_closed(self.transport))

    def _receive(self, asked: Asked, key: bytes = b"") -> Deferred[list[Leased]]:
        receiving = self.broker.receive(*asked, key=key)
        waiting = Waiting(receiving, self._is_there)
        self._waiting.add(waiting)

        def done(result: Any) -> Any:
            self._waiting.discard(waiting)
            return result

        return waiting.answer.addBoth(done)

    def credit(self, given: Given) -> dict[str, int]:
        """``{"receive", "credit"}``: so many more may come -> ``{"credit"}``, all that may."""
        standing = self._standing_of(given)
        standing.give(given.whole("credit", 0, 1, MAX_CREDIT - standing.credit))
        return {"credit": standing.credit}

    def _standing_of(self, given: Given) -> Standing:
        number = given.whole("receive", 0, 1, 2**53)
        if number not in self._standing:
            raise given.wrong("receive", "is the number of a receive with credit", number)
        return self._standing[number]

    def subscribe(self, given: Given) -> Any:
        """``{"queue" or "queues", choices...}`` -> ``{"subscribed": [...]}``; messages follow.

        ``{"topic" or "topics", "log"?, choices...}`` -> ``{"subscribed": [...]}``; events follow.
        """
        if "topic" in given or "topics" in given:
            return self._subscribe_to_topics(given)
        queues = _queues(given)
        chosen = given.members(PARAMETERS)
        texts = {name: _as_text(name, value) for name, value in chosen.items()}
        choices = read_choices(texts, self.settings, heartbeat=0)
        cursors = read_cursors(texts.get("cursor"), len(queues))
        for queue in queues:
            if queue in self._streams:
                raise BadRequest(f"there is a subscription of {queue!r} already")
        self._refuse_too_many(len(queues))
        checked = streams.check(self.broker, queues, choices)
        wanted = dict(zip(queues, cursors, strict=True))
        return checked.addCallback(lambda _: self._subscribe(wanted, choices))

    def _refuse_too_many(self, more: int) -> None:
        if len(self._streams) + len(self._standing) + more > MAX_SUBSCRIPTIONS:
            raise BadRequest(f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions")

    def _subscribe(
        self, queues: Mapping[str, Cursor | None], choices: Choices
    ) -> dict[str, list[str]]:
        new = [queue for queue in queues if queue not in self._streams and not self._over]
        self._refuse_too_many(len(new))
        for queue in new:
            way = Way(self.outlet, lambda queue=queue: self._finished(queue))  # type: ignore[misc]
            stream = self._streams[queue] = Stream(self.broker.beats, way, self._wire, choices)
            # After the reply: the client learns that it is subscribed before it gets anything.
            self.broker.clock.callLater(0, self._open, stream, queue, queues[queue])
        return {"subscribed": new}

    def _subscribe_to_topics(self, given: Given) -> Deferred[dict[str, list[str]]]:
        topics, key = _topics(given)
        chosen = given.members({*PARAMETERS, "log"})
        texts = {name: [_as_text(name, value)] for name, value in chosen.items()}
        texts.setdefault("heartbeat", ["0"])
        asked = read_event_stream({"topic": topics, **texts}, self.settings, None)
        if key in self._streams:
            raise BadRequest("there is a subscription of these topics already")
        self._refuse_too_many(1)
        way = Way(self.outlet, lambda: self._finished(key))
        stream = EventStream(self.broker.beats, way, event_frames(self.bits), asked.choices)
        self._streams[key] = stream

        def begin() -> None:
            if self._streams.get(key) is stream:
                stream.begin(self.broker.events, asked.log, asked.selection, asked.after)

        self.broker.clock.callLater(0, begin)
        # It learns that it is subscribed when it is, and before it gets anything.
        return stream.begun.addCallback(lambda _: {"subscribed": topics})

    def publish(self, given: Given) -> Any:
        """``{"topic", "body", "content_type"?, "encoding"?, "headers"?, "log"?, "idempotency_key"?}``

        -> ``{"topic", "id", "cursor", "replayed"?}``.
        """
        log, members = read_log(given), given.members(EVENT)
        event = read_event_command(members, Bounds.of(self.settings))
        refuse_larger(event.body, self.settings.max_message_bytes)
        return publish(self.broker, log, [event], _key(given)).addCallback(
            self._published, log, event.topic
        )

    def _published(self, told: tuple[list[int], bool], log: str, topic: str) -> Any:
        ids, replayed = told
        return _result(published(self.broker, log, topic, ids[0]) + (REPLAYED if replayed else b""))

    def _open(self, stream: Stream, queue: str, cursor: Cursor | None) -> None:
        if self._streams.get(queue) is stream:
            stream.open(self.broker, {queue: cursor})

    def _finished(self, queue: str) -> None:
        stream = self._streams.pop(queue, None)
        reason = DELETED if stream is None else stream.reason
        if reason in CLOSE_CODES:
            self.say_farewell(CLOSE_CODES[reason], reason)
        else:
            self._say("closing", {"queue": queue, "reason": reason})

    def unsubscribe(self, given: Given) -> dict[str, list[Any]]:
        """``{"queue" or "queues"}`` -> ``{"unsubscribed": [...]}``; what a stream has leased goes back.

        ``{"receive"}`` ends a receive with credit; what it handed out stays leased.
        """
        if "receive" in given:
            self._standing_of(given).stop()
            number = given.whole("receive", 0, 1, 2**53)
            del self._standing[number]
            return {"unsubscribed": [number]}
        if "topic" in given or "topics" in given:
            topics, key = _topics(given)
            if key not in self._streams:
                return {"unsubscribed": []}
            self._streams.pop(key).left()
            return {"unsubscribed": topics}
        gone = [queue for queue in _queues(given) if queue in self._streams]
        for queue in gone:
            self._streams.pop(queue).left()
        return {"unsubscribed": gone}

    def ack(self, given: Given) -> Any:
        """``{"receipts", "next"?, "idempotency_key"?}`` -> ``{"results", "failed", "replayed"?, "messages"?}``."""
        of, key = read_receipts(given), _key(given)
        then = read_next(given, self.settings, of)
        return settle(self.broker, of, Ack(), key).addCallback(self._acknowledged, then, key)

    def _acknowledged(self, settled: Outcome, then: Asked | None, key: bytes) -> Any:
        results = _settled(settled)
        if then is None or all(settled.codes) or self._over:
            return _result(results)
        received = self._receive(then, key_of_next(key))
        return received.addCallback(lambda m: _result(b"%b,%b" % (results, messages_member(m))))

    def nack(self, given: Given) -> Any:
        """``{"receipts", "delay"?, "reason"?}`` -> ``{"results", "failed"}``."""
        return self._settle(given, read_nack(given))

    def extend(self, given: Given) -> Any:
        """``{"receipts", "lease"}`` -> ``{"results", "failed"}``."""
        return self._settle(given, read_extend(given, self.settings))

    def _settle(self, given: Given, verb: Verb) -> Any:
        settled = settle(self.broker, read_receipts(given), verb, _key(given))
        return settled.addCallback(lambda settled: _result(_settled(settled)))

    def ping(self, given: Given) -> dict[str, Any]:
        """An answer."""
        return {}

    def auth(self, given: Given) -> dict[str, Any]:
        """``{"user", "password"}``: who this is, from now on."""
        shown = _text(given, "user"), _text(given, "password")
        acl, address = self._application.acl, self._remote_ip
        asked = [
            access
            for access in WITH_PASSWORD
            if acl.decide(access, address, None) is Decision.NEEDS_PASSWORD
        ]
        if asked and not any(acl.decide(a, address, shown) is Decision.ALLOW for a in asked):
            raise Refusal(401, "that name and password open nothing here")
        self._shown = shown
        return {}


def _result(members: bytes) -> orjson.Fragment:
    """A result that is encoded already."""
    return orjson.Fragment(b"{%b}" % members)


def _key(given: Given) -> bytes:
    return key_digest(given.text("idempotency_key") or "", given.where("idempotency_key"))


def _settled(settled: Outcome) -> bytes:
    """The members of the answer to ack, nack and extend."""
    return results_member(settled.codes) + (REPLAYED if settled.replayed else b"")


def _text(given: Given, name: str) -> str:
    text = given.text(name)
    if text is None:
        raise BadRequest(f"{name} must be a string")
    return text


def _as_text(name: str, value: object) -> str:
    """A choice as the query would have it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:f}"
    raise BadRequest(f"{name} is a string, a number or a truth value")


def _queues(given: Given) -> list[str]:
    queues = read_queues(given)
    if not queues:
        raise BadRequest("queue names one queue, or queues is a list of them")
    return queues


def _topics(given: Given) -> tuple[list[str], str]:
    """The patterns that a subscription of events names, and the key of its stream. Raises BadRequest.

    No queue has the key: its name begins with a control character.
    """
    if "queue" in given or "queues" in given or ("topic" in given and "topics" in given):
        raise BadRequest("topic names one pattern, or topics is a list of them, without a queue")
    one, several = given.text("topic"), given.texts("topics", MAX_TOPICS)
    topics = several if several is not None else [one or ""]
    return topics, "\0".join(["", read_log(given), *sorted(topics)])


MESSAGE: Final = frozenset(Item.__struct_fields__)
_ANY: Final[frozenset[str]] = frozenset()
COMMANDS: Final[Mapping[str, tuple[Callable[[Session, Given], Any], Access, frozenset[str]]]] = {
    "put": (Session.put, Access.PRODUCER, MESSAGE | {"queue"}),
    "batch": (Session.batch, Access.PRODUCER, frozenset(("queue", "messages"))),
    "subscribe": (
        Session.subscribe,
        Access.WEBSOCKET,
        PARAMETERS | {"queue", "queues", "topic", "topics", "log"},
    ),
    "publish": (Session.publish, Access.PRODUCER, EVENT | {"log", "idempotency_key"}),
    "unsubscribe": (
        Session.unsubscribe,
        Access.WEBSOCKET,
        frozenset(("queue", "queues", "receive", "topic", "topics", "log")),
    ),
    "receive": (Session.receive, Access.WEBSOCKET, frozenset((*FIELDS, "queues", "credit"))),
    "credit": (Session.credit, Access.WEBSOCKET, frozenset(("receive", "credit"))),
    "ack": (Session.ack, Access.WEBSOCKET, frozenset(("receipts", "next", "idempotency_key"))),
    "nack": (
        Session.nack,
        Access.WEBSOCKET,
        frozenset(("receipts", "delay", "reason", "idempotency_key")),
    ),
    "extend": (
        Session.extend,
        Access.WEBSOCKET,
        frozenset(("receipts", "lease", "idempotency_key")),
    ),
    "ping": (Session.ping, Access.NONE, _ANY),
    "auth": (Session.auth, Access.NONE, frozenset(("user", "password"))),
}
"""What a client may say: what does it, whose rules apply, the members it takes."""
