"""A follower that is far behind takes whole stretches of the log at once, in views that are read; then it follows."""

from contextlib import contextmanager

import pytest

from domain.projections import Retry
from projections import lane
from projections.builds import ensure_builds
from projections.by_sets import SetEngine
from projections.compare import fold_views
from projections.engine import Build
from projections.facts import read
from projections.lane import Hooks, Setup
from tests.projections.conftest import PATIENCE_SECONDS, following
from tests.projections.harbour import HARBOUR, Ship
from tests.projections.test_by_sets import PASSENGERS, Liner, changed_by, projection, spoil


@pytest.fixture
def declared():
    return projection(invalidates={Liner.Embarked: "passenger"})


@pytest.fixture
def at_once(monkeypatch):
    """How many events went in at once in each stretch; a build is far behind from 10 on."""
    monkeypatch.setattr(lane, "FAR_EVENTS", 10)
    monkeypatch.setattr(lane, "LIVE_STRETCH_EVENTS", 20)
    found, stretch = [], SetEngine.stretch

    def counted(engine, facts, after):
        before = engine.applied
        position = stretch(engine, facts, after)
        found.append((engine.build.projection.name, engine.applied - before))
        return position

    monkeypatch.setattr(SetEngine, "stretch", counted)
    return found


@pytest.fixture
def voyage(record):
    """Ten liners; in each come three passengers, of whom one goes, and a letter is sent: 60 events."""
    liners = [Liner(f"Liner {number}", []) for number in range(10)]
    for number, liner in enumerate(liners):
        for passenger in PASSENGERS:
            liner.embark(passenger, f"{number}", None, 5, True)
        liner.disembark(PASSENGERS[0], f"{number}", None)
        liner.post(f"{number}: all is well")
    record(*liners)
    return liners


@contextmanager
def follower_of(database, log, connection, *declared, hooks=None):
    ensure_builds(connection, declared)
    with following(Setup(log, database, declared, hooks or Hooks())) as follower:
        yield follower


def test_it_ends_where_it_would_have_ended_event_by_event(
    voyage, record, declared, database, log, connection, visible, at_once
):
    told = []
    with follower_of(
        database, log, connection, declared, hooks=Hooks(after_commit=lambda it: told.append(it.invalidate))
    ):
        visible.wait(declared.name, 60)
        voyage[0].embark(PASSENGERS[0], "bridge", None, 9, False)
        visible.wait(declared.name, record(voyage[0]))
        assert fold_views(database, log, Build(declared, 1)) == (61, [])
    assert at_once == [(declared.name, 16), (declared.name, 17), (declared.name, 17)]
    assert told == [("*",)] * 3 + [(str(PASSENGERS[0]),)]
    assert [each["invalidate"] for each in visible.heard] == [["*"]] * 3 + [[str(PASSENGERS[0])]]


def test_what_is_in_doubt_is_parked_and_told_as_ever(
    voyage, record, declared, database, log, connection, visible, at_once
):
    spoil(connection, 0, [(9, ("state", changed_by(lambda said: said | {"fare": "much"})))])
    record(Retry(declared.name, None))
    with follower_of(database, log, connection, declared):
        visible.wait(declared.name, 61)
        assert fold_views(database, log, Build(declared, 1)) == (61, [])
    sql = "select position, error is null from projection_parked order by 1"
    assert connection.execute(sql).fetchall() == [(9, False), (10, True), (11, True), (12, True)]


def test_views_of_other_kinds_go_on_batch_by_batch(voyage, record, database, log, connection, visible, at_once):
    ship = Ship("Fram", [])
    record(ship)
    with follower_of(database, log, connection, HARBOUR):
        visible.wait("harbour", log.head())
    assert at_once == []


def test_the_shared_number_moves_with_the_rows(voyage, declared, database, log, connection, visible, at_once):
    """Nobody finds what was remembered before, and takes it for what holds now."""
    connection.execute("listen muniment_cache")
    connection.execute("listen muniment_progress")
    with follower_of(database, log, connection, declared):
        visible.wait(declared.name, 60)
    heard = [each.channel for each in connection.notifies(timeout=PATIENCE_SECONDS, stop_after=6)]
    assert heard == ["muniment_cache", "muniment_progress"] * 3


def test_a_build_that_isnt_read_is_told_of_to_nobody(voyage, declared, log, connection):
    ensure_builds(connection, [declared])
    connection.execute("listen muniment_cache")
    connection.execute("listen muniment_progress")
    engine = SetEngine(connection, log, Build(declared, 1), fence=0)
    assert engine.stretch(read(log, 59, 1), 0) == 60
    assert engine.applied == 50
    assert list(connection.notifies(timeout=0)) == []
