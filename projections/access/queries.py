"""The roles: as the access view has them, and as they once were."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.access import Role, RoleNotFound
from infra.event_store import Log, Recorded
from projections.access.facts import fold_role
from projections.errors import whole
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


def role_at(log: Log, name: str, position: int) -> RoleRow:
    """A role as it was at a position, folded from the event store. Raises RoleNotFound, Unavailable."""
    with whole():
        events = log.read_stream(Role.create_id(name), 0, position)
        content = fold_role(events)
        if content is None:
            raise _not_then(log, name, events, position)
    first, last = events[0], events[-1]
    return RoleRow(
        name=name,
        permissions=sorted(content.permissions),
        includes=sorted(content.includes),
        builtin=bool(vars(first.event)["builtin"]),
        version=last.version,
        defined_by=first.metadata.actor,
        defined_at=first.recorded_at,
    )


def _not_then(log: Log, name: str, events: Sequence[Recorded], position: int) -> RoleNotFound:
    if events:
        return RoleNotFound(
            f"At position {position} there was no role {name}: it was removed at {events[-1].position}."
        )
    later = log.read_stream(Role.create_id(name), 0, limit=1)
    if later:
        return RoleNotFound(
            f"At position {position} there was no role {name}: it was defined later, at {later[0].position}."
        )
    return RoleNotFound()


def roles(read: Read, limit: int, after: tuple[str] | None = None) -> list[RoleRow]:
    """The roles by name."""
    rows = read.all(
        _ROLE + " and r.name > %(after)s order by r.name limit %(limit)s",
        {"after": after[0] if after else "", "limit": limit},
    )
    return [RoleRow(**row) for row in rows]
