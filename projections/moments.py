"""Positions and times: which event was the newest at a time, and when a position was recorded."""

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

RECORDED_AT = "select recorded_at from stored_events where notification_id = %(position)s"
"""When a position was recorded; no row for 0, or above the head."""
