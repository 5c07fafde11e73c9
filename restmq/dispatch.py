"""The JSON protocol at the door: a client's text becomes Add, Get, Take or Del.

    {"cmd": "add",  "queue": "genesis", "value": "abacab"}
    {"cmd": "get",  "queue": "genesis"}
    {"cmd": "take", "queue": "genesis"}
    {"cmd": "del",  "queue": "genesis", "key": "genesis:1"}

One table, COMMANDS, says which words there are; nothing a client sends is looked up
anywhere else. Members that a command does not know are ignored, ``ttl`` among them.

The protocol answers a mistake in two ways, and clients tell them apart. What is no
command at all is refused with a status (BadCommand, 400). A command with a mistake is
answered 200 and ``{"error": TEXT}`` (CommandRefused), in the words the original used;
they are those of Python 2, and old clients compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import orjson

from restmq.errors import BadRequest, RestMQError
from restmq.names import message_id, message_key, queue_name
from restmq.rules.acl import Access


class BadCommand(BadRequest):
    """Not JSON, not an object, or no ``cmd`` in it: there is nothing to carry out."""


class CommandRefused(RestMQError):
    """A command with a mistake in it; the text goes to the client as ``{"error": TEXT}``."""


class UnknownCommand(CommandRefused):
    """A ``cmd`` that is no command of ours. The original labels this reply text/html."""


@dataclass(frozen=True, slots=True)
class Add:
    """Put a message at the end of a queue."""

    access: ClassVar[Access] = Access.PRODUCER
    queue: str
    value: str

    @property
    def body(self) -> bytes:
        """The message as it is kept. ``value`` is valid Unicode, so this can't fail."""
        return self.value.encode()


@dataclass(frozen=True, slots=True)
class Get:
    """Look at the oldest message and leave it there."""

    access: ClassVar[Access] = Access.CONSUMER
    queue: str


@dataclass(frozen=True, slots=True)
class Take:
    """Remove the oldest message and have it."""

    access: ClassVar[Access] = Access.CONSUMER
    queue: str


@dataclass(frozen=True, slots=True)
class Del:
    """Delete one message, as DELETE empties a queue: a producer's right.

    ``key`` is what the client wrote, and goes back to it. ``message_id`` is None if that
    is the key of no message this queue can have: then there is nothing to delete.
    """

    access: ClassVar[Access] = Access.PRODUCER
    queue: str
    key: str
    message_id: int | None


Command = Add | Get | Take | Del

ACCESSES: Final = (Access.PRODUCER, Access.CONSUMER)
"""Every access that some command needs: who has none of these can send no command."""


def parse(text: str | bytes, queue: str | None = None) -> Command:
    """Turn the text of a command into a value. ``queue`` is the one named in the path, if any.

    A queue in the path stands for a missing member ``queue``; it must agree with one that
    is there. Raises BadCommand, CommandRefused (UnknownCommand) or BadQueueName. The
    last of two equal members counts, as in the original.
    """
    members = _members(text)
    word = members.get("cmd")
    if not word:
        raise BadCommand('a command has a member "cmd": one of ' + ", ".join(COMMANDS))
    if not isinstance(word, str):
        raise BadCommand(f'"cmd" must be a string, this one is {_kind(word)}')
    build = COMMANDS.get(word)
    if build is None:
        raise UnknownCommand("null resultset")
    if queue is not None and members.setdefault("queue", queue) != queue:
        raise BadCommand("the path and the command name two different queues")
    return build(members)


def _members(text: str | bytes) -> dict[str, object]:
    """The JSON object in a text. orjson is strict: no NaN, no lone surrogate, no deep nesting."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadCommand(f"a command is a JSON object, and this is not JSON: {error}") from None
    if not isinstance(members, dict):
        raise BadCommand(f"a command is a JSON object, and this is {_kind(members)}")
    return members


_Members = Mapping[str, object]


def _add(members: _Members) -> Add:
    queue, value = _wanted(members, "queue", "value")
    return Add(queue_name(_string(queue)), _string(value))


def _get(members: _Members) -> Get:
    (queue,) = _wanted(members, "queue")
    return Get(queue_name(_string(queue)))


def _take(members: _Members) -> Take:
    (queue,) = _wanted(members, "queue")
    return Take(queue_name(_string(queue)))


def _del(members: _Members) -> Del:
    queue, key = _wanted(members, "queue", "key")
    name = queue_name(_string(queue))
    if not isinstance(key, str):
        raise CommandRefused("data must be utf-8")
    return Del(name, key, _message_id(name, key))


COMMANDS: Final[Mapping[str, Callable[[_Members], Command]]] = {
    "add": _add,
    "get": _get,
    "take": _take,
    "del": _del,
}


def _wanted(members: _Members, *names: str) -> list[object]:
    """The members of these names; the first one missing is the error, as in the original."""
    for name in names:
        if name not in members:
            raise CommandRefused(f"'{name}'")
    return [members[name] for name in names]


def _string(value: object) -> str:
    if isinstance(value, str):
        return value
    raise CommandRefused(f"'{type(value).__name__}' object has no attribute 'encode'")


def _message_id(queue: str, key: str) -> int | None:
    """The id in a key that is spelt as we spell it: ``q:7`` and not ``q:007``."""
    number = message_id(queue, key)
    if number is None or message_key(queue, number) != key:
        return None
    return number


def _kind(value: object) -> str:
    """A JSON value's kind, for an error message."""
    return _KINDS[type(value)]


_KINDS: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
