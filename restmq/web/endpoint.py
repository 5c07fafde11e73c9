"""The base of all handlers: from a request to a value, and from a value to a response.

A handler is a subclass of ``Endpoint`` whose methods bear the decorator ``endpoint``::

    class Queue(Endpoint):
        @endpoint(Access.CONSUMER, jsonp=True, pops=True)
        def get(self, queue: str) -> Deferred[Reply]: ...

It returns a ``Reply``, a Deferred of one, or is ``async def``. It may raise what
``restmq.errors`` knows; ``STATUS`` is the one table from those to status codes. Whatever else
it raises is a bug: logged with its traceback, and answered 500. A method that streams calls
``self.start_stream(...)`` and returns None; ``self.exchange`` then is what it writes to.

The order of the checks: route (404), method (405), where the request comes from (403), who
sends it (401), a JSONP callback (400, 403), and then the handler's own.

A result that comes when the client has left is dropped.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

import cyclone.web
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger

from restmq.errors import (
    BadRequest,
    KeyReused,
    LeasedOnly,
    Limited,
    OutcomeUnknown,
    QueueFull,
    RateLimited,
    RestMQError,
    StoreAway,
    StoreFull,
    StoreRefused,
    TooManyBindings,
    TooManyQueues,
    WrongDelivery,
)
from restmq.rules import origin
from restmq.rules.acl import Access, Decision
from restmq.web.reply import Reply, error_reply, jsonp
from restmq.web.wire import Head, Refusal

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from restmq.core.broker import Broker
    from restmq.settings import Settings
    from restmq.web.exchange import Exchange, Request

__all__ = ["STATUS", "Access", "Endpoint", "Refusal", "Reply", "endpoint", "error_reply"]

log = Logger()

STATUS: Final[Mapping[type[RestMQError], int]] = {
    BadRequest: 400,
    StoreAway: 503,
    OutcomeUnknown: 503,
    StoreFull: 503,
    StoreRefused: 503,
    KeyReused: 422,
    LeasedOnly: 409,
    WrongDelivery: 409,
    Limited: 503,
    QueueFull: 507,
    TooManyQueues: 507,
    TooManyBindings: 507,
    RateLimited: 429,
}
"""The one table from errors to status codes; a subclass has the code of its parent."""

RETRY: Final = (("Retry-After", "1"),)
"""Where nothing happened. Not with OutcomeUnknown: trying again may do the thing twice."""

NEEDS_PASSWORD: Final = ("WWW-Authenticate", 'Basic realm="RestMQ", charset="UTF-8"')
CALLBACK: Final = re.compile(r"[A-Za-z_$][0-9A-Za-z_$]*(?:\.[A-Za-z_$][0-9A-Za-z_$]*)*")
MAX_CALLBACK: Final = 128
MAX_NOTES: Final = 256
"""Verdicts kept with one block of header fields, one for each address and operation."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Operation(NamedTuple):
    """What is known of one method of one handler."""

    function: Callable[..., Any]
    access: tuple[Access, ...]
    jsonp: bool
    page: bool
    pops: bool
    handshake: bool
    large: bool


def endpoint(
    *access: Access,
    jsonp: bool = False,
    page: bool = False,
    pops: bool = False,
    handshake: bool = False,
    large: bool = False,
) -> Callable[[_Method], _Method]:
    """Make a method of an Endpoint one that can be called from outside.

    ``access`` says whose rules apply; of several one must let the client in, and the method
    asks ``self.admit(access)`` when it knows which it is. ``jsonp``: a ``callback`` parameter
    makes a script of the reply. ``page``: an HTML page that changes nothing, which links on
    other sites may lead to. ``pops``: takes a message away, so that no page may have it
    fetched ahead of need, and nobody may store the reply. ``handshake``: of a WebSocket, which
    says by itself that it refuses a page of another site (`origin_refusal`). ``large``: its
    body brings many messages, and may have `Limits.large_body` bytes.
    """
    if not access:
        raise TypeError("say who may call it: endpoint(Access.NONE) for everybody")

    def decorate(method: _Method) -> _Method:
        operation = Operation(method, access, jsonp, page, pops, handshake, large)
        method.operation = operation  # type: ignore[attr-defined]
        return method

    return decorate


