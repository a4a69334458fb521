"""Positions and times: which event was the newest at a time, and when a position was recorded."""

from datetime import UTC, datetime
from typing import TypeAlias

AsOf: TypeAlias = int | datetime
"""A position, or a time, which means the greatest position recorded at or before it."""

LARGEST_POSITION = 2**63 - 1
"""What a column can hold. There is none behind it."""

BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
"""The time that counts at position 0."""


class NoOffset(ValueError):
    """A time needs its offset, such as Z: whose clock would it be otherwise?"""


def time_of(text: str) -> datetime:
    """A time (RFC 3339), in UTC. Raises ValueError, NoOffset for one that leaves open which moment it is."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise NoOffset
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error


POSITION_AT = """
    with recursive halves (low, high) as (
        select 0::bigint, position from log_head
        union all
        select case when e.recorded_at <= %(time)s then e.notification_id else h.low end,
               case when e.recorded_at <= %(time)s then h.high else e.notification_id - 1 end
          from halves h
          join stored_events e on e.notification_id = (h.low + h.high + 1) / 2
         where h.low < h.high
    )
    select low as position from halves where low = high
"""
"""The greatest position recorded at or before `time`: by halving, since positions and times rise together."""

POSITION_AT_TIME = f"""
    select coalesce(({POSITION_AT}), 0) as position,
           %(time)s > (select greatest(recorded_at, clock_timestamp()) from log_head) as future
"""
"""The same, and whether that time hasn't come yet by the database's clock."""

RECORDED_AT = "select recorded_at from stored_events where notification_id = %(position)s"
"""When a position was recorded; no row for 0, or above the head."""
