"""Schedules: deciding about them, looking at them, at what they did and at what they will do."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from api.personal import sees_personal, without
from api.routing import Answer, Asked, Body, Command, Endpoint, Keyset, Page, Paging, Query, Route, View
from commands.jobs.schedules import (
    ChangePlan,
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    PlanRequest,
    ReplacePlan,
    ResumeSchedule,
    change_plan,
    create_schedule,
    delete_schedule,
    pause_schedule,
    prepare_plan,
    replace_plan,
    resume_schedule,
)
from domain.errors import invalid_field
from domain.jobs.cron import FIRST_YEAR, LAST_YEAR, MAX_EXPRESSION_CHARS, InvalidCron, NeverDue, cron_of
from domain.jobs.errors import UnknownJobType
from domain.jobs.job_type import JobTypes
from domain.jobs.policy import NAME_LIMIT_CHARS, PRIORITY_LIMIT, REASON_LIMIT_CHARS
from domain.jobs.schedule import (
    DEFAULT_MISSED_LIMIT,
    MISSED_LIMIT,
    Missed,
    Overlap,
    Schedule,
    ScheduleName,
    ScheduleNotFound,
    ScheduleTaken,
)
from domain.jobs.zone import UnknownTimeZone
from projections.read import Read
from projections.schedules import RunRow, ScheduleView, runs, schedule_by_name, schedules

VIEWS = ("schedules",)
MAX_PREVIEW = 100
ZONE_CHARS = 64

NameText = Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)]
CronText = Annotated[
    str, Meta(max_length=MAX_EXPRESSION_CHARS, description="Five fields, or `@hourly`, `@daily` and the like.")
]
ZoneText = Annotated[str, Meta(max_length=ZONE_CHARS, description="The IANA name, such as `Europe/Vienna`.")]
MissedLimit = Annotated[int, Meta(ge=1, le=MISSED_LIMIT, description="How many of the newest `all` catches up.")]
Priority = Annotated[int, Meta(ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT)]
ReasonText = Annotated[str, Meta(max_length=REASON_LIMIT_CHARS)]
OutcomeName = Literal["fired", "caught-up", "coalesced", "skipped"]


class PlanBody(Body, kw_only=True):
    """Which job is enqueued when; what becomes of times that were missed, and beside a job that isn't finished."""

    cron: CronText
    timezone: ZoneText = "UTC"
    type: NameText
    args: dict[str, Any] = {}
    missed: Missed = "skip"
    missed_limit: MissedLimit = DEFAULT_MISSED_LIMIT
    overlap: Overlap = "allow"
    queue: NameText | None = None
    priority: Priority | None = None


class NewSchedule(PlanBody, kw_only=True):
    """A schedule."""

    name: NameText


class PlanChanges(Body):
    """What is to be other than it was; what isn't given stays as it is."""

    cron: CronText | UnsetType = UNSET
    timezone: ZoneText | UnsetType = UNSET
    type: NameText | UnsetType = UNSET
    args: dict[str, Any] | UnsetType = UNSET
    missed: Missed | UnsetType = UNSET
    missed_limit: MissedLimit | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    queue: NameText | UnsetType | None = UNSET
    priority: Priority | UnsetType | None = UNSET


class ScheduleReason(Body):
    """Why, for whoever reads the history."""

    reason: ReasonText = ""


class ScheduleCreated(View):
    """The new schedule's name, which is its id."""

    name: str


class OccurrenceView(View):
    """An occurrence with its outcome. `into` is the one that stands for it, where it was coalesced."""

    at: datetime
    outcome: str
    reason: str
    into: datetime | None
    job_id: UUID | None
    settled_at: datetime
    position: int


class ScheduleDetail(View):
    """A schedule: its plan, without secret arguments; how it stands, its newest occurrence and its next.

    `withheld` names the arguments that are personal and left out: in lists, and where the caller may not read events.
    """

    name: str
    cron: str
    timezone: str
    type: str
    args: dict[str, Any]
    withheld: list[str]
    missed: str
    missed_limit: int
    overlap: str
    queue: str | None
    priority: int | None
    state: str
    since: datetime
    reason: str
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str
    version: int
    next: datetime | None
    last: OccurrenceView | None


