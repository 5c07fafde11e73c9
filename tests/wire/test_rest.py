"""``/``, ``/q/``, ``/p/``, ``/control/`` and ``/stats/``, to the byte."""

from __future__ import annotations

import base64
import json
import socket

import pytest

from tests.support import DEADLINE_SECONDS, wait_until
from tests.wire.clients import FORM, add, command, get, pop, post

REDIS = r"<Redis Connection: "


# -- in and out ---------------------------------------------------------------------------------


def test_the_first_minute(server, queue):
    """A newcomer posts hello, and gets it back."""
    reply = post(server, f"/q/{queue}", value="hello")
    assert reply[::2] == (200, f"{queue}:1\r\n".encode())
    reply = get(server, f"/q/{queue}")
    assert reply.status == 200
    assert reply.body == f'{{"count": 0, "key": "{queue}:1", "value": "hello"}}\r\n'.encode()


def test_messages_come_out_in_the_order_they_went_in(server, queue):
    for number in range(20):
        add(server, queue, f"item-{number}")
    assert [pop(server, queue)["value"] for _ in range(20)] == [f"item-{n}" for n in range(20)]
    assert pop(server, queue) is None


@pytest.mark.parametrize(
    "value",
    [
        "007",
        "1.10",
        "+5",
        "100000000000000000000.5",
        "1.0e400",
        "  padded  ",
        "  ",
        "\t\n\v\f\r",
        "\x00\x01\x08\x0e\x1f\x7f",
        "é€😀",
        "\u2028\ufeff",
        '{"k": [1]}',
        'q"uo\\te',
        "</script><b>&amp;",
        "a;b=c&d=e+f%20g",
    ],
)
def test_values_come_back_as_they_were_sent(server, queue, value):
    add(server, queue, value)
    assert pop(server, queue) == {"count": 0, "key": f"{queue}:1", "value": value}
    add(server, queue, value)
    taken = json.loads(command(server, cmd="take", queue=queue).body)
    assert taken == {"queue": queue, "value": value, "key": f"{queue}:2"}


def test_json_is_ascii_in_small_hex_and_cannot_end_a_script(server, queue):
    add(server, queue, "é€😀</b>")
    assert rb'"value": "\u00e9\u20ac\ud83d\ude00<\/b>"' in get(server, f"/q/{queue}").body


@pytest.mark.parametrize("body", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", bytes(range(256))])
def test_a_body_that_is_no_utf_8_comes_back_as_base64_and_says_so(server, queue, body):
    add(server, queue, body)
    encoded = base64.b64encode(body).decode()
    expected = f'{{"count": 0, "key": "{queue}:1", "value": "{encoded}", "encoding": "base64"}}\r\n'
    assert get(server, f"/q/{queue}").body == expected.encode()


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("value=V&msg=M", "M"),
        ("value=a&value=b", "b"),
        ("msg=&value=V", "V"),
        ("value=a;b=c", "a"),
    ],
)
def test_which_field_of_a_form_is_the_message(server, queue, form, value):
    assert post(server, f"/q/{queue}", form).status == 200
    assert pop(server, queue)["value"] == value


def test_the_query_may_hold_the_message_and_the_form_outweighs_it(server, queue):
    assert post(server, f"/q/{queue}?value=url").status == 200
    assert post(server, f"/q/{queue}?value=url", "value=body").status == 200
    assert [pop(server, queue)["value"] for _ in range(2)] == ["url", "body"]


def test_multipart_forms_are_forms(server, queue):
    body = b'--x\r\nContent-Disposition: form-data; name="value"\r\n\r\n a\r\nb \r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert server.request("POST", f"/q/{queue}", body, kind).status == 200
    assert pop(server, queue)["value"] == " a\r\nb "


@pytest.mark.parametrize("form", ["", "value=", "other=x", "ttl=5"])
def test_a_post_without_a_message_is_refused(server, queue, form):
    assert post(server, f"/q/{queue}", form).status == 400
    assert pop(server, queue) is None


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
def test_only_forms_are_read(server, queue, kind):
    reply = server.request("POST", f"/q/{queue}", "value=v", {"Content-Type": kind})
    assert reply.status == 400


