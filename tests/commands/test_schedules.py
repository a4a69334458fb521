"""Schedules on the real log: deciding about them, and giving each occurrence its outcome in one save with its job."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from commands.jobs.schedules import (
    ChangePlan,
    CreateSchedule,
    DeleteSchedule,
    EnsureSchedules,
    PauseSchedule,
    PlanRequest,
    ReplacePlan,
    ResumeSchedule,
    Settled,
    SettleOccurrences,
    change_plan,
    create_schedule,
    delete_schedule,
    ensure_schedules,
    pause_schedule,
    prepare_plan,
    replace_plan,
    resume_schedule,
    settle_occurrences,
)
from domain.aggregate import Secret
from domain.context import Context
from domain.errors import Invalid
from domain.jobs import Job, JobType, JobTypes
from domain.jobs.occurrence import Cursor, Occurrence, Verdict, occurrence_job_id
from domain.jobs.occurrence import Outcome as What
from domain.jobs.schedule import Schedule, ScheduleName, ScheduleNotFound, ScheduleTaken
from infra.dispatch import Dispatcher
from infra.event_store import Log, Recorded
from infra.job_queue import JOB_QUEUE
from infra.recorder import InlineRefused
from infra.refill import refill
from infra.schedules import ALREADY_SETTLED, SCHEDULES, ScheduleCursors, schedule_rows
from infra.work import UnitOfWork

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
GRACE = timedelta(seconds=60)
TEA = ScheduleName("tea")


class Brew(msgspec.Struct, frozen=True):
    """A test's arguments."""

    leaves: str
    cups: int = 1
    blend: Secret[str] = ""


class Sold(msgspec.Struct, frozen=True):
    leaves: str
    blend: str = "none"


BREW = JobType("tea.brew", Brew)
POUR = JobType("tea.pour", queue="table", unique=lambda _: "the only pot")
TYPES = JobTypes([BREW, POUR])
HOURLY = PlanRequest(cron="0 * * * *", type="tea.brew", args={"leaves": "oolong"})


