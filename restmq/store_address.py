"""Where a store answers: ``StoreAddress``, and the URL that names it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from restmq.hosts import host_name

MASK = "***"


@dataclass(frozen=True)
class StoreAddress:
    """Where a store answers: a unix socket if there is a path, else a host and port."""

    path: str | None = None
    host: str = "localhost"
    port: int = 6379
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0

    def __str__(self) -> str:
        """The place alone, for people; never a password."""
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_redis_url(url: str) -> StoreAddress:
    """Take a redis://, rediss:// or unix:// URL apart.

    User and password are percent-decoded; the database stands in the path (``/3``) or, for a
    socket, in the query (``?db=3``). Raises ValueError without a word of the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("its port or its brackets are wrong") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("it does not begin with redis://, rediss:// or unix://")
    if parts.fragment or not url.isprintable() or " " in url:
        raise ValueError("'#', spaces and control characters must be percent-encoded in it")
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.startswith("/"):
            raise ValueError("a unix socket needs three slashes: unix:///run/redis.sock")
        db = _database(parts, "")
        return StoreAddress(unquote(parts.path), "", 0, False, username, password, db)
    db = _database(parts, parts.path.strip("/"))
    host = host_name(parts.hostname or "localhost")
    tls = parts.scheme == "rediss"
    return StoreAddress(None, host, 6379 if port is None else port, tls, username, password, db)


def _database(parts: SplitResult, in_path: str) -> int:
    query = parse_qsl(parts.query, keep_blank_values=True)
    if any(name != "db" for name, _ in query) or len(query) + bool(in_path) > 1:
        raise ValueError("behind the '?' it may say db=NUMBER, once, and nothing else")
    text = query[0][1] if query else in_path
    if text and not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError("its database is not a number")
    return int(text or 0)


def masked_url(url: str) -> str:
    """The URL with its password replaced by ``***``, for people to read."""
    return re.sub(r"(://[^/?#]*?:)[^/?#]*(@)", rf"\g<1>{MASK}\g<2>", url)
