r"""What collectd says: metrics in its plain text protocol, and notifications.

A metric is a line as collectd-unixsock(5) describes PUTVAL, and as the plugin write_http sends it::

    PUTVAL host1/load/load interval=10.000 1288548767.123:0.10:0.20:0.30
    PUTVAL "host one/df-root/df_complex-free" interval=10.000 1288548767:1164 1288548777:1165

Fields stand between blanks, or in quotation marks with ``\"`` and ``\\`` inside. A notification is what
collectd-exec(5) writes: headers, an empty line, a text.

Values stay the texts they are: no digit is lost here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from restmq.errors import BadRequest

_PUTVAL: Final = re.compile(r"[ \t]*PUTVAL(?=[ \t]|\Z)", re.IGNORECASE)
_FIELD: Final = re.compile(r'[ \t]*+((?:[^ \t"]|"(?:[^"\\]|\\.)*+")++)(?=[ \t]|\Z)')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_OPTION: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.:-]*)=(.*)", re.DOTALL)
_NUMBER: Final = r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf)"
_VALUES: Final = re.compile(rf"(?:N|[0-9]+(?:\.[0-9]*)?)(?::(?:U|{_NUMBER}))+", re.IGNORECASE)
_HEADER: Final = re.compile(r"([A-Za-z][A-Za-z0-9_]*):[ \t]*(.*)", re.DOTALL)

MOST_QUOTED: Final = 60
"""How much of a wrong line an error repeats."""


def metrics(text: str) -> list[dict[str, str | None]]:
    """The metrics of all PUTVAL lines, in the words and the order that the original used.

    One for each list of values; ``interval`` is None where none was said. Lines that are no
    PUTVAL are passed over. Raises BadRequest with the number of the line that is wrong.
    """
    found: list[dict[str, str | None]] = []
    for number, line in enumerate(_lines(text), 1):
        command = _PUTVAL.match(line)
        if command is not None:
            found += _metrics(_fields(line[command.end() :], number), number)
    return found


def event(text: str) -> list[dict[str, str]]:
    """A notification: each header by its name in small letters, and ``event_text`` at the end.

    Raises BadRequest for anything but headers, an empty line and a text.
    """
    lines = _lines(text.rstrip("\r\n"))
    end = lines.index("") if "" in lines else 0
    if not end:
        raise BadRequest("a notification has headers, an empty line and a text")
    found = []
    for number, line in enumerate(lines[:end], 1):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _wrong(number, f"a header is Name: value, not {_short(line)}")
        found.append({header[1].lower(): header[2].rstrip(" \t")})
    return [*found, {"event_text": "\n".join(lines[end + 1 :])}]


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.split("\n")]


def _fields(rest: str, number: int) -> list[str]:
    """The fields of a line, without their quotation marks."""
    fields, position = [], 0
    rest = rest.rstrip(" \t")
    while position < len(rest):
        field = _FIELD.match(rest, position)
        if field is None:
            raise _wrong(number, f"quotation marks do not pair in {_short(rest[position:])}")
        fields.append(_QUOTED.sub(lambda found: _ESCAPED.sub(r"\1", found[1]), field[1]))
        position = field.end()
    return fields


def _metrics(fields: list[str], number: int) -> Iterator[dict[str, str | None]]:
    """One metric for each list of values of a PUTVAL."""
    parts = fields[0].split("/", 2) if fields else []
    if len(parts) != 3 or not all(parts):
        raise _wrong(number, "PUTVAL is followed by host/plugin/type")
    host, plugin, kind = parts
    interval, values = None, []
    for field in fields[1:]:
        option = _OPTION.fullmatch(field)
        if option is None:
            values.append(_checked(field, number))
        elif option[1].lower() == "interval":
            interval = _interval(option[2], number)
    if not values:
        raise _wrong(number, "there are no values, such as 1288548767:0.10")
    for value in values:
        yield {
            "host": host,
            "type_instance": kind,
            "plugin_instance": plugin,
            "value": value,
            "interval": interval,
        }


def _checked(field: str, number: int) -> str:
    if _VALUES.fullmatch(field) is None:
        raise _wrong(number, f"values are a time and numbers with colons, not {_short(field)}")
    return field


def _interval(text: str, number: int) -> str:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,12})?", text) is None:
        raise _wrong(number, f"interval is a number of seconds, not {_short(text)}")
    return text


def _wrong(number: int, why: str) -> BadRequest:
    return BadRequest(f"line {number}: {why}")


def _short(text: str) -> str:
    return repr(text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + "...")
