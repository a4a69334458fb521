"""Schedules: which job is to be enqueued when, and what becomes of the times that were missed.

A schedule's stream holds what operators decided about it and nothing else, so it stays short however often it fires:
each of its occurrences is a stream of its own (domain/jobs/occurrence.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Personal, Secret, derived_id
from domain.errors import Conflict, NotFound, invalid_field
from domain.jobs.cron import Cron, cron_of
from domain.jobs.job_type import NAME
from domain.jobs.policy import NAME_LIMIT_CHARS, REASON_LIMIT_CHARS

Missed = Literal["skip", "once", "all"]
"""What becomes of occurrences that were missed: nothing, one run for all of them, or a run for each of the newest."""

Overlap = Literal["allow", "coalesce"]
"""While the job of the occurrence before isn't finished: another one beside it, or none."""

MISSED_LIMIT = 1_000
"""How many missed occurrences of one schedule can be asked to be caught up."""
DEFAULT_MISSED_LIMIT = 100


class ScheduleNotFound(NotFound):
    """There is no such schedule."""

    code = "schedule-not-found"


class ScheduleTaken(Conflict):
    """There is a schedule of this name already."""

    code = "schedule-taken"


class Standing(StrEnum):
    """How a schedule stands."""

    ACTIVE = "active"
    PAUSED = "paused"
    DELETED = "deleted"


class ScheduleName(str):
    """A schedule's name and id: lower-case words joined by `-`, `_` or `.`. Raises Invalid, naming `field`."""

    __slots__ = ()

    def __new__(cls, text: str, *, field: str = "name") -> Self:
        if len(text) > NAME_LIMIT_CHARS or not NAME.fullmatch(text):
            raise invalid_field(
                field, f"must be lower-case words joined by -, _ or ., at most {NAME_LIMIT_CHARS} characters"
            )
        return super().__new__(cls, text)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is enqueued when. `args` and its siblings are the job's, as the job's type writes them (JobType.write).

    `queue` and `priority` are the type's where they are None. `missed_limit` counts for `all` only.
    """

    cron: str
    timezone: str
    type: str
    type_version: int
    args: Mapping[str, Any] = field(default_factory=dict)
    personal_args: Mapping[str, Any] = field(default_factory=dict)
    secret_args: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = "skip"
    missed_limit: int = DEFAULT_MISSED_LIMIT
    overlap: Overlap = "allow"
    queue: str | None = None
    priority: int | None = None

    @property
    def times(self) -> Cron:
        """When."""
        return cron_of(self.cron, self.timezone)

    @property
    def all_args(self) -> dict[str, Any]:
        """The job's arguments, put together again."""
        return {**self.args, **self.personal_args, **self.secret_args}

    def check(self) -> None:
        """Raises Invalid naming the field: cron, timezone, missed_limit."""
        Cron.parse(self.cron, self.timezone)
        if not 1 <= self.missed_limit <= MISSED_LIMIT:
            raise invalid_field("missed_limit", f"must be 1 to {MISSED_LIMIT}")


@dataclass(frozen=True, slots=True)
class Period:
    """How a schedule stood after `since`, up to and including `until` (None: it stands so now)."""

    since: datetime
    until: datetime | None
    cron: str
    timezone: str
    standing: Standing

    def due(self, after: datetime, upto: datetime) -> Iterator[datetime]:
        """The instants of this period after one and up to another."""
        if self.standing is Standing.DELETED:
            return iter(())
        end = upto if self.until is None else min(upto, self.until)
        return cron_of(self.cron, self.timezone).between(max(after, self.since), end)

    def first_due(self, after: datetime) -> datetime | None:
        """The first instant of this period after one."""
        if self.standing is Standing.DELETED:
            return None
        first = cron_of(self.cron, self.timezone).next(max(after, self.since))
        return first if first is not None and (self.until is None or first <= self.until) else None


@dataclass(frozen=True, slots=True)
class Due:
    """An instant that has come, and how the schedule stood then."""

    instant: datetime
    standing: Standing


