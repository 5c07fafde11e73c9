"""What was measured, as values: the best of several rounds, ratios to a peer, goals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple


class Figures(NamedTuple):
    """What a load generator saw, and what it cost.

    ``operations`` are requests or deliveries, good ones only. ``load_cpu_seconds`` is what the
    generator itself used. ``lost`` and ``duplicated`` count deliveries. ``uneven_percent`` is how
    far round-robin consumers' shares are apart. ``paced``: messages were sent at a set pace, so the
    latency tells and not the rate.
    """

    operations: int
    seconds: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    lost: int = 0
    duplicated: int = 0
    load_cpu_seconds: float = 0.0
    uneven_percent: float = 0.0
    paced: bool = False

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds if self.seconds > 0 else 0.0

    @property
    def faults(self) -> int:
        """Everything that must not be."""
        return self.errors + self.lost + self.duplicated


class Lot(NamedTuple):
    """Consumers of one kind that were connected together, and the memory each takes.

    ``connect_cpu_seconds`` are the daemon's.
    """

    kind: str
    consumers: int
    connect_seconds: float
    connect_cpu_seconds: float
    bytes_each: float
    store_bytes_each: float


class Idle(NamedTuple):
    """What consumers cost that get nothing, all lots together."""

    lots: Sequence[Lot]
    cpu_percent: float
    store_cpu_percent: float

    @property
    def connect_seconds(self) -> float:
        """How long it took until all were connected."""
        return sum(lot.connect_seconds for lot in self.lots)

    def bytes_each(self, kind: str) -> float | None:
        """The memory of a consumer of this kind; None when there was none."""
        return next((lot.bytes_each for lot in self.lots if lot.kind == kind), None)


class Growth(NamedTuple):
    """How much more memory daemon and store had at the worst moment of a row than before it."""

    daemon_bytes: int
    store_bytes: int


class Measurement(NamedTuple):
    """One row, one system, one round; the CPU seconds are those of the row alone.

    ``bytes_each`` is what a waiting message takes of the store, in rows that measure it.
    """

    row: str
    system: str
    round: int
    figures: Figures
    daemon_cpu_seconds: float = 0.0
    store_cpu_seconds: float = 0.0
    idle: Idle | None = None
    growth: Growth | None = None
    bytes_each: float | None = None

    @property
    def microseconds_each(self) -> float:
        """CPU of daemon and store for one operation."""
        cpu = self.daemon_cpu_seconds + self.store_cpu_seconds
        return 1e6 * cpu / self.figures.operations if self.figures.operations else 0.0


Best = Mapping[tuple[str, str], Measurement]
"""(row, system) to its best round."""


def best_of(measurements: Iterable[Measurement]) -> Best:
    """The round with the highest rate, or the least idle CPU or memory, or at a set pace the lowest p99.

    What disturbs only ever slows.

    Faults are summed over the rounds: a good round excuses none.
    """
    best: dict[tuple[str, str], Measurement] = {}
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
    for one in measurements:
        at = (one.row, one.system)
        errors, lost, duplicated = sums.get(at, (0, 0, 0))
        figures = one.figures
        sums[at] = (
            errors + figures.errors,
            lost + figures.lost,
            duplicated + figures.duplicated,
        )
        if at not in best or _is_better(one, best[at]):
            best[at] = one
    return {at: _with_faults(one, *sums[at]) for at, one in best.items()}


def _is_better(one: Measurement, other: Measurement) -> bool:
    if one.idle is not None and other.idle is not None:
        return one.idle.cpu_percent < other.idle.cpu_percent
    if one.bytes_each is not None and other.bytes_each is not None:
        return one.bytes_each < other.bytes_each
    if one.figures.paced and one.figures.p99_ms is not None and other.figures.p99_ms is not None:
        return one.figures.p99_ms < other.figures.p99_ms
    return one.figures.rate > other.figures.rate


def _with_faults(one: Measurement, errors: int, lost: int, duplicated: int) -> Measurement:
    figures = one.figures._replace(errors=errors, lost=lost, duplicated=duplicated)
    return one._replace(figures=figures)


def ratio(best: Best, one: tuple[str, str], other: tuple[str, str]) -> float | None:
    """How many times as fast; None when one of them was not measured."""
    if one not in best or other not in best:
        return None
    base = best[other].figures.rate
    return best[one].figures.rate / base if base > 0 else None


class Goal(NamedTuple):
    """A promise about the figures.

    ``value`` reads it from them (None: not measured); ``bound`` is the least it may be, or the
    most where ``at_most``.
    """

    text: str
    bound: float
    value: Callable[[Best], float | None]
    at_most: bool = False
    unit: str = "x"


class Verdict(NamedTuple):
    """A goal and what became of it; ``met`` is None when it could not be measured."""

    goal: Goal
    value: float | None
    met: bool | None

    def line(self) -> str:
        """For people."""
        word = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        sign = "<=" if self.goal.at_most else ">="
        shown = "-" if self.value is None else f"{self.value:.2f}"
        return f"{word:12}  {shown:>6} {self.goal.unit:3} (goal {sign} {self.goal.bound:g})  {self.goal.text}"


def judge(goals: Iterable[Goal], best: Best) -> list[Verdict]:
    """Each goal beside what was measured."""
    verdicts = []
    for goal in goals:
        value = goal.value(best)
        met = None
        if value is not None:
            met = value <= goal.bound if goal.at_most else value >= goal.bound
        verdicts.append(Verdict(goal, value, met))
    return verdicts


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of the ordered values lie; None for none."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first two to the left, the rest to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def short(number: float) -> str:
    """A number a person can compare: ``1.23M``, ``45.6k``, ``789``."""
    if number >= 1e6:
        return f"{number / 1e6:.2f}M"
    if number >= 1e4:
        return f"{number / 1e3:.1f}k"
    return f"{number:.0f}"
