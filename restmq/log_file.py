"""The log in a file that logrotate may move: ``twistd --logger=restmq.log_file.observer``.

Twistd's own ``--logfile`` rotates by itself at a megabyte, keeps what it rotated for ever, and does not
open its file again when another has moved it. This one goes on in a file of the same name after
SIGUSR1, and does nothing else. The file's name is in ``RESTMQ_LOG_FILE``.
"""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import IO, cast

from twisted.logger import FileLogObserver, textFileLogObserver

VARIABLE = "RESTMQ_LOG_FILE"


class ReopenedFile(io.TextIOBase):
    """A file that text is appended to, a whole event with each ``write``."""

    def __init__(self, path: Path) -> None:
        """Opens it. Raises OSError."""
        super().__init__()
        self._path = path
        self._file = _open(path)
        self._due = False

    def reopen(self) -> None:
        """Go on in a new file of that name, from the next write on; may be called by a signal."""
        self._due = True

    def write(self, text: str) -> int:
        """Append. Where the name can't be opened again the old file serves, and says so."""
        if self._due:
            self._due = False
            try:
                fresh = _open(self._path)
            except OSError as error:
                self._file.write(f"the log can't be opened again, it goes on here: {error}\n")
            else:
                self._file.close()
                self._file = fresh
        return self._file.write(text)

    def flush(self) -> None:
        """Hand all to the kernel."""
        self._file.flush()

    def close(self) -> None:
        """Close it."""
        self._file.close()


def _open(path: Path) -> io.TextIOWrapper:
    return path.open("a", encoding="utf-8", errors="backslashreplace")


def observer() -> FileLogObserver:
    """What twistd logs to. SystemExit, one line, when the file can't be opened."""
    name = os.environ.get(VARIABLE, "")
    try:
        file = ReopenedFile(Path.cwd() / name)
    except OSError as error:
        raise SystemExit(f"restmq: {VARIABLE}: can't write {name!r}: {error.strerror}") from None
    signal.signal(signal.SIGUSR1, lambda *_: file.reopen())
    return textFileLogObserver(cast(IO[str], file))
