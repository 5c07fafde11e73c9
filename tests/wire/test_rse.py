"""RSE (Really Simple Events) under ``/e/``: what its specification and its server say, request by request."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from restmq.event import Event
from restmq.web.rse_json import event_json
from tests.support import DEADLINE_SECONDS, Daemon, Response, wait_until

ALICE = "Alice/1.0 uuid/550e8400-e29b-41d4-a716-446655440000"
BOB = "Bob/1.0 uuid/6fa459ea-ee8a-4ca4-894e-db77e160355e"


def ask(server: Daemon, text: str, body: bytes | str = b"") -> Response:
    """Send a request as it is written, lines ended as HTTP wants them; read the whole reply."""
    data = body.encode() if isinstance(body, str) else body
    lines = [*text.strip().splitlines(), "Host: localhost", "Connection: close"]
    if not text.startswith(("GET", "HEAD")):
        lines.append(f"Content-Length: {len(data)}")
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
        client.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data)
        reply = http.client.HTTPResponse(client, method=text.split(maxsplit=1)[0])
        reply.begin()
        fields = {name.lower(): value for name, value in reply.getheaders()}
        return Response(reply.status, fields, reply.read())


def post(server: Daemon, channel: str, event: Any, agent: str = ALICE) -> None:
    reply = ask(server, f"POST /e{channel} HTTP/1.1\nUser-Agent: {agent}", json.dumps(event))
    assert (reply.status, reply.body) == (201, b""), reply


def read(server: Daemon, target: str, agent: str = BOB) -> Response:
    return ask(server, f"GET /e{target} HTTP/1.1\nUser-Agent: {agent}")


def events(reply: Response) -> list[dict[str, Any]]:
    """The events of a reply; none in a 204."""
    if reply.status == 204:
        assert reply.body == b""
        return []
    assert reply.status == 200, reply
    found: list[dict[str, Any]] = json.loads(reply.body)["events"]
    return found


def data(reply: Response) -> list[Any]:
    return [event["data"] for event in events(reply)]


def message(reply: Response) -> str:
    """The text of an error, which is JSON in RSE's form and nothing else."""
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    told = json.loads(reply.body)
    assert list(told) == ["message"]
    return str(told["message"])


@pytest.fixture
def channel(queue: str) -> str:
    """A channel of the test's own."""
    return f"/{queue}"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """In RSE's words: in test mode."""
    daemon = Daemon(tmp_path_factory.mktemp("open"), ["--events-open", "--jsonp"], {})
    try:
        yield daemon.start("/readyz")
    finally:
        daemon.close()


# ---- post and read


def test_an_event_is_posted_and_read(server, channel):
    reply = ask(
        server,
        f"POST /e{channel}/worker/1 HTTP/1.1\n"
        f"User-Agent: {ALICE}\n"
        "X-RSE-Version: 2012-04-16\n"
        "Accept: application/json\n"
        "Content-Type: application/json",
        '{"Command": "Restart"}',
    )
    assert (reply.status, reply.body) == (201, b"")
    reply = ask(server, f"GET /e{channel}/worker/1 HTTP/1.1\nUser-Agent: {BOB}")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert re.fullmatch(
        rf'{{"channel":"{channel}/worker/1","events":\[{{"id":\d+,"user_agent":"{re.escape(ALICE)}",'
        r'"created_at":"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ","age":\d+,"data":{"Command": "Restart"}}\]}',
        reply.body.decode(),
    )


def test_where_there_is_nothing_new_it_is_204_without_a_body(server, channel):
    assert read(server, channel)[::2] == (204, b"")
    post(server, channel, [1])
    (event,) = events(read(server, channel))
    assert read(server, f"{channel}?last-known-id={event['id']}")[::2] == (204, b"")


def test_ids_are_one_series_over_all_channels(server, channel):
    for number in range(4):
        post(server, f"{channel}/{number % 2}", [number])
    found = events(read(server, f"{channel}?events=all"))
    ids = [event["id"] for event in found]
    assert [event["data"] for event in found] == [[n] for n in range(4)]
    assert ids == sorted(set(ids))


def test_a_cursor_gives_what_is_behind_it_and_nothing_twice(server, channel):
    for number in range(5):
        post(server, channel, [number])
    first = events(read(server, f"{channel}?max-events=2"))
    rest = events(read(server, f"{channel}?last-known-id={first[-1]['id']}"))
    assert [event["data"] for event in first + rest] == [[n] for n in range(5)]


