"""The access view: who was given what, when and by whom, as rows with validity intervals.

A row holds from `from_position` on and, where `to_position` is set, no longer at that. So what is current, what was at
some position, and who did it are all plain SQL. Roles that include roles are resolved when queried.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Cursor

from domain.access import Role, UserAssignments
from domain.identity import User
from infra.event_store import Recorded
from infra.versions import move_graph
from projections.projection import EVERYTHING, Owner, Projection

_INTERVAL = """
    from_position bigint not null, from_at timestamptz not null, from_by text not null,
    to_position bigint, to_at timestamptz, to_by text
"""
_FROM = "%(position)s, %(recorded_at)s, %(actor)s"
_END = "set to_position = %(position)s, to_at = %(recorded_at)s, to_by = %(actor)s"


def _set(table: str, column: str, field: str) -> list[str]:
    """What brings the rows of a role to the event's whole new set: ends those that left, adds those that came."""
    return [
        f"update {{{table}}} {_END} where role = %(name)s and to_position is null and {column} <> all(%({field})s)",
        (
            f"insert into {{{table}}} (role, {column}, from_position, from_at, from_by)"
            f" select %(name)s, each, {_FROM} from unnest(%({field})s::text[]) each where not exists"
            f" (select from {{{table}}} where role = %(name)s and to_position is null and {column} = each)"
        ),
    ]


def _notice(cursor: Cursor[Any], batch: Sequence[Recorded]) -> Mapping[str, Any] | None:
    """A changed role changes what many users may do, so one number moves, with the view, for all of them."""
    changed = [each.position for each in batch if isinstance(each.event, _ROLE_EVENTS)]
    if changed:
        move_graph(cursor, max(changed))
    return None


_ROLE_EVENTS = (Role.Defined, Role.PermissionsChanged, Role.IncludesChanged, Role.Removed)
_TOUCH = "update {roles} set version = %(version)s where name = %(name)s"
_END_ASSIGNMENT = (
    f"update {{assignments}} {_END}"
    " where user_id = %(user_id)s and role = %(role)s and scope = %(scope)s and to_position is null"
)

ACCESS = Projection(
    name="access",
    version=1,
    tables=f"""
        roles (
            name text primary key, builtin boolean not null, version bigint not null, {_INTERVAL}
        );
        permissions (
            role text, pattern text, {_INTERVAL}, primary key (role, pattern, from_position)
        );
        includes (
            role text, included text, {_INTERVAL}, primary key (role, included, from_position)
        );
        assignments (
            user_id uuid, role text, scope text, expires_at timestamptz, {_INTERVAL},
            primary key (user_id, role, scope, from_position)
        );
        suspensions (
            user_id uuid, {_INTERVAL}, primary key (user_id, from_position)
        );
        index on assignments (user_id) include (role, scope, expires_at, from_position)
            where to_position is null;
        index on assignments (role, scope, user_id);
        index on permissions (pattern, role);
        index on includes (included, role)
    """,
    on={
        Role.Defined: [
            (
                "insert into {roles} (name, builtin, version, from_position, from_at, from_by)"
                f" values (%(name)s, %(builtin)s, %(version)s, {_FROM})"
            ),
            *_set("permissions", "pattern", "permissions"),
            *_set("includes", "included", "includes"),
        ],
        Role.PermissionsChanged: [*_set("permissions", "pattern", "permissions"), _TOUCH],
        Role.IncludesChanged: [*_set("includes", "included", "includes"), _TOUCH],
        Role.Removed: [
            f"update {{permissions}} {_END} where role = %(name)s and to_position is null",
            f"update {{includes}} {_END} where role = %(name)s and to_position is null",
            f"update {{roles}} {_END}, version = %(version)s where name = %(name)s and to_position is null",
        ],
        UserAssignments.RoleAssigned: [
            _END_ASSIGNMENT,
            (
                "insert into {assignments} (user_id, role, scope, expires_at, from_position, from_at, from_by)"
                f" values (%(user_id)s, %(role)s, %(scope)s, %(expires_at)s, {_FROM})"
            ),
        ],
        UserAssignments.RoleRevoked: _END_ASSIGNMENT,
        User.Suspended: "insert into {suspensions} (user_id, from_position, from_at, from_by)"
        f" values (%(stream)s, {_FROM})",
        User.Reactivated: f"update {{suspensions}} {_END} where user_id = %(stream)s and to_position is null",
    },
    invalidates={
        **dict.fromkeys(_ROLE_EVENTS, EVERYTHING),
        UserAssignments.RoleAssigned: "user_id",
        UserAssignments.RoleRevoked: "user_id",
        User.Suspended: "stream",
        User.Reactivated: "stream",
    },
    notice=_notice,
    owners={
        "roles": Owner("name", "name", Role.create_id),
        "permissions": Owner("role", "name", Role.create_id),
        "includes": Owner("role", "name", Role.create_id),
        "assignments": Owner("user_id", "user_id", UserAssignments.create_id),
        "suspensions": "user_id",
    },
)
