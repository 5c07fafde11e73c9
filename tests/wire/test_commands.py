"""The JSON protocol on ``/queue`` and ``/queue/NAME``, to the byte."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import urlencode

import pytest

from tests.wire.clients import FORM, add, command, get, pop, post

JSON = {"Content-Type": "application/json"}


def test_the_four_commands(server, queue):
    """Members in the original's order, no line end, application/json."""
    key = f"{queue}:1"
    reply = command(server, cmd="add", queue=queue, value="abacab")
    assert reply.headers["content-type"] == "application/json"
    assert reply.body == f'{{"queue": "{queue}", "value": "abacab", "key": "{key}"}}'.encode()
    for count in (1, 2):
        assert command(server, cmd="get", queue=queue).body == (
            f'{{"queue": "{queue}", "count": {count}, "value": "abacab", "key": "{key}"}}'.encode()
        )
    assert command(server, cmd="take", queue=queue).body == (
        f'{{"queue": "{queue}", "value": "abacab", "key": "{key}"}}'.encode()
    )
    for word in ("get", "take"):
        assert command(server, cmd=word, queue=queue).body == b'{"error": "empty queue"}'


def test_del_and_what_is_left_of_the_message(server, queue):
    add(server, queue, "v1")
    add(server, queue, "v2")
    key = f"{queue}:1"
    assert command(server, cmd="del", queue=queue, key=key).body == (
        f'{{"queue": "{queue}", "deleted": true, "key": "{key}"}}'.encode()
    )
    assert json.loads(command(server, cmd="del", queue=queue, key=key).body)["deleted"] is False
    peeked = json.loads(command(server, cmd="get", queue=queue).body)
    assert peeked == {"queue": queue, "count": 1, "value": None, "key": key}
    assert command(server, cmd="take", queue=queue).body == b'{"error": "ERR no such key"}'
    assert json.loads(command(server, cmd="take", queue=queue).body)["value"] == "v2"


def test_a_deleted_message_is_null_to_a_pop(server, queue):
    add(server, queue, "v")
    command(server, cmd="del", queue=queue, key=f"{queue}:1")
    assert pop(server, queue) == {"count": 0, "key": f"{queue}:1", "value": None}


@pytest.mark.parametrize("key", ["QUEUESET", "{q}:0", "{q}:-1", "{q}:01", "{q}:99", "other:1", ""])
def test_del_deletes_nothing_but_messages_of_its_queue(server, queue, key):
    add(server, queue, "kept")
    key = key.format(q=queue)
    reply = json.loads(command(server, cmd="del", queue=queue, key=key).body)
    assert reply == {"queue": queue, "deleted": False, "key": key}
    assert pop(server, queue)["value"] == "kept"


def test_a_pop_leaves_nothing_to_delete(server, queue):
    add(server, queue, "v")
    pop(server, queue)
    reply = command(server, cmd="del", queue=queue, key=f"{queue}:1")
    assert json.loads(reply.body)["deleted"] is False


def test_the_command_may_be_in_either_field_or_be_the_body(server, queue):
    text = json.dumps({"cmd": "add", "queue": queue, "value": "v"})
    other = json.dumps({"cmd": "add", "queue": queue, "value": "other"})
    assert post(server, "/queue", urlencode({"msg": text})).status == 200
    assert post(server, "/queue", urlencode({"msg": text, "body": other})).status == 200
    assert server.request("POST", "/queue", text, JSON).status == 200
    with_charset = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert server.request("POST", "/queue", text, with_charset).status == 200
    assert [pop(server, queue)["value"] for _ in range(4)] == ["v"] * 4
    assert server.request("POST", "/queue", text, {"Content-Type": "text/plain"}).status == 400


def test_the_path_may_name_the_queue(server, queue):
    path = f"/queue/{queue}/%C3%A9"
    added = command(server, path, cmd="add", value="v")
    assert json.loads(added.body) == {
        "queue": f"{queue}/é",
        "value": "v",
        "key": f"{queue}/é:1",
    }
    taken = server.request("POST", path, '{"cmd": "take"}', JSON)
    assert json.loads(taken.body)["value"] == "v"
    assert command(server, path, cmd="get", queue="another").status == 400


@pytest.mark.parametrize("value", ["", "007", "  padded  ", "\x00\x1f", "é€😀\u2028", "</b>"])
def test_values_are_exact(server, queue, value):
    added = command(server, cmd="add", queue=queue, value=value)
    assert json.loads(added.body)["value"] == value
    assert json.loads(command(server, cmd="get", queue=queue).body)["value"] == value
    assert json.loads(command(server, cmd="take", queue=queue).body)["value"] == value


