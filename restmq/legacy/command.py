"""``restmq import-legacy``: its options, and what it says at the end."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from restmq.errors import RestMQError
from restmq.legacy.migration import Counts, Migration
from restmq.legacy.progress import Progress
from restmq.legacy.source import OldBroker
from restmq.legacy.target import NewBroker
from restmq.redis.blocking import BlockingConnection
from restmq.redis.borrowed import store_on_copy
from restmq.redis.keys import Keys
from restmq.settings import ConfigError, Settings
from restmq.store_address import StoreAddress, masked_url, parse_redis_url
from restmq.store_options import add_store_options, chosen_store, store_settings

LOOK_SECONDS = 1.0
"""How often --follow looks for new messages."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.description = (
        "Takes over the messages, numbers, policies and stopped queues that a RestMQ of 2010-2015 "
        "has in Redis. The old database is only read. What an earlier run took over is left out."
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        required=True,
        help="the old database: redis://, rediss:// or unix:// and its address, or an RDB file",
    )
    parser.add_argument(
        "--from-password-file", metavar="FILE", help="file that holds the old database's password"
    )
    parser.add_argument(
        "--from-db", metavar="N", type=int, default=0, help="number of the database in an RDB file"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only count, and write nothing anywhere"
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on taking over what comes, until Ctrl-C or SIGTERM; then a last look",
    )
    parser.add_argument(
        "--label",
        default="old",
        help="a name for the old broker, needed when several are taken over [default: old]",
    )
    add_store_options(parser, "the new broker's store")


def run(options: argparse.Namespace) -> int:
    """Do it; the exit code: 1 when something that waits could not be taken over.

    Raises RestMQError when the import can't be done, KeyboardInterrupt when it is broken off.
    """
    is_file = "://" not in options.source
    if options.follow and (is_file or options.dry_run):
        raise ConfigError("--follow needs an old database that is live, and no --dry-run")
    if options.from_db and not is_file:
        raise ConfigError("--from-db is for RDB files; a live database's number is in its address")
    configured = store_settings(options)
    progress = Progress(sys.stderr)
    with ExitStack() as stack:
        stack.callback(progress.close)
        source = stack.enter_context(_source(options, is_file))
        target = stack.enter_context(_target(configured, options.dry_run))
        old = OldBroker(stack.enter_context(BlockingConnection(source)))
        new = None
        if target is not None:
            keys = Keys(configured.redis_prefix, target.db)
            connection = stack.enter_context(BlockingConnection(target))
            new = NewBroker(connection, keys, options.label)
        migration = Migration(old, new, progress, dry=options.dry_run, live=not is_file)
        began = time.monotonic()
        if options.follow:
            _follow(migration)
        else:
            migration.run()
        seconds = time.monotonic() - began
    shown = options.source if is_file else masked_url(options.source)
    print(report(migration.counts, shown, dry=options.dry_run, seconds=seconds), end="")
    return 0 if migration.counts.complete else 1


@contextmanager
def _source(options: argparse.Namespace, is_file: bool) -> Iterator[StoreAddress]:
    if is_file:
        with store_on_copy(Path(options.source)) as address:
            yield replace(address, db=options.from_db)
        return
    try:
        address = parse_redis_url(options.source)
    except ValueError as error:
        raise ConfigError(f"--from: {error}") from None
    if options.from_password_file is not None:
        try:
            password = Path(options.from_password_file).read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"--from-password-file: {error}") from None
        address = replace(address, password=password)
    yield address


@contextmanager
def _target(configured: Settings, dry: bool) -> Iterator[StoreAddress | None]:
    """The new store; None for a dry run where none was ever made."""
    if dry and configured.embedded and not configured.data_dir.exists():
        yield None
    else:
        with chosen_store(configured) as address:
            yield address


def _follow(migration: Migration) -> None:
    """Look again and again until a signal comes; a second one breaks it off."""
    migration.begin()
    told = _Told()
    while not told.to_end:
        migration.look_again(last=False)
        told.wait(LOOK_SECONDS)
    migration.look_again(last=True)


class _Told:
    """Whether a first SIGINT or SIGTERM came; the second does what it did before."""

    def __init__(self) -> None:
        self.to_end = False
        self._before = {n: signal.signal(n, self._end) for n in (signal.SIGINT, signal.SIGTERM)}

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.to_end = True
        for number, before in self._before.items():
            signal.signal(number, before)

    def wait(self, seconds: float) -> None:
        """Sleep so long, but not on after a signal."""
        deadline = time.monotonic() + seconds
        while not self.to_end and time.monotonic() < deadline:
            time.sleep(0.02)


def report(counts: Counts, source: str, *, dry: bool, seconds: float) -> str:
    """What became of everything, a line each; lines that say 0 only where the sum needs them."""
    would = "would be " if dry else ""
    lines = [
        f"{'Looked at' if dry else 'Imported from'} {source} in {seconds:.1f} s",
        _line(counts.queues, "queues"),
        _line(counts.messages, "messages in their lists, of which"),
        _line(counts.imported, f"  {would}imported ({counts.bytes} bytes)"),
        _line(counts.earlier, "  were imported by an earlier run"),
        _line(counts.gone, "  have no body: expired, or deleted by their key"),
        _line(counts.unreadable, "  can't be read"),
    ]
    further = (
        (counts.renumbered, f"{would}imported under another number, their own being taken"),
        (counts.foreign, "entries that are no key of their queue: NOT imported"),
        (counts.unnameable, "messages in queues whose name can't be kept: NOT imported"),
        (counts.left_behind, "bodies read by GET before, which the old broker kept: not imported"),
        (counts.locks, "messages it was handing out when it crashed (...:lock): not imported"),
    )
    lines += [_line(number, text) for number, text in further if number]
    lines += [f"  {text}" for text in counts.troubles]
    return "".join(f"{line}\n" for line in lines)


def _line(number: int, text: str) -> str:
    return f"{number:>12}  {text}"


def main(options: argparse.Namespace) -> int:
    """``run`` for people: errors are one line on standard error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left running
    try:
        return run(options)
    except RestMQError as error:
        print(f"restmq import-legacy: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("restmq import-legacy: broken off; run it again to go on", file=sys.stderr)
        return 130
    return 1
