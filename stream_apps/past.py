"""Reactions whose progress is of another past of the log: put back to where the log itself shows that they have come.

A reaction's commands carry its name and the event that led to them, so what it has reacted to is in the log. In each
part of the log it reacts in order: so the newest cause there of anything recorded is how far it has come. What it had
issued after the cut is gone with the log and is issued again, once; what is in the log isn't issued again.
"""

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from psycopg import Connection

from infra.partitions import partition_of
from infra.past import STRANGE
from infra.reaction_store import NAME_PREFIX, Place, places_of
from projections.lanes import module_of
from stream_apps.reactions import Reaction
from stream_apps.spreads import spread_of

_IS_STRANGE = f"select exists (select from reaction_progress p where p.reaction = %s and {STRANGE})"
_FLOOR = """
    select least(min(r.started), min(h.position)) from reaction_progress r cross join log_head h where r.reaction = %s
"""
_CAUSES = """
    select cause.notification_id, cause.originator_id, cause.topic
      from (select distinct convert_from(metadata, 'UTF8')::jsonb ->> 'causation_id' as id from stored_events
             where position(convert_to(%(actor)s, 'UTF8') in metadata) > 0
               and convert_from(metadata, 'UTF8')::jsonb ->> 'actor' = %(name)s) caused
      join stored_events cause
        on cause.originator_id = split_part(caused.id, ':', 1)::uuid
       and cause.originator_version = split_part(caused.id, ':', 2)::bigint
     where caused.id is not null
"""
_PLACE = """
    update reaction_progress p
       set position = %(position)s, updated_at = clock_timestamp(),
           seen_position = null, seen_id = null, seen_at = null, started = least(started, %(position)s)
     where reaction = %(reaction)s and layout = %(layout)s and topic = %(topic)s and partition = %(partition)s
"""
_LEAVE = f"""
    update reaction_progress p
       set position = least(position, (select position from log_head)),
           seen_position = null, seen_id = null, seen_at = null
     where {STRANGE}
"""
_UNPARK = """
    delete from reaction_parked r
     where reaction = %(reaction)s and (position > %(least)s
        or not exists (select from stored_events e where e.notification_id = r.position
                          and e.originator_id = r.stream and e.originator_version = r.stream_version))
"""


# What took it out of the parked is lost with the log, unless its effect, or the decision to skip it, is there still.
_TAKEN_OUT = f"""
    select p.position from reaction_unparked p
     where p.reaction = %(reaction)s and {STRANGE}
       and exists (select from stored_events e where e.notification_id = p.position
                      and e.originator_id = p.stream and e.originator_version = p.stream_version)
       and not exists (
           select from projection_skips s join stored_events e on e.notification_id = s.decision
            where s.projection = %(name)s and e.topic = 'projections.EventSkipped'
              and (convert_from(e.state, 'UTF8')::jsonb ->> 'position')::bigint = p.position)
"""
_PARK_AGAIN = """
    with back as (
        delete from reaction_unparked where reaction = %(reaction)s and position = any(%(positions)s) returning *
    )
    insert into reaction_parked
           (reaction, position, stream, stream_version, topic, error, traceback, attempts, parked_at)
    select reaction, position, stream, stream_version, topic, error, traceback, attempts, parked_at from back
        on conflict do nothing
"""


def put_back(connection: Connection[Any], reactions: Iterable[Reaction]) -> list[str]:
    """Puts back every reaction that is of another past, in the caller's transaction, and gives their names.

    That must hold `log_head`. Goes through the whole log, in PostgreSQL.
    """
    names = []
    for reaction in reactions:
        row = connection.execute(_IS_STRANGE.encode(), (reaction.name,)).fetchone()
        if row and row[0]:
            _put_back(connection, reaction)
            names.append(reaction.name)
    # Those that this release no longer has react to nothing; should they come back, then from here on.
    connection.execute(_LEAVE.encode())
    return names


def _put_back(connection: Connection[Any], reaction: Reaction) -> None:
    row = connection.execute(_FLOOR, (reaction.name,)).fetchone()
    floor = int(row[0] or 0) if row else 0
    places = places_of(connection, reaction.name, lock=True)
    reached = dict.fromkeys(places, floor)
    finds = _finders(connection, places)
    actor, name = str(reaction.actor), {"reaction": reaction.name, "name": NAME_PREFIX + reaction.name}
    taken_out = {position for (position,) in connection.execute(_TAKEN_OUT.encode(), name).fetchall()}
    with connection.cursor(name="causes") as cursor:
        for position, stream, topic in cursor.execute(_CAUSES, {"actor": f'"{actor}"', "name": actor}):
            taken_out.discard(position)
            for place, stands_in in finds.items():
                if stands_in(topic, stream):
                    reached[place] = max(reached[place], position)
    for place, position in reached.items():
        connection.execute(_PLACE, place.key | {"position": position})
    least = min(reached.values(), default=floor)
    connection.execute(_UNPARK, {"reaction": reaction.name, "least": least})
    passed = [position for position in taken_out if position <= least]  # the others are come by again
    connection.execute(_PARK_AGAIN, {"reaction": reaction.name, "positions": passed})


def _finders(connection: Connection[Any], places: Iterable[Place]) -> dict[Place, Callable[[str, UUID], bool]]:
    """For each place whether an event, by its type and stream, stands there."""
    return {place: _finder(connection, place) for place in places}


def _finder(connection: Connection[Any], place: Place) -> Callable[[str, UUID], bool]:
    spread = spread_of(connection, place.layout) if place.layout else None
    if spread is None:
        return lambda *_: True
    return lambda topic, stream: (
        spread.topics.get(module_of(topic)) == place.topic
        and partition_of(stream, spread.partitions) == place.partition
    )
