r"""XML-RPC documents: a call out of bytes, a response or a fault into bytes.

The types are those of http://xmlrpc.com/spec.md, and of the extensions that clients use ``i1``, ``i2``,
``i8`` and ``nil``. Values become Python's: string is str, base64 bytes, int and its kin int, boolean
bool, double float, array list, struct dict, nil None, dateTime.iso8601 a ``Moment``.

expat reads, and what makes XML dangerous is refused where it begins: a document type, and with it
every entity but the five of XML itself; more than MAX_DEPTH elements inside each other; more than
MAX_ELEMENTS of them. The root begins within PROLOG_BYTES. The length is the caller's to bound.
Nothing is ever fetched.

What is sent is exact for every client that reads XML as it should: a carriage return is written
``&#13;``, since a bare one would be read as a line feed. The same happens to what clients send, so
they send bytes that matter as base64.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple
from xml.parsers import expat

from restmq.errors import RestMQError

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 50_000
PROLOG_BYTES: Final = 4096
PIECE_BYTES: Final = 262_144
"""How much expat is given at a time. It hears of our refusal only at the end of a piece, and goes on
till there: with entities in a prolog, or a million open elements behind it."""

PARSE_ERROR: Final = -32700
INVALID_CALL: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
"""Fault codes of xmlrpc-epi's "Specification for Fault Code Interoperability"; other numbers are
the method's own."""


class Moment(NamedTuple):
    """A dateTime.iso8601, as it was written."""

    text: str


Value = str | bytes | int | float | bool | Moment | list["Value"] | dict[str, "Value"] | None


class Fault(RestMQError):
    """What a caller is told instead of a result: a number for programs and a text for people."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Call(NamedTuple):
    """A method's name and what it is called with."""

    method: str
    params: list[Value]


def read_call(document: bytes) -> Call:
    """The call in a ``methodCall`` document.

    Raises Fault: PARSE_ERROR for what is no XML or dangerous, INVALID_CALL for other XML.
    """
    root = _Reader().read(document)
    if root.tag != "methodCall":
        raise Fault(INVALID_CALL, f"a call is a methodCall, this is a {_shown(root.tag)}")
    name, *rest = root.only("methodName", "params")
    params = rest[0].only("param") if rest else []
    if name.tag != "methodName" or len(rest) > 1 or any(one.tag != "params" for one in rest):
        raise Fault(
            INVALID_CALL, "a methodCall has one methodName, and then params if there are any"
        )
    return Call(name.as_text().strip(), [_only_value(param) for param in params])


# -- reading --------------------------------------------------------------------------------------


class _Element:
    """An element with what is in it; attributes mean nothing in XML-RPC."""

    __slots__ = ("children", "pieces", "tag")

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.pieces: list[str] = []
        self.children: list[_Element] = []

    @property
    def text(self) -> str:
        """All text directly in it."""
        return "".join(self.pieces)

    def only(self, *tags: str) -> list[_Element]:
        """Its children, all of these kinds and at least one unless they are plural."""
        if self.text.strip():
            raise Fault(INVALID_CALL, f"there is text between the elements of a {self.tag}")
        for child in self.children:
            if child.tag not in tags:
                raise Fault(INVALID_CALL, f"a {self.tag} can't hold a {_shown(child.tag)}")
        if not self.children and self.tag in _NEVER_EMPTY:
            raise Fault(INVALID_CALL, f"a {self.tag} can't be empty")
        return self.children

    def as_text(self) -> str:
        """Its text, when nothing else is in it."""
        if self.children:
            raise Fault(INVALID_CALL, f"a {self.tag} holds text only")
        return self.text


_NEVER_EMPTY: Final = {"methodCall", "param", "array", "member"}


class _Reader:
    """From bytes to a tree of bounded size."""

    def __init__(self) -> None:
        self._open: list[_Element] = [_Element("document")]
        self._count = 0
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def read(self, document: bytes) -> _Element:
        """The root element."""
        try:
            self._parse(document)
        except expat.ExpatError as error:
            raise Fault(PARSE_ERROR, f"this is no well-formed XML: {error}") from None
        except (LookupError, ValueError):  # from the search for a codec of that name
            raise Fault(PARSE_ERROR, "the encoding that the XML declares is not known") from None
        return self._open[0].children[0]

    def _parse(self, document: bytes) -> None:
        self._parser.Parse(document[:PROLOG_BYTES], False)
        if not self._count and len(document) > PROLOG_BYTES:
            raise Fault(PARSE_ERROR, f"no element begins within {PROLOG_BYTES} bytes")
        for start in range(PROLOG_BYTES, len(document), PIECE_BYTES):
            self._parser.Parse(document[start : start + PIECE_BYTES], False)
        self._parser.Parse(b"", True)

    def _doctype(self, *_: object) -> None:
        raise Fault(PARSE_ERROR, "a document type is refused, and with it entities of one's own")

    def _start(self, tag: str, _: Mapping[str, str]) -> None:
        self._count += 1
        if len(self._open) > MAX_DEPTH:
            raise Fault(PARSE_ERROR, f"at most {MAX_DEPTH} elements may be inside each other")
        if self._count > MAX_ELEMENTS:
            raise Fault(PARSE_ERROR, f"a call has at most {MAX_ELEMENTS} elements")
        element = _Element(tag)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _characters(self, text: str) -> None:
        self._open[-1].pieces.append(text)


