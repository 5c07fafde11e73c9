"""Sets of message numbers as ranges: a queue of a million messages is one pair."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable

_TEXT = re.compile(rb"(?:[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)?")


class Numbers:
    """A set of whole numbers from 0 up; its text is ``1-400,402``."""

    def __init__(self, text: bytes = b"") -> None:
        """Read a text. Raises ValueError when it is none."""
        if not _TEXT.fullmatch(text):
            raise ValueError(f"{text[:60]!r} is no list of numbers")
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for part in text.split(b",") if text else []:
            first, _, last = part.partition(b"-")
            self._insert(int(first), int(last or first))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def add(self, numbers: Iterable[int]) -> None:
        """Put numbers in; those in rising order cost least."""
        first = last = -1
        for number in numbers:
            if number == last + 1 and first >= 0:
                last = number
            else:
                if first >= 0:
                    self._insert(first, last)
                first = last = number
        if first >= 0:
            self._insert(first, last)

    def _insert(self, first: int, last: int) -> None:
        """Put a range in; whatever it meets or touches becomes one with it."""
        low = bisect_right(self._firsts, first)
        if low and self._lasts[low - 1] >= first - 1:
            low -= 1
        high = low
        while high < len(self._firsts) and self._firsts[high] <= last + 1:
            first, last = min(first, self._firsts[high]), max(last, self._lasts[high])
            high += 1
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def text(self) -> bytes:
        """The ranges in rising order."""
        return b",".join(
            b"%d" % first if first == last else b"%d-%d" % (first, last)
            for first, last in zip(self._firsts, self._lasts, strict=True)
        )
