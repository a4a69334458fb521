"""How many instances run, refuse or haven't taken up the newest version of each namespace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from infra.configuration.instances import ALIVE, LEASE_SECONDS, OWN, State

_STANDING = f"""
    with said as (
        select h.namespace, h.version, h.schema is not null as declared, h.position,
               case when (i.running ->> h.namespace)::int >= h.version then 'applied'
                    when (i.refused -> h.namespace ->> 'version')::int >= h.version then 'refused'
                    else 'pending' end as state
          from configuration_heads h
          join configuration_instances i on i.namespace in ('{OWN}', h.namespace) and i.running ? h.namespace
         where {ALIVE}
    )
    select s.namespace, s.version, s.declared, s.state, s.count,
           coalesce(greatest(0, extract(epoch from clock_timestamp() - e.recorded_at)), 0)::float8 as seconds
      from (select namespace, version, declared, position, state, count(*) from said group by 1, 2, 3, 4, 5) s
      left join stored_events e on e.notification_id = s.position
     order by s.namespace, s.state
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """So many live instances say this to the newest version of a namespace, which was stored `seconds` ago.

    `declared`: the namespace is one of the customers' own.
    """

    namespace: str
    version: int
    declared: bool
    state: State
    count: int
    seconds: float


def standing(connection: Connection[Any], lease_seconds: float = LEASE_SECONDS) -> Sequence[Standing]:
    """Of every namespace that was ever changed, by name and state; states that nobody is in are left out."""
    with connection.cursor(row_factory=class_row(Standing)) as cursor:
        return cursor.execute(_STANDING, {"lease": lease_seconds}).fetchall()
