"""The start scripts: real daemons in the foreground and in the background, ended by their pid."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restmq import log_file
from tests.support import DEADLINE_SECONDS, ROOT, free_port, wait_until
from tests.test_tap import environment

SCRIPTS = ROOT / "start_scripts"
Tool = Callable[[str], str]


class Script:
    """One start script with a folder of its own for pid, log and data."""

    def __init__(self, folder: Path, name: str = "restmq_server") -> None:
        self.folder = folder
        self.program = str(SCRIPTS / name)
        self.port = free_port()
        self.pidfile = folder / "run" / "restmq.pid"
        self.logfile = folder / "log" / "restmq.log"
        self.environ = environment(
            RESTMQ_PYTHON=sys.executable,
            RESTMQ_PIDFILE=str(self.pidfile),
            RESTMQ_DATA_DIR=str(folder / "data"),
        )

    def run(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, which a daemon in the background has not kept open."""
        with tempfile.TemporaryFile("w+") as out:
            ended = subprocess.run(
                [self.program, *options],
                cwd=self.folder,
                env={**self.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            out.seek(0)
            return subprocess.CompletedProcess(ended.args, ended.returncode, out.read(), "")

    def background(self, *options: str) -> int:
        """Start it in the background; its pid."""
        ended = self.run(
            "--background", "--logfile", str(self.logfile), "--port", str(self.port), *options
        )
        assert ended.returncode == 0, ended.stdout
        wait_until(lambda: "the broker is ready" in self.log, lambda: self.log)
        return int(self.pidfile.read_text())

    def stop(self) -> None:
        ended = self.run("--stop")
        assert ended.returncode == 0, ended.stdout

    @property
    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    def livez(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/livez", timeout=10) as reply:
            return int(reply.status)


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Iterator[Script]:
    """`restmq_server`, in a folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="rmq-start-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Script(folder, getattr(request, "param", "restmq_server"))
        yield made
        if made.pidfile.exists():
            made.stop()
        assert "Traceback" not in made.log


def test_the_shell_finds_nothing_to_complain_about(tool: Tool) -> None:
    ended = subprocess.run(
        [tool("shellcheck"), "--external-sources", *sorted(map(str, SCRIPTS.iterdir()))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_in_the_foreground_with_another_reactor(script: Script) -> None:
    """`bash start_scripts/restmq_server`, as the README always said."""
    log = script.folder / "out"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", script.program, "--port", str(script.port), "--reactor=select"],
            env=script.environ,
            cwd=script.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "the broker is ready" in log.read_text(), log.read_text)
        assert "SelectReactor" in log.read_text()
        assert script.livez() == 200
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert not script.pidfile.exists()


def test_in_the_background_with_pid_and_log(script: Script) -> None:
    pid = script.background()
    assert script.livez() == 200
    assert os.getsid(pid) != os.getsid(0), "it is nobody's child any more"
    again = script.run("--background", "--port", str(free_port()))
    assert again.returncode == 1
    assert "pid" in again.stdout.lower() or "uses it" in again.stdout
    script.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not script.pidfile.exists()
    assert "Server Shut Down" in script.log


@pytest.mark.parametrize(
    ("script", "options"),
    [("collectd_restmq_server", []), ("syslogd_restmq_server", ["--syslog-port"])],
    indirect=["script"],
)
def test_the_doors_of_collectd_and_syslog_run_in_the_background_too(
    script: Script, options: list[str]
) -> None:
    script.background(*options, *(str(free_port()) for _ in options))
    assert script.livez() == 200
    script.stop()
    assert "Server Shut Down" in script.log


def test_what_is_wrong_is_told_before_it_goes_to_the_background(script: Script) -> None:
    wrong = script.run("--background", "--port", "http", RESTMQ_LOGFILE=str(script.logfile))
    assert (wrong.returncode, wrong.stdout.count("\n")) == (1, 1)
    assert wrong.stdout.startswith("restmq: port (option --port): 'http' is not a whole number")
    for options, words in (
        (["--background", "--logfile=-"], "no standard output to log to"),
        (["--stop"], "nothing to stop: there is no "),
        (["--pidfile"], "--pidfile wants a value"),
    ):
        ended = script.run(*options)
        assert (ended.returncode, ended.stdout.count("\n")) == (1, 1), ended.stdout
        assert words in ended.stdout
    assert not script.pidfile.exists()


def can_run_us(user: pwd.struct_passwd) -> bool:
    """Whether that user may read this Python and this folder."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import restmq.tap"
    command = [sys.executable, "-c", code]
    try:
        tried = subprocess.run(
            command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/", check=False
        )
    except PermissionError:
        return False
    return tried.returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_becomes_the_user_it_is_told(script: Script) -> None:
    nobody = pwd.getpwnam("nobody")
    if not can_run_us(nobody):
        pytest.skip("this Python or this folder is closed to other users")
    pid = script.background("--user", "nobody", "--group", "nogroup")
    for theirs in (Path(f"/proc/{pid}"), script.folder / "data"):
        assert theirs.stat().st_uid == nobody.pw_uid
    assert script.livez() == 200
    script.stop()
    assert not script.pidfile.exists()


def test_logrotate_moves_the_log_and_the_daemon_goes_on_in_a_new_one(
    script: Script, tool: Tool
) -> None:
    """The shipped file, with its folders moved here."""
    pid = script.background()
    text = (ROOT / "deploy" / "logrotate" / "restmq").read_text()
    config, state = script.folder / "config", script.folder / "state"
    text = text.replace("/var/log/restmq", str(script.logfile.parent))
    config.write_text(text.replace("/run/restmq", str(script.pidfile.parent)))
    config.chmod(0o644)
    rotate = [tool("logrotate"), "--force", "--state", str(state), str(config)]
    done = subprocess.run(rotate, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    os.kill(pid, 0)
    script.stop()
    old = script.logfile.with_suffix(".log.1").read_text()
    assert "the broker is ready" in old
    assert "Server Shut Down" not in old
    assert "Server Shut Down" in script.log


@pytest.mark.parametrize("plugin", ["restmq", "collectd", "syslogd"])
def test_each_script_starts_its_plug_in_with_all_that_was_asked(
    plugin: str, tmp_path: Path
) -> None:
    """A stand-in for Python writes down what it was called with."""
    name = "restmq_server" if plugin == "restmq" else f"{plugin}_restmq_server"
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >&2\n')
    stand_in.chmod(0o755)
    script = Script(tmp_path, name)
    script.environ["RESTMQ_PYTHON"] = str(stand_in)
    words = script.run("--reactor", "poll", "--port=1", "--acl", "a b").stdout.splitlines()
    twistd = ["--no_save", "--reactor=poll", "--nodaemon", "--pidfile="]
    assert words[3:] == [*twistd, plugin, "--port=1", "--acl", "a b"]


# -- the log file ---------------------------------------------------------------------------------


def test_a_moved_log_is_left_at_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = log_file.ReopenedFile(path)
    file.write("one\n")
    path.rename(tmp_path / "log.1")
    file.write("two\n")
    file.reopen()
    file.write("three\n")
    file.flush()
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    file.close()


def test_where_the_name_can_not_be_opened_again_the_old_file_serves(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = log_file.ReopenedFile(folder / "log")
    folder.rename(tmp_path / "moved")
    file.reopen()
    file.write("one\n")
    file.close()
    first, second = (tmp_path / "moved" / "log").read_text().splitlines()
    assert first.startswith("the log can't be opened again, it goes on here: ")
    assert second == "one"


def test_a_log_that_can_not_be_opened_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESTMQ_LOG_FILE", str(tmp_path / "none" / "log"))
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit, match="restmq: RESTMQ_LOG_FILE: can't write "):
        log_file.observer()
    assert signal.getsignal(signal.SIGUSR1) is before
