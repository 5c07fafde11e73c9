#!/usr/bin/env python3
"""Do the Debian package and the installer give a broker that runs? Usage: .ci/deploy_check.py PYTHON.

PYTHON has `build` and setuptools, as .venv/bin/python does. Builds both in a folder of its own; unpacks the
package to another place and starts the broker from there; lets the installer make an environment,
twice, and starts that one. Needs the network, for the libraries of the lock. Installs nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from container_check import PROJECT, ask, fail, free_port, run, say, take_hello_and_end, until


def try_broker(python: Path, folder: Path) -> None:
    """One message in and out of a broker of this environment."""
    port = free_port()
    say(f"a broker from {python.parent.parent}, port {port}: one message in and out")
    words = [python, "-P", "-m", "restmq", "--port", port, "--data-dir", folder / "data"]
    with (folder / "log").open("w+") as log:
        broker = subprocess.Popen(
            list(map(str, words)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            until(lambda: answers(port), f"a broker that is ready, see {log.name}", broker)
            url = f"http://127.0.0.1:{port}/q/greetings"
            with urllib.request.urlopen(url, b"value=hello", timeout=10) as reply:
                reply.read()
            take_hello_and_end(url, broker)
        finally:
            broker.kill()
            broker.wait()
    if "Traceback" in (folder / "log").read_text():
        fail("a traceback:\n" + (folder / "log").read_text())


def answers(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}/readyz") is not None
    except OSError:
        return False


def debian_package(python: str, work: Path) -> None:
    say("building the Debian package")
    package = run(PROJECT / "deploy/deb/build", python, work).splitlines()[-1]
    elsewhere = work / "unpacked"
    run("dpkg-deb", "--extract", package, elsewhere)
    home = elsewhere / "opt/restmq"
    first = (home / "bin/restmqd").read_text().splitlines()[0]
    if first != "#!/opt/restmq/bin/python":
        fail(f"restmqd in the package begins with {first}")
    for name in (
        "usr/bin/restmq",
        "usr/bin/restmqd",
        "usr/bin/restmq_engine",
        "usr/lib/systemd/system/restmq.service",
    ):
        if not (elsewhere / name).is_symlink() and not (elsewhere / name).exists():
            fail(f"the package has no {name}")
    folder = work / "from-package"
    folder.mkdir()
    try_broker(home / "bin/python", folder)


def installer(python: str, work: Path) -> None:
    say("building the installer")
    program = run(PROJECT / "deploy/installer/build", python, work).splitlines()[-1]
    target = work / "installed"
    for _ in ("first", "again"):
        say(f"python3 {Path(program).name} {target}")
        run(sys.executable, program, target)
    run(target / "bin/restmqd", "--version")
    folder = work / "from-installer"
    folder.mkdir()
    try_broker(target / "bin/python", folder)
    (work / "full").mkdir()
    (work / "full/file").write_text("mine")
    refused = subprocess.run(
        [sys.executable, program, str(work / "full")], capture_output=True, text=True, check=False
    )
    if refused.returncode != 1 or "holds other things" not in refused.stderr:
        fail(f"a folder with other things in it was not refused: {refused}")


def main() -> None:
    python = str(Path(sys.argv[1]).absolute())
    with tempfile.TemporaryDirectory(prefix="rmq-deploy-") as name:
        installer(python, Path(name))
        debian_package(python, Path(name))
    say("good")


if __name__ == "__main__":
    main()
