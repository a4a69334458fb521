"""Jobs beside Procrastinate's, on one PostgreSQL at its default durability.

    python -m benchmarks.jobs [PART ...] [--jobs 20000] [--rounds 3] [--history 1000000]

`enqueue`: inside the process, through the dispatcher, one by one from 16 threads, and 1,000 at a time. `drain`: jobs
that do nothing, one worker process each with 16 at once, from the first one done to the last. `start`: from before the
enqueueing to the handler's first line, on an idle system. `history`: the same drain with a long history and without.
`idle`: what worker and scheduler use when nothing happens.

Procrastinate's tasks are async and its worker's loop has nothing else to do; ours are sync, in threads. Without
arguments: all of it.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
import psycopg

from benchmarks import procrastinating
from benchmarks.bus import Part, Shape, shape
from benchmarks.common import processor_seconds, quantile, ratios, told
from benchmarks.saves import rate
from benchmarks.timed_jobs import StampArgs, stamp
from commands.jobs import Enqueue, EnqueueBatch, enqueue_batch, enqueue_job
from domain.context import Context
from domain.jobs import Job, NoArgs
from infra.dispatch import Dispatcher
from infra.event_store import Log, Metadata
from runtime import modules
from stream_apps.jobs.builtin import noop

THREADS = 16
"""That enqueue, and that a worker has: of both sides."""
BATCH = 1_000
MODULES = "benchmarks.timed_jobs:MODULE"
CONTEXT = Context.system("benchmark", "bench")
STAMPS, STAMP_PAUSE_SECONDS = 300, 0.05
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 4.0
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 300.0


class Ours:
    """The platform's log in this process, and its worker in another."""

    name = "ours"

    def __init__(self, place: Shape) -> None:
        self.place = place
        self.log = Log(place.settings.postgres_url, inline=modules.inline_tables())
        self.dispatcher = Dispatcher(self.log)

    def enqueue(self) -> None:
        """One job that does nothing."""
        self.dispatcher.dispatch(enqueue_job, Enqueue(noop, NoArgs()), CONTEXT)

    def enqueue_batch(self) -> None:
        """A thousand of them."""
        self.dispatcher.dispatch(enqueue_batch, EnqueueBatch([Enqueue(noop, NoArgs())] * BATCH), CONTEXT)

    def stamp(self) -> None:
        """One that says when it was begun."""
        self.dispatcher.dispatch(enqueue_job, Enqueue(stamp, StampArgs(time.monotonic())), CONTEXT)

    def stamped(self) -> list[float]:
        """What those said, in seconds."""
        rows = self._rows("select state from stored_events where topic = 'jobs.AttemptSucceeded'")
        return [seconds for (state,) in rows if isinstance(seconds := orjson.loads(state)["result"], float)]

    def worker(self) -> Part:
        """A worker process."""
        return self.place.part("worker", worker_threads=THREADS)

    def left(self) -> int:
        """How many aren't done yet."""
        return int(self._rows("select count(*) from job_queue")[0][0])

    def empty(self) -> None:
        """Leaves no job."""
        self._rows("delete from job_queue returning 1")

    def _rows(self, sql: str) -> list[Any]:
        with psycopg.connect(self.place.settings.postgres_url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()


class Theirs:
    """Procrastinate on a database of its own."""

    name = "Procrastinate"

    def __init__(self, place: Shape, app: Any, conninfo: str) -> None:
        self.place = place
        self.conninfo = conninfo
        self.noop, self.stamping = app.tasks["noop"], app.tasks["stamp"]

    def enqueue(self) -> None:
        """One job that does nothing."""
        self.noop.defer()

    def enqueue_batch(self) -> None:
        """A thousand of them."""
        self.noop.batch_defer(*[{}] * BATCH)

    def stamp(self) -> None:
        """One that notes when it was begun."""
        self.stamping.defer(sent=time.monotonic())

    def stamped(self) -> list[float]:
        """What those noted, in seconds."""
        return [seconds for (seconds,) in self._rows("select seconds from stamps")]

    def worker(self) -> Part:
        """A worker process."""
        return self.place.script("benchmarks.procrastinating", self.conninfo, str(THREADS))

    def left(self) -> int:
        """How many aren't done yet."""
        return int(self._rows("select count(*) from procrastinate_jobs where status in ('todo', 'doing')")[0][0])

    def empty(self) -> None:
        """Leaves no job."""
        self._rows("delete from procrastinate_jobs where status = 'todo' returning 1")

    def _rows(self, sql: str) -> list[Any]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()


Side = Ours | Theirs


@contextmanager
def ours(place: Shape) -> Iterator[Ours]:
    """Our side."""
    side = Ours(place)
    with closing(side.log):
        yield side


@contextmanager
def theirs(place: Shape) -> Iterator[Theirs]:
    """The peer's side, on the same server."""
    url = place.settings.postgres_url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create database procrastinate")
    conninfo = psycopg.conninfo.make_conninfo(url, dbname="procrastinate")
    procrastinating.prepare(conninfo)
    with procrastinating.opened(conninfo, THREADS) as app:
        yield Theirs(place, app, conninfo)


def fill(side: Side, jobs: int) -> None:
    """Enqueues so many that do nothing."""
    for _ in range(-(-jobs // BATCH)):
        side.enqueue_batch()


def drained(side: Side, jobs: int) -> float:
    """Jobs per second, by a worker that starts on a full queue, from the first one done to the last."""
    fill(side, jobs)
    total = side.left()
    worker = side.worker()
    deadline = time.monotonic() + PATIENCE_SECONDS
    began, done_before = 0.0, 0
    while (left := side.left()) > 0:
        if not began and left < total:
            began, done_before = time.monotonic(), total - left
        if time.monotonic() > deadline:
            raise RuntimeError(f"{side.name}: {left} of {total} jobs are left after {PATIENCE_SECONDS:g} s")
        time.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - began
    worker.stop()
    return (total - done_before) / seconds


def enqueue(sides: tuple[Side, Side], rounds: int) -> None:
    """One by one from threads, and a thousand at a time."""
    server = sides[0].place.postgres_pid()
    one: dict[str, list[Speed]] = {side.name: [] for side in sides}
    many: dict[str, list[Speed]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            one[side.name].append(speed(side.enqueue, THREADS, 1, server))
            many[side.name].append(speed(side.enqueue_batch, 1, BATCH, server))
            side.empty()
    for what, speeds, goal in (
        (f"one by one from {THREADS} threads", one, ">= 3"),
        (f"{BATCH:,} at a time", many, ">= 1.5"),
    ):
        for name, values in speeds.items():
            told(f"enqueued {what}, {name}", [each.per_second for each in values], digits=0, unit="/s")
            told(f"enqueued {what}, {name}, processor, us", [each.processor_us for each in values], digits=0)
        mine, theirs = speeds.values()
        rates = [[each.per_second for each in values] for values in (mine, theirs)]
        costs = [[each.processor_us for each in values] for values in (theirs, mine)]
        told(f"enqueued {what}: ours / Procrastinate", ratios(*rates), goal)
        told(f"enqueued {what}: jobs for the same processor time, ours / theirs", ratios(*costs))


class Speed(NamedTuple):
    """Jobs per second, and what each has used of this process and of PostgreSQL, in microseconds."""

    per_second: float
    processor_us: float


def speed(enqueue: Callable[[], object], threads: int, jobs: int, server: int) -> Speed:
    """Of a call that enqueues so many jobs, by so many threads."""
    done = count()

    def once() -> None:
        enqueue()
        next(done)

    began = time.process_time() + processor_seconds(server)
    per_second = jobs * rate(once, threads, 2.0)
    used = time.process_time() + processor_seconds(server) - began
    return Speed(per_second, 1e6 * used / (jobs * next(done)))


def drain(sides: tuple[Side, Side], rounds: int, jobs: int) -> None:
    """Jobs that do nothing."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            rates[side.name].append(drained(side, jobs))
    for name, values in rates.items():
        told(f"{jobs:,} jobs drained, {name}", values, digits=0, unit="/s")
    told("drained: ours / Procrastinate", ratios(rates["ours"], rates["Procrastinate"]), ">= 8")


def start(sides: tuple[Side, Side]) -> None:
    """From before the enqueueing to the handler's first line."""
    for side in sides:
        worker = side.worker()
        time.sleep(SETTLE_SECONDS)
        for _ in range(STAMPS):
            side.stamp()
            time.sleep(STAMP_PAUSE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(seconds := side.stamped()) < STAMPS and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        worker.stop()
        found = [each * 1000 for each in seconds]
        goals = ("< 10", "< 30") if isinstance(side, Ours) else ("", "")
        told(f"from enqueueing to start, {side.name}, p50, ms", [statistics.median(found)], goals[0], digits=1)
        told(f"from enqueueing to start, {side.name}, p99, ms", [quantile(found, 0.99)], goals[1], digits=1)


def history(rounds: int, jobs: int, finished: int) -> None:
    """The drain on a log with a long history, beside one without."""
    with shape("") as short, shape("") as long, ours(short) as empty, ours(long) as full:
        remember(full, finished)
        without, with_history = [], []
        for _ in range(rounds):
            without.append(drained(empty, jobs))
            with_history.append(drained(full, jobs))
    told(f"{jobs:,} jobs drained, no history", without, digits=0, unit="/s")
    told(f"{jobs:,} jobs drained, {finished:,} finished ones in the history", with_history, digits=0, unit="/s")
    told("drained: with the history / without", ratios(with_history, without), ">= 0.9")


def remember(side: Ours, jobs: int) -> None:
    """Puts so many finished jobs into the log, as one real one left its events."""
    job_id = uuid4()
    job = Job(
        type=noop.name, type_version=1, args={}, personal_args={}, secret_args={}, queue=noop.queue, priority=0,
        run_at=None, unique_key=None, unique_seconds=None, concurrency_key=None, concurrency_limit=None,
        max_attempts=8, timeout_seconds=60.0, occurrence=None, id=job_id,
    )  # fmt: skip
    job.succeed(1, 1, "worker", 0.001, None)
    rows = [side.log.mapper.to_stored_event(event) for event in job.collect_events()]
    metadata = Metadata.from_context(CONTEXT).to_bytes()
    columns = "originator_id, originator_version, topic, state, notification_id, recorded_at, metadata"
    position, now = side.log.head(), datetime.now(UTC)
    with psycopg.connect(side.place.settings.postgres_url, autocommit=True) as connection:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(f"copy stored_events ({columns}) from stdin (format binary)".encode()) as copy:
                copy.set_types(["uuid", "int8", "text", "bytea", "int8", "timestamptz", "bytea"])
                for _ in range(jobs):
                    stream = uuid4()
                    for row in rows:
                        position += 1
                        now += timedelta(microseconds=500)
                        state = row.state.replace(str(job_id).encode(), str(stream).encode())
                        copy.write_row((stream, row.originator_version, row.topic, state, position, now, metadata))
            cursor.execute("update log_head set position = %s, recorded_at = %s", (position, now))
        connection.execute("vacuum analyze stored_events")


def idle(place: Shape, seconds: float) -> None:
    """Worker and scheduler when nothing happens."""
    parts = [place.part("worker"), place.part("scheduler")]
    time.sleep(SETTLE_SECONDS)
    before, began = sum(processor_seconds(part.pid) for part in parts), time.monotonic()
    time.sleep(seconds)
    used = sum(processor_seconds(part.pid) for part in parts) - before
    for part in parts:
        part.stop()
    told(f"idle for {seconds:g} s: worker and scheduler, % of a core", [100 * used / (time.monotonic() - began)], "< 1")


PARTS = ("enqueue", "drain", "start", "history", "idle")


def main(parts: list[str], jobs: int, rounds: int, finished: int) -> None:
    """Runs the chosen parts."""
    both: dict[str, Callable[[tuple[Side, Side]], None]] = {
        "enqueue": lambda sides: enqueue(sides, rounds),
        "start": start,
        "drain": lambda sides: drain(sides, rounds, jobs),
    }
    with shape("", modules=MODULES) as place, ours(place) as mine, theirs(place) as peer:
        gc.freeze()  # as the platform's processes do once they have started; of both sides
        for part in (part for part in both if part in parts):
            both[part]((mine, peer))
        if "idle" in parts:
            idle(place, IDLE_SECONDS)
    if "history" in parts:
        history(rounds, jobs, finished)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--history", type=int, default=1_000_000)
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    main(chosen.parts or list(PARTS), chosen.jobs, chosen.rounds, chosen.history)