class NextParams(Body):
    """How many, and after when: from now on, if it isn't said."""

    count: Annotated[int, Meta(ge=1, le=MAX_PREVIEW)] = 10
    after: Annotated[datetime, Meta(tz=True)] | None = None


class NextView(View):
    """One instant, in UTC and as the schedule's wall clock shows it."""

    at: datetime
    local: str


class PreviewView(View):
    """The next instants; none further ahead than 45 years. A schedule that is paused skips them."""

    state: str
    items: list[NextView]


class RunsParams(Paging):
    """Which occurrences."""

    outcome: OutcomeName | None = None


class SchedulePorts(Protocol):
    """What these routes are given."""

    @property
    def job_types(self) -> JobTypes: ...


async def prepare_schedule(ports: SchedulePorts, asked: Asked) -> CreateSchedule:
    """Raises Invalid naming the field, UnknownJobType."""
    body: NewSchedule = asked.body
    name = ScheduleName(body.name)
    return CreateSchedule(name, await asked.in_thread(prepare_plan, ports.job_types.for_anybody, _request(body)))


async def prepare_replacement(ports: SchedulePorts, asked: Asked) -> ReplacePlan:
    """Raises Invalid naming the field, UnknownJobType."""
    return ReplacePlan(
        _name(asked), await asked.in_thread(prepare_plan, ports.job_types.for_anybody, _request(asked.body))
    )


async def prepare_change(ports: SchedulePorts, asked: Asked) -> ChangePlan:
    """What was there is known to the handler. Raises UnknownJobType."""
    given = {name: getattr(asked.body, name) for name in PlanChanges.__struct_fields__}
    changes = {name: value for name, value in given.items() if value is not UNSET}
    if "type" in changes:
        ports.job_types.for_anybody.get(changes["type"])
    return ChangePlan(_name(asked), ports.job_types, changes)


async def get_schedule(asked: Asked) -> Answer:
    """A schedule: its plan, how it stands, its newest occurrence and its next.

    Personal arguments are for who may read events.
    """
    name = asked.path["name"]
    found = await asked.in_thread(asked.services.reader.look, lambda read: schedule_by_name(read, name), VIEWS)
    row = found.value
    view = _detail(row, () if not row.personal or await sees_personal(asked) else row.personal)
    # What it did and will do changes without a version of its own: a tag is for If-Match alone.
    return Answer(view, 200, [(b"etag", b'"%d"' % row.version)], found.position)


def list_schedules(read: Read, limit: int, after: tuple[str] | None = None) -> list[ScheduleDetail]:
    """All schedules by name, without personal arguments: each one's own route has them."""
    return [_detail(each, each.personal) for each in schedules(read, limit, after)]


def list_runs(
    read: Read, name: str, limit: int, after: tuple[datetime] | None = None, outcome: str | None = None
) -> list[OccurrenceView]:
    """The occurrences of a schedule with their outcomes, the newest first; of one that was deleted, too."""
    return [_occurrence(row) for row in runs(read, name, limit, after, outcome)]


def preview(read: Read, name: str, count: int, after: datetime | None = None) -> PreviewView:
    """When it is due next."""
    found = schedule_by_name(read, name)
    cron = cron_of(found.cron, found.timezone)
    start = found.now if after is None else after
    if not FIRST_YEAR < start.year < LAST_YEAR:
        raise invalid_field("after", f"must lie between the years {FIRST_YEAR} and {LAST_YEAR}")
    items = [NextView(at=at, local=at.astimezone(cron.zone).isoformat()) for at in cron.preview(start, count)]
    return PreviewView(state=found.standing, items=items)