def test_a_message_that_is_too_large_is_refused_with_the_limit(daemon):
    server = daemon("--max-message-bytes", "1000")
    server.wait_for("/readyz")
    assert post(server, "/q/large", value="x" * 1000).status == 200
    for reply in (
        post(server, "/q/large", value="x" * 1001),
        post(server, "/", queue="large", value="x" * 1001),
        command(server, cmd="add", queue="large", value="é" * 501),
        post(server, "/q/large", value="x" * 200_000),
    ):
        assert reply.status == 413
        assert b"at most" in reply.body
    assert b"1000 bytes" in post(server, "/q/large", value="x" * 1001).body
    assert json.loads(get(server, "/stats/large").body)["len"] == 1


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("with%20space", "with space"),
        ("with+plus", "with plus"),
        ("%20pad%20", " pad "),
        ("%00%1f", "\x00\x1f"),
        ("42", "42"),
        ("007", "007"),
        ("%C3%A9t%C3%A9", "été"),
        ("%3Cb%3E%26", "<b>&"),
        ("queuestat:", "queuestat:"),
        ("x:y:1", "x:y:1"),
        ("..", ".."),
    ],
)
def test_a_queue_may_bear_any_name(server, path, name):
    key = post(server, f"/q/{path}", value="v").body.decode().removesuffix("\r\n")
    assert key.rpartition(":")[0] == name
    assert json.loads(get(server, f"/q/{path}").body)["key"] == key
    assert json.loads(server.request("DELETE", f"/q/{path}").body)["queue"] == name


def test_the_queue_without_a_name_works(server):
    assert post(server, "/q/", value="v").body == b":1\r\n"
    assert b'href="/j/"' in get(server, "/q/").body
    assert server.request("DELETE", "/q/").body == b'{"queue": "", "status": 1}\r\n'
    assert post(server, "/control/", status="stop").status == 200
    assert post(server, "/p/", policy="broadcast").body == b"OK\r\n"


@pytest.mark.parametrize("path", ["/q/%E9", "/c/%FF", "/p/%E9", "/control/%E9", "/j/%E9"])
def test_a_path_that_is_no_utf_8_is_refused_at_once(server, path):
    assert get(server, path).status == 400


def test_parameters_other_than_the_message_must_be_utf_8(server, queue):
    assert post(server, "/", "queue=%E9&value=v").status == 400
    assert post(server, f"/q/{queue}", "value=v&ttl=%E9").status == 400
    assert post(server, f"/p/{queue}", "policy=%E9").status == 400
    assert post(server, f"/control/{queue}", "status=%E9").status == 400
    assert post(server, f"/q/{queue}", "value=v&callback=%E9").status == 400
    assert pop(server, queue) is None


# -- / --------------------------------------------------------------------------------------------


def test_the_root_takes_and_gives_by_parameter(server, queue):
    assert post(server, "/", queue=queue, value="V", msg="M").body == f"{queue}:1\r\n".encode()
    assert post(server, "/", queue=queue, msg="only msg").status == 200
    first = get(server, f"/?queue={queue}")
    assert first.body == f'{{"count": 0, "key": "{queue}:1", "value": "V"}}\r\n'.encode()
    assert json.loads(get(server, f"/?queue={queue}").body)["value"] == "only msg"
    assert get(server, f"/?queue={queue}").status == 404


def test_the_root_without_a_queue_leads_to_the_page(server):
    for path in ("/", "/?queue="):
        reply = get(server, path)
        assert (reply.status, reply.headers["location"]) == (302, "/static/index.html")
    assert post(server, "/", value="v").status == 400


def test_a_queue_name_in_a_parameter_is_tidied_as_it_was(server):
    assert post(server, "/", "queue=%20root%01tidy%20&value=v").body == b"root tidy:1\r\n"
    assert pop(server, "root tidy")["value"] == "v"


def test_a_queue_name_has_a_limit(server):
    assert post(server, "/", queue="n" * 16385, value="v").status == 400


# -- empty, deleted, expired ------------------------------------------------------------------------


def test_204_has_no_body_and_keeps_the_connection_in_step(server, queue):
    """What followed a 204 of the original was taken for the next response."""
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
        request = f"GET /q/{queue} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        client.sendall(request)
        read = client.makefile("rb")
        head = list(iter(read.readline, b"\r\n"))
        assert head[0] == b"HTTP/1.1 204 No Content\r\n"
        assert not any(line.lower().startswith(b"content-length") for line in head)
        add(server, queue, "next")
        client.sendall(request)
        assert read.readline() == b"HTTP/1.1 200 OK\r\n"


def test_delete_empties_the_queue_and_numbers_go_on(server, queue):
    for number in range(3):
        add(server, queue, str(number))
    first = server.request("DELETE", f"/q/{queue}")
    assert first.body == f'{{"queue": "{queue}", "status": 1}}\r\n'.encode()
    assert json.loads(server.request("DELETE", f"/q/{queue}").body)["status"] == 0
    assert pop(server, queue) is None
    assert add(server, queue, "again").body == f"{queue}:4\r\n".encode()
    assert server.request("DELETE", f"/q/{queue}?callback=cb").body == (
        f'cb({{"queue": "{queue}", "status": 1}});\r\n'.encode()
    )


