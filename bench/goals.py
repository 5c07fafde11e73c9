"""What the figures must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench.alone import (
    ASLEEP,
    AWAKE,
    COMPRESSED,
    IDLE_COMPRESSED,
    IDLE_CROWD,
    IDLE_ONE,
    Alone,
)
from bench.events import MIXED, OF_MANY, OF_ONE, PUBLISH
from bench.figures import Best, Figures, Goal, Idle, ratio
from bench.jobs import (
    BATCHES,
    BATCHES_DEEP,
    BEANSTALKD,
    MEMORY_BARE,
    MEMORY_HEADED,
    PUT_BATCHES,
    PUT_RATE,
    RECEIVE_RATE,
    RQ,
    SINGLE,
    SINGLE_DEEP,
    VALKEY,
)
from bench.rows import (
    CALM_ROWS,
    COMET,
    CROWD_ROWS,
    FAN_ROWS,
    GET_DRAIN,
    NCHAN,
    NCHAN_REDIS,
    OURS,
    POST_50,
    POST_ONE,
    RESTMQ,
    ROUND_ROBIN,
    RSYSLOG,
    SYSLOG,
    SYSLOGD,
    TRANSPORTS,
    WEBDIS,
    WEBSOCKET,
    Row,
)

Value = Callable[[Best], float | None]


def _rate(row: Row | Alone, system: str, other_row: Row | Alone, other: str) -> Value:
    return lambda best: ratio(best, (row.name, system), (other_row.name, other))


def _idle(row: Alone, read: Callable[[Idle], float | None]) -> Value:
    def value(best: Best) -> float | None:
        found = best.get((row.name, RESTMQ))
        return None if found is None or found.idle is None else read(found.idle)

    return value


def _memory(row: Alone, kind: str) -> Value:
    """KiB a consumer of the kind."""

    def read(idle: Idle) -> float | None:
        found = idle.bytes_each(kind)
        return None if found is None else found / 1024

    return _idle(row, read)


def _uneven(best: Best) -> float | None:
    found = best.get((ROUND_ROBIN.name, RESTMQ))
    return None if found is None else found.figures.uneven_percent


def _p99_excess(row: Row, best: Best) -> float | None:
    """Our p99 by nchan's, or by 100 ms if that is more."""
    ours, theirs = best.get((row.name, RESTMQ)), best.get((row.name, NCHAN))
    if ours is None or theirs is None:
        return None
    if ours.figures.p99_ms is None or theirs.figures.p99_ms is None:
        return None
    return ours.figures.p99_ms / max(100.0, theirs.figures.p99_ms)


def _figure(row: Row | Alone, read: Callable[[Figures], float | None]) -> Value:
    def value(best: Best) -> float | None:
        found = best.get((row.name, RESTMQ))
        return None if found is None else read(found.figures)

    return value


def _sleeper_growth(best: Best) -> float | None:
    """MiB of the daemon."""
    awake, asleep = best.get((AWAKE.name, RESTMQ)), best.get((ASLEEP.name, RESTMQ))
    if awake is None or asleep is None or awake.growth is None or asleep.growth is None:
        return None
    return (asleep.growth.daemon_bytes - awake.growth.daemon_bytes) / 2**20


def _off_rate(row: Row) -> Value:
    return _figure(row, lambda figures: figures.uneven_percent)


def _bytes_each(row: Alone) -> Value:
    def value(best: Best) -> float | None:
        found = best.get((row.name, RESTMQ))
        return None if found is None else found.bytes_each

    return value


def _job_goals() -> Iterator[Goal]:
    for text, bound, value in (
        (
            "put by 100 / valkey-benchmark's LPUSH, pipelined by 100",
            0.12,
            _rate(PUT_BATCHES, RESTMQ, PUT_BATCHES, VALKEY),
        ),
        (
            "put-receive-ack / beanstalkd's put-reserve-delete",
            0.3,
            _rate(SINGLE, RESTMQ, SINGLE, BEANSTALKD),
        ),
        ("put-receive-ack / RQ", 5.0, _rate(SINGLE, RESTMQ, SINGLE, RQ)),
        (
            "put-receive-ack by 100 / beanstalkd's put-reserve-delete",
            3.0,
            _rate(BATCHES, RESTMQ, SINGLE, BEANSTALKD),
        ),
        (
            "put-receive-ack in a deep queue / in a short one",
            0.7,
            _rate(SINGLE_DEEP, RESTMQ, SINGLE, RESTMQ),
        ),
        (
            "the same by 100",
            0.7,
            _rate(BATCHES_DEEP, RESTMQ, BATCHES, RESTMQ),
        ),
    ):
        yield Goal(text, bound, value)
    for row in (PUT_RATE, RECEIVE_RATE):
        yield Goal(f"{row.name}: off over 10 s", 10.0, _off_rate(row), at_most=True, unit="%")
    for alone, most in ((MEMORY_BARE, 160.0), (MEMORY_HEADED, 260.0)):
        yield Goal(alone.name, most, _bytes_each(alone), at_most=True, unit="B")


