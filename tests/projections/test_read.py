"""A query sees one snapshot, and the stated position is true for it."""

from contextlib import contextmanager
from dataclasses import replace
from threading import Thread

import psycopg
import pytest

from domain.errors import ProjectionBehind
from domain.projections import NotParked
from projections.builds import create_build, drop_build
from projections.engine import Build, Engine
from projections.errors import Starting
from projections.facts import read as read_log
from projections.parked import parked, parked_streams, require_parked
from projections.read import Reader
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship


@pytest.fixture
def reader(database, builds):
    @contextmanager
    def connect():
        with psycopg.connect(database, autocommit=True) as connection:
            yield connection

    return Reader(connect)


@pytest.fixture
def apply_all(connection, log, builds):
    def go_on(*which):
        for build in which or builds:
            engine = Engine(connection, log, build)
            position = engine.take_over()
            engine.apply(read_log(log, position, 1000), position)

    return go_on


def names(read):
    return [row["name"] for row in read.all("select name from {ships} order by name")]


def test_answers_with_the_least_position_of_what_it_reads(reader, record, apply_all, builds):
    record(Ship("Fram", []))
    apply_all()
    record(Keeper("Ida Lewis"))
    apply_all(builds[0])
    assert reader.run(names, HARBOUR).position == 2
    assert reader.run(names, HARBOUR, KEEPERS).position == 1
    assert reader.run(names, HARBOUR).value == ["Fram"]


def test_one_and_scalar(reader, record, apply_all):
    record(Ship("Fram", []), Keeper("Ida Lewis"))
    apply_all()

    def both(read):
        ship = read.one("select name from {harbour.ships} where name = %(name)s", {"name": "Fram"})
        return ship, read.scalar("select count(*) from {keepers}"), read.one("select 1 from {ships} where false")

    assert reader.run(both, HARBOUR, KEEPERS).value == ({"name": "Fram"}, 1, None)


def test_a_table_of_another_projection_is_refused(reader):
    with pytest.raises(KeyError):
        reader.run(lambda read: read.all("select * from {keepers}"), HARBOUR)


def test_behind_the_asked_position_it_says_so(reader, record):
    position = record(Ship("Fram", []))
    with pytest.raises(ProjectionBehind):
        reader.run(names, HARBOUR, at_least=position)


def test_a_version_without_tables_is_starting(reader):
    with pytest.raises(Starting):
        reader.run(names, replace(HARBOUR, version=2))


def test_rows_and_position_are_of_one_snapshot(reader, record, apply_all):
    apply_all()

    def looks_twice(read):
        before = names(read)
        thread = Thread(target=lambda: (record(Ship("Fram", [])), apply_all()))
        thread.start()
        thread.join()
        return before, names(read)

    assert reader.run(looks_twice, HARBOUR).value == ([], [])
    assert reader.run(names, HARBOUR).value == ["Fram"]


def test_a_build_dropped_under_the_query_is_left_for_its_successor(reader, record, apply_all, connection, builds):
    record(Ship("Fram", []))
    shadow = create_build(connection, HARBOUR, feed="rebuild")
    apply_all(builds[0], shadow)
    looks = []

    def while_it_is_cut_over(read):
        looks.append(read.build("harbour").number)
        if len(looks) == 1:
            connection.execute("update projection_builds set active = false where projection = 'harbour'")
            connection.execute("update projection_builds set active = true where projection = 'harbour' and build = 2")
            drop_build(connection, Build(HARBOUR, 1))
        return names(read)

    assert reader.run(while_it_is_cut_over, HARBOUR).value == ["Fram"]
    assert looks == [1, 2]


def test_lists_what_is_parked(reader, record, apply_all):
    sunk = Ship("Vasa", [])
    sunk.moor(0)
    sunk.moor(3)
    record(sunk)
    apply_all()
    rows = reader.run(lambda read: parked(read, HARBOUR, limit=10), HARBOUR).value
    assert [(row.position, row.topic, row.error is None) for row in rows] == [
        (2, "harbour.ShipMoored", False),
        (3, "harbour.ShipMoored", True),
    ]
    assert "CheckViolation" in rows[0].traceback
    assert reader.run(lambda read: parked(read, HARBOUR, after=2, limit=10), HARBOUR).value == rows[1:]
    assert reader.run(lambda read: parked_streams(read, HARBOUR, [sunk.id]), HARBOUR).value == {sunk.id}


def test_what_is_not_parked_can_be_told_before_it_is_asked_for(reader, record, apply_all):
    record(Ship("Vasa", []))
    apply_all()
    with pytest.raises(NotParked):
        reader.run(lambda read: require_parked(read, HARBOUR, position=1), HARBOUR)
    with pytest.raises(NotParked):
        reader.run(lambda read: require_parked(read, HARBOUR), HARBOUR)
