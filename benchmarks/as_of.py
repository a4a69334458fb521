"""Checks as of random positions and times of a long history: inside the process, and over HTTP.

    python -m benchmarks.as_of [--events 1000000] [--samples 4000] [--seconds 8] [--rate 100] [--nice -15]

Each of 100,000 users was given six roles and lost three of them, 500 users at a time taking turns; then 500 changes of
roles that include each other. The log is filled by COPY, as the real aggregates would have left it, and the view of
access is built from it in bulk, by the rebuild's own code. (The other views are told to begin behind these events:
checks don't read them.) Then the platform runs as `muniment up` does. Samples are compared with the fold of the event
store. Half of the moments are positions, half are times. Over HTTP, latencies are counted from when requests are due.
Before each check an empty statement is timed the same way (`select 1` by the same pool), since a check is one
statement: what the machine itself takes. Samples are taken in rounds, and the median of the rounds' percentiles counts,
with its range; beside them, what a check costs the processor, which says the same while the machine does other things:
in this process, and in its backend of PostgreSQL. `--nice` (of whoever may) lets the measured part go before what else
the machine does, as a machine of its own would.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID, uuid5

import psutil
import psycopg
import uvloop

from benchmarks import history
from benchmarks.common import quantile, temporary_folder, told
from benchmarks.load import measure
from benchmarks.running import EMAIL, PASSWORD, Platform
from commands.access import ChangePermissions, CreateRole, change_permissions, create_role
from domain.access import Pattern, RoleName
from domain.aggregate import NAMESPACE
from domain.context import Context
from infra.caches import Caches
from infra.dispatch import Dispatcher
from infra.embedded import DataFolder, Postgres, running
from infra.event_store import Log
from infra.listener import Listener
from infra.settings import Settings
from projections.access import ACCESS, AccessReader, Decisions
from projections.access.reader import STATEMENTS
from projections.builds import builds_fed_by
from projections.bulk import forward
from projections.by_sets import SetEngine
from projections.engine import WHOLE, Engine
from projections.follower import FEED
from runtime import modules
from runtime.start import first_facts
from runtime.start import migrate as bring_up_to_date

PATH = "/api/v1/access/check"
PERMISSION = "projection:read"
ROLES, CHANGES = 20, 500
ROUNDS = 8
COMPARED = 40
GOAL_MS = 10
CAREFREE = {"fsync": "off", "max_wal_size": "4GB"}

Question: TypeAlias = tuple[UUID, str, int | datetime]
"""A user, a scope, and when."""


def prepare(folder: Path, events: int) -> None:
    """A data folder with so many events, and the view of access over them."""
    postgres = Postgres(DataFolder(folder), CAREFREE)
    with running(postgres):
        settings = Settings(data=folder, postgres_url=postgres.conninfo, admin_email=EMAIL, admin_password=PASSWORD)
        bring_up_to_date(settings, lambda _: None)
        first_facts(settings, lambda _: None)
        log = Log(postgres.conninfo)
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            builds = builds_fed_by(connection, FEED, modules.projections())
            forward(log, [Engine(connection, log, build, quiet=True) for build in builds], log.head())
            history.fill(postgres.conninfo, events * history.APPLIED // (history.APPLIED + 1))
            change_roles(log)
            begun = time.perf_counter()
            access = [
                SetEngine(connection, log, each, lane=WHOLE, fence=0) for each in builds if each.projection is ACCESS
            ]
            forward(log, access, log.head())
            print(f"view built in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
            connection.execute(
                "update projection_progress set position = h.position, recorded_at = h.recorded_at from log_head h"
            )
            connection.execute("vacuum analyze")
        log.close()


def change_roles(log: Log) -> None:
    """A chain of roles whose permissions change again and again."""
    dispatcher, context = Dispatcher(log), Context.system("benchmark", "bench")
    for number in range(ROLES):
        above = (RoleName(f"role-{number - 1}"),) if number else ()
        held = (Pattern(f"thing-{number}:read"),)
        dispatcher.dispatch(create_role, CreateRole(RoleName(f"role-{number}"), held, above), context)
    for number in range(CHANGES):
        held = (Pattern(f"thing-{number}:write"),)
        dispatcher.dispatch(change_permissions, ChangePermissions(RoleName(f"role-{number % ROLES}"), held), context)


def questions(conninfo: str, events: int, count: int) -> list[Question]:
    """Random users, scopes and moments."""
    chance, users = random.Random(1), events // (history.APPLIED + 1)
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "select max(notification_id), min(recorded_at), max(recorded_at) from stored_events"
        ).fetchone()
    assert row
    head, first, last = row  # the last is ahead of the clock: the made-up past has an event a millisecond

    def moment(number: int) -> int | datetime:
        if number % 2:
            return chance.randrange(head // 100, head)
        offset = timedelta(microseconds=chance.randrange((last - first) // timedelta(microseconds=1)))
        time_: datetime = first + offset
        return time_

    return [
        (uuid5(NAMESPACE, f"bench:{chance.randrange(users)}"), f"/acme/eu/{chance.randrange(history.ROLES)}", moment(n))
        for n in range(count)
    ]


async def inside(conninfo: str, redis_url: str, asked: list[Question]) -> list["Round"]:
    """The checks in a process of one's own, beside the platform."""
    log, reader = Log(conninfo), AccessReader(conninfo)
    listener = Listener(conninfo, {ACCESS.name: ACCESS.version}, leases=["follower"])
    caches = Caches(conninfo, listener, seal_key=b"k" * 32, redis_url=redis_url)
    with ThreadPoolExecutor(4) as executor:
        decisions = Decisions(log, reader, caches, listener, executor)
        await reader.open()
        await listener.start()
        for user, scope, as_of in asked[:COMPARED]:
            answers = [
                await decisions.decide_from(user, PERMISSION, scope, as_of=as_of, consistency=each)
                for each in ("fast", "full")
            ]
            if answers[0] != answers[1]:
                raise RuntimeError(f"the view and the event store differ: {user} {scope} {as_of}: {answers}")
        size = len(asked) // ROUNDS
        await one_round(decisions, reader, asked[:size])  # statements are prepared, pages are read
        rounds = [await one_round(decisions, reader, asked[n * size : (n + 1) * size]) for n in range(ROUNDS)]
        await listener.stop()
        await caches.close()
        await reader.close()
    log.close()
    return rounds