def test_a_body_that_is_no_utf_8_says_so_at_the_end(server, queue):
    add(server, queue, b"\xff\xfe")
    encoded = b64encode(b"\xff\xfe").decode()
    assert (
        command(server, cmd="get", queue=queue).body
        == (
            f'{{"queue": "{queue}", "count": 1, "value": "{encoded}", "key": "{queue}:1", '
            '"encoding": "base64"}'
        ).encode()
    )
    assert (
        command(server, cmd="take", queue=queue).body
        == (
            f'{{"queue": "{queue}", "value": "{encoded}", "key": "{queue}:1", "encoding": "base64"}}'
        ).encode()
    )


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"cmd": "add"}, "'queue'"),
        ({"cmd": "add", "queue": "q"}, "'value'"),
        ({"cmd": "add", "value": "v"}, "'queue'"),
        ({"cmd": "get"}, "'queue'"),
        ({"cmd": "take"}, "'queue'"),
        ({"cmd": "del", "queue": "q"}, "'key'"),
        ({"cmd": "add", "queue": "q", "value": 5}, "'int' object has no attribute 'encode'"),
        (
            {"cmd": "add", "queue": None, "value": "v"},
            "'NoneType' object has no attribute 'encode'",
        ),
        ({"cmd": "del", "queue": "q", "key": 1}, "data must be utf-8"),
    ],
)
def test_mistakes_are_answered_in_the_words_of_the_original(server, members, error):
    reply = command(server, **members)
    assert (reply.status, json.loads(reply.body)) == (200, {"error": error})
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("word", ["ADD", "purge", "__init__", "_class__", "é"])
def test_an_unknown_word_is_a_null_resultset(server, word):
    reply = command(server, cmd=word, queue="q")
    assert reply[::2] == (200, b'{"error": "null resultset"}')
    assert reply.headers["content-type"] == "text/html; charset=UTF-8"


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", "[]", '"add"', "{}", '{"cmd": ""}', '{"cmd": null}', '{"cmd": 5}'),
        '{"cmd": ["add"]}',
        '{"cmd": "add", "queue": "\\ud800", "value": "v"}',
        "[" * 5000,
    ],
)
def test_what_is_no_command_is_refused(server, text):
    assert post(server, "/queue", urlencode({"body": text})).status == 400
    assert server.request("POST", "/queue", text, JSON).status == 400


@pytest.mark.parametrize("form", ["", "value=x", "body="])
def test_a_form_without_a_command_is_refused(server, form):
    assert post(server, "/queue", form).status == 400


def test_ttl_and_callback_are_ignored_as_they_were(server, queue):
    text = json.dumps({"cmd": "add", "queue": queue, "value": "v", "ttl": "nonsense"})
    reply = post(server, "/queue", urlencode({"body": text, "callback": "<cb>"}))
    assert json.loads(reply.body)["key"] == f"{queue}:1"


def test_who_looks_with_a_browser_is_shown_the_help(server):
    reply = get(server, "/queue")
    assert (reply.status, reply.headers["location"]) == (302, "/static/help.html")


def test_access_is_by_command(daemon, tmp_path):
    """Producers add and delete, consumers look and take; the original let producers take."""
    rules = tmp_path / "rules.conf"
    rules.write_text(
        "[rest:producer]\nusername = prod\npassword = pw1\n"
        "[rest:consumer]\nusername = cons\npassword = pw2\n"
    )
    server = daemon("--acl", rules)
    server.wait_for("/readyz")

    def status(who: str | None, word: str) -> int:
        text = json.dumps({"cmd": word, "queue": "q", "value": "v", "key": "q:1"})
        headers = dict(FORM)
        if who is not None:
            headers["Authorization"] = "Basic " + b64encode(who.encode()).decode()
        return server.request("POST", "/queue", urlencode({"body": text}), headers).status

    words = ("add", "get", "del", "take")
    assert [status("prod:pw1", word) for word in words] == [200, 401, 200, 401]
    assert [status("cons:pw2", word) for word in words] == [401, 200, 401, 200]
    assert [status("cons:pw1", word) for word in words] == [401] * 4
    assert [status(None, word) for word in words] == [401] * 4
    reply = post(server, "/queue", "")
    assert reply.status == 401, "401 comes before 400"
    assert reply.headers["www-authenticate"].startswith("Basic realm=")
