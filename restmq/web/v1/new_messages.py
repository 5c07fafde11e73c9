"""What a client puts, read into `NewMessage`: the options, one body, a batch of JSON, lines of ndjson.

Pure: bytes and texts come in; whatever is wrong is a `Problem` that names the member (RFC 6901) or the
line, and then none of the batch is put. What costs is done for the batch, not for each message: one
typed decoder looks at all fields, and items of a body alone take a way of their own.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
import orjson
from msgspec import Meta, Raw

from restmq.message import NewMessage
from restmq.web.message_json import is_json
from restmq.web.v1.given import Given, shown
from restmq.web.v1.problems import Fault, Problem

if TYPE_CHECKING:
    from restmq.settings import Settings

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
FORM: Final = "application/x-www-form-urlencoded"
MAX_SECONDS: Final = 10 * 365 * 86400
"""The longest ttl and delay."""
MAX_PRIORITY: Final = 9
MAX_CONTENT_TYPE: Final = 250
MAX_KEY: Final = 255
HEADER_PREFIX: Final = "restmq-header-"
TRACE: Final = "traceparent"
"""W3C Trace Context: kept with the message under this name."""
OPTIONS: Final = ("ttl", "delay", "deliver_at", "priority")

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]*")
_PATH: Final = re.compile(r" - at `\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[]+)|\[([0-9]+|\.\.\.)\]")


class Bounds(NamedTuple):
    """What one request may bring: bytes of a message, messages, user headers of each and their bytes."""

    message_bytes: int = 1048576
    items: int = 10_000
    headers: int = 32
    header_bytes: int = 8192

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """The bounds in the settings."""
        return cls(
            settings.max_message_bytes,
            settings.max_batch,
            settings.max_user_headers,
            settings.max_user_header_bytes,
        )


USUAL: Final = Bounds()


class Options(NamedTuple):
    """What holds for a message besides its body."""

    ttl_ms: int = 0
    delay_ms: int = 0
    deliver_at_ms: int = 0
    priority: int = 0


NO_OPTIONS: Final = Options()


def read_options(given: Given) -> Options:
    """``ttl delay deliver_at priority``. Raises Problem."""
    ttl = given.seconds("ttl", 0, MAX_SECONDS)
    if ttl == 0:
        raise given.wrong("ttl", "is a number of seconds above 0", 0)
    delay = given.seconds("delay", 0, MAX_SECONDS)
    when = given.text("deliver_at")
    if when is not None and delay is not None:
        raise given.wrong("deliver_at", "goes without delay: one of them says when", when)
    at = 0 if when is None else _instant(when, given.where("deliver_at"))
    priority = given.whole("priority", 0, 0, MAX_PRIORITY)
    return Options(_ms(ttl), _ms(delay), at, priority)


def _ms(seconds: float | None) -> int:
    """Milliseconds; a time above 0 is at least one."""
    return max(1, round(seconds * 1000)) if seconds else 0


def _instant(text: str, where: str) -> int:
    """An RFC 3339 time in milliseconds since 1970. Raises Problem."""
    try:
        at = datetime.fromisoformat(text.upper()) if len(text) <= 40 else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or at.year < 1971 or at.year > 9000:
        what = "is a time such as 2030-01-31T12:00:00Z"
        why = f"deliver_at {what}, not {shown(text)}"
        raise Problem("bad_request", why, faults=(Fault(where, what),))
    return round(at.timestamp() * 1000)


def stated_type(sent: str, body: bytes) -> str | None:
    """The content type to keep. curl's form type says nothing: JSON if it parses, else text (None).

    Raises Problem for a body that says it is JSON and is not, or an impossible type.
    """
    if not sent or sent.partition(";")[0].strip().lower() == FORM:
        return JSON if _parses(body) is None else None
    if len(sent) > MAX_CONTENT_TYPE or not (sent.isascii() and sent.isprintable()):
        what = f"has at most {MAX_CONTENT_TYPE} printable ASCII characters"
        raise Problem(
            "bad_request", f"the content type {what}", faults=(Fault("content_type", what),)
        )
    if is_json(sent) and (fault := _parses(body)) is not None:
        raise Problem("invalid_json", f"the body is not the JSON that its type says it is: {fault}")
    return sent


def _parses(body: bytes) -> str | None:
    """None for JSON, else why it is none."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return str(error)
    return None


# ---- headers


NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def kept_headers(
    fields: Mapping[str, str], bounds: Bounds = USUAL, more: Mapping[str, str] = NO_HEADERS
) -> bytes:
    """The user headers among a request's header fields (lower-case names), as a JSON object.

    ``more`` are kept as well. Nothing if there are none. Raises Problem.
    """
    found = dict(more)
    for name, value in fields.items():
        if name.startswith(HEADER_PREFIX):
            found[name.removeprefix(HEADER_PREFIX)] = value
        elif name == TRACE:
            found[TRACE] = value
    return encode_headers(found, bounds) if found else b""


def encode_headers(
    headers: Mapping[str, str], bounds: Bounds, where: str = "RestMQ-Header"
) -> bytes:
    """User headers as a JSON object with lower-case names. Raises Problem."""
    size = 0
    for name, value in headers.items():
        size += len(name) + len(value)
        if _HEADER_NAME.fullmatch(name) is None:
            raise _bad_headers(f"the header name {shown(name)} is no token of RFC 9110", where)
        if _PRINTABLE.fullmatch(value) is None:
            raise _bad_headers(f"the header {name} must be printable ASCII", where)
    if len(headers) > bounds.headers or size > bounds.header_bytes:
        most = f"{bounds.headers} headers of {bounds.header_bytes} bytes in all"
        raise _bad_headers(f"a message has at most {most}", where)
    return orjson.dumps({name.lower(): value for name, value in headers.items()})


def _bad_headers(why: str, where: str) -> Problem:
    return Problem("bad_request", why, faults=(Fault(where, why),))


def key_digest(key: str, where: str = "Idempotency-Key") -> bytes:
    """An Idempotency-Key as the store keeps it, nothing for none. Raises Problem."""
    if not key:
        return b""
    if len(key) > MAX_KEY or not (key.isascii() and key.isprintable()):
        what = f"has 1 to {MAX_KEY} printable ASCII characters"
        raise Problem("bad_request", f"an idempotency key {what}", faults=(Fault(where, what),))
    return blake2b(key.encode("ascii"), digest_size=16).digest()


# ---- batches


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An item with nothing but a text."""

    body: str


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An item with nothing but a body."""

    body: Raw


class Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message in JSON: an item of a batch, and what ``put`` says on a WebSocket."""

    body: Raw
    content_type: Annotated[str, Meta(max_length=MAX_CONTENT_TYPE)] = ""
    encoding: Literal["json", "text", "base64"] | None = None
    ttl: Annotated[float, Meta(gt=0, le=MAX_SECONDS)] | None = None
    delay: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | None = None
    deliver_at: str | None = None
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] | None = None
    headers: dict[str, str] | None = None
    idempotency_key: str = ""


AnItem = TypeVar("AnItem", bound=Item)


@cache
def _decoder(item: type[msgspec.Struct], most: int) -> msgspec.json.Decoder[Any]:
    """For batches of at most so many of these items."""
    listed = Annotated[list[item], Meta(min_length=1, max_length=most)]  # type: ignore[valid-type]
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("messages", listed),
        ("queue", str | None, None),
    ]
    struct = msgspec.defstruct("Batch", fields, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(struct)


class Batch(NamedTuple):
    """What a batch says: its messages, and the queue if it names one."""

    messages: list[NewMessage]
    queue: str | None = None


_VALUES: Final = msgspec.json.Decoder(list[Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_LIST: Final = msgspec.json.Decoder(list[dict[str, Raw]])


def read_batch(
    data: bytes, bounds: Bounds = USUAL, options: Options = NO_OPTIONS, headers: bytes = b""
) -> Batch:
    """``{"messages": [...]}``; what an item does not say is as in ``options`` and ``headers``.

    Raises Problem.
    """
    refuse_bad_utf8(data)
    if options is NO_OPTIONS and not headers and (plain := _plain_batch(data, bounds)):
        _refuse_larger(plain.messages, len(data), bounds.message_bytes)
        return plain
    items = _decode(data, bounds)
    messages = [
        read_item(item, f"/messages/{place}", bounds, options, headers)
        for place, item in enumerate(items.messages)
    ]
    _refuse_larger(messages, len(data), bounds.message_bytes)
    return Batch(messages, items.queue)


def _plain_batch(data: bytes, bounds: Bounds) -> Batch | None:
    """The batch if its items have nothing but a body; None: the other decoder tells what there is."""
    try:
        texts = _decoder(_Body, bounds.items).decode(data)
        return Batch([NewMessage(item.body.encode()) for item in texts.messages], texts.queue)
    except msgspec.DecodeError:
        pass
    try:
        bodies = _decoder(_Plain, bounds.items).decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    messages = [NewMessage(*plain_body(bytes(item.body))) for item in bodies.messages]
    return Batch(messages, bodies.queue)


def plain_body(raw: bytes) -> tuple[bytes, str | None]:
    """Body and content type of an item that says nothing else: a string is text, all else is JSON."""
    return (_TEXT.decode(raw).encode(), None) if raw.startswith(b'"') else (raw, JSON)


def _decode(data: bytes, bounds: Bounds) -> Any:
    """The items, checked; ``messages`` and ``queue``."""
    decoder = _decoder(Item, bounds.items)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        if b'"_' not in data:
            raise explained(error, bounds) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise not_json(error) from None
    try:
        return decoder.decode(_without_private(data))
    except msgspec.ValidationError as error:
        raise explained(error, bounds) from None


def _without_private(data: bytes) -> bytes:
    """The batch without the members whose names begin with ``_``, which say nothing."""
    try:
        members = _public(_MEMBERS.decode(data))
        if "messages" in members:
            items = [_public(item) for item in _LIST.decode(members["messages"])]
            members["messages"] = Raw(msgspec.json.encode(items))
    except (msgspec.DecodeError, RecursionError) as error:
        raise not_json(error) from None
    return msgspec.json.encode(members)


def _public(members: Mapping[str, Raw]) -> dict[str, Raw]:
    return {name: value for name, value in members.items() if not name.startswith("_")}


class _AsSent(msgspec.Struct, gc=False):
    """What of a command on a WebSocket is kept to the byte."""

    body: Raw = Raw()
    messages: Raw = Raw()


_AS_SENT: Final = msgspec.json.Decoder(_AsSent)


def keep_as_sent(command: dict[str, Any], frame: bytes) -> None:
    """Put the bytes of the frame in place of what a JSON decoder made of ``body`` and ``messages``.

    Numbers stay as they were written, and members that are there twice. Raises Problem.
    """
    names = [name for name in _AsSent.__struct_fields__ if name in command]
    if names:
        try:
            sent = _AS_SENT.decode(frame)
        except (msgspec.DecodeError, RecursionError) as error:
            raise not_json(error) from None
        command.update({name: getattr(sent, name) for name in names})


def read_command(members: Mapping[str, Any], bounds: Bounds = USUAL) -> NewMessage:
    """One message of the members of a command, its body as it was sent. Raises Problem."""
    return read_item(as_item(members, Item, bounds), "", bounds, NO_OPTIONS, b"")


def as_item(members: Mapping[str, Any], kind: type[AnItem], bounds: Bounds) -> AnItem:
    """The item that members are, decoded but for their ``body``. Raises Problem."""
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        raise explained(error, bounds) from None


def read_item(
    item: Item, where: str, bounds: Bounds, options: Options, headers: bytes
) -> NewMessage:
    """One message; ``where`` is the pointer to it. Raises Problem."""
    body, content_type = _body(item, where)
    if item.headers:
        headers = encode_headers(item.headers, bounds, f"{where}/headers")
    when, delay = item.deliver_at, item.delay
    if when is not None and delay is not None:
        what = "goes without delay: one of them says when"
        fault = Fault(f"{where}/deliver_at", what)
        raise Problem("bad_request", f"deliver_at {what}", faults=(fault,))
    delay_ms, at = options.delay_ms, options.deliver_at_ms
    if when is not None:
        delay_ms, at = 0, _instant(when, f"{where}/deliver_at")
    elif delay is not None:
        delay_ms, at = _ms(delay), 0
    return NewMessage(
        body,
        content_type,
        options.ttl_ms if item.ttl is None else _ms(item.ttl),
        delay_ms,
        at,
        options.priority if item.priority is None else item.priority,
        headers,
        key_digest(item.idempotency_key, f"{where}/idempotency_key"),
    )


def _body(item: Item, where: str) -> tuple[bytes, str | None]:
    """The body's bytes and the content type to keep. Raises Problem."""
    raw, encoding, sent = bytes(item.body), item.encoding, item.content_type
    is_string = raw.startswith(b'"')
    if encoding == "json" or (encoding is None and not is_string):
        return raw, _type_of(sent, raw, where) if sent else JSON
    if not is_string:
        raise _bad_body(f"with encoding {encoding} the body is a string", where)
    text = _TEXT.decode(raw)
    if encoding == "base64":
        try:
            body = b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise _bad_body("the body is not valid base64", where) from None
        return body, _type_of(sent or BINARY, body, where)
    body = text.encode("utf-8")
    return body, _type_of(sent, body, where) if sent else None