class Round(NamedTuple):
    """Milliseconds of each check and of each empty statement; of the processor for each, here and in the backend."""

    took: list[float]
    empty: list[float]
    own: float
    server: float


async def one_round(decisions: Decisions, reader: AccessReader, asked: list[Question]) -> Round:
    """Each question, and an empty statement before it."""
    (row,) = await reader.execute("select pg_backend_pid() as pid", {})
    backend, took, empty = psutil.Process(row["pid"]), [], []
    own, server = 0.0, sum(backend.cpu_times()[:2])
    for user, scope, as_of in asked:
        begun = time.perf_counter()
        await reader.execute("select 1", {})
        empty.append((time.perf_counter() - begun) * 1e3)
        begun, used = time.perf_counter(), time.process_time()
        await decisions.decide_from(user, PERMISSION, scope, as_of=as_of)
        took.append((time.perf_counter() - begun) * 1e3)
        own += time.process_time() - used
    theirs = sum(backend.cpu_times()[:2]) - server
    return Round(took, empty, own / len(asked) * 1e3, theirs / len(asked) * 1e3)


def told_of(rounds: list[Round]) -> None:
    """Prints what the rounds came to."""
    for share in (0.5, 0.99):
        name = f"p{share * 100:.0f}"
        goal = f"< {GOAL_MS}" if name == "p99" else ""
        told(f"an empty statement: {name}", [quantile(each.empty, share) for each in rounds], unit=" ms")
        told(f"as of, inside the process: {name}", [quantile(each.took, share) for each in rounds], goal, unit=" ms")
    told("processor per check: this process", [each.own for each in rounds], unit=" ms")
    told("processor per check: its backend, empty one included", [each.server for each in rounds], unit=" ms")


def plan(conninfo: str, asked: Question) -> list[str]:
    """How PostgreSQL finds it, by the plan that it keeps for the prepared statement: each scan, and the time."""
    user, _, _ = asked
    sql = ACCESS.bind(STATEMENTS["time", False], 1)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("set plan_cache_mode = force_generic_plan")
        parameters = {"user": user, "time": datetime.now(UTC), "build": 1}
        rows = connection.execute(f"explain (analyze) {sql}".encode(), parameters, prepare=True).fetchall()
    return [line.strip() for (line,) in rows if "Scan" in line or "Execution Time" in line]


def bodies(asked: list[Question]) -> Iterator[dict[str, Any]]:
    """The same questions as requests."""
    for user, scope, as_of in asked:
        when = as_of if isinstance(as_of, int) else as_of.isoformat()
        yield {"user_id": str(user), "permission": PERMISSION, "scope": scope, "as_of": when}


def main() -> None:
    """Fills, starts, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rate", type=float, default=100, help="requests a second over HTTP")
    parser.add_argument("--nice", type=int, default=0, help="niceness of the measured part")
    options = parser.parse_args()
    with temporary_folder() as folder:
        data = folder / "p"
        begun = time.perf_counter()
        prepare(data, options.events)
        print(f"prepared in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        os.nice(options.nice)
        with Platform(data) as server, server.client() as client:
            conninfo = Postgres(DataFolder(data)).conninfo
            asked = questions(conninfo, options.events, options.samples)
            told_of(uvloop.run(inside(conninfo, "redis://127.0.0.1:1", asked)))
            print("\n".join(plan(conninfo, asked[0])), file=sys.stderr)
            path = folder / "checks.jsonl"
            path.write_text("".join(json.dumps(each) + "\n" for each in bodies(asked)))
            alive: dict[str, Any] = measure(server.url + "/healthz", seconds=options.seconds, rate=options.rate)
            figures: dict[str, Any] = measure(
                server.url + PATH, method="POST", header=f"Authorization: Bearer {client.token}", bodies=path,
                seconds=options.seconds, rate=options.rate,
            )  # fmt: skip
            if set(figures["statuses"]) != {"200"}:
                raise RuntimeError(f"{figures['statuses']}")
            told(f"an empty route over HTTP at {options.rate:.0f}/s: p50", [alive["p50"]], unit=" ms")
            told(f"an empty route over HTTP at {options.rate:.0f}/s: p99", [alive["p99"]], unit=" ms")
            told(f"as of, over HTTP at {options.rate:.0f}/s: p50", [figures["p50"]], unit=" ms")
            told(f"as of, over HTTP at {options.rate:.0f}/s: p99", [figures["p99"]], f"< {GOAL_MS}", unit=" ms")


if __name__ == "__main__":
    main()
