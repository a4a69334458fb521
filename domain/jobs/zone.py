"""Time zones by their IANA name, from the pinned `tzdata`, and where their wall clocks jump.

Never from the operating system: two schedulers on two machines must agree on what a wall clock shows.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from domain.errors import Invalid, invalid_field

DAY = timedelta(days=1)


class UnknownTimeZone(Invalid):
    """There is no such time zone."""

    code = "unknown-time-zone"


@cache
def zone_names() -> frozenset[str]:
    """The names of all time zones, of those that are only other names for one, too."""
    return frozenset((files("tzdata") / "zones").read_text(encoding="utf-8").split())


@cache
def time_zone(name: str, field: str = "timezone") -> ZoneInfo:
    """The zone of this name (`Europe/Vienna`, `UTC`). Raises Invalid, naming `field`."""
    if name not in zone_names():
        error = invalid_field(field, "must be the name of an IANA time zone, such as Europe/Vienna or UTC")
        raise UnknownTimeZone(error.message, errors=error.errors)
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def offset_at(zone: tzinfo, instant: datetime) -> timedelta:
    """How far the zone's wall clock is ahead of UTC at an instant (in UTC)."""
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None  # noqa: S101 - zones from tzdata always have one
    return offset


def next_jump(zone: tzinfo, start: datetime, end: datetime) -> datetime | None:
    """The first instant after `start`, at or before `end`, whose offset isn't that at `start`. In UTC, to the second.

    They are at most a day apart: no zone changes its offset and back within one.
    """
    before = offset_at(zone, start)
    if offset_at(zone, end) == before:
        return None
    low, high = int(start.timestamp()), int(end.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if offset_at(zone, datetime.fromtimestamp(middle, UTC)) == before:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)
