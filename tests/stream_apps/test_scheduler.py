"""The scheduler: one fires, others stand by; killed, frozen and with a jumping clock it fires nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.jobs.schedules import (
    ChangePlan,
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    PlanRequest,
    ResumeSchedule,
    Settled,
    change_plan,
    create_schedule,
    delete_schedule,
    pause_schedule,
    prepare_plan,
    resume_schedule,
)
from domain.context import Context
from domain.errors import OutcomeUnknown, Overloaded, Unavailable
from domain.jobs.occurrence import occurrence_key
from domain.jobs.schedule import Schedule, ScheduleName
from infra.schedules import LEASE
from infra.work import UnitOfWork
from stream_apps.jobs.scheduler import Agenda, Scheduler
from tests.stream_apps.schedule import CLOCK, TYPES, Site, read_clock

SCRIPT = Path(__file__).with_name("schedule.py")
ROOT = Path(__file__).parents[2]
TEA = ScheduleName("tea")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SYSTEM = Context.system("test", "scheduler")


class Tearoom:
    """A database with a clock of its own, and an operator."""

    def __init__(self, database: str, speed: float) -> None:
        self.database = database
        self.connection = psycopg.connect(database, autocommit=True)
        start = self.connection.execute("select clock_timestamp()").fetchone()[0]
        for statement in CLOCK.split(";"):
            self.connection.execute(statement, (start, speed) if "%s" in statement else None)
        self.site = Site(database, 1.0)
        self.log = self.site.log

    def create(self, name: str = TEA, **asked) -> Schedule:
        request = PlanRequest(**{"cron": "* * * * *", "type": "tea.brew"} | asked)
        self.do(create_schedule, CreateSchedule(ScheduleName(name), prepare_plan(TYPES, request)))
        return self.schedule(name)

    def schedule(self, name: str = TEA) -> Schedule:
        return UnitOfWork(self.log, SYSTEM).get(Schedule, Schedule.create_id(name))

    def do(self, handler, command):
        return self.site.dispatcher.dispatch(handler, command, SYSTEM).result

    def jump(self, by: timedelta) -> None:
        self.connection.execute("update test_clock set jump = jump + %s", (by,))

    def now(self) -> datetime:
        return read_clock(self.connection)

    def through(self, name: str = TEA) -> datetime:
        return self.site.cursors.cursor(Schedule.create_id(name)).settled_through

    def settle_all(self, names, now: datetime) -> None:
        for name in names:
            while self.site.settle(Schedule.create_id(name), now).outcomes:
                pass

    def outcomes(self, name: str = TEA) -> dict[datetime, str]:
        """Each instant's only outcome, whose job, if it says that there is one, is in the log once."""
        settled = self.events(
            "jobs.OccurrenceFired", "jobs.OccurrenceCaughtUp", "jobs.OccurrencesCoalesced", "jobs.OccurrencesSkipped"
        )
        enqueued = [each.event.occurrence for each in self.events("jobs.JobEnqueued")]
        assert len(enqueued) == len(set(enqueued))
        found: dict[datetime, str] = {}
        for each in settled:
            if each.event.schedule != name:
                continue
            has_job = hasattr(each.event, "instant")
            for instant in [each.event.instant] if has_job else each.event.instants:
                assert instant not in found
                assert (occurrence_key(name, instant) in enqueued) is has_job
                found[instant] = each.topic
        return found

    def events(self, *topics: str):
        after, found = 0, []
        while events := self.log.read(after, 5000, topics):
            found += events
            after = events[-1].position
        return found

    def holder(self) -> str | None:
        row = self.connection.execute(
            "select holder from leases where name = %s and expires_at > clock_timestamp()", (LEASE,)
        ).fetchone()
        return row and row[0]

    def close(self) -> None:
        self.site.close()
        self.connection.close()


@pytest.fixture
def tearoom(database):
    tearoom = Tearoom(database, speed=1800)  # an hour in two seconds
    yield tearoom
    tearoom.close()


@contextmanager
def process(database: str):
    command = [sys.executable, str(SCRIPT), database, "1"]
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        yield running
    finally:
        running.send_signal(signal.SIGCONT)
        running.send_signal(signal.SIGKILL)
        running.wait()


