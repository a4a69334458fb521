"""Which process runs which configuration, and what it refuses: as each says itself, by PostgreSQL's clock.

The platform's own processes hold every namespace of the platform in one snapshot: one row each, under `OWN`. An
instance of a customer's service has a row for each namespace that it watches. A row that hasn't been renewed for
`lease_seconds` is that of a process that is gone. No clock but the database's is ever asked: a process whose own is
wrong is seen as alive as any.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from domain.errors import FieldError

CHANNEL = "muniment_instances"
"""Tells the namespace (`OWN` for the platform's) about which an instance has given another answer than before."""

OWN = "*"
"""What stands for all namespaces of the platform itself. No namespace can be named so."""

LEASE_SECONDS = 30.0
"""Who has said nothing for so long is gone, unless the setting says otherwise."""

ERRORS_LIMIT = 50
"""So many errors of a refusal are kept."""
MESSAGE_CHARS = 500
FIELD_CHARS = 300

INSTANCES_LIMIT = 10_000
"""Instances of customers' services that one namespace may have."""

FORGOTTEN_SECONDS = 3_600
"""Rows of those that are gone are removed after so long, when somebody else begins."""
AHEAD_SECONDS = 5.0
"""A row from further in the future was written before the clock went back. Who lives has written it anew at once."""


class State(StrEnum):
    """What an instance says to a version."""

    APPLIED = "applied"
    REFUSED = "refused"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Presence:
    """Who speaks: `id` is unique to this start of this process, `part` is `api`, `worker`, ..."""

    id: str
    part: str
    host: str
    pid: int
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A version of a namespace that an instance won't run with, and every field that is why."""

    version: int
    errors: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """All that an instance has to say at a moment.

    `running` is the version of each namespace that it runs with (0: only what is written in code and environment),
    `refused` the namespaces of which it won't run the newest that it has seen, `position` the log position of the
    newest configuration event in what it runs with.
    """

    running: Mapping[str, int]
    refused: Mapping[str, Refused] = field(default_factory=dict)
    position: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance that lives, with regard to one namespace. `version` is what it runs with."""

    id: str
    part: str
    host: str
    pid: int
    version: int
    refused: Refused | None
    started_at: datetime
    answered_at: datetime
    seen_at: datetime
    age_seconds: float
    """How long ago it was last heard of."""

    def state(self, version: int) -> State:
        """What it says to this version of the namespace: a later one answers for it, too."""
        if self.version >= version:
            return State.APPLIED
        if self.refused is not None and self.refused.version >= version:
            return State.REFUSED
        return State.PENDING


_TELL = """
    with cheap as (
        -- a crash of PostgreSQL that takes this back is made good by the next beat
        select set_config('synchronous_commit', 'off', true)
    ), before as (
        select running, refused from configuration_instances where namespace = %(namespace)s and id = %(id)s
    ), swept as (
        delete from configuration_instances
         where not exists (select from before) and seen_at < clock_timestamp() - make_interval(secs => %(forgotten)s)
    ), told as (
        insert into configuration_instances as i (namespace, id, part, host, pid, actor, position, running, refused)
        select %(namespace)s, %(id)s, %(part)s, %(host)s, %(pid)s, %(actor)s, %(position)s, %(running)s, %(refused)s
          from cheap
            on conflict (namespace, id) do update
           set position = excluded.position, running = excluded.running, refused = excluded.refused,
               part = excluded.part, host = excluded.host, pid = excluded.pid, actor = excluded.actor,
               seen_at = clock_timestamp(),
               answered_at = case when (i.running, i.refused) = (excluded.running, excluded.refused)
                                  then i.answered_at else clock_timestamp() end,
               started_at = case when i.seen_at > clock_timestamp() - make_interval(secs => %(lease)s)
                                 then i.started_at else clock_timestamp() end
         where i.actor = excluded.actor or i.seen_at < clock_timestamp() - make_interval(secs => %(lease)s)
        returning running, refused
    )
    select case when (told.running, told.refused) is distinct from (before.running, before.refused)
                then pg_notify(%(channel)s, %(namespace)s) end
      from told left join before on true
"""
_LEAVE = """
    with gone as (
        delete from configuration_instances
         where namespace = %(namespace)s and id = %(id)s and actor = %(actor)s returning namespace
    )
    select pg_notify(%(channel)s, namespace) from gone
"""

ALIVE = f"""
    i.seen_at > clock_timestamp() - make_interval(secs => %(lease)s)
    and i.seen_at < clock_timestamp() + interval '{AHEAD_SECONDS} seconds'
"""
LOOK = f"""
    select i.id, i.part, i.host, i.pid, (i.running ->> %(namespace)s)::int as version,
           i.refused -> %(namespace)s as refused, i.started_at, i.answered_at, i.seen_at,
           greatest(0, extract(epoch from clock_timestamp() - i.seen_at))::float8 as age_seconds
      from configuration_instances i
     where i.namespace in ('{OWN}', %(namespace)s) and i.running ? %(namespace)s and {ALIVE}
"""
_ALL = f"{LOOK} order by i.part, i.id"
_HELD = f"""
    select exists (select from configuration_instances i
                    where i.namespace = '{OWN}' and i.running ? %(namespace)s and {ALIVE})
"""
_ROOM = """
    with room as (
        select case when exists (select from configuration_instances where namespace = %(namespace)s and id = %(id)s)
                    then false
                    else (select count(*) from configuration_instances where namespace = %(namespace)s) >= %(limit)s
               end as is_full
    ), gone as (
        delete from configuration_instances
         where namespace = %(namespace)s and (select is_full from room)
           and seen_at < clock_timestamp() - make_interval(secs => %(lease)s)
        returning id
    )
    select not is_full or exists (select from gone) from room
"""


def tell(
    connection: Connection[Any],
    presence: Presence,
    acknowledgement: Acknowledgement,
    *,
    namespace: str = OWN,
    lease_seconds: float = LEASE_SECONDS,
) -> bool:
    """Records what an instance has to say, and that it lives; who waits for it hears of it if it is something new.

    False, and nothing is recorded: somebody else, who lives, is called so. The connection must be in autocommit.
    """
    told = connection.execute(
        _TELL,
        {
            "namespace": namespace,
            "id": presence.id,
            "part": presence.part,
            "host": presence.host,
            "pid": presence.pid,
            "actor": presence.actor,
            "position": acknowledgement.position,
            "running": Jsonb(dict(acknowledgement.running)),
            "refused": Jsonb({name: _stored(each) for name, each in acknowledgement.refused.items()}),
            "lease": lease_seconds,
            "forgotten": max(FORGOTTEN_SECONDS, lease_seconds),
            "channel": CHANNEL,
        },
    )
    return told.fetchone() is not None


def leave(connection: Connection[Any], presence: Presence, namespace: str = OWN) -> bool:
    """An instance ends in good order: nobody waits for it any more. False: there was none of that name and actor."""
    who = {"namespace": namespace, "id": presence.id, "actor": presence.actor, "channel": CHANNEL}
    return connection.execute(_LEAVE, who).fetchone() is not None


def running(connection: Connection[Any], presence: Presence, namespace: str) -> int:
    """The version of the namespace with which this instance said that it runs; 0 if it has said nothing."""
    row = connection.execute(
        "select (running ->> %(namespace)s)::int from configuration_instances"
        " where namespace = %(namespace)s and id = %(id)s and actor = %(actor)s",
        {"namespace": namespace, "id": presence.id, "actor": presence.actor},
    ).fetchone()
    return int(row[0]) if row else 0


def has_room(connection: Connection[Any], namespace: str, instance: str, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Whether an instance of this id may speak for the namespace, or there are as many as may be.

    Where there are, those that are gone make room at once: a service that starts again and again isn't kept out.
    """
    who = {"namespace": namespace, "id": instance, "limit": INSTANCES_LIMIT, "lease": lease_seconds}
    row = connection.execute(_ROOM, who).fetchone()
    return bool(row and row[0])


def holds(connection: Connection[Any], namespace: str, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Whether a process of the platform that lives has a namespace of this name: one of its modules may."""
    asked = {"namespace": namespace, "lease": lease_seconds}
    row = connection.execute(_HELD, asked).fetchone()
    return bool(row and row[0])


def instances(connection: Connection[Any], namespace: str, lease_seconds: float = LEASE_SECONDS) -> list[Instance]:
    """Every instance that lives and holds this namespace, by part and id."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_ALL, {"namespace": namespace, "lease": lease_seconds}).fetchall()
    return [as_instance(row) for row in rows]


def as_instance(row: Mapping[str, Any]) -> Instance:
    """A row of `LOOK`."""
    refused = row["refused"]
    return Instance(**{**row, "refused": None if refused is None else _refused(refused)})


def _stored(refused: Refused) -> dict[str, Any]:
    return {"version": refused.version, "errors": [vars_of(each) for each in kept(refused.errors)]}


def _refused(stored: Mapping[str, Any]) -> Refused:
    return Refused(stored["version"], tuple(FieldError(each["field"], each["message"]) for each in stored["errors"]))


def vars_of(error: FieldError) -> dict[str, str]:
    """A field's error as JSON has it, and as PostgreSQL can store it."""
    return {"field": _fit(error.field[:FIELD_CHARS]), "message": _fit(error.message[:MESSAGE_CHARS])}


def _fit(text: str) -> str:
    """NUL as the sign for it; half of a surrogate pair as a question mark."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()


def kept(errors: Sequence[FieldError]) -> Iterable[FieldError]:
    """As many as are kept; the last says how many aren't."""
    if len(errors) <= ERRORS_LIMIT:
        return errors
    more = len(errors) - ERRORS_LIMIT + 1
    return [*errors[: ERRORS_LIMIT - 1], FieldError("", f"and {more} more")]
