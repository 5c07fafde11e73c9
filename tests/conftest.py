"""What all tests share: a real Valkey, real daemons, and programs that may be missing.

``valkey``         an empty Valkey; one server for each test process, emptied before each test
``start_valkey``   a factory of Valkeys of the test's own, for tests that stop or configure one
``daemon``         a factory of daemons: ``daemon("--jsonp")`` is one that answers
``common_daemon``  one daemon for all tests of a test process, for those that mind their own queues
``tool``           ``tool("curl")`` is the path of curl; skips at home, fails in CI, without it

What they give is described in ``tests/support.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests.support import RESTMQD, Daemon, ValkeyServer, need_tool

# A shared machine pauses when it likes: how long one example took is no finding.
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "home")

# A shell starts what runs in the background deaf to Ctrl-C, and so would be all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

StartValkey = Callable[..., ValkeyServer]
StartDaemon = Callable[..., Daemon]


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The Valkey of this test process; ask for ``valkey``, which is emptied first."""
    server = ValkeyServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """A Valkey with nothing in it. Do not stop it: others use it after you."""
    with valkey_server.client() as client:
        client.flushall()
        client.script_flush()
    return valkey_server


@pytest.fixture
def start_valkey() -> Iterator[StartValkey]:
    """A function that starts a Valkey for this test alone, with settings of valkey.conf.

    Since Python has no hyphens in names: ``start_valkey(appendonly="yes", maxmemory_policy=...)``.
    """
    with ExitStack() as stack:

        def start(**options: str) -> ValkeyServer:
            server = ValkeyServer({key.replace("_", "-"): v for key, v in options.items()})
            stack.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """A function that starts a daemon with these options and returns when it answers.

    ``daemon("--redis-url", valkey.url)``; with no Redis named it has its embedded Valkey.
    ``start=False`` gives one that is yet to be started; ``env`` adds to its environment;
    ``program=twistd("collectd")`` is another one. At the end of the test each is stopped, and none may have logged a traceback.
    """
    with ExitStack() as stack:
        count = 0

        def make(
            *options: str,
            env: Mapping[str, str] | None = None,
            start: bool = True,
            program: Sequence[str] = RESTMQD,
        ) -> Daemon:
            nonlocal count
            count += 1
            made = Daemon(tmp_path / f"daemon-{count}", options, env or {}, program)
            stack.callback(made.close)
            return made.start() if start else made

        yield make


@pytest.fixture(scope="session")
def common_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a Valkey of its own that many tests use: starting one costs a second or more.

    Take a queue name that no other test has, and leave the daemon's settings and life alone.
    """
    with ExitStack() as stack:
        server = ValkeyServer()
        stack.callback(server.close)
        server.start()
        made = Daemon(tmp_path_factory.mktemp("common"), ("--redis-url", server.url), {})
        stack.callback(made.close)
        yield made.start("/readyz")


@pytest.fixture
def tool() -> Callable[[str], str]:
    """A function that gives the path of a program, or skips the test (fails it in CI)."""
    return need_tool
