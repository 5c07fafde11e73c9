#!/usr/bin/env python3
"""Does the Dockerfile do what it says, as far as that can be seen with no Docker engine?

Usage: .ci/container_check.py [PYTHON], the interpreter in the place of the base image's.

Looks at the Dockerfile with hadolint and at the compose files with docker-compose. Then carries the
Dockerfile's COPY and RUN out, step by step, under a folder of its own in the place of "/", and starts
what came of it by the image's own entry point, as the image's user where that can be: one message goes
in and out, the health check says yes before the end and no after it. Needs the network, as building the image does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
MOVED = re.compile(r"(?<![\w/.-])/(opt/restmq|src|data|usr/local/bin)(?![\w-])")
COMPOSE = (
    ["docker-compose.yml"],
    ["docker-compose.yml", "deploy/compose/three-brokers.yml"],
)


def say(text: str) -> None:
    print(f"  - {text}", flush=True)


def fail(text: str) -> None:
    sys.exit(f"container_check: {text}")


def run(*command: object, **more: object) -> str:
    """Run it; what it printed. Ends the check if it fails."""
    ended = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **more,
    )
    if ended.returncode != 0:
        fail(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


def lint(work: Path, python: str) -> None:
    say("hadolint")
    run(python, "-m", "venv", work / "hadolint")
    pip = [work / "hadolint/bin/python", "-m", "pip", "install", "--quiet", "--require-hashes"]
    run(*pip, "-r", PROJECT / ".ci/hadolint.lock")
    run(work / "hadolint/bin/hadolint", PROJECT / "Dockerfile")
    say("docker-compose config")
    for files in COMPOSE:
        names = [word for file in files for word in ("-f", file)]
        run("docker-compose", *names, "config", "--quiet", cwd=PROJECT)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as pairs of word and rest, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


class Image:
    """What the instructions make, under ``root``. Both stages share it: the second copies from the first."""

    def __init__(self, root: Path, python: str) -> None:
        self.root = root
        self.folder = root
        # A Python below somebody's home is closed to the image's user; then all runs as we are.
        above = Path(python).resolve().parents
        self.switches = os.getuid() == 0 and all(folder.stat().st_mode & 1 for folder in above)
        if not self.switches:
            say("not as the image's own user: we are not root, or this Python is closed to it")
        self.environ = {"PATH": f"{root}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.user = 0
        self.entrypoint: list[str] = []
        self.health: list[str] = []
        (root / "bin").mkdir(parents=True)
        for name, words in (("python", ""), ("pip", " -m pip --disable-pip-version-check")):
            script = root / "bin" / name
            script.write_text(f'#!/bin/sh\nexec "{python}"{words} "$@"\n')
            script.chmod(0o755)

    def moved(self, text: str) -> str:
        return MOVED.sub(rf"{self.root}/\1", text)

    def carry_out(self, word: str, rest: str) -> None:
        match word:
            case "FROM" | "VOLUME" | "EXPOSE":
                self.folder = self.root if word == "FROM" else self.folder
            case "WORKDIR":
                self.folder = Path(self.moved(rest))
                self.folder.mkdir(parents=True, exist_ok=True)
            case "COPY":
                self.copy(rest.split())
            case "RUN":
                say(f"RUN {rest}")
                run("sh", "-c", self.moved(self.as_we_may(rest)), cwd=self.folder, env=self.environ)
            case "USER":
                self.user = int(rest.partition(":")[0])
            case "ENV":
                for name, value in (pair.split("=", 1) for pair in rest.split()):
                    self.environ[name] = self.moved(value).replace("$PATH", self.environ["PATH"])
            case "ENTRYPOINT":
                self.entrypoint = json.loads(rest)
            case "HEALTHCHECK":
                self.health = json.loads(rest[rest.index("[") :])
            case _:
                fail(f"an instruction that nobody here knows: {word} {rest}")

    def as_we_may(self, command: str) -> str:
        if os.getuid() == 0:
            return command
        return re.sub(r"--(owner|group)=\S+", "", command)

    def copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            return
        *sources, target = words
        to = Path(self.moved(target)) if target.startswith("/") else self.folder / target
        for name in sources:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                moved = to / source.name
                shutil.copy2(source, moved)
                if source.parent.name == "docker":
                    moved.write_text(self.moved(moved.read_text()))

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        identity: dict[str, Any] = {}
        if self.switches:
            identity = {"user": self.user, "group": self.user, "extra_groups": []}
        path = f"{self.root}/usr/local/bin:{self.environ['PATH']}"
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**self.environ, "PATH": path, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **identity,
        )

    def ends_with(self, code: int, words: list[str], **variables: str) -> str:
        process = self.start(*words, **variables)
        said, _ = process.communicate(timeout=60)
        if process.returncode != code:
            fail(f"{words} ended with {process.returncode} and not with {code}:\n{said}")
        return said


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def try_it(image: Image) -> None:
    port = free_port()
    here = {"RESTMQ_PORT": str(port), "RESTMQ_LISTEN": "127.0.0.1"}
    say("open to all addresses without a rule it refuses to start")
    said = image.ends_with(1, image.entrypoint, RESTMQ_PORT=str(port))
    if "no access rule is set" not in said or said.count("\n") != 1:
        fail(f"instead of one line of refusal: {said}")
    say("the health check of a broker that is not there, the version, a command of its own")
    image.ends_with(1, image.health, **here)
    image.ends_with(0, [*image.entrypoint, "--version"])
    image.ends_with(
        0, [*image.entrypoint, "restmq_engine", "-p", "--queue", "q", "--value", "hello"]
    )
    say(f"the entry point on port {port}, one message in and out")
    broker = image.start(*image.entrypoint, **here)
    try:
        until(lambda: image.start(*image.health, **here).wait() == 0, "a healthy broker", broker)
        until(lambda: ask(f"http://127.0.0.1:{port}/readyz") is not None, "its store", broker)
        take_hello_and_end(f"http://127.0.0.1:{port}/q/q", broker)
    finally:
        broker.kill()
        broker.wait()


def take_hello_and_end(url: str, broker: subprocess.Popen[str]) -> None:
    """The message is there, and the broker ends in order when it is asked to."""
    got = ask(url) or "nothing"
    if '"value": "hello"' not in got:
        fail(f"the message came out as {got}")
    broker.terminate()
    if broker.wait(30) != 0:
        fail(f"it ended with {broker.returncode}")


def ask(url: str) -> str | None:
    """The body of a GET; None while the broker waits for its store."""
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return str(reply.read(), "utf-8")
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return None


def until(look: Callable[[], bool], what: str, broker: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not look():
        if broker.poll() is not None or time.monotonic() > deadline:
            broker.kill()
            fail(f"not within a minute: {what}\n{broker.communicate()[0]}")
        time.sleep(0.1)


def main() -> None:
    found = shutil.which(sys.argv[1] if len(sys.argv) > 1 else "python3") or fail("no such Python")
    python = str(Path(found).absolute())  # not resolved: it is a virtual environment's
    with tempfile.TemporaryDirectory(prefix="rmq-image-") as name:
        work = Path(name)
        work.chmod(0o755)
        lint(work, python)
        image = Image(work / "root", python)
        for word, rest in instructions():
            image.carry_out(word, rest)
        size = run("du", "-sm", work / "root/opt/restmq").split()[0]
        say(f"the environment in the image has {size} MB")
        try_it(image)
    say("good")


if __name__ == "__main__":
    main()
