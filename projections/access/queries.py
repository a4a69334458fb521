"""The roles, as the access view has them."""

from dataclasses import dataclass
from datetime import datetime

from domain.access import RoleNotFound
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
