"""When cron expressions are due: over the jumps of twenty zones' clocks, against an oracle that counts minutes."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.errors import Invalid
from domain.jobs.cron import HORIZON, Cron, InvalidCron, NeverDue
from domain.jobs.zone import UnknownTimeZone, next_jump, time_zone, zone_names

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ZONES = (
    "UTC",
    "Europe/Vienna",
    "Europe/London",
    "Europe/Dublin",  # negative daylight saving
    "Atlantic/Azores",  # jumps at midnight
    "America/New_York",
    "America/St_Johns",  # half an hour beside the others
    "America/Havana",  # midnight
    "America/Santiago",  # midnight, southern
    "America/Asuncion",  # gave its jumps up
    "America/Scoresbysund",
    "Africa/Cairo",  # midnight
    "Africa/Casablanca",  # Ramadan
    "Asia/Beirut",  # midnight
    "Asia/Jerusalem",
    "Asia/Kathmandu",  # three quarters
    "Asia/Tehran",
    "Australia/Lord_Howe",  # half an hour's jump
    "Pacific/Chatham",  # 2:45
    "Antarctica/Troll",  # two hours
)
NEVER = datetime(1, 1, 1)  # noqa: DTZ001 - what a wall clock shows has no zone
FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2033, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Meant:
    """An expression as the oracle knows it: sets, and nothing parsed."""

    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int] | None = None
    star_minute: bool = False
    star_hour: bool = False

    @property
    def text(self) -> str:
        minute = "*" if self.star_minute else ",".join(map(str, sorted(self.minutes)))
        hour = "*" if self.star_hour else ",".join(map(str, sorted(self.hours)))
        weekday = "*" if self.weekdays is None else ",".join(map(str, sorted(self.weekdays)))
        return f"{minute} {hour} * * {weekday}"

    def shows(self, wall: datetime) -> bool:
        """Whether a wall clock that shows this shows what is meant."""
        on_day = self.weekdays is None or wall.isoweekday() % 7 in self.weekdays
        return wall.minute in self.minutes and wall.hour in self.hours and on_day


@cache
def walls(zone: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Each minute's instant, and what the wall clock shows then: by the operating of a clock, minute by minute."""
    clock, found, instant = time_zone(zone), [], start
    while instant <= end:
        found.append((instant, instant.astimezone(clock).replace(tzinfo=None)))
        instant += MINUTE
    return found


