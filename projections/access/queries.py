"""Lists from the access view: the roles, and who may do something."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from domain.access import Permission, RoleNotFound, Scope
from domain.errors import PositionUnknown, ProjectionBehind, invalid_field
from infra.moments import POSITION_AT, RECORDED_AT
from projections.access.reader import AsOf
from projections.read import Read


@dataclass(frozen=True, slots=True)
class RoleRow:
    """A role with what it holds and includes itself."""

    name: str
    permissions: list[str]
    includes: list[str]
    builtin: bool
    version: int
    defined_by: str
    defined_at: datetime


_ROLE = """
    select r.name, r.builtin, r.version, r.from_by as defined_by, r.from_at as defined_at,
           array(select p.pattern from {permissions} p where p.role = r.name and p.to_position is null
                  order by p.pattern) as permissions,
           array(select i.included from {includes} i where i.role = r.name and i.to_position is null
                  order by i.included) as includes
      from {roles} r
     where r.to_position is null
"""


def role_by_name(read: Read, name: str) -> RoleRow:
    """Raises RoleNotFound."""
    row = read.one(_ROLE + " and r.name = %(name)s", {"name": name})
    if row is None:
        raise RoleNotFound
    return RoleRow(**row)


def roles(read: Read, limit: int, after: tuple[str] | None = None) -> list[RoleRow]:
    """The roles by name."""
    rows = read.all(
        _ROLE + " and r.name > %(after)s order by r.name limit %(limit)s",
        {"after": after[0] if after else "", "limit": limit},
    )
    return [RoleRow(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class HolderRow:
    """A user who may, by these assignments."""

    user_id: UUID
    assignments: list[dict[str, Any]]


def _holders(*, as_of: bool) -> str:
    """Current or as of a position, as in `reader`."""

    def holds(row: str) -> str:
        if as_of:
            return f"{row}.from_position <= %(at)s and ({row}.to_position is null or {row}.to_position > %(at)s)"
        return f"{row}.to_position is null and {row}.from_position <= %(at)s"

    suspended = holds("s") if as_of else "(s.to_position is null or s.to_position > %(at)s)"
    return f"""
    with recursive granting (role) as (
        select p.role from {{permissions}} p where p.pattern = any(%(patterns)s) and {holds("p")}
        union
        select i.role from granting g join {{includes}} i on i.included = g.role where {holds("i")}
    )
    select a.user_id,
           jsonb_agg(jsonb_build_object('role', a.role, 'scope', a.scope, 'expires_at', a.expires_at)
                     order by a.scope, a.role) as assignments
      from granting g join {{assignments}} a on a.role = g.role
     where a.scope = any(%(scopes)s) and {holds("a")}
       and (a.expires_at is null or a.expires_at > %(moment)s)
       and not exists (select from {{suspensions}} s where s.user_id = a.user_id and {suspended})
       and (%(after)s::uuid is null or a.user_id > %(after)s)
     group by a.user_id order by a.user_id limit %(limit)s
    """


_HOLDERS = {as_of: _holders(as_of=as_of) for as_of in (False, True)}


def who(
    read: Read, permission: str, scope: str, limit: int, as_of: AsOf | None = None, after: tuple[UUID] | None = None
) -> list[HolderRow]:
    """Users who may do this there, by id. Raises Invalid, PositionUnknown, ProjectionBehind."""
    wanted = Permission(permission)
    position, moment = moment_of(read, as_of)
    rows = read.all(
        _HOLDERS[as_of is not None],
        {
            "patterns": [str(wanted), f"{wanted.partition(':')[0]}:*", "*"],
            "scopes": list(Scope(scope).up()),
            "at": position,
            "moment": moment,
            "after": after[0] if after else None,
            "limit": limit,
        },
    )
    return [HolderRow(**row) for row in rows]


def moment_of(read: Read, as_of: AsOf | None) -> tuple[int, datetime]:
    """Position and time that are asked for; now, if none is.

    Raises Invalid, PositionUnknown, ProjectionBehind where the view isn't there yet.
    """
    if as_of is None:
        return read.position, read.scalar("select clock_timestamp()")
    if isinstance(as_of, datetime):
        if read.scalar("select %(time)s > clock_timestamp()", {"time": as_of}):
            raise invalid_field("as_of", "this time hasn't come yet")
        position, moment = read.scalar(POSITION_AT, {"time": as_of}) or 0, as_of
    elif as_of <= 0:
        return 0, datetime.min.replace(tzinfo=UTC)
    else:
        position, moment = as_of, read.scalar(RECORDED_AT, {"position": as_of})
        if moment is None:
            raise PositionUnknown
    if position > read.position:
        raise ProjectionBehind
    return position, moment
