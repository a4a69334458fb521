"""A release that brings a new version of a view builds it first, while the release before serves from the old one."""

from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from domain.builds import NoOtherBuild
from infra.event_store import Log
from projections.builds import builds_fed_by, ensure_builds, not_level
from projections.catalogue import catalogue
from projections.compare import fold_views
from projections.engine import Build
from projections.errors import Starting
from projections.lane import Setup
from projections.read import Reader
from projections.rebuild import Works, rebuild
from projections.rebuilds import status, unfinished
from projections.switch import switchable
from projections.wishes import WISHES
from tests.projections.conftest import following
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship

OLD = KEEPERS
NEW = replace(
    KEEPERS,
    version=2,
    tables="keepers (id uuid primary key, name text not null, hired_at timestamptz not null, hat text default 'straw')",
    on={Keeper.Hired: "insert into {keepers} (id, name, hired_at) values (%(stream)s, %(name)s, %(recorded_at)s)"},
)


@pytest.fixture
def log(database):
    log = Log(database, inline=[WISHES])
    yield log
    log.close()


@pytest.fixture
def works(database, log):
    return Works(database, log)


@pytest.fixture
def reader(database):
    @contextmanager
    def connect():
        with psycopg.connect(database, autocommit=True) as own:
            yield own

    return Reader(connect)


def names(read):
    return [row["name"] for row in read.all("select name from {keepers} order by name")]


def hats(read):
    return {row["hat"] for row in read.all("select hat from {keepers}")}


def test_the_old_process_serves_while_the_new_one_is_starting_and_both_are_fed(
    builds, log, works, connection, database, reader, record, visible
):
    record(*[Keeper(f"Keeper {number}") for number in range(50)])
    with following(Setup(log, database, [HARBOUR, OLD])):
        visible.wait("keepers", log.head())
    ensure_builds(connection, [HARBOUR, NEW], bulk_events=20)

    # The new process is starting, the old one answers, and nobody but the rebuild feeds the new build.
    assert not_level(connection, [NEW], log.head()) == ["keepers"]
    assert reader.run(names, OLD).position == log.head()
    assert builds_fed_by(connection, "follower", [OLD, NEW]) == [Build(OLD, 1)]
    (waiting,) = unfinished(connection)
    assert (waiting.version, waiting.state, waiting.attended, waiting.asked_by) == (
        2,
        "waiting",
        False,
        "system:release",
    )

    # The release's follower feeds both declarations; the rebuild hands the new build to it.
    with following(Setup(log, database, [HARBOUR, NEW, OLD])):
        record(Keeper("Ida Lewis"))
        rebuild(works, Build(NEW, 1), "system:follower")
        head = record(Keeper("Grace Darling"))
        connection.execute("listen muniment_progress")
        while not_level(connection, [OLD, NEW], head):
            assert list(connection.notifies(timeout=5, stop_after=1)), "one of both isn't fed"
        assert reader.run(names, OLD, at_least=head).value == reader.run(names, NEW, at_least=head).value
        assert reader.run(hats, NEW).value == {"straw"}
        assert fold_views(database, log, Build(NEW, 1))[1] == []
    assert status(connection, NEW).state == "live"
    assert {(s.version, s.active, s.feed) for s in catalogue(connection) if s.name == "keepers"} == {
        (1, True, "follower"),
        (2, True, "follower"),
    }


def test_before_its_release_nobody_can_read_a_version(builds, reader):
    with pytest.raises(Starting):
        reader.run(names, NEW)


def test_a_short_log_is_left_to_the_follower(builds, connection, record):
    record(Ship("Fram", []))
    ensure_builds(connection, [NEW], bulk_events=20)
    assert builds_fed_by(connection, "follower", [NEW]) == [Build(NEW, 1)]


def test_versions_are_not_cut_over_between_but_each_read_by_its_release(builds, connection, works):
    ensure_builds(connection, [NEW])
    with pytest.raises(NoOtherBuild):
        switchable(works, NEW, back=False)
