"""``restmq_engine``: queues from the command line, straight in the store, with no daemon between.

The program of that name came with the original to try the queue core: each letter is one thing to
do, several are done in a fixed order, and the queue is ``test`` unless ``--queue`` says otherwise.
Its lines are kept, its Python 2 representations have become JSON.

The store is the one the daemon would use, found by the same options, variables and file. Where that
is the embedded one and a daemon runs it, the engine connects to it; where no daemon runs, the
engine starts it and ends it again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from restmq import __version__, install
from restmq.errors import RestMQError, StoreError
from restmq.message import Message, Policy
from restmq.names import message_key, queue_name
from restmq.settings import BY_NAME, FILES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from restmq.core.broker import Broker
    from restmq.settings import Settings
    from restmq.store_address import StoreAddress

QUEUE = "test"
VALUE = '{"value": "a value"}'
"""What the original's producer put in."""
POLICIES = {policy.name.lower(): policy for policy in Policy}
LONGEST_TTL_SECONDS = 10 * 365 * 86400
ANSWER_SECONDS = 5.0
"""How long the store may take until it answers for the first time."""
STORE_OPTIONS = (
    "redis-url",
    "redis-host",
    "redis-port",
    "redis-db",
    "redis-password",
    "redis-prefix",
    "data-dir",
    "appendfsync",
    "max-message-bytes",
)
"""Those of the daemon's options that an engine needs, too."""


class EngineRefused(RestMQError):
    """The engine can't do what was asked; the text is one line."""


# -- what can be asked ----------------------------------------------------------------------------


class Engine:
    """The operations on one queue, each of which prints what came of it."""

    def __init__(self, broker: Broker, queue: str, asked: argparse.Namespace, out: BinaryIO):
        """``asked`` holds value, ttl, policy and longest message."""
        self._broker = broker
        self._queue = queue
        self._asked = asked
        self._out = out

    async def produce(self) -> None:
        """Put the value in, and print its key."""
        self._say("Running as producer")
        number = await self._broker.add(self._queue, self._asked.body, self._asked.ttl_ms)
        self._say(f"uuid: {message_key(self._queue, number)}")

    async def consume(self) -> None:
        """Take the oldest message out, for good."""
        self._say("Running as consumer")
        await self._show(await self._broker.pop(self._queue))

    async def peek(self) -> None:
        """Look at the oldest message and leave it there."""
        self._say("Running as consumer")
        found = await self._broker.peek(self._queue)
        await self._show(None if found is None else found.message)

    async def stats(self) -> None:
        """Print how many messages wait, and the names of all queues."""
        self._say(f"list len: {(await self._broker.inspect(self._queue)).length}")
        self._say(f"all queues: {json.dumps(await self._broker.queue_names())}")

    async def get_policy(self) -> None:
        """Print the queue's policy."""
        self._say("GET queue policy")
        policy = await self._policy()
        self._say(json.dumps({"queue": self._queue, "value": policy}))
        self._say(f"value: {policy}")

    async def set_policy(self) -> None:
        """Set the queue's policy."""
        self._say("SET queue policy")
        await self._broker.set_policy(self._queue, self._asked.policy)
        self._say("resp: OK")

    async def _policy(self) -> str:
        found = (await self._broker.inspect(self._queue)).policy
        return (found or Policy.BROADCAST).name.lower()

    async def _show(self, message: Message | None) -> None:
        """A message's body as it is, byte for byte, between the words."""
        if message is None:
            self._say("empty queue")
            return
        body = b"(expired or deleted)" if message.body is None else message.body
        self._out.write(b"value: " + body + b"\n")
        self._say(f"policy: {await self._policy()}")

    def _say(self, text: str) -> None:
        self._out.write(text.encode("utf-8") + b"\n")
        self._out.flush()


