r"""Syslog messages as the JSON that is queued; no I/O here.

The first five members are those of the original, in its order, ``tstamp`` being when the message came::

    {"severity": "info", "line": "<22>Nov  1 00:12:04 mail postfix/smtpd[48]: connect", "facility":
    "mail", "host": "10.0.0.7", "tstamp": 1795294701.165406}

Behind them comes what the header of RFC 5424 says, with ``msgid`` and ``structured_data``, and where that is
wanted what a header of RFC 3164 says, as such are met in the wild::

    "timestamp": "Nov  1 00:12:04", "hostname": "mail", "app_name": "postfix/smtpd", "procid": "48",
    "message": "connect"

A field that is missing, or ``-``, has no member. A line that is not UTF-8 is base64, and so is ``message``;
``"encoding": "base64"`` at the end says so. A line that was cut ends in ``"truncated": true``.

Lines come by the thousand, so those that are plain are escaped as one text, and taken apart after that.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Final

from restmq.syslog.framing import Frames

FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "at", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
)  # fmt: skip
SEVERITIES: Final = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
"""The original's words, by the numbers of RFC 5424, 6.2.1."""

HIGHEST_PRI: Final = 191

_PRI: Final = r"<([0-9]{1,3})>"
_STAMP: Final = r"[A-Z][a-z]{2} [ 0-3][0-9] [0-9:]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[^ ]{8,32}"
_BSD: Final = re.compile(
    rf"{_PRI}({_STAMP})(?: ([^ ]{{0,254}}[^ :]))? "
    r"(?:([^ :\[]{1,128})(?:\[([^ \]]{0,128})\])?:(?: |\Z))?(.*)",
    re.DOTALL,
)
"""RFC 3164: time, host, and ``TAG[PID]: text``; a host may be missing, or a tag."""

_USUAL: Final = re.compile(
    rf"^({_PRI}([A-Z][a-z]{{2}} [ 0-3][0-9] [0-9:]{{8}}) ([!-9;-\[\]-~]{{1,255}}+) ([^ :\[\n]{{1,128}}+)"
    r"(?:\[([^ \]\n]{1,128}+)\])?+:(?: |$)(.*+))$",
    re.MULTILINE,
)
"""The same for many escaped lines at once, each of which has a host and a tag."""

_NOT_IETF: Final = re.compile(rf"^({_PRI}(?!1 ).*+)$", re.MULTILINE)
"""Escaped lines with a priority that are not of RFC 5424."""

_PLAIN: Final = bytes((10, 32, 33, *range(35, 92), *range(93, 127)))
"""What JSON does not escape, and the LF between lines."""

_IETF: Final = re.compile(
    rf"{_PRI}1 ([^ ]{{1,64}}) ([^ ]{{1,255}}) ([^ ]{{1,128}}) ([^ ]{{1,128}}) ([^ ]{{1,128}}) "
    r"(?:-(?: (.*))?\Z|(\[.*))",
    re.DOTALL,
)
"""RFC 5424: version 1, time, host, application, process, message id, structured data, text."""

_ELEMENT: Final = re.compile(
    r'\[([^ =\]"]{1,255})((?: [^ =\]"]{1,255}="(?:[^"\\\]]|\\.)*+")*+)\]', re.DOTALL
)
_PARAMETER: Final = re.compile(r' ([^ =\]"]{1,255})="((?:[^"\\\]]|\\.)*+)"', re.DOTALL)
_ESCAPED: Final = re.compile(r'\\(["\\\]])')
_BOM: Final = "\ufeff"
_ONLY_PRI: Final = re.compile(_PRI)


class Encoder:
    """What one sender sends, made into messages."""

    def __init__(self, host: str, by_hostname: bool = False, bsd_fields: bool = False) -> None:
        """``host`` is the sender's address. ``by_hostname``: queues are named by what lines say.

        ``bsd_fields``: what the header of a line of RFC 3164 says is told, too.
        """
        self._own = f"syslogd:{host}"
        self._by_hostname = by_hostname
        self._bsd_fields = bsd_fields
        self._together = self._with_fields if by_hostname or bsd_fields else self._without_fields
        self._fronts = _fronts(host)

    def encode(self, frames: Frames, now: float) -> dict[str, list[str]]:
        """The messages of these frames by queue, in order, each a text of ASCII.

        ``now`` is seconds since 1970.
        """
        lines, cut = frames
        if not lines:
            return {}
        text = None if cut else _escaped(lines)
        together = None if text is None else self._together(text, len(lines), now)
        if together is not None:
            return together
        queues: dict[str, list[str]] = {}
        for number, line in enumerate(lines):
            hostname, body = self._one(line, number in cut, now)
            queues.setdefault(self._queue(hostname), []).append(body)
        return queues

    def _queue(self, hostname: str | None) -> str:
        return f"syslogd:{hostname}" if hostname and self._by_hostname else self._own

    def _without_fields(self, text: str, count: int, now: float) -> dict[str, list[str]] | None:
        """Lines that were escaped as one text; None if some are of RFC 5424, or have no priority."""
        rows = _NOT_IETF.findall(text)
        fronts = self._fronts
        if len(rows) != count or not fronts.keys() >= {pri for _, pri in rows}:
            return None
        end = f"{now!r}}}"
        return {self._own: [f"{fronts[pri][0]}{line}{fronts[pri][1]}{end}" for line, pri in rows]}

    def _with_fields(self, text: str, count: int, now: float) -> dict[str, list[str]] | None:
        """The same, with what their headers say; None unless all are as most senders write them."""
        rows = _USUAL.findall(text)
        fronts = self._fronts
        if len(rows) != count or not fronts.keys() >= {row[1] for row in rows}:
            return None
        queues: dict[str, list[str]] = {}
        stamp, process = f'{now!r}, "timestamp": "', '", "procid": "'
        for line, pri, when, hostname, tag, pid, said in rows:
            body = f"{fronts[pri][0]}{line}{fronts[pri][1]}"
            if self._bsd_fields:
                body += (
                    f'{stamp}{when}", "hostname": "{hostname}", '
                    f'"app_name": "{tag}{pid and process}{pid}", "message": "{said}"}}'
                )
            else:
                body += f"{now!r}}}"
            queues.setdefault(self._queue(hostname), []).append(body)
        return queues

    def _one(self, line: bytes, cut: bool, now: float) -> tuple[str | None, str]:
        """Any line: its host's name, if it says one, and the message."""
        text, is_text = _decoded(line, cut)
        start, middle = self._front(text)
        fields, message, is_ietf = _header(text)
        name = fields.get("hostname")
        if not (is_ietf or self._bsd_fields):
            fields, message = {}, None
        if not is_text:
            fields = {name: value for name, value in fields.items() if str(value).isascii()}
        members = [f', "{name}": {_shown(value)}' for name, value in fields.items()]
        if is_text:
            shown = encode_basestring_ascii(text)[1:-1]
            if message is not None:
                members.append(f', "message": {_shown(message)}')
        else:
            shown = b64encode(line).decode("ascii")
            if message is not None:
                raw = b64encode(message.encode("latin-1")).decode("ascii")
                members.append(f', "message": "{raw}"')
            members.append(', "encoding": "base64"')
        if cut:
            members.append(', "truncated": true')
        return name if isinstance(
            name, str
        ) else None, f"{start}{shown}{middle}{now!r}{''.join(members)}}}"

    def _front(self, text: str) -> tuple[str, str]:
        found = _ONLY_PRI.match(text)
        return self._fronts.get(str(int(found[1])) if found else "", self._fronts[""])