def test_a_message_lives_as_long_as_its_ttl_says(server, queue):
    assert post(server, f"/q/{queue}", value="short", ttl="0.05").status == 200
    assert post(server, f"/q/{queue}", value="long", ttl="1000").status == 200

    def is_gone() -> bool:
        found = json.loads(command(server, cmd="get", queue=queue).body)
        return found["value"] is None

    wait_until(is_gone, "the end of the first message")
    assert pop(server, queue) == {"count": 0, "key": f"{queue}:1", "value": None}
    assert pop(server, queue)["value"] == "long"


@pytest.mark.parametrize(
    "ttl", ["abc", "0", "-1", "0.0", "1e3", "315360001", "inf", "nan", "1.", "1,5", "٣"]
)
def test_a_ttl_that_makes_no_sense_changes_nothing(server, queue, ttl):
    """The original kept the value, counted on, and never queued it."""
    assert post(server, f"/q/{queue}", value="v", ttl=ttl).status == 400
    assert post(server, "/", queue=queue, value="v", ttl=ttl).status == 400
    assert queue not in json.loads(get(server, "/stats/").body)["queues"]
    assert add(server, queue, "first").body == f"{queue}:1\r\n".encode()


# -- policy, control, stats -----------------------------------------------------------------------


def test_policy(server, queue):
    unset = get(server, f"/p/{queue}")
    assert unset.body == f'{{"queue": "{queue}", "value": "broadcast"}}\r\n'.encode()
    for word in ("roundrobin", "broadcast", "roundrobin"):
        assert post(server, f"/p/{queue}", policy=word).body == b"OK\r\n"
        assert json.loads(get(server, f"/p/{queue}").body) == {"queue": queue, "value": word}
    assert post(server, f"/p/{queue}", policy="Broadcast").body == b"null\r\n"
    assert json.loads(get(server, f"/p/{queue}").body)["value"] == "roundrobin"
    assert post(server, f"/p/{queue}", "policy=").status == 400


def test_control_of_one_queue(server, queue):
    text = get(server, f"/control/{queue}").body.decode()
    start = f'{{"queue": "{queue}", "status": {{"queue": "{queue}", "status": null}}, "redis": "'
    assert text.startswith(start + REDIS)
    assert text.endswith('"}\r\n')
    for word, status in (("stop", 0), ("start", 1)):
        reply = post(server, f"/control/{queue}", status=word)
        expected = f'{{"stat": {{"queue": "{queue}", "status": {status}}}}}\r\n'
        assert reply.body == expected.encode()
        found = json.loads(get(server, f"/control/{queue}").body)["status"]
        assert found == {"queue": queue, "status": status}


def test_control_takes_no_other_word(server, queue):
    assert post(server, f"/control/{queue}").body == b'{"stat": "invalid status: None"}\r\n'
    for word in ("pause", "START", "1", "é"):
        found = json.loads(post(server, f"/control/{queue}", status=word).body)
        assert found == {"stat": f"invalid status: {word}"}
    assert json.loads(get(server, f"/control/{queue}").body)["status"]["status"] is None


def test_control_of_all_queues_lists_them(server, queue):
    add(server, queue, "v")
    add(server, f"{queue}-2", "v")
    post(server, f"/control/{queue}-2", status="stop")
    found = json.loads(get(server, "/control/").body)
    assert found["count"] == len(found["queues"])
    assert found["queues"][queue] == {"queue": queue, "status": 1}
    assert found["queues"][f"{queue}-2"] == {"queue": f"{queue}-2", "status": 0}
    assert found["redis"].startswith(REDIS)


def test_a_stopped_queue_goes_on_giving_to_who_asks(server, queue):
    add(server, queue, "v")
    post(server, f"/control/{queue}", status="stop")
    add(server, queue, "w")
    assert pop(server, queue)["value"] == "v"
    assert json.loads(command(server, cmd="take", queue=queue).body)["value"] == "w"


def test_stats_of_one_queue(server, queue):
    add(server, queue, "v")
    text = get(server, f"/stats/{queue}").body.decode()
    assert text.startswith(f'{{"queue": "{queue}", "redis": "{REDIS}')
    assert text.endswith('", "len": 1}')
    assert get(server, f"/stats/{queue}").headers["content-type"] == "application/json"
    assert json.loads(get(server, f"/stats/{queue}-unknown").body)["len"] == 0


