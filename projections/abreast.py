"""Two builds of a projection at one position, both held still for a moment, while the platform serves.

The build that nobody reads is taken from its feed and brought, by the engine, to exactly where the one that is read is
held. Only that last stretch happens while it is held; readers notice nothing, they don't wait for the rows' locks. At
the end of the moment the other build goes to the feed of the first, in the same transaction.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import Connection

from domain.builds import BuildBehind
from domain.errors import Unavailable
from projections.builds import REBUILD, REBUILD_LANE
from projections.compare import feed, held
from projections.engine import Build, Engine
from projections.errors import BuildGone
from projections.feeds import FAUST, FOLLOWER, change_feed, give, lanes_of
from projections.indexes import complete
from projections.lanes import Spread
from projections.rebuild import Works, hand_over, holder, leased
from projections.rebuilds import note_level

LEVEL_EVENTS = 5000
"""A build that is further behind than this isn't held still for: the stretch would take too long."""

WAIT_SECONDS = 10.0
"""How long the build that is read may take to come as far as the other."""

HOLD_SECONDS = 5.0
"""How long the build that is read may be held."""

LOOK_SECONDS = 0.02

_LIMIT = "select set_config('idle_in_transaction_session_timeout', %(limit)s, true)"
_WHERE = """
    select b.layout, b.feed, min(p.position)
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.projection = %(projection)s and b.version = %(version)s and b.build = %(build)s
     group by 1, 2
"""


class HeldTooLong(Unavailable):
    """The view that is read was held for too long; nothing has changed."""

    code = "held-too-long"


@contextmanager
def abreast(works: Works, live: Build, other: Build, actor: str) -> Iterator[tuple[Connection[Any], int]]:
    """A connection in whose transaction both builds stand still at one position; that position.

    Raises BuildBehind, RebuildRunning, BuildGone, HeldTooLong.
    """
    refuse_behind(works, live, other)
    with leased(works, other.projection, holder(actor)) as lease, works.connect() as connection:
        complete(connection, other)  # one that was nearly built may lack indexes
        layout, _, _ = where(connection, other)
        former = _spread(works, connection, layout)
        change_feed(connection, works.log, other, REBUILD, None, former=former)
        try:
            engine = Engine(connection, works.log, other, lane=REBUILD_LANE, fence=lease.fence, quiet=True)
            position = engine.take_over()
            position = feed(engine, works.log, position, where(connection, live)[2])
            _wait_for(connection, live, position)
            layout, fed_by, _ = where(connection, live)
            with held(works.conninfo, works.log, live, _spread(works, connection, layout)) as (holding, at):
                # Whoever is frozen now would keep the live feed waiting for ever: the server throws them out.
                holding.execute(
                    f"set local idle_in_transaction_session_timeout = '{HOLD_SECONDS * 1000:.0f}ms'".encode()
                )
                feed(engine, works.log, position, at)
                yield holding, at
                _follow_suit(works, holding, other, fed_by, at)
        except BaseException as error:
            # Whoever fails leaves the other build to its feed; if that fails too, the leading follower does it.
            with suppress(psycopg.Error, BuildGone, LookupError):
                hand_over(works, connection, other)
            if isinstance(error, psycopg.errors.IdleInTransactionSessionTimeout):
                raise HeldTooLong from None
            raise


def refuse_behind(works: Works, live: Build, other: Build) -> None:
    """Raises BuildBehind if the other build is too far behind to be brought level in a moment; BuildGone."""
    with works.connect() as connection:
        _, _, mine = where(connection, live)
        _, fed_by, theirs = where(connection, other)
    behind = mine - theirs
    if behind > LEVEL_EVENTS:
        being = "still being built" if fed_by == REBUILD else "behind"
        raise BuildBehind(f"{other.projection.name}: build {other.number} is {being}: {behind:,} events to go")


def where(connection: Connection[Any], build: Build) -> tuple[int, str, int]:
    """A build's layout, its feed, and its position. Raises BuildGone."""
    row = connection.execute(_WHERE, build.key).fetchone()
    if row is None:
        raise BuildGone
    return row[0], row[1], row[2]


def _spread(works: Works, connection: Connection[Any], layout: int) -> Spread | None:
    return works.spreads(connection, layout) if layout > 0 else None


def _wait_for(connection: Connection[Any], live: Build, position: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (reached := where(connection, live)[2]) < position:
        if time.monotonic() > deadline:
            raise BuildBehind(
                f"{live.projection.name}: the build that is read stands at {reached}, the other at {position}:"
                " does its feed run?"
            )
        time.sleep(LOOK_SECONDS)


def _follow_suit(works: Works, holding: Connection[Any], other: Build, fed_by: str, position: int) -> None:
    feed_name = fed_by if fed_by == FAUST else FOLLOWER
    spread = works.spreads(holding, None) if feed_name == FAUST else None
    give(holding, other, feed_name, lanes_of(other.projection, feed_name, spread), position)
    note_level(holding, other)
