"""What follows from operators' decisions about builds: a rebuild begins, another build is read, a build goes away.

Each effect is one transaction, together with the end of the wish that the decision left behind. Whoever is killed
before it leaves the wish, and the leading follower, or the next decision, completes it: twice does nothing.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import orjson
import psycopg
from psycopg import Connection

from domain.builds import BuildBehind, BuildIsRead, NoOtherBuild, RebuildRunning
from domain.errors import DomainError, Unavailable
from infra.versions import move_epoch
from projections.abreast import abreast, refuse_behind
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.builds import LOCK as BUILDS_LOCK
from projections.builds import active_build, other_builds
from projections.engine import CHANNEL as PROGRESS_CHANNEL
from projections.engine import EVERYTHING, Build
from projections.errors import BuildGone, Starting
from projections.projection import Projection
from projections.rebuild import Works
from projections.rebuilds import other_build, start
from projections.wishes import Wish, forget, pending

logger = logging.getLogger("muniment.builds")

LOCK = 7_053_010
"""The advisory lock (of a session) under which decisions take effect, one after another."""

LOCK_SECONDS = 30.0
DROP_SECONDS = 10.0
"""How long a drop waits for readers that are still at the build."""

DROP_PAUSE_SECONDS = 0.05

Declared: TypeAlias = Mapping[tuple[str, int], Projection]


class StillRead(Unavailable):
    """Somebody is still reading the build; it goes as soon as they have finished."""

    code = "build-still-read"
    retry_after_seconds = 5


def declared(projections: Iterable[Projection]) -> Declared:
    """Declarations by name and version."""
    return {(projection.name, projection.version): projection for projection in projections}


def settle(works: Works, projections: Declared, upto: int | None = None) -> None:
    """Lets every decision that is pending take effect, in order; those of other releases' projections are left.

    With `upto`, whatever keeps the decision at that position from its effect is raised: BuildBehind, RebuildRunning,
    BuildBeside, NoOtherBuild, StillRead. What can't take effect any more is forgotten; what may later stays.
    """
    with works.connect() as connection:
        if not _locked(connection):
            raise Unavailable("another decision about builds is taking effect")
        for wish in pending(connection):
            projection = projections.get((wish.projection, wish.version))
            if projection is None or (upto is not None and wish.position > upto) or _is_unread(wish, projections):
                continue
            try:
                _EFFECTS[wish.kind](works, connection, projection, wish)
            except (DomainError, BuildGone, LookupError) as error:
                is_asked = wish.position == upto
                _refused(connection, wish, error, is_asked=is_asked)
                if is_asked:
                    raise (error if isinstance(error, DomainError) else NoOtherBuild(str(error) or None)) from None


def _is_unread(wish: Wish, projections: Declared) -> bool:
    """Whether a version is to go that is there for another release alone: see `projections/leftover.py`."""
    return wish.kind == "drop" and any(n == wish.projection and v > wish.version for n, v in projections)


def _locked(connection: Connection[Any]) -> bool:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        row = connection.execute("select pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
        if row and row[0]:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(DROP_PAUSE_SECONDS)


def _refused(connection: Connection[Any], wish: Wish, error: Exception, *, is_asked: bool) -> None:
    """Who waits for the effect is told, and decides again; a decision that nobody waits for is tried again."""
    logger.warning("%s of %s, decided at %d: %s", wish.kind, wish.projection, wish.position, error)
    passes = isinstance(error, Unavailable) or (not is_asked and isinstance(error, RebuildRunning | BuildBehind))
    if not passes:
        forget(connection, wish)


def _begin(_: Works, connection: Connection[Any], projection: Projection, wish: Wish) -> None:
    with connection.transaction():
        forget(connection, wish)
        start(connection, projection, asked_by=wish.actor, rate=wish.rate, attended=wish.attended)


def _switch(works: Works, connection: Connection[Any], projection: Projection, wish: Wish) -> None:
    live, other = _pair(connection, projection, wish)
    if live == other:  # it happened, and the wish was left by a crash of the server
        forget(connection, wish)
        return
    with abreast(works, live, other, wish.actor) as (holding, position):
        flip(holding, live, other, position, f"{projection.name} is read from build {other.number}")
        forget(holding, wish)
    logger.debug("%s: build %d is read from %d on", projection.label, other.number, position)


def _pair(connection: Connection[Any], projection: Projection, wish: Wish) -> tuple[Build, Build]:
    live = active_build(connection, projection)
    if live is None or wish.build is None:
        raise BuildGone
    other = Build(projection, wish.build)
    if other != live and other not in other_builds(connection, projection):
        raise NoOtherBuild(f"{projection.name} has no build {wish.build} any more")
    return live, other


def flip(connection: Connection[Any], live: Build, other: Build, position: int, reason: str) -> None:
    """Makes the other build the one that is read, in the transaction of the connection, which holds both at `position`.

    Every process hears of it, in the order of the commits; no cache keeps what the former build said.
    """
    for build, active in ((live, False), (other, True)):
        done = connection.execute(_ACTIVE, build.key | {"active": active})
        if not done.rowcount:
            raise BuildGone
    move_epoch(connection, reason)
    payload = other.key | {"position": position, "active": True, "invalidate": EVERYTHING}
    connection.execute("select pg_notify(%s, %s)", (PROGRESS_CHANNEL, orjson.dumps(payload).decode()))
    connection.execute("select pg_notify(%s, '')", (BUILDS_CHANNEL,))


_ACTIVE = """
    update projection_builds set active = %(active)s
     where projection = %(projection)s and version = %(version)s and build = %(build)s and active <> %(active)s
