"""Many messages that lie in the store as one: lines, and what stands before and behind each."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

MAX_TEMPLATES: Final = 255
_LINE: Final = re.compile(rb"^(?:<([0-9]+)>)?.*+$", re.MULTILINE)


class Pack(NamedTuple):
    """Messages that are ``front + line + back``, all of ASCII.

    ``text`` has the lines, ``messages`` of them, with an LF between. ``templates`` gives front and back by the digits
    of the ``<digits>`` that a line begins with, or by nothing; it has those of every line, and at most
    MAX_TEMPLATES, each with parts of less than 64 KiB.
    """

    templates: Mapping[bytes, tuple[bytes, bytes]]
    text: bytes
    messages: int

    @property
    def size(self) -> int:
        """Bytes of its bodies, or a little more."""
        longest = max(len(front) + len(back) for front, back in self.templates.values())
        return len(self.text) + self.messages * longest

    def bodies(self) -> list[bytes]:
        """The messages, one by one."""
        found = []
        for line in _LINE.finditer(self.text):
            front, back = self.templates[line[1] or b""]
            found.append(front + line[0] + back)
        return found

    def encoded(self) -> bytes:
        """What common.lua describes, from I4 n on."""
        parts = [struct.pack(">IIB", self.messages, 0, len(self.templates))]
        for key, (front, back) in self.templates.items():
            parts.append(struct.pack(f">B{len(key)}sH", len(key), key, len(front)))
            parts += [front, len(back).to_bytes(2, "big"), back]
        return b"".join((*parts, self.text))

    def pieces(self, most: int, most_bytes: int) -> Iterator[Pack]:
        """The same messages in packs of at most so many, and not much more than so many bytes."""
        each = max(1, min(most, most_bytes * self.messages // self.size))
        if self.messages <= each:
            yield self
            return
        lines = self.text.split(b"\n")
        for start in range(0, self.messages, each):
            some: Sequence[bytes] = lines[start : start + each]
            yield Pack(self.templates, b"\n".join(some), len(some))
