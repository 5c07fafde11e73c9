"""When a schedule runs: never the same run twice, never backwards, whatever the clock on the wall does."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.errors import BadRequest
from restmq.rules.schedule import LAST, MAX_CRON, MISSED_COUNTED, Due, Timetable

HOUR, DAY = 3600, 86400


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def runs(timetable: Timetable, after: str, count: int) -> list[str]:
    found, run = [], at(after)
    for _ in range(count):
        later = timetable.next_run(run)
        assert later is not None
        run = later
        found.append(datetime.fromtimestamp(run, UTC).strftime("%m-%d %H:%M:%S"))
    return found


# ---- what people write


def test_five_fields_are_minutes_and_six_begin_with_the_second():
    assert runs(Timetable("*/20 9 * * MON-FRI"), "2026-11-20T09:30+00:00", 3) == [
        "11-20 09:40:00",
        "11-23 09:00:00",
        "11-23 09:20:00",
    ]
    assert runs(Timetable("*/30 * * * * *"), "2026-11-20T09:59:29+00:00", 3) == [
        "11-20 09:59:30",
        "11-20 10:00:00",
        "11-20 10:00:30",
    ]


def test_a_time_of_day_is_that_of_the_zone():
    assert runs(Timetable("0 8 * * *", "Asia/Kathmandu"), "2026-11-20T00:00+00:00", 1) == [
        "11-20 02:15:00"
    ]


def test_a_time_that_is_skipped_runs_right_after_the_gap_and_no_day_is_left_out():
    """Half past two does not exist on the last Sunday of March in Berlin."""
    assert runs(Timetable("30 2 * * *", "Europe/Berlin"), "2026-03-27T12:00+00:00", 3) == [
        "03-28 01:30:00",
        "03-29 01:00:00",
        "03-30 00:30:00",
    ]


def test_two_skipped_times_are_one_run():
    timetable = Timetable("10,50 2 * * *", "Europe/Berlin")
    assert runs(timetable, "2026-03-28T12:00+00:00", 2) == ["03-29 01:00:00", "03-30 00:10:00"]


def test_a_time_that_comes_twice_runs_the_first_time():
    """Half past two comes twice on the last Sunday of October."""
    timetable = Timetable("30 2 * * *", "Europe/Berlin")
    assert runs(timetable, "2026-10-24T12:00+00:00", 2) == ["10-25 00:30:00", "10-26 01:30:00"]
    between = "2026-10-25T01:10+00:00"  # ten past two for the second time
    assert runs(timetable, between, 1) == ["10-26 01:30:00"]


def test_every_half_hour_stays_every_half_hour():
    timetable = Timetable("*/30 * * * *", "Europe/Berlin")
    for day in ("2026-03-29T00:10+00:00", "2026-10-25T00:10+00:00"):
        found, run = [], at(day)
        for _ in range(5):
            later = timetable.next_run(run)
            assert later is not None
            found.append(later - run)
            run = later
        assert found[1:] == [1800] * 4


def test_midnight_that_does_not_exist_is_one_o_clock():
    """In Beirut the clock is put forward at midnight."""
    assert runs(Timetable("0 0 * * *", "Asia/Beirut"), "2026-03-28T12:00+00:00", 1) == [
        "03-28 22:00:00"
    ]


def test_a_whole_day_that_does_not_exist():
    """Samoa had no 30 December 2011."""
    timetable = Timetable("0 12 30 12 *", "Pacific/Apia")
    assert runs(timetable, "2011-12-01T00:00+00:00", 1) == ["12-30 10:00:00"]


def test_a_date_that_comes_every_few_years():
    assert Timetable("0 0 29 2 *").next_run(at("2026-01-01T00:00+00:00")) == at(
        "2028-02-29T00:00+00:00"
    )


def test_a_date_that_never_comes_runs_never():
    assert Timetable("0 0 29-30 2 MON#5").next_run(at("2026-01-01T00:00+00:00")) is not None
    assert Timetable("0 0 * 4 1#5").next_run(LAST) is None


# ---- what is refused


@pytest.mark.parametrize(
    "cron",
    [
        *("", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *"),
        *("* * * * 8", "*/0 * * * *", "5-1 * * * *", "x * * * *", "* * 31 2 *", "1,,2 * * * *"),
        *("* * * * *\n", "\t* * * * *", "@daily", "٣ * * * *", "* * * * ²L", "-1 * * * *"),
        *("1" * 5000 + " * * * *", "* * * * * " + "1," * MAX_CRON + "1"),
    ],
)
def test_what_is_no_cron_expression_is_refused_by_name(cron):
    with pytest.raises(BadRequest, match=r"^cron: ") as refused:
        Timetable(cron)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "zone",
    [
        *("", "Berlin", "europe/berlin", "Europe", "+01:00", "localtime", "posixrules"),
        *("right/Europe/Berlin", "../../../etc/passwd", "/etc/localtime", "UTC\0", "x" * 10000),
    ],
)
def test_what_is_no_zone_is_refused_by_name(zone):
    with pytest.raises(BadRequest, match=r"^timezone: ") as refused:
        Timetable("* * * * *", zone)
    assert len(str(refused.value)) < 300


@given(st.text(max_size=40) | st.text("0123456789*,-/#L W", max_size=40))
def test_any_text_is_a_timetable_or_refused(text):
    with suppress(BadRequest):
        Timetable(text).next_run(0)


# ---- laws


CHANGES = {
    "UTC": ["2026-03-29T01:00+00:00"],
    "Europe/Berlin": ["2026-03-29T01:00+00:00", "2026-10-25T01:00+00:00"],
    "America/New_York": ["2026-03-08T07:00+00:00", "2026-11-01T06:00+00:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00+00:00", "2026-10-03T15:30+00:00"],
    "America/Havana": ["2026-03-08T05:00+00:00", "2026-11-01T05:00+00:00"],
    "Asia/Beirut": ["2026-03-28T22:00+00:00", "2026-10-24T21:00+00:00"],
    "Africa/Casablanca": ["2026-02-15T02:00+00:00", "2026-03-22T02:00+00:00"],
    "Pacific/Apia": ["2011-12-30T10:00+00:00"],
}
"""Where the offset of a zone changes: half of all that is drawn lies near one of these."""


class Case(NamedTuple):
    """A zone, an instant near a change of its clock, and what an entry names."""

    zone: str
    instant: int
    minutes: str
    hours: str
    weekdays: str


minute_sets = st.lists(st.integers(0, 59), min_size=1, max_size=3, unique=True)
hour_sets = st.lists(st.integers(0, 4) | st.integers(0, 23), min_size=1, max_size=3, unique=True)


def listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    zone = draw(st.sampled_from(sorted(CHANGES)))
    near = at(draw(st.sampled_from(CHANGES[zone])))
    minutes = draw(st.sampled_from(["*", "*/7", "*/30"]) | minute_sets.map(listed))
    hours = draw(st.sampled_from(["*", "*/2"]) | hour_sets.map(listed))
    return Case(
        zone,
        near + draw(st.integers(-36 * HOUR, 12 * HOUR)),
        minutes,
        hours,
        draw(st.sampled_from(["*", "*", "SUN", "1-5"])),
    )


def numbers(field: str, most: int) -> set[int]:
    """What a field of our tests means."""
    if field.startswith("*"):
        return set(range(0, most + 1, int(field[2:] or 1)))
    return set(map(int, field.split(",")))


def named(case: Case, shown: datetime) -> bool:
    """Whether the entry names this time of a clock on the wall."""
    weekdays = {"*": range(7), "SUN": (6,), "1-5": range(5)}[case.weekdays]
    return (
        shown.second == 0
        and shown.minute in numbers(case.minutes, 59)
        and shown.hour in numbers(case.hours, 23)
        and shown.weekday() in weekdays
    )


@cache
def clock(zone: str, begin: int, end: int) -> list[tuple[int, datetime]]:
    """What the clock on the wall shows at each minute."""
    place = ZoneInfo(zone)
    return [
        (minute, datetime.fromtimestamp(minute, place).replace(tzinfo=None))
        for minute in range(begin, end, 60)
    ]


def expected(case: Case, span: int) -> list[int]:
    """The runs up to ``span`` behind the instant, found by walking over all minutes."""
    begin = case.instant // DAY * DAY - 2 * DAY
    shows = clock(case.zone, begin, begin + 2 * DAY + DAY + span)
    if case.minutes.startswith("*") or case.hours.startswith("*"):
        found = {minute for minute, shown in shows if named(case, shown)}
    else:
        found, latest = set(), shows[0][1]
        for minute, shown in shows:
            while latest < shown:  # the first moment that shows this or a later one
                latest += timedelta(minutes=1)
                if named(case, latest):
                    found.add(minute)
    return sorted(run for run in found if case.instant < run <= case.instant + span)


@example(Case("Australia/Lord_Howe", at("2026-10-03T14:50+00:00"), "*", "4", "*"))
@example(Case("America/Havana", at("2026-11-01T04:50+00:00"), "30", "0", "*"))
@given(cases())
def test_next_run_is_what_walking_over_all_minutes_finds(case):
    timetable = Timetable(f"{case.minutes} {case.hours} * * {case.weekdays}", case.zone)
    run: int | None = case.instant
    found = []
    while (run := timetable.next_run(run)) is not None and run <= case.instant + 36 * HOUR:
        found.append(run)
    assert found == expected(case, 36 * HOUR)


@given(cases(), st.lists(st.integers(0, 5 * DAY), min_size=2, max_size=8))
def test_a_run_is_later_than_the_instant_and_never_sinks(case, steps):
    timetable = Timetable(f"{case.minutes} {case.hours} * * {case.weekdays}", case.zone)
    latest = 0
    for step in sorted(steps):
        run = timetable.next_run(case.instant + step)
        assert run is not None
        assert run > case.instant + step
        assert run >= latest
        latest = run


@given(cases(), st.lists(st.integers(-2 * HOUR, 9 * HOUR), min_size=1, max_size=20))
def test_whatever_the_clock_does_no_run_comes_twice_or_out_of_order(case, steps):
    """Looked at now and then, by a clock that also goes back; each time what is due runs."""
    timetable = Timetable(f"{case.minutes} {case.hours} * * {case.weekdays}", case.zone)
    now, after = case.instant, case.instant
    had: list[int] = []
    for step in steps:
        now += step
        due = timetable.due(after, now)
        if due is not None:
            assert due.run <= now
            had.append(due.run)
            after = due.run
    assert had == sorted(set(had))
    assert set(had) <= set(expected(case, max(now, after, case.instant + HOUR) - case.instant))


@given(cases(), st.integers(0, 2 * DAY))
def test_what_was_missed_runs_once_as_the_latest(case, down):
    timetable = Timetable(f"{case.minutes} {case.hours} * * {case.weekdays}", case.zone)
    all_of_them = expected(case, down)
    due = timetable.due(case.instant, case.instant + down)
    if not all_of_them:
        assert due is None
    else:
        assert due == Due(all_of_them[-1], min(len(all_of_them) - 1, MISSED_COUNTED))
        assert timetable.due(due.run, case.instant + down) is None


def test_a_year_of_missed_seconds_is_one_run():
    timetable, begin = Timetable("* * * * * *", "Europe/Berlin"), at("2026-01-01T00:00+00:00")
    assert timetable.due(begin, begin + 365 * DAY) == Due(begin + 365 * DAY, MISSED_COUNTED)
    assert timetable.due(begin, begin) is None
    assert timetable.due(begin, begin - DAY) is None
