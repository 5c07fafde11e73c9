"""What clients put: bodies, options and batches, read strictly and none of a wrong batch kept."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.message import NewMessage
from restmq.web.v1.given import Given, read_given
from restmq.web.v1.new_messages import (
    Bounds,
    Options,
    kept_headers,
    key_digest,
    read_batch,
    read_lines,
    read_options,
    stated_type,
)
from restmq.web.v1.problems import Problem


def options(query: str) -> Options:
    return read_options(read_given(query, b"", ("ttl", "delay", "deliver_at", "priority"), ()))


def batch(*items: Any) -> bytes:
    return json.dumps({"messages": items}).encode()


def problem_of(data: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        read_batch(data)
    return caught.value


def test_options_in_a_query() -> None:
    assert options("ttl=1.5&delay=0.25&priority=9") == Options(1500, 250, 0, 9)
    assert options("deliver_at=1970-01-01T00:00:01Z&_x=1".replace("1970", "1971")) == Options(
        0, 0, 31536001000, 0
    )
    assert options("deliver_at=2030-01-31t12:00:00.5%2B01:00").deliver_at_ms == 1896087600500
    assert options("ttl=0.00001").ttl_ms == 1
    assert options("delay=0") == Options()


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("ttl=0", "ttl"),
        ("ttl=-1", "ttl"),
        ("ttl=", "ttl"),
        ("ttl=1e3", "ttl"),
        ("ttl=nan", "ttl"),
        ("ttl=999999999999", "ttl"),
        ("ttl=315360001", "ttl"),
        ("ttl=%D9%A1", "ttl"),
        ("delay=-0.1", "delay"),
        ("delay=1&deliver_at=2030-01-01T00:00:00Z", "deliver_at"),
        ("deliver_at=tomorrow", "deliver_at"),
        ("deliver_at=2030-01-01T00:00:00", "deliver_at"),
        ("deliver_at=0001-01-01T00:00:00%2B14:00", "deliver_at"),
        ("deliver_at=9999-12-31T23:59:59-14:00", "deliver_at"),
        ("deliver_at=1893456000", "deliver_at"),
        ("priority=10", "priority"),
        ("priority=-1", "priority"),
        ("priority=1.0", "priority"),
        ("priority=99999999999999999999999999", "priority"),
        ("ttl=1&ttl=2", "ttl"),
        ("tll=1", "tll"),
    ],
)
def test_a_wrong_option_is_named(query: str, name: str) -> None:
    with pytest.raises(Problem) as caught:
        options(query)
    assert caught.value.status == 400
    assert name in caught.value.why
    assert caught.value.members()["errors"][0]["parameter"] == name


@pytest.mark.parametrize(
    ("sent", "body", "kept"),
    [
        ("", b'{"a": 1}', "application/json"),
        ("application/x-www-form-urlencoded", b"[1]", "application/json"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=1", None),
        ("", b"hello", None),
        ("text/plain", b'{"a": 1}', "text/plain"),
        ("application/vnd.x+json", b"1", "application/vnd.x+json"),
        ("image/png", b"\x89", "image/png"),
    ],
)
def test_the_type_that_is_kept(sent: str, body: bytes, kept: str | None) -> None:
    """Curl's default form type says nothing of the body."""
    assert stated_type(sent, body) == kept


def test_json_that_is_none_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        stated_type("application/json", b"{")
    assert caught.value.code == "invalid_json"


def test_user_headers_are_kept() -> None:
    fields = {"host": "x", "restmq-header-x-a": "b", "traceparent": "00-ab-cd-01", "accept": "*"}
    assert orjson.loads(kept_headers(fields)) == {"x-a": "b", "traceparent": "00-ab-cd-01"}
    assert kept_headers({"host": "x"}) == b""


