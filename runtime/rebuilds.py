"""Sees to it that what was decided about builds happens: beside the follower, in whichever process leads.

A rebuild that a route asked for, or that a release needs, runs in a process of its own, so that it takes nothing from
the interpreter that feeds the live views. A process that dies is started again, ever later, and goes on where it was.
"""

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection

from domain.builds import RebuildRunning
from infra.event_store import Log
from infra.reasons import first_line
from infra.settings import Settings
from projections.builds import CHANNEL
from projections.engine import Build
from projections.errors import BuildGone
from projections.feeds import FeedBusy
from projections.leftover import settle_unread
from projections.projection import Projection
from projections.rebuild import Works, hand_over, holder, leased
from projections.rebuilds import RebuildStatus, note_error, unfinished
from projections.switch import declared, settle
from projections.wishes import pending
from runtime import modules
from runtime.environment import environment
from stream_apps.spreads import spread_of

logger = logging.getLogger("muniment.builds")

LOOK_SECONDS = 2.0
"""How often it is looked whether something was left undone; what is announced is seen at once."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Before a rebuild's process that failed is started again: twice as long each time, until one has run for so long."""

STOP_SECONDS = 2.0
JOIN_SECONDS = 0.2


def works(settings: Settings, log: Log) -> Works:
    """Where this platform's builds are worked on."""
    return Works(settings.postgres_url, log, spread_of)


@contextmanager
def kept(settings: Settings, log: Log, leading: Callable[[], bool]) -> Iterator[None]:
    """Looks after builds in a thread, whenever `leading()`, until the block ends; then its processes end, too."""
    keeper = Keeper(settings, works(settings, log), modules.declared(), leading)
    thread = Thread(target=keeper.run, name="builds", daemon=True)
    thread.start()
    try:
        yield
    finally:
        keeper.stop()
        thread.join(JOIN_SECONDS)


class Keeper:
    """Completes decisions, hands stranded builds back to their feeds, and runs the rebuilds that nobody attends."""

    def __init__(
        self, settings: Settings, works: Works, projections: Sequence[Projection], leading: Callable[[], bool]
    ) -> None:
        self._settings, self._works, self._leading = settings, works, leading
        self._declared = declared(projections)
        self._children: dict[tuple[str, int], _Child] = {}
        self._ended = Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._ended.is_set():
            try:
                self._watch()
            except psycopg.Error as error:
                logger.warning("builds are looked after again in a moment: %s", first_line(error))
                self._ended.wait(LOOK_SECONDS)

    def stop(self) -> None:
        """Ends its processes, and itself soon; whatever it was at is gone on with by the next."""
        self._ended.set()
        for child in list(self._children.values()):
            child.stop()

    def _watch(self) -> None:
        with self._works.connect() as connection:
            connection.execute(f"listen {CHANNEL}".encode())
            while not self._ended.is_set():
                if self._leading():
                    self.look(connection)
                else:
                    self._let_go()
                for _ in connection.notifies(timeout=LOOK_SECONDS, stop_after=1):
                    pass

    def look(self, connection: Connection[Any]) -> None:
        """Does what is left to do at this moment."""
        if pending(connection):
            settle_unread(connection, list(self._declared.values()))
            settle(self._works, self._declared)
        for each in unfinished(connection):
            projection = self._declared.get((each.name, each.version))
            if projection is None or self._ended.is_set() or (each.leased and not self._has_lost(each)):
                continue
            build = Build(projection, each.build)
            if each.state == "following":
                self._hand_back(build)
            elif not each.attended:
                self._run_on(connection, each, build)

    def _has_lost(self, each: RebuildStatus) -> bool:
        """Whether its process was one of these, and ended: then nobody waits until its lease runs out."""
        child = self._children.get((each.name, each.version))
        return child is not None and child.has_ended

    def _hand_back(self, build: Build) -> None:
        """Whoever had taken it for a comparison or a cut-over was killed."""
        with (
            suppress(RebuildRunning, BuildGone, FeedBusy, LookupError),
            leased(self._works, build.projection, holder("system:follower")),
            self._works.connect() as connection,
        ):
            hand_over(self._works, connection, build)
            logger.warning(
                "%s build %d was left without a feed; it has one again", build.projection.label, build.number
            )

    def _run_on(self, connection: Connection[Any], each: RebuildStatus, build: Build) -> None:
        child = self._children.setdefault((each.name, each.version), _Child(self._settings, build.projection))
        if (said := child.see_to_it()) is not None:
            logger.warning("the rebuild of %s ended: %s", build.projection.label, said)
            note_error(connection, build, said)

    def _let_go(self) -> None:
        """Another process leads by now. What runs here goes on: its lease keeps others away from it."""
        for key in [key for key, child in self._children.items() if not child.is_running]:
            del self._children[key]


class Pauses:
    """How long to wait before a process that ended is started again: ever longer, unless it had run well for long."""

    def __init__(self) -> None:
        self._next_seconds = FIRST_PAUSE_SECONDS

    def after(self, ran_seconds: float, *, failed: bool = True) -> float:
        """The pause after a run of so long, in seconds; none where it hasn't failed."""
        if not failed or ran_seconds >= LONGEST_PAUSE_SECONDS:
            self._next_seconds = FIRST_PAUSE_SECONDS
        if not failed:
            return 0.0
        pause = self._next_seconds
        self._next_seconds = min(LONGEST_PAUSE_SECONDS, pause * 2)
        return pause


class _Child:
    """The process of one rebuild, started when it is looked at and doesn't run."""

    def __init__(self, settings: Settings, projection: Projection) -> None:
        self._settings, self._projection = settings, projection
        self._process: subprocess.Popen[bytes] | None = None
        self._pauses = Pauses()
        self._started_at = self._not_before = 0.0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def has_ended(self) -> bool:
        """Whether it was started, and doesn't run."""
        return self._started_at > 0 and not self.is_running

    def see_to_it(self) -> str | None:
        """Starts it if it is due. How it ended, once, if it failed."""
        if self.is_running:
            return None
        said = self._ending()
        if said is None and monotonic() >= self._not_before:
            self._start()
        return said

    def _start(self) -> None:
        command = [sys.executable, "-m", "runtime", "projections", "rebuild", self._projection.name]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--version", str(self._projection.version), "--unattended"],
            env=environment(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._started_at = monotonic()
        logger.info("rebuilding %s in process %d", self._projection.label, self._process.pid)

    def _ending(self) -> str | None:
        process, self._process = self._process, None
        if process is None:
            return None
        code, now = process.returncode, monotonic()
        self._not_before = now + self._pauses.after(now - self._started_at, failed=code != 0)
        if code == 0:
            return None
        return f"status {code}" if code > 0 else signal.Signals(-code).name

    def stop(self) -> None:
        """Asks it to end after the batch in hand, and sees to it."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
