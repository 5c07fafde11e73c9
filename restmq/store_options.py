"""Options of ``restmq`` subcommands that say which broker's store is meant, as ``restmqd`` takes them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from restmq import settings
from restmq.redis.borrowed import embedded_store
from restmq.settings import ConfigError, Settings
from restmq.store_address import StoreAddress

NAMES = (
    "config",
    "redis-url",
    "redis-url-file",
    "redis-host",
    "redis-port",
    "redis-db",
    "redis-password",
    "redis-password-file",
    "redis-prefix",
    "data-dir",
)


def add_store_options(parser: argparse.ArgumentParser, title: str) -> None:
    """A group of options with this title."""
    group = parser.add_argument_group(
        title, "as given to restmqd; the environment (RESTMQ_...) counts, too"
    )
    for name in NAMES:
        option = settings.BY_NAME.get(name) or settings.FILES.get(name)
        about = "TOML file with options" if option is None else option.about
        if name in settings.FILES:
            about = f"file that holds {name.removesuffix('-file')}"
        group.add_argument(f"--{name}", metavar=name.rpartition("-")[2].upper(), help=about)


def store_settings(options: argparse.Namespace) -> Settings:
    """The settings they make, with the environment and the file. Raises ConfigError."""
    given = {name: getattr(options, name.replace("-", "_")) for name in NAMES}
    texts = {name: [text] for name, text in given.items() if text is not None}
    found = settings.load(texts, os.environ, lambda path: Path(path).read_text("utf-8")).settings
    try:
        return replace(found, data_dir=Path.cwd() / found.data_dir.expanduser())
    except RuntimeError as error:
        raise ConfigError(f"data-dir: {found.data_dir}: {error}") from None


@contextmanager
def chosen_store(configured: Settings) -> Iterator[StoreAddress]:
    """The store that is meant; the embedded one is started for the while if no daemon has it.

    Raises StoreUnusable when it can't be used.
    """
    address = configured.store_address
    if address is not None:
        yield address
    else:
        with embedded_store(configured.data_dir, configured.appendfsync) as embedded:
            yield embedded