def test_200_events_are_given_unless_asked_otherwise_and_500_at_most(server, channel):
    for number in range(510):
        post(server, channel, [number])
    assert len(events(read(server, channel))) == 200
    assert len(events(read(server, f"{channel}?max-events=3"))) == 3
    assert len(events(read(server, f"{channel}?max-events=501"))) == 500
    assert len(events(read(server, f"{channel}?max-events=100000"))) == 500


def test_sort_minus_1_gives_the_newest_first_and_anything_else_the_oldest(server, channel):
    for number in range(4):
        post(server, channel, [number])
    assert data(read(server, f"{channel}?sort=-1")) == [[3], [2], [1], [0]]
    assert data(read(server, f"{channel}?sort=-1&max-events=2")) == [[3], [2]]
    for word in ("1", "0", "2", "down", "", "-2"):
        assert data(read(server, f"{channel}?sort={word}")) == [[0], [1], [2], [3]]


def test_own_events_are_left_out_unless_echo_is_exactly_true(server, channel):
    post(server, channel, ["a"], ALICE)
    post(server, channel, ["b"], BOB)
    assert data(read(server, channel, ALICE)) == [["b"]]
    assert data(read(server, channel, BOB)) == [["a"]]
    assert data(read(server, f"{channel}?echo=true", ALICE)) == [["a"], ["b"]]
    for word in ("True", "TRUE", "1", "yes", "on", "false", "", "truer"):
        assert data(read(server, f"{channel}?echo={word}", ALICE)) == [["b"]]


def test_own_events_are_told_by_the_uuid_alone(server, channel):
    """The program's name and version may change."""
    post(server, channel, ["a"], ALICE)
    renamed = ALICE.replace("Alice/1.0", "Alice/2.0 (new)")
    assert data(read(server, channel, renamed)) == []
    assert data(read(server, channel, ALICE.replace("440000", "440001"))) == [["a"]]


def test_left_out_events_do_not_count_for_max_events(server, channel):
    for number in range(6):
        post(server, channel, [number], (ALICE, BOB)[number % 2])
    assert data(read(server, f"{channel}?max-events=2", ALICE)) == [[1], [3]]


def test_exact_parent_and_all(server, channel):
    for place in ("", "/b", "/b/c", "/b/c/d", "/x", "b"):
        post(server, f"{channel}{place}", [place])
    assert data(read(server, f"{channel}/b/c")) == [["/b/c"]]
    assert data(read(server, f"{channel}/b/c?events=exact")) == [["/b/c"]]
    assert data(read(server, f"{channel}/b/c?events=parent")) == [[""], ["/b"], ["/b/c"]]
    assert data(read(server, f"{channel}/b?events=all")) == [["/b"], ["/b/c"], ["/b/c/d"]]


def test_all_does_not_leak_a_channel_that_only_begins_alike(server, channel):
    """A fault of RSE's server: an unanchored prefix let /ab into /a."""
    post(server, f"{channel}b/c", ["foreign"])
    assert data(read(server, f"{channel}?events=all")) == []


def test_with_parents_max_events_holds_for_all_of_them_together(server, channel):
    """A fault of RSE's server: it held for each ancestor."""
    for number in range(9):
        post(server, channel + ("", "/b", "/b/c")[number % 3], [number])
    found = data(read(server, f"{channel}/b/c?events=parent&max-events=4"))
    assert found == [[0], [1], [2], [3]]


def test_where_several_channels_are_read_each_event_names_its_own(server, channel):
    post(server, f"{channel}/b", [1])
    (event,) = events(read(server, f"{channel}?events=all"))
    assert event["channel"] == f"{channel}/b"
    assert "channel" not in events(read(server, f"{channel}/b"))[0]


def test_age_is_in_seconds_by_the_servers_clock_and_does_not_wrap():

    event = Event("a", 1, b"[]", "application/json", b"", 1_294_838_729_900)
    days = 3 * 86_400_000
    told = json.loads(event_json(event, event.created_ms + days + 1999, False))
    assert (told["created_at"], told["age"]) == ("2011-01-12 13:25:29Z", 3 * 86_400 + 1)
    assert json.loads(event_json(event, event.created_ms - 5000, False))["age"] == 0


