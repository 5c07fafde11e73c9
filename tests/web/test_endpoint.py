"""Handlers: from a request to a value, and from a value or an error to a response."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import cyclone.web
import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import deferLater

from restmq import __version__, errors
from restmq.rules.acl import Access, Acl
from restmq.web.dispatcher import Rule
from restmq.web.endpoint import STATUS, Endpoint, Refusal, Reply, endpoint
from restmq.web.reply import encode
from tests.support import wait_until
from tests.web.toy import Client, Toy, ToyServer, get, post

ERRORS: dict[str, BaseException] = {
    "bad": errors.BadRequest("give <a> value"),
    "name": errors.BadQueueName("too long"),
    "away": errors.StoreAway("not connected"),
    "unknown": errors.OutcomeUnknown("no reply"),
    "full": errors.StoreFull("no room"),
    "refused": errors.StoreRefused("WRONGTYPE"),
    "refusal": Refusal(418, "no coffee", (("X-Pot", "tea"),)),
    "cyclone": cyclone.web.HTTPError(409),
    "cancelled": CancelledError(),
    "bug": KeyError("a bug"),
}


class Fails(Toy):
    """Fails as it is told, in every way a handler can."""

    @endpoint(Access.NONE)
    def get(self, how: str, what: str) -> Any:
        error = ERRORS[what]
        if how == "raise":
            raise error
        return fail(error) if how == "defer" else self._later(error)

    async def _later(self, error: BaseException) -> Reply:
        await deferLater(self.shared.reactor, 0, lambda: None)
        raise error


class Answers(Toy):
    """Returns a Reply in every way a handler can."""

    @endpoint(Access.NONE, jsonp=True)
    def get(self, how: str) -> Any:
        reply = Reply(body=b'{"n": 1}\r\n', content_type=b"application/json", no_store=True)
        if how == "coroutine":
            return self._later(reply)
        return {"reply": reply, "deferred": succeed(reply), "none": None, "text": "text"}[how]

    async def _later(self, reply: Reply) -> Reply:
        await deferLater(self.shared.reactor, 0, lambda: None)
        return reply


class Codes(Endpoint):
    """Any status, with a header of the client's choice."""

    @endpoint(Access.NONE)
    def get(self, status: str) -> Reply:
        name, value = self.parameter("name") or "X-One", self.parameter("value") or "1"
        return Reply(int(status), b"body", headers=((name, value),))


class Shows(Endpoint):
    """Shows its parameters."""

    @endpoint(Access.NONE)
    def get(self, path: str) -> Reply:
        value = self.parameter("value")
        return Reply(body=repr((path, self.raw_parameter("value"), value)).encode())

    @endpoint(Access.NONE)
    def post(self, path: str) -> Reply:
        return self.get(path)


class Guarded(Toy):
    """Each method under another section of the access file."""

    @endpoint(Access.CONSUMER, pops=True, jsonp=True)
    def get(self) -> Reply:
        self.shared.seen.append("popped")
        return Reply(body=b'"popped"\r\n', wrap=")")

    @endpoint(Access.PRODUCER)
    def post(self) -> Reply:
        return Reply(body=b"added")

    @endpoint(Access.NONE)
    def put(self) -> Reply:
        return Reply(body=b"free")

    @endpoint(Access.PRODUCER, Access.CONSUMER)
    def delete(self) -> Reply:
        self.admit(Access.CONSUMER if self.raw_parameter("pop") else Access.PRODUCER)
        return Reply(body=b"done")


class Page(Endpoint):
    """An HTML page."""

    @endpoint(Access.NONE, page=True)
    def get(self) -> Reply:
        return Reply(body=b"<p>page")


ROUTES: list[Rule] = [
    (r"/fails/(\w+)/(\w+)", Fails),
    (r"/answers/(.*)", Answers),
    (r"/codes/(\d+)", Codes),
    (r"/shows/(.*)", Shows),
    (r"/guarded", Guarded),
    (r"/page", Page),
    (r"/(?:odd|strange)/([a-z]+)?", Shows),
    (r"/shows", Page),
]

