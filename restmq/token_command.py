"""``restmq token``: add, list and revoke the tokens that ``/e/`` asks for."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime

from restmq.core.tokens import Token, digest_of, new_token
from restmq.errors import RestMQError
from restmq.redis.blocking import BlockingConnection
from restmq.redis.keys import Keys
from restmq.settings import ConfigError
from restmq.store_options import add_store_options, chosen_store, store_settings

STORE = "the broker's store"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.description = (
        "Tokens that clients of /e/ send as X-Auth-Token. They count for all daemons on the store, a new "
        "one at once, a revoked one for two more seconds. The store holds only their SHA-256."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    added = actions.add_parser("add", help="make a token and print it; it is never shown again")
    added.add_argument("--name", default="", help="a word for it, to know it by")
    added.add_argument(
        "--stdin", action="store_true", help="take the token from standard input, not a new one"
    )
    listed = actions.add_parser("list", help="all tokens by their ids; not the tokens themselves")
    revoked = actions.add_parser("revoke", help="make tokens count no more")
    revoked.add_argument("which", metavar="ID", nargs="+", help="as list shows it, or a name")
    for action in (added, listed, revoked):
        add_store_options(action, STORE)


def run(options: argparse.Namespace) -> int:
    """Do it; the exit code. Raises RestMQError."""
    configured = store_settings(options)
    token = _token(options)
    with ExitStack() as stack:
        address = stack.enter_context(chosen_store(configured))
        connection = stack.enter_context(BlockingConnection(address))
        kept = Kept(connection, Keys(configured.redis_prefix, address.db))
        if options.action == "add":
            kept.add(token, options.name)
            print(token)
            return 0
        if options.action == "list":
            for found in kept.all():
                print(_line(found))
            return 0
        unknown = [which for which in options.which if not kept.revoke(which)]
    for which in unknown:
        print(f"restmq token: there is no token {which}", file=sys.stderr)
    return 1 if unknown else 0


def _token(options: argparse.Namespace) -> str:
    """The token to add. Raises ConfigError for one that no header can hold."""
    if options.action != "add" or not options.stdin:
        return new_token()
    token = sys.stdin.readline().rstrip("\r\n")
    if not token or not token.isascii() or not token.isprintable() or token != token.strip():
        raise ConfigError("a token is one line of printable ASCII, without blanks at its ends")
    return token


def _line(token: Token) -> str:
    born = datetime.fromtimestamp(token.created_ms / 1000, UTC)
    return f"{token.id}  {born:%Y-%m-%d %H:%M:%S}Z  {token.name}".rstrip()


class Kept:
    """The tokens in a store. Everything raises StoreError when the store does not do it."""

    def __init__(self, connection: BlockingConnection, keys: Keys) -> None:
        self._connection = connection
        self._key = keys.tokens()

    def add(self, token: str, name: str) -> None:
        """Let a token count; one that was there gets this name."""
        digest = digest_of(token)
        record = Token("", name, time.time_ns() // 1_000_000).record()
        self._connection.ask(b"HSET", self._key, digest, record)

    def all(self) -> list[Token]:
        """Every token, the oldest first."""
        return sorted(self._read().values(), key=lambda token: (token.created_ms, token.id))

    def revoke(self, which: str) -> bool:
        """Forget those with this id or this name; False when there are none."""
        digests = [
            digest
            for digest, token in self._read().items()
            if which in (token.id, token.name) and which
        ]
        if not digests:
            return False
        self._connection.ask(b"HDEL", self._key, *digests)
        return True

    def _read(self) -> dict[bytes, Token]:
        pairs = iter(self._connection.ask(b"HGETALL", self._key))
        return {
            digest: Token.read(digest, record) for digest, record in zip(pairs, pairs, strict=True)
        }


def main(options: argparse.Namespace) -> int:
    """``run`` for people: errors are one line on standard error."""
    try:
        return run(options)
    except RestMQError as error:
        print(f"restmq token: {error}", file=sys.stderr)
    return 1
