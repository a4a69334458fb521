"""The scheduler as a process: enqueues the jobs of schedules when they are due."""

import signal
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import prometheus_client

from commands.jobs.schedules import Settled, SettleOccurrences, settle_occurrences
from domain.context import Context
from infra.host import host_of
from infra.schedules import ScheduleCursors
from infra.settings import Settings
from runtime import modules
from runtime.configured import configured
from runtime.core import Core
from runtime.past import discard_other_past
from stream_apps.jobs.scheduler import Scheduler, SchedulerLimits, SchedulerSetup


def scheduler(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises NewerSoftware for an event of a newer release."""
    with configured(settings, "scheduler") as core:
        if settings.scheduler_metrics_port:
            prometheus_client.start_http_server(settings.scheduler_metrics_port, settings.host)
        found = Scheduler(scheduler_setup(core))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: found.stop())
        found.run()


def scheduler_setup(core: Core) -> SchedulerSetup:
    """What the scheduler works with, as the settings say. The lease is renewed three times in its life."""
    settings, cursors, types = core.settings, ScheduleCursors(core.pool), modules.job_types()

    def settle(schedule_id: UUID, now: datetime) -> Settled:
        with core.live.bind() as snapshot:
            grace = timedelta(seconds=snapshot.settings.schedule_grace_seconds)
            command = SettleOccurrences(schedule_id, now, grace, types, cursors)
            context = Context.system("scheduler", str(uuid4()))
            return core.dispatcher.dispatch(settle_occurrences, command, context).result

    return SchedulerSetup(
        settings.postgres_url,
        settle,
        core.log.now,
        lambda: discard_other_past(settings),
        host_of(settings),
        SchedulerLimits(
            lease_seconds=settings.scheduler_lease_seconds,
            renew_seconds=settings.scheduler_lease_seconds / 3,
            threads=settings.scheduler_threads,
        ),
    )
