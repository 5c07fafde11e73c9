"""Requests as browsers and programs send them, and which of them are let through."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.rules.origin import (
    FOREIGN,
    FOREIGN_JSONP,
    IMAGE,
    PREFETCH,
    WRONG_HOST,
    answers_to,
    jsonp_refusal,
    refusal,
    split_host,
)

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
OWN = "localhost:8888"


def ask(
    method: str = "GET",
    *,
    host: str | None = OWN,
    names: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    page: bool = False,
    pops: bool = False,
    scheme: str = "http",
    script: bool = False,
    **headers: Any,
) -> str | None:
    """Why this is refused; `sec_fetch_site=` is the header Sec-Fetch-Site."""
    sent = {name.replace("_", "-").title(): value for name, value in headers.items()}
    if host is not None:
        sent["Host"] = host
    return refusal(method, sent, names, origins, page, pops, scheme=scheme, script=script)


def fetched(site: str, mode: str, dest: str) -> dict[str, Any]:
    return {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}


IMG = fetched("cross-site", "no-cors", "image")
SCRIPT = fetched("cross-site", "no-cors", "script")
LINK = fetched("cross-site", "navigate", "document")
FRAME = fetched("cross-site", "navigate", "iframe")
TYPED = fetched("none", "navigate", "document")
OUR_PAGE = fetched("same-origin", "cors", "empty")


# -- programs -----------------------------------------------------------------------------


def test_programs_are_let_through() -> None:
    """curl, and every client of the last fifteen years"""
    assert ask(pops=True, user_agent="curl/8", accept="*/*") is None
    assert ask("POST") is None
    assert ask("DELETE", host="127.0.0.1:8888") is None
    assert ask(host=None, pops=True) is None


# -- web pages elsewhere ------------------------------------------------------------------


@pytest.mark.parametrize("headers", [IMG, SCRIPT, LINK, FRAME], ids=["img", "script", "a", "frame"])
def test_a_page_of_another_site_pops_nothing(headers: dict[str, Any]) -> None:
    """An image tag could pop a queue."""
    assert ask(pops=True, **headers) == FOREIGN
    assert ask(**headers) == FOREIGN


def test_another_port_of_this_machine_is_another_origin() -> None:
    """localhost:3000 is the same site as localhost:8888 and no more trusted than any page."""
    assert ask(**fetched("same-site", "no-cors", "image")) == FOREIGN
    headers = fetched("same-site", "cors", "empty")
    assert ask(origin="http://localhost:3000", **headers) == FOREIGN
    assert (
        ask(origin="http://localhost:3000", origins=("http://localhost:3000",), **headers) is None
    )


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "GET"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://localhost", "x"])
def test_an_origin_that_is_neither_ours_nor_listed_is_refused(method: str, origin: str) -> None:
    """With Sec-Fetch-Site or, from an older browser, without."""
    assert ask(method, origin=origin) == FOREIGN
    assert ask(method, origin=origin, sec_fetch_site="cross-site") == FOREIGN
    assert ask(method, origin=origin, sec_fetch_site="same-origin") == FOREIGN


def test_a_listed_origin_is_let_in_from_anywhere() -> None:
    listed = ("https://App.example/", "null")
    headers = fetched("cross-site", "cors", "empty")
    assert ask("POST", origin="https://app.example", origins=listed, pops=True, **headers) is None
    assert ask("POST", origin="null", origins=listed, **headers) is None
    assert ask("POST", origin="http://app.example", origins=listed, **headers) == FOREIGN
    assert ask("POST", origin="https://app.example:444", origins=listed, **headers) == FOREIGN
    assert ask(origins=listed, **IMG) == FOREIGN


def test_our_own_pages_are_let_in() -> None:
    """The live page at / with its start and stop buttons."""
    assert ask("POST", origin=f"http://{OWN}", **OUR_PAGE) is None
    assert ask(**OUR_PAGE) is None
    assert ask("POST", origin=f"http://{OWN}") is None
    assert ask("POST", origin="http://[::1]:8888", host="[::1]:8888") is None


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "ours"),
    [
        ("http", "localhost", "http://localhost", True),
        ("http", "localhost:80", "http://localhost", True),
        ("http", "LOCALHOST:8888", "http://localhost:8888", True),
        ("https", "localhost", "https://localhost", True),
        ("https", "localhost:443", "https://localhost", True),
        ("http", "localhost:8888", "https://localhost:8888", False),
        ("https", "localhost:8888", "http://localhost:8888", False),
        ("http", "localhost", "https://localhost", False),
        ("http", "localhost:443", "http://localhost", False),
        ("http", "localhost:8888", "http://127.0.0.1:8888", False),
        ("http", "localhost:8888", "ws://localhost:8888", False),
        ("http", "localhost:8888", "http://localhost:8888.evil.example", False),
    ],
)
def test_our_own_origin_is_scheme_host_and_port(
    scheme: str, host: str, origin: str, ours: bool
) -> None:
    assert (ask("POST", scheme=scheme, host=host, origin=origin) is None) == ours


def test_a_proxy_may_add_https_where_the_browser_vouches() -> None:
    """Behind a TLS proxy we see http, and the browser says same-origin."""
    headers: dict[str, Any] = {
        "host": "q.example",
        "names": ("q.example",),
        "origin": "https://q.example",
    }
    assert ask("POST", **headers, **OUR_PAGE) is None
    assert ask("POST", **headers) == FOREIGN


def test_what_contradicts_itself_is_refused() -> None:
    assert ask("POST", origin=f"http://{OWN}", sec_fetch_site="cross-site") == FOREIGN
    assert ask(sec_fetch_site="cousin") == FOREIGN
    assert ask("POST", host=None, origin="http://localhost") == FOREIGN


def test_what_the_user_types_is_his_wish() -> None:
    """`point your browser to http://localhost:8888/c/test`"""
    assert ask(pops=True, **TYPED) is None
    assert ask(page=True, **TYPED) is None


def test_links_lead_to_our_pages_from_everywhere() -> None:
    assert ask(page=True, **LINK) is None
    assert ask("HEAD", page=True, **LINK) is None
    assert ask(page=True, **fetched("same-site", "navigate", "document")) is None


def test_only_a_real_navigation_reaches_a_page() -> None:
    """A frame could be clicked through unseen; a form would change something."""
    assert ask(page=True, **FRAME) == FOREIGN
    assert ask("POST", page=True, origin="https://evil.example", **LINK) == FOREIGN
    assert ask(page=True, **IMG) == FOREIGN
    assert ask(page=True, **fetched("cross-site", "cors", "empty")) == FOREIGN
    assert ask(page=True, host="evil.example", **LINK) == WRONG_HOST


# -- prefetching --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_purpose": "prefetch"},
        {"sec_purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x_moz": "prefetch"},
        {"x_purpose": "preview"},
    ],
)
def test_what_nobody_asked_for_pops_nothing(headers: dict[str, Any]) -> None:
    assert ask(pops=True, **headers, **TYPED) == PREFETCH
    assert ask(pops=True, **headers) == PREFETCH
    assert ask(page=True, **headers, **TYPED) is None


def test_an_image_pops_nothing_where_sec_fetch_is_left_out() -> None:
    """Plain http to another machine: the Accept is all there is."""
    accept = "image/avif,image/webp,*/*;q=0.8"
    assert ask(host="192.168.1.5:8888", pops=True, accept=accept) == IMAGE
    assert ask(host="192.168.1.5:8888", accept=accept) is None
    assert ask(pops=True, accept="application/json, image/png") is None


# -- the Host -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8888",
        "LocalHost:8888",
        "localhost.",
        "localhost.:8888",
        "dev.localhost:8888",
        "127.0.0.1",
        "192.168.1.5:8888",
        "[::1]",
        "[::1]:8888",
        "[FE80::1]:8888",
        "[::ffff:127.0.0.1]:8888",
    ],
)
def test_addresses_and_localhost_are_always_ours(host: str) -> None:
    assert ask(host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8888",
        "localhost.evil.example",
        "notlocalhost",
        "localhost:8888@evil.example",
        "localhost:x",
        "localhost..",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:8888",
        "127.1",
        "[evil.example]",
        "[::1",
        "[::1]x",
        "[127.0.0.1]",
        "::1",
        "",
        ":8888",
        "localhost,evil.example",
        "localhost" * 40,
    ],
)
def test_a_rebound_name_is_not_ours(host: str) -> None:
    """DNS rebinding: the page's own name leads to 127.0.0.1, and its origin is `ours`."""
    assert ask(host=host) == WRONG_HOST
    assert ask("POST", host=host, origin=f"http://{host}", **OUR_PAGE) == WRONG_HOST


