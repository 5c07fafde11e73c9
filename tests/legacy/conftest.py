"""An old database, a new store, and the import between them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import valkey as valkey_client

from tests.conftest import StartValkey
from tests.legacy.old_broker import OldBroker
from tests.support import ROOT, ValkeyServer

SECONDS = 60


class Imported:
    """What ``restmq import-legacy`` said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.output = done.stdout
        self.errors = done.stderr

    def __getitem__(self, words: str) -> int:
        """The number in front of a line that holds these words; 0 when there is none."""
        for line in self.output.splitlines()[1:]:
            found = re.fullmatch(r" *(\d+)  (.*)", line)
            if found and words in found[2]:
                return int(found[1])
        return 0


def command(*arguments: str) -> list[str]:
    """The command line of an import."""
    return [sys.executable, "-m", "restmq.command_line", "import-legacy", *arguments]


def run_import(*arguments: str) -> Imported:
    """Run one to its end."""
    return Imported(
        subprocess.run(
            command(*arguments),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    )


@pytest.fixture
def old_server(start_valkey: StartValkey) -> ValkeyServer:
    """The server of the old database."""
    return start_valkey()


@pytest.fixture
def old(old_server: ValkeyServer) -> Iterator[OldBroker]:
    """The old broker, its database empty."""
    with old_server.client() as client:
        yield OldBroker(client)


@pytest.fixture
def import_(old_server: ValkeyServer, valkey: ValkeyServer) -> Callable[..., Imported]:
    """Import from the old server into ``valkey``, with more options."""

    def run(*options: str) -> Imported:
        return run_import("--from", old_server.url, "--redis-url", valkey.url, *options)

    return run


@pytest.fixture
def new_store(valkey: ValkeyServer) -> Iterator[valkey_client.Valkey]:
    """A connection to the new store."""
    with valkey.client() as client:
        yield client