ACCESS = """
[rest:consumer]
username = me
password = s3cret:x
[rest:producer]
hosts_allow = 10.0.0.1
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ToyServer]:
    with ToyServer(ROUTES) as toy:
        yield toy


@pytest.fixture
def client(server: ToyServer) -> Iterator[Client]:
    with server.connect() as connected:
        yield connected


def ask(client: Client, request: bytes) -> tuple[int, dict[str, str], bytes]:
    client.send(request)
    return client.response()


# -- replies ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reply", "deferred", "coroutine"])
def test_a_handler_may_return_a_reply_now_or_later(client: Client, how: str) -> None:
    status, headers, body = ask(client, get(f"/answers/{how}"))
    assert (status, body) == (200, b'{"n": 1}\r\n')
    assert headers["content-type"] == "application/json"
    assert headers["server"] == f"RestMQ/{__version__}"
    assert headers["cache-control"] == "no-store"
    assert headers["date"].endswith(" GMT")
    assert "etag" not in headers


@pytest.mark.parametrize("how", ["none", "text"])
def test_a_handler_that_returns_something_else_is_a_bug(
    server: ToyServer, client: Client, how: str
) -> None:
    assert ask(client, get(f"/answers/{how}"))[0] == 500
    wait_until(lambda: server.failures, "the log")
    server.expect_failure("returned no Reply")


@pytest.mark.parametrize("status", [204, 304])
def test_some_replies_have_no_body(client: Client, status: int) -> None:
    """The original's 204 had one, which clients took for the next reply (bug 5)."""
    found, headers, _ = ask(client, get(f"/codes/{status}"))
    assert found == status
    assert "content-length" not in headers
    assert "content-type" not in headers
    assert ask(client, get("/codes/200"))[2] == b"body"


@pytest.mark.parametrize(
    "query", ["name=X%0d%0aY", "value=a%0d%0ab", "value=a%0ab", "name=X:Y", "value=%c3%a9"]
)
def test_no_header_can_be_smuggled_into_a_reply(
    server: ToyServer, client: Client, query: str
) -> None:
    assert ask(client, get(f"/codes/200?{query}"))[0] == 500
    wait_until(lambda: server.failures, "the log")
    server.expect_failure("no header field")


def test_a_reply_is_one_bytes_object() -> None:
    response = encode(Reply(headers=(("X-One", "1"),), body=b"abc"), "close")
    head, _, body = response.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert sorted(line.split(b":")[0] for line in head.split(b"\r\n")[1:]) == [
        b"Connection",
        b"Content-Length",
        b"Content-Type",
        b"Date",
        b"Server",
        b"X-One",
    ]
    assert encode(Reply(body=b"abc"), with_body=False).endswith(b"Content-Length: 3\r\n\r\n")


# -- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "defer", "coroutine"])
@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("bad", 400),
        ("name", 400),
        ("away", 503),
        ("unknown", 503),
        ("full", 503),
        ("refused", 503),
        ("refusal", 418),
        ("cyclone", 409),
        ("cancelled", 503),
    ],
)
def test_errors_have_their_status(client: Client, how: str, what: str, status: int) -> None:
    found, headers, body = ask(client, get(f"/fails/{how}/{what}"))
    assert found == status
    assert body.startswith(b"<html><title>%d: " % status)
    nothing_happened = status == 503 and what != "unknown"
    assert headers.get("retry-after") == ("1" if nothing_happened else None)
    assert headers.get("x-pot") == ("tea" if what == "refusal" else None)


def test_the_page_says_why_and_is_escaped(client: Client) -> None:
    body = ask(client, get("/fails/raise/bad"))[2]
    assert b"<p>give &lt;a&gt; value</p>" in body


@pytest.mark.parametrize("how", ["raise", "defer", "coroutine"])
def test_a_bug_is_logged_and_answered_500(server: ToyServer, client: Client, how: str) -> None:
    status, _, body = ask(client, get(f"/fails/{how}/bug"))
    assert status == 500
    assert b"bug" not in body
    wait_until(lambda: server.failures, "the log")
    server.expect_failure("KeyError")


def test_the_one_table_covers_every_error() -> None:
    for name in vars(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, (errors.BadRequest, errors.StoreError)):
            covered = any(parent in STATUS for parent in kind.__mro__)
            assert covered or kind is errors.StoreError, name


# -- routes and methods -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/nowhere", "/codes/", "/codes/x", "/answers", "//shows/x"])
def test_unknown_paths(client: Client, path: str) -> None:
    status, _, body = ask(client, get(path))
    assert status == 404
    assert body.startswith(b"<html><title>404: Not Found</title>")


