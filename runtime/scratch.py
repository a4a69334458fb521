"""The platform's own views, as of a position, in a database of the analyst's own.

The same declarations and the same engine as everywhere. A schema for each projection has its tables under their plain
names (`identity.users`); what the engine needs lies in the schema `muniment`, whose comment says what was built here.
Secret fields are taken out of every event before a projection sees it. So are personal ones, unless asked for: in
their place stands a pseudonym, equal for equal values, derived under a key that stays with the platform.
"""

import hmac
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
from msgspec import structs
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from domain.aggregate import PERSONAL, SECRET
from infra import migrate
from infra.conninfo import bounded
from infra.disclosure import marked
from infra.event_store import Log, Recorded
from infra.migrate import Source
from projections.builds import ensure_builds
from projections.bulk import BulkState, forward
from projections.engine import Build, Engine
from projections.projection import Projection

SCHEMA = "muniment"
PSEUDONYM_CHARS = 16

_THINGS = """
    select n.nspname || '.' || c.relname
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname not like 'pg\\_temp%'
       and n.nspname not like 'pg\\_toast%'
       and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
     order by 1 limit 1
"""
_COMMENT = "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = %s"


class NotScratch(Exception):
    """The database that was named can't be built into; the message says why."""


class CannotHide(Exception):
    """A personal field is neither text nor JSON, and no pseudonym can stand for it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to stand in the scratch database: these views as of a position, with personal fields or without.

    `log` tells one installation's log from another's, `last`, the event at the position, one past of it from another.
    """

    projections: tuple[Projection, ...]
    upto: int
    personal: bool
    log: str
    last: str

    @property
    def mark(self) -> dict[str, Any]:
        """What a database says in which this is being built, or was."""
        names = [f"{each.name} v{each.version}" for each in self.projections]
        return {
            "muniment": "scratch",
            "views": names,
            "upto": self.upto,
            "personal": self.personal,
            "log": self.log,
            "last": self.last,
        }


@dataclass(frozen=True, slots=True)
class Built:
    """What has become: the events that the views took, the position, and how many events couldn't be applied."""

    position: int
    events: int
    parked: int


class ScreenedLog(Log):
    """A log whose events have lost their secrets, and what is personal, before anybody sees them."""

    def __init__(self, conninfo: str, *, personal: bool, key: bytes) -> None:
        self._personal = personal
        self._key = key
        super().__init__(conninfo)

    def recorded_columns(self, columns: Sequence[Any]) -> Recorded:
        """As the log's, which makes every event that anybody reads; without what may not be shown."""
        found = super().recorded_columns(columns)
        metadata = found.metadata if self._personal else structs.replace(found.metadata, ip=None, user_agent=None)
        event = copy(found.event)
        state = vars(event)
        for name, mark in marked(type(event)).items():
            if mark == SECRET:
                state.pop(name, None)
            elif mark == PERSONAL and not self._personal and state.get(name) is not None:
                state[name] = self._pseudonym(name, state[name])
        return structs.replace(found, event=event, metadata=metadata)

    def _pseudonym(self, name: str, value: object) -> Any:
        if not isinstance(value, str | dict | list):
            raise CannotHide(f"{name} is neither text nor JSON")
        return self._hidden(value)

    def _hidden(self, value: Any) -> Any:
        """Text is hidden as it is, and within JSON every value; its shape and the names in it are seen."""
        match value:
            case dict():
                return {name: self._hidden(each) for name, each in value.items()}
            case list():
                return [self._hidden(each) for each in value]
            case None:
                return None
            case _:
                text = value.encode() if isinstance(value, str) else orjson.dumps(value)
                return f"hidden-{hmac.digest(self._key, text, 'sha256').hex()[:PSEUDONYM_CHARS]}"


def build(
    log: ScreenedLog,
    target: str,
    wanted: Wanted,
    sources: Sequence[Source],
    told: Callable[[BulkState], None] = lambda _: None,
) -> Built:
    """Builds the views; in a database where the same was begun it goes on. Raises NotScratch, psycopg.Error."""
    inner = _prepared(target, wanted)
    migrate.apply(inner, sources)
    with ExitStack() as stack:
        connections = [
            stack.enter_context(psycopg.connect(inner, autocommit=True)) for _ in range(len(wanted.projections) + 1)
        ]
        own = connections.pop()
        ensure_builds(own, wanted.projections)
        engines = [
            Engine(connection, log, Build(projection, 1), quiet=True)
            for connection, projection in zip(connections, wanted.projections, strict=True)
        ]
        events = [0]

        def counted(state: BulkState) -> None:
            events[0] = state.events
            told(state)

        position = forward(log, engines, wanted.upto, told=counted)
        for projection in wanted.projections:
            _show(own, projection)
        parked = own.execute("select count(*) from projection_parked").fetchone()
        return Built(position, events[0], parked[0] if parked else 0)


def _prepared(target: str, wanted: Wanted) -> str:
    """How to connect for what is built. Raises NotScratch."""
    try:
        given = conninfo_to_dict(target)
    except psycopg.ProgrammingError:
        raise NotScratch("--into isn't of the form postgresql://user:password@host:5432/name") from None
    with psycopg.connect(bounded(target), autocommit=True) as connection:
        _check_empty(connection, wanted)
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(SCHEMA)))
        mark = sql.Literal(orjson.dumps(wanted.mark).decode())
        connection.execute(sql.SQL("comment on schema {} is {}").format(sql.Identifier(SCHEMA), mark))
    options = f"{given.get('options') or ''} -c search_path={SCHEMA} -c synchronous_commit=off".strip()
    return make_conninfo(bounded(target), options=options)


def _check_empty(connection: Connection[Any], wanted: Wanted) -> None:
    row = connection.execute(_COMMENT, (SCHEMA,)).fetchone()
    mark = None
    with suppress(ValueError):
        mark = orjson.loads(row[0]) if row and row[0] else None
    if isinstance(mark, dict) and mark.get("muniment") == "scratch":
        if mark | {"last": wanted.last} == wanted.mark != mark:
            raise NotScratch("the log has another past than when this was begun there; take an empty database")
        if mark != wanted.mark:
            differing = ", ".join(
                f"{name} {mark.get(name)}" for name in wanted.mark if mark.get(name) != wanted.mark[name]
            )
            raise NotScratch(f"another replay was built there ({differing}); take an empty database")
        return
    if connection.execute("select to_regclass('stored_events')").fetchone() != (None,):
        raise NotScratch("a platform's own log is in that database; take an empty one")
    found = connection.execute(_THINGS).fetchone()
    if found is not None:
        raise NotScratch(f"that database isn't empty: there is {found[0]}")


def _show(connection: Connection[Any], projection: Projection) -> None:
    """The tables under their plain names."""
    schema = sql.Identifier(projection.name)
    connection.execute(sql.SQL("create schema if not exists {}").format(schema))
    for name in projection.table_names:
        connection.execute(
            sql.SQL("create or replace view {}.{} as select * from {}.{}").format(
                schema, sql.Identifier(name), sql.Identifier(SCHEMA), sql.Identifier(projection.table(name, 1))
            )
        )
