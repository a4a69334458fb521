"""Occurrences: each instant of a schedule has exactly one outcome, with its reason.

An occurrence is known by its schedule's name and its instant, and the id of its stream is derived from them. What fired
has a stream of its own; those that didn't and follow each other share one, whose id is that of the first of them. So
two schedulers that begin at the same instant can't both be saved. Each event says up to which instant the ones before
had their outcome: the events of a schedule are a chain without holes, which the commit checks
(infra/migrations/jobs/, `job_settled`).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby, islice
from typing import Any, Protocol, Self
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.jobs.schedule import Due, Schedule, Standing

INSTANTS_PER_EVENT = 1_000
INSTANTS_PER_SAVE = 10_000
"""A week of minutes. A longer backlog takes several saves."""
FIRED_PER_SAVE = 100
"""Jobs that one save enqueues at most, so that no commit is long."""


class Outcome(StrEnum):
    """What became of an occurrence."""

    FIRED = "fired"
    CAUGHT_UP = "caught-up"
    COALESCED = "coalesced"
    SKIPPED = "skipped"


def occurrence_key(schedule: str, instant: datetime) -> str:
    """What an occurrence is called: `nightly@2026-03-29T01:00:00Z`."""
    return f"{schedule}@{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def occurrence_job_id(schedule: str, instant: datetime) -> UUID:
    """The id of the one job that an occurrence can have."""
    return derived_id("occurrence-job", occurrence_key(schedule, instant))


class Occurrence(Aggregate):
    """One occurrence that fired, or several in a row that didn't. Its only event is its outcome."""

    TOPIC = "jobs.Occurrence"

    class Fired(First):
        """It came when it was due, and its job was enqueued in the same save. `after`: settled up to there before."""

        TOPIC = "jobs.OccurrenceFired"
        schedule: str
        schedule_id: UUID
        after: datetime
        instant: datetime
        reason: str
        job_id: UUID

    class CaughtUp(First):
        """It was missed, and its job was enqueued all the same."""

        TOPIC = "jobs.OccurrenceCaughtUp"
        schedule: str
        schedule_id: UUID
        after: datetime
        instant: datetime
        reason: str
        job_id: UUID

    class Coalesced(First):
        """Another stands for them: the occurrence `into`, or the job that isn't finished yet."""

        TOPIC = "jobs.OccurrencesCoalesced"
        schedule: str
        schedule_id: UUID
        after: datetime
        instants: list[datetime]
        through: datetime
        reason: str
        into: datetime | None
        job_id: UUID | None

    class Skipped(First):
        """Nothing was done for them."""

        TOPIC = "jobs.OccurrencesSkipped"
        schedule: str
        schedule_id: UUID
        after: datetime
        instants: list[datetime]
        through: datetime
        reason: str

    @staticmethod
    def create_id(
        schedule: str, instant: datetime | None = None, instants: Sequence[datetime] = (), **_: object
    ) -> UUID:
        """Derived from the schedule's name and the (first) instant."""
        return derived_id("occurrence", occurrence_key(schedule, instant or instants[0]))

    @event(Fired)
    def __init__(self, schedule: str, reason: str) -> None:
        self.schedule = schedule
        self.reason = reason

    @classmethod
    def record(cls, schedule: Schedule, after: datetime, verdict: "Verdict", job_id: UUID | None = None) -> Self:
        """The outcome of a verdict, where everything up to `after` has one."""
        common: dict[str, Any] = {
            "schedule": schedule.name,
            "schedule_id": schedule.id,
            "after": after,
            "reason": verdict.reason,
        }
        several: dict[str, Any] = {"instants": list(verdict.instants), "through": verdict.instants[-1]}
        match verdict.outcome:
            case Outcome.FIRED | Outcome.CAUGHT_UP:
                kind = cls.Fired if verdict.outcome is Outcome.FIRED else cls.CaughtUp
                return cls._create(kind, **common, instant=verdict.instants[0], job_id=job_id)
            case Outcome.COALESCED:
                return cls._create(cls.Coalesced, **common, **several, into=verdict.into, job_id=job_id)
            case Outcome.SKIPPED:
                return cls._create(cls.Skipped, **common, **several)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to which instant a schedule's occurrences have their outcome, and the newest job that one of them enqueued."""

    settled_through: datetime
    job_id: UUID | None


