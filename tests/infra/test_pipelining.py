"""A pipeline that is filled without asking whether there is room comes to the same, and never waits for itself."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.pq import PipelineStatus, TransactionStatus

from infra import pipelining

Either: TypeAlias = psycopg.Connection[Any]
"""One whose pipelines go out in one piece, or psycopg's own: what is said of both is asked of both."""

LARGE = 200_000
"""Characters; many of them are more than the sockets hold."""


@pytest.fixture
def piped(database: str) -> Iterator[pipelining.Connection]:
    with pipelining.Connection.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=[pipelining.Connection, psycopg.Connection], ids=["in one piece", "psycopg's own"])
def either(database: str, request: pytest.FixtureRequest) -> Iterator[Either]:
    with request.param.connect(database, autocommit=True) as connection:
        connection.execute("set statement_timeout = '20s'")
        connection.execute("create table cups (number int primary key)")
        yield connection


class Spilt(Exception):
    pass


def cups(connection: Either) -> list[int]:
    return [number for (number,) in connection.execute("select number from cups order by number").fetchall()]


def pour(connection: Either, number: int) -> psycopg.Cursor[Any]:
    return connection.execute("insert into cups values (%s)", (number,))


def assert_at_rest(connection: Either) -> None:
    """Neither in a transaction nor in a pipeline, and what is asked is answered."""
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert connection.pgconn.pipeline_status == PipelineStatus.OFF
    assert connection.execute("select 7").fetchone() == (7,)


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


def test_of_transactions_in_a_pipeline_only_the_one_that_failed_is_undone(either: Either) -> None:
    with either.pipeline():
        with either.transaction():
            pour(either, 1)
            with suppress(Spilt), either.transaction():
                pour(either, 2)
                raise Spilt
            pour(either, 3)
        with suppress(Spilt), either.transaction():
            pour(either, 4)
            raise Spilt
    assert cups(either) == [1, 3]
    assert_at_rest(either)


def test_a_statement_that_fails_in_a_transaction_undoes_it_and_the_pipeline_goes_on(either: Either) -> None:
    def twice() -> None:
        with either.transaction():
            pour(either, 1)
            pour(either, 1)

    with either.pipeline():
        with pytest.raises(psycopg.errors.UniqueViolation):
            twice()
        pour(either, 2)
    assert cups(either) == [2]
    assert_at_rest(either)


def test_a_result_is_there_in_the_middle_with_what_was_done_before_it(either: Either) -> None:
    with either.pipeline():
        pour(either, 1)
        found = either.execute("select number from cups").fetchall()
        pour(either, 2)
        assert either.execute("select max(number) from cups").fetchone() == (2,)
        pour(either, 3)
    assert found == [(1,)]
    assert cups(either) == [1, 2, 3]


def test_what_is_told_apart_by_a_synchronisation_is_done_apart(either: Either) -> None:
    def fill() -> None:
        with either.pipeline() as pipeline:
            pour(either, 1)
            pipeline.sync()
            pour(either, 2)
            pour(either, 2)

    with pytest.raises(psycopg.errors.UniqueViolation):
        fill()
    assert cups(either) == [1]
    assert_at_rest(either)


def test_what_was_answered_before_an_error_can_still_be_read(either: Either) -> None:
    before: list[psycopg.Cursor[Any]] = []

    def fill() -> None:
        with either.pipeline():
            before.append(either.execute("select 1"))
            before.append(either.execute("select n from generate_series(1, 3) n"))
            either.execute("select 1 / 0")
            pour(either, 1)

    with pytest.raises(psycopg.errors.DivisionByZero):
        fill()
    assert [cursor.fetchall() for cursor in before] == [[(1,)], [(1,), (2,), (3,)]]
    assert cups(either) == []
    assert_at_rest(either)


def test_a_result_that_is_asked_for_behind_an_error_is_that_error(either: Either) -> None:
    def fill() -> None:
        with either.pipeline():
            either.execute("select 1 / 0")
            either.execute("select 2").fetchone()

    with pytest.raises(psycopg.errors.DivisionByZero):
        fill()
    assert_at_rest(either)


def test_who_leaves_a_pipeline_by_an_exception_has_done_what_was_said_until_then(either: Either) -> None:
    def fill() -> None:
        with either.pipeline():
            pour(either, 1)
            raise Spilt

    with pytest.raises(Spilt):
        fill()
    assert cups(either) == [1]
    assert_at_rest(either)


def test_who_leaves_a_pipeline_by_an_exception_may_still_undo_what_was_begun_in_it(either: Either) -> None:
    def fill() -> None:
        with either.pipeline():
            either.execute("begin")
            pour(either, 1)
            raise Spilt

    with pytest.raises(Spilt):
        fill()
    assert either.info.transaction_status == TransactionStatus.INTRANS
    either.rollback()
    assert cups(either) == []
    assert_at_rest(either)


def test_the_exception_by_which_a_pipeline_is_left_isnt_hidden_by_an_error_in_it(either: Either) -> None:
    def fill() -> None:
        with either.pipeline():
            either.execute("select 1 / count(*) from cups")
            raise Spilt

    with pytest.raises((Spilt, psycopg.errors.DivisionByZero)) as raised:
        fill()
    # psycopg's own may have heard of the error while it sent.
    assert raised.type is Spilt or type(either) is psycopg.Connection
    assert_at_rest(either)


def test_the_end_of_an_inner_pipeline_is_the_end_of_what_was_said_before_it(either: Either) -> None:
    with either.pipeline() as outer:
        pour(either, 1)
        with either.pipeline() as inner:
            assert inner is outer
            found = either.execute("select number from cups")
        assert found.pgresult, "it has been answered"
        pour(either, 2)
    assert found.fetchall() == [(1,)]
    assert cups(either) == [1, 2]
    assert_at_rest(either)


