"""The follower as a process: feeds the views, drives the reactions, writes the shared cache's tombstones."""

import signal
from collections.abc import Callable
from contextlib import ExitStack, closing

from infra.invalidation import Invalidator
from infra.settings import Settings
from projections.engine import Applied
from projections.follower import Follower
from projections.lane import FollowerLimits, Hooks, Setup
from runtime import modules
from runtime.configured import configured
from runtime.past import discard_other_past
from runtime.reactions import for_follower, take_back
from runtime.rebuilds import kept
from runtime.verifying import standing


def follow(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises NewerSoftware for an event of a newer release."""
    with (
        configured(settings, "follow") as core,
        closing(Invalidator(settings.postgres_url, settings.redis_url)) as invalidator,
        ExitStack() as stack,
    ):
        setup = Setup(
            core.log,
            settings.postgres_url,
            modules.declared(),
            hooks(settings, invalidator, lambda: None if settings.kafka else take_back(core)),
            limits(settings),
            for_follower(core),
        )
        follower = Follower(setup)
        stack.enter_context(kept(settings, core.log, follower.leading.is_set))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: follower.stop())
        with standing(core, follower.leading):
            follower.run()


def limits(settings: Settings) -> FollowerLimits:
    """The follower's limits, as the settings say. The lease is renewed three times in its life."""
    return FollowerLimits(
        batch_events=settings.follow_batch_events,
        tail_events=settings.follow_tail_events,
        tail_bytes=settings.follow_tail_bytes,
        lease_seconds=settings.follow_lease_seconds,
        renew_seconds=settings.follow_lease_seconds / 3,
    )


def hooks(settings: Settings, invalidator: Invalidator, then: Callable[[], None] = lambda: None) -> Hooks:
    """Before a take-over what is of another past of the log is discarded. After each view's commit its tombstones;
    where that fails, and at a take-over, a new epoch.

    `then` is what else is done at a take-over.
    """

    def taken_over() -> None:
        invalidator.taken_over()
        then()

    def committed(applied: Applied) -> None:
        invalidator.committed(applied.build.projection.name, applied.invalidate, applied.position)

    return Hooks(
        before_takeover=lambda: discard_other_past(settings),
        on_takeover=taken_over,
        after_commit=committed,
        on_invalidation_failed=lambda _, error: invalidator.failed(error),
    )
