"""``python -m bench.topics``: what finding the patterns of a topic takes, by time and by memory.

It starts nothing: the trie of ``restmq/rules/topics.py`` is asked in this process. In the last line each
topic is chosen by hundreds of patterns, and finding so many values is what it shows.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Sequence
from typing import NamedTuple

from bench.figures import percentile, table
from restmq.rules.topics import Patterns, parse_pattern

PATTERNS = 100_000
TOPICS = 2_000
SHAPES = ("*.created", "**.error", "orders.**", "*.*.x")


class Case(NamedTuple):
    """Patterns of a kind, and topics to ask about."""

    name: str
    patterns: Sequence[str]
    topics: Sequence[str]


class Found(NamedTuple):
    """Microseconds a match, bytes a pattern, and how many values a match found."""

    median_us: float
    p99_us: float
    worst_us: float
    pattern_bytes: float
    values: float


def cases(patterns: int, topics: int, chance: random.Random) -> Sequence[Case]:
    """The rows: from patterns of which one matches to patterns of which hundreds do."""

    def any_of(count: int) -> int:
        return chance.randrange(count)

    def random_words(wild: float) -> str:
        words = [f"w{any_of(50)}" for _ in range(3 + any_of(5))]
        return ".".join(chance.choice(("*", "**")) if chance.random() < wild else w for w in words)

    def asked(tenants: int) -> list[str]:
        return [f"tenant.{any_of(tenants)}.orders.created" for _ in range(topics)]

    def numbered(text: str) -> list[str]:
        return [text.format(n) for n in range(patterns)]

    each = patterns // len(SHAPES)
    shaped = [f"tenant.{n % each}.{SHAPES[n // each % 4]}" for n in range(patterns)]
    hard, steep = ".".join(["**", "a"] * 15), ".".join(["a"] * 31)
    mixed = [random_words(0.25) for _ in range(patterns)]
    return (
        Case("one shape", numbered("tenant.{}.*.created"), asked(patterns)),
        Case("four shapes", shaped, asked(each)),
        Case("no wildcards", numbered("tenant.{}.orders.created"), asked(patterns)),
        Case("worst words", numbered(hard + ".b{}"), [f"{steep}.b{n}" for n in range(topics)]),
        Case("at random", mixed, [random_words(0) for _ in range(topics // 4)]),
    )


def measure(case: Case) -> Found:
    """Fill a trie and ask it about each topic."""
    parsed = [parse_pattern(text) for text in case.patterns]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = Patterns[int]()
    for number, pattern in enumerate(parsed):
        kept.add(pattern, number)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    times, values = [], 0
    for topic in case.topics:
        start = time.perf_counter()
        found = kept.match(topic)
        times.append(1e6 * (time.perf_counter() - start))
        values += len(found)
    times.sort()
    middle, rare = percentile(times, 0.5), percentile(times, 0.99)
    assert middle is not None
    assert rare is not None
    return Found(middle, rare, times[-1], taken / len(parsed), values / len(case.topics))


def report(patterns: int, topics: int) -> str:
    """All rows as a table."""
    lines = []
    for case in cases(patterns, topics, random.Random(1)):
        found = measure(case)
        numbers = f"{found.median_us:.1f} {found.p99_us:.1f} {found.worst_us:.1f}".split()
        lines.append(
            (case.name, *numbers, f"{found.pattern_bytes:.0f}", f"{found.values:.1f}"),
        )
    head = ("patterns", "p50 us", "p99 us", "worst us", "bytes each", "found")
    return table(head, lines)


if __name__ == "__main__":
    print(f"{PATTERNS} patterns\n\n{report(PATTERNS, TOPICS)}")
