"""What one can intend with schedules, and how their occurrences are settled.

Firing is one save: the occurrence's outcome and the job. What was read for it is guarded: a schedule that is being
paused or changed at this moment doesn't fire by what it was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from commands.jobs.jobs import check_queue_name, enqueue
from domain.errors import FieldError, Invalid, invalid_field
from domain.jobs.job import Job
from domain.jobs.job_type import JobType, JobTypes
from domain.jobs.occurrence import (
    Cursor,
    Cursors,
    Judge,
    Occurrence,
    Outcome,
    Verdict,
    occurrence_job_id,
    occurrence_key,
)
from domain.jobs.policy import PRIORITY_LIMIT
from domain.jobs.schedule import (
    DEFAULT_MISSED_LIMIT,
    Missed,
    Overlap,
    Plan,
    Schedule,
    ScheduleName,
    ScheduleTaken,
)
from domain.ports import Work


@dataclass(frozen=True)
class PlanRequest:
    """A plan as it is asked for from outside, with plain arguments. Fields as in `domain.jobs.schedule.Plan`."""

    cron: str
    type: str
    timezone: str = "UTC"
    args: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = "skip"
    missed_limit: int = DEFAULT_MISSED_LIMIT
    overlap: Overlap = "allow"
    queue: str | None = None
    priority: int | None = None


@dataclass(frozen=True)
class CreateSchedule:
    """Creates a schedule; one that was deleted begins again."""

    name: ScheduleName
    plan: Plan


@dataclass(frozen=True)
class ReplacePlan:
    """From now on a schedule goes by exactly this plan."""

    name: ScheduleName
    plan: Plan


@dataclass(frozen=True)
class ChangePlan:
    """Changes some fields of a schedule's plan; `changes` are those of `PlanRequest` by name."""

    name: ScheduleName
    types: JobTypes
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class PauseSchedule:
    """From now on nothing fires."""

    name: ScheduleName
    reason: str = ""


@dataclass(frozen=True)
class ResumeSchedule:
    """From now on it fires again."""

    name: ScheduleName
    reason: str = ""


@dataclass(frozen=True)
class DeleteSchedule:
    """Ends a schedule."""

    name: ScheduleName
    reason: str = ""


@dataclass(frozen=True)
class OwnSchedule:
    """A schedule that a module brings along: created once, and the operators' from then on."""

    name: str
    plan: PlanRequest


@dataclass(frozen=True)
class EnsureSchedules:
    """Those that modules bring along: creates those that there never were, and leaves the others as they are."""

    plans: Mapping[ScheduleName, Plan]


def prepare_plan(types: JobTypes, request: PlanRequest) -> Plan:
    """Checks what is asked for. Raises Invalid naming the field (`args.to`), UnknownJobType, InvalidCron and so on."""
    job_type = types.get(request.type)
    args = job_type.write(job_type.read(request.args))
    plan = Plan(
        cron=request.cron.strip(),
        timezone=request.timezone,
        type=job_type.name,
        type_version=job_type.version,
        args=args.plain,
        personal_args=args.personal,
        secret_args=args.secret,
        missed=request.missed,
        missed_limit=request.missed_limit,
        overlap=request.overlap,
        queue=request.queue,
        priority=request.priority,
    )
    _check_options(plan)
    return plan


def _check_options(plan: Plan) -> None:
    plan.check()
    if plan.queue is not None:
        check_queue_name("queue", plan.queue)
    if plan.priority is not None and not -PRIORITY_LIMIT <= plan.priority <= PRIORITY_LIMIT:
        raise invalid_field("priority", f"{-PRIORITY_LIMIT} to {PRIORITY_LIMIT}, not {plan.priority}")


def prepare_own(types: JobTypes, own: Iterable[OwnSchedule]) -> EnsureSchedules:
    """Raises Invalid, UnknownJobType."""
    return EnsureSchedules({ScheduleName(each.name): prepare_plan(types, each.plan) for each in own})


def create_schedule(work: Work, command: CreateSchedule) -> str:
    """The name. Raises ScheduleTaken, Invalid."""
    found = work.find(Schedule, Schedule.create_id(command.name))
    if found is None:
        return str(work.add(Schedule.create(command.name, command.plan)).name)
    if not found.is_deleted:
        raise ScheduleTaken
    found.reinstate(command.plan)
    return str(found.name)


def replace_plan(work: Work, command: ReplacePlan) -> None:
    """Raises ScheduleNotFound, Invalid."""
    _schedule(work, command.name).change(command.plan)


def change_plan(work: Work, command: ChangePlan) -> None:
    """Raises ScheduleNotFound, UnknownJobType, Invalid. Arguments that aren't given stay as they are.

    So nobody loses by a change what they aren't shown, the secret ones. With another type all arguments are given.
    """
    schedule, changes = _schedule(work, command.name), command.changes
    if "type" in changes or "args" in changes:
        schedule.change(prepare_plan(command.types, _asked(command.types, schedule.plan, changes)))
        return
    plan = replace(schedule.plan, **changes)
    _check_options(plan)
    schedule.change(plan)


def pause_schedule(work: Work, command: PauseSchedule) -> None:
    """Raises ScheduleNotFound, Invalid."""
    _schedule(work, command.name).pause(command.reason)


def resume_schedule(work: Work, command: ResumeSchedule) -> None:
    """Raises ScheduleNotFound, Invalid."""
    _schedule(work, command.name).resume(command.reason)


def delete_schedule(work: Work, command: DeleteSchedule) -> None:
    """Raises ScheduleNotFound, Invalid."""
    _schedule(work, command.name).delete(command.reason)


def ensure_schedules(work: Work, command: EnsureSchedules) -> int:
    """How many were created. Raises Invalid."""
    missing = [name for name in command.plans if work.find(Schedule, Schedule.create_id(name)) is None]
    for name in missing:
        work.add(Schedule.create(name, command.plans[name]))
    return len(missing)