@lru_cache(maxsize=1024)
def _fronts(host: str) -> Mapping[str, tuple[str, str]]:
    """By priority, what stands before a line and what between it and the time; "" is for no priority."""
    end = f'", "host": {json.dumps(host)}, "tstamp": '
    fronts = {
        str(pri): (
            f'{{"severity": "{SEVERITIES[pri % 8]}", "line": "',
            f'", "facility": "{FACILITIES[pri // 8]}{end}',
        )
        for pri in range(HIGHEST_PRI + 1)
    }
    fronts[""] = ('{"severity": null, "line": "', f'", "facility": null{end[1:]}')
    return fronts


def _escaped(lines: Sequence[bytes]) -> str | None:
    """The lines as JSON writes them, without quotation marks, one below the other.

    None unless all are UTF-8, without a backslash, without an LF, and none is empty: those are left to
    others, since where the next one begins could not be told.
    """
    joined = b"\n".join(lines)
    if not joined.translate(None, _PLAIN):
        text = joined.decode("ascii")
    elif b"\\" in joined:
        return None
    else:
        try:
            text = encode_basestring_ascii(joined.decode("utf-8"))[1:-1].replace("\\n", "\n")
        except UnicodeDecodeError:
            return None
    return text if text.count("\n") == len(lines) - 1 else None


def _decoded(line: bytes, cut: bool) -> tuple[str, bool]:
    """The line's text, and whether it is UTF-8; else each byte is taken for a character.

    Of a line that was cut within a character the beginning of that character is left out.
    """
    try:
        return line.decode("utf-8"), True
    except UnicodeDecodeError as error:
        if cut and error.reason == "unexpected end of data":
            return line[: error.start].decode("utf-8"), True
        return line.decode("latin-1"), False


_Structured = dict[str, dict[str, str | list[str]]]


_Fields = dict[str, str | _Structured]


def _shown(value: str | _Structured) -> str:
    """As JSON; for a string json.dumps takes five times as long."""
    return encode_basestring_ascii(value) if isinstance(value, str) else json.dumps(value)


def _header(text: str) -> tuple[_Fields, str | None, bool]:
    """What the header of a line says, the message behind it, and whether it is of RFC 5424.

    The message is None if there is no header.
    """
    found = _IETF.match(text)
    if found is None:
        return (*_bsd_header(text), False)
    _, *words, message, structured = found.groups()
    names = ("timestamp", "hostname", "app_name", "procid", "msgid")
    fields: _Fields = {name: word for name, word in zip(names, words, strict=True) if word != "-"}
    if structured is not None:
        data, end = structured_data(structured)
        if data:
            fields["structured_data"] = data
        message = structured[end:].removeprefix(" ")
    return fields, (message or "").removeprefix(_BOM), True


def _bsd_header(text: str) -> tuple[_Fields, str | None]:
    found = _BSD.match(text)
    if found is None:
        return {}, None
    _, *words, message = found.groups()
    names = ("timestamp", "hostname", "app_name", "procid")
    return {name: word for name, word in zip(names, words, strict=True) if word}, message


def structured_data(text: str) -> tuple[_Structured, int]:
    """RFC 5424, 6.3: elements by id, their parameters by name; and where they end in the text.

    A parameter that is there more than once is a list. What is malformed ends it: nothing is taken.
    """
    found: _Structured = {}
    at = 0
    while element := _ELEMENT.match(text, at):
        parameters = found.setdefault(element[1], {})
        for name, raw in _PARAMETER.findall(element[2]):
            _put(parameters, name, _ESCAPED.sub(r"\1", raw) if "\\" in raw else raw)
        at = element.end()
    return (found, at) if text[at : at + 1] in ("", " ") else ({}, 0)


def _put(parameters: dict[str, str | list[str]], name: str, value: str) -> None:
    known = parameters.get(name)
    if known is None:
        parameters[name] = value
    elif isinstance(known, list):
        known.append(value)
    else:
        parameters[name] = [known, value]
