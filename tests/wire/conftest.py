"""One daemon for all tests of a module, and a queue of its own for each test.

``server``   a daemon with an embedded store
``queue``    the name of a queue nobody has used
``comet``    ``comet("/c/x")`` opens a stream, closed at the end of the test
``ws``       ``ws("/ws/x")`` opens a WebSocket, likewise
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support import Daemon
from tests.wire.clients import Comet
from tests.wire.websockets import Socket

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("wire"), ["--host-name", "restmq.test"], {})
    try:
        yield daemon.start("/readyz")
    finally:
        daemon.close()


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    name = re.sub(r"\W+", "-", request.node.name).removeprefix("test_")
    return f"{name[:60]}-{next(_numbers)}"


@pytest.fixture
def comet(server: Daemon) -> Iterator[Callable[..., Comet]]:
    with ExitStack() as stack:

        def open_stream(path: str, *headers: str, version: str = "HTTP/1.1") -> Comet:
            return stack.enter_context(Comet(server.port, path, *headers, version=version))

        yield open_stream


@pytest.fixture
def ws(server: Daemon) -> Iterator[Callable[..., Socket]]:
    with ExitStack() as stack:

        def open_socket(
            path: str, *headers: str, port: int = server.port, **changes: str
        ) -> Socket:
            made = Socket(port, path, *headers, **changes)
            stack.callback(made.close)
            return made

        yield open_socket