def _only_value(element: _Element) -> Value:
    values = element.only("value")
    if len(values) != 1:
        raise Fault(INVALID_CALL, f"a {element.tag} holds one value")
    return _value(values[0])


def _value(element: _Element) -> Value:
    """What a ``value`` holds; without a type it is a string."""
    if not element.children:
        return element.text
    (typed, *more) = element.children
    if more or element.text.strip():
        raise Fault(INVALID_CALL, "a value holds one type, and nothing beside it")
    read = _TYPES.get(typed.tag)
    if read is None:
        raise Fault(INVALID_CALL, f"{_shown(typed.tag)} is no type of XML-RPC")
    return read(typed)


def _integer(bits: int) -> Callable[[_Element], int]:
    limit = 1 << (bits - 1)

    def read(element: _Element) -> int:
        text = element.as_text().strip()
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text) else limit
        if not -limit <= number < limit:
            raise Fault(INVALID_CALL, f"an {element.tag} is a whole number of {bits} bits")
        return number

    return read


def _boolean(element: _Element) -> bool:
    text = element.as_text().strip()
    if text not in ("0", "1"):
        raise Fault(INVALID_CALL, "a boolean is 0 or 1")
    return text == "1"


def _double(element: _Element) -> float:
    text = element.as_text().strip()
    found = re.fullmatch(
        r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?", text
    )
    number = float(text) if found else math.inf
    if math.isinf(number):
        raise Fault(INVALID_CALL, "a double is a decimal number, not too large")
    return number


def _base64(element: _Element) -> bytes:
    text = "".join(element.as_text().split())
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or text that is not ASCII
        raise Fault(INVALID_CALL, "a base64 holds no base64") from None


def _moment(element: _Element) -> Moment:
    return Moment(element.as_text().strip())


def _nil(element: _Element) -> None:
    if element.as_text().strip():
        raise Fault(INVALID_CALL, "a nil is empty")


def _array(element: _Element) -> list[Value]:
    parts = element.only("data")
    if len(parts) != 1:
        raise Fault(INVALID_CALL, "an array holds one data")
    return [_value(value) for value in parts[0].only("value")]


def _struct(element: _Element) -> dict[str, Value]:
    return dict(map(_member, element.only("member")))


def _member(element: _Element) -> tuple[str, Value]:
    parts = element.only("name", "value")
    if [part.tag for part in parts] != ["name", "value"]:
        raise Fault(INVALID_CALL, "a member holds a name and a value")
    return parts[0].as_text(), _value(parts[1])


_TYPES: Final[Mapping[str, Callable[[_Element], Value]]] = {
    "string": _Element.as_text,
    "int": _integer(32),
    "i1": _integer(8),
    "i2": _integer(16),
    "i4": _integer(32),
    "i8": _integer(64),
    "ex:i8": _integer(64),
    "boolean": _boolean,
    "double": _double,
    "base64": _base64,
    "dateTime.iso8601": _moment,
    "nil": _nil,
    "ex:nil": _nil,
    "array": _array,
    "struct": _struct,
}


def _shown(tag: str) -> str:
    """A client's word in a sentence of ours."""
    return repr(tag if len(tag) <= 40 else tag[:40] + "...")


# -- writing --------------------------------------------------------------------------------------

_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document can hold, in any spelling (section 2.2 of the Recommendation)."""

_SPECIAL: Final = re.compile("[&<>\r]")
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}


def text_if_possible(data: bytes) -> str | bytes:
    """The text that these bytes are, if XML can hold it; else the bytes, which go as base64."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    return data if _NO_XML.search(text) else text


def write_response(result: Value) -> bytes:
    """A ``methodResponse`` with this result. Text in it must be such as XML can hold."""
    return _document("<params><param>", _written(result), "</param></params>")


def write_fault(fault: Fault) -> bytes:
    """A ``methodResponse`` that says what went wrong."""
    return _document("<fault>", _written(fault_struct(fault)), "</fault>")


def fault_struct(fault: Fault) -> dict[str, Value]:
    """A fault as a value, as it stands in a response and in the result of a multicall."""
    return {"faultCode": fault.code, "faultString": _NO_XML.sub("\ufffd", str(fault))}


def _document(start: str, parts: Iterator[str], end: str) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<methodResponse>'
    return "".join((head, start, *parts, end, "</methodResponse>\n")).encode("utf-8")


def _written(value: Value) -> Iterator[str]:
    yield "<value>"
    match value:
        case bool():
            yield f"<boolean>{int(value)}</boolean>"
        case int():
            tag = "int" if -(1 << 31) <= value < 1 << 31 else "i8"
            yield f"<{tag}>{value}</{tag}>"
        case str():
            yield f"<string>{_escaped(value)}</string>"
        case bytes():
            yield f"<base64>{binascii.b2a_base64(value, newline=False).decode('ascii')}</base64>"
        case list():
            yield "<array><data>"
            for item in value:
                yield from _written(item)
            yield "</data></array>"
        case dict():
            yield "<struct>"
            for name, item in value.items():
                yield f"<member><name>{_escaped(name)}</name>"
                yield from _written(item)
                yield "</member>"
            yield "</struct>"
        case _:
            raise TypeError(f"no method of ours answers with a {type(value).__name__}")
    yield "</value>"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)
