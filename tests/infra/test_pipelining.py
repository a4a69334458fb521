"""A pipeline that is filled without asking whether there is room comes to the same, and never waits for itself."""

from collections.abc import Iterator

import psycopg
import pytest

from infra import pipelining

LARGE = 200_000
"""Characters; many of them are more than the sockets hold."""


@pytest.fixture
def piped(database: str) -> Iterator[pipelining.Connection]:
    with pipelining.Connection.connect(database, autocommit=True) as connection:
        yield connection


def test_what_goes_through_a_pipeline_comes_back_in_order(piped: pipelining.Connection) -> None:
    with piped.pipeline():
        cursors = [piped.execute("select %s::int", (number,)) for number in range(300)]
    assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(300)]
    assert piped.execute("select 7").fetchone() == (7,)


def test_more_than_both_sockets_hold_goes_through_both_ways(piped: pipelining.Connection) -> None:
    piped.execute("set statement_timeout = '20s'")
    with piped.pipeline():
        cursors = [piped.execute("select %s || repeat('b', %s)", ("a" * LARGE, LARGE)) for _ in range(100)]
    assert {len(row[0]) for cursor in cursors if (row := cursor.fetchone())} == {2 * LARGE}


def test_many_rows_in_one_call_are_all_there(piped: pipelining.Connection) -> None:
    piped.execute("create table leaves (number int, tea text)")
    with piped.pipeline(), piped.cursor() as cursor:
        cursor.execute("begin")
        cursor.executemany("insert into leaves values (%s, %s)", [(number, "x" * 2000) for number in range(1000)])
        cursor.execute("commit")
    assert piped.execute("select count(*), sum(number) from leaves").fetchone() == (1000, 499_500)


def test_an_error_in_a_pipeline_is_raised_and_nothing_behind_it_is_done(piped: pipelining.Connection) -> None:
    piped.execute("create table pots (number int primary key)")

    def fill() -> None:
        with piped.pipeline():
            for sql in ("begin", *(f"insert into pots values ({number})" for number in (1, 1, 2)), "commit"):
                piped.execute(sql.encode())

    with pytest.raises(psycopg.errors.UniqueViolation):
        fill()
    piped.rollback()
    assert piped.execute("select count(*) from pots").fetchone() == (0,)


def test_a_server_that_is_gone_is_an_error_and_no_endless_wait(piped: pipelining.Connection, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (piped.info.backend_pid,))

    def fill() -> None:
        with piped.pipeline():
            for _ in range(200):
                piped.execute("select %s", ("a" * 1000,))

    with pytest.raises(psycopg.OperationalError):
        fill()


def test_it_is_told_what_it_listens_for(piped: pipelining.Connection, database: str) -> None:
    piped.execute("listen kettle")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("notify kettle, 'sings'")
    heard: list[str] = []
    piped.add_notify_handler(lambda note: heard.append(note.payload))
    with piped.pipeline():
        piped.execute("select 1")
    piped.execute("select 1")
    assert heard == ["sings"]
