"""What collectd says, read: PUTVAL lines and notifications."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.collectd_text import event, metrics
from restmq.errors import BadRequest

LINE = "PUTVAL host1/df/df-boot interval=10 1288548767:116497408.000000:391246848.000000"
METRIC = {
    "host": "host1",
    "type_instance": "df-boot",
    "plugin_instance": "df",
    "value": "1288548767:116497408.000000:391246848.000000",
    "interval": "10",
}


def test_a_line_in_the_words_and_the_order_of_the_original():
    assert json.dumps(metrics(LINE)) == json.dumps([METRIC])


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\n\r\n"])
def test_lines_end_as_they_like(end):
    assert metrics(LINE + "\r\n" + LINE + end) == [METRIC, METRIC]


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ('PUTVAL "host one/df/df-boot" interval=10 1:2', {"host": "host one"}),
        (r'PUTVAL "a\"b\\c/df/df-boot" interval=10 1:2', {"host": 'a"b\\c'}),
        ('PUTVAL "h ö 日/df/df-boot" interval="10" 1:2', {"host": "h ö 日"}),
        ("PUTVAL host1/df/df-boot 1:2", {"interval": None}),
        ("putval host1/df/df-boot Interval=10.000 1:2", {"interval": "10.000"}),
        ("PUTVAL\thost1/df/df-boot\tinterval=10  1:2 ", {}),
        ("  PUTVAL   host1/df/df-boot   interval=10 1:2", {}),
        ("PUTVAL host1/df/df-boot interval=10 meta:x=1 1:2", {}),
        ("PUTVAL host1/df/a/b/c interval=10 1:2", {"type_instance": "a/b/c"}),
        ("PUTVAL a=b/df/df-boot interval=10 1:2", {"host": "a=b"}),
        ("PUTVAL host1/df/df-boot interval=10 N:U:nan:-1.5e+3:inf", {"value": "N:U:nan:-1.5e+3:inf"}),
    ],
)  # fmt: skip
def test_the_spellings_of_a_line(line, changes):
    expected = {**METRIC, "value": "1:2", **changes}
    assert metrics(line) == [expected]


def test_several_values_of_one_metric_are_several_metrics():
    found = metrics("PUTVAL h/p/t interval=10 1.5:2 2.5:3 3.5:4")
    assert [metric["value"] for metric in found] == ["1.5:2", "2.5:3", "3.5:4"]
    assert {metric["host"] for metric in found} == {"h"}


def test_other_lines_are_passed_over():
    assert metrics(f"# a comment\n\nPUTNOTIF x\nPUTVALUE\n{LINE}\n") == [METRIC]
    assert metrics("") == []


@pytest.mark.parametrize(
    "line",
    [
        "PUTVAL",
        "PUTVAL ",
        "PUTVAL host1",
        "PUTVAL host1/df 1:2",
        "PUTVAL /df/df 1:2",
        "PUTVAL host1//df 1:2",
        "PUTVAL host1/df/ 1:2",
        "PUTVAL host one/df/df interval=10 1:2",
        "PUTVAL host1/df/df",
        "PUTVAL host1/df/df interval=10",
        "PUTVAL host1/df/df interval=ten 1:2",
        "PUTVAL host1/df/df interval=-1 1:2",
        "PUTVAL host1/df/df interval=10 1",
        "PUTVAL host1/df/df interval=10 1:",
        "PUTVAL host1/df/df interval=10 :2",
        "PUTVAL host1/df/df interval=10 1:2:",
        "PUTVAL host1/df/df interval=10 1:x",
        "PUTVAL host1/df/df interval=10 1:٢",
        'PUTVAL "host1/df/df interval=10 1:2',
        'PUTVAL "host1/df/df\\" 1:2',
        'PUTVAL host1/df/df" interval=10 1:2',
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_taken(line):
    with pytest.raises(BadRequest, match=r"^line 2: "):
        metrics(f"{LINE}\n{line}\n{LINE}")


@pytest.mark.parametrize(
    "rest",
    ['"' + "a" * 300_000, '"\\' * 150_000, 'a"b"' * 80_000 + '"', "1" * 300_000, "\"a\"" * 99_999],
)  # fmt: skip
def test_a_long_wrong_line_ends_the_search_at_once(rest):
    """Quotation marks without an end: a pattern that tried every way to read them never came back."""
    with pytest.raises(BadRequest):
        metrics("PUTVAL h/p/t " + rest)


@given(st.text())
def test_no_text_does_anything_but_be_refused(text):
    for read in (metrics, event):
        for form in (text, "PUTVAL " + text):
            with suppress(BadRequest):
                json.dumps(read(form))


NOTIFICATION = "Severity: WARNING\nTime: 1288548727\nTypeInstance: boot\n\nHost h is low."


@pytest.mark.parametrize("text", [NOTIFICATION, NOTIFICATION + "\n"])
def test_a_notification(text):
    assert event(text) == [
        {"severity": "WARNING"},
        {"time": "1288548727"},
        {"typeinstance": "boot"},
        {"event_text": "Host h is low."},
    ]
    assert event(text.replace("\n", "\r\n")) == event(text)


def test_a_header_keeps_its_spaces_and_a_text_its_lines():
    found = event("Host: my host\nPlugin:\nA: b: c\n\none\n\nPlugin: two\n")
    assert found == [
        {"host": "my host"},
        {"plugin": ""},
        {"a": "b: c"},
        {"event_text": "one\n\nPlugin: two"},
    ]


@pytest.mark.parametrize("text", ["", "\n", "text", "Severity: OKAY\ntext", "Severity: OKAY\n\n"])
def test_a_notification_needs_headers_and_a_text(text):
    with pytest.raises(BadRequest, match="an empty line"):
        event(text)


@pytest.mark.parametrize("line", ["no header", ": x", "A b: c", "é: x"])
def test_a_wrong_header_is_named(line):
    with pytest.raises(BadRequest, match=r"^line 2: "):
        event(f"Severity: OKAY\n{line}\n\ntext")
