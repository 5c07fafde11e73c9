"""Pages for people: the list at ``/q/``, ``/j/NAME``, and the files under ``/static/``.

Links lead to ``/j/NAME`` and never to ``/q/NAME``, where a click would take a message away. The page
of all queues with their numbers is ``/static/index.html``; it asks ``/stats/`` again and again. No
page loads or runs anything that is not from here.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from twisted.internet.defer import gatherResults

from restmq.message import Policy, QueueInfo
from restmq.names import message_key
from restmq.web.endpoint import Access, Endpoint, Refusal, Reply, endpoint
from restmq.web.reply import HTML

SAFE: Final = (
    ("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)
NEWEST: Final = 10

_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<link rel="icon" href="/static/img/restmq.svg">
<link rel="stylesheet" href="/static/css/restmq.css">
</head>
<body>
$body
</body>
</html>
""")

_LIST: Final = Template("""<h1>Queues</h1>
<p><a href="/static/index.html">with their numbers</a></p>
<ul>
$items</ul>""")

_JOBS: Final = Template("""<p><a href="/static/index.html">all queues</a></p>
<h1>$name</h1>
<p>
queue name: $name<br>
queue objects: $objects<br>
job count: $length<br>
push to streams: $status<br>
policy: $policy
</p>
<h2>latest $newest jobs</h2>
<ul>
$items</ul>""")


def _page(title: str, body: str) -> Reply:
    """A page; the title is escaped here, the body by whoever made it."""
    text = _PAGE.substitute(title=escape(title), body=body)
    return Reply(200, text.encode(), HTML, SAFE, no_store=True)


def queue_list(names: list[str]) -> Reply:
    """All queues, each with a link to its page."""
    items = (
        f'<li><a href="/j/{quote(name, safe="")}">/q/{escape(name)}</a></li>\n' for name in names
    )
    return _page("available queues", _LIST.substitute(items="".join(items)))


class Jobs(Endpoint):
    """``/j/NAME``: one queue."""

    @endpoint(Access.CONSUMER, page=True)
    async def get(self, queue: str) -> Reply:
        """Its numbers and newest keys."""
        asked: list[Any] = [self.broker.inspect(queue), self.broker.newest(queue, NEWEST)]
        info, newest = await gatherResults(asked, consumeErrors=True).addErrback(_first_error)
        return _jobs(info, newest)


def _first_error(failure: Any) -> Any:
    """The error itself instead of gatherResults' wrapper."""
    return failure.value.subFailure


def _jobs(info: QueueInfo, newest: list[int]) -> Reply:
    items = (f"<li>{escape(message_key(info.name, number))}</li>\n" for number in newest)
    body = _JOBS.substitute(
        name=escape(info.name),
        objects=info.length + info.in_flight,
        length=info.length,
        status={True: "started", False: "stopped", None: "never used"}[info.started],
        policy=(info.policy or Policy.BROADCAST).name.lower(),
        newest=NEWEST,
        items="".join(items),
    )
    return _page(f"jobs in queue {info.name}", body)


# -- files ----------------------------------------------------------------------------------------


class File(NamedTuple):
    """A file as it is sent."""

    body: bytes
    content_type: str
    tag: str
    modified: int

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What tells one version of it from another."""
        return ("ETag", self.tag), ("Last-Modified", formatdate(self.modified, usegmt=True))


FOLDER: Final = Path(__file__).resolve().parent / "static"
TYPES: Final = {
    ".css": "text/css; charset=UTF-8",
    ".html": HTML,
    ".js": "text/javascript; charset=UTF-8",
    ".svg": "image/svg+xml",
}
REVALIDATE: Final = ("Cache-Control", "public, no-cache")
FOR_EVER: Final = ("Cache-Control", "public, max-age=315360000")
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


def read_files(folder: Path) -> tuple[Mapping[str, File], frozenset[str]]:
    """All files below a folder, by their path in it, and the names of the folders."""
    paths = sorted(folder.rglob("*"))
    files = {str(path.relative_to(folder)): _read(path) for path in paths if path.is_file()}
    folders = {str(path.relative_to(folder)) for path in paths if path.is_dir()}
    return files, frozenset({".", *folders})


def _read(path: Path) -> File:
    body = path.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:32]
    return File(body, TYPES[path.suffix], f'"{tag}"', int(path.stat().st_mtime))


class Static(Endpoint):
    """``/static/FILE``: the files this package brings, kept in memory; nothing else can be had."""

    files, folders = read_files(FOLDER)

    @endpoint(Access.NONE, page=True)
    def get(self, path: str) -> Reply:
        """The file; 304 if the client has it. With ``?v=`` it may be kept for ten years."""
        file = self._find(path)
        kept = FOR_EVER if self.raw_parameter("v") else REVALIDATE
        headers = (*file.headers, kept, *SAFE)
        if is_fresh(file, self.request.headers):
            return Reply(304, headers=headers)
        return Reply(200, file.body, file.content_type, headers)

    head = get

    def _find(self, path: str) -> File:
        name = posixpath.normpath(path)
        if name in self.folders or path.startswith("/") or name.split("/")[0] == "..":
            raise Refusal(403, "only files can be had, and only those in this folder")
        file = self.files.get(name)
        if file is None:
            raise Refusal(404, "there is no such file")
        return file


def is_fresh(file: File, headers: Mapping[str, str]) -> bool:
    """Whether the client has this version (RFC 9110, 13.1): its tags decide, else its date."""
    tags = headers.get("If-None-Match")
    if tags is not None:
        return tags.strip() == "*" or file.tag in _TAG.findall(tags)
    since = headers.get("If-Modified-Since")
    if since is None:
        return False
    try:
        return file.modified <= parsedate_to_datetime(since).timestamp()
    except (ValueError, OverflowError):
        return False
