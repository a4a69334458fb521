"""What a permission check costs inside the process, by where the answer comes from.

    python -m benchmarks.checks [--users 10000 1000000] [--checks 300000]

A private PostgreSQL and Valkey; each user has one role of three (one of them includes another) at one of fifty scopes,
written straight into the view. Printed: checks per second answered from memory, going round through 10,000 users, with
the share of misses; microseconds at each level; and how PostgreSQL finds one user among all.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg
import uvloop
from prometheus_client import REGISTRY

from commands.access import CreateRole, create_role
from domain.access import Pattern, RoleName
from domain.aggregate import NAMESPACE
from domain.context import Context
from infra.caches import Caches
from infra.dispatch import Dispatcher
from infra.embedded import DataFolder, Postgres, Valkey, running
from infra.event_store import Log
from infra.listener import Listener
from infra.migrate import Source, apply
from projections.access import ACCESS, AccessReader, Decisions
from projections.builds import ensure_builds
from projections.engine import Build, Engine
from projections.facts import read

MIGRATIONS = Path(__file__).parent.parent / "infra" / "migrations"
SOURCES = [Source(name, (), MIGRATIONS / name) for name in ("log", "projections", "identity", "access", "audit")]
ROUND = 10_000
SAMPLES = 1500
CHECKED = ("page:read", "/acme/7/eu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--checks", type=int, default=300_000, help="checks from memory")
    options = parser.parse_args()
    with services() as (conninfo, url):
        apply(conninfo, SOURCES)
        log = Log(conninfo)
        prepare(log, conninfo)
        have = 0
        for users in options.users:
            fill(conninfo, have, users)
            have = users
            print(f"\n{users:,} assignments")
            uvloop.run(measure(log, conninfo, url, users, options.checks))
            print(plan(conninfo, users))
        log.close()


@contextmanager
def services() -> Iterator[tuple[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="mb-"))
    postgres, valkey = Postgres(DataFolder(folder)), Valkey(DataFolder(folder))
    with running(postgres), running(valkey):
        yield postgres.conninfo, valkey.url
    shutil.rmtree(folder, ignore_errors=True)


def prepare(log: Log, conninfo: str) -> None:
    """Roles through the log and the view, as ever; and the lease that a feed would hold."""
    dispatcher = Dispatcher(log)
    for name, held, included in ROLES:
        command = CreateRole(RoleName(name), tuple(map(Pattern, held)), tuple(map(RoleName, included)))
        dispatcher.dispatch(create_role, command, Context.system("benchmark", "bench"))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        ensure_builds(connection, [ACCESS])
        Engine(connection, log, Build(ACCESS, 1)).apply(read(log, 0, 1000), 0)
        connection.execute("insert into leases values ('follower', 'bench', 1, clock_timestamp() + interval '1 day')")


ROLES: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
    ("viewer", [f"page:{verb}" for verb in ("read", "list", "search", "print")], []),
    ("editor", [f"page:{verb}" for verb in ("write", "move", "delete")], ["viewer"]),
    ("chief", ["page:*", "invoice:*", "report:read"], ["editor"]),
)


def user(number: int) -> UUID:
    return uuid5(NAMESPACE, f"bench:{number}")


def fill(conninfo: str, start: int, stop: int) -> None:
    table = ACCESS.table("assignments", 1)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        columns = "user_id, role, scope, from_position, from_at, from_by"
        with connection.cursor() as cursor, cursor.copy(f"copy {table} ({columns}) from stdin".encode()) as copy:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ")
            for number in range(start, stop):
                role, scope = ROLES[number % 3][0], f"/acme/{number % 50}"
                copy.write_row((user(number), role, scope, 1, now, "system:bench"))
        connection.execute(f"vacuum analyze {table}".encode())


async def measure(log: Log, conninfo: str, url: str, users: int, checks: int) -> None:
    listener = Listener(conninfo, {"access": 1}, leases=["follower"])
    caches = Caches(conninfo, listener, seal_key=b"k" * 32, redis_url=url)
    reader = AccessReader(conninfo)
    with ThreadPoolExecutor(4) as executor:
        decisions = Decisions(log, reader, caches, listener, executor, size=ROUND)
        await reader.open()
        await listener.start()
        await levels(decisions, reader, users)
        await warm(decisions, users, checks)
        await listener.stop()
        await caches.close()
        await reader.close()


async def levels(decisions: Decisions, reader: AccessReader, users: int) -> None:
    cache = decisions.cache
    some = [user(number * (users // SAMPLES)) for number in range(SAMPLES)]
    await cache.get(user(0))
    await timed("view, one statement", some, reader.facts)
    await timed("view, and stored in Valkey and here", some, cache.get)
    for each in some:
        cache.local.discard(each)
    await timed("Valkey, and stored here", some, cache.get)
    await timed("event store (full)", some[:300], lambda each: decisions.explain(each, *CHECKED, consistency="full"))
    await timed("memory", some, lambda each: decisions.decide(each, *CHECKED))
    for each in some:
        cache.local.discard(each)


async def timed(what: str, users: Sequence[UUID], look: Callable[[UUID], Awaitable[Any]]) -> None:
    took = []
    for each in users:
        begun = time.perf_counter()
        await look(each)
        took.append((time.perf_counter() - begun) * 1e6)
    took.sort()
    print(f"  {what:38} median {statistics.median(took):8.1f} µs   p99 {took[int(len(took) * 0.99)]:8.1f} µs")


async def warm(decisions: Decisions, users: int, checks: int) -> None:
    ring = [user(number * (users // ROUND)) for number in range(ROUND)]
    for _ in range(2):
        for each in ring:
            await decisions.decide(each, *CHECKED)
    remembered = from_memory()
    begun = time.perf_counter()
    for index in range(checks):
        await decisions.decide(ring[index % ROUND], *CHECKED)
    took = time.perf_counter() - begun
    print(
        f"  from memory, round {ROUND:,} users: {checks / took:,.0f} checks/s ({took / checks * 1e6:.2f} µs each),"
        f" misses {1 - (from_memory() - remembered) / checks:.3%}"
    )


def from_memory() -> float:
    return REGISTRY.get_sample_value("muniment_check_seconds_count", {"level": "local"}) or 0.0


def plan(conninfo: str, users: int) -> str:
    table = ACCESS.table("assignments", 1)
    sql = f"select role, scope, expires_at from {table} where user_id = %s and to_position is null"
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(f"explain (analyze, timing off) {sql}".encode(), (user(users // 2),)).fetchall()
    return "  " + "\n  ".join(row[0] for row in rows if "Scan" in row[0] or "Fetches" in row[0])


if __name__ == "__main__":
    main()
