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

Lines come by the thousand, so those that are plain are escaped as one text, and are taken apart only when somebody
reads them: they are a `Pack`.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Final

from restmq.core.packs import Pack
from restmq.syslog.framing import Frames, Lines

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

_NOT_IETF: Final = re.compile(rb"<([0-9]{1,3})>(?!1 )")
"""The head of a line with a priority that is not of RFC 5424."""

FEWEST_PACKED: Final = 8
"""Fewer lines than that are messages of their own: who reads them has less to do."""

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


Bodies = list[str] | Pack
"""Messages of one queue, in order."""


class Encoder:
    """What one sender sends, made into messages."""

    def __init__(self, host: str, by_hostname: bool = False, bsd_fields: bool = False) -> None:
        """``host`` is the sender's address. ``by_hostname``: queues are named by what lines say.

        ``bsd_fields``: what the header of a line of RFC 3164 says is told, too.
        """
        self._own = f"syslogd:{host}"
        self._by_hostname = by_hostname
        self._bsd_fields = bsd_fields
        self._apart = by_hostname or bsd_fields
        self._fronts = _fronts(host)

    def encode(self, frames: Frames | Lines, now: float) -> dict[str, Bodies]:
        """The messages of these frames by queue, in order, each a text of ASCII.

        ``now`` is seconds since 1970.
        """
        lines = frames if isinstance(frames, Lines) else _together(frames)
        if lines is not None:
            queues = self._with_fields(lines, now) if self._apart else self._packed(lines, now)
            if queues is not None:
                return queues
        slow: dict[str, list[str]] = {}
        for number, line in enumerate(frames.messages):
            hostname, body = self._one(line, number in frames.cut, now)
            slow.setdefault(self._queue(hostname), []).append(body)
        return dict(slow)

    def _queue(self, hostname: str | None) -> str:
        return f"syslogd:{hostname}" if hostname and self._by_hostname else self._own

    def _packed(self, lines: Lines, now: float) -> dict[str, Bodies] | None:
        """Lines that stay together; None if some are of RFC 5424, or have no priority, or are no UTF-8."""
        templates, end = {}, f"{now!r}}}"
        for head in lines.heads:
            found = _NOT_IETF.match(head)
            parts = self._fronts.get(found[1].decode()) if found else None
            if found is None or parts is None:
                return None
            front, middle = parts
            templates[found[1]] = (front.encode("ascii"), f"{middle}{end}".encode("ascii"))
        text = _escaped(lines)
        if text is None:
            return None
        pack = Pack(templates, text, lines.number)
        if lines.number < FEWEST_PACKED:
            return {self._own: [body.decode("ascii") for body in pack.bodies()]}
        return {self._own: pack}

    def _with_fields(self, lines: Lines, now: float) -> dict[str, Bodies] | None:
        """Lines with what their headers say; None unless all are as most senders write them."""
        escaped = _escaped(lines)
        if escaped is None:
            return None
        text, count = escaped.decode("ascii"), lines.number
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
        return dict(queues)

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


def _together(frames: Frames) -> Lines | None:
    """As one text; None where one was cut, has an LF in it, or does not begin with ``<``."""
    messages, cut = frames
    if cut or not messages:
        return None
    lines = Lines.of(b"\n".join(messages))
    return lines if lines is not None and lines.number == len(messages) else None


def _escaped(lines: Lines) -> bytes | None:
    """The lines as JSON writes them, without quotation marks, one below the other; None if they are no UTF-8."""
    if lines.plain:
        return lines.text
    try:
        text = lines.text.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\\" in text:  # the LF that JSON writes could not be told from those that were said
        shown = "\n".join([encode_basestring_ascii(line)[1:-1] for line in text.split("\n")])
    else:
        shown = encode_basestring_ascii(text)[1:-1].replace("\\n", "\n")
    return shown.encode("ascii")


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
