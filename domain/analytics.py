"""Who may read the log from SQL tools: decided by operators, and a fact like any other."""

from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.errors import NotFound


class AnalyticsReader(Aggregate):
    """One role of PostgreSQL's, and whether it may read the views of the log. Its id is derived from its name."""

    TOPIC = "analytics.Reader"
    NOT_FOUND = NotFound

    class Granted(First):
        """The role may read; with `personal`, fields that tell something about people, too."""

        TOPIC = "analytics.AccessGranted"
        role: str
        personal: bool

    class Changed(Aggregate.Event):
        """The role may read from now on, or with or without personal fields."""

        TOPIC = "analytics.AccessChanged"
        role: str
        personal: bool

    class Revoked(Aggregate.Event):
        """The role may read nothing any more."""

        TOPIC = "analytics.AccessRevoked"
        role: str

    @event(Granted)
    def __init__(self, role: str, personal: bool) -> None:
        self.role = role
        self.personal: bool | None = personal

    @staticmethod
    def create_id(role: str, **_: object) -> UUID:
        """A role is one stream."""
        return derived_id("analytics-reader", role)

    def grant(self, personal: bool) -> None:
        """Granting the same twice records nothing."""
        if self.personal is not personal:
            self._change(self.role, personal)

    def revoke(self) -> None:
        """Revoking twice records nothing."""
        if self.personal is not None:
            self._revoke(self.role)

    @event(Changed)
    def _change(self, role: str, personal: bool) -> None:
        self.personal = personal

    @event(Revoked)
    def _revoke(self, role: str) -> None:
        self.personal = None
