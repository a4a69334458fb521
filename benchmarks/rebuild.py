"""A rebuild of the view of access, beside the library's ProjectionRunner and the library's bare reading and mapping.

    python -m benchmarks.rebuild [--events 100000] [--rounds 3] [--peer-seconds 8] [--memory 100000 2000000]

Every event counted is one that the view applies. Per round the same events are read several times: by the library (its
query for notifications of these topics, each mapped to its event by its own mapper and JSON, and nothing else), from a
table of its own, in which they are as that mapper stores them, with their times and typed ids; by the same from our
rows, which have less in them, and of which it makes events without times and with ids as text; the same with our own
mapper in the place of its own, which makes whole ones; by the library's ProjectionRunner, with a view that runs the
same statements on the same tables, for some seconds; and by a rebuild, in a process of its own, as `muniment
projections rebuild` does it: from the empty tables to the moment when the live feed has the build, the indexes and
statistics included. Beside the clock's time, the processor time per event of the process and of PostgreSQL is printed,
which says the same while the machine does other things. `--memory`: the most memory that the process used at these
lengths of the log. `--skip runner`, `--skip memory`, `--skip bare` leave these out.
"""

import argparse
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil
import psycopg
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresTrackingRecorder
from eventsourcing.projection import Projection as LibrarysProjection
from eventsourcing.projection import ProjectionRunner

from benchmarks.common import ROOT, postgres, processor_seconds, ratios, told
from benchmarks.history import TOPICS, fill
from benchmarks.relay import library
from infra.event_store import Log
from projections.access import ACCESS
from projections.builds import create_build, drop_build
from projections.engine import Build
from projections.facts import Unreadable, read
from projections.projection import statements_of
from projections.rebuild import Works
from projections.rebuild import rebuild as run_rebuild
from projections.rebuilds import start
from runtime import modules

BATCH = 1000
MICRO = 1e6
RUNNER_GOAL, BARE_GOAL, SAME_GOAL, MEMORY_GOAL = ">= 60", ">= 0.8", "< 1.1", "< 200"

assert modules.MODULES  # every module's events are known


def bare(recorder: Any, mapper: Any) -> tuple[float, float]:
    """Events per second of the library's reading and mapping, and microseconds of this process's processor for each."""
    started, used, position, count = time.monotonic(), time.process_time(), 0, 0
    while notifications := recorder.select_notifications(position + 1, BATCH, topics=TOPICS):
        for notification in notifications:
            mapper.to_domain_event(notification)
        position = int(notifications[-1].id)
        count += len(notifications)
    return count / (time.monotonic() - started), (time.process_time() - used) / count * MICRO


def as_the_library_has_them(conninfo: str, log: Log, mapper: Any) -> Any:
    """The library's recorder, on a table in which the log's events are as the library's mapper stores them."""
    recorder = PostgresApplicationRecorder(log.factory.datastore, events_table_name="library_events")  # type: ignore[attr-defined]
    recorder.create_table()
    columns = "originator_id, originator_version, topic, state, notification_id"
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        with cursor.copy(f"copy library_events ({columns}) from stdin (format binary)".encode()) as copy:
            copy.set_types(["uuid", "int8", "text", "bytea", "int8"])
            position = 0
            while facts := read(log, position, BATCH):
                for fact in facts:
                    assert not isinstance(fact, Unreadable)
                    row = mapper.to_stored_event(fact.event)
                    copy.write_row((row.originator_id, row.originator_version, row.topic, row.state, fact.position))
                position = facts[-1].position
        cursor.execute("analyze library_events")
    return recorder


class Rebuilt(NamedTuple):
    """What a rebuild did: events per second, megabytes at most, and what was used for each event.

    Microseconds of the processor: of its own process, and of all of PostgreSQL's; of these, those of what follows the
    load (indexes, statistics). `tail_seconds` is the clock's time for that.
    """

    per_second: float
    megabytes: float
    own: float
    server: float
    tail: float
    tail_seconds: float


