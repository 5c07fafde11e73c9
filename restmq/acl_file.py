"""The access file on disk: found, read, and read again when it changes.

``AclFile.acl`` is always a complete set of rules. A file that breaks, or goes away, while
the broker runs leaves the last good rules in force and one warning in the log; at the
start there are none to keep, so there it is an error.

The file is looked at every LOOK_SECONDS. A change is read once it has lain still for
SETTLE_SECONDS: an editor that empties the file and then writes it must not open the
broker to everybody for a moment, since an empty file allows everything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from restmq.errors import BadAcl
from restmq.rules.acl import Acl

LOOK_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 0.25

DEFAULT_NAME: Final = "acl.conf"
"""What is looked up when no name is given, as in the original."""

ASSETS: Final = Path(__file__).resolve().parent / "assets"


def find(name: str) -> Path:
    """The file a name means: a path if it exists or begins with ``/``, else one we ship.

    The result is absolute, so that it stays the same file when the daemon changes its
    folder. Raises BadAcl if there is no such file.
    """
    path = Path(name)
    # Path.exists() raises where a folder on the way can't be entered.
    if path.is_absolute() or os.path.exists(path):  # noqa: PTH110
        return path.absolute()
    shipped = ASSETS / name
    if not shipped.exists():
        raise BadAcl(f"no access file {name!r} in {Path.cwd()}; give --acl the path of one")
    return shipped


class _Stamp(NamedTuple):
    """What tells one version of the file from another; ctime sees a changed mode too."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def _stamp(found: os.stat_result) -> _Stamp:
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class AclFile(Service):
    """A service that keeps the rules of one access file up to date.

    ``acl`` holds the rules in force. It is right from construction on; the file is watched
    while the service runs. ``must_restrict`` says that a changed file without any rule counts as
    a broken one: other machines can reach the broker, and it would let them all in.
    """

    log = Logger()
    must_restrict = False

    def __init__(self, clock: IReactorTime, name: str | None) -> None:
        """Find and read the file; None means ``acl.conf``, here or else the one we ship.

        Raises BadAcl, one line that names the file and says what to do.
        """
        self._clock = clock
        self.path = find(DEFAULT_NAME if name is None else name)
        self._stamp = self._look()
        self._text = self._read()
        self.acl = self._parse(self._text)
        self._users: list[Callable[[Acl], object]] = []
        self._broken = False
        self._settling: IDelayedCall | None = None
        self._loop = LoopingCall(self._look_for_change)
        self._loop.clock = clock

    @property
    def text(self) -> str:
        """The text that the rules in force stand in."""
        return self._text

    def subscribe(self, use: Callable[[Acl], object]) -> None:
        """Call ``use`` with the rules in force, at once and whenever there are new ones."""
        self._users.append(use)
        use(self.acl)

    def startService(self) -> None:
        """Begin to watch the file."""
        super().startService()  # type: ignore[no-untyped-call]
        self._log_remarks()
        watching = self._loop.start(LOOK_SECONDS, now=False)
        watching.addErrback(
            lambda failure: self.log.failure("the access file is no longer watched", failure)
        )

    def stopService(self) -> None:
        """Stop watching; the rules stay as they are."""
        if self._loop.running:
            self._loop.stop()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        super().stopService()  # type: ignore[no-untyped-call]

    def _look_for_change(self) -> None:
        if self._settling is None and self._look() != self._stamp:
            self._settle()

    def _settle(self) -> None:
        seen = self._look()
        self._settling = self._clock.callLater(SETTLE_SECONDS, self._settled, seen)

    def _settled(self, seen: _Stamp | None) -> None:
        self._settling = None
        if self._look() != seen:
            self._settle()
            return
        self._stamp = seen
        self._read_again()

    def _read_again(self) -> None:
        try:
            text = self._read()
            acl = self._parse(text)
            self._check_restricts(acl)
        except BadAcl as error:
            self._broken = True
            self.log.warn(
                "{why}; the rules read before it changed stay in force",
                why=str(error),
                path=str(self.path),
            )
            return
        if text == self._text and not self._broken:
            return
        self._text, self.acl, self._broken = text, acl, False
        self.log.info("access rules of {path} are now in force", path=str(self.path))
        self._log_remarks()
        for use in self._users:
            use(acl)

    def _check_restricts(self, acl: Acl) -> None:
        if self.must_restrict and not acl.restricts_anything:
            raise BadAcl(
                f"access file {self.path} restricts nobody, and other machines can reach the broker: "
                "put a rule or a user into it, or start the broker with --open"
            )

    def _log_remarks(self) -> None:
        for remark in self.acl.remarks:
            self.log.warn("{path}: {remark}", path=str(self.path), remark=remark)

    def _look(self) -> _Stamp | None:
        """The file's stamp, or None if it can't be seen."""
        try:
            return _stamp(self.path.stat())
        except OSError:
            return None

    def _read(self) -> str:
        try:
            # Opening a pipe would stop the whole broker until somebody writes to it.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise BadAcl(f"access file {self.path} is not a file; give --acl a plain file")
            return self.path.read_text("utf-8")
        except OSError as error:
            why = error.strerror or error
            raise BadAcl(
                f"can't read access file {self.path}: {why}; mend that or change --acl"
            ) from None
        except UnicodeDecodeError:
            raise BadAcl(f"access file {self.path} is not UTF-8 text; save it as UTF-8") from None

    def _parse(self, text: str) -> Acl:
        try:
            return Acl.parse(text)
        except BadAcl as error:
            raise BadAcl(f"access file {self.path}, {error}") from None
