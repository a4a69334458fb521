"""One user's facts from the access view, by one statement: one round trip and one snapshot."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from domain.access import Assignment, Mark, Role, RoleContent, UserAssignments
from domain.access.grants import NOWHERE
from domain.errors import PositionUnknown, ProjectionBehind, Unavailable, invalid_field
from infra import lending
from infra.datastore import RECONNECT_SECONDS
from infra.moments import BEFORE_ALL, LARGEST_POSITION, POSITION_AT_TIME, RECORDED_AT, AsOf
from projections.access.facts import UserFacts
from projections.access.view import ACCESS
from projections.errors import Starting

When: TypeAlias = Literal["now", "position", "time"]

PARKED_LIMIT = 1000
"""Parked streams that are looked at one by one; with more, every user counts as concerned."""

ATTEMPTS = 3
"""Tries where a connection turns out to be broken, or a build to be replaced."""

GRACE_SECONDS = 0.5
"""What an answer may take beyond the server's own limit, before the server counts as hanging."""


class AccessReader:
    """Reads the view with a pool of its own, so that other queries never keep a check waiting.

    `open` and `close` it within the event loop. Everything raises Unavailable where PostgreSQL doesn't answer in
    `timeout_seconds`, and Starting while there is no view of this release.
    """

    def __init__(self, conninfo: str, *, pool_size: int = 4, waiting: int = 2048, timeout_seconds: float = 2.0) -> None:
        self._build: int | None = None
        self._timeout_seconds = timeout_seconds
        self._pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
            conninfo,
            connection_class=AsyncConnection[DictRow],
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": 3,
                "application_name": "access",
                "options": f"-c statement_timeout={timeout_seconds * 1000:.0f}",
            },
            min_size=1,
            max_size=pool_size,
            max_waiting=waiting,
            timeout=timeout_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            check=lending.check_async,
            open=False,
        )

    async def open(self) -> None:
        """Begins to connect; doesn't wait for it."""
        await self._pool.open()

    async def close(self) -> None:
        """Ends all connections."""
        await self._pool.close()

    async def facts(self, user_id: UUID, *, marks: bool = False) -> UserFacts:
        """What the view knows now. `marks` brings who did each thing, when, at which position."""
        return _facts(user_id, await self._select(STATEMENTS["now", marks], {"user": user_id}))

    async def facts_at(self, user_id: UUID, as_of: AsOf, *, marks: bool = False) -> UserFacts:
        """What was so at a position, or at a time: by one statement, which finds the one by the other.

        Raises PositionUnknown, Invalid for a time that hasn't come, ProjectionBehind where the view isn't there yet.
        """
        if isinstance(as_of, int) and as_of < 0:
            raise invalid_field("as_of", "a position isn't negative")
        if isinstance(as_of, int) and as_of > LARGEST_POSITION:
            raise PositionUnknown
        when: When = "time" if isinstance(as_of, datetime) else "position"
        row = await self._select(STATEMENTS[when, marks], {"user": user_id, when: as_of})
        if row["future"]:
            raise invalid_field("as_of", "this time hasn't come yet")
        if row["position"] == 0:
            row["moment"] = as_of if when == "time" else BEFORE_ALL
        if row["moment"] is None:
            raise PositionUnknown
        if row["reached"] < row["position"]:
            raise ProjectionBehind
        return _facts(user_id, row)

    async def position(self) -> int:
        """The position at which the view holds."""
        return int((await self._select(_REACHED, {}))["reached"])

    async def moment(self, as_of: AsOf) -> tuple[int, datetime]:
        """Position and time of what is asked for. Raises PositionUnknown, Invalid."""
        if isinstance(as_of, datetime):
            found = await self._one(POSITION_AT_TIME, {"time": as_of})
            if found is None or found["future"]:
                raise invalid_field("as_of", "this time hasn't come yet")
            return int(found["position"]), as_of
        if as_of < 0:
            raise invalid_field("as_of", "a position isn't negative")
        if as_of == 0:
            return 0, BEFORE_ALL
        row = await self._one(RECORDED_AT, {"position": as_of})
        if row is None:
            raise PositionUnknown
        return as_of, row["recorded_at"]

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[DictRow]:
        """Runs a statement without tables of the view. Raises Unavailable also where the server just hangs."""
        # Shielded: cancelling would wait for the hanging server to take note. It keeps its connection until it answers;
        # when all hang, the pool says so.
        running = asyncio.ensure_future(self._execute(sql, parameters))
        running.add_done_callback(_heard)
        try:
            return await asyncio.wait_for(asyncio.shield(running), self._timeout_seconds + GRACE_SECONDS)
        except TimeoutError:
            raise Unavailable from None

    async def _execute(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[DictRow]:
        for attempt in range(ATTEMPTS):
            try:
                async with self._pool.connection() as connection:
                    return await (await connection.execute(sql.encode(), parameters, prepare=True)).fetchall()
            except psycopg.errors.UndefinedTable:
                raise
            except (PoolTimeout, TooManyRequests, PoolClosed, psycopg.errors.QueryCanceled) as error:
                raise Unavailable from error
            except psycopg.Error as error:
                # The pool may have lent a connection that broke while nobody used it. The next is another one.
                if attempt == ATTEMPTS - 1:
                    raise Unavailable from error
        raise AssertionError

    async def _one(self, sql: str, parameters: Mapping[str, Any]) -> DictRow | None:
        rows = await self.execute(sql, parameters)
        return rows[0] if rows else None

    async def _select(self, sql: str, parameters: Mapping[str, Any]) -> DictRow:
        """One row from the active build's tables; the statement itself says whether that is still the active one."""
        for _ in range(ATTEMPTS):
            if self._build is None:
                self._build = await self._active_build()
            with suppress(psycopg.errors.UndefinedTable):
                bound = _bound(sql, self._build)
                row = await self._one(bound, {**parameters, "build": self._build})
                if row and row["reached"] is not None:
                    return row
            self._build = None
        raise Starting

    async def _active_build(self) -> int:
        row = await self._one(
            "select build from projection_builds where projection = %(name)s and version = %(version)s and active",
            {"name": ACCESS.name, "version": ACCESS.version},
        )
        if row is None:
            raise Starting
        return int(row["build"])


def _heard(running: asyncio.Future[Any]) -> None:
    """Takes note of an error that nobody waits for any more."""
    if not running.cancelled():
        running.exception()


_BOUND: dict[tuple[str, int], str] = {}


def _bound(sql: str, build: int) -> str:
    if (sql, build) not in _BOUND:
        _BOUND[sql, build] = ACCESS.bind(sql, build)
    return _BOUND[sql, build]


def _facts(user_id: UUID, row: DictRow) -> UserFacts:
    permissions: dict[str, dict[str, Mark]] = {}
    includes: dict[str, dict[str, Mark]] = {}
    for role, pattern, *mark in orjson.loads(row["permissions"]):
        permissions.setdefault(role, {})[pattern] = _mark(mark)
    for role, included, *mark in orjson.loads(row["includes"]):
        includes.setdefault(role, {})[included] = _mark(mark)
    assignments = tuple(
        Assignment(role, scope, _time(expires_at), _mark(mark))
        for role, scope, expires_at, *mark in orjson.loads(row["assignments"])
    )
    return UserFacts(
        user_id=user_id,
        position=row["position"],
        moment=row["moment"],
        suspended=_mark(orjson.loads(row["suspension"])) if row["suspension"] else None,
        assignments=assignments,
        roles={name: RoleContent(permissions.get(name, {}), includes.get(name, {})) for name in row["roles"]},
        complete=not _concerned(user_id, row["named"], row["parked"]),
        lag_seconds=float(row["lag"] or 0),
    )


def _concerned(user_id: UUID, roles: Sequence[str], parked: Sequence[UUID]) -> bool:
    """Whether events of this user or of one of these roles wait to be applied."""
    if not parked:
        return False
    own = {user_id, UserAssignments.create_id(user_id), *map(Role.create_id, roles)}
    return len(parked) >= PARKED_LIMIT or not own.isdisjoint(parked)


def _mark(values: Sequence[Any]) -> Mark:
    if not values:
        return NOWHERE
    position, at, by = values
    return Mark(position, datetime.fromisoformat(at), by)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


_REACHED = f"""
    select min(p.position) as reached
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.projection = '{ACCESS.name}' and b.version = {ACCESS.version} and b.build = %(build)s and b.active
"""


_MOMENTS: dict[When, str] = {
    "now": "select r.reached, r.reached as position, clock_timestamp() as moment, false as future from reached r",
    "position": f"""
        select r.reached, %(position)s::bigint as position, ({RECORDED_AT}) as moment, false as future from reached r
    """,
    "time": f"""
        select r.reached, f.position, %(time)s::timestamptz as moment, f.future
          from reached r cross join ({POSITION_AT_TIME}) f
    """,
}
"""Where and when it is asked of."""


def _statement(when: When, *, marks: bool) -> str:
    """Current: what is applied and not ended; a row newer than the view's position doesn't grant, nor does one that
    ended after it. As of a position: what held there.
    """
    as_of = when != "now"

    def holds(row: str) -> str:
        if as_of:
            return (
                f"{row}.from_position <= m.position and ({row}.to_position is null or {row}.to_position > m.position)"
            )
        return f"{row}.to_position is null and {row}.from_position <= m.position"

    def mark(row: str) -> str:
        return f", {row}.from_position, {row}.from_at, {row}.from_by" if marks else ""

    def of_roles(table: str, row: str, column: str, columns: str) -> str:
        # By the index, role for role: left to itself the planner expects so many roles that it reads whole tables.
        return f"""closure c cross join m cross join lateral (
            select {columns} from {table} {row} where {row}.{column} = c.role and {holds(row)} offset 0
        ) {row}"""

    suspended = holds("s") if as_of else "(s.to_position is null or s.to_position > m.position)"
    return f"""
    with recursive reached as ({_REACHED}),
    m as materialized ({_MOMENTS[when]}),
    given as materialized (
        select a.role, a.scope, a.expires_at, a.from_position, a.from_at, a.from_by
          from m join {{assignments}} a on a.user_id = %(user)s
         where {holds("a")} and (a.expires_at is null or a.expires_at > m.moment)
    ),
    closure (role) as (
        select g.role from given g
        union
        select i.included from {of_roles("{includes}", "i", "role", "i.included")}
    )
    select m.reached, m.position, m.moment, m.future,
           (select jsonb_build_array(s.from_position, s.from_at, s.from_by)::text from {{suspensions}} s
             where s.user_id = %(user)s and {suspended} order by s.from_position desc limit 1) as suspension,
           (select coalesce(jsonb_agg(jsonb_build_array(g.role, g.scope, g.expires_at{mark("g")})), '[]')::text
              from given g) as assignments,
           array(select c.role from closure c) as named,
           array(select c.role from {of_roles("{roles}", "r", "name", "r.name")}) as roles,
           (select coalesce(jsonb_agg(jsonb_build_array(p.role, p.pattern{mark("p")})), '[]')::text
              from {of_roles("{permissions}", "p", "role", "p.*")}) as permissions,
           (select coalesce(jsonb_agg(jsonb_build_array(i.role, i.included{mark("i")})), '[]')::text
              from {of_roles("{includes}", "i", "role", "i.*")}) as includes,
           array(select distinct q.stream from projection_parked q where q.projection = '{ACCESS.name}'
                    and q.version = {ACCESS.version} and q.build = %(build)s limit {PARKED_LIMIT}) as parked,
           (select extract(epoch from clock_timestamp() - e.recorded_at) from stored_events e
             where e.notification_id = m.reached + 1) as lag
      from m
    """


STATEMENTS: dict[tuple[When, bool], str] = {
    (when, marks): _statement(when, marks=marks) for when in _MOMENTS for marks in (False, True)
}
"""By when it is asked of, and whether they bring who did each thing."""
