"""Building a view anew beside the one that is read: rebuild, its progress, diff, cut-over, rollback, drop."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import psycopg
from msgspec import Meta

from api.projections.common import ProjectionNotFound, ProjectionPorts, named
from api.routing import Answer, Asked, Body, Endpoint, Route, View
from commands.builds import (
    RATE_LIMIT,
    DropBuild,
    RequestRebuild,
    SwitchBuild,
    cut_over,
    drop_build,
    request_rebuild,
    roll_back,
)
from domain.builds import BuildBehind, BuildBeside, BuildIsRead, NoOtherBuild, RebuildRunning
from domain.errors import Conflict, NotFound
from projections.abreast import HeldTooLong
from projections.builds import active_build
from projections.diff import DIFF_LIMIT, diff
from projections.engine import Build
from projections.errors import Starting
from projections.leftover import StillFed, drop_unread_version, unread_builds
from projections.projection import Projection
from projections.rebuilds import RebuildStatus, other_build, refuse_beside, resume, status
from projections.switch import StillRead, declared, droppable, settle, switchable


class RebuildNotFound(NotFound):
    """This projection has not been rebuilt."""

    code = "rebuild-not-found"


class DiffTooLong(Conflict):
    """The comparison takes longer than a request may; use `muniment projections diff`."""

    code = "diff-too-long"


class RebuildBody(Body):
    """How fast, in events per second; as fast as it goes without."""

    rate: Annotated[int, Meta(ge=1, le=RATE_LIMIT)] | None = None


class DropBody(Body):
    """Which build; the one beside the build that is read, without. `version` is one that this release doesn't read."""

    build: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class DiffParams(Body):
    """How many differing rows are shown; all are counted."""

    limit: Annotated[int, Meta(ge=0, le=DIFF_LIMIT)] = 20


class RebuildView(View):
    """A rebuild.

    `state`: waiting (nobody is at it yet), building, following (level, and fed like the build that is read), live (the
    one that is read). `eta_seconds` is null where it can't be said. `differences` is what the newest diff found, as of
    `compared_position`.
    """

    name: str
    version: int
    build: int
    state: str
    position: int
    head: int
    events_per_second: float
    eta_seconds: float | None
    differences: int | None
    compared_position: int | None
    rate: int | None
    asked_by: str
    asked_at: datetime
    runner: str
    error: str | None


class SwitchView(View):
    """Which build is read from now on, and which was before."""

    build: int
    former: int


class EventView(View):
    """The newest event of the stream that owns a row, of those that the view applies."""

    position: int
    type: str
    recorded_at: datetime
    actor: str
    stream: UUID


class DifferingRowView(View):
    """A row as either build has it, without its personal columns; null where one hasn't. `columns` are those that
    differ.
    """

    table: str
    key: dict[str, Any]
    columns: list[str]
    live: dict[str, Any] | None
    other: dict[str, Any] | None
    event: EventView | None


class TableCountsView(View):
    """How many rows either build has, and how many differ."""

    table: str
    live: int
    other: int
    differing: int


class DiffView(View):
    """Both builds as of one position. `rows` are the first of `differences`."""

    position: int
    live: int
    other: int
    differences: int
    tables: list[TableCountsView]
    rows: list[DifferingRowView]


async def rebuild(asked: Asked) -> Answer:
    """Builds the view anew, beside the one that is read. The leading follower starts a process for it."""
    projection = named(asked.ports, asked.path["name"])
    view, position = await asked.in_thread(_begin, asked, projection, asked.body.rate)
    return Answer(view, 202, position=position)


def _begin(asked: Asked, projection: Projection, rate: int | None) -> tuple[RebuildView, int | None]:
    works, position = asked.ports.works, None
    with works.connect() as connection:
        begun = status(connection, projection)
        if begun is None or begun.state in {"following", "live"}:
            refuse_beside(connection, projection)
            position = _decide(
                asked, projection, request_rebuild, RequestRebuild(projection.name, projection.version, rate)
            )
        elif begun.leased:
            raise RebuildRunning(f"{projection.name} is being rebuilt by {begun.runner}")
        else:
            resume(connection, Build(projection, begun.build), rate=rate or begun.rate, attended=False)
            connection.execute("select pg_notify('muniment_builds', '')")
        return _status(status(connection, projection)), position


def _decide(asked: Asked, projection: Projection, handler: Callable[..., Any], command: Any) -> int:
    """Records a decision and lets it take effect; its position."""
    position = asked.services.dispatcher.dispatch(handler, command, asked.context).position
    settle(asked.ports.works, declared([projection]), position)
    return position


async def rebuild_progress(asked: Asked) -> RebuildView:
    """How far the newest rebuild is, how fast, and for how long still."""
    return await asked.in_thread(_progress, asked.ports, named(asked.ports, asked.path["name"]))


def _progress(ports: ProjectionPorts, projection: Projection) -> RebuildView:
    with ports.pool.connection() as connection:
        return _status(status(connection, projection))


