"""Two tables are compared row by row, in flat memory."""

import pytest

from projections.compare import differing_rows, primary_key

COLUMNS = (
    "(fleet text, number integer, name text, at timestamptz, freight numeric, papers jsonb,"
    " primary key (fleet, number))"
)


@pytest.fixture
def fleets(connection):
    """Two tables with the same 3,000 rows."""
    for table in ("one", "other"):
        connection.execute(f"create table {table} {COLUMNS}")
        connection.execute(
            f"insert into {table} select 'tea', n, 'Ship ' || n, timestamptz '2026-01-01' + n * interval '1 day', n,"
            " jsonb_build_object('n', n) from generate_series(1, 3000) n"
        )
    return connection


def found(connection, one="one", other="other", key=("fleet", "number"), **parameters):
    with connection.transaction():
        return list(differing_rows(connection, one, other, key, parameters=parameters or None))


def test_equal_tables_have_no_differing_rows(fleets):
    assert found(fleets) == []


def test_a_changed_a_missing_and_an_additional_row_come_in_the_order_of_the_key(fleets):
    fleets.execute("update other set name = 'Thermopylae', papers = null where number = 700")
    fleets.execute("delete from other where number = 12")
    fleets.execute("delete from one where number = 2999")
    gone, changed, additional = found(fleets)
    assert (gone.key, gone.one["name"], gone.other) == ({"fleet": "tea", "number": 12}, "Ship 12", None)
    assert changed.columns == ("name", "papers")
    assert (changed.one["name"], changed.other["name"]) == ("Ship 700", "Thermopylae")
    assert (additional.key["number"], additional.one) == (2999, None)


def test_a_number_that_is_written_otherwise_is_the_same_number(fleets):
    fleets.execute("update other set freight = 700.00 where number = 700")
    assert found(fleets) == []


def test_null_is_a_value_of_its_own(fleets):
    fleets.execute("update one set name = null where number = 1")
    assert [(pair.columns, pair.one["name"]) for pair in found(fleets)] == [(("name",), None)]


def test_parts_of_tables_are_compared_by_queries_with_parameters(fleets):
    fleets.execute("update other set name = 'Thermopylae' where number in (700, 800)")
    part = "(select * from {} where number = any(%(numbers)s))"
    pairs = found(fleets, part.format("one"), part.format("other"), numbers=[1, 700])
    assert [pair.key["number"] for pair in pairs] == [700]


def test_rows_of_a_table_without_a_key_are_matched_whole_and_counted(fleets):
    for table, rows in (("one", "(1), (1), (2)"), ("other", "(1), (2), (3)")):
        fleets.execute(f"create table bag_{table} (n integer)")
        fleets.execute(f"insert into bag_{table} values {rows}")
    assert primary_key(fleets, "bag_one") == ()
    pairs = found(fleets, "bag_one", "bag_other", ())
    assert [(pair.one, pair.other) for pair in pairs] == [({"n": 1}, None), (None, {"n": 3})]


def test_the_key_is_found_in_its_order(fleets):
    fleets.execute("create table crossed (a integer, b text, c integer, primary key (c, a))")
    assert primary_key(fleets, "crossed") == ("c", "a")
    assert primary_key(fleets, "one") == ("fleet", "number")


def test_however_much_differs_rows_come_in_portions(fleets):
    fleets.execute("update other set name = 'Thermopylae'")
    with fleets.transaction():
        pairs = differing_rows(fleets, "one", "other", ("fleet", "number"))
        assert [next(pairs).key["number"] for _ in range(3)] == [1, 2, 3]
        pairs.close()
