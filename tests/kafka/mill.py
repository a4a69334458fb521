"""A module of one's own for jobs over Kafka: whoever registers is counted, by a job that a reaction enqueues."""

from dataclasses import replace
from typing import Any

import msgspec

from commands.jobs import Enqueue, enqueue_job
from domain.identity import User
from infra.event_store import Recorded
from stream_apps.jobs import Run, job
from stream_apps.reactions import Intention, Reaction
from tests.e2e import abacus
from tests.e2e.abacus import QUICK, Counter

NEWCOMERS = 1
"""The counter of those who have registered."""


class GrindArgs(msgspec.Struct, frozen=True):
    counter: int
    seconds: float = 0.0
    fails: int = 0


@job("abacus.grind", retry=QUICK, max_attempts=3)
def grind(run: Run, args: GrindArgs) -> dict[str, int]:
    """Adds one to a counter, after so many failures; each attempt takes so long."""
    run.sleep(args.seconds)
    if run.attempt <= args.fails:
        raise abacus.Unlucky("once more")
    counter = run.work.find(Counter, Counter.create_id(args.counter)) or run.work.add(Counter(args.counter))
    counter.add(run.job_id)
    return {"attempt": run.attempt}


def _count(_: Recorded) -> Intention:
    return Intention(enqueue_job, Enqueue(grind, GrindArgs(NEWCOMERS)))


def _reactions(_: Any) -> tuple[Reaction, ...]:
    return (Reaction("counted", {User.Registered: _count}),)


MODULE = replace(abacus.MODULE, jobs=(abacus.add, grind), reactions=_reactions)
