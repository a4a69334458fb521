"""Several builds advance in one transaction: for small batches, of which each costs about what a transaction costs.

One connection, two round trips: the lanes of all builds are locked and compared with what is known here, then each
build's rows are written, and all lanes move. If anything is unusual (a lane stands elsewhere, an event fails) nothing
has happened, and the usual way, build by build, deals with it: so one build's trouble is never another's for long.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
from psycopg import Connection

from projections.engine import BULK_EVENTS
from projections.lanes import LanesBatch, LanesEngine, Stretch
from projections.passing import SET, announce, asked, pass_over

logger = logging.getLogger("muniment.projections")

Moves: TypeAlias = Mapping[LanesEngine, Sequence[Stretch]]
"""What comes next in the lanes of each build."""

_GIVEN = """
    unnest(%(projections)s::text[], %(versions)s::int[], %(builds)s::int[], %(layouts)s::int[], %(topics)s::text[],
           %(partitions)s::int[], %(positions)s::bigint[], %(times)s::timestamptz[])
        as m (projection, version, build, layout, topic, partition, position, recorded_at)
"""
# Locked in the order in which every engine locks the lanes of its build. A lane that somebody else holds isn't waited
# for, which would let all builds wait for one: it is missing then, and so stands elsewhere.
_LOCK = f"""
    select p.projection, p.topic, p.partition, p.position, p.fence, set_config('synchronous_commit', 'off', true)
      from {_GIVEN} join projection_progress p using (projection, version, build, layout, topic, partition)
     order by p.projection, p.version, p.build, p.topic, p.partition for update of p skip locked
"""
_PARKED = f"""
    select distinct p.projection, p.stream
      from (select distinct projection, version, build from {_GIVEN}) b
      join projection_parked p using (projection, version, build)
     where p.stream = any(%(streams)s)
"""
_MOVE = f"""
    {SET}
      from {_GIVEN}
     where p.projection = m.projection and p.version = m.version and p.build = m.build
       and p.layout = m.layout and p.topic = m.topic and p.partition = m.partition
"""


def advance_together(connection: Connection[Any], moves: Moves) -> bool:
    """Applies what is new in these lanes. False where that isn't so: then the usual way must be gone.

    One build of a projection at most, no operator's decision among the events, and each stretch continues its lane. The
    connection must be in autocommit. Raises OperationalError where that is lost.
    """
    facts = {engine: [fact for stretch in stretches for fact in stretch.facts] for engine, stretches in moves.items()}
    if not any(engine.concerns(fact) for engine, given in facts.items() for fact in given):
        return pass_over(connection, moves) == set(moves)
    if max(map(len, facts.values())) >= BULK_EVENTS:
        return False  # which goes by arrays, prepared on each build's own connection
    try:
        batches = _transaction(connection, moves)
    except BaseException as error:
        with suppress(psycopg.Error):
            connection.rollback()
        if connection.closed or not isinstance(error, Exception):
            raise
        logger.debug("build by build, since together it isn't possible: %r", error)
        return False
    _note(batches)
    return True


def _note(batches: Mapping[LanesEngine, LanesBatch]) -> None:
    """Of all builds, even where one can't tell what it has to."""
    failed: Exception | None = None
    for engine, batch in batches.items():
        try:
            engine.note(batch)
        except Exception as error:  # noqa: BLE001 - raised below
            failed = failed or error
    if failed:
        raise failed


def _transaction(connection: Connection[Any], moves: Moves) -> Mapping[LanesEngine, LanesBatch]:
    given = asked(moves)
    with connection.pipeline():
        connection.execute("begin")
        lock = connection.execute(_LOCK, given)
        parked = connection.execute(_PARKED, given | {"streams": _streams(moves)})
    batches = _begun(moves, lock.fetchall(), parked.fetchall())
    commit = connection.cursor()
    try:
        with connection.pipeline(), connection.cursor() as cursor:
            for engine, batch in batches.items():
                engine.write(cursor, batch, moves[engine])
            cursor.execute(_MOVE, given)
            for engine, batch in batches.items():
                engine.say(cursor, batch)
            commit.execute("commit")
            # Where nothing became old, nothing must be done before it is told: one round trip less.
            hear = announce(connection, [engine for engine, batch in batches.items() if not batch.stale])
    except psycopg.Error:
        if commit.statusmessage != "COMMIT":
            raise
        return batches  # which each build tells by itself
    if commit.statusmessage != "COMMIT":
        raise RuntimeError("the transaction was rolled back")
    for batch in batches.values():
        batch.is_told = not batch.stale
    hear()
    return batches


def _begun(
    moves: Moves, lanes: Iterable[Sequence[Any]], parked: Iterable[Sequence[Any]]
) -> dict[LanesEngine, LanesBatch]:
    """Raises Hole."""
    found: dict[str, dict[tuple[str, int], tuple[int, int]]] = defaultdict(dict)
    streams: dict[str, set[UUID]] = defaultdict(set)
    for name, topic, partition, position, fence, _ in lanes:
        found[name][topic, partition] = position, fence
    for name, stream in parked:
        streams[name].add(stream)
    names = {engine: engine.build.projection.name for engine in moves}
    return {
        engine: engine.begun(stretches, found[names[engine]], streams[names[engine]])
        for engine, stretches in moves.items()
    }


def _streams(moves: Moves) -> list[UUID]:
    return list({fact.stream for stretches in moves.values() for stretch in stretches for fact in stretch.facts})
