"""What a snapshot saves whoever loads a long stream, and what looking for one costs whoever loads a short one.

    python -m benchmarks.snapshots [--events 10000] [--rounds 5]

A unit of work's `get` of a unique key's stream that has passed from job to job, with its snapshots and without, in
turns; then of streams of one event, with processor time of this process and of PostgreSQL.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from uuid import UUID, uuid4

import psutil
import psycopg

from benchmarks.common import postgres, processor_seconds, ratios, told
from domain.context import Context
from domain.jobs import JobKey
from infra.event_store import Log
from infra.recorder import Limits
from infra.work import UnitOfWork

CONTEXT = Context.system("benchmark", "bench")
AFTER_EVENTS = 100
"""That have come since the snapshot: half of those after which there is the next one."""
SHORT_STREAMS, SHORT_LOADS = 500, 4_000
LONG_LOADS, WITH_LOADS = 5, 100


def filled(log: Log, events: int) -> UUID:
    """A key that so many jobs have had."""
    key = JobKey(uuid4(), 60, uuid4())
    log.save_work([key], metadata=b"{}")
    while key.version < events:
        for _ in range(min(1_000, events - key.version)):
            key.pass_to(uuid4(), 60)
        log.save_work([key], metadata=b"{}")
    return key.id


def seconds_each(log: Log, streams: list[UUID], loads: int) -> float:
    """Of one load in a unit of work of its own."""
    began = time.perf_counter()
    for number in range(loads):
        UnitOfWork(log, CONTEXT).get(JobKey, streams[number % len(streams)])
    return (time.perf_counter() - began) / loads


def used(backend: Callable[[], float], log: Log, streams: list[UUID], loads: int) -> tuple[float, float]:
    """Processor microseconds of one load: of this process, and of PostgreSQL."""
    own, other = time.process_time(), backend()
    seconds_each(log, streams, loads)
    return 1e6 * (time.process_time() - own) / loads, 1e6 * (backend() - other) / loads


def main(events: int, rounds: int) -> None:
    """Prints times and ratios."""
    with (
        postgres() as url,
        closing(Log(url)) as having,
        closing(Log(url, limits=Limits(snapshot_events=0))) as plain,
    ):
        long = filled(having, events - AFTER_EVENTS)
        UnitOfWork(having, CONTEXT).get(JobKey, long)  # leaves the snapshot
        with psycopg.connect(url) as connection:
            if connection.execute("select version from log_snapshots").fetchall() != [(events - AFTER_EVENTS,)]:
                raise RuntimeError("no snapshot was left: has the source of domain/ just been changed?")
        key = having.load(JobKey, long)
        assert isinstance(key, JobKey)
        for _ in range(AFTER_EVENTS):
            key.pass_to(uuid4(), 60)
        having.save_work([key], metadata=b"{}")
        _long(having, plain, long, events, rounds)
        short = [filled(having, 1) for _ in range(SHORT_STREAMS)]
        _short(having, plain, short, rounds, _postgres_pid(url))


def _long(having: Log, plain: Log, stream: UUID, events: int, rounds: int) -> None:
    with_, without = [], []
    for _ in range(rounds):
        without.append(1000 * seconds_each(plain, [stream], LONG_LOADS))
        with_.append(1000 * seconds_each(having, [stream], WITH_LOADS))
    told(f"load of a stream of {events:,} events, folded from the first, ms", without)
    told(f"the same, {AFTER_EVENTS} events after its snapshot, ms", with_)
    told("from the first / by the snapshot", ratios(without, with_), ">= 20")


def _short(having: Log, plain: Log, streams: list[UUID], rounds: int, server: int) -> None:
    own: dict[str, list[float]] = {"with": [], "without": []}
    other: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(rounds):
        for name, log in (("without", plain), ("with", having)):
            mine, theirs = used(lambda: processor_seconds(server), log, streams, SHORT_LOADS)
            own[name].append(mine)
            other[name].append(theirs)
    for name, values in own.items():
        told(f"load of a stream of one event, {name} snapshots, us of Python", values, digits=0)
        told(f"load of a stream of one event, {name} snapshots, us of PostgreSQL", other[name], digits=0)
    both = [[a + b for a, b in zip(own[name], other[name], strict=True)] for name in ("with", "without")]
    told("processor for a short stream: with / without", ratios(*both), "< 1.15")


def _postgres_pid(url: str) -> int:
    with psycopg.connect(url) as connection:
        return psutil.Process(connection.info.backend_pid).ppid()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    main(chosen.events, chosen.rounds)
