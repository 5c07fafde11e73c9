"""Tokens: known by their digest, trusted for two seconds, and the store is not asked meanwhile."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from twisted.internet.task import Clock

from restmq.core.tokens import KEPT, TRUST_SECONDS, Token, Tokens, digest_of, new_token
from restmq.errors import StoreAway
from restmq.redis.keys import Keys


class Hash:
    """A store with one hash; it counts how often it is asked."""

    def __init__(self) -> None:
        self.fields: set[bytes] = set()
        self.asked = 0
        self.away = False

    def send(self, command: bytes, callback: Any) -> None:
        self.asked += 1
        if self.away:
            callback(StoreAway("away"))
            return
        reader = hiredis.Reader()
        reader.feed(command)
        name, key, *digest = reader.gets()
        assert key == b"restmq:tokens"
        if name == b"HLEN":
            callback(len(self.fields))
        else:
            assert name == b"HEXISTS"
            callback(int(digest[0] in self.fields))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000)
    return clock


@pytest.fixture
def store() -> Hash:
    return Hash()


@pytest.fixture
def tokens(clock: Clock, store: Hash) -> Tokens:
    return Tokens(clock, store, Keys("restmq:"))  # type: ignore[arg-type]


def result(deferred: Any) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    return found[0]


def test_a_known_token_is_trusted_for_two_seconds(tokens, store, clock):
    """A poller costs the store nothing; a revoked token ends by itself."""
    store.fields.add(digest_of("secret"))
    assert result(tokens.knows("secret"))
    store.fields.clear()
    clock.advance(TRUST_SECONDS - 0.1)
    assert result(tokens.knows("secret"))
    assert store.asked == 1
    clock.advance(0.2)
    assert not result(tokens.knows("secret"))


def test_a_new_token_counts_at_once(tokens, store):
    assert not result(tokens.knows("secret"))
    store.fields.add(digest_of("secret"))
    assert result(tokens.knows("secret"))


def test_that_there_is_none_is_believed_for_two_seconds(tokens, store, clock):
    assert not result(tokens.exist())
    store.fields.add(digest_of("secret"))
    assert not result(tokens.exist())
    clock.advance(TRUST_SECONDS + 0.1)
    assert result(tokens.exist())
    store.fields.clear()
    assert not result(tokens.exist())


def test_while_the_store_is_away_the_error_comes_through(tokens, store):
    store.away = True
    assert isinstance(result(tokens.knows("secret")).value, StoreAway)
    assert isinstance(result(tokens.exist()).value, StoreAway)


def test_what_is_remembered_is_bounded(tokens, store):
    for number in range(KEPT + 10):
        store.fields.add(digest_of(str(number)))
        assert result(tokens.knows(str(number)))
    assert len(tokens._trusted) == KEPT


@pytest.mark.parametrize("token", ["", "x" * 5000, "\udcff", "a b"])
def test_every_text_has_a_digest(token):
    assert len(digest_of(token)) == 64


def test_a_token_is_kept_without_itself():
    token = new_token()
    assert len(token) == 32
    record = Token("", "agents", 1_700_000_000_123).record()
    assert token.encode() not in record
    digest = digest_of(token)
    assert Token.read(digest, record) == Token(digest[:12].decode(), "agents", 1_700_000_000_123)