def scheduling(site: Site):
    return running(Scheduler(site.setup))


@contextmanager
def running(scheduler: Scheduler):
    thread = Thread(target=scheduler.run)
    thread.start()
    try:
        yield scheduler
    finally:
        scheduler.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()


def wait_until(true, patience: float = 30.0):
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=[pytest.mark.faults, pytest.mark.timeout(1200)])])
def test_two_schedulers_that_are_killed_frozen_and_misled_by_their_clock_give_each_instant_one_outcome(tearoom, rounds):
    chance = random.Random(os.environ.get("DRILL_SEED", "7"))  # noqa: S311
    names = {"all": "all", "once": "once", "skip": "skip"}
    created = {name: tearoom.create(name, missed=missed, missed_limit=500) for name, missed in names.items()}
    for _ in range(rounds):
        with process(tearoom.database) as one, process(tearoom.database) as other:
            before = tearoom.through("all")
            wait_until(lambda before=before: tearoom.through("all") > before)
            tearoom.jump(chance.choice([HOUR, -HOUR, -10 * MINUTE]))
            chance.choice([one, other]).send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(0.1, 1.5))
            chance.choice([one, other]).send_signal(signal.SIGKILL)
            time.sleep(chance.uniform(0.1, 0.5))
    last = max(tearoom.now(), *map(tearoom.through, names))
    tearoom.settle_all(names, last)
    for name, schedule in created.items():
        expected = list(schedule.plan.times.between(schedule.created_on, last))
        assert sorted(tearoom.outcomes(name)) == expected
        assert len(expected) > 30


def test_a_standby_takes_over_within_seconds_when_the_other_is_killed(tearoom):
    tearoom.create()
    with process(tearoom.database) as one:
        wait_until(lambda: tearoom.holder() is not None)
        with process(tearoom.database):
            first = tearoom.holder()
            one.kill()
            since = time.monotonic()
            wait_until(lambda: tearoom.holder() not in {first, None})
            through = tearoom.through()
            wait_until(lambda: tearoom.through() > through)
            assert time.monotonic() - since < 10


def test_one_that_is_told_to_stop_lets_the_lease_go(tearoom):
    with process(tearoom.database) as one:
        wait_until(lambda: tearoom.holder() is not None)
        one.terminate()
        assert one.wait(10) == 0
        assert tearoom.holder() is None


def test_one_that_was_frozen_beyond_its_lease_fires_nothing_that_another_has_fired(tearoom):
    schedule = tearoom.create(missed="all", missed_limit=1000)
    with process(tearoom.database) as one:
        wait_until(lambda: tearoom.holder() is not None and tearoom.through() > schedule.created_on)
        one.send_signal(signal.SIGSTOP)
        first = tearoom.holder()
        with process(tearoom.database):
            wait_until(lambda: tearoom.holder() not in {first, None})
            one.send_signal(signal.SIGCONT)
            through = tearoom.through()
            wait_until(lambda: tearoom.through() > through + 30 * MINUTE)
    last = tearoom.through()
    assert sorted(tearoom.outcomes()) == list(schedule.plan.times.between(schedule.created_on, last))


def test_a_schedule_that_is_created_while_it_sleeps_wakes_it(database):
    tearoom = Tearoom(database, speed=1)
    try:
        with scheduling(tearoom.site) as scheduler:
            scheduler.leading.wait(10)
            time.sleep(0.3)
            schedule = tearoom.create()
            tearoom.jump(2 * MINUTE)
            wait_until(lambda: tearoom.through() > schedule.created_on)
    finally:
        tearoom.close()


def test_decisions_are_followed_at_once(database):
    tearoom = Tearoom(database, speed=1)
    try:
        tearoom.create("yearly", cron="@yearly")
        tearoom.create()
        with scheduling(tearoom.site) as scheduler:
            scheduler.leading.wait(10)
            tearoom.do(pause_schedule, PauseSchedule(TEA))
            tearoom.jump(2 * MINUTE)
            wait_until(lambda: len(tearoom.outcomes()) >= 1)
            assert set(tearoom.outcomes().values()) == {"jobs.OccurrencesSkipped"}
            tearoom.do(resume_schedule, ResumeSchedule(TEA))
            tearoom.do(change_plan, ChangePlan(ScheduleName("yearly"), TYPES, {"cron": "* * * * *"}))
            tearoom.jump(2 * MINUTE)
            wait_until(lambda: len(tearoom.outcomes("yearly")) >= 1)
            wait_until(lambda: "jobs.OccurrenceFired" in tearoom.outcomes().values())
            tearoom.do(delete_schedule, DeleteSchedule(TEA))
            through = tearoom.through()
            tearoom.jump(5 * MINUTE)
            wait_until(lambda: len(tearoom.outcomes("yearly")) >= 4)
            assert tearoom.through() == through
    finally:
        tearoom.close()


