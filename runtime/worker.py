"""The worker as a process: runs jobs."""

import gc
import logging
import os
import random
import secrets
import signal
import sys
from collections.abc import Callable

import prometheus_client

from domain.jobs import RetryPolicy
from domain.jobs.job_type import NAME
from infra.configuration.live import Derived, given
from infra.host import host_of
from infra.job_queue_claims import Presence
from infra.settings import Settings, SettingsError, listed
from runtime import modules
from runtime.chores import with_chores
from runtime.configured import configured
from runtime.core import Core
from runtime.past import discard_other_past
from stream_apps.jobs.keeper import Keeping
from stream_apps.jobs.performing import Limits, Performer
from stream_apps.jobs.worker import Worker, WorkerLimits

logger = logging.getLogger("muniment.jobs")

SEEN_SECONDS = 10.0
"""How often a worker tells that it lives."""
RECYCLE_STATUS = os.EX_TEMPFAIL
"""The exit status of a worker that ends because a handler won't: to be started again."""


def worker(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, or until a handler won't end; then it exits with 75 and is to be started again.

    Raises SettingsError, and NewerSoftware for an event of a newer release.
    """
    worker_limits(settings)  # what is wrong with them is told before anything begins
    with configured(settings, "worker") as core:
        discard_other_past(settings)
        if settings.worker_metrics_port:
            prometheus_client.start_http_server(settings.worker_metrics_port, settings.host)
        found = build_worker(core, Derived(core.live, worker_limits))
        core.live.on_swap(lambda _: found.limits_changed())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: found.stop())
        gc.freeze()  # what stands by now stays; nobody looks for garbage among it
        found.run()
        if found.unfinished:
            # Threads that won't end would keep the process. Nothing of theirs counts any more.
            _exit_now(RECYCLE_STATUS if found.stuck else 0)
    if found.stuck:
        raise SystemExit(RECYCLE_STATUS)


def worker_limits(settings: Settings) -> WorkerLimits:
    """As the settings say. Raises SettingsError."""
    queues = listed(settings.worker_queues)
    for queue in queues:
        if not NAME.fullmatch(queue):
            raise SettingsError(f"MUNIMENT_WORKER_QUEUES: a queue can't be named {queue!r}")
    return WorkerLimits(
        queues=queues or None,
        threads=settings.worker_threads,
        async_tasks=settings.worker_async_tasks,
        claim_ahead=settings.worker_claim_ahead,
        drain_seconds=settings.worker_drain_seconds,
        keeping=Keeping(
            lease_seconds=settings.worker_lease_seconds,
            cancel_grace_seconds=settings.worker_cancel_grace_seconds,
            grace_seconds=settings.worker_stuck_seconds,
            seen_seconds=SEEN_SECONDS,
        ),
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    """When a job is tried again whose type says nothing of that."""
    return RetryPolicy(settings.retry_first_seconds, settings.retry_factor, settings.retry_longest_seconds)


def build_worker(
    core: Core, limits: WorkerLimits | Callable[[], WorkerLimits], chance: Callable[[], float] = random.random
) -> Worker:
    """A worker with the platform's job types."""
    limits_now = given(limits)
    host = host_of(core.settings)
    name = f"{host}:{os.getpid()}:{secrets.token_hex(3)}"

    types = with_chores(modules.job_types(), core)

    def presence(running: int) -> Presence:
        now = limits_now()
        return Presence(name, host, os.getpid(), now.queues, now.threads, running)

    def performer(self: Worker) -> Performer:
        limits = Limits(core.live.value(lambda s: s.dispatch_attempts), Derived(core.live, retry_policy))
        return Performer(core.log, types, self.look, self.give_back, limits, live=core.live)

    return Worker(core.settings.postgres_url, name, presence, performer, limits, chance=chance)


def _exit_now(status: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