ORDERS: tuple[tuple[str, str, Callable[[Engine], Coroutine[Any, Any, None]], str], ...] = (
    ("-p", "--producer", Engine.produce, "put a message in"),
    ("-c", "--consumer", Engine.consume, "take the oldest message out"),
    ("-s", "--stats", Engine.stats, "how many messages wait, and the names of all queues"),
    ("-g", "--non-consumer", Engine.peek, "look at the oldest message and leave it there"),
    ("-q", "--get_policy", Engine.get_policy, "print the queue's policy"),
    ("-j", "--set_policy", Engine.set_policy, "set the queue's policy"),
    (
        "-k",
        "--get_delete",
        Engine.consume,
        "the same as -c; the original's -c left the value behind",
    ),
)
"""Letter, word, what is done, and why; in the order in which they are done."""


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Do what was asked and exit: 0 done, 1 it could not be done (one line), 2 a wrong option."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    orders = [do for letter, word, do, _ in ORDERS if getattr(asked, _key(word))]
    if not orders:
        parser.print_help()
        raise SystemExit(0)
    try:
        from twisted.internet import task  # noqa: PLC0415 - it may be missing

        queue, settings = queue_name(asked.queue), _settings(asked)
        asked.body = _body(asked.value, settings.max_message_bytes)
        task.react(_run, (settings, queue, asked, orders))
    except ModuleNotFoundError as error:
        raise SystemExit(install.hint(error)) from None
    except RestMQError as error:
        raise SystemExit(_one_line(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="restmq_engine",
        description="Queues straight in the store, with no daemon between.",
        epilog="The store is found as the daemon finds it, RESTMQ_... variables and all.",
        allow_abbrev=False,
    )
    for letter, word, _, about in ORDERS:
        parser.add_argument(letter, word, action="store_true", dest=_key(word), help=about)
    parser.add_argument("--queue", default=QUEUE, help="which queue (%(default)s)")
    parser.add_argument(
        "--value", default=VALUE, help="the message of -p; '-' reads it from standard input"
    )
    parser.add_argument(
        "--ttl", type=_ttl, default=0, dest="ttl_ms", metavar="SECONDS", help="its time to live"
    )
    parser.add_argument(
        "--policy",
        type=_policy,
        default=Policy.ROUNDROBIN,
        metavar="POLICY",
        help="what -j sets: broadcast, or roundrobin as the original's did (the default)",
    )
    parser.add_argument("--version", action="version", version=f"restmq {__version__}")
    store = parser.add_argument_group("the store")
    store.add_argument("--config", help="TOML file with options of the daemon")
    for name, about in _store_options():
        store.add_argument(f"--{name}", dest=f"store {name}", metavar="X", help=about)
    return parser


def _key(word: str) -> str:
    return word.strip("-").replace("-", "_")


def _store_options() -> Iterator[tuple[str, str]]:
    for name in STORE_OPTIONS:
        yield name, BY_NAME[name].about
        if f"{name}-file" in FILES:
            yield f"{name}-file", f"file that holds {name}"


def _ttl(text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= LONGEST_TTL_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, at most ten years")
    return round(seconds * 1000)


def _policy(text: str) -> Policy:
    if text not in POLICIES:
        raise argparse.ArgumentTypeError(f"{text!r} is neither {' nor '.join(POLICIES)}")
    return POLICIES[text]


def _settings(asked: argparse.Namespace) -> Settings:
    from restmq import tap  # noqa: PLC0415 - Twisted may be missing

    given = {
        key.removeprefix("store "): [text]
        for key, text in vars(asked).items()
        if key.startswith("store ") and text is not None
    }
    if asked.config is not None:
        given["config"] = [asked.config]
    return tap.configuration(given).settings


def _body(value: str, longest: int) -> bytes:
    body = sys.stdin.buffer.read(longest + 1) if value == "-" else os.fsencode(value)
    if len(body) > longest:
        raise EngineRefused(f"the message is longer than max-message-bytes, {longest}")
    return body


def _one_line(error: Exception) -> str:
    return "restmq_engine: " + " ".join(str(error).split())


# -- at work --------------------------------------------------------------------------------------


async def _run(
    reactor: Any,
    settings: Settings,
    queue: str,
    asked: argparse.Namespace,
    orders: Sequence[Callable[[Engine], Coroutine[Any, Any, None]]],
) -> None:
    try:
        async with _store(reactor, settings) as address, _broker(reactor, settings, address) as at:
            engine = Engine(at, queue, asked, sys.stdout.buffer)
            for order in orders:
                await order(engine)
    except BrokenPipeError:  # `| head -1`: nobody reads any more, and nobody wants to hear of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        raise SystemExit(install.hint(error)) from None
    except RestMQError as error:
        raise SystemExit(_one_line(error)) from None


@asynccontextmanager
async def _store(reactor: Any, settings: Settings) -> AsyncIterator[StoreAddress]:
    """Where the store answers: the one somebody named, a running daemon's, or one of our own."""
    from restmq.redis.embedded import EmbeddedStore  # noqa: PLC0415 - the libraries may be missing
    from restmq.redis.folder import DataFolder  # noqa: PLC0415
    from restmq.store_address import StoreAddress  # noqa: PLC0415

    named = settings.store_address
    if named is not None:
        yield named
        return
    started = DataFolder(settings.data_dir).started()
    if started is not None and _answers(started.socket):
        yield StoreAddress(path=started.socket)
        return
    store = EmbeddedStore(reactor, settings)
    try:
        yield StoreAddress(path=await store.start())
    finally:
        await store.stopService()


def _answers(path: str) -> bool:
    """Whether somebody listens there: a daemon that was killed leaves its store's socket behind."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@asynccontextmanager
async def _broker(reactor: Any, settings: Settings, address: StoreAddress) -> AsyncIterator[Broker]:
    """A broker whose store answers. Raises EngineRefused if it does not within five seconds."""
    from twisted.internet import task  # noqa: PLC0415 - it may be missing

    from restmq.core.broker import Broker  # noqa: PLC0415

    broker = Broker(reactor, settings)
    broker.start(address)
    deadline = reactor.seconds() + ANSWER_SECONDS
    try:
        while True:
            try:
                await broker.ping()
                break
            except StoreError as error:
                if reactor.seconds() > deadline:
                    text = f"the store at {address} does not answer: {error}"
                    raise EngineRefused(text) from None
            await task.deferLater(reactor, 0.02)
        yield broker
    finally:
        await broker.stop()


if __name__ == "__main__":
    main()
