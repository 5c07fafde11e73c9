"""Which events a reader wants: of exact topics, or by patterns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from restmq.rules.topics import MANY, Pattern, Patterns, parse_pattern

FEW: Final = 4
"""So many patterns are asked one by one; more are looked up together."""

KEPT: Final = 4096
"""Selections that were asked for last: pollers ask for the same ones again and again."""

KEPT_PATTERNS: Final = 8
"""A selection of more patterns is made anew each time."""


class Selection:
    """Topics, and patterns of topics. Two that say the same are equal.

    ``topics`` are exact ones; ``patterns`` those with wildcards. Make one by `exact`, `parents`,
    `below`, `matching` or `everything`.
    """

    __slots__ = ("_hash", "_trie", "patterns", "topics")

    def __init__(self, topics: frozenset[str], patterns: frozenset[Pattern]) -> None:
        self.topics = topics
        self.patterns = patterns
        self._hash = hash((topics, patterns))
        self._trie: Patterns[bool] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        return self.topics == other.topics and self.patterns == other.patterns

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    @lru_cache(maxsize=KEPT)
    def exact(cls, topic: str) -> Selection:
        """One topic."""
        return cls(frozenset((topic,)), frozenset())

    @classmethod
    @lru_cache(maxsize=KEPT)
    def parents(cls, topic: str) -> Selection:
        """A topic and all above it: of ``a.b.c`` also ``a.b`` and ``a``."""
        words = topic.split(".")
        return cls(
            frozenset(".".join(words[:count]) for count in range(1, len(words) + 1)), frozenset()
        )

    @classmethod
    @lru_cache(maxsize=KEPT)
    def below(cls, topic: str) -> Selection:
        """A topic and all below it."""
        return cls(frozenset(), frozenset((Pattern((*topic.split("."), MANY)),)))

    @classmethod
    def matching(cls, patterns: Sequence[str]) -> Selection:
        """All that one of the patterns chooses. Raises BadRequest for what is none."""
        return cls._few(*patterns) if len(patterns) <= KEPT_PATTERNS else cls._matching(patterns)

    @classmethod
    @lru_cache(maxsize=KEPT)
    def _few(cls, *patterns: str) -> Selection:
        return cls._matching(patterns)

    @classmethod
    def _matching(cls, patterns: Sequence[str]) -> Selection:
        parsed = [parse_pattern(pattern) for pattern in patterns]
        return cls(
            frozenset(pattern.text for pattern in parsed if pattern.exact),
            frozenset(pattern for pattern in parsed if not pattern.exact),
        )

    @classmethod
    def everything(cls) -> Selection:
        """The whole log."""
        return cls(frozenset(), frozenset((Pattern((MANY,)),)))

    @property
    def is_everything(self) -> bool:
        """Whether it chooses all topics."""
        return any(pattern.words == (MANY,) for pattern in self.patterns)

    def matches(self, topic: str) -> bool:
        """Whether it chooses this topic."""
        if topic in self.topics:
            return True
        if len(self.patterns) <= FEW:
            return any(pattern.matches(topic) for pattern in self.patterns)
        if self._trie is None:
            self._trie = Patterns()
            for pattern in self.patterns:
                self._trie.add(pattern, True)
        return bool(self._trie.match(topic))
