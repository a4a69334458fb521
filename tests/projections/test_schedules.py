"""The view of schedules and of what became of their occurrences."""

from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from commands.jobs.schedules import (
    ChangePlan,
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    PlanRequest,
    ResumeSchedule,
    change_plan,
    create_schedule,
    delete_schedule,
    pause_schedule,
    prepare_plan,
    resume_schedule,
)
from domain.jobs.occurrence import occurrence_job_id
from domain.jobs.schedule import Schedule, ScheduleName, ScheduleNotFound
from infra.work import UnitOfWork
from projections.builds import REBUILD_LANE, create_build, ensure_builds
from projections.bulk import forward
from projections.by_sets import SetEngine
from projections.compare import differences, fold_views
from projections.engine import Build, Engine
from projections.facts import read
from projections.indexes import complete
from projections.read import Reader
from projections.schedules import SCHEDULE_VIEW, runs, schedule_by_name, schedules
from tests.stream_apps.schedule import TYPES, Site

TEA = ScheduleName("tea")
HOURLY = PlanRequest(cron="0 * * * *", type="tea.brew", args={"leaves": "assam"}, missed="once")


class Desk:
    """An operator, a scheduler and a reader."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.site = Site(database, 1.0)
        self.reader = Reader(self.site.pool.connection)
        with psycopg.connect(database, autocommit=True) as connection:
            ensure_builds(connection, [SCHEDULE_VIEW])

    def do(self, handler, command):
        return self.site.dispatcher.dispatch(handler, command, self.site.context()).result

    def create(self, name=TEA, **asked) -> Schedule:
        self.do(create_schedule, CreateSchedule(ScheduleName(name), prepare_plan(TYPES, replace(HOURLY, **asked))))
        return UnitOfWork(self.site.log, self.site.context()).get(Schedule, Schedule.create_id(name))

    def look(self, query):
        with psycopg.connect(self.database, autocommit=True) as connection:
            engine = Engine(connection, self.site.log, Build(SCHEDULE_VIEW, 1))
            position = engine.take_over()
            while facts := read(self.site.log, position, 500):
                position = engine.apply(facts, position)
        return self.reader.run(query, SCHEDULE_VIEW).value


@pytest.fixture
def desk(database):
    desk = Desk(database)
    yield desk
    desk.site.close()


def test_shows_the_plan_as_it_is_now(desk):
    desk.create()
    desk.do(change_plan, ChangePlan(TEA, TYPES, {"cron": "*/5 * * * *", "queue": "kitchen"}))
    found = desk.look(lambda read: schedule_by_name(read, "tea"))
    assert (found.cron, found.queue, found.args, found.missed) == (
        "*/5 * * * *",
        "kitchen",
        {"leaves": "assam"},
        "once",
    )
    assert (found.standing, found.version, found.last) == ("active", 2, None)


def test_shows_how_it_stands_and_why(desk):
    desk.create()
    desk.do(pause_schedule, PauseSchedule(TEA, "the kettle is broken"))
    found = desk.look(lambda read: schedule_by_name(read, "tea"))
    assert (found.standing, found.reason) == ("paused", "the kettle is broken")
    desk.do(resume_schedule, ResumeSchedule(TEA))
    assert desk.look(lambda read: schedule_by_name(read, "tea")).standing == "active"


def test_lists_by_name_and_hides_what_was_deleted(desk):
    for name in ("coffee", "milk", "tea"):
        desk.create(name)
    desk.do(delete_schedule, DeleteSchedule(ScheduleName("milk")))
    assert [each.name for each in desk.look(lambda read: schedules(read, 10))] == ["coffee", "tea"]
    assert [each.name for each in desk.look(lambda read: schedules(read, 10, ("coffee",)))] == ["tea"]
    with pytest.raises(ScheduleNotFound):
        desk.look(lambda read: schedule_by_name(read, "milk"))
    assert desk.look(lambda read: runs(read, "milk", 10)) == []
    desk.create("milk", cron="1 1 * * *")
    assert desk.look(lambda read: schedule_by_name(read, "milk")).cron == "1 1 * * *"


def test_every_occurrence_is_a_row_with_its_outcome(desk):
    schedule = desk.create()
    hours = schedule.plan.times.preview(schedule.created_on, 4)
    desk.site.settle(schedule.id, hours[0])
    desk.site.settle(schedule.id, hours[3] + timedelta(minutes=5))
    found = desk.look(lambda read: runs(read, "tea", 10))
    assert [(row.instant, row.outcome) for row in found] == [
        (hours[3], "caught-up"),
        (hours[2], "coalesced"),
        (hours[1], "coalesced"),
        (hours[0], "fired"),
    ]
    assert [row.into_instant for row in found] == [None, hours[3], hours[3], None]
    assert found[0].job_id == occurrence_job_id("tea", hours[3])
    assert desk.look(lambda read: runs(read, "tea", 10, (hours[2],))) == found[2:]
    assert desk.look(lambda read: runs(read, "tea", 10, None, "fired")) == found[3:]
    assert desk.look(lambda read: schedule_by_name(read, "tea")).last == found[0]


def test_what_isnt_there_has_no_runs(desk):
    with pytest.raises(ScheduleNotFound):
        desk.look(lambda read: runs(read, "tea", 10))


def test_folded_anew_the_rows_are_the_same(desk):
    schedule = desk.create()
    desk.site.settle(schedule.id, schedule.plan.times.preview(schedule.created_on, 9)[-1])
    desk.do(delete_schedule, DeleteSchedule(TEA))
    desk.create(cron="*/7 * * * *")
    desk.look(lambda read: schedules(read, 1))
    assert fold_views(desk.database, desk.site.log, Build(SCHEDULE_VIEW, 1))[1] == []


def test_rebuilt_in_bulk_the_rows_are_the_same(desk):
    schedule = desk.create(args={"leaves": "assam"})
    desk.site.settle(schedule.id, schedule.plan.times.preview(schedule.created_on, 9)[-1])
    desk.do(change_plan, ChangePlan(TEA, TYPES, {"cron": "*/7 * * * *", "priority": 5, "missed": "all"}))
    desk.do(pause_schedule, PauseSchedule(TEA, "no water"))
    desk.create("coffee")
    desk.do(delete_schedule, DeleteSchedule(ScheduleName("coffee")))
    desk.create("coffee", cron="1 1 * * *")
    desk.look(lambda read: schedules(read, 1))
    with psycopg.connect(desk.database, autocommit=True) as connection:
        anew = create_build(connection, SCHEDULE_VIEW, feed="rebuild", lane=REBUILD_LANE)
        engine = SetEngine(connection, desk.site.log, anew, lane=REBUILD_LANE, fence=0)
        forward(desk.site.log, [engine], desk.site.log.head())
        complete(connection, anew)
        assert differences(connection, Build(SCHEDULE_VIEW, 1), anew) == []
        parked = "select count(*) from projection_parked where projection = 'schedules'"
        assert connection.execute(parked).fetchone() == (0,)