def oracle(meant: Meant, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """What is due after `start`, up to `end`, told by watching the clock. It starts early by more than any jump."""
    due, seen = [], NEVER
    for instant, wall in walls(zone, start - 3 * HOUR, end):
        if meant.star_minute or meant.star_hour:
            is_due = meant.shows(wall)
        else:
            leapt_over = [wall]
            while seen != NEVER and leapt_over[-1] - MINUTE > seen:
                leapt_over.append(leapt_over[-1] - MINUTE)
            is_due = wall > seen and any(map(meant.shows, leapt_over))
        seen = max(seen, wall)
        if is_due and instant > start:
            due.append(instant)
    return due


@cache
def jumps(zone: str) -> list[datetime]:
    found, day = [], FIRST
    while day < LAST:
        if jump := next_jump(time_zone(zone), day, day + DAY):
            found.append(jump)
        day += DAY
    return found


def subsets(values: range, most: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.sampled_from(values), min_size=1, max_size=most)


ALL_MINUTES, ALL_HOURS = frozenset(range(60)), frozenset(range(24))
weekdays = st.none() | subsets(range(7), 4)
times_of_day = st.builds(Meant, subsets(range(60), 4), subsets(range(24), 6) | subsets(range(4), 4), weekdays)
each_minute = st.builds(Meant, st.just(ALL_MINUTES), subsets(range(24), 6), weekdays, st.just(True))
each_hour = st.builds(
    Meant,
    subsets(range(60), 4),
    st.just(ALL_HOURS),
    weekdays,
    st.just(False),
    st.just(True),
)
expressions = times_of_day | each_minute | each_hour


@pytest.mark.parametrize("zone", ZONES)
def test_around_every_jump_of_nine_years_each_time_is_due_once(zone):
    """Times of day that lie in the jump, and beside it, at each of the zone's jumps."""
    for jump in jumps(zone):
        start, end = jump - 3 * HOUR, jump + 4 * HOUR
        around = [wall for _, wall in walls(zone, jump - 65 * MINUTE, jump + 65 * MINUTE)]
        gap = [around[0] + n * MINUTE for n in range(0, 260, 15)]
        hours = frozenset(wall.hour for wall in (*around, *gap))
        minutes = frozenset({0, 15, 30, 59})
        for meant in (Meant(minutes, hours), Meant(minutes, ALL_HOURS, star_hour=True)):
            assert list(Cron.parse(meant.text, zone).between(start, end)) == oracle(meant, zone, start, end)


@given(expressions, st.sampled_from(ZONES), st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_the_expression_it_is_due_when_the_oracle_says(meant, zone, data):
    near = data.draw(st.sampled_from(jumps(zone) or [FIRST + 100 * DAY, FIRST + 900 * DAY]))
    start = near + data.draw(st.integers(-2000, 2000)) * MINUTE
    end = start + data.draw(st.integers(1, 2000)) * MINUTE
    assert list(Cron.parse(meant.text, zone).between(start, end)) == oracle(meant, zone, start, end)


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_of_day_is_due_once_a_day_for_nine_years(zone):
    for text in ("30 2 * * *", "0 0 * * *", "59 23 * * *"):
        due = list(Cron.parse(text, zone).between(FIRST, LAST))
        assert all(21 * HOUR <= later - earlier <= 27 * HOUR for earlier, later in pairwise(due)), text
        assert abs(len(due) - (LAST - FIRST).days) <= 1


@pytest.mark.parametrize("zone", ZONES)
def test_every_half_hour_goes_by_elapsed_time_whatever_the_clock_does(zone):
    due = list(Cron.parse("*/30 * * * *", zone).between(FIRST, FIRST + 2 * 366 * DAY))
    assert all(later - earlier == 30 * MINUTE for earlier, later in pairwise(due))


@given(expressions, st.sampled_from(ZONES), st.integers(0, 9 * 525_600), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_asking_from_anywhere_gives_the_same_sequence(meant, zone, start, skipped):
    cron, start = Cron.parse(meant.text, zone), FIRST + start * MINUTE
    sequence = cron.preview(start, 12)
    assert sequence == sorted(set(sequence))
    assert cron.preview(sequence[skipped - 1], 12 - skipped) == sequence[skipped:]


@pytest.mark.parametrize(
    ("zone", "text", "day", "shown"),
    [
        ("Europe/Vienna", "30 2 * * *", date(2026, 3, 29), ["03:00+0200"]),
        ("Europe/Vienna", "0,30 2,3 * * *", date(2026, 3, 29), ["03:00+0200", "03:30+0200"]),
        ("Europe/Vienna", "30 2 * * *", date(2026, 10, 25), ["02:30+0200"]),
        ("Europe/Vienna", "30 * * * *", date(2026, 3, 29), ["00:30+0100", "01:30+0100", "03:30+0200"]),
        ("Europe/Vienna", "*/30 2 * * *", date(2026, 3, 29), []),
        ("Europe/Vienna", "*/30 2 * * *", date(2026, 10, 25), ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]),
        ("Africa/Cairo", "0 0 * * *", date(2026, 4, 24), ["01:00+0300"]),
        ("Australia/Lord_Howe", "*/15 3 * * *", date(2026, 10, 4), ["03:00+1100", "03:15+1100", "03:30+1100"]),
        ("America/Havana", "30 0 * * *", date(2026, 3, 8), ["01:00-0400"]),
    ],
)
def test_the_examples_of_the_documentation(zone, text, day, shown):
    start = datetime(day.year, day.month, day.day, tzinfo=time_zone(zone)) - timedelta(seconds=1)
    due = Cron.parse(text, zone).between(start, start + 30 * HOUR)
    today = [local for each in due if (local := each.astimezone(time_zone(zone))).date() == day]
    assert [local.strftime("%H:%M%z") for local in today][: len(shown) or 9] == shown


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("@yearly", "2027-01-01T00:00"),
        ("@Monthly", "2026-07-01T00:00"),
        ("@weekly", "2026-06-07T00:00"),
        ("@daily", "2026-06-02T00:00"),
        ("@hourly", "2026-06-01T13:00"),
        ("0 0 L * *", "2026-06-30T00:00"),
        ("0 0 LW * *", "2026-06-30T00:00"),
        ("0 9 * * MON#2", "2026-06-08T09:00"),
        ("0 9 * * 5L", "2026-06-26T09:00"),
        ("0 9 13 * FRI", "2026-06-05T09:00"),  # either of them
        ("0 9 */13 * FRI", "2026-08-14T09:00"),  # both
        ("0 9 29 2 *", "2028-02-29T09:00"),
        ("  15\t10  * jan-mar mon-fri ", "2027-01-01T10:15"),
    ],
)
def test_reads_expressions_as_debians_cron_does(text, first):
    due = Cron.parse(text).next(datetime(2026, 6, 1, 12, tzinfo=UTC))
    assert due is not None
    assert due.isoformat(timespec="minutes") == f"{first}+00:00"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 32 * *", "day of the month"),
        ("* * L-3 * *", "day of the month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of the week"),
        ("* * * * MON#6", "day of the week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("٣ * * * *", "minute"),
        ("@reboot", "@daily"),
        ("* " * 100, "characters"),
    ],
)
def test_refuses_what_is_no_expression_and_says_which_field(text, named):
    with pytest.raises(InvalidCron) as refusal:
        Cron.parse(text)
    assert refusal.value.errors[0].field == "cron"
    assert named in refusal.value.message


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 */31 * MON#2", "0 0 31 2 */2"])
def test_refuses_what_would_never_be_due(text):
    with pytest.raises(NeverDue):
        Cron.parse(text)


