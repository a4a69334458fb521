"""A store that is restored to an older position, while all that its log fed stays as it was."""

from typing import Any

from psycopg import Connection

_KEEP = """
    create table kept_events as select * from stored_events;
    create table kept_head as select * from log_head;
"""
_RESTORE = """
    delete from stored_events;
    insert into stored_events select * from kept_events;
    update log_head h set position = k.position, recorded_at = k.recorded_at from kept_head k;
"""


def keep(connection: Connection[Any]) -> int:
    """Keeps the log as it is now; its head."""
    connection.execute(_KEEP)
    return head(connection)


def cut_back(connection: Connection[Any]) -> None:
    """Makes the log what it was when it was kept."""
    connection.execute(_RESTORE)


def head(connection: Connection[Any]) -> int:
    row = connection.execute("select position from log_head").fetchone()
    assert row
    return int(row[0])
