"""When a schedule runs: a cron expression and a time zone, as a function from instants to instants.

Instants are whole seconds since 1970; no clock here, whoever asks brings the time. cronsim knows the
calendar; what daylight saving does to a run is decided here, in two ways, as Debian's cron has it:

* An entry **by name** says which minutes and which hours (neither field begins with ``*``). It runs
  once for each time it names: at the first moment at which the clock on the wall shows this time or
  a later one. A time that is skipped runs right after the gap, one that comes twice runs the first time.
* Any other entry runs **by the clock**: whenever the clock on the wall shows a time that it matches.
  A time that is skipped does not run, one that comes twice runs twice, so that "every ten minutes"
  stays every ten minutes.

Laws: `Timetable.next_run` is later than the instant asked about, and never sinks when that rises.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from restmq.errors import BadRequest

MAX_CRON: Final = 256
"""Characters of an expression."""

MISSED_COUNTED: Final = 100
"""Runs that were missed are counted up to here."""

LAST: Final = 250_000_000_000
"""Behind this instant, in the year 9892, nothing runs: calendars end soon after."""

_DAY: Final = 86400
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - what a clock on the wall shows has no zone
_SECOND: Final = timedelta(seconds=1)
_FORM: Final = re.compile(r"[0-9A-Za-z*/,#-]+(?: +[0-9A-Za-z*/,#-]+){4,5}", re.ASCII)


class Due(NamedTuple):
    """A run whose time has come, and how many before it were missed (MISSED_COUNTED: or more)."""

    run: int
    missed: int


@cache
def _zone_names() -> frozenset[str]:
    """The names of the IANA time zone database (RFC 6557), not what else lies in the system's folder."""
    return frozenset((files("tzdata") / "zones").read_text("ascii").split())


class Timetable:
    """The runs of one cron expression in one time zone."""

    __slots__ = ("_by_name", "_zone", "cron", "timezone")

    def __init__(self, cron: str, timezone: str = "UTC") -> None:
        """``cron`` has five fields (minute, hour, day of month, month, day of week), or six with the second first.

        ``timezone`` is an IANA name. Raises BadRequest, its text beginning with the name of what is wrong.
        """
        if timezone not in _zone_names():
            raise BadRequest(
                f"timezone: {timezone[:64]!r} is no IANA name such as Europe/Berlin or UTC"
            )
        self.cron = cron
        self.timezone = timezone
        self._zone: tzinfo = UTC if timezone == "UTC" else ZoneInfo(timezone)
        if len(cron) > MAX_CRON or _FORM.fullmatch(cron) is None:
            raise BadRequest(
                f"cron: five fields (minute hour day month weekday), or six with the second first, "
                f"in at most {MAX_CRON} characters"
            )
        try:
            CronSim(cron, _EPOCH)
        except CronSimError as error:
            text = str(error)
            raise BadRequest(f"cron: {text[:1].lower()}{text[1:]}") from None
        *_, minute, hour, _, _, _ = cron.split()
        self._by_name = not minute.startswith("*") and not hour.startswith("*")

    def next_run(self, after: int) -> int | None:
        """The first run later than this instant; None when there is none within 50 years."""
        if after >= LAST:
            return None
        return self._next_by_name(after) if self._by_name else self._next_by_clock(after)

    def due(self, after: int, now: int) -> Due | None:
        """The latest run later than ``after`` and not later than ``now``, None if there is none.

        So what was missed runs once, as the last of the runs that were missed.
        """
        run = self.next_run(after)
        if run is None or run > now:
            return None
        latest, missed = self._latest(after, now), 0
        while run is not None and run < latest and missed < MISSED_COUNTED:
            missed += 1
            run = self.next_run(run)
        return Due(latest, missed)

    def _latest(self, after: int, now: int) -> int:
        """The latest run in (after, now]; there is one. Halving, since next_run never sinks."""
        known = range(after, now)
        behind = bisect_right(known, now, key=lambda instant: self.next_run(instant) or LAST)
        latest = self.next_run(known[behind - 1])
        assert latest is not None
        return latest

    def _next_by_name(self, after: int) -> int | None:
        for named in CronSim(self.cron, _wall(after + self._offset(after))):
            run = self._first_showing(named)
            if run > after:
                return run
        return None

    def _next_by_clock(self, after: int) -> int | None:
        begin = after + 1
        while True:
            offset = self._offset(begin)
            shown = next(CronSim(self.cron, _wall(begin + offset - 1)), None)
            if shown is None:
                return None
            run = _seconds(shown) - offset
            change = self._change(begin, run)
            if change is None:
                return run
            begin = change

    def _first_showing(self, wall: datetime) -> int:
        """The first instant at which the clock on the wall shows this time, or a later one."""
        late = _seconds(wall) - self._offset_of(wall, fold=0)
        if self._offset(late) == self._offset_of(wall, fold=0):
            return late
        early = _seconds(wall) - self._offset_of(wall, fold=1)
        change = self._change(early, late)
        assert change is not None, "a time that is skipped has another offset before and behind"
        return change

    def _change(self, begin: int, end: int) -> int | None:
        """The first instant behind ``begin``, up to ``end``, with another offset from UTC."""
        offset = self._offset(begin)
        for start in range(begin, end, _DAY):
            seconds = range(start, min(start + _DAY, end) + 1)
            if self._offset(seconds[-1]) != offset:
                changed = bisect_left(seconds, 1, key=lambda at: self._offset(at) != offset)
                return seconds[changed]
        return None

    def _offset(self, instant: int) -> int:
        """How far the clock on the wall is ahead of UTC."""
        if self._zone is UTC:
            return 0
        shown = datetime.fromtimestamp(instant, self._zone).utcoffset()
        assert shown is not None
        return shown // _SECOND

    def _offset_of(self, wall: datetime, *, fold: int) -> int:
        """The same by what the clock shows (PEP 495: in a gap, fold 0 is the offset before it)."""
        offset = wall.replace(tzinfo=self._zone, fold=fold).utcoffset()
        assert offset is not None
        return offset // _SECOND


def _wall(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _seconds(wall: datetime) -> int:
    return (wall - _EPOCH) // _SECOND