def test_names_that_are_configured_are_ours() -> None:
    names = ("restmq.test", "Q.example:8888")
    for host in ("restmq.test", "restmq.test:1", "RESTMQ.test.", "q.example:8888"):
        assert ask(host=host, names=names) is None
    for host in ("q.example", "q.example:1", "x.restmq.test", "restmq.test.evil.example", ""):
        assert ask(host=host, names=names) == WRONG_HOST


def test_a_star_answers_to_every_name() -> None:
    assert ask(host="evil.example", names=("*",)) is None
    assert ask("POST", host="a.example", names=("*",), origin="http://b.example") == FOREIGN


# -- JSONP --------------------------------------------------------------------------------


def test_jsonp_for_programs_and_our_own_pages() -> None:
    """root_callback: the recorded clients send nothing but Host"""
    assert jsonp_refusal({}, OWN, False) is None
    assert jsonp_refusal({"User-Agent": "curl/8"}, OWN, False) is None
    assert jsonp_refusal({"Sec-Fetch-Site": "same-origin"}, OWN, False) is None
    assert jsonp_refusal({"Sec-Fetch-Site": "none"}, OWN, False) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "?"])
def test_a_script_tag_elsewhere_reads_nothing(site: str) -> None:
    """A script tag could steal a queue by JSONP."""
    assert jsonp_refusal({"Sec-Fetch-Site": site}, OWN, False) == FOREIGN_JSONP
    assert jsonp_refusal({"Sec-Fetch-Site": site}, OWN, True) is None