def _detail(row: ScheduleView, withheld: Sequence[str]) -> ScheduleDetail:
    same = {name: getattr(row, name) for name in ScheduleDetail.__struct_fields__ if name not in _OWN}
    return ScheduleDetail(
        **same,
        args=without(row.args, withheld),
        withheld=sorted(withheld),
        state=row.standing,
        next=row.next_due,
        last=_occurrence(row.last) if row.last else None,
    )


_OWN = {"state", "next", "last", "args", "withheld"}


def _occurrence(row: RunRow) -> OccurrenceView:
    return OccurrenceView(
        at=row.instant,
        outcome=row.outcome,
        reason=row.reason,
        into=row.into_instant,
        job_id=row.job_id,
        settled_at=row.settled_at,
        position=row.position,
    )


def _request(body: PlanBody) -> PlanRequest:
    return PlanRequest(**{name: getattr(body, name) for name in PlanBody.__struct_fields__})


def _name(asked: Asked) -> ScheduleName:
    return ScheduleName(asked.path["name"])


def _stream(asked: Asked) -> UUID:
    return Schedule.create_id(asked.path["name"])


RULES = (InvalidCron, NeverDue, UnknownTimeZone, UnknownJobType)

ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/schedules", NewSchedule, create_schedule, permission="schedule:create", answers=201,
        prepare=prepare_schedule, result=ScheduleCreated, location="/api/v1/schedules/{name}",
        stream=lambda asked: Schedule.create_id(asked.body.name), raises=(ScheduleTaken, *RULES),
    ),
    Query(
        "GET", "/api/v1/schedules", Page[ScheduleDetail], list_schedules, permission="schedule:read",
        projections=VIEWS, params=Paging, page=Keyset(lambda row: (row.name,), (str,)),
    ),
    Endpoint(
        "GET", "/api/v1/schedules/{name}", get_schedule, permission="schedule:read", result=ScheduleDetail,
        projections=VIEWS, raises=(ScheduleNotFound,), headers={"ETag": "The schedule's version."},
    ),
    Command(
        "PUT", "/api/v1/schedules/{name}", PlanBody, replace_plan, permission="schedule:update",
        prepare=prepare_replacement, stream=_stream, name="replace_schedule",
        summary="Replace the whole plan.", raises=(ScheduleNotFound, *RULES),
    ),
    Command(
        "PATCH", "/api/v1/schedules/{name}", PlanChanges, change_plan, permission="schedule:update",
        prepare=prepare_change, stream=_stream, name="change_schedule",
        summary="Change some fields of the plan.", raises=(ScheduleNotFound, *RULES),
    ),
    Command(
        "DELETE", "/api/v1/schedules/{name}", None, delete_schedule, permission="schedule:delete", stream=_stream,
        command=lambda asked: DeleteSchedule(_name(asked)), raises=(ScheduleNotFound,),
    ),
    Command(
        "POST", "/api/v1/schedules/{name}/pause", ScheduleReason, pause_schedule, permission="schedule:pause",
        command=lambda asked: PauseSchedule(_name(asked), asked.body.reason), stream=_stream,
        raises=(ScheduleNotFound,),
    ),
    Command(
        "POST", "/api/v1/schedules/{name}/resume", ScheduleReason, resume_schedule, permission="schedule:pause",
        command=lambda asked: ResumeSchedule(_name(asked), asked.body.reason), stream=_stream,
        raises=(ScheduleNotFound,),
    ),
    Query(
        "GET", "/api/v1/schedules/{name}/runs", Page[OccurrenceView], list_runs, permission="schedule:read",
        projections=VIEWS, params=RunsParams, page=Keyset(lambda row: (row.at,), (datetime,)),
        raises=(ScheduleNotFound,),
    ),
    Query(
        "GET", "/api/v1/schedules/{name}/next", PreviewView, preview, permission="schedule:read", projections=VIEWS,
        params=NextParams, name="preview_schedule", raises=(ScheduleNotFound,),
    ),
]  # fmt: skip