def _status(found: RebuildStatus | None) -> RebuildView:
    if found is None:
        raise RebuildNotFound
    known = {name: value for name, value in asdict(found).items() if name in RebuildView.__struct_fields__}
    return RebuildView(**known, eta_seconds=found.eta_seconds)


async def cutover(asked: Asked) -> Answer:
    """Reads the rebuilt build from now on; the former one is kept and fed, for a rollback."""
    return await asked.in_thread(_switch, asked, cut_over, False)


async def rollback(asked: Asked) -> Answer:
    """Reads the former build again, at once."""
    return await asked.in_thread(_switch, asked, roll_back, True)


def _switch(asked: Asked, handler: Callable[..., Any], back: bool) -> Answer:
    projection = named(asked.ports, asked.path["name"])
    live, other = switchable(asked.ports.works, projection, back=back)
    command = SwitchBuild(projection.name, projection.version, other.number, live.number)
    position = _decide(asked, projection, handler, command)
    return Answer(SwitchView(build=other.number, former=live.number), position=position)


async def drop(asked: Asked) -> Answer:
    """Lets the build go that isn't read. Whoever still reads it may finish.

    With `version` all that is there of a version which this release doesn't read: of the one before, or of one that is
    declared no more.
    """
    return await asked.in_thread(_drop, asked)


def _drop(asked: Asked) -> Answer:
    name, ports, number = asked.path["name"], asked.ports, asked.body.build
    if unread := _unread(ports, name, asked.body.version, number):
        return Answer(None, 204, position=_drop_unread(asked, unread))
    projection = named(ports, name)
    if asked.body.version not in {None, projection.version}:
        raise NoOtherBuild(f"{name} has no builds of version {asked.body.version}")
    number = droppable(ports.works, projection, number).number
    command = DropBuild(name, projection.version, number)
    return Answer(None, 204, position=_decide(asked, projection, drop_build, command))


def _unread(ports: ProjectionPorts, name: str, version: int | None, number: int | None) -> list[Build]:
    if version is None:
        return []
    with ports.works.connect() as connection:
        return unread_builds(connection, ports.declared, name, version, number)


def _drop_unread(asked: Asked, builds: Sequence[Build]) -> int:
    position = 0
    with asked.ports.works.connect() as connection:
        for build in builds:
            command = DropBuild(build.projection.name, build.projection.version, build.number)
            position = asked.services.dispatcher.dispatch(drop_build, command, asked.context).position
            drop_unread_version(connection, build)
    return position


async def build_diff(asked: Asked) -> DiffView:
    """Compares the rebuilt build with the one that is read, as of one position, while both are fed."""
    return await asked.in_thread(_diff, asked)


def _diff(asked: Asked) -> DiffView:
    projection, works = named(asked.ports, asked.path["name"]), asked.ports.works
    with works.connect() as connection:
        live, other = active_build(connection, projection), other_build(connection, projection)
    if live is None:
        raise Starting(f"{projection.label} has no build yet")
    seconds = asked.ports.settings.statement_timeout_seconds
    actor = str(asked.context.actor)
    try:
        found = diff(works, live, other, actor, limit=asked.params.limit, timeout_seconds=seconds)
    except psycopg.errors.QueryCanceled:
        raise DiffTooLong from None
    return DiffView(
        position=found.position,
        live=found.live,
        other=found.other,
        differences=found.differences,
        tables=[TableCountsView(**asdict(table)) for table in found.tables],
        rows=[
            DifferingRowView(
                table=row.table,
                key=row.key,
                columns=list(row.columns),
                live=row.live,
                other=row.other,
                event=EventView(**asdict(row.event)) if row.event else None,
            )
            for row in found.rows
        ],
    )


_SWITCHES = (ProjectionNotFound, NoOtherBuild, BuildBehind, RebuildRunning, HeldTooLong)

ROUTES: list[Route] = [
    Endpoint(
        "POST", "/api/v1/projections/{name}/rebuild", rebuild, permission="projection:rebuild", body=RebuildBody,
        result=RebuildView, answers=202, raises=(ProjectionNotFound, RebuildRunning, BuildBeside),
    ),
    Endpoint(
        "GET", "/api/v1/projections/{name}/rebuild", rebuild_progress, permission="projection:read",
        result=RebuildView, raises=(ProjectionNotFound, RebuildNotFound),
    ),
    Endpoint(
        "GET", "/api/v1/projections/{name}/diff", build_diff, permission="projection:rebuild", params=DiffParams,
        result=DiffView, raises=(*_SWITCHES, DiffTooLong),
    ),
    Endpoint(
        "POST", "/api/v1/projections/{name}/cutover", cutover, permission="projection:rebuild", result=SwitchView,
        raises=_SWITCHES,
    ),
    Endpoint(
        "POST", "/api/v1/projections/{name}/rollback", rollback, permission="projection:rebuild", result=SwitchView,
        raises=_SWITCHES,
    ),
    Endpoint(
        "POST", "/api/v1/projections/{name}/drop", drop, permission="projection:rebuild", body=DropBody, answers=204,
        raises=(ProjectionNotFound, NoOtherBuild, BuildIsRead, StillFed, StillRead),
    ),
]  # fmt: skip
