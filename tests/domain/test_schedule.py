"""Schedules, and what becomes of each of their occurrences."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from eventsourcing.domain import CanCreateTimestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import Invalid
from domain.jobs.occurrence import (
    FIRED_PER_SAVE,
    INSTANTS_PER_EVENT,
    INSTANTS_PER_SAVE,
    Judge,
    Occurrence,
    Outcome,
    Verdict,
    occurrence_key,
)
from domain.jobs.schedule import Plan, Schedule, ScheduleName, ScheduleNotFound, ScheduleTaken, Standing

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
GRACE = timedelta(seconds=60)
BACKUP = Plan(cron="0 * * * *", timezone="UTC", type="tea.brew", type_version=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(CanCreateTimestamp, "create_timestamp", staticmethod(clock))
    return clock


def schedule(**plan) -> Schedule:
    return Schedule.create(ScheduleName("tea"), replace(BACKUP, **plan))


class Outcomes:
    """What a scheduler records that looks now and then."""

    def __init__(self, of: Schedule, grace: timedelta = GRACE) -> None:
        self.schedule = of
        self.grace = grace
        self.through = of.created_on
        self.recorded: list[Verdict] = []

    def look(self, now: datetime) -> list[Verdict]:
        """One look: as many saves as it takes."""
        found: list[Verdict] = []
        while verdicts := Judge(now, self.grace).verdicts(self.schedule, self.through):
            assert sum(len(each.instants) for each in verdicts) <= INSTANTS_PER_SAVE
            assert sum(each.outcome in {Outcome.FIRED, Outcome.CAUGHT_UP} for each in verdicts) <= FIRED_PER_SAVE
            found += verdicts
            self.through = verdicts[-1].instants[-1]
        self.recorded += found
        return found

    @property
    def instants(self) -> list[datetime]:
        return [instant for each in self.recorded for instant in each.instants]


def told(verdicts: list[Verdict]) -> list[tuple[str, list[str]]]:
    return [(str(each.outcome), [f"{instant:%H:%M}" for instant in each.instants]) for each in verdicts]


def test_fires_at_each_instant_after_its_creation(clock):
    outcomes = Outcomes(schedule())
    assert told(outcomes.look(NOON + HOUR)) == [("fired", ["13:00"])]
    assert outcomes.look(NOON + HOUR + 59 * MINUTE) == []
    assert told(outcomes.look(NOON + 2 * HOUR)) == [("fired", ["14:00"])]


def test_what_comes_within_the_grace_is_on_time(clock):
    outcomes = Outcomes(schedule(missed="skip"))
    assert told(outcomes.look(NOON + HOUR + GRACE)) == [("fired", ["13:00"])]
    assert told(outcomes.look(NOON + 2 * HOUR + GRACE + MINUTE)) == [("skipped", ["14:00"])]


def test_skips_what_was_missed_and_says_so(clock):
    verdicts = Outcomes(schedule(missed="skip")).look(NOON + 3 * HOUR)
    assert told(verdicts) == [("skipped", ["13:00", "14:00"]), ("fired", ["15:00"])]
    assert "missed" in verdicts[0].reason


def test_runs_once_for_all_that_were_missed(clock):
    verdicts = Outcomes(schedule(missed="once")).look(NOON + 3 * HOUR + 30 * MINUTE)
    assert told(verdicts) == [("coalesced", ["13:00", "14:00"]), ("caught-up", ["15:00"])]
    assert verdicts[0].into == NOON + 3 * HOUR


def test_the_one_that_is_on_time_stands_for_those_that_were_missed(clock):
    verdicts = Outcomes(schedule(missed="once")).look(NOON + 3 * HOUR)
    assert told(verdicts) == [("coalesced", ["13:00", "14:00"]), ("fired", ["15:00"])]
    assert verdicts[0].into == NOON + 3 * HOUR


def test_catches_all_up_to_a_limit_of_the_newest(clock):
    verdicts = Outcomes(schedule(missed="all", missed_limit=2)).look(NOON + 4 * HOUR + 30 * MINUTE)
    assert told(verdicts) == [("skipped", ["13:00", "14:00"]), ("caught-up", ["15:00"]), ("caught-up", ["16:00"])]
    assert "newest 2" in verdicts[0].reason


def test_nothing_fires_in_a_pause_nor_later_for_it(clock):
    tea = schedule(missed="all")
    outcomes = Outcomes(tea)
    clock.now = NOON + 90 * MINUTE
    tea.pause("the kettle is broken")
    assert told(outcomes.look(NOON + 2 * HOUR)) == [("skipped", ["13:00", "14:00"])]
    clock.now = NOON + 190 * MINUTE
    tea.resume()
    verdicts = outcomes.look(NOON + 5 * HOUR)
    assert told(verdicts) == [("skipped", ["15:00"]), ("caught-up", ["16:00"]), ("fired", ["17:00"])]
    assert verdicts[0].reason == "paused"


def test_what_was_missed_before_a_pause_is_caught_up_after_it_if_nobody_looked_meanwhile(clock):
    tea = schedule(missed="all")
    outcomes = Outcomes(tea)
    clock.now = NOON + 90 * MINUTE
    tea.pause()
    clock.now = NOON + 150 * MINUTE
    tea.resume()
    assert told(outcomes.look(NOON + 3 * HOUR)) == [
        ("caught-up", ["13:00"]),
        ("skipped", ["14:00"]),
        ("fired", ["15:00"]),
    ]


def test_a_change_takes_effect_at_once_and_what_was_before_goes_by_the_former_plan(clock):
    tea = schedule()
    outcomes = Outcomes(tea)
    clock.now = NOON + 70 * MINUTE
    tea.change(replace(BACKUP, cron="*/15 * * * *"))
    assert tea.first_due(clock.now) == NOON + 75 * MINUTE
    assert told(outcomes.look(NOON + 90 * MINUTE)) == [("skipped", ["13:00", "13:15"]), ("fired", ["13:30"])]


def test_a_change_of_the_zone_takes_effect_at_once(clock):
    tea = schedule(cron="0 15 * * *", timezone="UTC")
    clock.now = NOON + MINUTE
    tea.change(replace(tea.plan, timezone="Europe/Vienna"))
    assert tea.first_due(clock.now) == NOON + HOUR


def test_what_was_left_at_the_deletion_is_skipped_and_nothing_comes_after(clock):
    tea = schedule(missed="all")
    outcomes = Outcomes(tea)
    clock.now = NOON + 150 * MINUTE
    tea.delete()
    assert told(outcomes.look(NOON + 9 * HOUR)) == [("skipped", ["13:00", "14:00"])]
    assert tea.first_due(outcomes.through) is None


def test_a_name_can_be_used_again_after_the_deletion(clock):
    tea = schedule()
    outcomes = Outcomes(tea)
    clock.now = NOON + 30 * MINUTE
    with pytest.raises(ScheduleTaken):
        tea.reinstate(BACKUP)
    tea.delete()
    clock.now = NOON + 150 * MINUTE
    tea.reinstate(replace(BACKUP, cron="30 * * * *"))
    assert told(outcomes.look(NOON + 210 * MINUTE)) == [("fired", ["15:30"])]


def test_says_nothing_twice(clock):
    tea = schedule()
    tea.collect_events()
    tea.change(BACKUP)
    tea.resume()
    assert tea.collect_events() == []
    tea.pause()
    tea.pause()
    assert len(tea.collect_events()) == 1


def test_a_change_of_the_arguments_alone_begins_no_new_period(clock):
    tea = schedule()
    tea.change(replace(BACKUP, args={"cups": 3}))
    assert len(tea.periods) == 1
    assert tea.plan.all_args == {"cups": 3}


@pytest.mark.parametrize("act", [lambda tea: tea.change(BACKUP), Schedule.pause, Schedule.resume, Schedule.delete])
def test_what_was_deleted_isnt_there(clock, act):
    tea = schedule()
    tea.delete()
    with pytest.raises(ScheduleNotFound):
        act(tea)


@pytest.mark.parametrize("name", ["", "Tea", "tea time", "tea/time", "a" * 101, "tea\n", "-"])
def test_refuses_what_is_no_name(name):
    with pytest.raises(Invalid) as refusal:
        ScheduleName(name)
    assert refusal.value.errors[0].field == "name"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"cron": "61 * * * *"}, "cron"), ({"timezone": "Mars"}, "timezone"), ({"missed_limit": 0}, "missed_limit")],
)
def test_refuses_a_plan_that_is_none(wrong, field):
    with pytest.raises(Invalid) as refusal:
        schedule(**wrong)
    assert refusal.value.errors[0].field == field


def test_a_week_of_missed_minutes_is_settled_in_bounded_steps(clock):
    outcomes = Outcomes(schedule(cron="* * * * *", missed="once"))
    now = NOON + timedelta(days=9) + timedelta(seconds=90)
    verdicts = outcomes.look(now + 5 * GRACE)
    assert max(len(each.instants) for each in verdicts) == INSTANTS_PER_EVENT
    assert len(outcomes.instants) == len(set(outcomes.instants)) == 9 * 1440 + 6
    assert Counter(each.outcome for each in verdicts)[Outcome.CAUGHT_UP] == 0
    fired = [each.instants[0] for each in verdicts if each.outcome is Outcome.FIRED]
    assert {each.into for each in verdicts if each.outcome is Outcome.COALESCED} == {fired[0]}


def test_the_id_of_an_outcome_says_which_instant_it_begins_with(clock):
    tea = schedule()
    once = Occurrence.record(tea, NOON, Verdict(Outcome.SKIPPED, (NOON + HOUR, NOON + 2 * HOUR), "paused"))
    same = Occurrence.record(tea, NOON, Verdict(Outcome.FIRED, (NOON + HOUR,), "due"), tea.id)
    other = Occurrence.record(tea, NOON, Verdict(Outcome.FIRED, (NOON + 2 * HOUR,), "due"), tea.id)
    assert once.id == same.id != other.id
    assert occurrence_key("tea", NOON) == "tea@2026-06-01T12:00:00Z"


# What happens to a schedule, in whatever order: the oracle goes through it minute by minute.

PLANS = st.builds(
    lambda cron, zone, missed, limit: replace(BACKUP, cron=cron, timezone=zone, missed=missed, missed_limit=limit),
    st.sampled_from(["0 * * * *", "*/20 * * * *", "30 3 * * *", "17 1-5 * * *"]),
    st.sampled_from(["UTC", "Europe/Vienna", "Australia/Lord_Howe"]),
    st.sampled_from(["skip", "once", "all"]),
    st.integers(1, 5),
)
STEPS = st.lists(
    st.tuples(
        st.integers(1, 400),  # minutes until then
        st.sampled_from(["look", "look", "look", "pause", "resume", "change", "delete", "reinstate"]),
        PLANS,
    ),
    max_size=25,
)


@given(PLANS, STEPS, st.integers(-3, 3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_instant_has_exactly_one_outcome_whatever_happens(clock, plan, steps, seconds):
    clock.now = datetime(2026, 3, 28, 20, tzinfo=UTC) + timedelta(seconds=seconds)
    tea = Schedule.create(ScheduleName("tea"), plan)
    outcomes, stood = Outcomes(tea), [(clock.now, plan, Standing.ACTIVE)]
    for minutes, step, other in steps:
        clock.now += minutes * MINUTE
        if step == "look":
            _check_look(tea, outcomes.look(clock.now), clock.now)
            continue
        if (step == "reinstate") is not tea.is_deleted:
            continue
        {
            "pause": tea.pause,
            "resume": tea.resume,
            "delete": tea.delete,
            "change": lambda plan=other: tea.change(plan),
            "reinstate": lambda plan=other: tea.reinstate(plan),
        }[step]()
        stood.append((clock.now, tea.plan, tea.standing))
    clock.now += 400 * MINUTE
    outcomes.look(clock.now)

    expected = []
    for (since, held, standing), (until, _, _) in pairwise([*stood, (clock.now, plan, None)]):
        if standing is not Standing.DELETED:
            expected += held.times.between(since, until)
    assert outcomes.instants == expected


def _check_look(tea: Schedule, verdicts: list[Verdict], now: datetime) -> None:
    """What one look at a schedule may record, by its policy."""
    by_outcome = Counter(dict.fromkeys(Outcome, 0))
    for each in verdicts:
        by_outcome[each.outcome] += len(each.instants)
    caught_up = [each.instants[0] for each in verdicts if each.outcome is Outcome.CAUGHT_UP]
    fired = [each.instants[0] for each in verdicts if each.outcome is Outcome.FIRED]
    assert all(now - GRACE <= instant <= now for instant in fired)
    assert all(instant < now - GRACE for instant in caught_up)
    if tea.standing is not Standing.ACTIVE:
        assert not caught_up
        assert not fired
    elif tea.plan.missed == "skip":
        assert by_outcome[Outcome.CAUGHT_UP] == by_outcome[Outcome.COALESCED] == 0
    elif tea.plan.missed == "once":
        assert len(caught_up) <= 1
        assert {each.into for each in verdicts if each.outcome is Outcome.COALESCED} <= {*caught_up, *fired[:1]}
    else:
        assert len(caught_up) <= tea.plan.missed_limit
        assert by_outcome[Outcome.COALESCED] == 0
        skipped = [each for each in verdicts if "newest" in each.reason]
        assert not skipped or len(caught_up) == tea.plan.missed_limit


@given(st.lists(st.integers(-90, 200), min_size=1, max_size=40), st.sampled_from(["skip", "once", "all"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_machine_whose_clock_jumps_fires_nothing_twice_and_forgets_nothing(clock, moves, missed):
    """The log's clock never goes back: while the machine's is behind it, it stands."""
    clock.now = NOON
    tea = schedule(cron="*/5 * * * *", missed=missed)
    outcomes = Outcomes(tea)
    machine = log_clock = NOON
    for minutes in moves:
        machine += minutes * MINUTE
        log_clock = max(log_clock, machine)
        outcomes.look(log_clock)
    assert outcomes.instants == list(tea.plan.times.between(NOON, log_clock))
