"""What is queued for a line, in the original's members and in those of RFC 3164 and RFC 5424."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.core.packs import Pack
from restmq.syslog.framing import Framer, Frames, Lines
from restmq.syslog.messages import (
    FACILITIES,
    FEWEST_PACKED,
    SEVERITIES,
    Bodies,
    Encoder,
    structured_data,
)

NOW = 1795294701.165406
POSTFIX = "<22>Nov  1 00:12:04 gleicon-vm1 postfix/smtpd[4880]: connect from localhost[127.0.0.1]"

STRUCTURED = (
    r'<165>1 - box app - ID47 [exampleSDID@32473 iut="3" eventSource="App \"x\" \] \\ \n"]'
    '[two ip="::1" ip="::2" ip="::3"][none] An event'
)


def encoded(*lines: bytes | str, cut: int | None = None, **how: bool) -> dict[str, list[str]]:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    frames = Frames(raw, frozenset() if cut is None else frozenset((cut,)))
    return shown(Encoder("10.0.0.7", **how).encode(frames, NOW))


def shown(queues: dict[str, Bodies]) -> dict[str, list[str]]:
    """Packs as the messages that are read."""
    return {
        queue: [body.decode() for body in bodies.bodies()] if isinstance(bodies, Pack) else bodies
        for queue, bodies in queues.items()
    }


def told(*lines: bytes | str, cut: int | None = None) -> list[dict[str, object]]:
    """All that can be told of the lines, without what is the same for all."""
    queues = encoded(*lines, cut=cut, bsd_fields=True)
    found = [json.loads(body) for body in queues["syslogd:10.0.0.7"]]
    for members in found:
        assert (members.pop("host"), members.pop("tstamp")) == ("10.0.0.7", NOW)
    return found


def one(line: bytes | str, **how: int) -> dict[str, object]:
    (members,) = told(line, **how)
    return members


def test_a_line_as_recorded_in_2015():
    body = f'{{"severity": "info", "line": "{POSTFIX}", "facility": "mail", '
    body += '"host": "10.0.0.7", "tstamp": 1795294701.165406}'
    assert encoded(POSTFIX) == {"syslogd:10.0.0.7": [body]}


def test_every_priority():
    lines = [f"<{pri}>x" for pri in range(192)]
    for number, members in enumerate(map(json.loads, encoded(*lines)["syslogd:10.0.0.7"])):
        assert members["facility"] == FACILITIES[number // 8]
        assert members["severity"] == SEVERITIES[number % 8]


@pytest.mark.parametrize(
    "line", ["", "x", "<>x", "<192>x", "<999>x", "<1000>x", "< 1>x", "<a>x", " <1>x"]
)
def test_a_line_without_a_priority_is_kept_all_the_same(line):
    assert one(line) == {"severity": None, "line": line, "facility": None}


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (
            POSTFIX,
            {
                "timestamp": "Nov  1 00:12:04",
                "hostname": "gleicon-vm1",
                "app_name": "postfix/smtpd",
                "procid": "4880",
                "message": "connect from localhost[127.0.0.1]",
            },
        ),
        (
            "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
            {
                "timestamp": "Oct 11 22:14:15",
                "hostname": "mymachine",
                "app_name": "su",
                "message": "'su root' failed for lonvick on /dev/pts/8",
            },
        ),
        (
            "<13>Nov 22 02:12:00 user: no host",
            {"timestamp": "Nov 22 02:12:00", "app_name": "user", "message": "no host"},
        ),
        (
            "<13>Nov 22 02:12:00 box just words",
            {"timestamp": "Nov 22 02:12:00", "hostname": "box", "message": "just words"},
        ),
        (
            "<13>2026-11-22T02:12:00.123+01:00 box app: iso",
            {
                "timestamp": "2026-11-22T02:12:00.123+01:00",
                "hostname": "box",
                "app_name": "app",
                "message": "iso",
            },
        ),
        (
            "<13>Nov 22 02:12:00 fe80::1 app[7]:",
            {
                "timestamp": "Nov 22 02:12:00",
                "hostname": "fe80::1",
                "app_name": "app",
                "procid": "7",
                "message": "",
            },
        ),
    ],
)
def test_the_header_of_rfc_3164_as_it_is_met(line, fields):
    members = one(line)
    assert {
        name: members[name] for name in members if name not in ("severity", "line", "facility")
    } == fields
    assert members["line"] == line


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (
            "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \ufeff'su root' failed",
            {
                "timestamp": "2003-10-11T22:14:15.003Z",
                "hostname": "mymachine.example.com",
                "app_name": "su",
                "msgid": "ID47",
                "message": "'su root' failed",
            },
        ),
        (
            "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time",
            {
                "timestamp": "2003-08-24T05:14:15.000003-07:00",
                "hostname": "192.0.2.1",
                "app_name": "myproc",
                "procid": "8710",
                "message": "%% It's time",
            },
        ),
        (
            STRUCTURED,
            {
                "hostname": "box",
                "app_name": "app",
                "msgid": "ID47",
                "structured_data": {
                    "exampleSDID@32473": {"iut": "3", "eventSource": 'App "x" ] \\ \\n'},
                    "two": {"ip": ["::1", "::2", "::3"]},
                    "none": {},
                },
                "message": "An event",
            },
        ),
        ("<13>1 - - - - - -", {"message": ""}),
        ('<13>1 - - - - - [a b="c"]', {"structured_data": {"a": {"b": "c"}}, "message": ""}),
        ('<13>1 - - - - - [a b="c] x', {"message": '[a b="c] x'}),
        ('<13>1 - - - - - [a b="c"]x', {"message": '[a b="c"]x'}),
    ],
)
def test_the_header_of_rfc_5424(line, fields):
    for members in (one(line), json.loads(encoded(line)["syslogd:10.0.0.7"][0])):
        assert members["line"] == line
        rest = {
            n: v for n, v in members.items() if n in fields or n in ("structured_data", "procid")
        }
        assert rest == fields


def test_a_line_of_rfc_3164_has_no_fields_unless_they_are_wanted():
    (body,) = encoded(POSTFIX)["syslogd:10.0.0.7"]
    assert list(json.loads(body)) == ["severity", "line", "facility", "host", "tstamp"]


@given(st.lists(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), max_size=5))
@example([b"a\nb", b"\\n", b"\\", b'"', b"\x00", b"\xff\xfe", "é\u2028😀".encode()])
def test_every_byte_survives(lines):
    """In text where it is UTF-8, else in base64; alone and in company."""
    for group in (lines, *([line] for line in lines)):
        for body, line in zip(encoded(*group).get("syslogd:10.0.0.7", []), group, strict=True):
            members = json.loads(body)
            value = members["line"]
            kept = b64decode(value) if members.get("encoding") == "base64" else value.encode()
            assert kept == line
            assert body.isascii()


HEADER_LIKE = st.from_regex(
    r"<[0-9]{1,3}>(1 )?(Nov  1 00:12:04|-) ([a-z:\"\[]{1,4} )?([a-z]{1,3}(\[[0-9a]{0,3}\])?:? ?)?[ -~é\n]{0,9}",
    fullmatch=True,
)


@given(st.lists(HEADER_LIKE, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_lines_in_company_are_told_as_lines_alone(lines, by_hostname, bsd_fields):
    """The fast way for many plain lines and the way for any line give the same to the byte."""
    how = {"by_hostname": by_hostname, "bsd_fields": bsd_fields}
    slow: dict[str, list[str]] = {}
    encoder = Encoder("10.0.0.7", **how)
    for line in lines:
        name, body = encoder._one(line.encode(), False, NOW)
        slow.setdefault(encoder._queue(name), []).append(body)
    assert encoded(*lines, **how) == slow
    for line in lines:
        for queue, (body,) in encoded(line, **how).items():
            assert body in slow[queue]


PACKABLE = st.from_regex(
    r"<(0|13|22|[0-9]{1,3})>(1 |1|Nov  1 00:12:04 box app: )?[ -~é\\\t\r\x00\ud7ff\u2028]{0,20}",
    fullmatch=True,
)


@given(st.lists(PACKABLE, min_size=1, max_size=40), st.booleans())
@example(["<13>" + "x" * 9] * FEWEST_PACKED, True)
@example(["<0>\r\r", "<0>\r"], True)
@example(['<13>a"b', "<13>\\n", *["<191>é"] * FEWEST_PACKED], True)
def test_lines_that_stay_together_say_what_each_says_alone(lines, repeat):
    """The packs of a read, opened, are what any line alone is made into, to the byte."""
    lines *= FEWEST_PACKED if repeat else 1
    encoder = Encoder("10.0.0.7")
    # A CR before the LF is none of the line; one before that is.
    slow = [encoder._one(line.removesuffix("\r").encode(), False, NOW)[1] for line in lines]
    stream = "".join(f"{line}\n" for line in lines).encode()
    frames = Framer(1 << 16).feed(stream)
    assert isinstance(frames, Lines) or b"\r" in stream
    assert shown(encoder.encode(frames, NOW)) == {"syslogd:10.0.0.7": slow}


def test_many_lines_are_a_pack_and_few_are_not():
    def made(*lines: bytes) -> list[bool]:
        queues = Encoder("10.0.0.7").encode(Frames(list(lines)), NOW)
        return [isinstance(bodies, Pack) for bodies in queues.values()]

    assert made(*[b"<13>x"] * FEWEST_PACKED) == [True]
    assert made(*[b"<13>x"] * (FEWEST_PACKED - 1)) == [False]
    for odd in (b"x", b"<192>x", b"<13>1 x", b"<013>x", b"<13>\xff", b"", b"<13>a\nb"):
        assert made(odd, *[b"<13>x"] * FEWEST_PACKED) == [False], odd
        assert made(*[b"<13>x"] * FEWEST_PACKED, odd) == [False], odd


def test_queues_by_the_hostname_in_the_line():
    lines = [POSTFIX, "<13>Nov  1 00:12:04 other app: x", "no header", POSTFIX]
    queues = encoded(*lines, by_hostname=True)
    assert {name: len(bodies) for name, bodies in queues.items()} == {
        "syslogd:gleicon-vm1": 2,
        "syslogd:other": 1,
        "syslogd:10.0.0.7": 1,
    }
    assert encoded(POSTFIX, POSTFIX, by_hostname=True).keys() == {"syslogd:gleicon-vm1"}
    ietf = "<13>1 - box.example - - - - x"
    assert encoded(ietf, by_hostname=True).keys() == {"syslogd:box.example"}


def test_a_line_that_is_no_utf_8_keeps_its_fields():
    members = one(b"<13>Nov  1 00:12:04 box app[1]: caf\xe9")
    assert b64decode(members["line"]) == b"<13>Nov  1 00:12:04 box app[1]: caf\xe9"
    assert b64decode(members["message"]) == b"caf\xe9"
    assert (members["hostname"], members["app_name"]) == ("box", "app")
    assert list(members)[-1] == "encoding"
    assert "hostname" not in one(b"<13>Nov  1 00:12:04 b\xe9x app: x")


def test_a_line_that_was_cut_says_so_and_ends_with_a_character():
    first, second = told("<13>" + "é" * 5, "<13>whole", cut=0)
    assert (first["truncated"], "truncated" in second) == (True, False)
    assert one("<13>é".encode()[:-1], cut=0)["line"] == "<13>"
    assert "encoding" not in one("<13>é".encode()[:-1], cut=0)
    assert one(b"<13>\xff\xfe", cut=0)["encoding"] == "base64"


@given(st.text(alphabet='[]="\\ ab', max_size=40))
def test_structured_data_of_any_kind_is_read_or_left(text):
    data, end = structured_data(text)
    assert bool(data) == bool(end)
    assert end <= len(text)


def test_long_nonsense_ends_the_search_at_once():
    for text in (
        "[a" + ' b="c"' * 20_000,
        '[a b="' + "\\" * 60_000,
        "[a " * 20_000,
        "[a]" * 20_000 + "x",
    ):
        one("<13>1 - - - - - " + text)
    one("<13>Nov  1 00:12:04 " + ":" * 60_000)
    one("<13>Nov  1 00:12:04 " + "a[" * 30_000)
