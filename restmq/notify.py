"""Telling the service manager how we are: the protocol of sd_notify(3).

Where ``NOTIFY_SOCKET`` names a socket, the daemon says ``READY=1`` when it has its store,
``STOPPING=1`` when it ends, and ``WATCHDOG=1`` twice in each ``WATCHDOG_USEC`` as long as its loop
turns: one that hangs says nothing, and systemd starts it again. A store that takes its time to load
is no reason to be killed: until READY each turn asks for more time (``EXTEND_TIMEOUT_USEC``).

Without that variable nothing of this happens. Each datagram is sent at once or not at all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from twisted.application import service
from twisted.internet import task
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

BEFORE_READY_SECONDS = 5.0
"""How often more time is asked for while the daemon starts; for four times as long."""
LONGEST_SECONDS = 60.0
"""A beat at least so often, were the watchdog ever so patient."""


class Notifier(service.Service):
    """The daemon's voice to systemd; silent where nobody listens.

    ``ready`` and ``stopping`` are told once. The beat begins with ``startService``.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, environ: Mapping[str, str]) -> None:
        """``environ`` is read now; a watchdog meant for another process is not ours to feed."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog_seconds(environ)
        self._ready = self._complained = False
        self._beat = task.LoopingCall(self._tell_that_we_live)
        self._beat.clock = clock

    def startService(self) -> None:
        """Begin to beat, at once."""
        super().startService()  # type: ignore[no-untyped-call]
        if self._address is not None:
            self._start_beating(BEFORE_READY_SECONDS)

    def ready(self, status: str) -> None:
        """The daemon has started; ``status`` is a line for ``systemctl status``."""
        if self._ready:
            self._tell(f"STATUS={status}")
            return
        self._ready = True
        self._tell(f"READY=1\nSTATUS={status}")
        if self._beat.running:
            self._beat.stop()
            if self._watchdog is not None:
                self._start_beating(min(self._watchdog / 2, LONGEST_SECONDS))

    def stopping(self) -> None:
        """The daemon has begun to end; it goes on beating until ``stopService``."""
        self._tell("STOPPING=1\nSTATUS=ending: streams are cut, messages handed back")

    def stopService(self) -> None:
        """Beat no more."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._beat.running:
            self._beat.stop()

    def _start_beating(self, seconds: float) -> None:
        self._beat.start(seconds).addErrback(
            lambda failure: self.log.failure("the beat to systemd ended", failure=failure)
        )

    def _tell_that_we_live(self) -> None:
        if self._ready:
            self._tell("WATCHDOG=1")
        else:
            self._tell(f"EXTEND_TIMEOUT_USEC={round(4e6 * BEFORE_READY_SECONDS)}")

    def _tell(self, text: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.sendto(text.encode("utf-8"), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                self.log.warn("systemd can't be told anything: {error}", error=error)


def _address(name: str) -> str | None:
    """The socket's address: a path, or an abstract name behind an ``@``."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """After how long without a sign of life we are taken for dead; None where nobody watches."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    return int(text) / 1e6
