"""Folds streams again and compares with the rows that the view has, as of the view's own position, while it is fed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection

from infra.conninfo import bounded
from infra.event_store import Log
from projections.compare import RowPair
from projections.disclosure import Disclosure
from projections.engine import Build
from projections.errors import unless_dropped
from projections.facts import Fact, read_page, read_streams
from projections.owned import value_of
from projections.plan import Plan
from projections.projection import Projection
from projections.verification.findings import NO_STREAM, Differing, Findings
from projections.verification.scratch import NUMBER, STATEMENT_SECONDS, Scratch, scratch
from projections.verification.snapshot import Snapshot, Spreads, snapshot
from projections.verification.sources import BATCH_EVENTS, Batch

PAGE_EVENTS = 1000
"""Events that are folded at once, and of one long stream all that are in memory."""


class NotVerifiable(Exception):
    """The projection doesn't say which rows a stream owns."""


class Verifier:
    """Looks at the streams of one build. Made by `verifying`; not to be used by two threads at once."""

    def __init__(self, connection: Connection[Any], scratch: Scratch, log: Log, build: Build, spreads: Spreads) -> None:
        self.build = build
        self.connection = connection
        """In autocommit, to find out which streams there are."""
        self._scratch = scratch
        self._log = log
        self._spreads = spreads
        self._plan = Plan(build.projection, NUMBER)
        self._disclosure = Disclosure(build.projection)

    def head(self) -> int:
        """The position of the newest event."""
        return self._log.head()

    def look(self, batch: Batch) -> Findings:
        """Compares the rows of these streams with what their events make of them.

        Raises BuildGone, NewerSoftware, and what the database raises.
        """
        found = Findings(self.build, looked_at=batch.streams)
        self._scratch.begin()
        with snapshot(self.connection, self.build, self._spreads) as seen:
            found.position, found.streams = seen.position, len(batch.lengths)
            parked = seen.parked(batch.streams)
            found.park(parked)
            facts = _Facts(self._log, [stream for stream in batch.streams if stream not in parked], batch, seen)
            owners = self._owners(facts, batch, parked)
            found.rows = sum(self._copy(seen, table, values) for table, values in owners.items())
        for page in facts:
            found.events += len(page)
            for start in range(0, len(page), PAGE_EVENTS):
                self._scratch.fold([fact for fact in page[start : start + PAGE_EVENTS] if self._plan.concerns(fact)])
        self._compare(found, owners)
        return found

    def _owners(self, facts: Iterable[Sequence[Fact]], batch: Batch, parked: set[UUID]) -> dict[str, dict[str, UUID]]:
        """For each table: which values of its owner column mean rows of these streams, and of which."""
        projection = self.build.projection
        found: dict[str, dict[str, UUID]] = {
            table: {str(key): stream for key, stream in batch.owned.get(table, {}).items()}
            for table in projection.table_names
        }
        declared = {table: projection.owner(table) for table in projection.table_names}
        for table in (table for table, owner in declared.items() if owner.parameter == "stream"):
            found[table] |= {str(each): each for each in batch.streams if each not in parked and each != NO_STREAM}
        others = {table: owner for table, owner in declared.items() if owner.parameter != "stream"}
        if others:
            for fact in (fact for page in facts for fact in page):
                for table, owner in others.items():
                    if (value := value_of(fact, owner)) is not None:
                        found[table][str(value)] = fact.stream
        return found

    def _copy(self, seen: Snapshot, table: str, owners: Mapping[str, UUID]) -> int:
        if not owners:
            return 0
        with seen.copy_out(table, list(owners)) as (columns, blocks):
            return self._scratch.copy_in(table, columns, blocks)

    def _compare(self, found: Findings, owners: Mapping[str, Mapping[str, UUID]]) -> None:
        for stream, position, topic, error in self._scratch.failed():
            found.found(Differing(stream, "parked", {"position": position, "type": topic}, None, None, error=error))
        for table in self.build.projection.table_names:
            column = self.build.projection.owner(table).column
            for pair in self._scratch.differing(table):
                stream = owners[table].get(str((pair.one or pair.other or {})[column]), NO_STREAM)
                found.found(self._told(stream, table, pair))

    def _told(self, stream: UUID, table: str, pair: RowPair) -> Differing:
        show = self._disclosure.shown
        return Differing(stream, table, show(pair.key) or {}, show(pair.one), show(pair.other), pair.columns)


class _Facts:
    """The events of some streams that the view has applied, in pages, any number of times."""

    def __init__(self, log: Log, streams: Sequence[UUID], batch: Batch, seen: Snapshot) -> None:
        self._log = log
        self._streams = streams
        self._upto = seen.newest
        self._seen = seen
        is_long = len(streams) == 1 and batch.lengths[streams[0]] > BATCH_EVENTS
        self._kept = None if is_long else self._applied(read_streams(log, streams, self._upto))

    def __iter__(self) -> Iterator[Sequence[Fact]]:
        if self._kept is not None:
            yield self._kept
            return
        version, full = 0, True
        while full:
            page = read_page(self._log, self._streams[0], version, self._upto, PAGE_EVENTS)
            full = len(page) == PAGE_EVENTS
            version = page[-1].version if page else version
            yield self._applied(page)

    def _applied(self, facts: Iterable[Fact]) -> list[Fact]:
        return [fact for fact in facts if self._seen.has_applied(fact)]


@contextmanager
def verifying(conninfo: str, log: Log, build: Build, spreads: Spreads) -> Iterator[Verifier]:
    """Two sessions with the database until the block ends; nothing of them stays.

    Raises NotVerifiable, BuildGone (it was dropped meanwhile).
    """
    if not is_verifiable(build.projection):
        raise NotVerifiable(f"{build.projection.label} doesn't say which rows a stream owns")
    with (
        psycopg.connect(bounded(conninfo), autocommit=True, application_name="muniment verify") as connection,
        scratch(conninfo, log, build.projection) as session,
        unless_dropped(),
    ):
        connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))
        yield Verifier(connection, session, log, build, spreads)


def is_verifiable(projection: Projection) -> bool:
    """Whether it says which rows a stream owns."""
    return bool(projection.owners)