def test_it_goes_on_after_postgres_threw_it_out(tearoom):
    tearoom.create()
    with scheduling(tearoom.site) as scheduler:
        scheduler.leading.wait(10)
        tearoom.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        through = tearoom.through()
        wait_until(lambda: tearoom.through() > through + 5 * MINUTE)


def test_it_goes_on_when_the_log_has_not_answered(tearoom):
    schedule, refusals = tearoom.create(), iter([Unavailable, OutcomeUnknown, ZeroDivisionError])

    def now() -> datetime:
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        return tearoom.site.now()

    scheduler = Scheduler(replace(tearoom.site.setup, now=now))
    with running(scheduler):
        wait_until(lambda: tearoom.through() > schedule.created_on)
    assert next(refusals, None) is None


def test_a_schedule_that_cant_be_settled_holds_up_no_other_and_is_tried_again(tearoom):
    bad, good = tearoom.create("bad"), tearoom.create("good")
    failing = True

    def settle(schedule_id: UUID, now: datetime) -> Settled:
        if failing and schedule_id == bad.id:
            raise Overloaded
        return tearoom.site.settle(schedule_id, now)

    with running(Scheduler(replace(tearoom.site.setup, settle=settle))):
        wait_until(lambda: tearoom.through("good") > good.created_on + 5 * MINUTE)
        assert tearoom.through("bad") == bad.created_on
        failing = False
        wait_until(lambda: tearoom.through("bad") > bad.created_on)


def test_a_schedule_whose_zone_has_left_the_database_holds_up_no_other(tearoom, caplog):
    tearoom.create("lost")
    good = tearoom.create("good")
    tearoom.connection.execute("update job_schedules set timezone = 'Atlantis/Poseidonia' where name = 'lost'")
    with scheduling(tearoom.site):
        wait_until(lambda: tearoom.through("good") > good.created_on)
    assert "schedule lost can't be kept" in caplog.text


# When to look at what.

IDS = st.integers(0, 4).map(lambda number: UUID(int=number))
START = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.tuples(st.sampled_from(["put", "settled", "hold", "pop"]), IDS, st.integers(0, 50)), max_size=60))
def test_the_agenda_forgets_nothing_and_hands_out_nothing_too_early(steps):
    own_seconds = 0.0
    agenda, wanted, held = Agenda(lambda: own_seconds), {}, {}
    now = START
    for step, id_, amount in steps:
        at = START + amount * MINUTE
        if step == "put":
            agenda.put(id_, at)
            wanted[id_] = at
            held.pop(id_, None)
        elif step == "settled":
            agenda.settled(id_, at)
            wanted[id_] = min(at, wanted.get(id_, at))
        elif step == "hold":
            agenda.hold(id_, float(amount))
            held[id_] = own_seconds + amount
        else:
            now, own_seconds = max(now, at), own_seconds + 7
            due = {id_ for id_, when in wanted.items() if when <= now} | {
                id_ for id_, when in held.items() if when <= own_seconds
            }
            assert set(agenda.pop_due(now)) == due
            for each in due:
                wanted.pop(each, None)
                held.pop(each, None)
        waits = [(when - now).total_seconds() for when in wanted.values()]
        waits += [when - own_seconds for when in held.values()]
        assert agenda.seconds_to_next(now) == (max(0.0, min(waits)) if waits else None)


def test_what_is_put_none_isnt_looked_at():
    agenda, id_ = Agenda(), uuid4()
    agenda.put(id_, START)
    agenda.put(id_, None)
    assert agenda.seconds_to_next(START) is None
    assert agenda.pop_due(START + HOUR) == []
