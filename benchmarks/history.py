"""A long past, by COPY: what the real aggregates of many users would have left in the log."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import psycopg

from domain.access import UserAssignments
from domain.aggregate import NAMESPACE
from domain.context import Context
from infra.event_store import Log, Metadata

ABREAST = 500
"""Users whose events stand side by side in the log."""

ROLES, REVOKED = 6, 3
APPLIED = ROLES + REVOKED
"""Events of a user that say something to the view of access; the one before them says nothing."""

TOPICS = (UserAssignments.RoleAssigned.TOPIC, UserAssignments.RoleRevoked.TOPIC)
_COLUMNS = "originator_id, originator_version, topic, state, notification_id, recorded_at, metadata"


def fill(conninfo: str, applied: int) -> int:
    """Adds at least so many events that concern the view of access, and one in ten beside them; the log's head.

    Each user is given roles, and some are taken away again; 500 users at a time take turns. One event a millisecond.
    """
    log = Log(conninfo)
    position, now = log.head(), datetime.now(UTC)
    metadata = Metadata.from_context(Context.system("benchmark", "bench")).to_bytes()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(f"copy stored_events ({_COLUMNS}) from stdin (format binary)".encode()) as copy:
                copy.set_types(["uuid", "int8", "text", "bytea", "int8", "timestamptz", "bytea"])
                for stream, version, topic, state in _events(log, -(-applied // APPLIED)):
                    position += 1
                    now += timedelta(milliseconds=1)
                    copy.write_row((stream, version, topic, state, position, now, metadata))
            cursor.execute("update log_head set position = %s, recorded_at = %s", (position, now))
        connection.execute("vacuum analyze stored_events")
    log.close()
    return position


def _events(log: Log, users: int) -> Iterator[tuple[UUID, int, str, bytes]]:
    rows = _model(log)
    for start in range(0, users, ABREAST):
        abreast = [uuid5(NAMESPACE, f"bench:{number}") for number in range(start, min(users, start + ABREAST))]
        streams = [UserAssignments.create_id(user) for user in abreast]
        for version, topic, state in rows:
            for user, stream in zip(abreast, streams, strict=True):
                yield stream, version, topic, state.replace(str(NAMESPACE).encode(), str(user).encode())


def _model(log: Log) -> list[tuple[int, str, bytes]]:
    """The rows of one real aggregate, in whose place everybody's ids are put."""
    model = UserAssignments(user_id=NAMESPACE)
    for number in range(ROLES):
        model.assign("operator", f"/acme/eu/{number}", None, datetime.now(UTC))
    for number in range(REVOKED):
        model.revoke("operator", f"/acme/eu/{number}")
    rows = [log.mapper.to_stored_event(event) for event in model.collect_events()]
    return [(row.originator_version, row.topic, row.state) for row in rows]
