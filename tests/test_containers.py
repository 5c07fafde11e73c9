"""What the container is made of, as scripts and as files; `.ci/container_check.py` builds it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from restmq.settings import BY_NAME, FILES
from tests.support import ROOT, Daemon, free_port
from tests.test_tap import run

ENTRYPOINT = ("sh", str(ROOT / "deploy" / "docker" / "entrypoint"))
HEALTHCHECK = (sys.executable, str(ROOT / "deploy" / "docker" / "healthcheck"))
VAGRANTFILE = ROOT / "Vagrantfile"
Tool = Callable[[str], str]
SETTINGS_OF_SCRIPTS = {"BACKGROUND", "USER", "GROUP", "REACTOR", "PIDFILE", "LOGFILE", "PYTHON"}


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH on which restmqd and echo tell what they are called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("restmqd", "restmq_engine"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "{name}:$*"\n')
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("words", "called"),
    [
        ([], "restmqd:"),
        (["--port", "1"], "restmqd:--port 1"),
        (["restmqd", "--version"], "restmqd:--version"),
        (["restmq_engine", "-s"], "restmq_engine:-s"),
    ],
)
def test_what_stands_behind_the_image_name(programs: str, words: list[str], called: str) -> None:
    ended = run(ROOT, ENTRYPOINT, *words, PATH=programs, RESTMQ_DATA_DIR="/tmp")
    assert (ended.returncode, ended.stdout) == (0, called + "\n")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_one_line(programs: str) -> None:
    ended = run(ROOT, ENTRYPOINT, PATH=programs, RESTMQ_DATA_DIR="/")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"restmq: user {os.getuid()} may not write to /: chown it")


def test_the_health_check_asks_the_broker(common_daemon: Daemon) -> None:
    port = str(common_daemon.port)
    assert run(ROOT, HEALTHCHECK, RESTMQ_PORT=port).returncode == 0
    nobody = run(ROOT, HEALTHCHECK, RESTMQ_PORT=str(free_port()))
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("no answer from the broker: ")
    assert nobody.stderr.count("\n") == 1


def test_every_variable_in_the_shipped_files_is_an_option() -> None:
    """A setting that nobody reads would be worse than none."""
    known = {name.upper().replace("-", "_") for name in (*BY_NAME, *FILES, "config")}
    files = [ROOT / name for name in ("Dockerfile", "docker-compose.yml", "Vagrantfile")]
    files += [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    named = {
        found for path in files for found in re.findall(r"\bRESTMQ_([A-Z_]+)", path.read_text())
    }
    assert {"OPEN", "REDIS_URL", "LISTEN"} <= named
    assert named - known - SETTINGS_OF_SCRIPTS == set()


def test_the_front_of_the_three_brokers_is_the_one_that_is_tested() -> None:
    front = (ROOT / "deploy" / "nginx" / "restmq.conf").read_text()
    brokers = "".join(f"    server broker{more}:8888;\n" for more in ("", "-two", "-three"))
    front = front.replace("    server 127.0.0.1:8888;\n", brokers)
    front = front.replace("listen 127.0.0.1:8080;", "listen 8080;")
    shipped = (ROOT / "deploy" / "compose" / "nginx.conf").read_text()
    assert shipped.partition("\n")[2] == front.partition("\n")[2]


def test_what_the_virtual_machine_is_made_with(tool: Tool, tmp_path: Path) -> None:
    """The shell in the Vagrantfile is sound, and all that it takes from the project is there."""
    ((_, quoted),) = re.findall(
        r"inline: <<-(\w+)\n(.*?)\n *\1\n", VAGRANTFILE.read_text(), re.DOTALL
    )
    script = tmp_path / "provision.sh"
    script.write_text(quoted.replace("\\\\", "\\") + "\n")  # Ruby reads it as a quoted string
    found = run(tmp_path, (tool("shellcheck"),), "--shell=sh", str(script))
    assert (found.returncode, found.stdout) == (0, "")
    taken = re.findall(r"/vagrant/(\S+)", quoted)
    assert taken
    assert [name for name in taken if not (ROOT / name).exists()] == []