class Schedule(Aggregate):
    """A named schedule. A change takes effect at once, for the instants after it; what was before stays history."""

    TOPIC = "jobs.Schedule"
    NOT_FOUND = ScheduleNotFound

    class Created(First):
        TOPIC = "jobs.ScheduleCreated"
        name: str
        cron: str
        timezone: str
        type: str
        type_version: int
        args: dict[str, Any]
        personal_args: Personal[dict[str, Any]]
        secret_args: Secret[dict[str, Any]]
        missed: str
        missed_limit: int
        overlap: str
        queue: str | None
        priority: int | None

    class Changed(Aggregate.Event):
        """The whole new plan."""

        TOPIC = "jobs.ScheduleChanged"
        name: str
        cron: str
        timezone: str
        type: str
        type_version: int
        args: dict[str, Any]
        personal_args: Personal[dict[str, Any]]
        secret_args: Secret[dict[str, Any]]
        missed: str
        missed_limit: int
        overlap: str
        queue: str | None
        priority: int | None

        def apply(self, aggregate: "Schedule") -> None:
            aggregate.plan = _plan(vars(self))
            aggregate.stand(self.timestamp, aggregate.standing)

    class Paused(Aggregate.Event):
        TOPIC = "jobs.SchedulePaused"
        name: str
        reason: str

        def apply(self, aggregate: "Schedule") -> None:
            aggregate.stand(self.timestamp, Standing.PAUSED)

    class Resumed(Aggregate.Event):
        TOPIC = "jobs.ScheduleResumed"
        name: str
        reason: str

        def apply(self, aggregate: "Schedule") -> None:
            aggregate.stand(self.timestamp, Standing.ACTIVE)

    class Deleted(Aggregate.Event):
        TOPIC = "jobs.ScheduleDeleted"
        name: str
        reason: str

        def apply(self, aggregate: "Schedule") -> None:
            aggregate.stand(self.timestamp, Standing.DELETED)

    class Reinstated(Aggregate.Event):
        """Created once more, after it was deleted."""

        TOPIC = "jobs.ScheduleReinstated"
        name: str
        cron: str
        timezone: str
        type: str
        type_version: int
        args: dict[str, Any]
        personal_args: Personal[dict[str, Any]]
        secret_args: Secret[dict[str, Any]]
        missed: str
        missed_limit: int
        overlap: str
        queue: str | None
        priority: int | None

        def apply(self, aggregate: "Schedule") -> None:
            aggregate.plan = _plan(vars(self))
            aggregate.stand(self.timestamp, Standing.ACTIVE)

    @staticmethod
    def create_id(name: str, **_: object) -> UUID:
        """Derived from the name, so that two schedules can't have the same one."""
        return derived_id("schedule", name)

    @event(Created)
    def __init__(
        self,
        name: str,
        cron: str,
        timezone: str,
        type: str,  # noqa: A002
        type_version: int,
        args: dict[str, Any],
        personal_args: dict[str, Any],
        secret_args: dict[str, Any],
        missed: Missed,
        missed_limit: int,
        overlap: Overlap,
        queue: str | None,
        priority: int | None,
    ) -> None:
        self.name = name
        self.plan = Plan(
            cron, timezone, type, type_version, args, personal_args, secret_args, missed, missed_limit, overlap, queue,
            priority,
        )  # fmt: skip
        self.periods = [Period(self.created_on, None, cron, timezone, Standing.ACTIVE)]

    @classmethod
    def create(cls, name: ScheduleName, plan: Plan) -> Self:
        """A new schedule. Raises Invalid."""
        plan.check()
        return cls(name=str(name), **_fields(plan))

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        return self.periods[-1].standing

    @property
    def is_deleted(self) -> bool:
        """Whether it is gone; its name may be used again."""
        return self.standing is Standing.DELETED

    def reinstate(self, plan: Plan) -> None:
        """Creates it once more. Raises ScheduleTaken while it isn't deleted, Invalid."""
        if not self.is_deleted:
            raise ScheduleTaken
        plan.check()
        self.trigger_event(self.Reinstated, name=self.name, **_fields(plan))

    def change(self, plan: Plan) -> None:
        """From now on this is the plan. The same plan records nothing. Raises ScheduleNotFound, Invalid."""
        self._check_exists()
        plan.check()
        if _fields(plan) != _fields(self.plan):
            self.trigger_event(self.Changed, name=self.name, **_fields(plan))

    def pause(self, reason: str = "") -> None:
        """From now on nothing fires. Pausing twice records nothing. Raises ScheduleNotFound, Invalid."""
        self._check_exists()
        if self.standing is not Standing.PAUSED:
            self.trigger_event(self.Paused, name=self.name, reason=checked_reason(reason))

    def resume(self, reason: str = "") -> None:
        """From now on it fires again. Resuming twice records nothing. Raises ScheduleNotFound, Invalid."""
        self._check_exists()
        if self.standing is Standing.PAUSED:
            self.trigger_event(self.Resumed, name=self.name, reason=checked_reason(reason))

    def delete(self, reason: str = "") -> None:
        """Ends it. Raises ScheduleNotFound where it has ended already, Invalid."""
        self._check_exists()
        self.trigger_event(self.Deleted, name=self.name, reason=checked_reason(reason))

    def due(self, after: datetime, upto: datetime) -> Iterator[Due]:
        """The instants after one and up to another, in order, by the plan that held at each."""
        for period in self.periods:
            if period.until is None or period.until > after:
                for instant in period.due(after, upto):
                    yield Due(instant, period.standing)

    def first_due(self, after: datetime) -> datetime | None:
        """The first instant after one that needs an outcome; None if there is none to come."""
        return first_due(self.periods, after)

    def stand(self, since: datetime, standing: Standing) -> None:
        """Folds an event: from then on it stands so, by the plan that it has now."""
        last = self.periods[-1]
        now = Period(since, None, self.plan.cron, self.plan.timezone, standing)
        if (now.cron, now.timezone, now.standing) != (last.cron, last.timezone, last.standing):
            ended = Period(last.since, since, last.cron, last.timezone, last.standing)
            self.periods = [*self.periods[:-1], ended, now]

    def _check_exists(self) -> None:
        if self.is_deleted:
            raise ScheduleNotFound


def first_due(periods: list[Period], after: datetime) -> datetime | None:
    """The first instant of these periods, which follow each other, after one."""
    for period in periods:
        if (period.until is None or period.until > after) and (first := period.first_due(after)) is not None:
            return first
    return None


def checked_reason(reason: str) -> str:
    """Raises Invalid naming the field."""
    reason = reason.strip()
    if len(reason) > REASON_LIMIT_CHARS or "\0" in reason:
        raise invalid_field("reason", f"at most {REASON_LIMIT_CHARS} characters, none of them NUL")
    return reason


_PLAN_FIELDS = tuple(Plan.__dataclass_fields__)


def _plan(fields: Mapping[str, Any]) -> Plan:
    return Plan(**{name: fields[name] for name in _PLAN_FIELDS})


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in asdict(plan).items()}