# ---- what an event is


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[]",
        '\t{ "a" :\t[1.10, 1e300, 12345678901234567890],\r\n "é": "\\u00e9\\ud83d\\ude00" }\n',
        '["\u2028\u2029</script>"]',
    ],
)
def test_json_comes_back_as_it_was_sent_tabs_and_numbers_too(server, channel, body):
    """A fault of RSE's server: a tab was no JSON to it."""
    assert ask(server, f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}", body).status == 201
    reply = read(server, channel)
    assert f'"data":{body}}}]}}'.encode() in reply.body


@pytest.mark.parametrize(
    "body",
    ["", " ", "1", '"text"', "null", "true", "{", "{]", "[1,]", "[NaN]", "a=b", '{"a":1}{"b":2}'],
)
def test_what_is_no_object_or_array_is_400(server, channel, body):
    reply = ask(server, f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}", body)
    assert reply.status == 400
    assert message(reply).startswith("Invalid JSON")
    assert events(read(server, channel)) == []


@pytest.mark.parametrize("body", [b"[\xff]", b'["\xed\xa0\x80"]', b"\xef\xbb\xbf[]"])
def test_json_is_utf_8_without_a_mark(server, channel, body):
    assert ask(server, f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}", body).status == 400


def test_a_form_type_changes_nothing(server, channel):
    """What curl -d says of its body."""
    reply = ask(
        server,
        f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}\n"
        "Content-Type: application/x-www-form-urlencoded",
        '{"a": "&callback=x"}',
    )
    assert (reply.status, reply.body) == (201, b"")


def test_a_body_above_the_limit_is_413(server, channel):
    body = json.dumps(["x" * 1_048_576])
    reply = ask(server, f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}", body)
    assert reply.status == 413
    assert "1048576" in message(reply)


# ---- JSONP


def test_jsonp_read(server, channel):
    post(server, channel, {"a": 1})
    reply = read(server, f"{channel}?callback=cb_1")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(
        rb'cb_1\({"channel":"[^"]+","events":\[{"id":.*,"data":{"a": 1}}\]}\);', reply.body
    )


def test_jsonp_always_has_a_body(server, channel):
    reply = read(server, f"{channel}?callback=cb")
    assert reply.status == 200
    assert reply.body == f'cb({{"channel":"{channel}","events":[]}});'.encode()


def test_jsonp_post(server, channel):
    event = quote('{"a": "é&"}')
    reply = ask(
        server,
        f"GET /e{channel}?method=POST&post-data={event}&callback=cb HTTP/1.1\nUser-Agent: {ALICE}",
    )
    assert (reply.status, reply.body) == (200, b"cb({});")
    assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
    assert data(read(server, channel)) == [{"a": "é&"}]


def test_jsonp_post_without_a_callback_is_201(server, channel):
    reply = ask(
        server, f"GET /e{channel}?method=POST&post-data=%5B1%5D HTTP/1.1\nUser-Agent: {ALICE}"
    )
    assert (reply.status, reply.body) == (201, b"")
    assert data(read(server, channel)) == [[1]]


@pytest.mark.parametrize("more", ["", "&post-data="])
def test_jsonp_post_without_data_is_400(server, channel, more):
    reply = ask(
        server, f"GET /e{channel}?method=POST&callback=cb{more} HTTP/1.1\nUser-Agent: {ALICE}"
    )
    assert reply.status == 400
    assert message(reply).startswith("post-data")


def test_jsonp_post_of_what_is_no_json_is_400(server, channel):
    reply = read(server, f"{channel}?method=POST&callback=cb&post-data=%7B")
    assert reply.status == 400
    assert message(reply).startswith("Invalid JSON")


@pytest.mark.parametrize("method", ["post", "Post", "PUT", ""])
def test_method_is_case_sensitive(server, channel, method):
    """Not read as a poll either: the sender would believe that its event is posted."""
    reply = read(server, f"{channel}?method={method}&post-data=%5B%5D&callback=cb")
    assert reply.status == 400
    assert message(reply).startswith("method")
    assert read(server, channel).status == 204


def test_a_get_with_data_but_no_method_is_400(server, channel):
    reply = read(server, f"{channel}?post-data=%5B%5D")
    assert (reply.status, message(reply)) == (400, "post-data: it goes with method=POST")
    assert read(server, f"{channel}?method=GET").status == 204


