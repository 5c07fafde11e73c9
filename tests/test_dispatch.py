"""The JSON protocol: what each text means, and how each mistake is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.dispatch import (
    ACCESSES,
    COMMANDS,
    Add,
    BadCommand,
    Command,
    CommandRefused,
    Del,
    Get,
    Take,
    UnknownCommand,
    parse,
)
from restmq.errors import BadQueueName, BadRequest, RestMQError
from restmq.names import MAX_NAME_BYTES, message_key
from restmq.rules.acl import Access


def command(**members: object) -> str:
    return json.dumps(members)


def refusal(**members: object) -> str:
    """The error text that goes to the client with status 200."""
    with pytest.raises(CommandRefused) as caught:
        parse(command(**members))
    assert not isinstance(caught.value, BadRequest)
    return str(caught.value)


# -- commands -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ('{"cmd": "add", "queue": "genesis", "value": "abacab"}', Add("genesis", "abacab")),
        ('{"cmd": "get", "queue": "genesis"}', Get("genesis")),
        ('{"cmd": "take", "queue": "genesis"}', Take("genesis")),
        ('{"cmd": "del", "queue": "q", "key": "q:7"}', Del("q", "q:7", 7)),
        (b'{"cmd": "get", "queue": "q"}', Get("q")),
        ('{"cmd": "get", "queue": ""}', Get("")),
        ('{"cmd": "add", "queue": "q", "value": ""}', Add("q", "")),
        ('\t{"cmd": "get", "queue": "\u00e9 / \\u20ac"}\r\n', Get("\u00e9 / \u20ac")),
        ('{"cmd": "get", "queue": "a", "queue": "b"}', Get("b")),
        ('{"cmd": "get", "cmd": "take", "queue": "b"}', Take("b")),
    ],
)
def test_each_command_becomes_a_value(text: str | bytes, meaning: Command) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize("value", ["  padded  ", "007", "a\0b\x1f", "\U0001f600\u2028", "1e5"])
def test_a_value_is_kept_as_it_is(value: str) -> None:
    """Numbers stay text, and neither space nor control characters are cleaned away."""
    added = parse(command(cmd="add", queue="q", value=value))
    assert added == Add("q", value)
    assert isinstance(added, Add)
    assert added.body == value.encode()


@pytest.mark.parametrize(
    "more", [{"ttl": 100}, {"callback": "cb"}, {"n": 10**30}, {"deep": [[[]]]}, {"key": 5}]
)
def test_members_a_command_does_not_know_are_ignored(more: dict[str, object]) -> None:
    """json_ttl_ignored, json_callback_ignored"""
    assert parse(command(cmd="take", queue="q", **more)) == Take("q")


def test_each_command_says_what_right_it_needs() -> None:
    """Add and del change what is there, get and take read it, as POST, DELETE and GET on /q."""
    assert Add.access is Del.access is Access.PRODUCER
    assert Get.access is Take.access is Access.CONSUMER
    assert set(ACCESSES) == {Add.access, Get.access}


def test_a_queue_in_the_path_stands_for_the_member() -> None:
    """/queue/<queue>"""
    assert parse('{"cmd": "take"}', "q") == Take("q")
    assert parse('{"cmd": "take", "queue": "q"}', "q") == Take("q")
    assert parse('{"cmd": "take"}', "") == Take("")
    with pytest.raises(BadCommand, match="two different queues"):
        parse('{"cmd": "take", "queue": "other"}', "q")


# -- mistakes answered 200, in the words of the original ------------------------------------


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"cmd": "add"}, "'queue'"),
        ({"cmd": "add", "queue": "q"}, "'value'"),
        ({"cmd": "add", "value": "v"}, "'queue'"),
        ({"cmd": "add", "queue": 5}, "'value'"),
        ({"cmd": "get"}, "'queue'"),
        ({"cmd": "take"}, "'queue'"),
        ({"cmd": "del"}, "'queue'"),
        ({"cmd": "del", "queue": "q"}, "'key'"),
        ({"cmd": "del", "key": "k"}, "'queue'"),
    ],
)
def test_a_missing_member_is_named(members: dict[str, object], text: str) -> None:
    """json_missing_members"""
    assert refusal(**members) == text


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5, "int"),
        (1.5, "float"),
        (True, "bool"),
        (None, "NoneType"),
        ({}, "dict"),
        ([], "list"),
    ],
)
def test_a_member_of_another_type_is_refused_as_it_was(value: object, kind: str) -> None:
    """json_value_types"""
    text = f"'{kind}' object has no attribute 'encode'"
    assert refusal(cmd="add", queue="q", value=value) == text
    for word in COMMANDS:
        assert refusal(cmd=word, queue=value, value="v", key="k") == text
    assert refusal(cmd="del", queue="q", key=value) == "data must be utf-8"


@pytest.mark.parametrize(
    "word", ["ADD", "add ", "purge", "_init__", "_class__", "_doc__", "__class__", "\u00e9", " "]
)
def test_a_word_that_is_no_command_is_no_attribute_either(word: str) -> None:
    """json_dunder_cmd: `_class__` was a 500 and `_doc__` a 503"""
    with pytest.raises(UnknownCommand, match=r"^null resultset$"):
        parse(command(cmd=word, queue="q"))


# -- what is no command: 400 ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("cmd=add", "is not JSON"),
        ("{'cmd': 'get'}", "is not JSON"),
        ('{"cmd": "get", "queue": "q"} x', "is not JSON"),
        ('{"cmd": "get", "queue": NaN}', "is not JSON"),
        ('{"cmd": "get", "queue": "q", "n": Infinity}', "is not JSON"),
        ('{"cmd": "add", "queue": "q", "value": "\\ud800"}', "is not JSON"),
        ('{"cmd": "get", "queue": "\\udc00\\ud800"}', "is not JSON"),
        ('{"cmd": "get", "queue": "\ud800"}', "is not JSON"),
        (b'{"cmd": "get", "queue": "\xe9"}', "is not JSON"),
        ('{"cmd": "get", "queue": "a\nb"}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"a":' * 100_000, "is not JSON"),
        ('{"cmd": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "this is an array"),
        ('"add"', "this is a string"),
        ("7", "this is a number"),
        ("7.5", "this is a number"),
        ("true", "this is true or false"),
        ("null", "this is null"),
        ("{}", "one of add, get, take, del"),
        ('{"cmd": ""}', "one of add, get, take, del"),
        ('{"cmd": null}', "one of add, get, take, del"),
        ('{"cmd": 0}', "one of add, get, take, del"),
        ('{"cmd": false}', "one of add, get, take, del"),
        ('{"cmd": []}', "one of add, get, take, del"),
        ('{"cmd": 5}', "must be a string, this one is a number"),
        ('{"cmd": ["add"]}', "must be a string, this one is an array"),
        ('{"cmd": {"a": 1}}', "must be a string, this one is an object"),
        ('{"cmd": true}', "must be a string, this one is true or false"),
    ],
)
def test_what_is_no_command_is_a_bad_request_that_says_why(text: str | bytes, says: str) -> None:
    with pytest.raises(BadCommand, match=says):
        parse(text)


def test_a_queue_name_too_long_is_a_bad_request() -> None:
    with pytest.raises(BadQueueName):
        parse(command(cmd="get", queue="q" * (MAX_NAME_BYTES + 1)))


# -- del ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "QUEUESET",
        "q:UUID",
        "q:queue",
        "q:queuepolicy",
        "queuestat::q",
        "{q}",
        "q",
        "q:",
        ":1",
        "other:1",
        "q:1:lock",
        "q:1:refcount",
        "q:-1",
        "q:+1",
        "q:01",
        "q: 1",
        "q:1 ",
        "q:1.0",
        "q:\u0661",
        "q:" + "9" * 400,
        "",
    ],
)
def test_del_names_a_message_of_its_queue_or_nothing(key: str) -> None:
    """json_del_any_redis_key: it once deleted whatever the key named"""
    assert parse(command(cmd="del", queue="q", key=key)) == Del("q", key, None)


# -- laws -----------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8"), max_size=40)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(names, names, st.booleans())
def test_law_what_goes_in_comes_out(queue: str, value: str, ascii_only: bool) -> None:
    text = json.dumps({"cmd": "add", "queue": queue, "value": value}, ensure_ascii=ascii_only)
    assert parse(text) == parse(text.encode()) == Add(queue, value)


@given(names, st.integers(0, 2**53 - 1))
def test_law_del_finds_the_id_in_every_key_we_give_out(queue: str, number: int) -> None:
    key = message_key(queue, number)
    assert parse(command(cmd="del", queue=queue, key=key)) == Del(queue, key, number)


@given(names, names)
def test_law_a_key_with_an_id_is_spelt_as_ours(queue: str, key: str) -> None:
    deletion = parse(command(cmd="del", queue=queue, key=key))
    assert isinstance(deletion, Del)
    assert deletion.message_id is None or key == message_key(queue, deletion.message_id)


@given(
    st.text()
    | st.binary()
    | values.map(json.dumps)
    | st.fixed_dictionaries(
        {}, optional={"cmd": st.sampled_from([*COMMANDS]) | values, "queue": values, "key": values}
    ).map(json.dumps)
)
def test_law_any_text_is_a_command_or_an_error_of_ours(text: str | bytes) -> None:
    outcome = attempt(text)
    assert isinstance(outcome, Add | Get | Take | Del | BadRequest | CommandRefused)
    assert str(outcome)


def attempt(text: str | bytes) -> Command | RestMQError:
    try:
        return parse(text)
    except RestMQError as error:
        return error
