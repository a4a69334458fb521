"""A session's end is seen at once, whatever reads it at the same moment."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from domain.errors import Unavailable
from infra.sessions import SessionEnded, Sessions, StoredSessions


class Table:
    """The inline table, written directly; counts the looks."""

    def __init__(self, conninfo):
        self.conninfo = conninfo
        self.pool = ConnectionPool(conninfo, min_size=1, max_size=4, open=True, timeout=1)
        self.position = 0
        self.looks = 0

    def execute(self, sql, *values):
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(sql, values)

    def open(self, user_id):
        self.position += 1
        session_id = uuid4()
        self.execute(
            "insert into sessions (id, user_id, opened_position) values (%s, %s, %s)",
            session_id,
            user_id,
            self.position,
        )
        return session_id

    def end(self, session_id):
        self.position += 1
        self.execute("update sessions set ended_position = %s where id = %s", self.position, session_id)

    def end_all(self, user_id):
        self.position += 1
        self.execute(
            "insert into session_floors values (%s, %s) on conflict (user_id) do update"
            " set not_before = excluded.not_before",
            user_id,
            self.position,
        )


@pytest.fixture
def table(database):
    table = Table(database)
    yield table
    table.pool.close()


class Fixture:
    def __init__(self, table, size=100):
        self.table, self.fresh = table, True
        self.stored = StoredSessions(table.pool)
        self.executor = ThreadPoolExecutor(4)
        self.sessions = Sessions(self.stored, self.executor, lambda: self.fresh, size=size)

    async def alive(self, session_id, user_id):
        try:
            await self.sessions.require_alive(session_id, user_id)
        except SessionEnded:
            return False
        return True


@pytest.fixture
def seen(table):
    fixture = Fixture(table)
    yield fixture
    fixture.executor.shutdown()


ADA, GRACE = uuid4(), uuid4()


def test_remembers_that_a_session_lives(table, seen):
    session = table.open(ADA)
    assert not seen.sessions.knows(session, ADA)
    assert asyncio.run(seen.alive(session, ADA))
    assert seen.sessions.knows(session, ADA)


def test_an_unknown_session_and_somebody_elses_are_ended(table, seen):
    session = table.open(ADA)
    assert not asyncio.run(seen.alive(uuid4(), ADA))
    assert not asyncio.run(seen.alive(session, GRACE))


@pytest.mark.parametrize("how", ["session", "user", "*"])
def test_an_announced_end_is_seen_at_once(table, seen, how):
    session = table.open(ADA)
    asyncio.run(seen.alive(session, ADA))
    table.end(session) if how == "session" else table.end_all(ADA)
    seen.sessions.announced({"session": f"session:{session}", "user": f"user:{ADA}", "*": "*"}[how])
    assert not seen.sessions.knows(session, ADA)
    assert not asyncio.run(seen.alive(session, ADA))


def test_the_end_of_one_session_spares_the_others(table, seen):
    first, second = table.open(ADA), table.open(ADA)
    asyncio.run(seen.alive(first, ADA))
    asyncio.run(seen.alive(second, ADA))
    seen.sessions.announced(f"session:{first}")
    assert seen.sessions.knows(second, ADA)


@pytest.mark.parametrize("announcement", ["session:{session}", "user:{user}", "*"])
def test_a_slow_reader_does_not_bring_an_ended_session_back(table, seen, announcement):
    """It has read the row before the end, and remembers it after the announcement."""
    session = table.open(ADA)

    def slow(session_id, user_id):
        alive = StoredSessions.alive(seen.stored, session_id, user_id)
        table.end(session)
        seen.sessions.announced(announcement.format(session=session, user=ADA))
        return alive

    seen.stored.alive = slow
    asyncio.run(seen.alive(session, ADA))
    assert not seen.sessions.knows(session, ADA)


def test_without_announcements_the_store_is_asked_each_time(table, seen):
    session = table.open(ADA)
    asyncio.run(seen.alive(session, ADA))
    seen.fresh = False
    table.end(session)
    assert not asyncio.run(seen.alive(session, ADA))


def test_a_session_opened_after_a_reactivation_is_remembered_again(table, seen):
    seen.sessions.announced(f"user:{ADA}")
    table.end_all(ADA)
    session = table.open(ADA)
    assert asyncio.run(seen.alive(session, ADA))
    assert seen.sessions.knows(session, ADA)


def test_remembers_no_more_than_it_may(table):
    small = Fixture(table, size=3)
    sessions = [table.open(ADA) for _ in range(5)]
    for session in sessions:
        asyncio.run(small.alive(session, ADA))
    assert [small.sessions.knows(session, ADA) for session in sessions] == [False, False, True, True, True]
    small.executor.shutdown()


def test_without_the_store_nobody_passes(table, seen):
    session = table.open(ADA)
    table.pool.close()
    with pytest.raises(Unavailable):
        asyncio.run(seen.alive(session, ADA))
