"""A real scheduler process, for tests that kill and freeze it: `python schedule.py CONNINFO LEASE_SECONDS`.

Its clock is the table `test_clock` of the test's database, so that hours pass in seconds, and jump.
"""

import signal
import sys
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from psycopg import Connection
from psycopg_pool import ConnectionPool

from commands.jobs.schedules import Settled, SettleOccurrences, settle_occurrences
from domain.aggregate import Personal
from domain.context import Context
from domain.jobs import JobType, JobTypes
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.job_queue import JOB_QUEUE
from infra.schedules import SCHEDULES, ScheduleCursors
from stream_apps.jobs.scheduler import Scheduler, SchedulerLimits, SchedulerSetup


class Brew(msgspec.Struct, frozen=True):
    """Which leaves."""

    leaves: str = "oolong"


class Serve(msgspec.Struct, frozen=True):
    """To whom."""

    guest: Personal[str]
    cups: int = 1


BREW = JobType("tea.brew", Brew)
TYPES = JobTypes([BREW, JobType("tea.serve", Serve)])
GRACE = timedelta(minutes=1)

CLOCK = """
    create table test_clock (real_start timestamptz, start timestamptz, speed double precision, jump interval);
    insert into test_clock select now(), %s, %s, '0'
"""
READ = "select start + (clock_timestamp() - real_start) * speed + jump from test_clock"


def read_clock(connection: Connection[Any]) -> datetime:
    row = connection.execute(READ).fetchone()
    assert row
    return row[0]


class Site:
    """What a scheduler needs, and a scheduler."""

    def __init__(self, conninfo: str, lease_seconds: float) -> None:
        self.log = Log(conninfo, inline=[JOB_QUEUE, SCHEDULES])
        self.pool: ConnectionPool[Any] = ConnectionPool(
            conninfo,
            min_size=1,
            max_size=8,
            open=True,
            kwargs={"autocommit": True},
            check=ConnectionPool.check_connection,
        )
        self.dispatcher = Dispatcher(self.log)
        self.cursors = ScheduleCursors(self.pool)
        limits = SchedulerLimits(lease_seconds, lease_seconds / 6)
        self.setup = SchedulerSetup(conninfo, self.settle, self.now, limits=limits)

    def settle(self, schedule_id: UUID, now: datetime) -> Settled:
        command = SettleOccurrences(schedule_id, now, GRACE, TYPES, self.cursors)
        return self.dispatcher.dispatch(settle_occurrences, command, self.context()).result

    def context(self) -> Context:
        return Context.system("scheduler", str(uuid4()))

    def now(self) -> datetime:
        with self.pool.connection() as connection:
            return read_clock(connection)

    def close(self) -> None:
        self.pool.close()
        self.log.close()


def main(conninfo: str, lease_seconds: float) -> None:
    site = Site(conninfo, lease_seconds)
    scheduler = Scheduler(site.setup)
    signal.signal(signal.SIGTERM, lambda *_: scheduler.stop())
    scheduler.run()
    site.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