@pytest.mark.parametrize(
    "fields",
    [
        {f"restmq-header-{n}": "x" for n in range(33)},
        {"restmq-header-a": "x" * 8192},
        {"restmq-header-": "x"},
        {"restmq-header-a": "\u00e9"},
        {"restmq-header-" + "a" * 129: "x"},
    ],
)
def test_headers_have_bounds(fields: dict[str, str]) -> None:
    with pytest.raises(Problem):
        kept_headers(fields)


def test_a_batch_of_texts_and_one_of_all_kinds_say_the_same() -> None:
    texts = batch({"body": "one"}, {"body": "tw\u00f6"})
    assert read_batch(texts).messages == [
        NewMessage(b"one"),
        NewMessage("tw\u00f6".encode()),
    ]
    found = read_batch(
        batch(
            {"body": "one", "ttl": 2, "_mine": [1]},
            {"body": {"a": [1, None]}, "delay": 0.5, "priority": 3},
            {"body": "x", "encoding": "json"},
            {"body": base64.b64encode(b"\xff").decode(), "encoding": "base64"},
            {"body": "<p>", "content_type": "text/html", "headers": {"X-A": "b"}},
            {"body": "k", "idempotency_key": "7", "deliver_at": "2030-01-01T00:00:00Z"},
        )
    ).messages
    assert found == [
        NewMessage(b"one", ttl_ms=2000),
        NewMessage(b'{"a": [1, null]}', "application/json", delay_ms=500, priority=3),
        NewMessage(b'"x"', "application/json"),
        NewMessage(b"\xff", "application/octet-stream"),
        NewMessage(b"<p>", "text/html", headers=b'{"x-a":"b"}'),
        NewMessage(b"k", deliver_at_ms=1893456000000, key=key_digest("7")),
    ]


def test_json_is_kept_as_it_was_sent() -> None:
    found = read_batch(b'{"messages":[{"body":{ "b":1.0,\n"a" : 1e2 }}]}').messages
    assert found[0].body == b'{ "b":1.0,\n"a" : 1e2 }'


def test_what_an_item_does_not_say_is_said_for_all() -> None:
    for_all = Options(5000, 1000, 0, 2)
    found = read_batch(
        batch({"body": "a"}, {"body": "b", "ttl": 1, "priority": 0}), Bounds(), for_all
    )
    assert found.messages == [
        NewMessage(b"a", None, 5000, 1000, 0, 2),
        NewMessage(b"b", None, 1000, 1000, 0, 0),
    ]
    later = read_batch(
        batch({"body": "c", "deliver_at": "2030-01-01T00:00:00Z"}), Bounds(), for_all
    )
    assert later.messages[0].delay_ms == 0


