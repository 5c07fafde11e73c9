"""``restmq``: tools beside the daemon, a subcommand each. The daemon itself is ``restmqd``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import restmq
from restmq import install


class Command(NamedTuple):
    """A subcommand: the module has ``add_options(parser)`` and ``main(options) -> exit code``."""

    name: str
    module: str
    about: str


COMMANDS = (
    Command("import-legacy", "restmq.legacy.command", "take over the queues of an old RestMQ"),
    Command("token", "restmq.token_command", "add, list and revoke the tokens that /e/ asks for"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand and leave with its exit code; 2 when the line makes no sense."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="restmq", description="Tools for the RestMQ message broker. restmqd is the broker."
    )
    parser.add_argument("--version", action="version", version=f"restmq {restmq.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        made = subparsers.add_parser(command.name, help=command.about)
        if command.name in words[:1]:
            try:
                module = import_module(command.module)
            except ModuleNotFoundError as error:
                raise SystemExit(install.hint(error)) from None
            module.add_options(made)
            made.set_defaults(run=module.main)
    options = parser.parse_args(words)
    raise SystemExit(options.run(options))


if __name__ == "__main__":
    main()
