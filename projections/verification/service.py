"""Verifications as operators, routes and the standing one ask for them: bounded, written down, resumable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection

from infra.conninfo import bounded
from infra.event_store import Log
from projections.builds import active_build
from projections.engine import Build
from projections.errors import Starting
from projections.projection import Projection
from projections.verification.findings import DIFFERING_LIMIT, Findings
from projections.verification.journal import Journal, Report, cursor_of, set_cursor
from projections.verification.snapshot import Spreads
from projections.verification.sources import BATCH_STREAMS, Sample
from projections.verification.verifier import NotVerifiable, Verifier, is_verifiable, verifying
from projections.verification.walk import Ahead, Walk, named_streams, step

Progress = Callable[[Findings], object]


@dataclass(frozen=True)
class Service:
    """What verifications work with. `report` puts on record what is found for the first time."""

    conninfo: str
    log: Log
    spreads: Spreads
    report: Report


@dataclass(frozen=True, slots=True)
class Wanted:
    """These streams, or a sample of all; from `start` on, where a verification before has stopped."""

    streams: Sequence[UUID] = ()
    sample: Sample = field(default_factory=Sample)
    start: Walk | None = None

    @property
    def label(self) -> str:
        """What was looked at, for people."""
        if self.streams:
            return f"stream {self.streams[0]}" if len(self.streams) == 1 else f"{len(self.streams)} streams"
        return "all" if self.sample.share >= 1 else f"{round(self.sample.share * 100, 4):g} %"


def verify(
    service: Service,
    projection: Projection,
    wanted: Wanted,
    *,
    progress: Progress = lambda _: None,
    limit: int | None = None,
) -> tuple[Findings, Walk | None]:
    """Looks at what is wanted, at most `limit` streams: what was found, and where to go on (None: all was looked at).

    Ends early where more than `DIFFERING_LIMIT` streams differ. Raises NotVerifiable, Starting, BuildGone,
    NewerSoftware, and what the database raises; then nothing is left but what was written down by then.
    """
    build = build_of(service, projection)
    total, place = Findings(build), wanted.start
    with verifying(service.conninfo, service.log, build, service.spreads) as verifier:
        journal = Journal(verifier.connection, build, service.report)
        if wanted.streams:
            looks = named_streams(verifier, wanted.streams)
        else:
            walked = _Walked(verifier, wanted.sample, wanted.start, limit)
            looks = iter(walked)
        for found in looks:
            journal.note(found)
            total.add(found)
            progress(total)
            if total.differing_streams >= DIFFERING_LIMIT:
                break
        place = None if wanted.streams else walked.place
        journal.close(total, wanted.label)
    return total, place


class _Walked:
    """A walk that ends with its budget of streams. Owners of rows cost as much as streams."""

    def __init__(self, verifier: Verifier, sample: Sample, start: Walk | None, limit: int | None) -> None:
        self.place: Walk | None = start or Walk(verifier.head())
        self._verifier = verifier
        self._sample = sample
        self._limit = limit
        self._ahead = Ahead()

    def __iter__(self) -> Any:
        left = self._limit
        while self.place is not None and (left is None or left > 0):
            budget = BATCH_STREAMS if left is None else min(left, BATCH_STREAMS)
            found, self.place = step(self._verifier, self._sample, self.place, budget, self._ahead)
            if left is not None:
                left -= budget if _is_amid_rows(self.place) else max(1, len(found.looked_at))
            yield found


def _is_amid_rows(place: Walk | None) -> bool:
    """Whether a whole budget of owners was looked up, and there are more in this table."""
    return place is not None and place.key is not None


def sweep(service: Service, projection: Projection, streams: int) -> Findings:
    """The next round of the standing verification: so many streams, from where the round before has ended.

    When it has been through it begins anew, so every stream is looked at in turn. Raises as `verify`.
    """
    build = build_of(service, projection)
    total = Findings(build)
    with verifying(service.conninfo, service.log, build, service.spreads) as verifier:
        journal = Journal(verifier.connection, build, service.report)
        walked = _Walked(verifier, Sample(), _read(cursor_of(verifier.connection, build), build), streams)
        for found in walked:
            journal.note(found)
            total.add(found)
        journal.close(total, "standing")
        set_cursor(verifier.connection, build, _written(walked.place))
    return total


def build_of(service: Service, projection: Projection) -> Build:
    """The build that is read. Raises NotVerifiable, Starting."""
    if not is_verifiable(projection):
        raise NotVerifiable(f"{projection.label} doesn't say which rows a stream owns")
    with psycopg.connect(bounded(service.conninfo), autocommit=True) as connection:
        return _active(connection, projection)


def _active(connection: Connection[Any], projection: Projection) -> Build:
    build = active_build(connection, projection)
    if build is None:
        raise Starting(f"no view of this release yet: {projection.name}")
    return build


def _written(place: Walk | None) -> Mapping[str, Any]:
    if place is None:
        return {}
    return {"upto": place.upto, "table": place.table, "stream": str(place.stream), "key": place.key}


def _read(cursor: Mapping[str, Any], build: Build) -> Walk | None:
    if not cursor or cursor.get("table") not in {None, *build.projection.table_names}:
        return None
    return Walk(cursor["upto"], cursor["table"], UUID(cursor["stream"]), cursor["key"])
