"""Job types that every platform has: to try things out, and for benchmarks."""

from typing import Annotated

import msgspec

from domain.jobs import RetryPolicy
from stream_apps.jobs.declaration import job
from stream_apps.jobs.run import Run

QUICK = RetryPolicy(first_seconds=0.2, limit_seconds=5.0)


class FailArgs(msgspec.Struct, frozen=True):
    """How often it fails before it succeeds, and what it says."""

    times: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 1
    message: Annotated[str, msgspec.Meta(max_length=1_000)] = "asked to fail"


class AskedToFail(Exception):
    """`muniment.fail` does what it was asked for."""


@job("muniment.noop")
def noop(run: Run) -> None:
    """Does nothing."""


@job("muniment.fail", retry=QUICK)
def fail(run: Run, args: FailArgs) -> dict[str, int]:
    """Fails so often, then succeeds."""
    if run.attempt <= args.times:
        raise AskedToFail(args.message)
    return {"attempts": run.attempt}


BUILTIN = (noop, fail)
