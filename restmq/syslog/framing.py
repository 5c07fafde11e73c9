"""Syslog messages out of a TCP stream (RFC 6587); no I/O here.

Both framings are read, and told apart message by message: octet counting (3.4.1), ``LENGTH SP <PRI>...``,
and lines that end in LF (3.4.2), with a CR before it or not. A line that begins with a number but not
with a length and a priority is a line. One LF at the end of a counted message is not part of it: rsyslog's own
templates put it there.

What is longer than the limit is cut there, and the rest of it is passed over. No more than one
message of that size is ever kept.

Most of what comes is lines that begin with a priority, by the hundred: those stay one text (`Lines`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_COUNTED: Final = re.compile(rb"([1-9][0-9]{0,8}) (?=<[0-9]{1,3}>)")
_NEXT_COUNTED: Final = re.compile(rb"\n(?=[1-9][0-9]{0,8} <[0-9]{1,3}>)")
_PERHAPS_COUNTED: Final = re.compile(rb"[1-9][0-9]{0,8}(?: (?:<[0-9]{0,3})?)?\Z")
"""What may become the beginning of a counted message when more has come."""


class Frames(NamedTuple):
    """Messages in their order, and the places in that list of those that were cut."""

    messages: list[bytes]
    cut: frozenset[int] = frozenset()


HEAD_BYTES: Final = 7
"""As much of a line as shows its priority and whether it is of RFC 5424: ``<191>1 ``."""

_PLAIN: Final = bytes((32, 33, *range(35, 92), *range(93, 127)))
"""What JSON does not escape."""


class Lines(NamedTuple):
    """Messages without an LF in them, each of which begins with ``<``, with an LF between them.

    ``heads`` are the first HEAD_BYTES of each, every one once; ``plain``: JSON escapes nothing in them.
    """

    text: bytes
    number: int
    heads: frozenset[bytes]
    plain: bool

    @classmethod
    def of(cls, text: bytes) -> Lines | None:
        """The lines of this text; None if one does not begin with ``<``."""
        head = text[:HEAD_BYTES]
        if not head.startswith(b"<"):
            return None
        odd = text.translate(None, _PLAIN)
        breaks = odd.count(b"\n")
        if not breaks or (
            len(head) == HEAD_BYTES and b"\n" not in head and text.count(b"\n" + head) == breaks
        ):
            heads = frozenset((head,))
        else:
            parts = text[1:].split(b"\n<")
            if len(parts) != breaks + 1:
                return None
            heads = frozenset([b"<" + part[: HEAD_BYTES - 1] for part in parts])
        return cls(text, breaks + 1, heads, len(odd) == breaks)

    @property
    def messages(self) -> list[bytes]:
        """One by one, as `Frames` has them."""
        return self.text.split(b"\n")

    @property
    def cut(self) -> frozenset[int]:
        """None of them was."""
        return frozenset()


class Framer:
    """One connection's bytes, taken apart."""

    def __init__(self, limit: int) -> None:
        """``limit``: the longest message, in bytes."""
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = 0
        self._in_line = False
        self._to_skip = 0
        self._skip_line = False

    def feed(self, data: bytes) -> Frames | Lines:
        """The messages that these bytes complete."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return Frames([])
        if self._in_line and self._held <= self._limit and b"\n" not in data:
            return Frames([])
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        return self._split(buffer)

    def end(self) -> Frames:
        """What an orderly end of the stream leaves: a last line without its LF."""
        rest = b"".join(self._pieces)
        self._keep(b"")
        if not rest or self._skip_line or self._to_skip or _COUNTED.match(rest):
            return Frames([])
        return Frames([rest.removesuffix(b"\r")])

    def _keep(self, rest: bytes, wanted: int = 0, in_line: bool = False) -> None:
        self._pieces = [rest] if rest else []
        self._held = len(rest)
        self._wanted = wanted
        self._in_line = in_line

    def _split(self, buffer: bytes) -> Frames | Lines:
        found: list[bytes] = []
        cut: set[int] = set()
        at = self._skip(buffer)
        self._keep(b"")
        lines = self._plain_lines(buffer, at)
        if lines is not None:
            at += len(lines.text) + 1
        while at < len(buffer):
            counted = _COUNTED.match(buffer, at)
            after = (
                self._count(buffer, counted, found, cut)
                if counted
                else self._lines(buffer, at, found, cut)
            )
            if after is None:
                break
            at = after
        if lines is None:
            return Frames(found, frozenset(cut))
        if not found:
            return lines
        return Frames(lines.messages + found, frozenset([lines.number + place for place in cut]))

    def _plain_lines(self, buffer: bytes, at: int) -> Lines | None:
        """All lines that are complete, if each begins with ``<`` and nothing is to be taken off or cut."""
        end = buffer.rfind(b"\n", at)
        if end < 0 or b"\r" in buffer or self._too_long(buffer, at, end):
            return None
        return Lines.of(buffer[at:end])

    def _too_long(self, buffer: bytes, at: int, end: int) -> bool:
        """Whether a line between these is longer than the limit."""
        while end - at > self._limit:
            line_end = buffer.rfind(b"\n", at, at + self._limit + 1)
            if line_end < 0:
                return True
            at = line_end + 1
        return False

    def _skip(self, buffer: bytes) -> int:
        """Where what is to be read begins: behind the rest of a message that was cut."""
        if self._skip_line:
            end = buffer.find(b"\n")
            self._skip_line = end < 0
            return len(buffer) if end < 0 else end + 1
        at = min(self._to_skip, len(buffer))
        self._to_skip -= at
        return at

    def _count(
        self, buffer: bytes, counted: re.Match[bytes], found: list[bytes], cut: set[int]
    ) -> int | None:
        """Take a counted message; where the next begins, or None when more must come."""
        length, start = int(counted[1]), counted.end()
        taken = min(length, self._limit)
        end = start + taken
        if end > len(buffer):
            rest = buffer[counted.start() :]
            self._keep(rest, wanted=end - counted.start())
            return None
        if taken < length:
            cut.add(len(found))
            found.append(buffer[start:end])
        else:
            found.append(buffer[start:end].removesuffix(b"\n"))
        after = min(start + length, len(buffer))
        self._to_skip = start + length - after
        return after

    def _lines(self, buffer: bytes, at: int, found: list[bytes], cut: set[int]) -> int | None:
        """Take the lines up to the next counted message; None when no line is complete any more."""
        switch = _NEXT_COUNTED.search(buffer, at)
        end = switch.end() if switch else buffer.rfind(b"\n", at) + 1
        if end <= at:
            self._open_line(buffer[at:], found, cut)
            return None
        lines = buffer[at : end - 1].split(b"\n")
        if b"\r" in buffer:
            lines = [line.removesuffix(b"\r") for line in lines]
        if end - at > self._limit:
            for number, line in enumerate(lines):
                if len(line) > self._limit:
                    lines[number] = line[: self._limit]
                    cut.add(len(found) + number)
        found += lines
        return end

    def _open_line(self, rest: bytes, found: list[bytes], cut: set[int]) -> None:
        """Keep a line that has no end yet, or cut it."""
        if len(rest) > self._limit + 1:  # a CR before the LF is none of it
            cut.add(len(found))
            found.append(rest[: self._limit])
            self._skip_line = True
        else:
            self._keep(rest, in_line=_PERHAPS_COUNTED.match(rest) is None)
