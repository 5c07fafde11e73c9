"""What a request says: parameters of the query and members of a JSON object, read strictly.

The two have the same names and may not say the same thing twice. A text of the query becomes the value
that JSON would have. Whatever is wrong is a `Problem` that names the parameter and what it may be;
numbers out of bounds are refused, not cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from reprlib import Repr
from typing import Any, Final, NamedTuple

import orjson

from restmq.web.queries import query_pairs
from restmq.web.v1.problems import Fault, Problem

MAX_FIELDS: Final = 1100
"""Of a query: 1,000 receipts, and room for what else there is."""
SHOWN: Final = 60
"""Characters of a wrong value that an error repeats."""

_BRIEF: Final = Repr()
"""Of what may be nested more deeply than `repr` can follow."""

_WHOLE: Final = re.compile(r"[0-9]{1,15}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_TRUTH: Final[Mapping[Any, bool]] = {"1": True, "true": True, "0": False, "false": False}


def shown(value: Any) -> str:
    """A wrong value as an error repeats it."""
    text = _BRIEF.repr(value) if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def wrong(name: str, what: str, value: Any, where: str = "") -> Problem:
    """The error for a value that is not ``what`` it must be."""
    fault = Fault(where or name, what)
    return Problem("bad_request", f"{name} {what}, not {shown(value)}", faults=(fault,))


class _Said(NamedTuple):
    """One parameter: texts of the query, or a value of the body."""

    value: Any
    is_text: bool


class Given:
    """The parameters of one request; ``where`` is the JSON pointer to the object they stand in."""

    __slots__ = ("_said", "_where")

    def __init__(self, said: Mapping[str, _Said], where: str = "") -> None:
        self._said = said
        self._where = where

    @classmethod
    def of_object(cls, members: Any, known: Collection[str], where: str = "") -> Given:
        """The members of a JSON object. Raises Problem for what is none, or an unknown member."""
        if not isinstance(members, dict):
            name = where.rpartition("/")[2] or "the body"
            raise wrong(name, "must be a JSON object", members, where or "/")
        said = {n: _Said(v, False) for n, v in members.items() if not n.startswith("_")}
        _refuse_unknown(said, known, "member", f"{where}/")
        return cls(said, where)

    def __contains__(self, name: str) -> bool:
        return name in self._said

    def __bool__(self) -> bool:
        return bool(self._said)

    def also(self, name: str, value: Any) -> Given:
        """With one more member of the body, which was read elsewhere. Raises Problem."""
        if name in self._said:
            raise _twice(name, f"/{name}")
        return Given({**self._said, name: _Said(value, False)}, self._where)

    def members(self, names: Collection[str]) -> dict[str, Any]:
        """What was said of these, as values; a text of the query is a string."""
        return {name: _first(said) for name, said in self._said.items() if name in names}

    def where(self, name: str) -> str:
        """What an error calls this parameter: its pointer, in a query its name."""
        said = self._said.get(name)
        return name if said is None or said.is_text else f"{self._where}/{name}"

    def wrong(self, name: str, what: str, value: Any) -> Problem:
        """The error for a value that is not ``what`` it must be."""
        return wrong(name, what, value, self.where(name))

    def text(self, name: str) -> str | None:
        """A string, None if it is not there."""
        said = self._said.get(name)
        if said is None:
            return None
        value = said.value[0] if said.is_text else said.value
        if not isinstance(value, str):
            raise self.wrong(name, "is a string", value)
        return value

    def word(self, name: str, words: Collection[str]) -> str | None:
        """One of these strings."""
        text = self.text(name)
        if text is not None and text not in words:
            raise self.wrong(name, f"is one of {', '.join(words)}", text)
        return text

    def texts(self, name: str, most: int) -> list[str] | None:
        """A list of 1 to ``most`` strings; in a query the parameter is repeated."""
        said = self._said.get(name)
        if said is None:
            return None
        value = said.value
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self.wrong(name, f"is a list of 1 to {most} strings", value)
        for place, text in enumerate(value):
            if not isinstance(text, str):
                raise wrong(f"{name}[{place}]", "is a string", text, f"{self.where(name)}/{place}")
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        said = self._said.get(name)
        if said is None:
            return default
        value = said.value
        if said.is_text and _WHOLE.fullmatch(value[0]):
            value = int(value[0])
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"is a whole number from {least} to {most}", _first(said))
        return value

    def seconds(self, name: str, least: float, most: float) -> float | None:
        """A number of seconds within bounds, None if it is not there."""
        said = self._said.get(name)
        if said is None:
            return None
        value = said.value
        if said.is_text and _SECONDS.fullmatch(value[0]):
            value = float(value[0])
        if type(value) not in (int, float) or not least <= value <= most:
            what = f"is a number of seconds from {least:g} to {most:.12g}"
            raise self.wrong(name, what, _first(said))
        return float(value)

    def truth(self, name: str) -> bool:
        """True or false, 1 and 0 too; false if it is not there."""
        said = self._said.get(name)
        if said is None:
            return False
        value = said.value
        if said.is_text:
            value = _TRUTH.get(value[0].lower())
        if value not in (True, False):  # 1 and 0 are equal to them
            raise self.wrong(name, "is true or false", _first(said))
        return bool(value)

    def object(self, name: str, known: Collection[str]) -> Given | None:
        """The parameters in an object of the body, None if it is not there."""
        said = self._said.get(name)
        if said is None:
            return None
        if said.is_text:
            raise self.wrong(name, "is an object in the body", said.value[0])
        return Given.of_object(said.value, known, f"{self._where}/{name}")


NOTHING: Final = Given({})


def _first(said: _Said) -> Any:
    return said.value[0] if said.is_text else said.value


def read_given(query: str, body: bytes, known: Collection[str], lists: Collection[str]) -> Given:
    """The parameters of a query and of a JSON object, those of ``known`` and ``lists``.

    Only ``lists`` may be repeated in the query. Names that begin with ``_`` are ignored. Raises Problem.
    """
    if not query and not body:
        return NOTHING
    said: dict[str, _Said] = {}
    for name, value in _pairs(query):
        if name.startswith("_"):
            continue
        found = said.get(name)
        if found is None:
            said[name] = _Said([value], True)
        elif name in lists:
            found.value.append(value)
        else:
            raise _twice(name, name)
    every = (*known, *lists)
    _refuse_unknown(said, every, "parameter", "")
    if body:
        for name, value in read_object(body).items():
            if name.startswith("_"):
                continue
            if name in said:
                raise _twice(name, f"/{name}")
            said[name] = _Said(value, False)
        _refuse_unknown(said, every, "member", "/")
    return Given(said)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Problem; no member may be there twice."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_json", f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise wrong("the body", "must be a JSON object", value, "/")
    members = len(value) + sum([len(v) for v in value.values() if isinstance(v, dict)])
    if body.count(b":") > members:  # only then can a name have been there twice
        _refuse_repeated(body)
    return value


def _refuse_repeated(body: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if not name.startswith("_") and names.count(name) > 1:
                raise _twice(name, f"/{name}")
        return {}

    try:
        json.loads(body, object_pairs_hook=check)
    except RecursionError:
        raise Problem("invalid_json", "the body is nested too deeply") from None


def _pairs(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return query_pairs(query, MAX_FIELDS)
    except UnicodeDecodeError:
        raise Problem("bad_request", "the query is not valid UTF-8") from None
    except ValueError:
        raise Problem("bad_request", f"the query has more than {MAX_FIELDS} fields") from None


def _refuse_unknown(said: Collection[str], known: Collection[str], kind: str, prefix: str) -> None:
    for name in said:
        if name not in known:
            words = ", ".join(sorted(known)) or "none"
            fault = Fault(prefix + name[:SHOWN], "is not known")
            why = f"unknown {kind} {shown(name)}; known here: {words}"
            raise Problem("bad_request", why, faults=(fault,))


def _twice(name: str, where: str) -> Problem:
    fault = Fault(where, "is there twice")
    return Problem("bad_request", f"the parameter {shown(name)} is there twice", faults=(fault,))