def _event_goals() -> Iterator[Goal]:
    yield Goal(
        "events published 100 a request",
        50_000.0,
        _figure(PUBLISH, lambda figures: figures.rate),
        unit="/s",
    )
    yield Goal(
        f"{MIXED.name}: p99 of a poll",
        50.0,
        _figure(MIXED, lambda figures: figures.p99_ms),
        at_most=True,
        unit="ms",
    )
    yield Goal(
        "publishing to one beside 10,000 subscribers of other topics / to one alone",
        0.9,
        _rate(OF_MANY, RESTMQ, OF_ONE, RESTMQ),
    )


def _faults(best: Best) -> float | None:
    ours = [one.figures.faults for (_, system), one in best.items() if system in OURS]
    return float(sum(ours)) if ours else None


def _fan_goals() -> Iterator[Goal]:
    """Of what is pushed to 1,000 consumers."""
    for kind in TRANSPORTS:
        many, few = FAN_ROWS[kind, 1000, 64], FAN_ROWS[kind, 1000, 8]
        yield Goal(
            f"{kind}: 1000 consumers, 64 publishers / nchan in memory",
            3.0 if kind == COMET else 2.5,
            _rate(many, RESTMQ, many, NCHAN),
        )
        if kind == COMET:
            yield Goal(
                f"{kind}: 1000 consumers, 8 publishers / nchan in memory",
                1.0,
                _rate(few, RESTMQ, few, NCHAN),
            )
        yield Goal(
            f"{kind}: 1000 consumers, 64 publishers: p99 / nchan's or 100 ms",
            1.0,
            partial(_p99_excess, many),
            at_most=True,
        )


def _calm_goals() -> Iterator[Goal]:
    for kind, row in CALM_ROWS.items():
        for word, bound, read in (
            ("p50", 3.0, lambda figures: figures.p50_ms),
            ("p99", 15.0, lambda figures: figures.p99_ms),
        ):
            text = f"{kind}: 20 messages/s to 100 consumers: {word}"
            yield Goal(text, bound, _figure(row, read), at_most=True, unit="ms")


def _idle_goals() -> Iterator[Goal]:
    for text, bound, value, unit in (
        (
            "10,000 consumers connect",
            30.0,
            _idle(IDLE_CROWD, lambda idle: idle.connect_seconds),
            "s",
        ),
        ("CPU with 1,000 idle consumers", 1.0, _idle(IDLE_ONE, lambda idle: idle.cpu_percent), "%"),
        ("memory of an idle COMET consumer of 1,000", 16.0, _memory(IDLE_ONE, COMET), "KiB"),
        ("memory of an idle COMET consumer of 10,000", 16.0, _memory(IDLE_CROWD, COMET), "KiB"),
        ("memory of an idle WebSocket of 10,000", 40.0, _memory(IDLE_CROWD, WEBSOCKET), "KiB"),
        ("memory of an idle compressed one", 60.0, _memory(IDLE_COMPRESSED, COMPRESSED), "KiB"),
    ):
        yield Goal(text, bound, value, at_most=True, unit=unit)


GOALS: Sequence[Goal] = (
    Goal(
        "POST / nchan over Redis (1.5 in sight)",
        1.0,
        _rate(POST_ONE, RESTMQ, POST_ONE, NCHAN_REDIS),
    ),
    Goal("GET that drains / POST", 0.8, _rate(GET_DRAIN, RESTMQ, POST_ONE, RESTMQ)),
    Goal("GET that drains / webdis' RPOP", 0.5, _rate(GET_DRAIN, RESTMQ, GET_DRAIN, WEBDIS)),
    Goal("POST over 50 queues / over one", 0.6, _rate(POST_50, RESTMQ, POST_ONE, RESTMQ)),
    Goal("syslog lines / rsyslog to a file", 0.5, _rate(SYSLOG, SYSLOGD, SYSLOG, RSYSLOG)),
    *_fan_goals(),
    *_calm_goals(),
    Goal(
        "10,000 consumers / 1,000",
        0.5,
        _rate(CROWD_ROWS[10_000], RESTMQ, CROWD_ROWS[1000], RESTMQ),
    ),
    *_idle_goals(),
    Goal(
        "99 consumers with one asleep / without",
        0.9,
        _rate(ASLEEP, RESTMQ, AWAKE, RESTMQ),
    ),
    Goal("memory for the one asleep", 16.0, _sleeper_growth, at_most=True, unit="MiB"),
    Goal("round robin: shares apart", 2.0, _uneven, at_most=True, unit="%"),
    *_job_goals(),
    *_event_goals(),
    Goal("errors, lost, duplicated in all rows", 0.0, _faults, at_most=True, unit=""),
)