@pytest.mark.parametrize("name", ["42", "007", "é", "</script>", "a b"])
def test_no_name_breaks_the_lists(server, queue, name):
    """One queue called 42 made the original answer 500 for ever."""
    add(server, name, "v")
    add(server, queue, "v")
    post(server, f"/control/{queue}", status="stop")
    post(server, f"/p/{queue}", policy="roundrobin")
    stats = json.loads(get(server, "/stats/").body)
    assert stats["count"] == len(stats["queues"])
    assert stats["queues"][name] == {"status": 1, "policy": "", "name": name, "len": 1}
    assert stats["queues"][queue] == {"status": 0, "policy": 2, "name": queue, "len": 1}
    assert get(server, "/q/").status == get(server, "/control/").status == 200
    server.request("DELETE", "/q/" + "".join(f"%{byte:02X}" for byte in name.encode()))


# -- JSONP ------------------------------------------------------------------------------------------


def test_a_callback_makes_a_call_of_the_reply(server, queue):
    assert post(server, f"/q/{queue}", value="v", callback="cb").body == (
        f"cb({queue}:1);\r\n".encode()
    )
    popped = get(server, f"/q/{queue}?callback=app.on_pop")
    assert popped.body == (
        f'app.on_pop({{"count": 0, "key": "{queue}:1", "value": "v"}});\r\n'.encode()
    )
    assert popped.headers["content-type"].startswith("application/javascript")
    assert get(server, f"/q/{queue}?callback=cb").status == 204
    assert get(server, f"/?queue={queue}&callback=cb").status == 404
    assert get(server, f"/p/{queue}?callback=cb").body.startswith(b'cb({"queue": ')
    assert post(server, f"/p/{queue}", policy="x", callback="cb").body == b"cb(null);\r\n"
    stop = post(server, f"/control/{queue}", status="stop", callback="cb").body
    assert stop == f'cb({{"stat": {{"queue": "{queue}", "status": 0}}}})\r\n'.encode()
    stats = get(server, f"/stats/{queue}?callback=cb").body.decode()
    assert stats.startswith("cb({")
    assert stats.endswith('"len": 0})')
    every = get(server, "/stats/?callback=cb").body.decode()
    assert json.loads(every.removeprefix("cb(").removesuffix(")"))["count"] >= 1


@pytest.mark.parametrize("callback", ["<script>", "alert(1)//", "a b", "1x", "a..b", "x" * 129])
def test_a_callback_must_be_a_name(server, queue, callback):
    add(server, queue, "kept")
    assert get(server, f"/q/{queue}?" + f"callback={callback}".replace(" ", "%20")).status == 400
    assert pop(server, queue)["value"] == "kept"


def test_jsonp_is_for_our_own_pages_unless_allowed(server, queue, daemon):
    foreign = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Dest": "script",
        "Sec-Fetch-Mode": "no-cors",
    }
    add(server, queue, "kept")
    path = f"/q/{queue}?callback=cb"
    assert server.request("GET", path, headers=foreign).status == 403
    old_browser = {"User-Agent": "Mozilla/5.0", "Referer": "http://evil.example/"}
    assert server.request("GET", path, headers=old_browser).status == 403
    assert pop(server, queue)["value"] == "kept"
    open_server = daemon("--jsonp")
    open_server.wait_for("/readyz")
    add(open_server, queue, "v")
    assert open_server.request("GET", path, headers=foreign).status == 200


# -- web pages elsewhere ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Sec-Purpose": "prefetch"},
        {"Purpose": "prefetch"},
        {"Accept": "image/avif,image/webp,*/*"},
    ],
    ids=lambda headers: "-".join(headers.values())[:40],
)
def test_a_page_elsewhere_can_pop_nothing(server, queue, headers):
    add(server, queue, "kept")
    for path in (f"/q/{queue}", f"/?queue={queue}", f"/c/{queue}"):
        assert server.request("GET", path, headers=headers).status == 403, path
    assert pop(server, queue)["value"] == "kept"


def test_a_form_elsewhere_can_add_and_delete_nothing(server, queue):
    add(server, queue, "kept")
    headers = {**FORM, "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    for method, path, body in (
        ("POST", f"/q/{queue}", "value=x"),
        ("POST", "/", f"queue={queue}&value=x"),
        ("POST", "/queue", f'body={{"cmd":"take","queue":"{queue}"}}'),
        ("POST", f"/control/{queue}", "status=stop"),
        ("POST", f"/p/{queue}", "policy=roundrobin"),
        ("DELETE", f"/q/{queue}", None),
    ):
        assert server.request(method, path, body, headers).status == 403, path
    assert json.loads(get(server, f"/stats/{queue}").body)["len"] == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8888", "restmq.test"])
