"""``restmq_engine``: the command line on the queue core, a process for each call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, ROOT, ValkeyServer, free_port
from tests.wire.clients import add, pop

MODULE = (sys.executable, "-m", "restmq.engine")
SCRIPT = (sys.executable, str(ROOT / "restmq_engine.py"))


class Engine:
    """A function that runs the engine on one store and gives its lines."""

    def __init__(self, *store: str) -> None:
        self.store = store

    def __call__(self, *options: str, stdin: bytes = b"") -> list[str]:
        ended = run(*options, *self.store, stdin=stdin)
        assert (ended.returncode, ended.stderr) == (0, b""), ended
        return ended.stdout.decode().splitlines()


def run(
    *options: str, stdin: bytes = b"", command: Sequence[str] = SCRIPT
) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RESTMQ_")}
    return subprocess.run(
        [*command, *options],
        env={**environment, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.fixture
def engine(valkey: ValkeyServer) -> Engine:
    return Engine("--redis-url", valkey.url)


def test_the_letters_of_the_original_print_what_it_printed(engine: Engine) -> None:
    """'python restmq_engine.py -p', then -g, -s, -c, -c: as the README of 2010 has it."""
    assert engine("-p") == ["Running as producer", "uuid: test:1"]
    seen = ["Running as consumer", 'value: {"value": "a value"}', "policy: broadcast"]
    assert engine("-g") == seen
    assert engine("-s") == ["list len: 1", 'all queues: ["test"]']
    assert engine("-c") == seen
    assert engine("-c") == ["Running as consumer", "empty queue"]
    assert engine("-p", "-k")[2:] == seen
    assert engine("-k") == ["Running as consumer", "empty queue"]


def test_the_words_are_the_letters(engine: Engine) -> None:
    assert engine("--set_policy") == ["SET queue policy", "resp: OK"]
    policy = ["GET queue policy", '{"queue": "test", "value": "roundrobin"}', "value: roundrobin"]
    assert engine("--get_policy") == policy
    assert engine("-j", "--policy", "broadcast", "-q") == [
        "GET queue policy",
        '{"queue": "test", "value": "roundrobin"}',
        "value: roundrobin",
        "SET queue policy",
        "resp: OK",
    ], "the order is fixed: it looks before it sets"
    assert engine("--producer", "--get_delete", "--stats", "--non-consumer", "--consumer")[-1] == (
        "empty queue"
    )


def test_another_queue_and_any_bytes(engine: Engine, valkey: ValkeyServer) -> None:
    body = bytes(range(256))
    assert engine("-p", "--queue", "a/é", "--value", "-", stdin=body)[1] == "uuid: a/é:1"
    ended = run("-c", "--queue", "a/é", *engine.store)
    assert ended.stdout == b"Running as consumer\nvalue: " + body + b"\npolicy: broadcast\n"


def test_a_message_whose_time_is_over(engine: Engine) -> None:
    engine("-p", "--ttl", "0.001")
    assert engine("-c")[1] in ("value: (expired or deleted)", "empty queue")


def test_it_shares_the_store_of_a_running_daemon(daemon: StartDaemon) -> None:
    """The daemon runs its own Valkey; the engine finds that in the data folder."""
    broker = daemon()
    broker.wait_for("/readyz")
    engine = Engine("--data-dir", str(broker.folder / "data"))
    assert engine("-p", "--queue", "shared", "--value", "from the shell")[1] == "uuid: shared:1"
    assert pop(broker, "shared")["value"] == "from the shell"
    add(broker, "shared", "from the web")
    assert engine("-c", "--queue", "shared")[1] == "value: from the web"


def test_without_a_daemon_it_runs_the_store_itself(tmp_path: Path, daemon: StartDaemon) -> None:
    """What it put in is there for the next call, and for the daemon that starts later."""
    engine = Engine("--data-dir", str(tmp_path / "data"))
    engine("-p", "--value", "early")
    assert engine("-g")[1] == "value: early"
    broker = daemon("--data-dir", str(tmp_path / "data"))
    broker.wait_for("/readyz")
    assert pop(broker, "test")["value"] == "early"


def test_a_daemon_that_was_killed_leaves_no_trap(daemon: StartDaemon) -> None:
    broker = daemon()
    broker.wait_for("/readyz")
    add(broker, "kept", "still here")
    broker.kill()
    engine = Engine("--data-dir", str(broker.folder / "data"))
    # The killed daemon's store may still be ending: then one call is told so and changes nothing.
    ended = run("-c", "--queue", "kept", *engine.store)
    if ended.returncode == 0:
        assert b"value: still here" in ended.stdout
    else:
        assert engine("-c", "--queue", "kept")[1] == "value: still here"


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    away = run("-s", "--redis-port", str(free_port()))
    assert (away.returncode, away.stdout) == (1, b"")
    assert away.stderr.startswith(b"restmq_engine: the store at localhost:")
    for options, line in (
        (["-s", "--redis-port", "http"], b"restmq_engine: redis-port (option --redis-port): "),
        (["-s", "--queue", "x" * 16385], b"restmq_engine: a queue name has at most 16384 bytes"),
        (
            ["-p", "--max-message-bytes", "3"],
            b"restmq_engine: the message is longer than max-message-bytes, 3",
        ),
        (["-s", "--config", str(tmp_path / "none")], b"restmq_engine: config (option --config): "),
    ):
        ended = run(*options)
        assert (ended.returncode, ended.stdout) == (1, b"")
        assert ended.stderr.startswith(line), ended.stderr
        assert ended.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_is_no_traceback(engine: Engine) -> None:
    """`restmq_engine -g | true`"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [*SCRIPT, "-g", *engine.store],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("options", [["-p", "--ttl", "0"], ["-j", "--policy", "random"], ["-x"]])
def test_an_option_nobody_knows_is_exit_code_2(options: list[str]) -> None:
    ended = run(*options)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
def test_with_nothing_to_do_it_tells_what_it_can_do(command: Sequence[str]) -> None:
    for options in ([], ["-h"]):
        ended = run(*options, command=command)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert b"--non-consumer" in ended.stdout


def test_without_twisted_it_says_what_to_install() -> None:
    hide = "import sys; sys.modules['twisted'] = None; from restmq.engine import main; main(['-s'])"
    ended = run(command=(sys.executable, "-c", hide))
    assert ended.returncode == 1
    assert b"the library twisted is not installed" in ended.stderr


def test_the_page_about_it_names_every_option() -> None:
    page = (ROOT / "docs" / "engine.md").read_text()
    shown = run("-h").stdout.decode()
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z_-]*", shown))
    assert len(words) > 20
    assert sorted(word for word in words if f"`{word}" not in page) == []
