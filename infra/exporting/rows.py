"""A range of the log as bare rows, in order, at the speed of PostgreSQL; memory stays flat.

Each window of positions is a statement of its own: one long one would keep PostgreSQL from clearing the head's row,
which every commit updates. Nothing moves meanwhile: what stands at or below the head never changes.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import Connection

from domain.errors import Unavailable
from infra.conninfo import bounded

WINDOW = 5000
"""Positions of one statement; the rows of two windows are in memory at once."""

_COLUMNS = """
    select notification_id, originator_id::text, originator_version, topic,
           (extract(epoch from recorded_at) * 1000000)::bigint, state, metadata
      from stored_events
"""
_RANGE = _COLUMNS + " where notification_id > %(after)s and notification_id <= %(upto)s {topics} order by 1"
_STREAM = (
    _COLUMNS
    + " where originator_id = %(stream)s and notification_id > %(after)s and notification_id <= %(upto)s {topics}"
    + " order by originator_version limit %(limit)s"
)


class Row(NamedTuple):
    """One event as it is stored. `recorded_at` is in microseconds since 1970; `state` and `metadata` are JSON."""

    position: int
    stream: str
    version: int
    topic: str
    recorded_at: int
    state: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events: above `after` and at or below `upto`, of these topics (all if none), of one stream or of all.

    `personal` says whether fields that tell something about a person may be shown.
    """

    after: int
    upto: int
    topics: tuple[str, ...] = ()
    stream: UUID | None = None
    personal: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows (plain tuples, as `Row` names them), and the position through which everything was read."""

    rows: list[tuple[Any, ...]]
    position: int


def chunks(conninfo: str, selection: Selection) -> Iterator[Chunk]:
    """The selected rows in position order. The next chunk is fetched while the caller works on one.

    Raises Unavailable when PostgreSQL can't be read.
    """
    with _reading(conninfo) as connection, ThreadPoolExecutor(1, "read ahead") as ahead:
        following: Future[Chunk] | None = None
        position = selection.after
        while position < selection.upto:
            chunk = (following or ahead.submit(_chunk, connection, selection, position)).result()
            position = chunk.position
            following = ahead.submit(_chunk, connection, selection, position) if position < selection.upto else None
            yield chunk


@contextmanager
def _reading(conninfo: str) -> Iterator[Connection[Any]]:
    try:
        with psycopg.connect(bounded(conninfo), autocommit=True, application_name="muniment export") as connection:
            connection.execute("set default_transaction_read_only = on")
            yield connection
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"The log can't be read: {error}") from error


def _chunk(connection: Connection[Any], selection: Selection, after: int) -> Chunk:
    cursor = connection.cursor(binary=True)
    topics = "and topic = any(%(topics)s)" if selection.topics else ""
    parameters: dict[str, Any] = {"after": after, "topics": list(selection.topics)}
    if selection.stream is not None:
        parameters |= {"stream": selection.stream, "upto": selection.upto, "limit": WINDOW}
        rows = cursor.execute(_STREAM.format(topics=topics).encode(), parameters).fetchall()
        return Chunk(rows, rows[-1][0] if len(rows) == WINDOW else selection.upto)
    upto = min(after + WINDOW, selection.upto)
    rows = cursor.execute(_RANGE.format(topics=topics).encode(), parameters | {"upto": upto}).fetchall()
    return Chunk(rows, upto)