class Cursors(Protocol):
    """How far schedules are settled, as the newest commit has left it."""

    def cursor(self, schedule_id: UUID) -> Cursor | None:
        """None for a schedule that there isn't."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of instants that follow each other; of one alone where a job is enqueued."""

    outcome: Outcome
    instants: tuple[datetime, ...]
    reason: str
    into: datetime | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides what becomes of what is due.

    `now` is the time by the log's clock, which never goes back; `grace`: who comes later than that was missed.
    """

    now: datetime
    grace: timedelta

    def verdicts(self, schedule: Schedule, after: datetime) -> list[Verdict]:
        """The outcomes of what is due after an instant, in order; of the first part of it where it is very much.

        Raises nothing, and forgets nothing: what isn't in the answer is due after the last instant in it.
        """
        due = list(islice(schedule.due(after, self.now), INSTANTS_PER_SAVE))
        return list(_bounded(self._each(schedule, after, due)))

    def _each(self, schedule: Schedule, after: datetime, due: Sequence[Due]) -> Iterator[Verdict]:
        if schedule.standing is not Standing.ACTIVE:
            return (_skipped(each, _OFF[schedule.standing]) for each in due)
        if not due or not self._is_missed(due[0]):
            return (self._on_time(each) for each in due)
        return self._with_missed(schedule, after, due)

    def _with_missed(self, schedule: Schedule, after: datetime, due: Sequence[Due]) -> Iterator[Verdict]:
        plan = schedule.plan
        newest = self._newest_missed(schedule, after, plan.missed_limit if plan.missed == "all" else 1)
        timely = next((each.instant for each in schedule.due(self.now - self.grace, self.now) if _active(each)), None)
        stands_for_all = timely if timely is not None and timely > after else (newest[-1] if newest else None)
        for each in due:
            if not _active(each) or not self._is_missed(each):
                yield self._on_time(each)
            elif plan.missed == "skip":
                yield _skipped(each, "missed; missed ones are skipped")
            elif plan.missed == "once":
                yield self._once(each, stands_for_all)
            elif each.instant >= newest[0]:
                yield Verdict(Outcome.CAUGHT_UP, (each.instant,), f"missed; up to {plan.missed_limit} are caught up")
            else:
                yield _skipped(each, f"missed; only the newest {plan.missed_limit} are caught up")

    def _once(self, each: Due, into: datetime | None) -> Verdict:
        if each.instant == into:
            return Verdict(Outcome.CAUGHT_UP, (each.instant,), "missed; one run for all that were missed")
        return Verdict(Outcome.COALESCED, (each.instant,), "missed; one run for all that were missed", into)

    def _on_time(self, each: Due) -> Verdict:
        if not _active(each):
            return _skipped(each, _OFF[each.standing])
        return Verdict(Outcome.FIRED, (each.instant,), "due")

    def _is_missed(self, each: Due) -> bool:
        return each.instant < self.now - self.grace

    def _newest_missed(self, schedule: Schedule, after: datetime, count: int) -> deque[datetime]:
        """At most so many of the newest that were missed, in order. Looks back further and further."""
        end = self.now - self.grace
        reach = timedelta(hours=1)
        while True:
            start = max(after, end - reach)
            found = deque(
                (each.instant for each in schedule.due(start, self.now) if _active(each) and self._is_missed(each)),
                maxlen=count,
            )
            if len(found) == count or start == after:
                return found
            reach *= 4


_OFF = {Standing.PAUSED: "paused", Standing.DELETED: "deleted"}


def _active(each: Due) -> bool:
    return each.standing is Standing.ACTIVE


def _skipped(each: Due, reason: str) -> Verdict:
    return Verdict(Outcome.SKIPPED, (each.instant,), reason)


def _bounded(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """Joined where they say the same, and no more than one save may enqueue."""
    fired = 0
    for (outcome, reason, into), group in groupby(verdicts, lambda each: (each.outcome, each.reason, each.into)):
        for verdict in group if outcome in _ENQUEUES else _joined(outcome, reason, into, group):
            if outcome in _ENQUEUES:
                fired += 1
                if fired > FIRED_PER_SAVE:
                    return
            yield verdict


_ENQUEUES = frozenset({Outcome.FIRED, Outcome.CAUGHT_UP})


def _joined(outcome: Outcome, reason: str, into: datetime | None, group: Iterable[Verdict]) -> Iterator[Verdict]:
    instants = [instant for each in group for instant in each.instants]
    for start in range(0, len(instants), INSTANTS_PER_EVENT):
        yield Verdict(outcome, tuple(instants[start : start + INSTANTS_PER_EVENT]), reason, into)
