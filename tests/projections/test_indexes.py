"""A rebuild does without the indexes that none of its statements looks rows up by, and creates them at its end."""

import subprocess
import sys
import time
from dataclasses import replace
from threading import Thread

import psycopg
import pytest

from projections.access import ACCESS
from projections.audit import AUDIT
from projections.builds import create_build, drop_build
from projections.identity import USERS
from projections.indexes import complete, missing
from projections.projection import Projection
from projections.rebuild import Stopped, Works, rebuild
from projections.rebuilds import start
from tests.projections.harbour import HARBOUR, Ship

TABLES = """
    crates (ship uuid, berth integer, label text, opened bigint, closed bigint, primary key (ship, berth, opened));
    index on crates ({index})
"""


@pytest.fixture
def build(connection, request):
    """A build of a projection, to be rebuilt."""

    def make(projection, feed="rebuild"):
        made = create_build(connection, projection, feed=feed)
        request.addfinalizer(lambda: drop_build(connection, made))
        return made

    return make


def crates(index, *statements, **more):
    tables = TABLES.format(index=index)
    return Projection(**({"name": "crates", "version": 1, "tables": tables, "on": {Ship.Moored: statements}} | more))


def shapes(connection, build):
    """The build's indexes, whatever they are called."""
    sql = """
        select regexp_replace(indexdef, '^(create.* index) \\S+ on (\\S+)_b[0-9]+ ', '\\1 \\2 ', 'i') from pg_indexes
         where tablename = any(%s) order by 1
    """
    tables = [build.projection.table(name, build.number) for name in build.projection.table_names]
    return connection.execute(sql, (tables,)).fetchall()


ADD = "insert into {crates} (ship, berth, opened) values (%(stream)s, %(berth)s, %(position)s)"
CLOSE = "update {crates} set closed = %(position)s where ship = %(stream)s and berth = %(berth)s and closed is null"
EMPTY = "update {crates} set closed = %(position)s where berth = %(berth)s"
OF_SHIP = "update {crates} set closed = %(position)s where ship = %(stream)s"
OF_BERTH = "delete from {crates} where ship = %(stream)s and berth in (select berth from {crates} where label = 'tea')"
LAST = """
    delete from {crates} where (ship, opened) =
        (select ship, opened from {crates} where ship = %(stream)s order by label limit 1)
"""


@pytest.mark.parametrize(
    ("index", "statements"),
    [
        ("berth", [ADD]),
        ("label", [ADD, CLOSE, OF_SHIP]),
        ("berth, ship", [ADD, CLOSE]),  # the primary key has both
        ("ship", [CLOSE]),
    ],
)
def test_waits_for_the_end_where_no_statement_needs_it(index, statements, build, connection):
    assert [each.table for each in missing(connection, build(crates(index, *statements)))] == ["crates_crates_v1_b1"]


@pytest.mark.parametrize(
    ("index", "statements"),
    [
        ("berth", [ADD, EMPTY]),  # nothing else finds it
        ("label, ship", [OF_BERTH]),
        ("label", [LAST]),  # its order
        ("ship, label", [LAST]),
        ("lower(label)", [OF_SHIP]),  # who knows?
        ("ship, berth) where (closed is null", [CLOSE]),  # as precise, and without what is closed
        ("label", ["select nonsense from {crates}"]),
    ],
)
def test_stays_where_a_statement_may_need_it(index, statements, build, connection):
    assert missing(connection, build(crates(index, *statements))) == []


def test_stays_where_functions_give_statements_that_nobody_knows(build, connection):
    unknown = crates("label", on={Ship.Moored: lambda _: []})
    assert missing(connection, build(unknown)) == []
    assert len(missing(connection, build(replace(unknown, name="known", generated=[ADD])))) == 1


def test_a_build_that_is_fed_live_has_all_of_them_from_the_start(build, connection):
    assert missing(connection, build(crates("label", ADD), feed="follower")) == []


