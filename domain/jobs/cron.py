"""Cron expressions in a time zone: at which instants they are due.

Which days, hours and minutes are meant is cronsim's to say, which reads an expression as Debian's cron does: five
fields; names of months and days; `L` (the last day), `LW` (the last weekday), `5L` (the last Friday), `MON#2` (the
second Monday); where neither day field begins with a star, either of them may match, else both must.

When the wall clock jumps, the rules are those of vixie cron and systemd:

- An expression whose minute or hour begins with a star goes by *elapsed time*: it is due at every instant at which the
  wall clock shows what it says; in a repeated hour twice, and in a missing hour never. `*/15 * * * *` is due each
  quarter of an hour, whatever the clock does.
- Every other one means *times of day*: each is due once on each of its days. One that the clock shows twice is due the
  first time; those in a gap that the clock leaps over are due once, together, at the gap's end.

The walk through the jumps is our own and not cronsim's, which loses occurrences behind a jump that isn't a whole hour
(`*/15 3 * * *` at Lord Howe), gives a midnight that there isn't (`*/30 0 24 4 *` in Cairo), and, asked within an hour
that is shown twice, an instant that has passed.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from domain.errors import Invalid, invalid_field
from domain.jobs.zone import DAY, next_jump, offset_at, time_zone

MAX_EXPRESSION_CHARS = 120
HORIZON = timedelta(days=366 * 45)
"""How far ahead is looked. The rarest day that there is, a 29 February on a given weekday, comes after 40 years at
most (Sundays: 2088 and 2128, since 2100 isn't a leap year)."""
FIRST_YEAR, LAST_YEAR = 1900, 9000
"""Nothing is due before and after: the computer's calendar goes from 1 to 9999, and needs room for offsets."""
WARM_UP = timedelta(days=2)
"""Where the clock has jumped lately, the walk begins so long before, to know what a repeated hour has shown already."""

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_ANY_DAY = datetime(2024, 1, 1, tzinfo=UTC)


class InvalidCron(Invalid):
    """This isn't a cron expression."""

    code = "invalid-cron"


class NeverDue(InvalidCron):
    """This cron expression is never due."""

    code = "cron-never-due"


@dataclass(frozen=True)
class Cron:
    """An expression in a time zone. Make it with `parse`, which refuses one that isn't valid or never due."""

    text: str
    timezone: str
    _days: CronSim
    _clock: tuple[time, ...]
    """The times of day, in order."""
    _zone: ZoneInfo
    _by_elapsed_time: bool

    @classmethod
    def parse(cls, text: str, timezone: str = "UTC", *, field: str = "cron") -> Self:
        """Raises Invalid, naming `field` or `timezone`: InvalidCron, NeverDue, UnknownTimeZone."""
        zone = time_zone(timezone)
        parts = _parts(text, field)
        sim = _sim(parts, field)
        clock = tuple(time(hour, minute) for hour in sorted(sim.hours) for minute in sorted(sim.minutes))
        cron = cls(" ".join(text.split()), timezone, sim, clock, zone, parts[0][0] == "*" or parts[1][0] == "*")
        if next(cron._matching_days(date(2024, 1, 1)), None) is None:
            raise _refused(NeverDue, field, "is never due: no day of the calendar is meant")
        return cron

    @property
    def zone(self) -> ZoneInfo:
        """Whose wall clock is meant."""
        return self._zone

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The instants at which it is due, strictly after one, in order, in UTC. Ends where the calendar does."""
        last = instant = max(instant.astimezone(UTC), datetime(FIRST_YEAR, 1, 3, tzinfo=UTC))
        for due in self._walk(instant - WARM_UP if self._has_jumped(instant) else instant):
            # Two times of day in one gap, or one at its end, are the same instant.
            if due > last:
                last = due
                yield due

    def next(self, instant: datetime) -> datetime | None:
        """The first instant after this one; None if there is none before the calendar's end."""
        return next(self.after(instant), None)

    def preview(self, instant: datetime, count: int) -> list[datetime]:
        """The next ones, at most `count`, and none further ahead than `HORIZON`."""
        return [due for due in islice(self.after(instant), count) if due - instant <= HORIZON]

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Those after `start`, up to and including `end`."""
        for due in self.after(start):
            if due > end:
                return
            yield due

    def _has_jumped(self, instant: datetime) -> bool:
        return offset_at(self._zone, instant - WARM_UP) != offset_at(self._zone, instant)

    def _walk(self, start: datetime) -> Iterator[datetime]:
        """Day by day and jump by jump: between two jumps, wall clock and UTC differ by a constant."""
        offset = offset_at(self._zone, start)
        shown = _wall(start, offset)
        """Up to here, excluding it, the wall clock has shown everything."""
        while start.year < LAST_YEAR:
            day = next(self._matching_days(_wall(start, offset).date()), None)
            if day is None:
                return
            if (eve := datetime.combine(day, time(), UTC) - WARM_UP) > start + WARM_UP:
                start, offset = eve, offset_at(self._zone, eve)
                shown = _wall(start, offset)
            end = min(start + DAY, next_jump(self._zone, start, start + DAY) or start + DAY)
            begin = _wall(start, offset)
            first = begin if self._by_elapsed_time else max(begin, shown)
            for wall in self._walls(first, _wall(end, offset)):
                yield (wall - offset).replace(tzinfo=UTC)
            shown = max(shown, _wall(end, offset))
            start, offset = end, offset_at(self._zone, end)
            after_jump = _wall(start, offset)
            if not self._by_elapsed_time and next(self._walls(shown, after_jump), None) is not None:
                yield start

    def _walls(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The meant times on the wall clock, from `start` on and before `end`."""
        if start >= end:
            return
        day = start.date()
        while day <= end.date():
            if self._means(day):
                first = bisect_left(self._clock, start.time()) if day == start.date() else 0
                for at in self._clock[first:]:
                    wall = datetime.combine(day, at)
                    if wall >= end:
                        return
                    yield wall
            day += DAY

    def _means(self, day: date) -> bool:
        return day.month in self._days.months and self._days.match_day(day)

    def _matching_days(self, start: date) -> Iterator[date]:
        day, last = start, start + HORIZON
        while day < last:
            if day.month not in self._days.months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self._days.match_day(day):
                yield day
            day += DAY


@lru_cache(maxsize=4096)
def cron_of(text: str, timezone: str) -> Cron:
    """One that was valid when it was recorded. Raises Invalid where the zone has left the database since."""
    return Cron.parse(text, timezone)


def _parts(text: str, field: str) -> list[str]:
    if len(text) > MAX_EXPRESSION_CHARS:
        raise _refused(InvalidCron, field, f"must be at most {MAX_EXPRESSION_CHARS} characters")
    if text.strip().startswith("@"):
        expanded = MACROS.get(text.strip().lower())
        if expanded is None:
            raise _refused(InvalidCron, field, f"must be one of {', '.join(MACROS)}, or five fields")
        return expanded.split()
    parts = text.upper().split()
    if len(parts) != len(_FIELDS):
        raise _refused(
            InvalidCron, field, f"must have five fields ({', '.join(_FIELDS)}), separated by spaces, not {len(parts)}"
        )
    return parts


def _sim(parts: list[str], field: str) -> CronSim:
    """Raises InvalidCron naming the first field that isn't valid, NeverDue for days that no month has."""
    for index, part in enumerate(parts):
        alone = ["*"] * len(parts)
        alone[index] = part
        try:
            CronSim(" ".join(alone), _ANY_DAY)
        except (CronSimError, ValueError, AssertionError, TypeError):
            raise _refused(InvalidCron, field, f"the {_FIELDS[index]} isn't valid: {part}") from None
    try:
        return CronSim(" ".join(parts), _ANY_DAY)
    except (CronSimError, ValueError, AssertionError, TypeError):
        raise _refused(NeverDue, field, "is never due: no month that is meant has such a day") from None


def _refused(kind: type[Invalid], field: str, message: str) -> Invalid:
    error = invalid_field(field, message)
    return kind(error.message, errors=error.errors)


def _wall(instant: datetime, offset: timedelta) -> datetime:
    """What the wall clock shows, without a zone."""
    return instant.replace(tzinfo=None) + offset
