"""Roles that may read the views and nothing else."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection, sql

from infra.analytics.views import PERSONAL_SCHEMA, SCHEMA, SCHEMAS

NAME_CHARS = 63
CONNECTIONS = 10
"""Connections that a role may have that was created here."""

SETTINGS = {
    "default_transaction_read_only": "on",
    "search_path": SCHEMA,
    "statement_timeout": "5min",
    # an open transaction keeps PostgreSQL from clearing the rows that every commit updates
    "idle_in_transaction_session_timeout": "1min",
    "transaction_timeout": "10min",
}
"""Of a role that was created here. `transaction_timeout` came with PostgreSQL 17."""

_POWERS = ("pg_read_all_data", "pg_write_all_data", "pg_read_server_files", "pg_write_server_files",
           "pg_execute_server_program", "pg_monitor", "pg_signal_backend", "pg_maintain",
           "pg_database_owner")  # fmt: skip
_ROLE = """
    select oid, rolsuper, rolcreaterole, rolreplication, rolbypassrls,
           pg_has_role(oid, current_user, 'member') as is_us
      from pg_roles where rolname = %s
"""
_OTHER_TABLES = """
    select n.nspname || '.' || c.relname
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
       and n.nspname <> all(%(ours)s) and n.nspname not like 'pg\\_temp%%'
       and (has_table_privilege(%(role)s::oid, c.oid, 'select, insert, update, delete, truncate')
            or has_any_column_privilege(%(role)s::oid, c.oid, 'select, insert, update'))
     order by 1 limit 1
"""
_READERS = """
    select r.rolname, has_schema_privilege(r.oid, p.oid, 'usage') as personal
      from pg_namespace n
     cross join lateral aclexplode(n.nspacl) acl
      join pg_roles r on r.oid = acl.grantee
      join pg_namespace p on p.nspname = %(personal)s
     where n.nspname = %(schema)s and acl.privilege_type = 'USAGE' and r.oid <> n.nspowner
     group by 1, 2 order by 1
"""


class NotAReader(Exception):
    """This role can't be made a reader; the message says why."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A role that may read the views; with `personal`, those with personal fields, too."""

    role: str
    personal: bool


def readers(connection: Connection[Any]) -> list[Reader]:
    """Who may read."""
    found = connection.execute(_READERS, {"schema": SCHEMA, "personal": PERSONAL_SCHEMA}).fetchall()
    return [Reader(role, personal) for role, personal in found]


def exists(connection: Connection[Any], role: str) -> bool:
    """Whether PostgreSQL knows the role."""
    return connection.execute(_ROLE, (role,)).fetchone() is not None


def create(connection: Connection[Any], role: str, password: str) -> None:
    """A role that can log in, and nothing else. The password goes as its SCRAM verifier. Raises NotAReader."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    name = sql.Identifier(role)
    try:
        with connection.transaction():
            connection.execute(
                sql.SQL(
                    "create role {} login password {} nosuperuser nocreatedb nocreaterole noreplication nobypassrls"
                    " connection limit {}"
                ).format(name, sql.Literal(verifier), sql.Literal(CONNECTIONS))
            )
            for setting, value in SETTINGS.items():
                _set(connection, name, setting, value)
    except psycopg.errors.DuplicateObject as error:
        raise NotAReader(f"there is a role {role} already; leave --create away") from error
    except psycopg.errors.ReservedName as error:
        raise NotAReader(f"PostgreSQL keeps the name {role} for itself") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotAReader(
            f"the platform's own role may not create roles here; have an administrator run `create role {role} login"
            f" password '...'`, then `muniment analytics grant {role}`"
        ) from error


def check(connection: Connection[Any], role: str) -> None:
    """Whether what this role may already do is little enough. Raises NotAReader."""
    row = connection.execute(_ROLE, (role,)).fetchone()
    if row is None:
        raise NotAReader(f"there is no role {role}; --create makes it")
    oid, is_super, creates_roles, replicates, bypasses, is_us = row
    if is_super or is_us or creates_roles or replicates or bypasses:
        raise NotAReader(f"the role {role} may do more than read views (an administrator, or the platform's own role)")
    for power in _POWERS:
        if _is_member(connection, oid, power):
            raise NotAReader(f"the role {role} is a member of {power}, and sees more than the views")
    other = connection.execute(_OTHER_TABLES, {"role": oid, "ours": list(SCHEMAS)}).fetchone()
    if other is not None:
        raise NotAReader(
            f"the role {role} may already read or write {other[0]}; a reader may see nothing but the views"
        )


def grant(connection: Connection[Any], role: str, *, personal: bool) -> None:
    """The role may read the views, and those that later releases bring. Twice does nothing. Raises NotAReader."""
    check(connection, role)
    name = sql.Identifier(role)
    with connection.transaction():
        for schema in SCHEMAS if personal else (SCHEMA,):
            _each(connection, schema, name, (
                "grant usage on schema {schema} to {role}",
                "grant select on all tables in schema {schema} to {role}",
                "alter default privileges in schema {schema} grant select on tables to {role}",
            ))  # fmt: skip
        if not personal:
            _take(connection, PERSONAL_SCHEMA, name)


def revoke(connection: Connection[Any], role: str) -> None:
    """The role may read nothing here any more. Twice does nothing. Raises NotAReader."""
    if not exists(connection, role):
        raise NotAReader(f"there is no role {role}")
    with connection.transaction():
        for schema in SCHEMAS:
            _take(connection, schema, sql.Identifier(role))


def _take(connection: Connection[Any], schema: str, name: sql.Identifier) -> None:
    _each(connection, schema, name, (
        "alter default privileges in schema {schema} revoke select on tables from {role}",
        "revoke all on all tables in schema {schema} from {role}",
        "revoke all on schema {schema} from {role}",
    ))  # fmt: skip


def _each(connection: Connection[Any], schema: str, role: sql.Identifier, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.execute(sql.SQL(statement).format(schema=sql.Identifier(schema), role=role))


def _set(connection: Connection[Any], name: sql.Identifier, setting: str, value: str) -> None:
    known = connection.execute("select true from pg_settings where name = %s", (setting,)).fetchone()
    if known is not None:
        statement = sql.SQL("alter role {} set {} = {}")
        connection.execute(statement.format(name, sql.Identifier(setting), sql.Literal(value)))


def _is_member(connection: Connection[Any], oid: int, power: str) -> bool:
    row = connection.execute(
        "select pg_has_role(%s::oid, oid, 'member') from pg_roles where rolname = %s", (oid, power)
    ).fetchone()
    return bool(row and row[0])