BAD_CALLBACKS = ["", "a.b", "a-b", "alert(1)", "a%20b", "é", "$", "x" * 129, "a%0a"]


@pytest.mark.parametrize("name", BAD_CALLBACKS)
def test_a_bad_callback_is_400_and_nothing_is_stored(server, channel, name):
    """A fault of RSE's server: it checked the name after it had stored the event."""
    name = quote(name, safe="%")
    reply = read(server, f"{channel}?callback={name}")
    assert reply.status == 400
    assert message(reply).startswith("Invalid callback name")
    reply = read(server, f"{channel}?method=POST&post-data=%5B%5D&callback={name}")
    assert reply.status == 400
    assert read(server, channel).status == 204


def test_a_callback_may_begin_with_a_digit(server, channel):
    assert read(server, f"{channel}?callback=1").body.startswith(b"1(")


def test_scripts_have_no_line_ends_in_their_strings(server, channel):
    post(server, channel, ["x"])
    ask(server, f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}", '["\u2028\u2029"]')
    assert rb'["\u2028\u2029"]' in read(server, f"{channel}?callback=cb").body


def test_jquerys_jsonp_works_its_own_parameters_are_left_alone(open_server, channel):
    """As jQuery sends it: a made-up callback, `_` against caches; no page can set a header."""
    browser = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
    asked = (
        f"GET /e{channel}?callback=jQuery1_2&_=1700000000000&_x= HTTP/1.1\nUser-Agent: {browser}"
    )
    page = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: script"
    posted = asked.replace("&_=", "&method=POST&post-data=%7B%22a%22%3A1%7D&_=")
    assert ask(open_server, f"{posted}\n{page}").body == b"jQuery1_2({});"
    reply = ask(open_server, f"{asked.replace('&_=', '&echo=true&_=')}\n{page}")
    assert b'"data":{"a":1}' in reply.body


def test_pages_of_other_sites_have_no_jsonp_unless_the_operator_says_so(server, channel):
    page = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: script"
    for query in ("callback=cb", "method=POST&post-data=%5B%5D&callback=cb"):
        reply = ask(server, f"GET /e{channel}?{query} HTTP/1.1\nUser-Agent: {ALICE}\n{page}")
        assert (reply.status, message(reply)) == (403, "Forbidden")
    assert read(server, channel).status == 204


def test_an_image_and_a_prefetch_post_nothing(server, channel):
    for field in ("Accept: image/png", "Sec-Purpose: prefetch"):
        reply = ask(
            server,
            f"GET /e{channel}?method=POST&post-data=%5B%5D HTTP/1.1\nUser-Agent: {ALICE}\n{field}",
        )
        assert (reply.status, message(reply)) == (403, "Forbidden")
    assert read(server, channel).status == 204


# ---- headers


def test_user_agent_is_required(server, channel):
    for line in (f"POST /e{channel} HTTP/1.1", f"GET /e{channel} HTTP/1.1"):
        reply = ask(server, line, "[]" if line[0] == "P" else "")
        assert (reply.status, message(reply)) == (400, "Missing header: User-Agent")


@pytest.mark.parametrize(
    "agent",
    ["Foo/1.2", "Foo/1.2 uuid/", "uuid/550e8400", "550e8400-e29b-41d4-a716-446655440000"],
)
def test_user_agent_holds_a_uuid(server, channel, agent):
    reply = ask(server, f"GET /e{channel} HTTP/1.1\nUser-Agent: {agent}")
    assert (reply.status, message(reply)) == (400, "Missing UUID in User-Agent header")


@pytest.mark.parametrize("character", ['"', "\\"])
def test_user_agent_holds_no_quote_and_no_backslash(server, channel, character):
    reply = read(server, channel, ALICE + character)
    assert reply.status == 400
    assert message(reply).startswith("User-Agent")


def test_in_test_mode_a_client_without_a_uuid_has_a_fixed_one(open_server, channel):
    post(open_server, channel, [1], "curl/8")
    assert data(read(open_server, channel, "other/1")) == []
    assert data(read(open_server, f"{channel}?echo=true", "other/1")) == [[1]]
    assert data(read(open_server, channel, ALICE)) == [[1]]
    assert read(open_server, channel, "").status == 400


