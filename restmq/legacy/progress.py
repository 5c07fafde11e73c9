"""How far it is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 30
_BAR_SECONDS = 0.1
_LINE_SECONDS = 10.0


class Progress:
    """Call it with what is being done, and how much of how much; close it at the end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._what = ""
        self._began = self._told = 0.0
        self._open = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it, unless something was shown a moment ago."""
        now = self._clock()
        if what != self._what:
            self.close()
            self._what, self._began, self._told = what, now, now
        pause = _BAR_SECONDS if self._is_terminal else _LINE_SECONDS
        if now - self._told >= pause or (self._is_terminal and done >= total):
            self._told = now
            self._show(done, total, now)

    def _show(self, done: int, total: int, now: float) -> None:
        text = bar(self._what, done, total, now - self._began)
        self._stream.write(f"\r{text}\x1b[K" if self._is_terminal else f"{text}\n")
        self._stream.flush()
        self._open = self._is_terminal

    def close(self) -> None:
        """End the line."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False


def bar(what: str, done: int, total: int, seconds: float) -> str:
    """``messages [######    ] 60 of 100, 12/s``."""
    full = _WIDTH if done >= total else done * _WIDTH // total
    pace = f", {done / seconds:.0f}/s" if seconds >= 1 else ""
    return f"{what} [{'#' * full}{' ' * (_WIDTH - full)}] {done} of {total}{pace}"