def test_our_own_names_are_welcome(server, queue, host):
    assert get(server, f"/q/{queue}", Host=host).status == 204


# -- headers, methods, paths ----------------------------------------------------------------------------


def test_a_pop_may_not_be_kept_by_anybody(server, queue):
    for _ in range(2):
        add(server, queue, "v")
    for path in (f"/q/{queue}", f"/?queue={queue}", f"/q/{queue}", f"/?queue={queue}"):
        headers = get(server, path).headers
        assert headers["cache-control"] == "no-store"
        assert "etag" not in headers
    reply = command(server, cmd="take", queue=queue)
    assert reply.headers["cache-control"] == "no-store"


def test_a_pop_takes_no_notice_of_conditions(server, queue):
    """A 304 of the original took the message away without sending it."""
    add(server, queue, "v")
    assert get(server, f"/q/{queue}", If_None_Match="*").status == 200


def test_what_is_labelled_html_as_recorded_can_do_nothing_in_a_browser(server):
    posted = add(server, "<img src=x onerror=alert(1)>", "<script>alert(1)</script>")
    name = "%3Cimg%20src=x%20onerror=alert(1)%3E"
    for reply in (posted, get(server, f"/q/{name}"), get(server, f"/p/{name}")):
        assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", {"GET", "POST"}),
        ("/q/", {"GET", "POST", "DELETE"}),
        ("/q/x", {"GET", "POST", "DELETE"}),
        ("/queue", {"GET", "POST"}),
        ("/queue/x", {"POST"}),
        ("/c/x", {"GET"}),
        ("/p/x", {"GET", "POST"}),
        ("/control/", {"GET", "POST"}),
        ("/control/x", {"GET", "POST"}),
        ("/stats/", {"GET"}),
        ("/stats/x", {"GET"}),
        ("/j/x", {"GET"}),
        ("/ws/x", {"GET", "POST"}),
        ("/static/index.html", {"GET", "HEAD"}),
        ("/openapi.json", {"GET", "HEAD"}),
        ("/livez", {"GET", "HEAD"}),
        ("/readyz", {"GET", "HEAD"}),
        ("/health", {"GET", "HEAD"}),
    ],
)
def test_other_methods_are_refused_and_told_which_are_allowed(server, path, methods):
    every = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"}
    for method in sorted(every - methods):
        reply = server.request(method, path)
        assert reply.status == 405, method
        assert set(reply.headers["allow"].split(", ")) == methods


@pytest.mark.parametrize(
    "path",
    [
        *("/nope", "/q", "/c", "/p", "/j", "/stats", "/control", "/ws", "/queue/", "/static"),
        *("/Q/x", "//q/x", "/xmlrpc/", "/favicon.ico", "/robots.txt", "/livez/", "/readyz/x"),
    ],
)
def test_there_is_nothing_else(server, path):
    for method in ("GET", "POST", "DELETE"):
        assert server.request(method, path).status == 404


# -- health -----------------------------------------------------------------------------------------


def test_health(server):
    for path in ("/livez", "/readyz", "/health"):
        reply = get(server, path)
        assert reply[::2] == (200, b'{"status": "ok"}\n')
        assert reply.headers["cache-control"] == "no-store"
        assert server.request("HEAD", path)[::2] == (200, b"")


def test_without_its_store_a_daemon_lives_and_is_not_ready(daemon, start_valkey):
    store = start_valkey()
    server = daemon("--redis-url", store.url)
    server.wait_for("/readyz")
    store.kill()
    for path in ("/readyz", "/health"):
        reply = server.wait_for(path, 503)
        assert json.loads(reply.body)["status"] == "unavailable"
    assert get(server, "/livez").status == 200
    refused = get(server, "/q/x")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert post(server, "/q/x", value="v").status == 503
    assert command(server, cmd="take", queue="x").status == 503
    for path in (
        "/?queue=x",
        "/q/",
        "/p/x",
        "/control/",
        "/control/x",
        "/stats/",
        "/stats/x",
        "/j/x",
    ):
        assert get(server, path).status == 503, path
    store.start()
    server.wait_for("/readyz")
    assert post(server, "/q/x", value="v").status == 200


def test_a_store_that_hangs_makes_it_not_ready_in_a_bounded_time(daemon, start_valkey):
    store = start_valkey()
    server = daemon("--redis-url", store.url)
    server.wait_for("/readyz")
    with store.client() as client:
        client.execute_command("CLIENT", "PAUSE", "30000", "ALL")
    assert get(server, "/readyz").status == 503
    store.kill()
