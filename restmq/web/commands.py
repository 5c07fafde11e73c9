"""The JSON protocol: POST to ``/queue``, or to ``/queue/NAME`` where the path names the queue.

The command is in a form field ``msg`` or ``body``, or it is the whole body where that says it is
``application/json``. ``restmq.dispatch`` reads it; what is refused there in the original's words is
answered 200 with ``{"error": ...}``.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, succeed

from restmq.dispatch import (
    ACCESSES,
    Add,
    Command,
    CommandRefused,
    Del,
    Get,
    Take,
    UnknownCommand,
    parse,
)
from restmq.errors import BadRequest
from restmq.message import Message, Peeked
from restmq.names import message_key
from restmq.web import historic
from restmq.web.endpoint import Access, Endpoint, Reply, endpoint
from restmq.web.reply import HTML
from restmq.web.rest import JSON, refuse_larger

TO_HELP: Final = Reply(302, headers=(("Location", "/static/help.html"),))


def _reply(body: bytes, content_type: str = JSON) -> Reply:
    return Reply(200, body, content_type)


def _error(text: str, content_type: str = JSON) -> Reply:
    return _reply(historic.dumps({"error": text}).encode("ascii"), content_type)


_EMPTY: Final = _error("empty queue")
_GONE: Final = _error("ERR no such key")


class Commands(Endpoint):
    """``/queue/NAME``: one command for this queue."""

    @endpoint(*ACCESSES, pops=True)
    def post(self, queue: str | None = None) -> Deferred[Reply] | Reply:
        """Carry out one command, if the access file lets this client do that."""
        try:
            command = parse(self._text(), queue)
        except UnknownCommand as error:
            return _error(str(error), HTML)
        except CommandRefused as error:
            return _error(str(error))
        self.admit(command.access)
        return self._carry_out(command)

    def _text(self) -> bytes:
        content_type: str = self.request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() == JSON:
            return self.request.body
        text = self.raw_parameter("msg") or self.raw_parameter("body")
        if text is None:
            raise BadRequest("a form field body, or an application/json body, holds the command")
        return text

    def _carry_out(self, command: Command) -> Deferred[Reply]:
        match command:
            case Add(queue, value):
                body = command.body
                refuse_larger(body, self.settings.max_message_bytes)
                added: Deferred[int] = self.broker.add(queue, body)
                return added.addCallback(_added, queue, value)
            case Get(queue):
                return self.broker.peek(queue).addCallback(_peeked)
            case Take(queue):
                return self.broker.pop(queue).addCallback(_taken)
            case Del(queue, key, number):
                deleted = self.broker.delete(queue, number) if number else succeed(False)
                return deleted.addCallback(_deleted, queue, key)


class CommandsForAnyQueue(Commands):
    """``/queue``: the command names its queue. Who looks here with a browser is shown the help."""

    @endpoint(Access.NONE, page=True)
    def get(self) -> Reply:
        """To the help."""
        return TO_HELP


def _added(number: int, queue: str, value: str) -> Reply:
    return _reply(historic.added(queue, value, message_key(queue, number)))


def _peeked(found: Peeked | None) -> Reply:
    return _EMPTY if found is None else _reply(historic.peeked(found))


def _taken(message: Message | None) -> Reply:
    if message is None:
        return _EMPTY
    return _GONE if message.body is None else _reply(historic.taken(message))


def _deleted(was_there: bool, queue: str, key: str) -> Reply:
    value = {"queue": queue, "deleted": was_there, "key": key}
    return _reply(historic.dumps(value).encode("ascii"))
