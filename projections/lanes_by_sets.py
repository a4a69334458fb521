"""The engine for a build that is fed in several lanes, is read, and may be far behind: then it, too, goes by sets.

As `projections/by_sets.py`, for lanes. What belongs to a family goes in by one statement for each range of positions
that several partitions have before them; all other events come from the reader. A stretch is one transaction, under
the fences of its lanes, which moves all of them. Nobody looks which keys its events make old: all are.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import Cursor

from infra.transcoding import event_types
from projections.batched import Prepared
from projections.by_sets import (
    MOST_FAILURES,
    MOST_PARKED,
    SETTINGS,
    USUAL_BYTES,
    USUAL_EVENTS,
    Unsure,
    all_is_old,
    parked_streams,
)
from projections.engine import Lane
from projections.errors import is_poison
from projections.facts import Fact, read_range, read_streams
from projections.families import Family, families
from projections.lanes import LanesEngine, Stretch, module_of, topics_of
from projections.passing import announce
from projections.skips import skipped

LEAST_EVENTS = 5000
"""Who has less before them goes event by event: after a stretch nothing that was remembered of the view counts."""

_HAS_CRC = "select to_regprocedure('pg_catalog.crc32(bytea)') is not null"


class _Range(NamedTuple):
    """What some partitions of a module have before them."""

    module: str
    after: int
    upto: int
    partitions: list[int]


class LanesBySets(LanesEngine):
    """See the module. `advance` is that of every engine; `stretch` is for who is far behind.

    `applied` counts the events that `stretch` wasn't given.
    """

    applied = 0
    _failures = 0
    _is_far = False
    _splits: bool | None = None
    _families: Sequence[Family] = ()

    def by_sets(self, lanes: Sequence[Lane]) -> frozenset[str]:
        """The topics that go in by sets now, in these lanes: `stretch` needn't be given events of these."""
        self._failures, self._skipped, self._families = 0, None, ()
        if self.splits or self._are_all(lanes):
            with suppress(psycopg.errors.UndefinedTable):  # it was dropped, which `stretch` says
                self._families = families(self._connection, self.build)
        return frozenset(topic for family in self._families for topic in family.topics)

    @property
    def splits(self) -> bool:
        """Whether the server can tell partitions apart; else only all partitions together can go by sets."""
        if self._splits is None:
            row = self._connection.execute(_HAS_CRC).fetchone()
            self._splits = bool(row and row[0])
        return self._splits

    def _are_all(self, lanes: Sequence[Lane]) -> bool:
        return {lane.partition for lane in lanes} == set(range(self.spread.partitions))

    def stretch(self, stretches: Sequence[Stretch]) -> None:
        """As `advance`, for stretches without the events that go in by sets. Raises as that does."""
        self._is_far = True
        try:
            self.advance(stretches)
        finally:
            self._is_far = False

    def _advance(self, stretches: Sequence[Stretch]) -> None:
        if not self._is_far or not any(self._ranges(stretches, self.positions)):
            super()._advance(stretches)
        elif self._failures >= MOST_FAILURES or not self._at_once(stretches):
            self._usual(stretches)

    def _ranges(self, stretches: Sequence[Stretch], positions: Mapping[Lane, int]) -> Iterator[_Range]:
        """What is before these lanes, as far as families have events there."""
        modules = {self.spread.topics[module]: module for module in self._modules()}
        mine = [
            ((modules[lane.topic], positions[lane], stretch.upto), lane.partition)
            for stretch in stretches
            if (lane := stretch.lane).topic in modules and stretch.upto > positions[lane]
        ]
        for (module, after, upto), group in groupby(sorted(mine), key=lambda each: each[0]):
            yield _Range(module, after, upto, [partition for _, partition in group])

    def _modules(self) -> set[str]:
        return {module_of(topic) for family in self._families for topic in family.topics}

    def _at_once(self, stretches: Sequence[Stretch]) -> bool:
        """Whether it could be done so. Raises Fenced, Hole, BuildGone, and what the database raises for the moment."""
        parked = parked_streams(self._connection, self.build)
        if len(parked) > MOST_PARKED:
            return False
        waiting = self._waiting(stretches, parked)
        others = sorted([*_facts(stretches), *waiting], key=attrgetter("position"))
        prepared: Prepared | None = None
        self._in_hand = stretches
        try:
            with self._rolled_back_on_error():
                prepared = Prepared(self._plan, self._calls, [fact for fact in others if fact.stream not in parked])
                self._commit(prepared, others, parked)
        except Exception as error:
            if not isinstance(error, Unsure) and not is_poison(error):
                raise
            if prepared:
                prepared.failed(error)
            self._failures += 1
            return False
        finally:
            self._in_hand = ()
        self._failures = 0
        self.applied += len(waiting)
        return True

    def _waiting(self, stretches: Sequence[Stretch], parked: set[UUID]) -> list[Fact]:
        """What waits behind a parked event of its stream, and therefore doesn't go in by sets."""
        if not parked:
            return []
        topics = {topic for family in self._families for topic in family.topics}
        after, upto = min(self.positions[each.lane] for each in stretches), max(each.upto for each in stretches)
        facts = [fact for fact in read_streams(self._log, list(parked), upto, after) if fact.topic in topics]
        return self._of(facts, stretches)

    def _of(self, facts: Sequence[Fact], stretches: Sequence[Stretch]) -> list[Fact]:
        """Those that are new in these stretches."""
        ends = {stretch.lane: stretch.upto for stretch in stretches}
        return [
            fact
            for fact in facts
            if (lane := self.spread.lane(fact)) in ends and self.positions[lane] < fact.position <= ends[lane]
        ]

    def _commit(self, prepared: Prepared, others: Sequence[Fact], parked: set[UUID]) -> None:
        batch = self._begin({fact.stream for fact in others} | parked)
        if parked_streams(self._connection, self.build) != parked:
            raise Unsure  # an operator's decision was obeyed a moment ago
        with self._connection.cursor() as cursor:
            count = self._sets(cursor, parked, batch.positions)
            fresh = [fact for fact in others if fact.position > batch.positions[self._lane_of(fact)]]
            if fresh:
                self._all_at_once(prepared, cursor, batch, fresh)
            if count and not self._quiet:
                all_is_old(cursor, self.build, batch)
            self._move_lanes(cursor, batch)
            cursor.execute("commit")
        self.applied += count
        self.positions.update(batch.positions)
        if batch.moved:
            self._committed(self._applied(batch))
            announce(self._connection, [self])()

    def _lane_of(self, fact: Fact) -> Lane:
        lane = self.spread.lane(fact)
        assert lane is not None  # noqa: S101 - tells the type checker
        return lane

    def _sets(self, cursor: Cursor[Any], parked: set[UUID], positions: Mapping[Lane, int]) -> int:
        """How many events went in. Raises Unsure, and what the server says of events that it can't read."""
        if self._skipped is None:
            self._skipped = skipped(cursor, self._log, self.build.projection.name)
        cursor.execute(SETTINGS)
        found = 0
        for part in self._ranges(self._in_hand, positions):
            for family in self._families:
                if topics := [topic for topic in family.topics if module_of(topic) == part.module]:
                    values = {"topics": topics, "parked": list(parked), "skipped": list(self._skipped)}
                    found += self._set(cursor, family, part, values)
        return found

    def _set(self, cursor: Cursor[Any], family: Family, part: _Range, values: dict[str, Any]) -> int:
        values |= {"after": part.after, "upto": part.upto}
        if len(part.partitions) == self.spread.partitions:
            row = cursor.execute(family.sql, values).fetchone()
        elif self.splits:
            of = {"partitions": part.partitions, "count": self.spread.partitions}
            row = cursor.execute(family.sql_of_partitions, values | of).fetchone()
        else:
            raise Unsure
        count, sound = row or (0, False)
        if not sound:
            raise Unsure
        return int(count)

    def _usual(self, stretches: Sequence[Stretch]) -> None:
        """Event by event, of all topics."""
        ignored = sorted(event_types().keys() - topics_of(self.build.projection))
        given = {fact.position for fact in _facts(stretches)}
        position, upto = min(self.positions[each.lane] for each in stretches), max(each.upto for each in stretches)
        while position < upto:
            facts = read_range(self._log, position, upto, ignored, limit=USUAL_EVENTS, most_bytes=USUAL_BYTES)
            position = facts[-1].position
            new = self._of(facts, stretches)
            super()._advance(self._through(facts[-1], new, stretches))
            self.applied += sum(fact.position not in given and self._plan.concerns(fact) for fact in new)

    def _through(self, last: Fact, facts: Sequence[Fact], stretches: Sequence[Stretch]) -> list[Stretch]:
        """The part of these stretches that ends with a fact."""
        mine: dict[Lane, list[Fact]] = {stretch.lane: [] for stretch in stretches}
        for fact in facts:
            mine[self._lane_of(fact)].append(fact)
        found = []
        for each in stretches:
            upto = min(each.upto, last.position)
            if (at := self.positions[each.lane]) < upto:
                time = each.recorded_at if upto == each.upto else last.recorded_at
                found.append(Stretch(each.lane, at, mine[each.lane], upto, time))
        return found


def _facts(stretches: Sequence[Stretch]) -> list[Fact]:
    return [fact for stretch in stretches for fact in stretch.facts]
