"""How long events are kept: by age, count and bytes, for each pattern of topics.

Each rule has a class of its own, which is trimmed by itself; the first rule whose pattern chooses a
topic counts. Topics without a rule are in one of two classes, by the door they came through. The rules
are numbered in their order here; which class a rule has, each log knows by its pattern.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from restmq.rules.topics import Pattern, parse_pattern

MAX_RULES: Final = 14
ORDINARY: Final = 0
SHORT: Final = 1
"""The numbers of those without a pattern: for events of ``/v1`` and of ``/e/``."""

MAX_AGE_MS: Final = 366 * 86_400_000
_RULE: Final = re.compile(
    r"(?P<pattern>[^=]+)=(?P<age>[0-9]{1,9}(?:\.[0-9]{1,3})?)s?"
    r"(?::(?P<count>[0-9]{1,12})(?::(?P<bytes>[0-9]{1,14})(?P<unit>KiB|MiB|GiB|))?)?"
)
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Limits(NamedTuple):
    """What a class keeps at most; 0 is no limit of that kind."""

    age_ms: int = 86_400_000
    most: int = 100_000
    most_bytes: int = 0


DAY: Final = Limits()
TWO_MINUTES: Final = Limits(120_000)


class Rule(NamedTuple):
    """The limits of topics that a pattern chooses."""

    pattern: Pattern
    limits: Limits


def parse_rule(text: str) -> Rule:
    """``PATTERN=SECONDS[:COUNT[:BYTES]]``, where 0 is no limit. Raises ValueError or BadRequest."""
    found = _RULE.fullmatch(text)
    age_ms = round(float(found["age"]) * 1000) if found else -1
    if found is None or not 0 <= age_ms <= MAX_AGE_MS:
        raise ValueError(
            f"{text!r} is not PATTERN=SECONDS[:COUNT[:BYTES]], such as log.**=3600:10000:16MiB"
        )
    size = int(found["bytes"] or 0) * _UNITS[found["unit"] or ""]
    limits = Limits(age_ms, int(found["count"] or 0), size)
    return Rule(parse_pattern(found["pattern"], "the pattern"), limits)


class Retention:
    """The rules of one broker: ``limits`` and ``patterns`` of each, the first two without a pattern."""

    def __init__(
        self,
        ordinary: Limits = DAY,
        short: Limits = TWO_MINUTES,
        rules: Sequence[Rule] = (),
    ) -> None:
        """Raises ValueError for more than MAX_RULES rules."""
        if len(rules) > MAX_RULES:
            raise ValueError(f"at most {MAX_RULES} rules of retention")
        self._chosen = [rule.pattern for rule in rules]
        self.limits = [ordinary, short, *(rule.limits for rule in rules)]
        self.patterns = ["", "", *(pattern.text for pattern in self._chosen)]
        self._find = lru_cache(maxsize=10_000)(self._find_rule)

    def _find_rule(self, topic: str) -> int | None:
        for number, pattern in enumerate(self._chosen, SHORT + 1):
            if pattern.matches(topic):
                return number
        return None

    def rule_of(self, topic: str, short: bool) -> int:
        """The number of the rule for an event of this topic; ``short`` if it came through ``/e/``."""
        if self._chosen and (rule := self._find(topic)) is not None:
            return rule
        return SHORT if short else ORDINARY