@pytest.mark.parametrize(
    ("item", "pointer"),
    [
        ({}, "/messages/1"),
        ({"body": "x", "tll": 1}, "/messages/1/tll"),
        ({"body": "x", "ttl": "1"}, "/messages/1/ttl"),
        ({"body": "x", "ttl": True}, "/messages/1/ttl"),
        ({"body": "x", "ttl": 0}, "/messages/1/ttl"),
        ({"body": "x", "ttl": -1}, "/messages/1/ttl"),
        ({"body": "x", "ttl": 10**400}, "/messages/1/ttl"),
        ({"body": "x", "delay": -0.001}, "/messages/1/delay"),
        ({"body": "x", "delay": 1, "deliver_at": "2030-01-01T00:00:00Z"}, "/messages/1/deliver_at"),
        ({"body": "x", "deliver_at": "soon"}, "/messages/1/deliver_at"),
        ({"body": "x", "deliver_at": 5}, "/messages/1/deliver_at"),
        ({"body": "x", "priority": 10}, "/messages/1/priority"),
        ({"body": "x", "priority": 1.5}, "/messages/1/priority"),
        ({"body": "x", "encoding": "rot13"}, "/messages/1/encoding"),
        ({"body": 1, "encoding": "text"}, "/messages/1/body"),
        ({"body": "!", "encoding": "base64"}, "/messages/1/body"),
        ({"body": "{", "content_type": "application/json"}, "/messages/1/body"),
        ({"body": "x", "content_type": "\u00e9"}, "/messages/1/content_type"),
        ({"body": "x", "content_type": "a" * 251}, "/messages/1/content_type"),
        ({"body": "x", "headers": {"a": 1}}, "/messages/1/headers"),
        ({"body": "x", "headers": {"a b": "1"}}, "/messages/1/headers"),
        ({"body": "x", "headers": [1]}, "/messages/1/headers"),
        ({"body": "x", "idempotency_key": "k" * 256}, "/messages/1/idempotency_key"),
        ({"body": "x", "idempotency_key": 7}, "/messages/1/idempotency_key"),
        (7, "/messages/1"),
    ],
)
def test_a_wrong_item_is_named(item: Any, pointer: str) -> None:
    problem = problem_of(batch({"body": "good"}, item))
    assert problem.status == 400
    assert problem.members()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"messages": [{"body": 01}]}', "invalid_json"),
        (b'{"messages": [{"body": "\xff"}]}', "invalid_json"),
        (b'{"messages": [{"body": {"a": "\\ud800"}}]}', "invalid_json"),
        (b'{"messages": [{"body": ' + b"[" * 100_000 + b"}]}", "invalid_json"),
        (b'{"messages": [{"_x": ' + b"[" * 100_000 + b"}]}", "invalid_json"),
        (b"[]", "bad_request"),
        (b"{}", "bad_request"),
        (b'{"messages": []}', "bad_request"),
        (b'{"messages": {}}', "bad_request"),
        (b'{"messages": [{"body": 1}], "more": 1}', "bad_request"),
        (batch(*[{"body": ""}] * (10_001)), "too_large"),
        (batch(*[{"body": "", "ttl": 1}] * (10_001)), "too_large"),
    ],
)
def test_what_is_no_batch(data: bytes, code: str) -> None:
    assert problem_of(data).code == code


def test_a_message_of_a_batch_has_a_bound() -> None:
    for item in ({"body": "x" * 11}, {"body": "x" * 11, "ttl": 1}):
        with pytest.raises(Problem) as caught:
            read_batch(batch({"body": "x"}, item), Bounds(10))
        assert caught.value.members()["errors"][0]["pointer"] == "/messages/1/body"
        assert caught.value.status == 413


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(JSON_VALUES, min_size=1, max_size=5), st.booleans())
def test_bodies_come_back_as_they_are(values: list[Any], indented: bool) -> None:
    """A string is text, everything else the JSON itself."""
    text = json.dumps(
        {"messages": [{"body": value} for value in values]}, indent=1 if indented else None
    )
    try:
        text.encode("utf-8").decode("utf-8")
        orjson.loads(text)
    except (UnicodeError, orjson.JSONDecodeError):  # a lone surrogate
        return
    for value, message in zip(values, read_batch(text.encode()).messages, strict=True):
        if isinstance(value, str):
            assert message.body.decode() == value
        else:
            assert json.loads(message.body) == value


@given(st.binary(max_size=12))
@example(b"1e999")
@example(b'"\\ud800"')
@example(b'{"a":"\\udc00"}')
@example(b'"\x7f"')
def test_what_is_taken_as_json_is_json_for_others(body: bytes) -> None:
    """It is spliced into replies, so nothing may pass that another reader refuses."""
    data = b'{"messages":[{"body":[' + body + b"]}]}"
    try:
        found = read_batch(data).messages
    except Problem:
        return
    for message in found:
        json.loads(message.body)
        message.body.decode("utf-8")


# ---- ndjson


def test_lines_are_bodies() -> None:
    data = b'{"n": 1}\r\n\n  "two" \n3'
    assert read_lines(data, Bounds(), Options(1000), b'{"a":"b"}') == [
        NewMessage(b'{"n": 1}', "application/json", 1000, headers=b'{"a":"b"}'),
        NewMessage(b'"two"', "application/json", 1000, headers=b'{"a":"b"}'),
        NewMessage(b"3", "application/json", 1000, headers=b'{"a":"b"}'),
    ]


