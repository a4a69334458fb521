"""Leases in PostgreSQL: what only one process may do at a time, by the database's clock.

A lease alone stops nobody who was frozen while it ran out. So each holder gets a fence, higher than any before it,
and whoever is written to on the holder's behalf keeps the highest fence it has seen and refuses lower ones.
"""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection

_ACQUIRE = """
    insert into leases as held (name, holder, fence, expires_at)
    select %(name)s, %(holder)s, 1, clock_timestamp() + %(seconds)s * interval '1 second'
     -- A standby that asks every second writes nothing.
     where not exists (
           select from leases
            where name = %(name)s and holder <> %(holder)s and expires_at > clock_timestamp()
              and expires_at <= clock_timestamp() + %(longest)s * interval '1 second')
    on conflict (name) do update
       set holder = excluded.holder, fence = held.fence + 1, expires_at = excluded.expires_at
     where held.expires_at <= clock_timestamp() or held.holder = excluded.holder
        or held.expires_at > clock_timestamp() + %(longest)s * interval '1 second'
    returning fence
"""
# A renewal that a crash of PostgreSQL takes back shortens the lease and harms nobody; a lost fence would.
_RENEW = """
    update leases set expires_at = clock_timestamp() + %(seconds)s * interval '1 second'
      from (select set_config('synchronous_commit', 'off', true)) cheap
     where name = %(name)s and fence = %(fence)s and expires_at > clock_timestamp()
    returning (select position from log_head)
"""
LONGEST = 10
"""A lease that seems to run for so many times as long as anybody asks for was written by a clock that went back since.

Its holder, if it still lives, has shortened it with its next renewal; a dead one's would bar everybody for hours.
"""

_RELEASE = "update leases set expires_at = clock_timestamp() where name = %(name)s and fence = %(fence)s"
_HELD = "select exists (select from leases where name = %(name)s and expires_at > clock_timestamp())"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was acquired: by whom, for how many seconds from each renewal, and with which fence."""

    name: str
    holder: str
    seconds: float
    fence: int


def acquire(connection: Connection[Any], name: str, holder: str, seconds: float) -> Lease | None:
    """The lease, if nobody else holds it; None otherwise. The connection must be in autocommit.

    A holder that has lost its connection gets its own lease back at once, with a new fence.
    """
    parameters = {"name": name, "holder": holder, "seconds": seconds, "longest": seconds * LONGEST}
    row = connection.execute(_ACQUIRE, parameters).fetchone()
    return Lease(name, holder, seconds, row[0]) if row else None


def renew(connection: Connection[Any], lease: Lease) -> int | None:
    """Holds on for the lease's seconds from now; the log's head by the way. None if the lease is lost."""
    parameters = {"name": lease.name, "fence": lease.fence, "seconds": lease.seconds}
    row = connection.execute(_RENEW, parameters).fetchone()
    return int(row[0]) if row else None


def release(connection: Connection[Any], lease: Lease) -> None:
    """Lets go at once, so that a standby needn't wait for the end. Does nothing if the lease is lost already."""
    connection.execute(_RELEASE, {"name": lease.name, "fence": lease.fence})


def held(connection: Connection[Any], name: str) -> bool:
    """Whether anybody holds this lease now."""
    row = connection.execute(_HELD, {"name": name}).fetchone()
    return bool(row and row[0])
