"""Rebuilds a projection: brings a build that nobody reads from the log's beginning to its end, in bulk.

The same declaration and the same engine as the live feeds'. Progress is in the build's own progress row, moved in the
transaction that writes the rows: whoever was killed goes on where the last commit was. Indexes that the load doesn't
need are created after it; which are missing, the catalogue says. One process at a time, by lease; one that was frozen
past its lease is refused by the fence of whoever came after it. Near the head the build is handed to the feed of the
build that is read, at one position, and follows the log from then on.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import psutil
import psycopg
from psycopg import Connection

from domain.builds import RebuildRunning
from infra import leases
from infra.event_store import Log
from infra.leases import Lease
from projections.builds import REBUILD_LANE
from projections.bulk import BulkState, forward
from projections.by_sets import SetEngine
from projections.engine import Build, Engine
from projections.feeds import FAUST, FOLLOWER, change_feed
from projections.indexes import complete, missing
from projections.lane import FollowerLimits, connect
from projections.lanes import Spread
from projections.projection import Projection
from projections.rebuilds import LEASE_SECONDS, lease_name, note_level, note_progress

NEAR_EVENTS = 1000
"""What is left to the live feed, which is as good at it."""

NOTE_SECONDS = 1.0
"""How often a rebuild writes down how fast it is."""

Report = Callable[[int, int], None]
"""Told the position that is reached, and the log's head."""

Phase = Callable[[str], None]
"""Told what is being done, in a few words."""

Stopping = Callable[[], bool]

_HOLDER = re.compile(r" on (\S+), process (\d+)\Z")

_FEED_OF = """
    select feed from projection_builds
     where projection = %(projection)s and active and feed in ('follower', 'faust') and build <> %(build)s
     order by version = %(version)s desc, version desc limit 1
"""


@dataclass(frozen=True)
class Works:
    """Where builds are worked on. `spreads` gives the layout of the bus of a number, or the newest, if there is one."""

    conninfo: str
    log: Log
    spreads: Callable[[Connection[Any], int | None], Spread | None] = lambda _, __: None

    def connect(self) -> Connection[Any]:
        """A connection that waits neither for locks nor for answers without end, nor holds locks while frozen."""
        return connect(self.conninfo, FollowerLimits(lease_seconds=LEASE_SECONDS))


class Stopped(Exception):
    """It was told to stop; the same command goes on from `position`."""

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(f"stopped at position {position}")


@contextmanager
def leased(works: Works, projection: Projection, holder: str) -> Iterator[Lease]:
    """Holds the lease on the projection's other build for as long as the block runs. Raises RebuildRunning.

    It is renewed in a thread; if it is lost all the same, the fence refuses whatever is written afterwards.
    """
    with works.connect() as connection:
        lease = _acquire(connection, lease_name(projection), holder)
        if lease is None:
            raise RebuildRunning(f"{projection.name} is being worked on by {_holder(connection, projection)}")
        ended = Event()
        renewing = Thread(target=_renew, args=(connection, lease, ended), name=lease.name, daemon=True)
        renewing.start()
        try:
            yield lease
        finally:
            ended.set()
            renewing.join()
            with suppress(psycopg.Error):
                leases.release(connection, lease)


def _acquire(connection: Connection[Any], name: str, holder: str) -> Lease | None:
    """The lease, also where it is a dead process's of this machine: whoever was killed needn't be waited for."""
    if lease := leases.acquire(connection, name, holder, LEASE_SECONDS):
        return lease
    row = connection.execute("select holder, fence from leases where name = %s", (name,)).fetchone()
    if row is None or not _is_dead_here(row[0]):
        return None
    leases.release(connection, Lease(name, row[0], LEASE_SECONDS, row[1]))
    return leases.acquire(connection, name, holder, LEASE_SECONDS)


def _is_dead_here(holder: str) -> bool:
    found = _HOLDER.search(holder)
    if found is None or found[1] != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(int(found[2])).status() == psutil.STATUS_ZOMBIE)  # nobody has noticed yet
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def holder(actor: str) -> str:
    """Who holds a lease: for people who find it held."""
    return f"{actor} on {socket.gethostname()}, process {os.getpid()}"


