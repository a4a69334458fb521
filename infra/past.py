"""Whether the log still has the past of which something else was made: a view, a reaction's progress, the bus.

A restored store is older than what it fed. Everything that keeps a position therefore keeps the newest event that it
had seen, too: `seen_position`, `seen_id` (`stream:version`) and `seen_at` (when it was recorded). If the log hasn't
that very event there, or ends before the position, it has another past. Since a log is only ever cut at one point and
goes on from there, all that stands before an event that agrees agrees as well.
"""

from typing import Any

from psycopg import Connection

from infra.versions import move_epoch

LOCK = 7_053_004
"""The advisory lock under which another past is done away with."""

SEEN = """
    (seen_position, seen_id, seen_at) = (
        select notification_id, originator_id || ':' || originator_version, recorded_at
          from stored_events where notification_id = {position})
"""
"""For SQL that moves a position: notes the event there."""

STRANGE = """
    (p.position > (select position from log_head)
     or (p.seen_position is not null
         and not exists (select from stored_events e
                          where e.notification_id = p.seen_position and e.recorded_at = p.seen_at
                            and e.originator_id || ':' || e.originator_version = p.seen_id)))
"""
"""A condition on a row `p` with a position: it is of another past than the log."""

_ANY = f"""
    select exists (
           select from projection_builds b join projection_progress p using (projection, version, build)
            where b.feed <> 'discarded' and {STRANGE})
        or exists (select from reaction_progress p where {STRANGE})
"""
# Their rows were written in the commit of the event at that position, or when that was the head: never before it.
_LATER = """
    delete from {table} r
     where r.position > (select position from log_head)
        or exists (select from stored_events e where e.notification_id = r.position and e.recorded_at > r.{time})
"""
DEPENDENTS = (
    ("receipts", "fulfilled_at"),
    ("reaction_parked", "parked_at"),
    ("projection_wishes", "decided_at"),
    ("log_snapshots", "made_at"),
)
"""Tables of what was kept about an event, and when that was written."""

_GIVE_UP = "update bus_layouts set given_up = true where not given_up"


def is_strange(connection: Connection[Any]) -> bool:
    """Whether any view's or reaction's progress is of another past. Cheap: one look-up for each row of progress."""
    row = connection.execute(_ANY.encode()).fetchone()
    return bool(row and row[0])


def forget(connection: Connection[Any], reason: str) -> None:
    """What was kept about events that the log doesn't have: receipts, parked causes, decisions not yet carried out.

    And nothing on the bus or in the shared cache is believed any more. In the caller's transaction.
    """
    for table, time in DEPENDENTS:
        row = connection.execute("select to_regclass(%s) is not null", (table,)).fetchone()
        if row and row[0]:
            connection.execute(_LATER.format(table=table, time=time).encode())
    connection.execute(_GIVE_UP)
    move_epoch(connection, reason)
