"""Install the RestMQ server into a folder: ``python3 restmq-install.pyz FOLDER``.

Makes a virtual environment there, fetches the libraries at the versions of the lock inside this
file (each checked against its hash, none compiled), and puts the broker beside them. A folder
that this made before is brought up to this version. The network is needed for the libraries;
pip's own variables (``PIP_INDEX_URL``, ``PIP_FIND_LINKS``, ...) say where else they may be.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

USAGE = "usage: python3 restmq-install.pyz FOLDER, for instance /opt/restmq"


def main(arguments: list[str]) -> str | int:
    """What to exit with: 0, or one line that says why nothing works."""
    if arguments in (["-h"], ["--help"]):
        print(f"{USAGE}\n\n{__doc__}")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return USAGE
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs wherever it is carried
        return "restmq-install: RestMQ needs Python 3.11 or later; start this with such a one"
    target = Path(arguments[0]).absolute()
    if target.exists() and any(target.iterdir()) and not (target / "pyvenv.cfg").exists():
        return f"restmq-install: {target} holds other things: name a folder that is new or empty"
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(sys.argv[0]) as archive:
            archive.extractall(work)
        try:
            install(target, Path(work))
        except subprocess.CalledProcessError as error:
            return f"restmq-install: {error.cmd[0]} ended with {error.returncode}, see above"
        except OSError as error:
            return f"restmq-install: {error}"
    print(f"installed: {target}/bin/restmqd, {target}/bin/restmq_engine")
    return 0


def install(target: Path, files: Path) -> None:
    """Make or renew the environment from what this file brings along."""
    venv.create(target, with_pip=True, symlinks=True)
    python = str(target / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    lock = ["--require-hashes", "--only-binary", ":all:", "-r", str(files / "requirements.lock")]
    subprocess.run([*pip, *lock], check=True)
    (wheel,) = files.glob("restmq-*.whl")
    subprocess.run([*pip, "--no-index", "--force-reinstall", str(wheel)], check=True)
    subprocess.run(["sh", str(files / "trim"), str(target)], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
