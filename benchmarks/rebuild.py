"""A rebuild of the view of access, beside the library's ProjectionRunner and the library's bare reading and mapping.

    python -m benchmarks.rebuild [--events 100000] [--rounds 3] [--peer-seconds 8] [--memory 100000 2000000]

Every event counted is one that the view applies. Per round the same log is read three times: by the library (its query
for notifications of these topics, each mapped to its event, and nothing else); by the library's ProjectionRunner, with
a view that runs the same statements on the same tables, for some seconds; and by a rebuild, in a process of its own, as
`muniment projections rebuild` applies events: from the beginning to the head. `--memory`: the most memory that this
process used at these lengths of the log. `--skip runner` or `--skip memory` leave these out.
"""

import argparse
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection as LibrarysProjection
from eventsourcing.projection import ProjectionRunner

from benchmarks.common import ROOT, postgres, ratios, told
from benchmarks.history import TOPICS, fill
from infra.event_store import Log
from projections.access import ACCESS
from projections.builds import create_build, drop_build
from projections.bulk import BulkState, forward
from projections.engine import Build, Engine
from projections.projection import statements_of
from runtime import modules

BATCH = 1000
RUNNER_GOAL, BARE_GOAL, SAME_GOAL, MEMORY_GOAL = ">= 60", ">= 0.8", "< 1.1", "< 200"

assert modules.MODULES  # every module's events are known


def bare(log: Log) -> float:
    """Events per second of the library's reading and mapping."""
    started, position, count = time.monotonic(), 0, 0
    while notifications := log.recorder.select_notifications(position + 1, BATCH, topics=TOPICS):
        for notification in notifications:
            log.mapper.to_domain_event(notification)
        position = int(notifications[-1].id)
        count += len(notifications)
    return count / (time.monotonic() - started)


def rebuilt(conninfo: str) -> tuple[float, float]:
    """Applied events per second of a rebuild in a process of its own, and the most memory it used, in MB."""
    command = [sys.executable, "-m", "benchmarks.rebuild", "--rebuild", conninfo]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    per_second, megabytes = found.stdout.split()
    return float(per_second), float(megabytes)


def rebuild(conninfo: str) -> None:
    """Brings a new build to the head, and drops it; prints events per second, and megabytes."""
    log, states = Log(conninfo), list[BulkState]()
    applied = 0

    def committed(facts: Any) -> None:
        nonlocal applied
        applied += len(facts.facts)

    with psycopg.connect(conninfo, autocommit=True) as connection:
        build = create_build(connection, ACCESS, feed="benchmark")
        engine = Engine(connection, log, build, quiet=True, committed=committed)
        started = time.monotonic()
        forward(log, [engine], log.head(), told=states.append)
        seconds = time.monotonic() - started
        drop_build(connection, build)
    log.close()
    print(applied / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# --- the library's own


class Peer(Log):
    """The log, as the runner constructs it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env["PEER_CONNINFO"])


class View(PostgresTrackingRecorder):
    """The same statements on a build's tables, in one transaction with the library's tracking record."""

    build: Build
    applied = 0

    def apply(self, event: Any, tracking: Tracking) -> None:
        values = vars(event) | {
            "position": tracking.notification_id, "recorded_at": datetime.now(UTC), "actor": "system:benchmark",
        }  # fmt: skip
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            for sql in statements_of(ACCESS.on[type(event)]):
                cursor.execute(ACCESS.bind(sql, self.build.number).encode(), values, prepare=True)
        View.applied += 1


class Access(LibrarysProjection[View]):
    """What the runner is given."""

    topics = TOPICS

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Straight to the view."""
        self.view.apply(domain_event, tracking)


def runner(conninfo: str, seconds: float) -> float:
    """Events per second that the library's runner applies, over so many seconds."""
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    env = {
        "PEER_CONNINFO": conninfo,
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parts["dbname"]),
        "POSTGRES_HOST": str(parts["host"]),
        "POSTGRES_PORT": str(parts.get("port", 5432)),
        "POSTGRES_USER": str(parts["user"]),
        "POSTGRES_PASSWORD": str(parts.get("password", "unused")),
    }
    with psycopg.connect(conninfo, autocommit=True) as connection:
        View.build, View.applied = create_build(connection, ACCESS, feed="benchmark"), 0
        try:
            with ProjectionRunner(application_class=Peer, projection_class=Access, view_class=View, env=env) as running:
                while not View.applied:
                    running.run_forever(timeout=0.01)  # raises what went wrong
                before, started = View.applied, time.monotonic()
                time.sleep(seconds)
                return (View.applied - before) / (time.monotonic() - started)
        finally:
            connection.execute("drop table if exists access_tracking, notification_tracking")
            drop_build(connection, View.build)


def main(events: int, rounds: int, peer_seconds: float, memory: list[int], skip: list[str]) -> None:
    """Prints what the module says."""
    with postgres() as conninfo:
        fill(conninfo, events)
        log = Log(conninfo)
        bare(log)  # warm: all read from PostgreSQL's memory
        theirs, runners, ours = [], [], []
        for _ in range(rounds):
            theirs.append(bare(log))
            if "runner" not in skip:
                runners.append(runner(conninfo, peer_seconds))
            ours.append(rebuilt(conninfo)[0])
        log.close()
        told("the library's bare reading and mapping, events/s", theirs, digits=0)
        told("a rebuild, applied events/s", ours, digits=0)
        told("the rebuild / bare reading and mapping", ratios(ours, theirs), BARE_GOAL)
        if runners:
            told("the library's ProjectionRunner, events/s", runners, digits=0)
            told("the rebuild / the ProjectionRunner", ratios(ours, runners), RUNNER_GOAL, digits=1)
    if "memory" not in skip:
        grown(memory)


def grown(lengths: list[int]) -> None:
    """Prints the most memory that a rebuild uses at several lengths of the log."""
    used = []
    for length in lengths:
        with postgres() as conninfo:
            fill(conninfo, length)
            per_second, megabytes = rebuilt(conninfo)
        used.append(megabytes)
        told(f"memory of a rebuild of {length:,} events ({per_second:,.0f}/s)", [megabytes], MEMORY_GOAL, unit=" MB")
    told("the longest log's / the shortest one's", [used[-1] / used[0]], SAME_GOAL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-seconds", type=float, default=8.0)
    parser.add_argument("--memory", type=int, nargs="+", default=[100_000, 2_000_000], metavar="EVENTS")
    parser.add_argument("--skip", action="append", default=[], choices=("runner", "memory"))
    parser.add_argument("--rebuild", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rebuild:
        rebuild(given.rebuild)
    else:
        main(given.events, given.rounds, given.peer_seconds, given.memory, given.skip)