def test_what_else_a_client_sends_is_not_looked_at(server, channel):
    reply = ask(
        server,
        f"GET /e{channel} HTTP/1.1\nUser-Agent: {ALICE}\nX-RSE-Version: 1999-01-01\n"
        "Accept: text/plain\nAccept-Encoding: gzip\nDate: Tue, 15 Nov 1994 08:12:31 GMT",
    )
    assert reply.status == 204


# ---- paths


def test_the_bare_channel_is_404(server):
    for line in ("GET /e/ HTTP/1.1", "POST /e/ HTTP/1.1"):
        reply = ask(server, f"{line}\nUser-Agent: {ALICE}", "[]" if line[0] == "P" else "")
        assert (reply.status, message(reply)) == (404, "URI not found: /")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/a.b", "dot"),
        ("/a/.", "dot"),
        ("/a/../b", "dot"),
        ("/a%2Eb", "dot"),
        ("//a", "empty"),
        ("/a//b", "empty"),
        ("/a/", "empty"),
        ("/a%2F", "empty"),
        ("/a%00", "control"),
        ("/a%0A", "control"),
        ("/*", "wildcards"),
        ("/a/%23", "wildcards"),
        ("/" + "a/" * 1999 + "a", "255 bytes"),
        ("/" + "a/" * 32 + "a", "32 words"),
        ("/" + "x" * 256, "255 bytes"),
    ],
)
def test_a_path_that_is_no_channel_is_400(server, path, why):
    for line in (f"GET /e{path} HTTP/1.1", f"POST /e{path} HTTP/1.1"):
        reply = ask(server, f"{line}\nUser-Agent: {ALICE}", "[]" if line[0] == "P" else "")
        assert reply.status == 400
        assert message(reply).startswith("channel")
        assert why in message(reply)


def test_letters_digits_slash_hyphen_and_underscore_make_a_channel_and_more_does_too(server, queue):
    """RSE's specification names those, its server took all; so do we, as far as topics go."""
    for path in ("/Az09_-", "/Gr%C3%B6%C3%9Fe", "/a:b@c", "/a%20b"):
        post(server, f"/{queue}{path}", [path])
        assert data(read(server, f"/{queue}{path}")) == [[path]]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_another_method_is_405(server, channel, method):
    reply = ask(server, f"{method} /e{channel} HTTP/1.1\nUser-Agent: {ALICE}")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, POST"


# ---- parameters


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("last-known-id=-1", "last-known-id"),
        ("last-known-id=x", "last-known-id"),
        ("last-known-id=", "last-known-id"),
        ("last-known-id=1.5", "last-known-id"),
        ("last-known-id=%D9%A1", "last-known-id"),
        ("last-known-id=9007199254740992", "last-known-id"),
        ("last-known-id=99999999999999999999999999", "last-known-id"),
        ("last-known-id=1-2-3", "last-known-id"),
        ("max-events=0", "max-events"),
        ("max-events=-1", "max-events"),
        ("max-events=many", "max-events"),
        ("max-events=9999999999", "max-events"),
        ("events=children", "events"),
        ("events=EXACT", "events"),
        ("wait=-1", "wait"),
        ("wait=51", "wait"),
        ("wait=soon", "wait"),
        ("wait=nan", "wait"),
        ("since=1", "since"),
        ("last_known_id=1", "last_known_id"),
        ("sort=1&sort=-1", "sort"),
        ("=1", ""),
        ("%FF=1", "a parameter"),
        ("&".join(f"p{n}=1" for n in range(250)), "there are more"),
    ],
)
def test_a_bad_parameter_is_400_and_named(server, channel, query, name):
    """A fault of RSE's server: a cursor that was no number was a 500."""
    reply = read(server, f"{channel}?{query}")
    assert reply.status == 400
    assert message(reply).startswith(name)


def test_a_post_has_no_parameters(server, channel):
    asked = f"POST /e{channel}?sort=1 HTTP/1.1\nUser-Agent: {ALICE}"
    reply = ask(server, asked, "[]")
    assert reply.status == 400
    assert message(reply).startswith("sort")
    assert ask(server, asked.replace("sort", "_sort"), "[]").status == 201


# ---- waiting, gaps, other transports


def test_a_read_that_waits_gets_what_comes(server, channel):
    """An extension: fewer requests, and no delay."""
    found: list[Response] = []
    asked = f"{channel}?wait=20&events=all"
    waiting = threading.Thread(target=lambda: found.append(read(server, asked, ALICE)))
    waiting.start()
    post(server, f"{channel}/own", ["own"], ALICE)
    post(server, f"{channel}/b", ["other"], BOB)
    waiting.join(DEADLINE_SECONDS)
    assert data(found[0]) == [["other"]]