@pytest.mark.parametrize(("projection", "waiting"), [(USERS, 1), (ACCESS, 2), (AUDIT, 4)])
def test_in_the_end_a_build_has_the_very_indexes_of_any_other(projection, waiting, build, connection):
    rebuilt = build(projection)
    assert complete(connection, rebuilt) == waiting
    assert missing(connection, rebuilt) == []
    assert shapes(connection, rebuilt) == shapes(connection, build(projection, feed="follower"))


def test_indexes_that_the_server_named_are_known_as_whole(build, connection):
    made = build(crates("label", ADD), feed="follower")
    connection.execute("alter index crates_crates_v1_b1_x1 rename to crates_crates_v1_b1_label_idx")
    assert missing(connection, made) == []


def test_two_at_once_create_each_index_once(build, connection, database):
    made, created = build(AUDIT), []

    def work():
        with psycopg.connect(database, autocommit=True) as own:
            created.append(complete(own, made))

    both = [Thread(target=work) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(20)
    assert sum(created) == 4


MANY_ROWS = """
    insert into audit_entries_v1_b1
    select n, '', now(), md5(n::text), md5(n::text || 'a'), 1, 1, md5(n::text || 't'), '', 1, '', '', '', '', '{}', null
      from generate_series(1, 60000) n
"""
COMPLETE = """
import sys, psycopg
from projections.audit import AUDIT
from projections.engine import Build
from projections.indexes import complete
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print("begins", flush=True)
    complete(connection, Build(AUDIT, 1))
"""


def test_whoever_is_killed_while_indexes_are_created_leaves_whole_ones_and_the_next_creates_the_others(
    build, connection, database
):
    made = build(AUDIT)
    connection.execute(MANY_ROWS)
    left = [len(missing(connection, made))]
    for seconds in (0.05, 0.2):
        with subprocess.Popen([sys.executable, "-c", COMPLETE, database], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(seconds)
            process.kill()
        left.append(len(missing(connection, made)))
    assert left == sorted(left, reverse=True)
    complete(connection, made)
    assert missing(connection, made) == []
    assert shapes(connection, made) == shapes(connection, build(AUDIT, feed="follower"))
    valid = "select bool_and(indisvalid) from pg_index where indrelid = 'audit_entries_v1_b1'::regclass"
    assert connection.execute(valid).fetchone() == (True,)


INDEXED = replace(HARBOUR, name="indexed", tables=HARBOUR.tables + "; index on ships (berth)", generated=())


@pytest.fixture
def fleet(record, log, database, connection):
    """A log with some ships; where builds are worked on, and a rebuild that was begun."""
    for number in range(5):
        ship = Ship(f"Clipper {number}", ["gb"])
        ship.moor(number + 1)
        record(ship)
    works = Works(database, log)
    build = start(connection, INDEXED, asked_by="grace")
    yield works, build
    drop_build(connection, build)


def test_a_rebuild_that_is_stopped_before_its_indexes_goes_on_with_them(fleet, connection):
    works, build = fleet
    reached = []
    with pytest.raises(Stopped):
        rebuild(
            works, build, "grace", report=lambda position, head: reached.append(position == head),
            stopping=lambda: len(reached) > 1,
        )  # fmt: skip
    assert reached[-1]
    assert len(missing(connection, build)) == 1
    rebuild(works, build, "grace")
    assert missing(connection, build) == []
    whole = create_build(connection, INDEXED, feed="scratch")
    assert shapes(connection, build) == shapes(connection, whole)
    drop_build(connection, whole)


def test_what_comes_while_indexes_are_created_is_built_too(fleet, connection, monkeypatch, record):
    works, build = fleet
    late = Ship("Late", [])

    def completed(*given):
        record(late)
        return complete(*given)

    monkeypatch.setattr("projections.rebuild.complete", completed)
    position = rebuild(works, build, "grace")
    assert position == works.log.head()
    (found,) = connection.execute("select name from indexed_ships_v1_b1 where id = %s", (late.id,)).fetchone()
    assert found == "Late"