def test_unknown_methods_are_told_the_known_ones(client: Client) -> None:
    status, headers, _ = ask(client, get("/guarded", method="PATCH"))
    assert (status, headers["allow"]) == (405, "GET, POST, DELETE, PUT")


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/shows/a%20b+c%2Bd", "a b c+d"),
        ("/shows/a/b//c", "a/b//c"),
        ("/shows/", ""),
        ("/shows/%C3%A9%00%zz", "é\0%zz"),
        ("/shows/\xe9", "é"),
        ("/odd/abc", "abc"),
        ("/strange/", None),
        ("http://localhost:1/shows/x", "x"),
    ],
)
def test_path_arguments(client: Client, path: str, seen: str | None) -> None:
    client.send(get("/shows/x").replace(b"/shows/x", path.encode()))
    assert client.response()[2].decode() == repr((seen, None, None))


def test_a_path_that_is_no_utf8_is_a_bad_request(client: Client) -> None:
    """The original left such a client hanging (bug 14)."""
    for path in ("/shows/%E9", "/shows/%ff%fe", "/shows/%C3"):
        assert ask(client, get(path))[0] == 400


# -- parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "raw", "clean"),
    [
        ("value=a", b"a", "a"),
        ("value=a&value=b", b"b", "b"),
        ("value=", None, None),
        ("other=1", None, None),
        ("value=%20%20", b"  ", ""),
        ("value=+a%00b%0Bc%1F+", b" a\0b\x0bc\x1f ", "a b\x0bc"),
        ("value=a%09%0A%0D%0Cb", b"a\t\n\r\x0cb", "a\t\n\r\x0cb"),
        ("value=%C3%A9", b"\xc3\xa9", "é"),
        ("value=a;value=b", b"b", "b"),
    ],
)
def test_parameters(client: Client, query: str, raw: bytes | None, clean: str | None) -> None:
    expected = repr(("x", raw, clean)).encode()
    assert ask(client, get(f"/shows/x?{query}"))[2] == expected
    assert ask(client, post("/shows/x", query.encode()))[2] == expected
    if raw is not None:
        assert ask(client, post("/shows/x?value=url", query.encode()))[2] == expected


def test_a_parameter_that_is_no_utf8_is_a_bad_request(client: Client) -> None:
    assert ask(client, post("/shows/x", b"value=%ff"))[0] == 400


# -- JSONP --------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["cb", "$", "_a1.b.$c", "jQuery1.x", "a" * 128])
def test_jsonp(client: Client, callback: str) -> None:
    status, headers, body = ask(client, get(f"/answers/deferred?callback={callback}"))
    assert (status, body) == (200, callback.encode() + b'({"n": 1});\r\n')
    assert headers["content-type"].startswith("application/javascript")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "callback",
    [
        "<script>",
        "a b",
        "1a",
        "a.",
        ".a",
        "a..b",
        "a(",
        "a[0]",
        "a-b",
        "a" * 129,
        "é",
        "a%0Ab",
        "%ff",
    ],
)
def test_a_callback_is_a_name(server: ToyServer, client: Client, callback: str) -> None:
    status, _, body = ask(client, get(f"/guarded?callback={callback}"))
    assert (status, callback.encode() in body) == (400, False)
    assert "popped" not in server.broker.seen


def test_a_handler_says_how_jsonp_wraps_and_its_reply_is_not_stored(client: Client) -> None:
    _, headers, body = ask(client, get("/guarded?callback=cb"))
    assert body == b'cb("popped")'
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("site", "status"), [("same-origin", 200), ("cross-site", 403)])
def test_jsonp_is_for_our_own_pages(client: Client, site: str, status: int) -> None:
    request = get("/answers/reply?callback=cb", f"Sec-Fetch-Site: {site}", "User-Agent: Mozilla/5")
    assert ask(client, request)[0] == status
    request = get("/answers/reply?callback=cb", "User-Agent: Mozilla/5.0")
    assert ask(client, request)[0] == 403


# -- who may come in ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 200),
        (["Origin: https://evil.example"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-origin", "Origin: http://localhost"], 200),
        (["Sec-Purpose: prefetch"], 403),
        (["Accept: image/png,*/*"], 403),
    ],
)
def test_other_pages_may_not(client: Client, lines: list[str], status: int) -> None:
    for _ in range(2):
        assert ask(client, get("/guarded", *lines))[0] == status


def test_a_page_may_be_linked_to(client: Client) -> None:
    link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    assert ask(client, get("/page", *link))[0] == 200
    assert ask(client, get("/guarded", *link))[0] == 403


def test_a_rebound_host_name_is_not_ours(client: Client) -> None:
    request = get("/guarded").replace(b"localhost", b"evil.example")
    assert ask(client, request)[0] == 403
    assert ask(client, get("/guarded"))[0] == 200