def test_a_read_that_waited_in_vain_is_204(server, channel):
    post(server, channel, [1], BOB)
    assert read(server, f"{channel}?wait=0.05").status == 204
    assert read(server, f"{channel}?wait=0.05&callback=cb").status == 200
    assert data(read(server, f"{channel}?wait=20", ALICE)) == [[1]]


def test_a_waiting_reader_may_leave_and_the_daemon_may_stop(daemon):
    """One that waits for long is answered at the end; it does not hold up the stop."""
    server = daemon("--stop-timeout", "60")
    server.wait_for("/readyz")
    with socket.create_connection(("127.0.0.1", server.port)) as gone:
        gone.sendall(
            f"GET /e/a?wait=50 HTTP/1.1\r\nHost: a\r\nUser-Agent: {ALICE}\r\n\r\n".encode()
        )
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as stays:
        stays.sendall(
            f"GET /e/a?wait=50 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {ALICE}\r\n\r\n".encode()
        )
        assert read(server, "/b").status == 204
        server.terminate()
        assert stays.recv(1000).startswith(b"HTTP/1.1 204 ")
    assert server.wait() == 0


def test_every_read_tells_the_cursor_for_other_transports(server, channel):
    post(server, channel, [1])
    reply = read(server, channel)
    cursor = reply.headers["restmq-cursor"]
    assert re.fullmatch(r"[1-9]\d*-[1-9]\d*", cursor)
    post(server, channel, [2])
    assert data(read(server, f"{channel}?last-known-id={cursor}")) == [[2]]
    assert "restmq-cursor" in read(server, f"{channel}?last-known-id=9007199254740991").headers


def test_a_client_may_go_to_another_door_and_come_back(server, channel):
    """Between two reads, with nothing lost and nothing twice."""
    topic = channel[1:]

    def elsewhere(cursor: str) -> Any:
        query = f"topic={topic}&cursor={cursor}"
        return json.loads(server.request("GET", f"/v1/events?{query}").body)

    post(server, channel, [1])
    cursor = read(server, channel).headers["restmq-cursor"]
    assert elsewhere(cursor)["events"] == []
    for number in (2, 3):
        post(server, channel, [number])
    page = elsewhere(cursor)
    assert [event["body"] for event in page["events"]] == [[2], [3]]
    assert page["events"][0]["headers"] == {"user-agent": ALICE}
    assert data(read(server, f"{channel}?last-known-id={page['events'][0]['cursor']}")) == [[3]]
    assert read(server, f"{channel}?last-known-id={page['cursor']}").status == 204


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (b"plain", "text/plain", {"data": "plain"}),
        (b"\xff\x00", "image/png", {"data": "/wA=", "encoding": "base64"}),
        (b"7", "application/json", {"data": 7}),
    ],
)
def test_what_came_by_another_door_is_read_here(server, channel, body, content_type, shown):
    """Its sender is nobody, so everybody sees it, and its User-Agent holds a UUID nonetheless."""
    path = f"/v1/topics/{channel[1:]}/events"
    server.request("POST", path, body, {"Content-Type": content_type})
    (event,) = events(read(server, channel))
    assert {name: event.get(name) for name in shown} == shown
    assert re.search("uuid/0{8}-", event["user_agent"])


def test_a_cursor_of_another_life_of_the_store_is_told_as_a_gap(server, channel):
    post(server, channel, [1])
    reply = read(server, f"{channel}?last-known-id=7-1")
    assert json.loads(reply.body)["gap"]["reset"] is True
    assert read(server, f"{channel}/quiet?last-known-id=7-1").status == 200


def test_events_are_kept_for_two_minutes_unless_configured(daemon):
    server = daemon("--events-short-age", "3")
    server.wait_for("/readyz")
    post(server, "/a", [1])
    reply = read(server, "/a")
    (event,), cursor = events(reply), reply.headers["restmq-cursor"]
    post(server, "/a", [2])
    wait_until(lambda: read(server, "/a").status == 204, "the end of the events")
    told = json.loads(read(server, f"/a?last-known-id={cursor}").body)
    assert told == {"channel": "/a", "events": [], "gap": {"oldest": None, "reset": False}}
    # By number nobody can move on behind it: it is told with the next event, and not with each poll.
    assert read(server, f"/a?last-known-id={event['id']}").status == 204
    post(server, "/a", [3])
    told = json.loads(read(server, f"/a?last-known-id={event['id']}").body)
    assert told["gap"] == {"oldest": told["events"][0]["id"], "reset": False}


