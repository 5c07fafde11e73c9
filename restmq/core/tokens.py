"""Tokens that let clients use ``/e/``: kept in the store as digests, so that nobody can read them there.

They are one hash: SHA-256 of the token -> ``Token`` as JSON. A daemon trusts what it was told for
TRUST_SECONDS, so polls do not ask the store, and a token that was revoked ends after that.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any, NamedTuple, Self

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from restmq.errors import StoreError
from restmq.redis.connection import Store
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode

TRUST_SECONDS = 2.0
KEPT = 10_000
ID_DIGITS = 12


class Token(NamedTuple):
    """What is kept of a token: the digits by which people name it, their word for it, its birth."""

    id: str
    name: str
    created_ms: int

    def record(self) -> bytes:
        """As it is stored."""
        return json.dumps({"name": self.name, "created_ms": self.created_ms}).encode()

    @classmethod
    def read(cls, digest: bytes, record: bytes) -> Self:
        """A field of the hash and its value."""
        found = json.loads(record)
        return cls(digest[:ID_DIGITS].decode("ascii"), found["name"], found["created_ms"])


def new_token() -> str:
    """A token that nobody can guess: 192 bits, of letters and digits, ``-`` and ``_``."""
    return secrets.token_urlsafe(24)


def digest_of(token: str) -> bytes:
    """The field of the hash that stands for a token, whatever its length."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest().encode("ascii")


class Tokens:
    """Which tokens there are, asked of the store no more often than needed."""

    def __init__(self, clock: IReactorTime, store: Store, keys: Keys) -> None:
        self._clock = clock
        self._store = store
        self._key = keys.tokens()
        self._trusted: dict[bytes, float] = {}
        self._none_until = 0.0

    def knows(self, token: str) -> Deferred[bool]:
        """Whether this is one of the tokens. Fails with a StoreError."""
        digest, now = digest_of(token), self._clock.seconds()
        if self._trusted.get(digest, 0.0) > now:
            return succeed(True)
        return self._ask(b"HEXISTS", digest).addCallback(self._knew, digest, now + TRUST_SECONDS)

    def _knew(self, reply: int, digest: bytes, until: float) -> bool:
        self._trusted.pop(digest, None)
        if reply:
            if len(self._trusted) >= KEPT:
                del self._trusted[next(iter(self._trusted))]
            self._trusted[digest] = until
        return bool(reply)

    def exist(self) -> Deferred[bool]:
        """Whether there is any token. Fails with a StoreError."""
        now = self._clock.seconds()
        if self._none_until > now:
            return succeed(False)
        return self._ask(b"HLEN").addCallback(self._counted, now + TRUST_SECONDS)

    def _counted(self, reply: int, until: float) -> bool:
        self._none_until = 0.0 if reply else until
        return reply > 0

    def _ask(self, command: bytes, *more: bytes) -> Deferred[int]:
        done: Deferred[int] = Deferred()

        def replied(reply: Any) -> None:
            if isinstance(reply, StoreError):
                done.errback(reply)
            else:
                done.callback(reply)

        self._store.send(encode(command, self._key, *more), replied)
        return done
