"""A producer: the entries of a news feed, and which subjects they are about most.

    python examples/trends.py [--url http://localhost:8888] [--feed examples/feed.atom]

(The original's twitter_trends.py asked a service that is no more; a feed is for everybody.) Reads an
Atom (RFC 4287) or RSS 2.0 feed, a file or an http(s) address, and posts to the queue `entries` each
entry that was not there before, oldest first, as JSON; then to the queue `trends` the categories of
all entries with how often each occurs. With --every SECONDS it goes on; --seen FILE remembers from
one run to the next what was posted.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen
from xml.etree import ElementTree

from restmq.client import Queues

ATOM = "{http://www.w3.org/2005/Atom}"
LONGEST_FEED = 10_000_000
HERE = Path(__file__).resolve().parent


class Entry(NamedTuple):
    """What both formats have in common."""

    id: str
    title: str
    link: str
    categories: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    parser.add_argument("--feed", default=str(HERE / "feed.atom"), help="a file or an address")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="look again so often")
    parser.add_argument("--seen", type=Path, metavar="FILE", help="what was posted before")
    options = parser.parse_args()
    seen = set()
    if options.seen is not None and options.seen.exists():
        seen.update(options.seen.read_text("utf-8").splitlines())
    with Queues(options.url) as queues:
        while True:
            for entry in post(queues, read_feed(load(options.feed)), seen):
                print(entry.title)
                if options.seen is not None:
                    with options.seen.open("a", encoding="utf-8") as file:
                        file.write(f"{entry.id}\n")
            if options.every is None:
                break
            time.sleep(options.every)


def post(queues: Queues, entries: list[Entry], seen: set[str]) -> Iterator[Entry]:
    """Post what is new, giving each entry when it is in its queue; then the trends."""
    fresh = [entry for entry in entries if entry.id not in seen]
    for entry in reversed(fresh):
        queues.put("entries", json.dumps(entry._asdict()))
        seen.add(entry.id)
        yield entry
    if fresh:
        counts = Counter(word for entry in entries for word in entry.categories)
        queues.put("trends", json.dumps(dict(counts.most_common())))


def load(place: str) -> bytes:
    """The bytes of a feed."""
    if not place.startswith(("http://", "https://")):
        return Path(place).read_bytes()
    request = Request(place, headers={"User-Agent": "RestMQ-example"})
    with urlopen(request, timeout=30) as response:
        data = response.read(LONGEST_FEED + 1)
    if len(data) > LONGEST_FEED:
        raise SystemExit(f"{place} is longer than {LONGEST_FEED} bytes")
    return data


def read_feed(data: bytes) -> list[Entry]:
    """The entries of an Atom or RSS feed, newest first as they stand there."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise SystemExit("a feed needs no document type, and ours may not have one")
    root = ElementTree.fromstring(data)
    if root.tag == f"{ATOM}feed":
        return [atom_entry(entry) for entry in root.iter(f"{ATOM}entry")]
    if root.tag == "rss":
        return [rss_item(item) for item in root.iter("item")]
    raise SystemExit(f"<{root.tag}> is neither Atom nor RSS 2.0")


def atom_entry(entry: ElementTree.Element) -> Entry:
    title = entry.find(f"{ATOM}title")
    text = "" if title is None else "".join(title.itertext())
    if title is not None and title.get("type") == "html":
        text = html.unescape(re.sub(r"<[^>]*>", "", text))
    links = [
        link for link in entry.iter(f"{ATOM}link") if link.get("rel", "alternate") == "alternate"
    ]
    return Entry(
        entry.findtext(f"{ATOM}id", "").strip(),
        " ".join(text.split()),
        links[0].get("href", "") if links else "",
        [category.get("term", "") for category in entry.iter(f"{ATOM}category")],
    )


def rss_item(item: ElementTree.Element) -> Entry:
    link = item.findtext("link", "").strip()
    return Entry(
        item.findtext("guid", "").strip() or link,
        " ".join(item.findtext("title", "").split()),
        link,
        [category.text or "" for category in item.iter("category")],
    )


if __name__ == "__main__":
    main()