def test_what_expired_of_ones_own_ends_no_wait(daemon):
    """Or a client that posts would poll without a pause from then on."""
    server = daemon("--events-short-age", "1")
    server.wait_for("/readyz")
    post(server, "/a", [1], BOB)
    wait_until(lambda: read(server, "/a?echo=true").status == 204, "the end of its event")
    reply = read(server, "/a?last-known-id=0")
    cursor = reply.headers["restmq-cursor"]
    assert read(server, f"/a?last-known-id={cursor}&wait=0.3").status == 204
    post(server, "/a", [2], BOB)
    number = int(cursor.split("-")[1])
    wait_until(lambda: read(server, "/a?echo=true").status == 204, "the end of the second")
    assert read(server, f"/a?last-known-id={number}&wait=0.3").status == 204


def test_a_post_with_an_idempotency_key_may_be_repeated(server, channel):
    """An extension: a client that lost the reply posts again."""
    head = f"POST /e{channel} HTTP/1.1\nUser-Agent: {ALICE}\nIdempotency-Key: {channel}"
    replies = [ask(server, head, "[1]") for _ in range(2)]
    assert [(reply.status, reply.body) for reply in replies] == [(201, b"")] * 2
    assert [reply.headers.get("idempotency-replayed") for reply in replies] == [None, "true"]
    assert data(read(server, channel)) == [[1]]
    assert ask(server, head, "[2]").status == 422


# ---- health and the dump


def test_health_is_ok_in_a_line_for_everybody(server):
    reply = ask(server, "GET /e/health HTTP/1.1")
    assert (reply.status, reply.body) == (200, b"OK\n")
    assert reply.headers["content-type"].startswith("text/plain")
    reply = ask(server, "HEAD /e/health HTTP/1.1")
    assert (reply.status, reply.body) == (200, b"")
    assert ask(server, "POST /e/health HTTP/1.1", "[]").status == 405
    assert ask(server, "GET /e/health?loud=1 HTTP/1.1").status == 400


def test_verbose_health_is_a_report(server, channel):
    post(server, channel, [1])
    for word in ("true", "yes", "on", "1", "TRUE"):
        reply = ask(server, f"GET /e/health?verbose={word} HTTP/1.1")
        report = json.loads(reply.body)
        assert set(report) == {"rse", "mongo", "versions", "warnings"}
    assert report["rse"]["test_mode"] is False
    assert report["rse"]["event_count"] >= 1
    assert report["rse"]["id_generator"]["retries"] == 0
    assert report["mongo"]["server_info"]["version"]
    assert set(report["mongo"]["last_event"]) == {"id", "created_at", "age"}
    assert report["mongo"]["first_event"]["id"] <= report["mongo"]["last_event"]["id"]
    assert report["warnings"] == []
    for word in ("false", "no", "0", "off", ""):
        assert ask(server, f"GET /e/health?verbose={word} HTTP/1.1").body == b"OK\n"


def test_profiling_and_integrity_come_when_asked_for(server, channel):
    for number in range(3):
        post(server, f"{channel}/{number}", [number])
    reply = ask(server, "GET /e/health?verbose=true&profile_db=true&validate_db=true HTTP/1.1")
    report = json.loads(reply.body)
    assert report["integrity"]["checked"] >= 3
    assert report["integrity"]["errors"] == []
    assert set(report["profiling"]) == {"answer_ms", "commands_per_second", "used_memory"}


def test_health_and_events_are_503_without_the_store(start_valkey, daemon):
    store = start_valkey()
    server = daemon("--redis-url", store.url)
    server.wait_for("/readyz")
    post(server, "/a", [1])
    store.kill()
    server.wait_for("/readyz", 503)
    assert ask(server, "GET /e/health HTTP/1.1").status == 503
    assert ask(server, "GET /e/health?verbose=true HTTP/1.1").status == 503
    reply = ask(server, f"POST /e/a HTTP/1.1\nUser-Agent: {ALICE}", "[]")
    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    message(reply)