def test_an_error_in_an_inner_pipeline_ends_that_and_not_the_outer(either: Either) -> None:
    def twice() -> None:
        with either.pipeline():
            pour(either, 2)
            pour(either, 2)

    with either.pipeline():
        pour(either, 1)
        with pytest.raises(psycopg.errors.UniqueViolation):
            twice()
        pour(either, 3)
    assert cups(either) == [1, 3]
    assert_at_rest(either)


def test_both_sockets_full_and_an_error_at_once_leave_nothing_behind(either: Either) -> None:
    """The server is busy while much is sent, and then answers all of it."""

    def fill() -> None:
        with either.pipeline():
            either.execute("select count(*) from generate_series(1, 100000)")
            for number in range(2 * pipelining.AT_ONCE):
                either.execute("select %s || repeat('b', %s)", ("a" * LARGE, LARGE))
                pour(either, number % 100)

    with pytest.raises(psycopg.errors.UniqueViolation):
        fill()
    assert cups(either) == []
    assert_at_rest(either)


def test_a_statement_that_was_prepared_behind_an_error_is_prepared_again(either: Either) -> None:
    either.prepare_threshold = 0

    def fill() -> None:
        with either.pipeline():
            either.execute("select 1 / 0")
            either.execute("select %s::text", ("early grey",))

    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            fill()
        assert either.execute("select %s::text", ("early grey",)).fetchone() == ("early grey",)


def test_a_cursor_that_is_used_again_has_its_newest_statements_result(piped: pipelining.Connection) -> None:
    """Though the answers to the earlier ones come while this one is sent; psycopg's own has those then."""
    piped.prepare_threshold = None
    with piped.pipeline(), piped.cursor() as cursor:
        cursor.execute("select count(*) from generate_series(1, 300000)")
        for _ in range(pipelining.AT_ONCE - 2):
            cursor.execute("select %s", ("a" * LARGE,))
        cursor.execute("select 'mine'")
        assert cursor.fetchone() == ("mine",)


def test_a_connection_that_is_closed_has_no_pipeline(either: Either) -> None:
    either.close()
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError, match="closed"), either.pipeline():
            pass


STEPS = st.sampled_from(["pour", "again", "select", "fetch", "sync", "inner", "savepoint", "much", "fail"])


def carried_out(connection: Either, steps: list[str]) -> tuple[list[list[Any]], list[int]]:
    """What the cursors have, and what is in the table, after these steps in one pipeline; an error ends them."""
    connection.execute("truncate cups")
    cursors: list[psycopg.Cursor[Any]] = []

    def step(number: int, name: str) -> None:
        match name:
            case "pour":
                pour(connection, number)
            case "again":
                pour(connection, 0)
            case "select":
                cursors.append(connection.execute("select %s, count(*) from cups", (number,)))
            case "much":
                cursors.append(connection.execute("select repeat('b', %s), %s", (LARGE, "a" * LARGE)))
            case "fetch" if cursors:
                cursors[-1].fetchone()
                cursors[-1].scroll(0, "absolute")
            case "fail":
                connection.execute("select 1 / 0")

    def run() -> None:
        with connection.pipeline() as pipeline:
            for number, name in enumerate(steps, start=1):
                step(number, name)
                if name == "sync":
                    pipeline.sync()
                elif name == "inner":
                    with connection.pipeline():
                        step(-number, "pour")
                elif name == "savepoint":
                    with connection.transaction(), suppress(Spilt), connection.transaction():
                        step(-number, "pour")
                        raise Spilt

    with suppress(psycopg.errors.DivisionByZero, psycopg.errors.UniqueViolation):
        run()
    assert_at_rest(connection)
    return [cursor.fetchall() if cursor.pgresult else [] for cursor in cursors], cups(connection)


def without_nothing(found: tuple[list[list[Any]], list[int]]) -> tuple[list[list[Any]], list[int]]:
    """psycopg's own may hear of an error before it has said what follows, which then isn't done anyway."""
    return [rows for rows in found[0] if rows], found[1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=30))
def test_whatever_goes_through_it_comes_to_what_psycopgs_own_does(database: str, steps: list[str]) -> None:
    with (
        pipelining.Connection.connect(database, autocommit=True) as ours,
        psycopg.Connection.connect(database, autocommit=True) as own,
    ):
        ours.execute("create temp table cups (number int primary key)")
        own.execute("create temp table cups (number int primary key)")
        assert without_nothing(carried_out(ours, steps)) == without_nothing(carried_out(own, steps))


def test_nothing_is_done_behind_a_statement_that_cant_be_sent(either: Either) -> None:
    """As it has more parameters than fit: whoever commits behind it, doesn't commit without it."""

    def fill() -> None:
        with either.pipeline():
            either.execute("begin")
            pour(either, 1)
            either.execute(f"select {', '.join(['%s'] * 65_536)}", [0] * 65_536)
            pour(either, 2)
            either.execute("commit")

    with pytest.raises(psycopg.OperationalError, match="number of parameters"):
        fill()
    either.rollback()
    assert cups(either) == []
    assert_at_rest(either)


def test_what_was_to_be_prepared_behind_a_statement_that_cant_be_sent_is_prepared_again(either: Either) -> None:
    either.prepare_threshold = 0

    def fill() -> None:
        with either.pipeline():
            pour(either, 1)
            either.execute(f"select {', '.join(['%s'] * 65_536)}", [0] * 65_536, prepare=False)
            either.execute("select %s::text", ("early grey",))

    with pytest.raises(psycopg.OperationalError, match="number of parameters"):
        fill()
    assert either.execute("select %s::text", ("early grey",)).fetchone() == ("early grey",)
    assert cups(either) == [1]
    assert_at_rest(either)
