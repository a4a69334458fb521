"""Pools whose server went away."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from infra import lending

SIZE = 4
END_ALL = (
    "select pg_terminate_backend(pid, 2000) from pg_stat_activity where datname = current_database()"
    " and pid <> pg_backend_pid()"
)


def end_all(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(END_ALL)


def broken_of(database: str, check: Callable[[Any], None] | None) -> int:
    """How many of the pool's connections were lent though they had ended."""
    broken = 0
    with ConnectionPool(database, min_size=SIZE, max_size=SIZE, check=check, timeout=10.0) as pool:
        pool.wait()
        end_all(database)
        with ExitStack() as lent:
            for connection in [lent.enter_context(pool.connection()) for _ in range(SIZE)]:
                try:
                    connection.execute("select 1")
                except psycopg.OperationalError:
                    broken += 1
    return broken


def test_lends_no_connection_that_has_ended(database: str):
    assert broken_of(database, lending.check) == 0


@pytest.mark.filterwarnings("ignore")
def test_which_a_pool_does_by_itself(database: str):
    assert broken_of(database, None) == SIZE


def test_lends_no_connection_that_has_ended_in_an_event_loop(database: str):
    async def lend() -> list[Any]:
        async with AsyncConnectionPool(
            database, min_size=SIZE, max_size=SIZE, check=lending.check_async, timeout=10.0, open=False
        ) as pool:
            await pool.wait()
            end_all(database)
            async with AsyncExitStack() as lent:
                connections = [await lent.enter_async_context(pool.connection()) for _ in range(SIZE)]
                return [await (await connection.execute("select 1")).fetchone() for connection in connections]

    assert asyncio.run(lend()) == [(1,)] * SIZE


def test_a_connection_that_was_told_something_is_lent_still(database: str):
    with ConnectionPool(database, min_size=1, max_size=1, check=lending.check, timeout=10.0) as pool:
        with pool.connection() as connection:
            connection.execute("listen news")
            connection.commit()
            pid = connection.info.backend_pid
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("notify news")
        with pool.connection() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
            assert connection.info.backend_pid == pid
