"""The peer: Procrastinate, with its tables on a PostgreSQL, and its worker as a process.

python -m benchmarks.procrastinating CONNINFO CONCURRENCY
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

SCHEMA = "create table stamps (seconds double precision not null)"


def declare(app: App) -> None:
    """Its tasks: one that does nothing, and one that notes when it was begun."""

    @app.task(name="noop")
    async def noop() -> None:
        pass

    @app.task(name="stamp")
    async def stamp(sent: float) -> None:
        seconds = time.monotonic() - sent
        await app.connector.execute_query_async(f"insert into stamps values ({seconds})")


@contextmanager
def opened(conninfo: str, connections: int) -> Iterator[App]:
    """An application whose `defer` may be called by so many threads at once."""
    app = App(connector=SyncPsycopgConnector(conninfo=conninfo, min_size=connections, max_size=connections))
    declare(app)
    with app.open():
        yield app


def prepare(conninfo: str) -> None:
    """Its tables."""
    with opened(conninfo, 1) as app:
        app.schema_manager.apply_schema()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(SCHEMA)


def work(conninfo: str, concurrency: int) -> None:
    """A worker, until it is ended."""

    async def run() -> None:
        app = App(connector=PsycopgConnector(conninfo=conninfo, min_size=1, max_size=concurrency + 4))
        declare(app)
        async with app.open_async():
            await app.run_worker_async(concurrency=concurrency, wait=True, listen_notify=True)

    asyncio.run(run())


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
