"""What is remembered of verifications: the newest look at each build, where the standing one goes on, what differs.

Observations, which prove nothing and can be lost; that something differs is put on record when it is first seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from projections.engine import Build
from projections.verification.findings import Findings

Report = Callable[[Findings, Sequence[UUID]], object]
"""Puts on record that these streams, which nobody knew of, differ."""

_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s"
_KNOWN = f"select stream from projection_differences where {_BUILD} and stream = any(%(streams)s)"
_FOUND = f"""
    insert into projection_differences as known (projection, version, build, stream, position, rows)
    select %(projection)s, %(version)s, %(build)s, stream, %(position)s, rows
      from unnest(%(streams)s::uuid[], %(rows)s::bigint[]) as found (stream, rows)
     where exists (select from projection_builds where {_BUILD})
        on conflict (projection, version, build, stream)
        do update set position = excluded.position, rows = excluded.rows
"""
_HEALED = f"delete from projection_differences where {_BUILD} and stream = any(%(streams)s)"
_VERIFIED = f"""
    insert into projection_verifications as last
           (projection, version, build, sample, position, streams, differing, parked, streams_total, differences_total)
    select %(projection)s, %(version)s, %(build)s, %(sample)s, %(position)s, %(streams)s, %(differing)s, %(parked)s,
           %(streams)s, %(rows)s
     where exists (select from projection_builds where {_BUILD})
        on conflict (projection, version, build) do update
       set verified_at = clock_timestamp(), sample = excluded.sample, position = excluded.position,
           streams = excluded.streams, differing = excluded.differing, parked = excluded.parked,
           streams_total = last.streams_total + excluded.streams_total,
           differences_total = last.differences_total + excluded.differences_total
"""
_CURSOR = f"select cursors from projection_verifications where {_BUILD}"
_GOES_ON = f"""
    update projection_verifications
       set cursors = %(cursors)s, rounds_total = rounds_total + %(ended)s where {_BUILD}
"""
_TOTALS = """
    select v.projection, v.version, v.streams_total, v.differences_total, v.rounds_total, v.verified_at,
           (select count(*) from projection_differences d
             where (d.projection, d.version, d.build) = (v.projection, v.version, v.build)) as open
      from projection_verifications v join projection_builds b using (projection, version, build)
     where b.active
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """What the verifications of an active build have come to. `open` streams differed when they were last looked at."""

    projection: str
    version: int
    streams_total: int
    differences_total: int
    rounds_total: int
    verified_at: datetime
    open: int


class Journal:
    """Writes down what a verification finds. The connection must be in autocommit."""

    def __init__(self, connection: Connection[Any], build: Build, report: Report) -> None:
        self._connection = connection
        self._build = build
        self._report = report

    def note(self, found: Findings) -> None:
        """One look. What is found for the first time is put on record before anything else."""
        differing = list(found.differing)
        if new := sorted(set(differing) - self._known(differing)):
            self._report(found, new)
        values = self._build.key | {"position": found.position}
        if differing:
            rows = [found.differing[stream] for stream in differing]
            self._connection.execute(_FOUND, values | {"streams": differing, "rows": rows})
        # A parked stream wasn't compared: what was known of it stays known.
        if healed := set(found.looked_at) - set(differing) - set(found.parked):
            self._connection.execute(_HEALED, values | {"streams": list(healed)})

    def close(self, total: Findings, sample: str) -> None:
        """A whole verification, and of what it was one (`all`, `1 %`, `stream ...`)."""
        values = {
            "sample": sample,
            "position": total.position,
            "streams": total.streams,
            "differing": total.differing_streams,
            "parked": total.parked_streams,
            "rows": total.differing_rows,
        }
        self._connection.execute(_VERIFIED, self._build.key | values)

    def _known(self, streams: Sequence[UUID]) -> set[UUID]:
        if not streams:
            return set()
        rows = self._connection.execute(_KNOWN, self._build.key | {"streams": list(streams)}).fetchall()
        return {stream for (stream,) in rows}


def cursor_of(connection: Connection[Any], build: Build) -> Mapping[str, Any]:
    """Where the standing verification of a build goes on; empty at a beginning."""
    row = connection.execute(_CURSOR, build.key).fetchone()
    return row[0] if row else {}


def set_cursor(connection: Connection[Any], build: Build, cursor: Mapping[str, Any]) -> None:
    """Where it goes on next time; empty where it has been through."""
    values = {"cursors": Jsonb(dict(cursor)), "ended": int(not cursor)}
    connection.execute(_GOES_ON, build.key | values)


def totals(connection: Connection[Any]) -> list[Totals]:
    """Of every active build that was ever looked at."""
    with connection.cursor(row_factory=class_row(Totals)) as cursor:
        return cursor.execute(_TOTALS).fetchall()
