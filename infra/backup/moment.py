"""What a backup is of: the log's end, and what the log itself doesn't tell, as of one moment."""

from collections.abc import Mapping
from typing import Any

from psycopg import Connection

from infra.backup.form import COLUMNS, BusAt, Header, ReactionAt
from infra.backup.problems import BackupError
from infra.layouts import current_layout, ids_at
from infra.migrate import current_release
from infra.transcoding import event_types

_HEAD = "select position, recorded_at, clock_timestamp() from log_head where only_row"
_REACTIONS = "select reaction, min(position) from reaction_progress group by reaction order by reaction"


def header_of(connection: Connection[Any], keys: Mapping[str, str], *, after: int = 0, after_event: str = "") -> Header:
    """The header of a backup of everything above `after`. The connection must be in autocommit.

    A reaction moves in the commit of what it leads to, so log and reactions are looked at in one snapshot. Raises
    BackupError for an `after` that this log doesn't have, or not so.
    """
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        row = connection.execute(_HEAD).fetchone()
        if row is None:
            raise BackupError("the log has lost its head: the table log_head is empty")
        position, recorded_at, now = row
        reactions = connection.execute(_REACTIONS).fetchall()
        layout = current_layout(connection)
    ids = ids_at(connection, {after, position} - {0})
    if after > position or ids.get(after, "") != after_event:
        raise BackupError(f"this log isn't the one of which there is a backup up to {after}: it has another past")
    return Header(
        release=current_release(),
        created_at=now,
        after=after,
        after_event=after_event,
        position=position,
        head_event=ids.get(position, ""),
        recorded_at=recorded_at,
        keys=dict(keys),
        # Which of them are in it, only reading all of it would tell: a sixth of what the backup takes.
        types={topic: getattr(kind, "class_version", 1) for topic, kind in sorted(event_types().items())},
        columns=COLUMNS,
        reactions=tuple(ReactionAt(*each) for each in reactions),
        bus=BusAt(layout.number, layout.incarnation) if layout else None,
    )
