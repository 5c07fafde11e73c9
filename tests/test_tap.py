"""The two commands, ``twistd restmq`` and ``restmqd``: real processes, their lines and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from restmq.listening import Listening
from restmq.redis.folder import DataFolder
from restmq.redis.server import Version
from restmq.settings import ConfigError, load
from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, ROOT, ValkeyServer, free_port, wait_until
from tests.system.processes import is_alive

RESTMQD = (sys.executable, "-m", "restmq")
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "restmq")
BOTH = pytest.mark.parametrize("command", [RESTMQD, TWISTD], ids=["restmqd", "twistd"])

MANY = pytest.mark.parametrize("processes", ["1", "2"])


def environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RESTMQ_")}
    paths = [str(ROOT), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}


def run(
    folder: Path, command: Sequence[str], *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself."""
    return subprocess.run(
        [*command, *options],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def refusal(folder: Path, command: Sequence[str], *options: str, **variables: str) -> str:
    """The one line of a command that refuses to start."""
    ended = run(folder, command, *options, **variables)
    assert (ended.returncode, ended.stdout) == (1, ""), ended
    (line,) = ended.stderr.splitlines()
    assert line.startswith("restmq: ")
    return line.removeprefix("restmq: ")


# -- before anything starts -----------------------------------------------------------------------


@BOTH
def test_a_wrong_value_is_one_line_and_exit_code_1(command: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("max-connections = 'many'\n")
    cases = [
        (["--port", "http"], {}, "port (option --port): 'http' is not a whole number"),
        ([], {"RESTMQ_IDLE_TIMEOUT": "soon"}, "idle-timeout (environment variable RESTMQ_IDLE_T"),
        (["--config", "c.toml"], {}, "max-connections (max-connections in c.toml): "),
        (["--prot", "1"], {}, "option --prot not recognized"),
        (["--port"], {}, "option --port requires argument"),
        (["--data-dir", "~nosuchuser/x"], {}, "data-dir (option --data-dir): ~nosuchuser/x: "),
        (["run"], {}, "'run' is no option; restmqd --help lists them"),
    ]
    for options, variables, line in cases if command is RESTMQD else cases[:2]:
        assert refusal(tmp_path, command, *options, **variables).startswith(line)
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


@BOTH
def test_print_config_is_what_the_daemon_would_run_with(
    command: Sequence[str], tmp_path: Path
) -> None:
    variables = {"RESTMQ_REDIS_URL": "redis://:hunter2@store", "HOME": "/home/ann"}
    ended = run(tmp_path, command, "--port", "9", "--print-config", **variables)
    expected = load({"port": ["9"]}, variables, Path.read_text)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == expected.describe()
    assert "hunter2" not in ended.stdout


@pytest.mark.parametrize("word", ["--help", "--version", "--print-config"])
def test_what_is_printed_may_be_cut_off(tmp_path: Path, word: str) -> None:
    """`restmqd --help | head`: nothing is said on standard error when nobody reads on."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nowhere:
        ended = subprocess.run(
            [*RESTMQD, word],
            cwd=tmp_path,
            env=environment(),
            stdout=nowhere,
            stderr=subprocess.PIPE,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


@BOTH
def test_help_names_every_option(command: Sequence[str], tmp_path: Path) -> None:
    ended = run(tmp_path, command, "--help")
    assert ended.returncode == 0
    for name in ("--acl=", "--redis-url=", "--redis-password-file=", "--listen=", "--jsonp "):
        assert name in ended.stdout
    assert "[default: 8888]" in ended.stdout


@BOTH
def test_an_access_file_that_can_not_be_read_is_one_line(
    command: Sequence[str], tmp_path: Path
) -> None:
    assert "acl" in refusal(tmp_path, command, "--acl", "/nowhere/acl.conf")
    (tmp_path / "acl.conf").write_text("[rest:producer]\nhosts_alow = all\n")
    assert "hosts_alow" in refusal(tmp_path, command, "--acl", "acl.conf")


@BOTH
def test_open_to_the_world_without_a_rule_is_refused(
    command: Sequence[str], tmp_path: Path
) -> None:
    """`docker run -p 8888:8888 restmq` by somebody who has not read a word."""
    line = refusal(tmp_path, command, "--listen", "0.0.0.0")
    assert line == (
        "listen (option --listen): 0.0.0.0 can be reached from other machines and no access rule "
        "is set: give --acl FILE with a rule or a user in it, or --open to let everybody in"
    )


def test_without_twisted_it_says_what_to_install(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['twisted'] = None; from restmq.cli import main; main()"
    assert refusal(tmp_path, (sys.executable, "-c", hide)) == (
        "the library twisted is not installed; the daemon needs: "
        "pip install 'restmq[server]' && pip install --no-deps cyclone==1.3"
    )


@pytest.mark.parametrize(
    "start", ["from restmq.cli import main as run", "from twisted.scripts.twistd import run"]
)
def test_without_cyclone_it_says_what_to_install(start: str, tmp_path: Path) -> None:
    hide = f"import sys; sys.modules['cyclone'] = None; {start}; run()"
    options = ["-n", "restmq"] if "twistd" in start else []
    line = refusal(tmp_path, (sys.executable, "-c", hide, *options))
    assert line.startswith("the library cyclone is not installed; the daemon needs: pip install ")


# -- ports ----------------------------------------------------------------------------------------


@MANY
@BOTH
def test_a_taken_port_is_one_line_and_nothing_was_started(
    command: Sequence[str], processes: str, tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        options = ("--port", str(port), "--data-dir", "data", "--processes", processes)
        line = refusal(tmp_path, command, *options)
    assert line == (
        f"listen 127.0.0.1 (default): port {port} (option --port) is taken: "
        "stop the program that has it, or give another --port"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("tcp:http", "Twisted can't use this endpoint: "),
        ("carrier:pigeon", "Twisted can't use this endpoint: "),
        ("ssl:0:privateKey=/nowhere.pem", "No such file or directory: /nowhere.pem"),
        ("ssl:0:privateKey=empty.pem", "no key and certificate in its files: "),
        ("unix:/nowhere/restmq.sock", "can't listen there: "),
        ("192.0.2.1", "this machine has no such address"),
        ("no-such-host.invalid", "its address is not known: "),
    ],
)
def test_a_place_where_nobody_can_listen_is_one_line(place: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    line = refusal(tmp_path, RESTMQD, "--open", "--port", "0", "--listen", place)
    assert line.startswith(f"listen {place} (option --listen): {why}")


class Carrier:
    """An endpoint whose port is no socket of ours."""

    def listen(self, factory: Factory) -> Deferred[object]:
        return succeed(object())


def test_an_endpoint_that_has_no_socket_can_not_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = load({"listen": ["carrier:pigeon"]}, {}, Path.read_text)
    monkeypatch.setattr(Listening, "_endpoint", lambda *_: Carrier())
    listening = Listening(MemoryReactorClock(), configuration)
    with pytest.raises(ConfigError, match="--processes can't share such an endpoint"):
        listening.hold()


class NoIPv6(MemoryReactorClock):
    """A machine without IPv6."""

    def listenTCP(self, port, factory, backlog=50, interface=""):
        if ":" in interface:
            raise CannotListenError(interface, port, OSError(errno.EADDRNOTAVAIL, "no IPv6"))
        return super().listenTCP(port, factory, backlog, interface)


def test_without_ipv6_the_default_is_127_0_0_1_alone() -> None:
    reactor = NoIPv6()
    Listening(reactor, load({}, {}, Path.read_text)).open(Factory())
    assert [server[3] for server in reactor.tcpServers] == ["127.0.0.1"]


def test_without_ipv6_asking_for_it_is_an_error() -> None:
    configuration = load({"listen": ["::1"]}, {}, Path.read_text)
    with pytest.raises(ConfigError, match=r"listen ::1 .*: this machine has no such address"):
        Listening(NoIPv6(), configuration).open(Factory())


def test_localhost_is_each_of_its_addresses() -> None:
    reactor = MemoryReactorClock()
    Listening(reactor, load({"listen": ["localhost"]}, {}, Path.read_text)).open(Factory())
    assert {server[3] for server in reactor.tcpServers} <= {"127.0.0.1", "::1"}
    assert reactor.tcpServers


# -- a life ---------------------------------------------------------------------------------------


def server_pid(data_dir: Path) -> int:
    started = DataFolder(data_dir).started()
    assert started is not None
    assert started.pid is not None
    return started.pid


@MANY
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@BOTH
def test_a_signal_ends_all_in_order_with_exit_code_0(
    command: Sequence[str], number: signal.Signals, processes: str, tmp_path: Path
) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *command,
                "--port",
                str(free_port()),
                "--data-dir",
                str(data),
                "--processes",
                processes,
            ],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "the broker is ready" in log.read_text(), log.read_text)
        pid = server_pid(data)
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert not is_alive(pid)
    assert "Traceback" not in log.read_text()
    assert not list(tmp_path.glob("*.pid"))


@BOTH
def test_a_second_daemon_on_the_folder_is_refused(
    command: Sequence[str], daemon: StartDaemon, tmp_path: Path
) -> None:
    first = daemon("--data-dir", str(tmp_path / "data"))
    first.wait_for("/readyz")
    line = refusal(
        tmp_path, command, "--port", str(free_port()), "--data-dir", str(tmp_path / "data")
    )
    assert f"the broker with pid {first.pid} uses it" in line
    assert first.request("GET", "/readyz").status == 200


@BOTH
def test_a_folder_of_a_newer_server_is_refused(command: Sequence[str], tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.path.mkdir(mode=0o700)
    folder.record_version(Version("valkey", (99, 0, 0)))
    line = refusal(tmp_path, command, "--port", str(free_port()), "--data-dir", "data")
    assert "valkey 99.0.0 wrote it" in line


@MANY
@BOTH
def test_a_store_that_does_not_start_ends_the_daemon_with_its_last_words(
    command: Sequence[str], processes: str, tmp_path: Path
) -> None:
    broken = tmp_path / "data" / "appendonlydir"
    broken.mkdir(parents=True, mode=0o700)
    broken.parent.chmod(0o700)
    (broken / "appendonly.aof.manifest").write_text("gibberish\n")
    options = ("--port", str(free_port()), "--data-dir", "data", "--processes", processes)
    ended = run(tmp_path, command, *options)
    assert ended.returncode == 1
    lines = [line for line in ended.stdout.splitlines() if "does not start in data-dir" in line]
    assert len(lines) == 1
    assert "Invalid AOF manifest file format" in lines[0]
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not list(tmp_path.glob("*.pid"))


def test_with_redis_away_it_starts_answers_503_and_recovers(daemon: StartDaemon) -> None:
    """'The database host was rebooting, too.'"""
    server = ValkeyServer()
    try:
        away = daemon("--redis-host", server.host, "--redis-port", str(server.port))
        away.wait_for("/livez")
        assert away.request("GET", "/q/x").status == 503
        wait_until(lambda: "does not answer" in away.log, lambda: away.log)
        assert away.log.count(f"the store at {server.host}:{server.port} does not answer") == 1
        server.start()
        away.wait_for("/readyz")
        wait_until(lambda: "the broker is ready" in away.log, lambda: away.log)
        assert away.request("POST", "/q/x?value=1").status == 200
    finally:
        server.close()


def test_an_emptied_access_file_does_not_open_a_broker_that_others_can_reach(
    daemon: StartDaemon, tmp_path: Path
) -> None:
    """127.1 is loopback, too, but no address the rule knows, so the worst is assumed."""
    acl = tmp_path / "acl.conf"
    acl.write_text("[rest:consumer]\nhosts_deny = all\n")
    reachable = f"tcp:{free_port()}:interface=127.1"
    made = daemon("--listen", reachable, "--listen", "127.0.0.1", "--acl", acl)
    made.wait_for("/livez")
    assert made.request("GET", "/q/x").status == 401
    acl.write_text("")
    wait_until(lambda: "restricts nobody" in made.log, lambda: made.log)
    assert made.request("GET", "/q/x").status == 401


def test_it_listens_on_a_unix_socket_with_its_mode(daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "s"
    made = daemon("--listen", f"unix:{path}:mode=660", "--listen", "127.0.0.1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert f"listening on {path}\n" in made.log
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect(str(path))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert made.stop() == 0
    assert not path.exists()


def test_messages_survive_the_restart_of_daemon_and_store(daemon: StartDaemon) -> None:
    made = daemon()
    made.wait_for("/readyz")
    assert made.request("POST", "/q/greetings?value=hello").status == 200
    made.kill()
    made.start("/readyz")
    assert b"hello" in made.request("GET", "/q/greetings").body
    assert made.request("POST", "/q/greetings?value=again").status == 200
    assert made.stop() == 0
    made.start("/readyz")
    assert b"again" in made.request("GET", "/q/greetings").body
