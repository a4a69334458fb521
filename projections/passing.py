"""Lanes in which nothing does anything for their builds move by one statement, those of several builds together.

It needs no transaction of several round trips: it locks the rows, compares where they stand and their fences with what
is known here, and moves those that agree. For the others the usual way says why they don't.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import Connection

from infra.past import SEEN
from projections.engine import CHANNEL, Build, Lane, rate

if TYPE_CHECKING:
    from projections.lanes import LanesEngine, Stretch

Passing: TypeAlias = Mapping["LanesEngine", Sequence["Stretch"]]
"""Where the lanes of each build go."""

SET = f"""
    update projection_progress p
       set position = m.position, recorded_at = coalesce(m.recorded_at, p.recorded_at), updated_at = clock_timestamp(),
           rate = {rate("m.position", "p.")},
           {SEEN.format(position="m.position")}
"""
"""SQL: moves rows `p` of the progress to where `m` says."""
MOVE = f"""
    {SET}
      from unnest(%(topics)s::text[], %(partitions)s::int[], %(positions)s::bigint[], %(times)s::timestamptz[])
           as m (topic, partition, position, recorded_at)
     where p.projection = %(projection)s and p.version = %(version)s and p.build = %(build)s
       and p.layout = %(layout)s and p.topic = m.topic and p.partition = m.partition
"""
# Locked in the order in which every engine locks the lanes of its build; what somebody else holds isn't waited for. No
# two builds of one projection are among them, which only whoever cuts over holds at once.
_PASS = f"""
    with given as materialized (
         select * from unnest(%(projections)s::text[], %(versions)s::int[], %(builds)s::int[], %(layouts)s::int[],
                              %(topics)s::text[], %(partitions)s::int[], %(positions)s::bigint[],
                              %(times)s::timestamptz[], %(former)s::bigint[], %(fences)s::bigint[])
                as m (projection, version, build, layout, topic, partition, position, recorded_at, former, fence)),
    held as materialized (
         select p.projection, p.version, p.build, p.layout, p.topic, p.partition, p.position as stands, p.fence as under
           from given join projection_progress p using (projection, version, build, layout, topic, partition)
          order by p.projection, p.version, p.build, p.topic, p.partition for update of p skip locked),
    moved as (
         {SET}
           from given m join held using (projection, version, build, layout, topic, partition)
          where held.stands = m.former and held.under = m.fence
            and p.projection = m.projection and p.version = m.version and p.build = m.build
            and p.layout = m.layout and p.topic = m.topic and p.partition = m.partition
         returning p.projection, p.version, p.build)
    select projection, version, build, count(*), set_config('synchronous_commit', 'off', true) from moved
     group by projection, version, build
"""
# After the commit, so that of two lanes that commit at once the later to look sees both.
_SAY_LEAST = f"""
    select least, set_config('synchronous_commit', 'off', true),
           case when least > told
                then pg_notify('{CHANNEL}', jsonb_set(payload::jsonb, '{{position}}', to_jsonb(least))::text) end
      from unnest(%(projections)s::text[], %(versions)s::int[], %(builds)s::int[], %(layouts)s::int[],
                  %(payloads)s::text[], %(told)s::bigint[])
           with ordinality as b (projection, version, build, layout, payload, told, number),
           lateral (select min(p.position) as least from projection_progress p
                     where p.projection = b.projection and p.version = b.version and p.build = b.build
                       and p.layout = b.layout) as found
     order by number
"""


def places(lanes: Sequence[Lane]) -> dict[str, Any]:
    """The lanes as parameters of SQL."""
    return {
        "topics": array(quoted(lane.topic) for lane in lanes),
        "partitions": array(str(lane.partition) for lane in lanes),
    }


def goals(stretches: Sequence["Stretch"]) -> dict[str, str]:
    """Where these lanes go, as parameters of SQL."""
    return places([stretch.lane for stretch in stretches]) | {
        "positions": array(str(stretch.upto) for stretch in stretches),
        "times": array(stretch.recorded_at.isoformat() if stretch.recorded_at else "null" for stretch in stretches),
    }


def array(elements: Iterable[str]) -> str:
    """An array as PostgreSQL reads it; psycopg takes ten times as long to look at each element."""
    return f"{{{','.join(elements)}}}"


@cache
def quoted(text: str) -> str:
    """A text as an element of an array."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def pass_over(connection: Connection[Any], passing: Passing) -> set["LanesEngine"]:
    """Moves these lanes, and tells how far their builds have come; which builds have all of theirs moved.

    One build of a projection at most. The connection must be in autocommit.
    """
    if not passing:
        return set()
    with connection.pipeline() as pipeline:
        moved = connection.execute(_PASS, asked(passing))
        pipeline.sync()  # ends its transaction
        hear = announce(connection, passing)
    counts = {(projection, version, build): count for projection, version, build, count, _ in moved.fetchall()}
    hear()
    done = [engine for engine, stretches in passing.items() if counts.get(_key(engine.build)) == len(stretches)]
    for engine in done:
        engine.note_passed(passing[engine])
    return set(done)


def announce(connection: Connection[Any], engines: Iterable["LanesEngine"]) -> Callable[[], None]:
    """Tells whoever waits for these builds how far they have come by now; what notes it, once the answer is here."""
    loud = [engine for engine in engines if not engine.is_quiet]
    if not loud:
        return lambda: None
    asked = _builds([engine.build for engine in loud]) | {
        "layouts": array(str(engine.spread.layout) for engine in loud),
        "payloads": array(engine.notice for engine in loud),
        "told": array(str(engine.told) for engine in loud),
    }
    found = connection.execute(_SAY_LEAST, asked)

    def hear() -> None:
        for engine, (least, *_) in zip(loud, found.fetchall(), strict=True):
            engine.told = least or engine.told

    return hear


def asked(passing: Passing) -> dict[str, str]:
    """Where these lanes go, and where they stand under which fences, as parameters of SQL."""
    each = [(engine, stretch) for engine, stretches in passing.items() for stretch in stretches]
    return (
        _builds([engine.build for engine, _ in each])
        | {
            "layouts": array(str(stretch.lane.layout) for _, stretch in each),
            "former": array(str(engine.positions[stretch.lane]) for engine, stretch in each),
            "fences": array(str(engine.fences[stretch.lane]) for engine, stretch in each),
        }
        | goals([stretch for _, stretch in each])
    )


def _builds(builds: Sequence[Build]) -> dict[str, str]:
    return {
        "projections": array(quoted(build.projection.name) for build in builds),
        "versions": array(str(build.projection.version) for build in builds),
        "builds": array(str(build.number) for build in builds),
    }


def _key(build: Build) -> tuple[str, int, int]:
    return build.projection.name, build.projection.version, build.number