def test_all_dumps_every_event_in_test_mode_only(open_server, server, channel):
    for number in range(3):
        post(open_server, f"{channel}/{number}", [channel, number])
    asked = "GET /e/all{} HTTP/1.1\nUser-Agent: x"
    reply = ask(open_server, asked.format(""))
    assert json.loads(reply.body)["channel"] == "/"
    mine = [event for event in events(reply) if channel in event["channel"]]
    assert [event["channel"] for event in mine] == [f"{channel}/{n}" for n in range(3)]
    newest = events(ask(open_server, asked.format("?sort=-1")))
    assert [event["data"] for event in newest[:3]] == [[channel, n] for n in (2, 1, 0)]
    post(server, "/all", ["an ordinary channel"])
    assert ["an ordinary channel"] in data(read(server, "/all"))
    assert all(event["data"] == ["an ordinary channel"] for event in events(read(server, "/all")))


def test_test_mode_is_told_in_the_report(open_server):
    report = json.loads(ask(open_server, "GET /e/health?verbose=on HTTP/1.1").body)
    assert report["rse"]["test_mode"] is True


# ---- tokens


def token_command(*arguments: str) -> str:
    command = [sys.executable, "-m", "restmq.command_line", "token", *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    ).stdout.strip()


def test_with_the_first_token_everybody_needs_one(daemon):
    """In the data folder of a running broker: added, used, revoked."""
    server = daemon()
    server.wait_for("/readyz")
    folder = ("--data-dir", str(server.folder / "data"))
    assert read(server, "/a").status == 204
    token = token_command("add", "--name", "agents", *folder)
    with_token = f"GET /e/a HTTP/1.1\nUser-Agent: {ALICE}\nX-Auth-Token: "
    assert ask(server, with_token + token).status == 204
    wait_until(lambda: read(server, "/a").status == 401, "a 401 without a token")
    reply = ask(server, f"{with_token}wrong")
    assert (reply.status, message(reply)) == (401, "Unauthorized")
    assert reply.headers["www-authenticate"].startswith("X-Auth-Token ")
    posted = ask(server, f"POST /e/a HTTP/1.1\nUser-Agent: {ALICE}", "[]")
    assert (posted.status, message(posted)) == (401, "Unauthorized")
    assert read(server, "/a?method=POST&post-data=%5B%5D").status == 401
    assert ask(server, "GET /e/health HTTP/1.1").status == 200
    other = token_command("add", *folder)
    assert ask(server, with_token + other).status == 204
    token_command("revoke", "agents", *folder)
    wait_until(lambda: ask(server, with_token + token).status == 401, "the end of the token")
    assert ask(server, with_token + other).status == 204


def test_beyond_loopback_a_token_is_needed_from_the_start(daemon, valkey):
    server = daemon("--redis-url", valkey.url, "--listen", "0.0.0.0", "--open")
    server.wait_for("/readyz")
    assert read(server, "/a").status == 401
    token = token_command("add", "--redis-url", valkey.url)
    asked = f"GET /e/a HTTP/1.1\nUser-Agent: {ALICE}\nX-Auth-Token: {token}"
    assert ask(server, asked).status == 204


def test_the_access_file_holds_for_events_too(daemon, tmp_path):
    acl = tmp_path / "acl.conf"
    acl.write_text("[rest:producer]\nusername = me\npassword = secret\n")
    server = daemon("--acl", str(acl))
    server.wait_for("/readyz")
    assert read(server, "/a").status == 204
    reply = ask(server, f"POST /e/a HTTP/1.1\nUser-Agent: {ALICE}", "[]")
    assert (reply.status, message(reply)) == (401, "Unauthorized")
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert read(server, "/a?method=POST&post-data=%5B%5D").status == 401
    allowed = "Authorization: Basic bWU6c2VjcmV0"
    reply = ask(server, f"POST /e/a HTTP/1.1\nUser-Agent: {ALICE}\n{allowed}", "[]")
    assert reply.status == 201


def test_several_processes_hold_the_same_rules(daemon, valkey):
    server = daemon("--redis-url", valkey.url, "--listen", "0.0.0.0", "--open", "--processes", "2")
    server.wait_for("/readyz")
    assert [read(server, "/a").status for _ in range(8)] == [401] * 8
    assert ask(server, "GET /e/health HTTP/1.1").status == 200
