"""Counters, and jobs that add one to them; and worker processes that may be killed and frozen."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.jobs import JobTypes, RetryPolicy
from stream_apps.jobs import Run, job
from stream_apps.jobs.builtin import BUILTIN
from stream_apps.jobs.keeper import Keeping
from stream_apps.jobs.worker import WorkerLimits

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("work.py")


class Counter(Aggregate):
    TOPIC = "counting.Counter"

    class Started(First):
        TOPIC = "counting.CounterStarted"

    class Added(Aggregate.Event):
        TOPIC = "counting.OneAdded"
        by: UUID

        def apply(self, aggregate: "Counter") -> None:
            aggregate.value += 1

    @event(Started)
    def __init__(self, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.value = 0

    def add(self, by: UUID) -> None:
        self.trigger_event(self.Added, by=by)


def counter_id(number: int) -> UUID:
    return derived_id("counter", str(number))


class AddArgs(msgspec.Struct, frozen=True):
    """`fails` of a hundred attempts fail; each takes `seconds` between reading and deciding."""

    counter: int
    fails: int = 0
    seconds: float = 0.0


class Unlucky(Exception):
    """It was that one of five."""


@job("count.add", max_attempts=100, retry=RetryPolicy(first_seconds=0.05, limit_seconds=0.5))
def add(run: Run, args: AddArgs) -> None:
    counter = run.work.find(Counter, counter_id(args.counter)) or run.work.add(Counter(counter_id(args.counter)))
    time.sleep(args.seconds)
    if random.random() * 100 < args.fails:  # noqa: S311 - chance, not a secret
        raise Unlucky
    counter.add(run.job_id)


TYPES = JobTypes([*BUILTIN, add])


def limits(lease_seconds: float) -> WorkerLimits:
    return WorkerLimits(threads=4, drain_seconds=1.0, keeping=Keeping(lease_seconds, 1.0, 5.0, 5.0))


@contextmanager
def workers(database: str, lease_seconds: float) -> Iterator[Any]:
    """Starts worker processes; all are gone after the block."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(SCRIPT), database, str(lease_seconds)]
        processes.append(
            subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        )
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