def rebuilt(conninfo: str) -> Rebuilt:
    """A rebuild in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rebuild", "--rebuild", conninfo]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Rebuilt(*map(float, found.stdout.split()))


def rebuild(conninfo: str) -> None:
    """Rebuilds the view from the log's beginning until it is handed over, and drops it; prints what `Rebuilt` says."""
    log = Log(conninfo)
    head, loaded = log.head(), list[tuple[float, float]]()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        server = psutil.Process(connection.info.backend_pid).ppid()
        row = connection.execute("select count(*) from stored_events where topic = any(%s)", (list(TOPICS),)).fetchone()
        events = row[0] if row else 0
        build = start(connection, ACCESS, asked_by="benchmark", attended=True)
        began, used, theirs = time.monotonic(), time.process_time(), processor_seconds(server)

        def report(position: int, _: int) -> None:
            if position == head:
                loaded.append((time.monotonic(), processor_seconds(server)))

        run_rebuild(Works(conninfo, log), build, "benchmark", report=report)
        ended, own, all_theirs = time.monotonic(), time.process_time() - used, processor_seconds(server)
        drop_build(connection, build)
    log.close()
    (loaded_at, load), megabytes = loaded[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = (seconds / events * MICRO for seconds in (own, all_theirs - theirs, all_theirs - load))
    print(events / (ended - began), megabytes, *each, ended - loaded_at)


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
    if "bare" not in skip:
        beside(events, rounds, 0 if "runner" in skip else peer_seconds)
    if "memory" not in skip:
        grown(memory)


def beside(events: int, rounds: int, peer_seconds: float) -> None:
    """Prints the rates, beside those of the others; the ProjectionRunner's only where it is given time."""
    with postgres() as conninfo:
        fill(conninfo, events)
        log, stock = Log(conninfo), library()
        peer = as_the_library_has_them(conninfo, log, stock)
        bare(log.recorder, stock)  # warm: all read from PostgreSQL's memory
        bare(peer, stock)
        theirs, poorer, faster, runners, ours = [], [], [], [], []
        for _ in range(rounds):
            theirs.append(bare(peer, stock))
            poorer.append(bare(log.recorder, stock))
            faster.append(bare(log.recorder, log.mapper))
            if peer_seconds:
                runners.append(runner(conninfo, peer_seconds))
            ours.append(rebuilt(conninfo))
        log.close()
    rates = [each.per_second for each in ours]
    told("the library's bare reading and mapping, events/s", [rate for rate, _ in theirs], digits=0)
    told("the same from our rows, events/s", [rate for rate, _ in poorer], digits=0)
    told("the same from our rows with our own mapper, events/s", [rate for rate, _ in faster], digits=0)
    told("a rebuild, applied events/s", rates, digits=0)
    told("the rebuild / the library's bare reading and mapping", ratios(rates, [rate for rate, _ in theirs]), BARE_GOAL)
    told("the rebuild / the same from our rows", ratios(rates, [rate for rate, _ in poorer]))
    told("the rebuild / the same from our rows with our own mapper", ratios(rates, [rate for rate, _ in faster]))
    if runners:
        told("the library's ProjectionRunner, events/s", runners, digits=0)
        told("the rebuild / the ProjectionRunner", ratios(rates, runners), RUNNER_GOAL, digits=1)
    told("processor per event: the library's bare reading", [used for _, used in theirs], digits=1, unit=" us")
    told("processor per event: the same from our rows", [used for _, used in poorer], digits=1, unit=" us")
    told("processor per event: our mapper's bare reading", [used for _, used in faster], digits=1, unit=" us")
    told("processor per event: the rebuild's process", [each.own for each in ours], digits=1, unit=" us")
    told("processor per event: all of PostgreSQL", [each.server for each in ours], digits=1, unit=" us")
    told("of which after the load (indexes, statistics)", [each.tail for each in ours], digits=1, unit=" us")
    told("what follows the load takes", [each.tail_seconds for each in ours], digits=1, unit=" s")


def grown(lengths: list[int]) -> None:
    """Prints the most memory that a rebuild uses at several lengths of the log."""
    used = []
    for length in lengths:
        with postgres() as conninfo:
            fill(conninfo, length)
            found = rebuilt(conninfo)
        used.append(found.megabytes)
        what = f"memory of a rebuild of {length:,} events ({found.per_second:,.0f}/s)"
        told(what, [found.megabytes], MEMORY_GOAL, unit=" MB")
        told("    processor per event: its process", [found.own], digits=1, unit=" us")
        told("    processor per event: all of PostgreSQL", [found.server], digits=1, unit=" us")
        told("    of which after the load (indexes, statistics)", [found.tail], digits=1, unit=" us")
        told("    what follows the load takes", [found.tail_seconds], digits=1, unit=" s")
    told("the longest log's / the shortest one's", [used[-1] / used[0]], SAME_GOAL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-seconds", type=float, default=8.0)
    parser.add_argument("--memory", type=int, nargs="+", default=[100_000, 2_000_000], metavar="EVENTS")
    parser.add_argument("--skip", action="append", default=[], choices=("bare", "runner", "memory"))
    parser.add_argument("--rebuild", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rebuild:
        rebuild(given.rebuild)
    else:
        main(given.events, given.rounds, given.peer_seconds, given.memory, given.skip)