def test_a_browser_that_hides_where_it_comes_from_reads_nothing_by_jsonp() -> None:
    """Plain http to another machine sends no Sec-Fetch-Site, but a page can't forge a Referer."""
    headers = {"User-Agent": FIREFOX}
    assert jsonp_refusal(headers, OWN, False) == FOREIGN_JSONP
    for referer, reason in (
        (f"http://{OWN}/", None),
        (f"http://{OWN}", None),
        ("http://evil.example/", FOREIGN_JSONP),
        (f"http://{OWN}.evil.example/", FOREIGN_JSONP),
        (f"http://evil.example/http://{OWN}/", FOREIGN_JSONP),
        ("about:blank", FOREIGN_JSONP),
    ):
        assert jsonp_refusal({**headers, "Referer": referer}, OWN, False) == reason
    assert jsonp_refusal(headers, None, False) == FOREIGN_JSONP


def test_with_jsonp_allowed_script_tags_elsewhere_are_served() -> None:
    """--jsonp opens scripts and nothing else."""
    assert ask(pops=True, script=True, **SCRIPT) is None
    assert ask(script=True, **fetched("same-site", "no-cors", "script")) is None
    assert ask(script=True, **IMG) == FOREIGN
    assert ask(script=True, **FRAME) == FOREIGN
    assert ask("POST", script=True, **SCRIPT) == FOREIGN
    assert ask(script=True, origin="https://evil.example", **SCRIPT) == FOREIGN
    assert ask(script=True, pops=True, sec_purpose="prefetch", **SCRIPT) == PREFETCH
    assert ask(script=True, host="evil.example", **SCRIPT) == WRONG_HOST


# -- laws ---------------------------------------------------------------------------------

ports = st.sampled_from(["", ":", ":80", ":8888"])


@given(st.ip_addresses(), ports)
def test_law_every_address_is_ours(address: IPv4Address | IPv6Address, port: str) -> None:
    name = f"[{address}]" if address.version == 6 else str(address)
    assert answers_to(name + port, ())


@given(st.text(), st.sampled_from([(), ("q.example",), ("q.example:1", "[::1]")]))
def test_law_any_text_in_host_is_judged_and_its_case_does_not_matter(
    host: str, names: tuple[str, ...]
) -> None:
    assert answers_to(host, names) == answers_to(host.upper().lower(), names) or not host.isascii()
    name, _ = split_host(host)
    assert name or not answers_to(host, names)


@given(
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.sampled_from(["cross-site", "same-site"]),
    st.sampled_from(["navigate", "cors", "no-cors", "websocket"]),
    st.sampled_from(["document", "iframe", "image", "script", "empty"]),
    st.booleans(),
)
def test_law_nothing_from_elsewhere_reaches_a_route_that_is_no_page(
    method: str, site: str, mode: str, dest: str, pops: bool
) -> None:
    assert ask(method, pops=pops, **fetched(site, mode, dest)) == FOREIGN


@given(st.text(), st.none() | st.sampled_from(["same-origin", "same-site", "cross-site", "none"]))
def test_law_a_strange_origin_is_never_ours(origin: str, site: str | None) -> None:
    headers: dict[str, Any] = {} if site is None else {"sec_fetch_site": site}
    assert ask("POST", origin=origin, **headers) == FOREIGN
