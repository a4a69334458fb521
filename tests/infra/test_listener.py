"""Hearing what was committed, and knowing when one doesn't."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import psycopg
import pytest

from domain.errors import PositionUnknown, ProjectionBehind
from infra.listener import Listener, Progress

pytestmark = pytest.mark.anyio

BUILD = """
    insert into projection_builds (projection, version, build, active, checksum) values ('access', 1, 1, true, '');
    insert into projection_progress (projection, version, build, layout, topic, partition, position)
    values ('access', 1, 1, 0, '*', 0, %s)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def listening(database: str, **options: object) -> AsyncIterator[Listener]:
    listener = Listener(database, {"access": 1}, beat_seconds=0.1, **options)  # type: ignore[arg-type]
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


def commit(database: str, head: int, *announce: str) -> None:
    payload = orjson.dumps({"head": head, "announce": announce}).decode()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update log_head set position = %s", (head,))
        connection.execute("select pg_notify('muniment_log', %s)", (payload,))


def progress(database: str, position: int, *invalidate: str, build: int = 1, **extra: object) -> None:
    payload = {"projection": "access", "version": 1, "build": build, "position": position, "invalidate": invalidate}
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select pg_notify('muniment_progress', %s)", (orjson.dumps(payload | extra).decode(),))


def backend(database: str) -> int:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(
            "select pid from pg_stat_activity where application_name = 'listener' and datname = current_database()"
        ).fetchone()
    assert row
    return int(row[0])


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.01)


async def test_hears_the_head_and_what_is_announced(database):
    heard: list[str] = []
    listener = Listener(database, {})
    listener.on_announce(heard.extend)
    await listener.start()
    await asyncio.to_thread(commit, database, 7, "session:ada")
    await listener.caught_up()
    await listener.stop()
    assert (listener.head, heard) == (7, ["session:ada"])


async def test_is_fresh_once_started_and_not_after_it_stopped(database):
    async with listening(database) as listener:
        assert listener.fresh
    assert not listener.fresh


async def test_whatever_was_committed_before_has_been_heard_of_afterwards(database):
    async with listening(database) as listener:
        for head in range(1, 20):
            await asyncio.to_thread(commit, database, head)
            await listener.caught_up()
            assert listener.head == head


async def test_knows_where_a_view_stands_at_the_start(database):
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in BUILD.split(";"):
            connection.execute(statement.encode(), (5,) if "%s" in statement else None)
    await asyncio.to_thread(commit, database, 6)
    async with listening(database) as listener:
        assert listener.position("access") == 5
        assert listener.lag_seconds("access") >= 0
        assert listener.track("access").behind_since < float("inf")


async def test_hears_how_far_a_view_is_and_what_it_made_old(database):
    heard: list[Progress] = []
    async with listening(database) as listener:
        listener.on_progress("access", heard.append)
        await asyncio.to_thread(progress, database, 3, "ada", graph=2)
        await listener.wait_for("access", 3, 5)
    assert [(each.position, each.invalidate, each.extra["graph"]) for each in heard] == [(3, ["ada"], 2)]


async def test_a_view_that_hasn_t_applied_the_newest_event_lags(database):
    async with listening(database) as listener:
        await asyncio.to_thread(commit, database, 4)
        await listener.caught_up()
        await asyncio.sleep(0.02)
        assert listener.lag_seconds("access") >= 0.02
        await asyncio.to_thread(progress, database, 4)
        await listener.caught_up()
        assert listener.lag_seconds("access") == 0


async def test_waits_a_bounded_time_for_a_view(database):
    async with listening(database) as listener:
        await asyncio.to_thread(commit, database, 4)
        with pytest.raises(ProjectionBehind):
            await listener.wait(["access"], 4, 0.05)


async def test_knows_positions_that_no_event_has_yet(database):
    async with listening(database) as listener:
        with pytest.raises(PositionUnknown):
            await listener.wait(["access"], 1, 5)
        await asyncio.to_thread(commit, database, 1)
        await asyncio.to_thread(progress, database, 1)
        await listener.wait(["access"], 1, 5)


async def test_another_build_says_nothing_until_it_is_the_one_that_answers(database):
    heard: list[Progress] = []
    async with listening(database) as listener:
        listener.on_progress("access", heard.append)
        await asyncio.to_thread(progress, database, 3)
        await asyncio.to_thread(progress, database, 9, "ada", build=2)
        await listener.caught_up()
        assert listener.position("access") == 3
        await asyncio.to_thread(progress, database, 9, build=2, active=True)
        await listener.caught_up()
        assert listener.position("access") == 9
        assert heard[-1].invalidate == ("*",)


async def test_tells_everybody_to_forget_when_it_connects_again(database):
    connections: list[int] = []

    async def connected(connection: psycopg.AsyncConnection) -> None:
        connections.append(connection.info.backend_pid)

    listener = Listener(database, {"access": 1}, beat_seconds=0.1)
    listener.on_connect(connected)
    await listener.start()
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s)", (connections[0],))
    await eventually(lambda: len(connections) == 2 and listener.fresh)
    await asyncio.to_thread(commit, database, 2)
    await listener.caught_up()
    assert listener.head == 2
    await listener.stop()


async def test_a_server_that_hangs_makes_it_stale_and_it_recovers_by_itself(database):
    async with listening(database, fresh_seconds=0.3, beat_timeout_seconds=0.5) as listener:
        hung = await asyncio.to_thread(backend, database)
        os.kill(hung, signal.SIGSTOP)
        try:
            await eventually(lambda: not listener.fresh)
            await eventually(lambda: listener.fresh)
            assert listener.connections == 2
        finally:
            os.kill(hung, signal.SIGCONT)


async def test_a_loop_that_was_blocked_is_not_fresh(database):
    async with listening(database, fresh_seconds=0.2) as listener:
        await asyncio.to_thread(lambda: None)
        import time

        time.sleep(0.25)  # noqa: ASYNC251 - that is the point
        assert not listener.fresh


async def test_knows_who_holds_a_lease(database):
    async with listening(database, leases=["feed:access"]) as listener:
        assert not listener.held("feed:access")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                "insert into leases values ('feed:access', 'somebody', 1, clock_timestamp() + interval '1 minute')"
            )
        await listener.caught_up()
        assert listener.held("feed:access")


async def test_starts_without_a_database_and_goes_on_trying(database):
    listener = Listener("host=/nowhere dbname=nothing", {})
    await listener.start(timeout_seconds=0.1)
    assert not listener.fresh
    await listener.stop()
