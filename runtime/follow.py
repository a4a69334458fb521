"""The follower as a process: feeds the views from the log, and writes the tombstones of the shared cache."""

import signal
from contextlib import closing

from infra.invalidation import Invalidator
from infra.settings import Settings
from projections.engine import Applied
from projections.follower import Follower
from projections.lane import FollowerLimits, Hooks, Setup
from runtime import modules
from runtime.core import open_core


def follow(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises NewerSoftware for an event of a newer release."""
    with open_core(settings) as core, closing(Invalidator(settings.postgres_url, settings.redis_url)) as invalidator:
        setup = Setup(core.log, settings.postgres_url, modules.projections(), hooks(invalidator), limits(settings))
        follower = Follower(setup)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: follower.stop())
        follower.run()


def limits(settings: Settings) -> FollowerLimits:
    """The follower's limits, as the settings say. The lease is renewed three times in its life."""
    return FollowerLimits(
        batch_events=settings.follow_batch_events,
        tail_events=settings.follow_tail_events,
        lease_seconds=settings.follow_lease_seconds,
        renew_seconds=settings.follow_lease_seconds / 3,
    )


def hooks(invalidator: Invalidator) -> Hooks:
    """After each view's commit its tombstones; where that fails, and at a take-over, a new epoch."""

    def committed(applied: Applied) -> None:
        invalidator.committed(applied.build.projection.name, applied.invalidate, applied.position)

    return Hooks(
        on_takeover=invalidator.taken_over,
        after_commit=committed,
        on_invalidation_failed=lambda _, error: invalidator.failed(error),
    )
