"""``/xmlrpc``: the broker for programs that speak XML-RPC.

``get`` and ``set`` are those of 2009: ``get`` takes a message out and answers with a struct of ``key``,
``value`` and ``count``, ``set`` puts one in and answers with its key. METHODS is the whole table.

A value is a string where it is text that XML can hold, else base64; both are taken. A message that was
deleted or has expired is passed over, since XML-RPC has no word for nothing.

What goes wrong is a fault, with status 200 as XML-RPC wants it: see docs/xmlrpc.md for the codes. Only what
the access file refuses is answered 401, so that clients that have a password know to send it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby, product
from typing import Any, Final, NamedTuple

from twisted.internet.defer import ensureDeferred, gatherResults

from restmq.dispatch import ACCESSES
from restmq.errors import BadRequest, OutcomeUnknown, RestMQError, StoreError
from restmq.message import Message
from restmq.names import message_id, message_key, queue_name
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint
from restmq.web.rest import ttl_ms
from restmq.xmlrpc_document import (
    INVALID_CALL,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Call,
    Fault,
    Value,
    fault_struct,
    read_call,
    text_if_possible,
    write_fault,
    write_response,
)

XML: Final = "text/xml; charset=UTF-8"
MEDIA_TYPES: Final = ("text/xml", "application/xml")

DENIED: Final = 401
EMPTY: Final = 404
GONE: Final = 410
TOO_LARGE: Final = 413
STORE_AWAY: Final = 503
OUTCOME_UNKNOWN: Final = 504

MAX_CALLS: Final = 1000
"""Calls in one multicall."""

MAX_REPLY_BYTES: Final = 16 * 1048576
"""Once a multicall has taken so many bytes of messages it takes no more; one message may go beyond."""

FAULTS: Final[Mapping[type[RestMQError], int]] = {
    BadRequest: INVALID_PARAMS,
    OutcomeUnknown: OUTCOME_UNKNOWN,
    StoreError: STORE_AWAY,
}
"""The one table from errors to fault codes; a subclass has the code of its parent."""


class XmlRpc(Endpoint):
    """``/xmlrpc``."""

    @endpoint(*ACCESSES, pops=True)
    async def post(self) -> Reply:
        """Carry out one call, if the access file lets this client do that."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in MEDIA_TYPES:
            raise Refusal(415, "an XML-RPC call has the Content-Type text/xml")
        try:
            answer = write_response(await Methods(self).carry_out(read_call(self.request.body)))
        except (Fault, BadRequest, StoreError) as error:
            answer = write_fault(_as_fault(error))
        return Reply(200, answer, XML)