def _schedule(work: Work, name: ScheduleName) -> Schedule:
    return work.get(Schedule, Schedule.create_id(name))


def _asked(types: JobTypes, plan: Plan, changes: Mapping[str, Any]) -> PlanRequest:
    as_it_is: dict[str, Any] = {
        name: getattr(plan, name) for name in PlanRequest.__dataclass_fields__ if name != "args"
    }
    return PlanRequest(**{**as_it_is, **changes, "args": _new_args(types, plan, changes)})


def _new_args(types: JobTypes, plan: Plan, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises Invalid, UnknownJobType."""
    given: Mapping[str, Any] | None = changes.get("args")
    if changes.get("type", plan.type) == plan.type:
        return _kept_args(types.get(plan.type), plan) | dict(given or {})
    if given is None and (plan.personal_args or plan.secret_args):
        # What is secret as an argument of one type needn't be so as one of another, which would show it.
        raise invalid_field("args", "another type takes its arguments anew: the present ones aren't all for everybody")
    return plan.args if given is None else given


def _kept_args(job_type: JobType, plan: Plan) -> dict[str, Any]:
    """The present arguments as the type has them now. Raises Invalid where it can't read them any more."""
    try:
        args = job_type.write(job_type.read(plan.all_args, plan.type_version))
    except Exception as error:  # an upcast may fail in any way
        why = error.message if isinstance(error, Invalid) else type(error).__name__
        message = f"the present ones can't be read any more ({why}): replace the whole plan"
        raise invalid_field("args", message) from error
    return {**args.plain, **args.personal, **args.secret}


@dataclass(frozen=True)
class SettleOccurrences:
    """Gives every occurrence of a schedule that is due by `now` (the log's clock) its outcome.

    Who is later than `grace` was missed.
    """

    schedule_id: UUID
    now: datetime
    grace: timedelta
    types: JobTypes
    cursors: Cursors


@dataclass(frozen=True, slots=True)
class Settled:
    """What was recorded: each outcome with how many instants, and the last of these; and the next that needs one.

    `next_due` may be due already.
    """

    outcomes: tuple[tuple[Outcome, int], ...] = ()
    next_due: datetime | None = None
    through: datetime | None = None


def settle_occurrences(work: Work, command: SettleOccurrences) -> Settled:
    """Records outcomes and enqueues jobs, in the order of the instants.

    The schedule is read before its cursor: so whoever settled by a former plan is seen, and the commit refuses (by the
    stream's id, the guard or the chain) whoever isn't first.
    """
    schedule = work.find(Schedule, command.schedule_id)
    if schedule is None or (cursor := command.cursors.cursor(schedule.id)) is None:
        return Settled()
    verdicts = Judge(command.now, command.grace).verdicts(schedule, cursor.settled_through)
    if not verdicts:
        return Settled(next_due=schedule.first_due(cursor.settled_through))
    work.guard(schedule)
    round_ = _Round(work, command.types, schedule, cursor)
    outcomes = tuple(round_.settle(verdict) for verdict in verdicts)
    return Settled(outcomes, schedule.first_due(round_.through), round_.through)


class _Round:
    """One save's outcomes of one schedule."""

    def __init__(self, work: Work, types: JobTypes, schedule: Schedule, cursor: Cursor) -> None:
        self._work = work
        self._types = types
        self._schedule = schedule
        self._newest_job = cursor.job_id
        self.through = cursor.settled_through

    def settle(self, verdict: Verdict) -> tuple[Outcome, int]:
        job_id = None
        if verdict.outcome in {Outcome.FIRED, Outcome.CAUGHT_UP}:
            verdict, job_id = self._fire(verdict)
        self._work.add(Occurrence.record(self._schedule, self.through, verdict, job_id))
        self.through = verdict.instants[-1]
        return verdict.outcome, len(verdict.instants)

    def _fire(self, verdict: Verdict) -> tuple[Verdict, UUID | None]:
        """The verdict, or what becomes of it because of the jobs that there are, and the job that is meant."""
        plan, instant = self._schedule.plan, verdict.instants[0]
        if plan.overlap == "coalesce" and (unfinished := self._unfinished()):
            return _coalesced(verdict, "the job of the occurrence before isn't finished"), unfinished
        try:
            job_type, args = self._job(plan)
        except Invalid as error:
            return replace(verdict, outcome=Outcome.SKIPPED, reason=f"its job can't be enqueued: {error.message}"), None
        job_id = occurrence_job_id(self._schedule.name, instant)
        occurrence = occurrence_key(self._schedule.name, instant)
        options = {"queue": plan.queue, "priority": plan.priority, "occurrence": occurrence, "id": job_id}
        enqueued = enqueue(self._work, job_type, args, **options)
        if enqueued.id != job_id:
            return _coalesced(verdict, "another job has the unique key of its job"), enqueued.id
        self._newest_job = job_id
        return verdict, job_id

    def _job(self, plan: Plan) -> tuple[JobType, Any]:
        """Raises Invalid where the type is gone, or takes other arguments now."""
        job_type = self._types.get(plan.type)
        try:
            return job_type, job_type.read(plan.all_args, plan.type_version)
        except Invalid:
            raise
        except Exception as error:  # an upcast may fail in any way
            message = f"an upcast of {plan.type} failed: {type(error).__name__}"
            raise Invalid(message, errors=[FieldError("args", message)]) from error

    def _unfinished(self) -> UUID | None:
        job = self._work.find(Job, self._newest_job) if self._newest_job else None
        return job.id if job is not None and not job.is_finished else None


def _coalesced(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, outcome=Outcome.COALESCED, reason=reason)
