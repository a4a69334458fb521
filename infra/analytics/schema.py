"""Brings the views up to this release: only those that have changed, and never back to an older release's."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import orjson
import psycopg
from psycopg import Connection, sql

from infra.analytics.views import FUNCTIONS, SCHEMA, SCHEMAS, View, views

LOCK = 7_053_005
"""The advisory lock under which the views are made."""

LOCK_SECONDS = 3
"""How long to wait for whoever reads a view that has to be made anew."""

State = Literal["made", "unchanged", "newer"]


class NoAnalytics(Exception):
    """The views can't be made; the message says what to do. Nothing else depends on them."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What was done: `newer` where a newer release has made the views, which are left alone. `changed` were made."""

    state: State
    changed: tuple[str, ...] = ()


def refresh(connection: Connection[Any], types: Mapping[str, type[Any]]) -> Refreshed:
    """Makes what is missing or has changed, all in one transaction. Raises NoAnalytics."""
    try:
        with connection.transaction():
            connection.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'".encode())
            connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
            return _refresh(connection, types)
    except psycopg.errors.InsufficientPrivilege as error:
        raise NoAnalytics(_may_not(connection, error)) from error
    except psycopg.errors.DependentObjectsStillExist as error:
        raise NoAnalytics(f"{_line(error)}: {error.diag.message_detail or 'something depends on it'}; drop that, then"
                          " `muniment analytics refresh`") from error  # fmt: skip
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        raise NoAnalytics("somebody is reading the views right now; `muniment analytics refresh` later") from error


def is_current(connection: Connection[Any], types: Mapping[str, type[Any]]) -> bool:
    """Whether the views are those of this release."""
    return _known(connection).get("views") == _digests(views(types))


def _refresh(connection: Connection[Any], types: Mapping[str, type[Any]]) -> Refreshed:
    known, wanted = _known(connection), views(types)
    versions = {topic: getattr(kind, "class_version", 1) for topic, kind in types.items()}
    if any(version > versions.get(topic, 0) for topic, version in known.get("types", {}).items()):
        return Refreshed("newer")
    had: dict[str, str] = known.get("views", {})
    digests = _digests(wanted)
    if had == digests:
        return Refreshed("unchanged")
    for schema in SCHEMAS:
        if connection.execute("select true from pg_namespace where nspname = %s", (schema,)).fetchone() is None:
            connection.execute(f"create schema {schema}".encode())
    for function in FUNCTIONS.values():
        connection.execute(function.encode())
    changed = [view for view in wanted if had.get(_place(view)) != digests[_place(view)]]
    for place in {*had} - {*digests} | {_place(view) for view in changed}:
        connection.execute(f"drop view if exists {place}".encode())
    for view in changed:
        connection.execute(view.sql.encode())
        _comment(connection, f"view {_place(view)}", view.comment)
    _comment(connection, f"schema {SCHEMA}", orjson.dumps({"types": versions, "views": digests}).decode())
    return Refreshed("made", tuple(map(_place, changed)))


def _digests(made: list[View]) -> dict[str, str]:
    functions = "".join(FUNCTIONS.values())
    return {_place(view): sha256((view.sql + functions).encode()).hexdigest()[:16] for view in made}


def _known(connection: Connection[Any]) -> dict[str, Any]:
    """What the schema's comment says of its views."""
    row = connection.execute(
        "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = %s", (SCHEMA,)
    ).fetchone()
    try:
        found = orjson.loads(row[0]) if row and row[0] else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _comment(connection: Connection[Any], on: str, text: str) -> None:
    connection.execute(sql.SQL("comment on {} is {}").format(sql.SQL(on), sql.Literal(text)))


def _place(view: View) -> str:
    return f"{view.schema}.{view.name}"


def _may_not(connection: Connection[Any], error: psycopg.Error) -> str:
    row = connection.execute("select current_user, current_database()").fetchone()
    role, database = row or ("", "")
    statements = "; ".join(f'create schema {schema} authorization "{role}"' for schema in SCHEMAS)
    return f"{_line(error)}: the owner of database {database} has to run: {statements}"


def _line(error: psycopg.Error) -> str:
    return str(error.diag.message_primary or error).strip()