"""


def _drop(_: Works, connection: Connection[Any], projection: Projection, wish: Wish) -> None:
    if wish.build is None:
        raise BuildGone
    drop_unread(connection, Build(projection, wish.build), lambda: forget(connection, wish))


def drop_unread(
    connection: Connection[Any], build: Build, also: Callable[[], object] = lambda: None, *, though_active: bool = False
) -> None:
    """Drops a build that isn't read. Raises BuildIsRead (unless `though_active`), NoOtherBuild, StillRead.

    Its tables are locked without waiting, all or none, so that no reader and no feed is ever kept waiting, or in a
    circle with it: whoever still reads them may finish.
    """
    deadline = time.monotonic() + DROP_SECONDS
    while True:
        try:
            with connection.transaction():
                _drop_now(connection, build, though_active=though_active)
                also()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() > deadline:
                raise StillRead from None
            time.sleep(DROP_PAUSE_SECONDS)
        else:
            return


def _drop_now(connection: Connection[Any], build: Build, *, though_active: bool) -> None:
    connection.execute("set local lock_timeout = '2s'")
    connection.execute("select pg_advisory_xact_lock(%s)", (BUILDS_LOCK,))
    row = connection.execute(_FOR_DROP, build.key).fetchone()
    if row is None:
        raise NoOtherBuild(f"{build.projection.name} has no build {build.number}")
    if row[0] and not though_active:
        raise BuildIsRead(f"{build.projection.name}: build {build.number} is the one that is read")
    connection.execute(_HOLD, build.key)  # first what the feed locks first
    tables = [build.projection.table(name, build.number) for name in build.projection.table_names]
    connection.execute(f"lock table {', '.join(tables)} in access exclusive mode nowait".encode())
    connection.execute(_DELETE, build.key)
    connection.execute(f"drop table {', '.join(tables)}".encode())
    connection.execute("select pg_notify(%s, '')", (BUILDS_CHANNEL,))


_FOR_DROP = """
    select active from projection_builds
     where projection = %(projection)s and version = %(version)s and build = %(build)s for update
"""
_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s"
_HOLD = f"select from projection_progress where {_BUILD} order by layout, topic, partition for update"
_DELETE = f"delete from projection_builds where {_BUILD}"

_EFFECTS: Mapping[str, Callable[[Works, Connection[Any], Projection, Wish], None]] = {
    "rebuild": _begin,
    "cutover": _switch,
    "rollback": _switch,
    "drop": _drop,
}


def switchable(works: Works, projection: Projection, *, back: bool) -> tuple[Build, Build]:
    """The build that is read, and the one to read in its place: a newer one, or, `back`, the former one.

    To be asked before anything is decided. Raises Starting, NoOtherBuild, BuildBehind.
    """
    with works.connect() as connection:
        live = active_build(connection, projection)
        if live is None:
            raise Starting(f"{projection.label} has no build yet")
        other = other_build(connection, projection)
    if back and other.number > live.number:
        raise NoOtherBuild(f"{projection.name}: build {live.number} has no former one; build {other.number} is newer")
    if not back and other.number < live.number:
        raise NoOtherBuild(
            f"{projection.name}: build {live.number} is read already; build {other.number} is the former one"
        )
    try:
        refuse_behind(works, live, other)
    except BuildGone:
        raise NoOtherBuild(f"{projection.name}: one of the builds was dropped meanwhile") from None
    return live, other


def droppable(works: Works, projection: Projection, number: int | None) -> Build:
    """The build to drop: the one asked for, or the one beside the build that is read.

    To be asked before anything is decided. Raises BuildIsRead, NoOtherBuild.
    """
    with works.connect() as connection:
        live = active_build(connection, projection)
        if live is not None and live.number == number:
            raise BuildIsRead(f"{projection.name}: build {number} is the one that is read")
        return other_build(connection, projection, number)