@pytest.mark.parametrize(
    "name", ["", "Vienna", "europe/vienna", "../zones", "Europe/Vienna\0", "CEST", "zone.tab", "Europe"]
)
def test_refuses_a_zone_that_there_isnt(name):
    with pytest.raises(UnknownTimeZone) as refusal:
        Cron.parse("* * * * *", name)
    assert refusal.value.errors[0].field == "timezone"


def test_knows_every_zone_of_the_database():
    assert len(zone_names()) > 400
    assert all(isinstance(time_zone(name), ZoneInfo) for name in zone_names())


@given(st.text("0123456789*/,-#LWMONFRI@ \t\0é", max_size=30) | st.text(max_size=200))
@example("L/2 * * * *")
@example("* * * * ,")
@example(f"{'9' * 100} * * * *")
@settings(max_examples=400, deadline=None)
def test_whatever_is_given_is_an_expression_or_refused(text):
    try:
        cron = Cron.parse(text)
    except Invalid as refusal:
        named = [error.field for error in refusal.errors]
    else:
        named = ["cron"] if cron.next(FIRST) else []
    assert named == ["cron"]


def test_the_rarest_day_that_there_is_is_found():
    leap_sundays = Cron.parse("0 0 29 2 */7")
    assert leap_sundays.next(datetime(2088, 3, 1, tzinfo=UTC)) == datetime(2128, 2, 29, tzinfo=UTC)


def test_a_preview_ends_at_the_horizon():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    due = Cron.parse("0 0 29 2 *").preview(start, 1000)
    assert len(due) == 11
    assert due[-1] <= start + HORIZON


def test_nothing_is_due_beyond_the_calendar():
    assert Cron.parse("* * * * *").preview(datetime(9998, 12, 31, tzinfo=UTC), 3) == []
