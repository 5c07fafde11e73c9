"""Bad parameters for every route: what is sent, and the status it must get.

The words that the original answered with 200 (an unknown policy, status or command) are not here;
they are part of the contract with old clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
NO_CALLBACKS = (
    "<script>", "a%20b", "1a", "a..b", "alert(1)", "a%3Bb", "%C3%A9", "a" * 129, "a%0d%0aSet-Cookie:x",
)  # fmt: skip
NO_TTLS = (
    "abc", "0", "-1", "1e5", "inf", "nan", "1.", ".5", "%2B5", "0x10", "99999999999", "1,5", "%C2%B2",
    "0.0", "%FF",
)  # fmt: skip
NO_NAMES = ("%FF", "a%C0%80", "%ED%A0%80", "x%E9")


class Bad(NamedTuple):
    """A request that a route must refuse."""

    method: str
    path: str
    status: int
    body: bytes = b""
    kind: str = FORM


def _callbacks() -> Iterator[Bad]:
    with_get = ("/?queue=q&callback=", "/q/q?callback=", "/c/q?callback=", "/p/q?callback=",
                "/stats/q?callback=", "/stats/?callback=")  # fmt: skip
    for callback in NO_CALLBACKS:
        for start in with_get:
            yield Bad("GET", start + callback, 400)
        yield Bad("DELETE", f"/q/q?callback={callback}", 400)
        body = f"&callback={callback}".encode()
        yield Bad("POST", "/", 400, b"queue=q&value=v" + body)
        yield Bad("POST", "/q/q", 400, b"value=v" + body)
        yield Bad("POST", "/p/q", 400, b"policy=broadcast" + body)
        yield Bad("POST", "/control/q", 400, b"status=stop" + body)


def _names() -> Iterator[Bad]:
    for name in NO_NAMES:
        for door in ("q", "c", "p", "control", "stats", "j"):
            yield Bad("GET", f"/{door}/{name}", 400)
        for door in ("q", "p", "control", "queue"):
            yield Bad("POST", f"/{door}/{name}", 400, b"value=v&policy=broadcast&status=stop")
        yield Bad("DELETE", f"/q/{name}", 400)
        yield Bad("GET", f"/?queue={name}", 400)
        yield Bad("POST", "/", 400, f"queue={name}&value=v".encode())


def _methods() -> Iterator[Bad]:
    wrong = {
        "/": "DELETE PUT HEAD OPTIONS PATCH",
        "/q/": "PUT HEAD OPTIONS PATCH",
        "/q/q": "PUT HEAD OPTIONS PATCH",
        "/c/q": "POST PUT DELETE HEAD OPTIONS",
        "/p/q": "PUT DELETE HEAD OPTIONS",
        "/control/q": "PUT DELETE HEAD OPTIONS",
        "/control/": "PUT DELETE HEAD",
        "/stats/": "POST PUT DELETE HEAD",
        "/stats/q": "POST PUT DELETE HEAD",
        "/j/q": "POST PUT DELETE HEAD",
        "/queue": "PUT DELETE HEAD",
        "/queue/q": "GET PUT DELETE HEAD",
        "/livez": "POST PUT DELETE",
        "/readyz": "POST PUT DELETE",
        "/health": "POST PUT DELETE",
        "/static/index.html": "POST PUT DELETE",
    }
    for path, methods in wrong.items():
        for method in methods.split():
            yield Bad(method, path, 405)


def _paths() -> Iterator[Bad]:
    for path in ("/q", "/c", "/p", "/stats", "/control", "/nowhere", "/Q/q", "//q/q", "/livez/",
                 "/static", "/favicon.ico/x"):  # fmt: skip
        yield Bad("GET", path, 404)
    for path in ("nothing.html", "index.html%00.css", "....//reply.py"):
        yield Bad("GET", f"/static/{path}", 404)
    for path in ("../application.py", "%2e%2e/application.py", "..%2fapplication.py",
                 "%2Fetc%2Fpasswd", "css"):  # fmt: skip
        yield Bad("GET", f"/static/{path}", 403)


def _messages() -> Iterator[Bad]:
    for ttl in NO_TTLS:
        yield Bad("POST", "/q/q", 400, b"value=v&ttl=" + ttl.encode())
        yield Bad("POST", "/", 400, b"queue=q&value=v&ttl=" + ttl.encode())
    for body in (b"", b"value=", b"msg=&value=", b"other=v", b"value", b"&&&=", b"ttl=5"):
        yield Bad("POST", "/q/q", 400, body)
        yield Bad("POST", "/q/", 400, body)
        yield Bad("POST", "/", 400, b"queue=q&" + body)
    yield Bad("POST", "/", 400, b"value=v")
    yield Bad("POST", "/", 400, b"queue=&value=v")
    yield Bad("POST", "/q/q", 400, b"value=v", "text/plain")
    yield Bad("POST", "/q/q", 400, b'{"value": "v"}', JSON)
    yield Bad("POST", "/q/q", 413, b"value=" + b"x" * (1 << 20) + b"x")
    yield Bad("POST", "/p/q", 400, b"")
    yield Bad("POST", "/p/q", 400, b"policy=")


def _commands() -> Iterator[Bad]:
    texts = (
        b"", b"{", b"[]", b"1", b"null", b'"get"', b"{}", b'{"cmd": null}', b'{"cmd": ""}',
        b'{"cmd": 0, "queue": "q"}', b'{"cmd": 7, "queue": "q"}', b'{"cmd": ["get"], "queue": "q"}',
        b"{'cmd': 'get'}", b'{"cmd": "get", "queue": "q"} x', b'{"cmd": "get", "queue": "\\ud800"}',
        b'{"cmd": "get", "queue": "\xff"}', b'{"cmd": NaN}', b"[" * 10000, b'{"cmd":' * 3000,
        b"\xef\xbb\xbf{}", b"\x00",
    )  # fmt: skip
    for text in texts:
        yield Bad("POST", "/queue", 400, text, JSON)
        yield Bad("POST", "/queue/q", 400, text, JSON)
    for body in (b"", b"body=", b"other={}", b"body=%7B", b"msg=%5B%5D", b"body=%FF"):
        yield Bad("POST", "/queue", 400, body)
        yield Bad("POST", "/queue/q", 400, body)
    yield Bad("POST", "/queue/q", 400, b'{"cmd": "get", "queue": "other"}', JSON)
    yield Bad("POST", "/queue/q", 413, b'{"cmd": "add", "value": "x%s"}' % (b"x" * (1 << 20)), JSON)
    yield Bad("POST", "/queue", 400, b'{"cmd": "get", "queue": "q"}', "text/plain")


BAD: tuple[Bad, ...] = (
    *_callbacks(), *_names(), *_methods(), *_paths(), *_messages(), *_commands(),
)  # fmt: skip
