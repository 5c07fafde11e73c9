"""What people look at: lists, ``/j/NAME``, the live page and the files of ``/static/``."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from base64 import b64encode
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import unquote

import pytest

from restmq.web.pages import FOLDER, TYPES
from tests.support import ROOT
from tests.wire.clients import add, get, post

POLICY = "default-src 'self'; frame-ancestors 'none'"
PAGES = ("/static/index.html", "/static/help.html", "/q/", "/j/x")


def links(page: bytes) -> list[str]:
    return [html.unescape(found) for found in re.findall(r'(?:href|src)="([^"]*)"', page.decode())]


def test_the_list_leads_to_pages_and_not_to_pops(server, queue):
    """A click on /q/NAME would take a message away."""
    name = f'{queue} <b>&"é/ü?#+%'
    add(server, name, "v")
    page = get(server, "/q/").body
    assert html.escape(f"/q/{name}") in page.decode()
    found = [link for link in links(page) if unquote(link) == f"/j/{name}"]
    assert len(found) == 1
    assert html.escape(name) in get(server, found[0]).body.decode()
    assert not any(link.startswith("/q/") for link in links(page))


def test_names_are_escaped_once(server):
    add(server, "<b>&amp;", "v")
    for path in ("/q/", "/j/%3Cb%3E%26amp;"):
        page = get(server, path).body
        assert b"&lt;b&gt;&amp;amp;" in page
        assert b"<b>" not in page
        assert b"&amp;lt;" not in page


def test_the_page_of_a_queue(server, queue):
    for number in range(12):
        add(server, queue, str(number))
    post(server, f"/p/{queue}", policy="roundrobin")
    post(server, f"/control/{queue}", status="stop")
    page = get(server, f"/j/{queue}").body.decode()
    assert f"queue name: {queue}<br>" in page
    assert "queue objects: 12<br>" in page
    assert "job count: 12<br>" in page
    assert "stopped" in page
    assert "roundrobin" in page
    keys = re.findall(r"<li>(.*)</li>", page)
    assert keys == [f"{queue}:{number}" for number in range(12, 2, -1)]


def test_the_page_of_a_queue_counts_that_queue_only(server, queue):
    """The original counted every key that began so, and took the name for a pattern."""
    add(server, queue, "v")
    add(server, queue + "-longer", "v")
    assert b"queue objects: 1<br>" in get(server, f"/j/{queue}").body
    assert b"queue objects: 0<br>" in get(server, "/j/*").body


def test_the_page_of_a_queue_is_under_the_access_rules(daemon, tmp_path):
    rules = tmp_path / "rules.conf"
    rules.write_text("[rest:consumer]\nusername = u\npassword = p\n")
    server = daemon("--acl", rules)
    server.wait_for("/readyz")
    right = "Basic " + b64encode(b"u:p").decode()
    for path in ("/j/x", "/q/", "/stats/", "/"):
        refused = get(server, path)
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        assert get(server, path, Authorization=right).status in (200, 302)
    for path in ("/static/index.html", "/static/help.html", "/queue", "/livez", "/readyz"):
        assert get(server, path).status in (200, 302)


def test_rules_that_change_are_obeyed_without_a_restart(daemon, tmp_path):
    rules = tmp_path / "rules.conf"
    rules.write_text("")
    server = daemon("--acl", rules)
    server.wait_for("/readyz")
    assert get(server, "/q/x").status == 204
    rules.write_text("[rest:consumer]\nhosts_deny = all\n")
    server.wait_for("/q/x", 401)
    assert post(server, "/q/x", value="v").status == 200


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_and_loads_nothing_from_elsewhere(server, path):
    reply = get(server, path)
    assert reply.headers["content-security-policy"] == POLICY
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not any("//" in link for link in links(reply.body))
    text = reply.body.decode()
    assert "<style" not in text
    assert " style=" not in text
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\son\w+=", text)


@pytest.mark.parametrize("path", PAGES)
def test_a_link_on_another_site_may_lead_to_a_page(server, path):
    navigation = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert server.request("GET", path, headers=navigation).status == 200
    framed = {**navigation, "Sec-Fetch-Dest": "iframe"}
    assert server.request("GET", path, headers=framed).status == 403


def test_every_link_of_the_pages_leads_somewhere(server):
    for path in ("/static/index.html", "/static/help.html"):
        for link in links(get(server, path).body):
            target = "/" + link.removeprefix("../") if link.startswith("../") else f"/static/{link}"
            assert get(server, target).status == 200, target


def test_the_live_page_asks_what_there_is():
    script = (FOLDER / "js" / "restmq.js").read_text()
    assert 'ask("../stats/")' in script
    assert '"../control/" + encodeURIComponent(name)' in script
    assert "innerHTML" not in script


def test_the_live_page_shows_queues_and_their_buttons(server, queue):
    """The script runs in node, with just enough of a page round it, against the real broker."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    add(server, queue, "v")
    page = ROOT / "tests" / "wire" / "page.js"
    script = FOLDER / "js" / "restmq.js"
    done = subprocess.run(
        [node, page, script, server.url, queue],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout.splitlines()
    assert shown == [f"{queue} 1 started broadcast stop", f"{queue} 1 stopped broadcast start"]


# -- files ------------------------------------------------------------------------------------------


def test_files_come_with_what_tells_their_versions_apart(server):
    for path in sorted(FOLDER.rglob("*.*")):
        url = f"/static/{path.relative_to(FOLDER)}"
        reply = get(server, url)
        assert (reply.status, reply.body) == (200, path.read_bytes())
        assert reply.headers["content-type"] == TYPES[path.suffix]
        assert reply.headers["cache-control"] == "public, no-cache"
        assert re.fullmatch(r'"[0-9a-f]{32}"', reply.headers["etag"])
        head = server.request("HEAD", url)
        assert head.body == b""
        assert head.headers["content-length"] == str(len(reply.body))
        assert head.headers["etag"] == reply.headers["etag"]


def test_with_v_a_file_may_be_kept_for_ten_years(server):
    assert "max-age=315360000" in get(server, "/static/index.html?v=1").headers["cache-control"]


def test_conditions(server):
    reply = get(server, "/static/index.html")
    tag, date = reply.headers["etag"], reply.headers["last-modified"]
    modified = parsedate_to_datetime(date).timestamp()
    earlier, later = (formatdate(modified + shift, usegmt=True) for shift in (-1, 1))
    for headers, status in (
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f"W/{tag}"}, 304),
        ({"If-None-Match": f'"other", {tag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": tag.strip('"')}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": date}, 200),
        ({"If-None-Match": tag, "If-Modified-Since": earlier}, 304),
        ({"If-Modified-Since": date}, 304),
        ({"If-Modified-Since": later}, 304),
        ({"If-Modified-Since": earlier}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": "Mon, 99 Foo 2015 99:99:99 GMT"}, 200),
        ({"If-Modified-Since": "Mon, 25 May 0000 15:48:03 GMT"}, 200),
        ({"If-Modified-Since": ""}, 200),
    ):
        found = server.request("GET", "/static/index.html", headers=headers)
        assert found.status == status, headers
        assert found.headers["etag"] == tag
        if status == 304:
            assert found.body == b""
            assert "content-length" not in found.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/", 403),
        ("/static/css", 403),
        ("/static/css/", 403),
        ("/static/.", 403),
        ("/static/../pages.py", 403),
        ("/static/%2e%2e/pages.py", 403),
        ("/static/..%2fpages.py", 403),
        ("/static/css/../../pages.py", 403),
        ("/static//etc/passwd", 403),
        ("/static/%2fetc%2fpasswd", 403),
        ("/static/nope.html", 404),
        ("/static/index.html%00", 404),
        ("/static/..%5cpages.py", 404),
        ("/static/INDEX.HTML", 404),
        ("/static/css/../index.html", 200),
    ],
)
def test_nothing_but_our_files_can_be_had(server, path, status):
    assert get(server, path).status == status
