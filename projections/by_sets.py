"""An engine for builds that are far behind: whole stretches of the log go in by one statement for each family.

What belongs to a family (`projections/families.py`) never leaves the server; all other events come from the reader, as
for every engine. Families have no table in common with other events, so the order among them doesn't matter. A stretch
is one transaction, which moves the progress row. Where the build is read, nobody looks which keys the events of a
stretch make old: all are. Wherever anything is out of the ordinary (an event that isn't surely
read right, or that fails), the stretch is rolled back and goes in event by event, by the engine that every feed uses.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from psycopg import Connection, Cursor

from infra.event_store import Log
from infra.transcoding import event_types
from infra.versions import move_graph
from projections.batched import Prepared
from projections.engine import EVERYTHING, WHOLE, Applied, Build, Engine, Lane
from projections.errors import is_poison
from projections.facts import Fact, read_at, read_range, read_streams
from projections.families import families
from projections.lanes import topics_of
from projections.obey import Batch, is_control
from projections.skips import skipped

STRETCH_EVENTS = 50_000
"""Positions of one transaction."""

LIVE_STRETCH_EVENTS = 10_000
"""The same where the build is read: whoever takes it over, or waits for a position, waits for that."""

USUAL_EVENTS, USUAL_BYTES = 5000, 8 * 1024 * 1024
"""Of one transaction where a stretch goes the usual way."""

MOST_PARKED = 1000
"""Streams with parked events, besides which a stretch still goes in at once."""

MOST_FAILURES = 3
"""So many stretches in a row that had to go the usual way are enough: the rest goes it, too."""

SORT_MEMORY = "64MB"
"""What PostgreSQL may use to sort a stretch: more than it takes."""

SETTINGS = f"""
    select set_config('work_mem', '{SORT_MEMORY}', true), set_config('enable_seqscan', 'off', true),
           set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
"""
"""The table may be long: open rows are looked up one by one, whatever the statistics of a young table say."""
_PARKED = """
    select distinct stream from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s limit %(limit)s
"""


class Unsure(Exception):
    """Not every event of the stretch was surely read right."""


def parked_streams(connection: Connection[Any], build: Build) -> set[UUID]:
    """The streams of a build that have parked events; of too many, one more than `MOST_PARKED`."""
    rows = connection.execute(_PARKED, build.key | {"limit": MOST_PARKED + 1}).fetchall()
    return {stream for (stream,) in rows}


def all_is_old(cursor: Cursor[Any], build: Build, batch: Batch) -> None:
    """What anybody remembers of a build that is read doesn't count any more, once this transaction is committed.

    With the rows themselves: what others have stored holds at the position before, and is out of reach in the moment
    in which there is another.
    """
    if build.projection.invalidates:
        batch.stale.update(dict.fromkeys(EVERYTHING))
        move_graph(cursor)


class SetEngine(Engine):
    """On a connection to the database that the log is in; `quiet` while nobody reads the build.

    `topics` go in by sets: `stretch` needn't be given events of these. `applied` counts those that went in so.
    """

    def __init__(
        self,
        connection: Connection[Any],
        log: Log,
        build: Build,
        *,
        lane: Lane = WHOLE,
        fence: int,
        committed: Callable[[Applied], None] = lambda _: None,
        quiet: bool = True,
    ) -> None:
        super().__init__(connection, log, build, lane=lane, fence=fence, committed=committed, quiet=quiet)
        self._families = families(connection, build)
        self.topics = frozenset(topic for family in self._families for topic in family.topics)
        self._ignored = sorted(event_types().keys() - topics_of(build.projection))
        self.applied = 0
        self._failures = 0

    def stretch(self, facts: Sequence[Fact], after: int) -> int:
        """Applies everything behind `after` through the last of these facts, in whose range all others stand.

        They are those of topics that don't go in by sets, in order. The position that is reached. Raises as `apply`.
        """
        position, start = after, 0
        for index, fact in enumerate(facts):
            if is_control(fact):
                if fact.position - 1 > position:
                    (last,) = read_at(self._log, [fact.position - 1])
                    position = self._stretched(facts[start:index], position, last)
                position = self._obey(fact, position)
                start = index + 1
        return self._stretched(facts[start:], position, facts[-1]) if start < len(facts) else position

    def _stretched(self, facts: Sequence[Fact], after: int, last: Fact) -> int:
        parked = parked_streams(self._connection, self.build)
        if self._failures >= MOST_FAILURES or len(parked) > MOST_PARKED:
            return self._usual(after, last.position)
        others = self._others(facts, parked, after, last.position)
        prepared: Prepared | None = None
        try:
            with self._rolled_back_on_error():
                prepared = Prepared(self._plan, self._calls, [fact for fact in others if fact.stream not in parked])
                position = self._at_once(prepared, others, parked, after, last)
        except Exception as error:
            if not isinstance(error, Unsure) and not is_poison(error):
                raise
            if prepared:
                prepared.failed(error)
            self._failures += 1
        else:
            self._failures = 0
            return position
        return self._usual(after, last.position)

    def _others(self, facts: Sequence[Fact], parked: set[UUID], after: int, upto: int) -> list[Fact]:
        """What doesn't go in by sets: events of other topics, and those that wait behind a parked one."""
        others = [fact for fact in facts if fact.topic not in self.topics]
        waiting = read_streams(self._log, list(parked), upto, after) if parked else []
        return sorted([*others, *(fact for fact in waiting if fact.topic in self.topics)], key=attrgetter("position"))

    def _at_once(self, prepared: Prepared, others: Sequence[Fact], parked: set[UUID], after: int, last: Fact) -> int:
        batch, count = self._begin({fact.stream for fact in others}, after), 0
        with self._connection.cursor() as cursor:
            if batch.position < last.position:
                count = self._sets(cursor, parked, batch.position, last.position)
                fresh = [fact for fact in others if fact.position > batch.position]
                if fresh:
                    self._all_at_once(prepared, cursor, batch, fresh)
                if count and not self._quiet:
                    all_is_old(cursor, self.build, batch)
                self._move(cursor, batch, last)
            cursor.execute("commit")
        self.applied += count
        if batch.moved:
            self._committed(self._applied(batch))
        return batch.position

    def _sets(self, cursor: Cursor[Any], parked: set[UUID], after: int, upto: int) -> int:
        """How many events went in."""
        if self._skipped is None:
            self._skipped = skipped(cursor, self._log, self.build.projection.name)
        cursor.execute(SETTINGS)
        values = {"after": after, "upto": upto, "parked": list(parked), "skipped": list(self._skipped)}
        found = 0
        for family in self._families:
            row = cursor.execute(family.sql, values | {"topics": list(family.topics)}).fetchone()
            count, sound = row or (0, False)
            if not sound:
                raise Unsure
            found += count
        return found

    def _usual(self, after: int, upto: int) -> int:
        """Event by event, of all topics."""
        position = after
        while position < upto:
            facts = read_range(self._log, position, upto, self._ignored, limit=USUAL_EVENTS, most_bytes=USUAL_BYTES)
            position = self._segment(facts, position)
            self.applied += sum(fact.topic in self.topics for fact in facts)
        return position
