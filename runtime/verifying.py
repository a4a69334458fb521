"""Verifying the views: for operators at the machine, and the standing look at a few streams at a time.

The standing look runs in the follower that leads, so that one process does it; in a thread of its own, which the
operating system serves last, once a minute, and not while a view is behind.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID, uuid4

import psycopg

from commands.verification import ReportDifferences, report_differences
from domain.context import Context
from domain.errors import DomainError
from infra.reasons import first_line
from projections.catalogue import catalogue
from projections.errors import BuildGone
from projections.projection import Projection
from projections.verification import Findings, Service, is_verifiable, sweep
from runtime import modules
from runtime.core import Core
from stream_apps.spreads import spread_of

logger = logging.getLogger(__name__)

ROUND_SECONDS = 60.0
"""How often the standing look comes round."""

LAG_SECONDS = 5.0
"""Views that are further behind have better things to do."""

PATIENCE_SECONDS = 1.0
"""How long the end of the process waits for the round in hand; breaking it off does no harm."""

NICENESS = 15
"""How far behind others the operating system serves the thread (setpriority(2); 19 is last)."""


def service(core: Core, context: Callable[[], Context]) -> Service:
    """What verifications work with; what they find is recorded in this context."""

    def report(found: Findings, streams: Sequence[UUID]) -> None:
        build = found.build
        rows = sum(found.differing[stream] for stream in streams)
        command = ReportDifferences(
            build.projection.name, build.projection.version, build.number, found.position, streams, rows
        )
        core.dispatcher.dispatch(report_differences, command, context())
        logger.warning("%s build %d: rows of %d streams differ", build.projection.label, build.number, len(streams))

    return Service(core.settings.postgres_url, core.log, spread_of, report)


@contextmanager
def standing(core: Core, leading: threading.Event, *, round_seconds: float = ROUND_SECONDS) -> Iterator[None]:
    """Looks at `verify_streams_per_minute` streams of each view once a minute while `leading`; 0: never."""
    ended = threading.Event()

    def work() -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not ended.wait(round_seconds):
            streams = core.live.current.settings.verify_streams_per_minute
            if streams and leading.is_set():
                look_around(core, streams)

    thread = threading.Thread(target=work, name="verify", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE_SECONDS)


def look_around(core: Core, streams: int) -> list[Findings]:
    """One round through all views that are level with the log. What fails is tried again in the next round."""
    try:
        with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
            level = {(s.name, s.version) for s in catalogue(connection) if s.active and s.lag_seconds < LAG_SECONDS}
    except psycopg.Error as error:
        logger.warning("the standing verification tries again: %s", first_line(error))
        return []
    due = [each for each in modules.projections() if is_verifiable(each) and (each.name, each.version) in level]
    return [found for each in due if (found := _look_at(core, each, streams))]


def _look_at(core: Core, projection: Projection, streams: int) -> Findings | None:
    try:
        return sweep(service(core, _context), projection, streams)
    except (psycopg.Error, BuildGone, DomainError) as error:
        logger.warning("%s: the standing verification tries again: %s", projection.label, first_line(error))
        return None


def _context() -> Context:
    return Context.system("verification", str(uuid4()))
