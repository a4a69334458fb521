"""Which roles a user has been given, where, and until when."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.errors import Invalid, NotFound, invalid_field

MAX_ASSIGNMENTS = 1000
"""Assignments of one user, those that have expired counted until they are revoked."""


class NotAssigned(NotFound):
    """The user doesn't have this role at this scope."""

    code = "role-not-assigned"


class TooManyAssignments(Invalid):
    """The user has too many assignments; revoke some first."""

    code = "too-many-assignments"


class ExpiryInThePast(Invalid):
    """An assignment must expire in the future."""

    code = "expiry-in-the-past"


@dataclass(frozen=True, slots=True)
class Place:
    """A role at a scope: what an assignment is known by."""

    role: str
    scope: str


class UserAssignments(Aggregate):
    """All roles of one user."""

    TOPIC = "access.UserAssignments"

    class Opened(First):
        TOPIC = "access.AssignmentsOpened"
        user_id: UUID

    class RoleAssigned(Aggregate.Event):
        TOPIC = "access.RoleAssigned"
        user_id: UUID
        role: str
        scope: str
        expires_at: datetime | None

    class RoleRevoked(Aggregate.Event):
        TOPIC = "access.RoleRevoked"
        user_id: UUID
        role: str
        scope: str

    @staticmethod
    def create_id(user_id: UUID) -> UUID:
        """Derived from the user's id, so that a user has one."""
        return derived_id("assignments", str(user_id))

    @event(Opened)
    def __init__(self, user_id: UUID) -> None:
        self.user_id = user_id
        self.assigned: dict[Place, datetime | None] = {}

    def assign(self, role: str, scope: str, expires_at: datetime | None, now: datetime) -> None:
        """Gives the role at the scope, until `expires_at` where that is given. Once more records nothing, unless the
        expiry differs. Raises ExpiryInThePast, TooManyAssignments, Invalid for a time that has no year in UTC.
        """
        expires_at = _in_utc(expires_at)
        if expires_at is not None and expires_at <= now:
            raise ExpiryInThePast
        place = Place(str(role), str(scope))
        if place in self.assigned and self.assigned[place] == expires_at:
            return
        if place not in self.assigned and len(self.assigned) >= MAX_ASSIGNMENTS:
            raise TooManyAssignments
        self._assign(user_id=self.user_id, role=place.role, scope=place.scope, expires_at=expires_at)

    def revoke(self, role: str, scope: str) -> None:
        """Takes the role at exactly this scope away. Raises NotAssigned."""
        place = Place(str(role), str(scope))
        if place not in self.assigned:
            raise NotAssigned
        self._revoke(user_id=self.user_id, role=place.role, scope=place.scope)

    @event(RoleAssigned)
    def _assign(self, user_id: UUID, role: str, scope: str, expires_at: datetime | None) -> None:
        self.assigned[Place(role, scope)] = expires_at

    @event(RoleRevoked)
    def _revoke(self, user_id: UUID, role: str, scope: str) -> None:
        self.assigned.pop(Place(role, scope), None)


def _in_utc(time: datetime | None) -> datetime | None:
    """The same moment. One that only exists with its offset (`9999-12-31T23:59-01:00`) couldn't be read back."""
    try:
        return time and time.astimezone(UTC)
    except OverflowError:
        raise invalid_field("expires_at", "is beyond the year 9999 in UTC") from None