@pytest.mark.parametrize("bad", [b"{", b"1 2", b'{"a": "\xff"}', b"nul", b"'a'"])
def test_a_bad_line_is_named(bad: bytes) -> None:
    lines = [b'{"n": 1}'] * 6000
    lines[4999] = bad
    with pytest.raises(Problem) as caught:
        read_lines(b"\n".join(lines))
    assert caught.value.code == "invalid_json"
    assert caught.value.members()["line"] == 5000


@given(st.lists(st.sampled_from([b"1", b"[1", b"2]", b"1,2", b'"a"', b" 3", b"", b'"', b"{}"])))
def test_lines_are_read_one_by_one_whatever_stands_in_them(lines: list[bytes]) -> None:
    """All are read at once, and together they may look right."""

    def is_value(line: bytes) -> bool:
        try:
            json.loads(line)
        except ValueError:
            return False
        return True

    said = [line.strip() for line in lines if line]
    if said and all(map(is_value, said)):
        assert [message.body for message in read_lines(b"\n".join(lines))] == said
    else:
        with pytest.raises(Problem):
            read_lines(b"\n".join(lines))


def test_lines_have_bounds() -> None:
    for data, code in (
        (b"1\n" * 10_001, "too_large"),
        (b"\n" * 20_001, "too_large"),
        (b"\n\n", "bad_request"),
        (b'"' + b"x" * 100 + b'"', "too_large"),
    ):
        with pytest.raises(Problem) as caught:
            read_lines(data, Bounds(100))
        assert caught.value.code == code


# ---- parameters in general


KNOWN = ("limit", "wait", "flag", "name")


def read(query: str = "", body: bytes = b"") -> Given:
    return read_given(query, body, KNOWN, ("list",))


def test_query_and_body_say_the_same() -> None:
    for said in (
        read("limit=5&wait=0.5&flag=true&name=a%20b&list=x&list=y&_cache=1"),
        read("", b'{"limit": 5, "wait": 0.5, "flag": true, "name": "a b", "list": ["x", "y"]}'),
        read("limit=5&list=x&list=y", b'{"wait": 0.5, "flag": 1, "name": "a b", "_x": {}}'),
    ):
        assert said.whole("limit", 1, 1, 10) == 5
        assert said.seconds("wait", 0, 1) == 0.5
        assert said.truth("flag") is True
        assert said.text("name") == "a b"
        assert said.texts("list", 10) == ["x", "y"]


@pytest.mark.parametrize(
    ("query", "body", "names"),
    [
        ("limit=1&limit=2", b"", "limit"),
        ("limit=1", b'{"limit": 2}', "limit"),
        ("list=1", b'{"list": ["2"]}', "list"),
        ("", b'{"limit": 1, "limit": 2}', "limit"),
        ("lim=1", b"", "lim"),
        ("", b'{"lim": 1}', "lim"),
        ("", b"[1]", "the body"),
        ("", b'{"limit": 1', "JSON"),
        ("name=%ff", b"", "UTF-8"),
        ("&".join(f"x{n}=1" for n in range(1200)), b"", "fields"),
    ],
)
def test_nothing_is_said_twice_or_unknown(query: str, body: bytes, names: str) -> None:
    with pytest.raises(Problem) as caught:
        read(query, body)
    assert caught.value.status == 400
    assert names in caught.value.why


@pytest.mark.parametrize(
    "value", ["5", 5.0, True, None, [], {}, -1, 0, 11, 10**30, float("1e300"), "x" * 10_000]
)
def test_wrong_numbers_are_refused_and_shortened(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        read("", json.dumps({"limit": value}).encode()).whole("limit", 1, 1, 10)
    assert caught.value.members()["errors"][0]["pointer"] == "/limit"
    assert len(caught.value.why) < 200


def test_a_repeated_name_may_stand_in_a_string() -> None:
    assert read("", b'{"name": "limit: limit: :::"}').text("name") == "limit: limit: :::"