class Endpoint(cyclone.web.RequestHandler):
    """A handler for one route; see the module's text.

    cyclone's own attributes (``_headers``, ``ui`` ...) are not there: an Endpoint answers by
    what it returns.
    """

    operations: ClassVar[Mapping[str, Operation]] = {}
    """HTTP method to operation, collected when the class is made."""

    application: Any
    request: Request
    _callback: str | None = None

    def __init__(self, application: Any, request: Request, **kwargs: Any) -> None:
        self.application = application
        self.request = request
        if kwargs:
            self.initialize(**kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        operations = {}
        for method in cls.SUPPORTED_METHODS:
            function = getattr(cls, method.lower(), None)
            if function is None:
                continue
            operation = getattr(function, "operation", None)
            if operation is None:
                raise TypeError(f"{cls.__name__}.{method.lower()} has no @endpoint decorator")
            operations[method] = operation
        cls.operations = operations

    # -- for handlers --------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        """The broker."""
        broker: Broker = self.application.broker
        return broker

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """The daemon's Settings."""
        settings: Settings = self.application.config
        return settings

    @property
    def exchange(self) -> Exchange:
        """The request and its reply on the wire."""
        return self.request.connection

    def raw_parameter(self, name: str) -> bytes | None:
        """A parameter's exact bytes; of several the last, a form's before the query's.

        None when it is missing or blank. Raises BadRequest for a form nobody can read.
        """
        return self.request.fields().get(name.encode("utf-8"))

    def parameter(self, name: str) -> str | None:
        """A parameter as the original took it: control characters are spaces, ends stripped.

        TAB, LF, VT, FF and CR are kept inside. Raises BadRequest when it is not UTF-8.
        """
        value = self.request.fields().get(name.encode("utf-8"))
        if value is None:
            return None
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"the parameter {name} is not valid UTF-8") from None
        return _CONTROLS.sub(" ", text).strip()

    def admit(self, access: Access) -> None:
        """Raise Refusal 401 unless the access file lets this client do that."""
        _admit(self.application, (access,), self.request.head, self.request.remote_ip)

    def start_stream(
        self,
        content_type: str | bytes = "text/plain",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        at_once: bool = True,
    ) -> Exchange:
        """Begin a streamed response: see Exchange.start_stream. Its reply is never stored."""
        headers = (*headers, ("Cache-Control", "no-store"))
        self.exchange.start_stream(content_type, headers, at_once=at_once)
        return self.exchange

    # -- from request to reply -----------------------------------------------------------

    def _execute(self, transforms: Any, *args: Any, **kwargs: Any) -> None:
        """Check the request and have it answered; called by the application."""
        result: Deferred[object] = maybeDeferred(self._perform, *args, **kwargs)
        result.addCallback(self._succeeded)
        result.addErrback(self._failed)

    def _perform(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, if the request may."""
        request = self.request
        head = request.head
        operation = self.operations.get(head.method)
        if operation is None:
            raise self._no_such_method()
        if head.admitted_to is not operation or head.admitted_by is not self.application.acl:
            check(self.application, operation, head, request.remote_ip, request.protocol)
        if operation.jsonp and (head.query or request.body):
            self._callback = self._read_callback()
        return operation.function(self, *args, **kwargs)

    @classmethod
    def _no_such_method(cls) -> Refusal:
        allowed = ", ".join(cls.operations)
        return Refusal(405, f"allowed here: {allowed}", (("Allow", allowed),))

    def _read_callback(self) -> str | None:
        """The JSONP callback, if there is one. Raises unless it may be served."""
        callback = self.request.fields().get(b"callback")
        if callback is None:
            return None
        text = callback.decode("latin-1")
        if len(text) > MAX_CALLBACK or CALLBACK.fullmatch(text) is None:
            raise BadRequest("callback must be a name such as app.loaded, of ASCII letters")
        head = self.request.head
        reason = origin.jsonp_refusal(head.headers, head.host or None, self.settings.jsonp)
        if reason is not None:
            raise Refusal(403, reason)
        return text

    def _succeeded(self, reply: object) -> None:
        exchange = self.request.connection
        if not isinstance(reply, Reply):
            if reply is None and (exchange.streaming or not exchange.open):
                return
            raise TypeError(f"{type(self).__name__} returned no Reply and began no stream")
        if self._callback is not None and reply.status == 200:
            reply = jsonp(reply, self._callback)
        if self.operations[self.request.method].pops and not reply.no_store:
            reply = reply._replace(no_store=True)
        exchange.reply(reply)

    def _failed(self, failure: Failure) -> None:
        """Answer an error: by its class if it was foreseen, else 500 and the log."""
        exchange = self.request.connection
        reply = self._foreseen(failure)
        if reply is None:
            log.failure(
                "{method} {path} failed",
                failure,
                method=self.request.method,
                path=self.request.path,
            )
            reply = self.error(500)
        if exchange.streaming and not exchange.recall():
            exchange.abort()
        else:
            exchange.reply(reply)

    def error(
        self,
        status: int,
        why: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        problem: BaseException | None = None,
    ) -> Reply:
        """The reply to an error; ``problem`` is what was raised, if that was foreseen."""
        return error_reply(status, why, headers)

    def _foreseen(self, failure: Failure) -> Reply | None:
        """The reply to an error that is no bug."""
        error = failure.value
        if isinstance(error, Refusal):
            return self.error(error.status, error.why, error.headers, error)
        if isinstance(error, cyclone.web.HTTPError):
            return self.error(error.status_code)
        if isinstance(error, CancelledError):
            return self.error(503, "given up", RETRY)
        for kind in type(error).__mro__:
            status = STATUS.get(kind)
            if status is not None:
                again = status in (429, 503, 507) and not isinstance(error, OutcomeUnknown)
                return self.error(status, str(error), RETRY if again else (), error)
        return None

    @classmethod
    def check_head(cls, application: Any, head: Head, remote_ip: str, scheme: str) -> None:
        """Raise Refusal if no body can save this request: method, origin, access."""
        operation = cls.operations.get(head.method)
        if operation is None:
            raise cls._no_such_method()
        check(application, operation, head, remote_ip, scheme)


_CONTROLS: Final = re.compile("[\x00-\x08\x0e-\x1f]")


def check(application: Any, operation: Operation, head: Head, remote_ip: str, scheme: str) -> None:
    """Raise Refusal unless origin and access let the request pass; note in the head that they did.

    The note holds while the head, the operation and the access list are the same objects; the
    address is the connection's, as the head is. Where no callback is asked for it holds for all heads
    with these fields, from this address.
    """
    noted, fields = (operation, remote_ip, scheme), head.fields
    is_script = operation.jsonp and "callback=" in head.query
    if is_script or fields.admitted.get(noted) is not application.acl:
        _check(application, operation, head, remote_ip, scheme)
        if not is_script:
            if len(fields.admitted) >= MAX_NOTES:
                fields.admitted.clear()
            fields.admitted[noted] = application.acl
    head.admitted_to = operation
    head.admitted_by = application.acl


def _check(application: Any, operation: Operation, head: Head, remote_ip: str, scheme: str) -> None:
    config = application.config
    reason = (
        None
        if operation.handshake
        else origin.refusal(
            head.method,
            head.headers,
            config.host_names,
            config.origins,
            operation.page,
            operation.pops,
            scheme=scheme,
            script=operation.jsonp and config.jsonp and "callback=" in head.query,
        )
    )
    if reason is not None:
        raise Refusal(403, reason)
    _admit(application, operation.access, head, remote_ip)


def origin_refusal(application: Any, head: Head, scheme: str) -> str | None:
    """Why the page that this handshake comes from may not use the broker; None if it may."""
    config = application.config
    return origin.refusal(
        head.method, head.headers, config.host_names, config.origins, False, False, scheme=scheme
    )


def _admit(application: Any, accesses: tuple[Access, ...], head: Head, remote_ip: str) -> None:
    acl, shown = application.acl, credentials(head)
    if shown is None and accesses == (Access.WEBSOCKET,):
        shown = cookie_credentials(head)
    if len(accesses) == 1:
        decision = acl.decide(accesses[0], remote_ip, shown)
    else:
        decision = acl.decide_any(accesses, remote_ip, shown)
    if decision is Decision.NEEDS_PASSWORD:
        raise Refusal(401, "this needs a name and a password", (NEEDS_PASSWORD,))
    if decision is not Decision.ALLOW:
        raise Refusal(401, "your address may not do this")


def credentials(head: Head) -> tuple[str, str] | None:
    """Name and password of Basic authentication (RFC 7617), or None."""
    scheme, _, token = dict.get(head.headers, "authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = b64decode(token.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        text = decoded.decode("latin-1")
    return _name_and_password(text)


def cookie_credentials(head: Head) -> tuple[str, str] | None:
    """Name and password in the cookie ``auth``, as the original's WebSocket door took them."""
    try:
        cookie = SimpleCookie(dict.get(head.headers, "cookie", "")).get("auth")
    except CookieError:
        return None
    return None if cookie is None else _name_and_password(cookie.value)


def _name_and_password(text: str) -> tuple[str, str] | None:
    name, colon, password = text.partition(":")
    return (name, password) if colon else None