class Methods:
    """What can be called, for one request."""

    def __init__(self, door: XmlRpc) -> None:
        """``door`` says who calls, and has the broker."""
        self._door = door
        self._broker = door.broker
        self._taken_bytes = 0

    async def carry_out(self, call: Call) -> Value:
        """The result of a call. Raises Fault, BadRequest, StoreError, and Refusal 401."""
        method = METHODS.get(call.method)
        if method is None:
            raise Fault(METHOD_NOT_FOUND, f"there is no such method; {_TELL} lists them")
        if method.access is not Access.NONE:
            self._door.admit(method.access)
        return await method.function(self, *method.arguments(call))

    # -- messages ------------------------------------------------------------------------

    async def add(self, queue: str, body: bytes, ttl: int = 0) -> Value:
        """Put a message in; its key."""
        limit = self._door.settings.max_message_bytes
        if len(body) > limit:
            raise Fault(TOO_LARGE, f"a message has at most {limit} bytes, this one {len(body)}")
        return _text(message_key(queue, await self._broker.add(queue, body, ttl)))

    async def get(self, queue: str) -> Value:
        """Take the oldest message out, in the words of 2009."""
        return {**await self._taken(queue), "count": 0}

    async def take(self, queue: str) -> Value:
        """Take the oldest message out, in the words of the JSON protocol."""
        return {"queue": _text(queue), **await self._taken(queue)}

    async def peek(self, queue: str) -> Value:
        """The oldest message, left where it is."""
        found = await self._broker.peek(queue)
        if found is None:
            raise Fault(EMPTY, "the queue is empty")
        if found.message.body is None:
            raise Fault(GONE, "the oldest message was deleted or has expired; get passes it over")
        return {"queue": _text(queue), **self._shown(found.message), "count": found.looks}

    async def delete(self, queue: str, key: str) -> Value:
        """Delete one message that waits; whether it was there."""
        number = message_id(queue, key)
        if not number or message_key(queue, number) != key:
            return False
        return await self._broker.delete(queue, number)

    async def length(self, queue: str) -> Value:
        """How many messages wait."""
        return (await self._broker.inspect(queue)).length

    async def queues(self) -> Value:
        """The names of all queues."""
        return [_text(name) for name in await self._broker.queue_names()]

    async def _taken(self, queue: str) -> dict[str, Value]:
        while self._door.exchange.open:
            message = await self._broker.pop(queue)
            if message is None:
                break
            if message.body is not None:
                return self._shown(message)
        raise Fault(EMPTY, "the queue is empty")

    def _shown(self, message: Message) -> dict[str, Value]:
        body = message.body or b""
        self._taken_bytes += len(body)
        return {"key": _text(message.key), "value": text_if_possible(body)}

    # -- the system's own methods --------------------------------------------------------

    async def list_methods(self) -> Value:
        """The names of all methods."""
        return list(METHODS)

    async def method_help(self, name: str) -> Value:
        """What a method does."""
        return _method(name).help

    async def method_signature(self, name: str) -> Value:
        """What a method answers with and takes: a list for each way to call it."""
        return [list(signature) for signature in _method(name).signatures()]

    async def multicall(self, calls: list[Value]) -> Value:
        """Several calls, carried out in their order; messages that are put in a row go in together."""
        if len(calls) > MAX_CALLS:
            raise Fault(INVALID_PARAMS, f"a multicall has at most {MAX_CALLS} calls")
        results: list[Value] = []
        for adding, run in groupby(calls, _adds):
            if adding:
                results += await gatherResults(
                    [ensureDeferred(self._settled(call)) for call in run], consumeErrors=True
                )
            else:
                results += [await self._settled(call) for call in run]
        return results

    async def _settled(self, call: Value) -> Value:
        """A call's result in an array, or its fault."""
        try:
            if self._taken_bytes >= MAX_REPLY_BYTES:
                raise Fault(TOO_LARGE, "the reply is full: this was not carried out, ask again")
            return [await self.carry_out(_inner_call(call))]
        except (Fault, BadRequest, StoreError) as error:
            return fault_struct(_as_fault(error))
        except Refusal as refusal:
            return fault_struct(Fault(DENIED, refusal.why))


def _adds(call: Value) -> bool:
    return isinstance(call, dict) and call.get("methodName") in ("add", "set")


def _inner_call(call: Value) -> Call:
    if not isinstance(call, dict):
        raise Fault(INVALID_CALL, "a multicall holds structs of methodName and params")
    name, params = call.get("methodName"), call.get("params", [])
    if not isinstance(name, str) or not isinstance(params, list):
        raise Fault(INVALID_CALL, "methodName is a string and params an array")
    if name == "system.multicall":
        raise Fault(INVALID_CALL, "a multicall in a multicall is refused")
    return Call(name, params)


def _as_fault(error: RestMQError) -> Fault:
    if isinstance(error, Fault):
        return error
    code = next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)
    return Fault(code, str(error) or "the store does not answer")


def _text(text: str) -> str | bytes:
    """A name in a reply: one with control characters goes as base64."""
    return text_if_possible(text.encode("utf-8"))


# -- parameters -----------------------------------------------------------------------------------