class Site:
    """A log with schedules and jobs, and a scheduler's hand."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.log = Log(database, inline=[JOB_QUEUE, SCHEDULES])
        self.pool: ConnectionPool[Any] = ConnectionPool(
            database, min_size=1, max_size=8, open=True, kwargs={"autocommit": True}
        )
        self.cursors = ScheduleCursors(self.pool)
        self.dispatcher = Dispatcher(self.log)

    def do(self, handler: Callable[..., Any], command: Any) -> Any:
        return self.dispatcher.dispatch(handler, command, Context.system("test", str(uuid4()))).result

    def create(self, name: ScheduleName = TEA, **asked: Any) -> Schedule:
        self.do(create_schedule, CreateSchedule(name, prepare_plan(TYPES, replace(HOURLY, **asked))))
        return self.schedule(name)

    def schedule(self, name: str = TEA) -> Schedule:
        return UnitOfWork(self.log, Context.system("test", "")).get(Schedule, Schedule.create_id(name))

    def settle(self, now: datetime, name: str = TEA, types: JobTypes = TYPES) -> Settled:
        command = SettleOccurrences(Schedule.create_id(name), now, GRACE, types, self.cursors)
        return self.do(settle_occurrences, command)

    def outcomes(self) -> list[Recorded]:
        return [each for each in self.log.read(0, 10_000) if each.topic.startswith("jobs.Occurrence")]

    def rows(self, sql: str) -> list[Any]:
        with self.pool.connection() as connection:
            return connection.execute(sql).fetchall()

    def close(self) -> None:
        self.pool.close()
        self.log.close()


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    site = Site(database)
    yield site
    site.close()


def next_hours(schedule: Schedule, count: int = 3) -> list[datetime]:
    return schedule.plan.times.preview(schedule.created_on, count)


def test_firing_is_one_save_of_the_outcome_and_the_job(site):
    first, second, _ = next_hours(site.create())
    settled = site.settle(first)
    assert settled == Settled(((What.FIRED, 1),), second, first)
    (fired,) = site.outcomes()
    job = site.log.repository.get(occurrence_job_id("tea", first))
    assert isinstance(job, Job)
    assert (job.type, fired.event.instant, fired.event.job_id) == ("tea.brew", first, job.id)
    (enqueued,) = site.log.read_stream(job.id)
    assert enqueued.position == fired.position - 1 or enqueued.position == fired.position + 1
    assert enqueued.metadata.correlation_id == fired.metadata.correlation_id
    assert enqueued.event.occurrence == f"tea@{first:%Y-%m-%dT%H:%M:%SZ}"
    assert site.rows("select id, type, occurrence, args ->> 'leaves' from job_queue") == [
        (job.id, "tea.brew", enqueued.event.occurrence, "oolong")
    ]


def test_settling_again_records_nothing(site):
    first, second, _ = next_hours(site.create())
    site.settle(first)
    head = site.log.head()
    assert site.settle(first) == Settled((), second)
    assert site.settle(first - HOUR) == Settled((), second)
    assert site.log.head() == head


def test_arguments_reach_the_job_and_secret_ones_stay_secret(site):
    first, *_ = next_hours(site.create(args={"leaves": "assam", "cups": 4, "blend": "grandmother's"}))
    created = site.log.read_stream(Schedule.create_id("tea"))[0].event
    assert (created.args, created.secret_args) == ({"leaves": "assam", "cups": 4}, {"blend": "grandmother's"})
    site.settle(first)
    enqueued = site.log.read_stream(occurrence_job_id("tea", first))[0].event
    assert (enqueued.args, enqueued.secret_args) == ({"leaves": "assam", "cups": 4}, {"blend": "grandmother's"})


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"args": {}}, "args.leaves"),
        ({"args": {"leaves": 7}}, "args.leaves"),
        ({"args": {"leaves": "oolong", "sugar": 2}}, "args.sugar"),
        ({"type": "coffee.brew"}, "type"),
        ({"cron": "often"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"timezone": "Middle/Earth"}, "timezone"),
        ({"missed_limit": 1001}, "missed_limit"),
        ({"queue": "No Queue"}, "queue"),
        ({"priority": 101}, "priority"),
    ],
)
def test_refuses_a_plan_that_couldnt_work_and_names_the_field(asked, field):
    with pytest.raises(Invalid) as refusal:
        prepare_plan(TYPES, replace(HOURLY, **asked))
    assert refusal.value.errors[0].field == field


def test_refuses_a_name_that_is_taken_until_it_is_deleted(site):
    site.create()
    with pytest.raises(ScheduleTaken):
        site.create(cron="5 * * * *")
    site.do(delete_schedule, DeleteSchedule(TEA))
    assert site.create(cron="5 * * * *").plan.cron == "5 * * * *"


def test_changes_some_fields_and_keeps_the_others(site):
    site.create(args={"leaves": "assam", "blend": "grandmother's"})
    site.do(change_plan, ChangePlan(TEA, TYPES, {"cron": "*/5 * * * *", "missed": "all"}))
    plan = site.schedule().plan
    assert (plan.cron, plan.missed, plan.all_args["blend"]) == ("*/5 * * * *", "all", "grandmother's")


def test_arguments_that_arent_given_stay_secret_ones_too(site):
    site.create(args={"leaves": "assam", "cups": 4, "blend": "grandmother's"})
    site.do(change_plan, ChangePlan(TEA, TYPES, {"args": {"leaves": "darjeeling"}}))
    plan = site.schedule().plan
    assert (plan.args, plan.secret_args) == ({"leaves": "darjeeling", "cups": 4}, {"blend": "grandmother's"})
    site.do(change_plan, ChangePlan(TEA, TYPES, {"args": {"blend": ""}}))
    assert site.schedule().plan.all_args == {"leaves": "darjeeling", "cups": 4, "blend": ""}


def test_a_change_brings_arguments_of_an_older_version_to_the_newest(site):
    site.create(args={"leaves": "assam"})
    newer = JobType("tea.brew", Brew, version=2, upcasts={1: lambda args: args | {"cups": 9}})
    site.do(change_plan, ChangePlan(TEA, JobTypes([newer]), {"args": {"leaves": "darjeeling"}}))
    plan = site.schedule().plan
    assert (plan.type_version, plan.all_args) == (2, {"leaves": "darjeeling", "cups": 9, "blend": ""})


@pytest.mark.parametrize(
    "type_",
    [
        JobType("tea.brew", POUR.args),
        JobType("tea.brew", Brew, version=2, upcasts={1: lambda args: {"leaves": args["kettle"]}}),
    ],
    ids=["other arguments", "an upcast that fails"],
)
def test_arguments_that_cant_be_read_any_more_are_replaced_on_purpose_only(site, type_):
    site.create(args={"leaves": "assam", "blend": "grandmother's"})
    with pytest.raises(Invalid, match="replace the whole plan") as refusal:
        site.do(change_plan, ChangePlan(TEA, JobTypes([type_]), {"args": {}}))
    assert refusal.value.errors[0].field == "args"


def test_another_type_takes_its_arguments_anew_and_never_shows_what_was_secret(site):
    kiosk = JobType("tea.sell", Sold)
    site.create(args={"leaves": "assam", "blend": "grandmother's"})
    with pytest.raises(Invalid) as refusal:
        site.do(change_plan, ChangePlan(TEA, JobTypes([*TYPES, kiosk]), {"type": "tea.sell"}))
    assert refusal.value.errors[0].field == "args"
    site.do(change_plan, ChangePlan(TEA, JobTypes([*TYPES, kiosk]), {"type": "tea.sell", "args": {"leaves": "assam"}}))
    assert site.schedule().plan.all_args == {"leaves": "assam", "blend": "none"}
    site.do(change_plan, ChangePlan(TEA, TYPES, {"type": "tea.pour", "args": {}}))
    assert site.schedule().plan.type == "tea.pour"


def test_replaces_the_whole_plan(site):
    site.create(missed="all", queue="kitchen")
    site.do(replace_plan, ReplacePlan(TEA, prepare_plan(TYPES, HOURLY)))
    assert (site.schedule().plan.missed, site.schedule().plan.queue) == ("skip", None)


def test_what_isnt_there_cant_be_decided_about(site):
    for handler, command in (
        (pause_schedule, PauseSchedule(TEA)),
        (resume_schedule, ResumeSchedule(TEA)),
        (delete_schedule, DeleteSchedule(TEA)),
        (change_plan, ChangePlan(TEA, TYPES, {})),
    ):
        with pytest.raises(ScheduleNotFound):
            site.do(handler, command)
    assert site.settle(datetime.now(UTC)) == Settled()


def test_a_pause_that_comes_while_an_occurrence_is_settled_wins_or_loses_but_not_both(site):
    schedule = site.create()
    first, *_ = next_hours(schedule)
    paused = False

    class PausesFirst:
        def cursor(self, id_):
            nonlocal paused
            if not paused:
                paused = True
                site.do(pause_schedule, PauseSchedule(TEA, "now"))
            return site.cursors.cursor(id_)

    command = SettleOccurrences(schedule.id, first, GRACE, TYPES, PausesFirst())
    assert site.do(settle_occurrences, command).outcomes == ((What.SKIPPED, 1),)
    assert site.rows("select count(*) from job_queue") == [(0,)]


def test_a_type_that_is_gone_is_an_outcome_and_not_an_endless_failure(site):
    first, second, _ = next_hours(site.create())
    assert site.settle(first, types=JobTypes([POUR])).outcomes == ((What.SKIPPED, 1),)
    assert "no job type" in site.outcomes()[-1].event.reason
    changed = JobType("tea.brew", POUR.args)
    assert site.settle(second, types=JobTypes([changed])).outcomes == ((What.SKIPPED, 1),)
    assert "no such argument" in site.outcomes()[-1].event.reason


def test_an_upcast_that_fails_is_an_outcome_too(site):
    first, *_ = next_hours(site.create())
    newer = JobType("tea.brew", Brew, version=2, upcasts={1: lambda args: {"leaves": args["kettle"]}})
    assert site.settle(first, types=JobTypes([newer])).outcomes == ((What.SKIPPED, 1),)
    assert "KeyError" in site.outcomes()[-1].event.reason


def test_arguments_of_an_older_version_are_brought_to_the_newest(site):
    first, *_ = next_hours(site.create())
    newer = JobType("tea.brew", Brew, version=2, upcasts={1: lambda args: args | {"cups": 9}})
    site.settle(first, types=JobTypes([newer]))
    enqueued = site.log.read_stream(occurrence_job_id("tea", first))[0].event
    assert (enqueued.type_version, enqueued.args["cups"]) == (2, 9)


def test_beside_an_unfinished_job_none_is_enqueued_where_they_mustnt_overlap(site):
    first, second, _ = next_hours(site.create(overlap="coalesce"))
    site.settle(first)
    assert site.settle(second).outcomes == ((What.COALESCED, 1),)
    assert site.outcomes()[-1].event.job_id == occurrence_job_id("tea", first)


def test_a_unique_job_that_is_there_already_stands_for_the_occurrence(site):
    first, second, _ = next_hours(site.create(type="tea.pour", args={}))
    site.settle(first)
    assert site.settle(second).outcomes == ((What.COALESCED, 1),)
    assert "unique" in site.outcomes()[-1].event.reason


def test_missed_ones_are_caught_up_up_to_the_limit(site):
    schedule = site.create(missed="all", missed_limit=2)
    hours = next_hours(schedule, 5)
    settled = site.settle(hours[-1] + 5 * MINUTE)
    assert settled.outcomes == ((What.SKIPPED, 3), (What.CAUGHT_UP, 1), (What.CAUGHT_UP, 1))
    assert site.rows("select count(*) from job_queue") == [(2,)]


def test_many_schedulers_at_once_fire_nothing_twice(site):
    schedule = site.create(cron="* * * * *", missed="all", missed_limit=50)
    due = schedule.plan.times.preview(schedule.created_on, 40)
    with ThreadPoolExecutor(8) as executor:
        # Each believes in a time of its own, and none knows of the others.
        for future in [executor.submit(site.settle, now) for now in due for _ in range(3)]:
            future.result()
    settled = [
        instant
        for each in site.outcomes()
        for instant in ([each.event.instant] if hasattr(each.event, "instant") else each.event.instants)
    ]
    assert sorted(settled) == due
    assert site.rows("select count(*) from job_queue") == [(len(settled),)]


def test_outcomes_that_dont_follow_those_before_are_refused(site):
    schedule = site.create()
    first, second, third = next_hours(schedule)
    site.settle(first)
    late = Occurrence.record(schedule, schedule.created_on, Verdict(What.SKIPPED, (second, third), "a test"))
    with pytest.raises(InlineRefused) as refusal:
        site.log.save_work([late], metadata=b"{}")
    assert refusal.value.sqlstate == ALREADY_SETTLED


def test_a_scheduler_that_read_an_old_cursor_is_refused_and_looks_again(site):
    schedule = site.create(cron="* * * * *", missed="all")
    due = schedule.plan.times.preview(schedule.created_on, 3)
    site.settle(due[0])
    asked = 0

    class OldAtFirst:
        def cursor(self, id_):
            nonlocal asked
            asked += 1
            return Cursor(schedule.created_on, None) if asked == 1 else site.cursors.cursor(id_)

    site.do(settle_occurrences, SettleOccurrences(schedule.id, due[1], GRACE, TYPES, OldAtFirst()))
    assert asked == 2
    assert [each.event.instant for each in site.outcomes()] == due[:2]


def test_the_chain_of_outcomes_has_no_hole(site):
    schedule = site.create(cron="*/7 * * * *", missed="once")
    now = schedule.created_on
    for minutes in (3, 9, 40, 1, 200, 7):
        now += minutes * MINUTE
        site.settle(now)
    through = schedule.created_on
    for each in site.outcomes():
        assert each.event.after == through
        through = getattr(each.event, "through", None) or each.event.instant
    assert site.cursors.cursor(schedule.id).settled_through == through


def test_the_table_can_be_made_anew_from_the_log(site):
    schedule = site.create()
    site.create(ScheduleName("coffee"), cron="5 4 * * *", timezone="Europe/Vienna")
    site.settle(next_hours(schedule)[1])
    site.do(pause_schedule, PauseSchedule(TEA))
    site.do(change_plan, ChangePlan(ScheduleName("coffee"), TYPES, {"timezone": "UTC"}))
    site.do(delete_schedule, DeleteSchedule(ScheduleName("coffee")))
    with psycopg.connect(site.database) as connection:
        before = sorted(schedule_rows(connection), key=lambda row: row.name)
        assert [row.standing for row in before] == ["deleted", "paused"]
        connection.execute("select position from log_head for update")
        refill(connection, site.log.mapper, [JOB_QUEUE, SCHEDULES])
        assert sorted(schedule_rows(connection), key=lambda row: row.name) == before


def test_a_decision_wakes_whoever_listens(site):
    with psycopg.connect(site.database, autocommit=True) as connection:
        connection.execute("listen muniment_schedules")
        site.create()
        assert [each.payload for each in connection.notifies(timeout=5, stop_after=1)] == ["tea"]
        site.settle(next_hours(site.schedule())[0])
        site.do(pause_schedule, PauseSchedule(TEA))
        assert [each.payload for each in connection.notifies(timeout=0.3)] == ["tea"]


def test_a_row_says_when_to_look_again(site):
    schedule = site.create()
    first, second, _ = next_hours(schedule)
    site.settle(first)

    def wakes_at() -> datetime | None:
        with site.pool.connection() as connection:
            return schedule_rows(connection, ["tea"])[0].wakes_at

    assert wakes_at() == second
    site.do(pause_schedule, PauseSchedule(TEA))
    assert wakes_at() <= second  # something may be left of before
    site.do(resume_schedule, ResumeSchedule(TEA))
    site.settle(second)
    assert wakes_at() == second + HOUR


def test_the_platforms_own_are_created_once_and_left_to_the_operators(site):
    own = EnsureSchedules({TEA: prepare_plan(TYPES, HOURLY)})
    assert site.do(ensure_schedules, own) == 1
    site.do(delete_schedule, DeleteSchedule(TEA))
    assert site.do(ensure_schedules, own) == 0