def _renew(connection: Connection[Any], lease: Lease, ended: Event) -> None:
    while not ended.wait(lease.seconds / 3):
        with suppress(psycopg.Error):
            if leases.renew(connection, lease) is None:
                return


def _holder(connection: Connection[Any], projection: Projection) -> str:
    row = connection.execute("select holder from leases where name = %s", (lease_name(projection),)).fetchone()
    return str(row[0]) if row else "somebody"


def rebuild(
    works: Works,
    build: Build,
    actor: str,
    *,
    rate: int | None = None,
    stopping: Stopping = lambda: False,
    report: Report = lambda _, __: None,
    phase: Phase = lambda _: None,
) -> int:
    """Brings the build to the head and hands it to the live feed; the position at which that happened.

    At most `rate` events a second. `phase` is told what it is at while the position stands still. Raises
    RebuildRunning, Stopped, Fenced (somebody newer is at it), BuildGone (it was dropped), NewerSoftware, and what the
    database raises; then the same call goes on from what was committed last.
    """
    who = holder(actor)
    with leased(works, build.projection, who) as lease, works.connect() as connection:
        engine = SetEngine(connection, works.log, build, lane=REBUILD_LANE, fence=lease.fence)
        run = _Run(works, build, engine, who, rate, stopping, report)
        position = run.to_head(engine.take_over())
        while missing(connection, build):
            complete(connection, build, stopping, phase)
            position = run.to_head(position)  # what has come meanwhile, when nothing could be written
        phase("gathering statistics")
        _analyse(works, build)
        return hand_over(works, connection, build)


class _Run:
    def __init__(
        self,
        works: Works,
        build: Build,
        engine: Engine,
        runner: str,
        rate: int | None,
        stopping: Stopping,
        report: Report,
    ) -> None:
        self._works, self._build, self._engine = works, build, engine
        self._runner, self._rate, self._stopping, self._report = runner, rate, stopping, report
        self._noted_at, self._noted = 0.0, 0

    def to_head(self, position: int) -> int:
        """Brings the build so near to the head that less than a batch has come since; where. Raises Stopped."""
        with self._works.connect() as notes:
            self._note(notes, position, 0.0)
            while True:
                head = self._works.log.head()
                self._report(position, head)
                if self._stopping():
                    raise Stopped(position)
                position = self._forward(notes, head)
                if position < head:
                    raise Stopped(position)
                if self._works.log.head() - position < NEAR_EVENTS:
                    return position

    def _forward(self, notes: Connection[Any], head: int) -> int:
        def told(state: BulkState) -> None:
            self._report(state.position, head)
            now = time.monotonic()
            if now - self._noted_at >= NOTE_SECONDS:
                self._note(notes, state.position, (state.position - self._noted) / (now - self._noted_at))

        return forward(
            self._works.log, [self._engine], head, events_per_second=self._rate, told=told, stopping=self._stopping
        )

    def _note(self, notes: Connection[Any], position: int, events_per_second: float) -> None:
        note_progress(notes, self._build, self._runner, events_per_second)
        self._noted_at, self._noted = time.monotonic(), position


def hand_over(works: Works, connection: Connection[Any], build: Build) -> int:
    """Hands a build to the feed of the one that is read; the position at which that happens. Raises BuildGone."""
    spread = works.spreads(connection, None)
    feed = feed_of(connection, build) if spread else FOLLOWER
    position = change_feed(connection, works.log, build, feed, spread)
    note_level(connection, build)
    return position


def feed_of(connection: Connection[Any], build: Build) -> str:
    """Who feeds the build of this version that is read, or else that of another version; the follower, if nobody."""
    row = connection.execute(_FEED_OF, build.key).fetchone()
    return row[0] if row and row[0] == FAUST else FOLLOWER


def _analyse(works: Works, build: Build) -> None:
    """A planner that knows nothing of the new tables would read them whole for every query after the cut-over."""
    with psycopg.connect(works.conninfo, autocommit=True) as connection:
        for name in build.projection.table_names:
            connection.execute(f"vacuum (analyze) {build.projection.table(name, build.number)}".encode())
