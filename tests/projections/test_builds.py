"""Which tables exist, which are read, and how far they are."""

from dataclasses import replace
from threading import Barrier, Thread

import psycopg
import pytest

from projections.builds import (
    ChangedProjection,
    builds_fed_by,
    create_build,
    drop_build,
    ensure_builds,
    not_level,
)
from projections.catalogue import catalogue
from projections.compare import differences, fold_views
from projections.engine import Build, Engine
from projections.facts import read
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship


def test_two_starters_at_once_create_one_build(database, connection):
    ready = Barrier(2)

    def start():
        with psycopg.connect(database, autocommit=True) as own:
            ready.wait()
            ensure_builds(own, [HARBOUR, KEEPERS])

    threads = [Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connection.execute("select projection, build, active from projection_builds order by 1").fetchall() == [
        ("harbour", 1, True),
        ("keepers", 1, True),
    ]


def test_tables_that_changed_without_a_version_are_refused(builds, connection):
    wider = replace(KEEPERS, tables=KEEPERS.tables.replace("name text", "name text, hat text"))
    with pytest.raises(ChangedProjection, match=r"keepers v1.*as version 2"):
        ensure_builds(connection, [wider])


def test_tables_may_be_laid_out_differently_on_the_page(builds, connection):
    ensure_builds(connection, [replace(KEEPERS, tables=KEEPERS.tables.replace(" ", "\n "))])


def test_a_new_version_lives_beside_the_old_one(builds, connection):
    newer = replace(KEEPERS, version=2)
    ensure_builds(connection, [KEEPERS, newer])
    assert builds_fed_by(connection, "follower", [KEEPERS, newer]) == [Build(KEEPERS, 1), Build(newer, 1)]
    assert builds_fed_by(connection, "follower", [newer]) == [Build(newer, 1)]


def test_a_further_build_is_fed_by_its_own_feed_until_it_is_dropped(builds, connection):
    shadow = create_build(connection, HARBOUR, feed="rebuild")
    assert shadow.number == 2
    assert shadow not in builds_fed_by(connection, "follower", [HARBOUR])
    drop_build(connection, shadow)
    assert builds_fed_by(connection, "rebuild", [HARBOUR]) == []
    assert connection.execute("select to_regclass('harbour_ships_v1_b2')").fetchone() == (None,)


def test_a_process_is_starting_until_its_views_are_level(builds, connection, record, log):
    head = record(Ship("Beagle", []), Keeper("Ida Lewis"))
    Engine(connection, log, builds[0]).apply(read(log, 0, 10), 0)
    assert not_level(connection, [HARBOUR, KEEPERS], head) == ["keepers"]
    assert not_level(connection, [replace(HARBOUR, version=2)], 0) == ["harbour"]


def test_the_catalogue_says_how_far_each_is(builds, connection, record, log):
    drifter = Ship("Marie Celeste", [])
    drifter.moor(0)
    record(drifter, Keeper("Ida Lewis"))
    Engine(connection, log, builds[0]).apply(read(log, 0, 10), 0)
    harbour, keepers = catalogue(connection)
    assert (harbour.name, harbour.position, harbour.lag_events, harbour.lag_seconds) == ("harbour", 3, 0, 0)
    assert (harbour.parked, harbour.feed, harbour.active, harbour.head) == (1, "follower", True, 3)
    assert (keepers.position, keepers.lag_events, keepers.parked) == (0, 3, 0)
    assert 0 < keepers.lag_seconds < 60


def test_comparing_names_the_rows_that_differ(builds, connection, record, log, database):
    record(Ship("Cutty Sark", []), Ship("Thermopylae", []))
    Engine(connection, log, builds[0]).apply(read(log, 0, 10), 0)
    assert fold_views(database, log, builds[0]) == (2, [])
    connection.execute("update harbour_ships_v1_b1 set chests = 9 where name = 'Thermopylae'")
    connection.execute("insert into harbour_sightings_v1_b1 values (gen_random_uuid(), 5, 0.5)")
    _, found = fold_views(database, log, builds[0])
    assert [(d.table, d.build, d.row.get("name"), d.row.get("chests")) for d in found] == [
        ("ships", 1, "Thermopylae", 9),
        ("ships", 3, "Thermopylae", 0),
        ("sightings", 1, None, None),
    ]
    assert differences(connection, builds[0], builds[0]) == []
