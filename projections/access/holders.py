"""Who may do something: from the view, and from the event store for whom the view can't be trusted with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any
from uuid import UUID

from domain.access import Permission, Role, RoleContent, Scope, UserAssignments, active, covering, granting
from domain.errors import ProjectionBehind, Unavailable
from domain.identity import User
from infra.event_store import Log
from infra.moments import AsOf
from projections.access.facts import UserFacts, fold_role, fold_user
from projections.access.reader import PARKED_LIMIT
from projections.access.view import ACCESS
from projections.errors import whole
from projections.facts import Unreadable, read_streams
from projections.read import Read


@dataclass(frozen=True, slots=True)
class Given:
    """An assignment by which somebody may."""

    role: str
    scope: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class HolderRow:
    """A user who may, by these assignments."""

    user_id: UUID
    assignments: list[Given]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Users and roles that have parked events: what the view says about them may be old.

    The roles with what they hold in truth; None for one that doesn't exist.
    """

    users: frozenset[UUID] = frozenset()
    roles: Mapping[str, RoleContent | None] = field(default_factory=dict)


def who(
    read: Read,
    log: Log,
    permission: str,
    scope: str,
    limit: int,
    as_of: AsOf | None = None,
    after: tuple[UUID] | None = None,
) -> list[HolderRow]:
    """Users who may do this there, by id, at the position of the view or at the one that is asked for.

    Raises Invalid, PositionUnknown, ProjectionBehind, and Unavailable where too much is parked, or can't be read.
    """
    wanted, place = Permission(permission), Scope(scope)
    position, moment = moment_of(read, log, as_of)
    last = after[0] if after else None
    with whole():
        doubt = _doubt(read, log, position)
        asked = {
            "patterns": list(covering(wanted)),
            "scopes": list(place.up()),
            "at": position,
            "moment": moment,
            "after": last,
            "limit": limit,
            **_instead(doubt, covering(wanted)),
        }
        rows = [_row(row) for row in read.all(_HOLDERS[as_of is not None, bool(doubt.roles)], asked)]
        doubted = sorted(user for user in doubt.users if last is None or user > last)
        if len(rows) == limit:
            doubted = list(takewhile(lambda user: user < rows[-1].user_id, doubted))
        folded = (_holder(fold_user(log, user, position, moment), wanted, place) for user in doubted)
        return sorted([*rows, *(row for row in folded if row)], key=lambda row: row.user_id)[:limit]


def moment_of(read: Read, log: Log, as_of: AsOf | None) -> tuple[int, datetime]:
    """Position and time that are asked for; now, if none is.

    Raises Invalid, PositionUnknown, ProjectionBehind where the view isn't there yet.
    """
    if as_of is None:
        return read.position, read.scalar("select clock_timestamp()")
    position, moment = log.moment(as_of)
    if position > read.position:
        raise ProjectionBehind
    return position, moment


def _doubt(read: Read, log: Log, position: int) -> Doubt:
    """Whoever has parked events in the build that is read."""
    build = read.build(ACCESS.name)
    rows = read.all(
        "select distinct stream from projection_parked where projection = %s and version = %s and build = %s limit %s",
        (ACCESS.name, ACCESS.version, build.number, PARKED_LIMIT + 1),
    )
    if len(rows) > PARKED_LIMIT:
        raise Unavailable(f"More than {PARKED_LIMIT} streams of the view {ACCESS.name} are parked: see to those first.")
    return _named(log, [row["stream"] for row in rows], position) if rows else Doubt()


def _named(log: Log, streams: Iterable[UUID], position: int) -> Doubt:
    users, names = set(), set()
    for fact in read_streams(log, list(streams), position):
        if isinstance(fact, Unreadable):
            raise fact.failure()
        match fact.event:
            case UserAssignments.Opened(user_id=user_id):
                users.add(user_id)
            case User.Registered():
                users.add(fact.stream)
            case Role.Defined(name=name):
                names.add(name)
    roles = {name: fold_role(log.read_stream(Role.create_id(name), 0, position)) for name in names}
    return Doubt(frozenset(users), roles)


def _instead(doubt: Doubt, patterns: Iterable[str]) -> dict[str, Any]:
    """What takes the place of the view's rows: users who are left out, and roles with what they hold in truth."""
    known = {name: content for name, content in doubt.roles.items() if content}
    edges = [(name, included) for name, content in known.items() for included in content.includes]
    return {
        "doubted_users": list(doubt.users),
        "doubted_roles": list(doubt.roles),
        "granting": [name for name, content in known.items() if not content.permissions.keys().isdisjoint(patterns)],
        "outer": [outer for outer, _ in edges],
        "inner": [inner for _, inner in edges],
    }


def _holder(facts: UserFacts, permission: str, scope: str) -> HolderRow | None:
    if facts.suspended:
        return None
    grants = granting(active(facts.assignments, facts.moment), facts.roles, covering(permission))
    given = {Given(grant.path[0], grant.scope, grant.expires_at) for grant in grants if grant.counts_at(scope)}
    return HolderRow(facts.user_id, sorted(given, key=lambda each: (each.scope, each.role))) if given else None


def _row(row: Mapping[str, Any]) -> HolderRow:
    given = [
        Given(role, scope, datetime.fromisoformat(until).astimezone(UTC) if until else None)
        for role, scope, until in row["assignments"]
    ]
    return HolderRow(row["user_id"], sorted(given, key=lambda each: (each.scope, each.role)))


def _statement(*, as_of: bool, patched: bool) -> str:
    """Current or as of a position, as in `reader`; `patched`: some roles are what the parameters say."""

    def holds(row: str) -> str:
        if as_of:
            return f"{row}.from_position <= %(at)s and ({row}.to_position is null or {row}.to_position > %(at)s)"
        return f"{row}.to_position is null and {row}.from_position <= %(at)s"

    suspended = holds("s") if as_of else "(s.to_position is null or s.to_position > %(at)s)"
    granting_roles = f"select p.role from {{permissions}} p where p.pattern = any(%(patterns)s) and {holds('p')}"
    edges = "{includes}"
    if patched:
        granting_roles += " and p.role <> all(%(doubted_roles)s) union select unnest(%(granting)s::text[])"
        edges = f"""(
            select i.role, i.included, 0 as from_position, null::bigint as to_position from {{includes}} i
             where {holds("i")} and i.role <> all(%(doubted_roles)s)
            union all
            select outer_role, inner_role, 0, null from unnest(%(outer)s::text[], %(inner)s::text[])
                as instead (outer_role, inner_role)
        )"""
    return f"""
    with recursive granting (role) as (
        ({granting_roles})
        union
        select i.role from granting g join {edges} i on i.included = g.role where {holds("i")}
    )
    select a.user_id, jsonb_agg(jsonb_build_array(a.role, a.scope, a.expires_at)) as assignments
      from granting g join {{assignments}} a on a.role = g.role
     where a.scope = any(%(scopes)s) and {holds("a")}
       and (a.expires_at is null or a.expires_at > %(moment)s)
       and a.user_id <> all(%(doubted_users)s::uuid[])
       and not exists (select from {{suspensions}} s where s.user_id = a.user_id and {suspended})
       and (%(after)s::uuid is null or a.user_id > %(after)s)
     group by a.user_id order by a.user_id limit %(limit)s
    """


_HOLDERS = {
    (as_of, patched): _statement(as_of=as_of, patched=patched) for as_of in (False, True) for patched in (False, True)
}
