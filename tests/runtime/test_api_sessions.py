"""What an API process remembers about sessions and keys, after it has been deaf for a while."""

import asyncio
import base64
import time
from uuid import uuid4

import psycopg
import pytest

from infra.sessions import SessionEnded
from infra.settings import Settings
from runtime.serve import Api
from tests.fresh_metrics import fresh_metrics

KEY = base64.b64encode(b"k" * 32).decode()


async def until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_session_that_ended_while_nobody_listened_is_not_remembered_afterwards(database, valkey, tmp_path):
    with fresh_metrics():
        api = Api(
            Settings(
                data=tmp_path, postgres_url=database, redis_url=valkey, master_key=KEY, pepper=KEY, claim_key=KEY,
                bcrypt_cost=4,
            )
        )  # fmt: skip
    session, user = uuid4(), uuid4()

    def execute(sql, *values):
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(sql, values)

    async def story():
        execute("insert into sessions (id, user_id, opened_position) values (%s, %s, 1)", session, user)
        await api.listener.start()
        await api.sessions.require_alive(session, user)
        assert api.sessions.knows(session, user)
        # the connection is lost, and with it what is announced meanwhile
        execute("update sessions set ended_position = 2 where id = %s", session)
        execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'listener' and datname = current_database()"
        )
        await until(lambda: api.listener.connections == 2 and api.listener.fresh)
        assert not api.sessions.knows(session, user)
        with pytest.raises(SessionEnded):
            await api.sessions.require_alive(session, user)
        await api.listener.stop()
        await api.caches.close()
        await api.readiness.close()
        await api.ports.throttle.close()

    try:
        asyncio.run(story())
    finally:
        api.lookups.shutdown(wait=False)
        api.app.close()
        api.core.close()
