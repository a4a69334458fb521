"""Failed logins, and the pause that grows with them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First
from domain.errors import NotFound, Throttled

FREE_FAILURES = 5
FIRST_PAUSE_SECONDS = 30
LONGEST_PAUSE_SECONDS = 3600
FORGOTTEN_AFTER = timedelta(days=1)


class TooManyAttempts(Throttled):
    """Too many failed logins; wait before the next one."""

    code = "too-many-attempts"


@dataclass(frozen=True, slots=True)
class Lockout:
    """How long a network waits at an address after `failures` in a row: `first_seconds`, then ever twice as long."""

    failures: int = FREE_FAILURES
    first_seconds: int = FIRST_PAUSE_SECONDS
    longest_seconds: int = LONGEST_PAUSE_SECONDS

    def pause_seconds(self, failures: int) -> int:
        """After so many failures in a row; 0: it needn't wait."""
        if failures < self.failures:
            return 0
        return min(self.longest_seconds, self.first_seconds * (1 << min(failures - self.failures, 20)))


USUAL = Lockout()


def pause_seconds(failures: int) -> int:
    """Of the usual lockout: nothing up to 4 failures, then 30 s up to 1 h."""
    return USUAL.pause_seconds(failures)


class LoginAttempts(Aggregate):
    """Failed logins at one e-mail address from one network, whether or not the address belongs to anybody.

    Its id is derived from the address's claim and the network, so that a stranger's failures make the stranger wait
    and not the owner. Nobody can fill the log through it: during a pause nothing is recorded.
    """

    TOPIC = "identity.LoginAttempts"

    class NOT_FOUND(NotFound):  # noqa: N801
        """No login has failed here."""

    class Started(First):
        TOPIC = "identity.LoginAttemptsStarted"

    class Failed(Aggregate.Event):
        TOPIC = "identity.LoginFailed"
        reason: str
        failures: int
        pause_seconds: int
        user_id: UUID | None

        def apply(self, aggregate: "LoginAttempts") -> None:
            aggregate.failures = self.failures
            aggregate.paused_until = self.timestamp + timedelta(seconds=self.pause_seconds)
            aggregate.failed_on = self.timestamp

    class Cleared(Aggregate.Event):
        TOPIC = "identity.LoginAttemptsCleared"

    @event(Started)
    def __init__(self, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.failures = 0
        self.paused_until: datetime | None = None
        self.failed_on: datetime | None = None

    def remaining_pause_seconds(self, now: datetime) -> int:
        """Whole seconds until the next try is allowed; 0 if it is."""
        if self.paused_until is None or now >= self.paused_until:
            return 0
        return int((self.paused_until - now).total_seconds()) + 1

    def fail(self, reason: str, user_id: UUID | None, now: datetime, lockout: Lockout = USUAL) -> None:
        """One more failure. Those of yesterday are forgotten. The pause is recorded: it stays as it was decided."""
        recent = self.failed_on is not None and now - self.failed_on < FORGOTTEN_AFTER
        failures = (self.failures if recent else 0) + 1
        self.trigger_event(
            self.Failed,
            reason=reason,
            failures=failures,
            pause_seconds=lockout.pause_seconds(failures),
            user_id=user_id,
        )

    def clear(self) -> None:
        """A login succeeded."""
        if self.failures:
            self._clear()

    @event(Cleared)
    def _clear(self) -> None:
        self.failures = 0
        self.paused_until = None