def basic(text: str) -> str:
    return "Authorization: Basic " + base64.b64encode(text.encode()).decode()


def test_access() -> None:
    with ToyServer(ROUTES, acl=ACCESS) as toy, toy.connect() as client:
        status, headers, _ = ask(client, get("/guarded"))
        assert status == 401
        assert headers["www-authenticate"].startswith('Basic realm="RestMQ"')
        for wrong in (basic("me:x"), basic("me"), "Authorization: Basic !", "Authorization: x"):
            assert ask(client, get("/guarded", wrong))[0] == 401
        assert (
            ask(client, get("/guarded", basic("me:s3cret:x").replace("Basic", "bAsIc")))[0] == 200
        )
        status, headers, _ = ask(client, post("/guarded", b""))
        assert (status, "www-authenticate" in headers) == (401, False)
        assert ask(client, get("/guarded", method="PUT"))[0] == 200
        assert ask(client, get("/guarded", method="PATCH"))[0] == 405
        assert ask(client, get("/nowhere"))[0] == 404


def test_one_of_several_accesses_is_enough_until_the_handler_knows() -> None:
    with ToyServer(ROUTES, acl=ACCESS) as toy, toy.connect() as client:
        assert ask(client, get("/guarded?pop=1", method="DELETE"))[0] == 401
        good = basic("me:s3cret:x")
        assert ask(client, get("/guarded?pop=1", good, method="DELETE"))[0] == 200
        assert ask(client, get("/guarded", good, method="DELETE"))[0] == 401


def test_another_access_file_holds_from_the_next_request_on() -> None:
    with ToyServer(ROUTES) as toy, toy.connect() as client:
        assert [ask(client, get("/guarded"))[0] for _ in range(2)] == [200, 200]
        toy.application.acl = Acl.parse(ACCESS)
        assert ask(client, get("/guarded"))[0] == 401
        toy.application.acl = Acl.open()
        assert ask(client, get("/guarded"))[0] == 200


def test_what_one_client_may_the_next_may_not() -> None:
    with ToyServer(ROUTES, acl=ACCESS) as toy:
        with toy.connect() as first:
            assert ask(first, get("/guarded", basic("me:s3cret:x")))[0] == 200
            assert ask(first, get("/guarded"))[0] == 401
        with toy.connect() as second:
            assert ask(second, get("/guarded"))[0] == 401


def test_the_same_header_block_is_judged_anew_for_another_address_and_another_method() -> None:
    """Header blocks are remembered with their verdict: it is of one address and one operation."""
    only_one = "[rest:consumer]\nhosts_allow = 127.0.0.1\n[rest:producer]\nhosts_deny = all\n"
    with (
        ToyServer(ROUTES, acl=only_one) as toy,
        toy.connect() as one,
        toy.connect("127.0.0.2") as other,
    ):
        for _ in range(2):
            for path in ("/guarded", "/guarded?x", "/guarded"):
                assert ask(one, get(path))[0] == 200
                assert ask(other, get(path))[0] == 401
                assert ask(one, get(path, method="POST"))[0] == 401


def test_a_remembered_header_block_obeys_a_new_access_file() -> None:
    with ToyServer(ROUTES) as toy:
        for acl, status in ((None, 200), (ACCESS, 401)):
            if acl is not None:
                toy.application.acl = Acl.parse(acl)
            for path in ("/guarded", "/guarded?", "/guarded"):
                with toy.connect() as client:
                    assert ask(client, get(path))[0] == status


# -- the decorator ------------------------------------------------------------------------


def test_a_method_without_the_decorator_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="no @endpoint"):

        class Open(Endpoint):
            def get(self) -> Reply:
                return Reply()


def test_the_decorator_wants_to_know_who() -> None:
    with pytest.raises(TypeError, match="who may call"):
        endpoint()


def test_an_endpoint_is_a_handler_of_cyclones() -> None:
    assert issubclass(Endpoint, cyclone.web.RequestHandler)


def test_what_is_given_up_after_the_client_left_is_no_error() -> None:
    answer: Deferred[Reply] = Deferred()

    class Waits(Toy):
        @endpoint(Access.NONE)
        def get(self) -> Deferred[Reply]:
            self.shared.seen.append("waiting")
            return answer

    with ToyServer([(r"/", Waits)]) as toy:
        with toy.connect() as client:
            client.send(get("/"))
            wait_until(lambda: "waiting" in toy.broker.seen, "the request")
        toy.call(answer.cancel)
        wait_until(lambda: not toy.application.channels, "the client's leaving")
        assert toy.failures == []
