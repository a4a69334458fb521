"""Whether the rows of a view are what the log says, and mending those that aren't."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, Protocol
from uuid import UUID

import psycopg
from msgspec import Meta

from api.cursors import Cursors
from api.problems import InvalidCursor
from api.projections.common import ProjectionNotFound, ProjectionPorts, named
from api.routing import Asked, Body, Command, Endpoint, Route, View
from commands.verification import RepairStream, ReportDifferences, repair_stream, report_differences
from domain.errors import Conflict, FieldError, invalid_field
from domain.verification import OnlyRebuilt
from infra.event_store import Log
from infra.settings import Settings
from projections.errors import BuildGone, Starting
from projections.projection import Projection
from projections.verification import (
    Findings,
    NotVerifiable,
    Sample,
    Service,
    Spreads,
    Walk,
    Wanted,
    is_verifiable,
    verify,
)

STREAMS_LIMIT: Final = 1000
"""Streams that one request looks at; the answer's `next` goes on behind them."""

DIFFERING_SHOWN: Final = 1000
SAMPLE: Final = 0.01
_CURSORS: Final = Cursors("verify", (int, str, UUID, str, float, int))


class VerificationPorts(ProjectionPorts, Protocol):
    """What these routes are given beside that."""

    @property
    def settings(self) -> Settings: ...
    @property
    def log(self) -> Log: ...
    @property
    def spreads(self) -> Spreads: ...


class Unverifiable(Conflict):
    """The view doesn't say which rows a stream owns, so it can't be verified by streams."""

    code = "not-verifiable"


class BuildDropped(Conflict):
    """The build of the view that was looked at was dropped meanwhile. Ask again."""

    code = "build-dropped"


class VerifyBody(Body):
    """One stream, or a share of all streams (0.01 unless said). `cursor` goes on where an answer has ended."""

    stream: UUID | None = None
    sample: Annotated[float, Meta(gt=0, le=1)] | None = None
    cursor: Annotated[str, Meta(max_length=2048)] | None = None


class DifferingView(View):
    """A row that isn't what its stream says, without its personal columns; null where there is no such row.

    `stream` is the nil UUID for a row that no event can have made. `error` is why an event couldn't be applied now that
    the view has applied.
    """

    stream: UUID
    table: str
    key: dict[str, Any]
    live: dict[str, Any] | None
    folded: dict[str, Any] | None
    columns: Sequence[str]
    error: str | None


class VerificationView(View):
    """What was looked at as of `position`, and what differs: all is counted, the first of it is told.

    Streams with parked events (`parked`) aren't compared. `next` is null when all of the sample was looked at.
    """

    name: str
    version: int
    build: int
    position: int
    streams: int
    events: int
    rows: int
    parked_streams: int
    parked: list[UUID]
    differing_streams: int
    differing_rows: int
    differing: list[UUID]
    differences: list[DifferingView]
    next: str | None


class RepairBody(Body):
    """The stream whose rows are written anew."""

    stream: UUID


async def verify_projection(asked: Asked) -> VerificationView:
    """Folds streams again and names the rows of the view that differ from that; up to 1,000 streams at once.

    The view may serve and be fed meanwhile. What is found for the first time is put on record.
    """
    projection = named(asked.ports, asked.path["name"])
    if not is_verifiable(projection):
        raise Unverifiable
    wanted = _wanted(asked.body, projection)
    return await asked.in_thread(_verified, asked, projection, wanted)


def _wanted(body: VerifyBody, projection: Projection) -> Wanted:
    if body.stream is not None:
        if body.sample is not None or body.cursor is not None:
            raise invalid_field("stream", "goes with neither a sample nor a cursor")
        return Wanted(streams=[body.stream])
    if body.cursor is None:
        return Wanted(sample=Sample(SAMPLE if body.sample is None else body.sample, random.getrandbits(62)))
    upto, table, stream, key, share, seed = _CURSORS.read(body.cursor)
    if body.sample not in {None, share} or table not in {"", *projection.table_names} or not 0 < share <= 1:
        raise _wrong_cursor()
    return Wanted(sample=Sample(share, seed), start=Walk(upto, table or None, stream, key or None))


def _verified(asked: Asked, projection: Projection, wanted: Wanted) -> VerificationView:
    ports: VerificationPorts = asked.ports

    def report(found: Findings, streams: Sequence[UUID]) -> None:
        rows = sum(found.differing[stream] for stream in streams)
        command = ReportDifferences(
            projection.name, projection.version, found.build.number, found.position, streams, rows
        )
        asked.services.dispatcher.dispatch(report_differences, command, asked.context)

    service = Service(ports.settings.postgres_url, ports.log, ports.spreads, report)
    try:
        found, place = verify(service, projection, wanted, limit=STREAMS_LIMIT)
    except NotVerifiable:
        raise Unverifiable from None
    except BuildGone:
        raise BuildDropped from None
    except psycopg.DataError:
        # A cursor of ours for another column's type; nothing else of a request goes into the SQL.
        raise _wrong_cursor() from None
    return _view(found, place, wanted.sample)


def _wrong_cursor() -> InvalidCursor:
    return InvalidCursor(errors=[FieldError("cursor", "is not a cursor of this verification")])


def _view(found: Findings, place: Walk | None, sample: Sample) -> VerificationView:
    following = None
    if place is not None:
        key = (place.upto, place.table or "", place.stream, place.key or "", sample.share, sample.seed)
        following = _CURSORS.write(key)
    return VerificationView(
        name=found.build.projection.name,
        version=found.build.projection.version,
        build=found.build.number,
        position=found.position,
        streams=found.streams,
        events=found.events,
        rows=found.rows,
        parked_streams=found.parked_streams,
        parked=found.parked,
        differing_streams=found.differing_streams,
        differing_rows=found.differing_rows,
        differing=sorted(found.differing)[:DIFFERING_SHOWN],
        differences=[DifferingView(**asdict(each)) for each in found.differences],
        next=following,
    )


async def prepare_repair(ports: ProjectionPorts, asked: Asked) -> RepairStream:
    """Raises ProjectionNotFound, OnlyRebuilt, Unverifiable."""
    projection = named(ports, asked.path["name"])
    if projection.only_rebuilt:
        raise OnlyRebuilt
    if not is_verifiable(projection):
        raise Unverifiable
    return RepairStream(projection.name, asked.body.stream)


ROUTES: list[Route] = [
    Endpoint(
        "POST", "/api/v1/projections/{name}/verify", verify_projection, permission="projection:verify", body=VerifyBody,
        result=VerificationView, raises=(ProjectionNotFound, Unverifiable, BuildDropped, InvalidCursor, Starting),
    ),
    Command(
        "POST", "/api/v1/projections/{name}/repair", RepairBody, repair_stream, prepare=prepare_repair,
        permission="projection:repair", answers=202, raises=(ProjectionNotFound, OnlyRebuilt, Unverifiable),
    ),
]  # fmt: skip
