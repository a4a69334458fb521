"""One save of what a handler decided and of the attempt's outcome, whatever happens beside and below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eventsourcing.persistence import IntegrityError

from domain.aggregate import Aggregate
from domain.errors import OutcomeUnknown, Unavailable
from domain.jobs import Job
from domain.jobs.errors import LeaseLost
from infra.configuration.live import Live
from infra.event_store import Log
from infra.job_queue import LEASE_LOST
from infra.job_queue_claims import Claimed, Held
from infra.recorder import InlineRefused
from stream_apps.jobs import outcomes
from stream_apps.jobs.attempt import Attempt
from stream_apps.jobs.going import Surroundings
from stream_apps.jobs.verdicts import Verdict

Event = Aggregate.Event
LOCK_NOT_AVAILABLE = "55P03"
_LONGEST_PAUSE_SECONDS = 1.0


class Looking(Protocol):
    """Asks how a claimed row stands now. Raises Unavailable."""

    def __call__(self, claimed: Claimed) -> Held | None: ...


@dataclass(frozen=True, slots=True)
class Saving:
    """Saves outcomes, putting each behind what was recorded meanwhile, `conflicts` times at most."""

    log: Log
    look: Looking
    live: Live
    around: Surroundings
    conflicts: int

    def save(self, attempt: Attempt, verdict: Verdict, events: Sequence[Event], guards: Sequence[Any]) -> None:
        """One save of all. Raises LeaseLost, IntegrityError (others changed what the handler read), what saves raise.

        That the job's own stream has moved, as by a request to cancel, is no conflict: the outcome follows that.
        """
        outcome, unknown, conflicts, tries = verdict.outcome, False, 0, 0
        metadata = outcomes.metadata_of(attempt.claimed, self.live.bound.version)
        while True:
            try:
                self.log.save_events([*events, outcome], guards=guards, metadata=metadata)
            except (IntegrityError, InlineRefused) as error:
                conflicts += 1
                if conflicts > self.conflicts or not _is_conflict(error):
                    raise
                try:
                    if unknown and self._is_recorded(attempt.claimed):
                        return
                    outcome = self._following(attempt, outcome, error)
                except Unavailable:
                    unknown = True  # asked again with the next conflict
            except OutcomeUnknown:
                unknown = True
            except Unavailable:
                # Nobody else gets the job before the lease is over; until then it is worth waiting for the database.
                if self.around.clock() > attempt.lease_until:
                    raise LeaseLost from None
            else:
                return
            tries += 1
            self.around.pause(self.around.chance() * min(_LONGEST_PAUSE_SECONDS, 0.005 * 2.0 ** min(tries, 10)))

    def _following(self, attempt: Attempt, outcome: Event, error: Exception) -> Event:
        """The outcome behind what has been recorded of the job meanwhile. Raises LeaseLost, or the error itself."""
        claimed = attempt.claimed
        if getattr(error, "sqlstate", "") == LOCK_NOT_AVAILABLE:
            return outcome
        held = self.look(claimed)
        if held is None or not held.alive:
            raise LeaseLost from error
        if held.stream_version == claimed.stream_version:
            raise error
        claimed.stream_version = held.stream_version
        if held.cancelling and isinstance(outcome, Job.AttemptFailed | Job.AttemptSnoozed):
            return outcomes.cancelled(claimed, "it ended without success while it was asked to stop")
        state = {**vars(outcome), "originator_version": held.stream_version + 1}
        state.pop("originator_id")
        return type(outcome)(originator_id=claimed.id, **state)

    def _is_recorded(self, claimed: Claimed) -> bool:
        """Whether a save whose answer was lost has happened after all."""
        events = self.log.read_stream(claimed.id, claimed.stream_version)
        return any(getattr(recorded.event, "fence", None) == claimed.fence for recorded in events)


def _is_conflict(error: Exception) -> bool:
    """Whether the save was refused for what others have done, and not for what an inline table says of its events."""
    return not isinstance(error, InlineRefused) or error.sqlstate in {LEASE_LOST, LOCK_NOT_AVAILABLE}
