"""What an API process says of itself when probed."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psycopg
from psycopg_pool import ConnectionPool

from infra.migrate import Compatibility
from runtime.readiness import Readiness


@asynccontextmanager
async def readiness(database, valkey, folder, look_seconds, kafka=""):
    with ConnectionPool(database, min_size=1, open=True) as pool, ThreadPoolExecutor(1) as executor:
        probed = Readiness(
            pool,
            SimpleNamespace(fresh=True, head=0),
            (),
            executor,
            schema=lambda: Compatibility("fine", (), ()),
            redis_url=valkey,
            parts_file=folder / "parts.json",
            look_seconds=look_seconds,
            kafka=kafka,
        )
        yield probed
        await probed.close()


def test_a_database_that_hangs_keeps_no_probe_waiting(database, valkey, tmp_path):
    async def probe():
        async with readiness(database, valkey, tmp_path, look_seconds=0.2) as probed:
            with psycopg.connect(database) as holder:
                holder.execute("lock table projection_builds in access exclusive mode")
                began = time.monotonic()
                silent = await asyncio.gather(*(probed.health() for _ in range(20)))
                assert time.monotonic() - began < 5
            while (again := await probed.health()).state == "unavailable":
                pass
            return silent, again

    silent, again = asyncio.run(probe())
    assert {(each.state, *each.reasons) for each in silent} == {("unavailable", "postgres: doesn't answer")}
    assert again.state == "ready"


def test_a_view_that_a_former_release_has_left_behind_degrades_nothing(database, valkey, tmp_path):
    async def probe():
        async with readiness(database, valkey, tmp_path, look_seconds=5) as probed:
            return await probed.health()

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into projection_builds (projection, version, build, active, feed, layout, checksum)"
            " values ('harbour', 1, 1, true, 'follower', 0, '')"
        )
        connection.execute(
            "insert into projection_progress (projection, version, build, layout, topic, partition)"
            " values ('harbour', 1, 1, 0, '', 0)"
        )
        connection.execute(
            "insert into stored_events values"
            " (gen_random_uuid(), 1, 'harbour.ShipMoored', '{}', 1, now() - interval '1 hour', '{}')"
        )
        connection.execute("update log_head set position = 1")
    assert asyncio.run(probe()).reasons == []


def test_schedules_that_nobody_attends_to_degrade(database, valkey, tmp_path):
    async def probe():
        async with readiness(database, valkey, tmp_path, look_seconds=5) as probed:
            return await probed.health()

    lease = (
        "insert into leases (name, holder, fence, expires_at) values ('scheduler', 'babbage', 1, now() + %s)"
        " on conflict (name) do update set expires_at = excluded.expires_at"
    )
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into job_schedules values (gen_random_uuid(), 'tea', '@daily', 'UTC', 'active', now(), now())"
        )
        assert asyncio.run(probe()).reasons == ["schedules: no scheduler is running"]
        connection.execute(lease, (timedelta(seconds=3),))
        assert asyncio.run(probe()).reasons == []
        connection.execute(lease, (timedelta(seconds=-30),))
        assert asyncio.run(probe()).state == "degraded"
        connection.execute("update job_schedules set standing = 'deleted'")
        assert asyncio.run(probe()).reasons == []


def test_jobs_that_nobody_does_degrade(database, valkey, tmp_path):
    async def probe():
        async with readiness(database, valkey, tmp_path, look_seconds=5) as probed:
            return await probed.health()

    job = (
        "insert into job_queue (id, type, type_version, args, queue, priority, state, run_at, rank, max_attempts,"
        " timeout_seconds, stream_version, enqueued_at, metadata)"
        " values (gen_random_uuid(), 'weave', 1, '{}', 'loom', 0, 'ready', %(at)s, %(at)s, 1, 1, 1, now(), '{}')"
    )
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(job, {"at": datetime.now(UTC) - timedelta(seconds=30)})
        assert asyncio.run(probe()).reasons[0].startswith("jobs: no worker lives, and one of queue loom waits for 3")
        connection.execute("insert into job_workers (name, host, pid, threads, running) values ('a', 'b', 1, 4, 0)")
        assert asyncio.run(probe()).reasons == []
        connection.execute("update job_queue set run_at = now() - interval '2 minutes'")
        assert asyncio.run(probe()).reasons[0].startswith("jobs: one of queue loom waits for 12")
        connection.execute("insert into job_queues values ('loom', true, '')")
        assert asyncio.run(probe()).reasons == []


def test_a_kafka_that_is_away_degrades_and_nothing_more(database, valkey, tmp_path):
    async def probe():
        async with readiness(database, valkey, tmp_path, look_seconds=5, kafka="127.0.0.1:1") as probed:
            return await probed.health()

    health = asyncio.run(probe())
    assert health.state == "degraded"
    assert health.reasons == ["kafka: doesn't answer", "relay: none has run yet"]
