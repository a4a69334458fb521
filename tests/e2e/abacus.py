"""A module of one's own for drills: jobs that each add one to a counter, and often fail."""

import random
import time
from uuid import UUID

import msgspec
from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.jobs import RetryPolicy
from runtime.module import Module
from stream_apps.jobs import Run, job

FAILING = 0.2
QUICK = RetryPolicy(first_seconds=0.1, limit_seconds=0.5)


class Counter(Aggregate):
    TOPIC = "abacus.Counter"

    class Opened(First):
        TOPIC = "abacus.CounterOpened"
        number: int

    class Added(Aggregate.Event):
        TOPIC = "abacus.Added"
        job_id: UUID

    @event(Opened)
    def __init__(self, number: int) -> None:
        self.number = number

    @staticmethod
    def create_id(number: int) -> UUID:
        return derived_id("abacus", str(number))

    def add(self, job_id: UUID) -> None:
        self.trigger_event(self.Added, job_id=job_id)


class AddArgs(msgspec.Struct, frozen=True):
    counter: int
    seconds: float = 0.0
    is_hopeless: bool = False


class Unlucky(Exception):
    """One in five."""


@job("abacus.add", max_attempts=500, retry=QUICK)
def add(run: Run, args: AddArgs) -> None:
    counter = run.work.find(Counter, Counter.create_id(args.counter)) or run.work.add(Counter(args.counter))
    counter.add(run.job_id)
    time.sleep(args.seconds)
    if args.is_hopeless or random.random() < FAILING:  # noqa: S311
        raise Unlucky("better luck next time")


MODULE = Module(
    "abacus",
    depends_on=("jobs",),
    aggregates=(Counter,),
    jobs=(add,),
    routine=frozenset({Counter.Opened, Counter.Added}),
)