def _string(value: Value) -> str:
    """Text, also where the client had to send it as base64. Raises BadRequest."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("is not valid UTF-8") from None
    if not isinstance(value, str):
        raise BadRequest("is a string")
    return value


def _queue(value: Value) -> str:
    return queue_name(_string(value))


def _body(value: Value) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    if not isinstance(value, bytes):
        raise BadRequest("is a string or base64")
    return value


def _ttl(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest("is a number of seconds")
    return ttl_ms(f"{value:.9f}")


def _calls(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise BadRequest("is an array of structs")
    return value


class Parameter(NamedTuple):
    """What a method takes: ``read`` turns a value into an argument, or raises BadRequest."""

    name: str
    types: tuple[str, ...]
    read: Callable[[Value], Any]
    optional: bool = False


class Method(NamedTuple):
    """A line of the table."""

    function: Callable[..., Awaitable[Value]]
    access: Access
    parameters: tuple[Parameter, ...]
    result: str
    help: str

    def arguments(self, call: Call) -> list[Any]:
        """What the function is called with. Raises Fault."""
        needed = sum(not parameter.optional for parameter in self.parameters)
        if not needed <= len(call.params) <= len(self.parameters):
            names = ", ".join(parameter.name for parameter in self.parameters) or "nothing"
            raise Fault(INVALID_PARAMS, f"{call.method} takes {names}")
        pairs = zip(self.parameters, call.params, strict=False)
        return [_argument(parameter, value) for parameter, value in pairs]

    def signatures(self) -> list[Sequence[str]]:
        """The type of the result and of each parameter, for each way to call it."""
        needed = [parameter.types for parameter in self.parameters if not parameter.optional]
        more = [parameter.types for parameter in self.parameters if parameter.optional]
        ways = [needed + more[:count] for count in range(len(more) + 1)]
        return [(self.result, *types) for way in ways for types in product(*way)]


def _argument(parameter: Parameter, value: Value) -> Any:
    try:
        return parameter.read(value)
    except BadRequest as error:
        raise Fault(INVALID_PARAMS, f"{parameter.name}: {error}") from None


def _method(name: str) -> Method:
    method = METHODS.get(name)
    if method is None:
        raise Fault(METHOD_NOT_FOUND, f"there is no such method; {_TELL} lists them")
    return method


_TELL: Final = "system.listMethods"
_TEXT: Final = ("string", "base64")
_QUEUE: Final = Parameter("queue", _TEXT, _queue)
_VALUE: Final = Parameter("value", _TEXT, _body)
_TTL: Final = Parameter("ttl", ("int", "double"), _ttl, optional=True)
_KEY: Final = Parameter("key", _TEXT, _string)
_NAME: Final = Parameter("name", ("string",), _string)
_CALLS: Final = Parameter("calls", ("array",), _calls)

METHODS: Final[Mapping[str, Method]] = {
    "get": Method(
        Methods.get,
        Access.CONSUMER,
        (_QUEUE,),
        "struct",
        "Take the oldest message out of the queue: a struct of key, value and count, which is 0.",
    ),
    "set": Method(
        Methods.add,
        Access.PRODUCER,
        (_QUEUE, _VALUE),
        "string",
        "Put a message into the queue; its key, such as queue:1.",
    ),
    "add": Method(
        Methods.add,
        Access.PRODUCER,
        (_QUEUE, _VALUE, _TTL),
        "string",
        "Put a message into the queue, for ttl seconds if that is given; its key.",
    ),
    "take": Method(
        Methods.take,
        Access.CONSUMER,
        (_QUEUE,),
        "struct",
        "Take the oldest message out of the queue: a struct of queue, key and value.",
    ),
    "peek": Method(
        Methods.peek,
        Access.CONSUMER,
        (_QUEUE,),
        "struct",
        "Look at the oldest message and leave it: a struct of queue, key, value and count, "
        "which is how often it was looked at.",
    ),
    "delete": Method(
        Methods.delete,
        Access.PRODUCER,
        (_QUEUE, _KEY),
        "boolean",
        "Delete the message with this key that waits in the queue; whether it was there.",
    ),
    "length": Method(
        Methods.length, Access.CONSUMER, (_QUEUE,), "int", "How many messages wait in the queue."
    ),
    "queues": Method(
        Methods.queues, Access.CONSUMER, (), "array", "The names of all queues, sorted."
    ),
    "system.listMethods": Method(
        Methods.list_methods, Access.NONE, (), "array", "The names of all methods."
    ),
    "system.methodHelp": Method(
        Methods.method_help, Access.NONE, (_NAME,), "string", "What the method of this name does."
    ),
    "system.methodSignature": Method(
        Methods.method_signature,
        Access.NONE,
        (_NAME,),
        "array",
        "Each way to call the method of this name: the types of its result and parameters.",
    ),
    "system.multicall": Method(
        Methods.multicall,
        Access.NONE,
        (_CALLS,),
        "array",
        f"Up to {MAX_CALLS} calls, structs of methodName and params, in their order: for each its "
        "result in an array, or the struct of its fault.",
    ),
}