def _type_of(sent: str, body: bytes, where: str) -> str | None:
    try:
        return stated_type(sent, body)
    except Problem as problem:
        member = "body" if problem.code == "invalid_json" else "content_type"
        problem.faults = (Fault(f"{where}/{member}", problem.why),)
        raise


def _bad_body(why: str, where: str) -> Problem:
    return Problem("bad_request", why, faults=(Fault(f"{where}/body", why),))


def read_lines(
    data: bytes, bounds: Bounds = USUAL, options: Options = NO_OPTIONS, headers: bytes = b""
) -> list[NewMessage]:
    """ndjson: each line that is not empty is the JSON body of one message. Raises Problem."""
    refuse_bad_utf8(data)
    if data.count(b"\n") > 2 * bounds.items:
        raise _too_many(bounds)
    max_bytes = bounds.message_bytes
    lines = data.removesuffix(b"\n").split(b"\n")
    if len(data) <= max_bytes and len(lines) <= bounds.items and _are_values(lines):
        return [NewMessage(line, JSON, *options, headers) for line in lines]
    messages: list[NewMessage] = []
    for number, line in enumerate(lines, 1):
        body = line.strip(b" \t\r")
        if not body:
            continue
        fault = _parses(body)
        if fault is not None:
            raise Problem("invalid_json", f"line {number} is not valid JSON: {fault}", line=number)
        if len(body) > max_bytes:
            why = f"a message has at most {max_bytes} bytes, line {number} has {len(body)}"
            raise Problem("too_large", why, line=number)
        messages.append(NewMessage(body, JSON, *options, headers))
    if len(messages) > bounds.items:
        raise _too_many(bounds)
    if not messages:
        raise Problem("bad_request", "a batch has at least one message, a JSON body a line")
    return messages


def _are_values(lines: list[bytes]) -> bool:
    """Whether each line is one JSON value and nothing else, told by reading all of them at once."""
    try:
        values = _VALUES.decode(b"[%b]" % b",".join(lines))
    except (msgspec.DecodeError, RecursionError):
        return False
    return [bytes(value) for value in values] == lines


def _too_many(bounds: Bounds) -> Problem:
    return Problem("too_large", f"a batch has at most {bounds.items} messages")


def refuse_bad_utf8(data: bytes) -> None:
    """Raise Problem, which names the place, for what is not UTF-8: a JSON decoder may let it pass."""
    if data.isascii():
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = f"byte {error.start} in line {line} is not UTF-8"
        raise Problem("invalid_json", why, line=line) from None


def _refuse_larger(messages: list[NewMessage], all_bytes: int, max_bytes: int) -> None:
    if all_bytes <= max_bytes:
        return
    for place, message in enumerate(messages):
        size = len(message.body)
        if size > max_bytes:
            why = f"a message has at most {max_bytes} bytes, number {place} has {size}"
            raise Problem("too_large", why, faults=(Fault(f"/messages/{place}/body", why),))


def not_json(error: Exception) -> Problem:
    """The error for bytes that are no JSON."""
    return Problem("invalid_json", f"the body is not valid JSON: {error}")


def explained(error: msgspec.ValidationError, bounds: Bounds = USUAL) -> Problem:
    """The decoder's words, with its path as a JSON pointer."""
    text = str(error)
    path = _PATH.search(text)
    steps = _STEP.findall(path[1]) if path else []
    pointer = "".join([f"/{name or index}" for name, index in steps]).replace("/...", "")
    why = text[: path.start()] if path else text
    if "length <=" in why and pointer == "/messages":
        return _too_many(bounds)
    unknown = re.search(r"unknown field `(.*)`", why)
    if unknown:
        pointer = f"{pointer}/{unknown[1][:60]}"
    fault = Fault(pointer or "/", why)
    return Problem("bad_request", f"{pointer or 'the body'}: {why[:300]}", faults=(fault,))
