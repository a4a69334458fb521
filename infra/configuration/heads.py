"""What is stored of each namespace: written by the commits that change it, so that it is right at once; and its past.

A head's document is the stored overrides alone. Whoever runs with it merges the defaults in (DocumentSchema).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from psycopg import Connection
from psycopg.rows import dict_row

from domain.configuration import Namespace
from infra.inline import Inline

_OPENED = """
    insert into configuration_heads (namespace, stream, version, position, schema_version, document)
    values (%(name)s::text, %(stream)s::uuid, %(version)s::integer, %(position)s::bigint, 0, '{}')
"""
_DECLARED = """
    insert into configuration_heads (namespace, stream, version, position, schema_version, document, schema,
                                     declarations)
    values (%(name)s::text, %(stream)s::uuid, %(version)s::integer, %(position)s::bigint, 0, '{}', %(schema)s::jsonb,
            %(schema_version)s::integer)
        on conflict (namespace) do update
       set schema = excluded.schema, declarations = excluded.declarations, version = excluded.version,
           position = excluded.position
"""
_WITHDRAWN = "delete from configuration_heads where namespace = %(name)s::text"
_CHANGED = """
    insert into configuration_heads as head (namespace, stream, version, position, schema_version, document,
                                             key_versions)
    select %(name)s::text, %(stream)s::uuid, %(version)s::integer, %(position)s::bigint, %(schema_version)s::integer,
           %(values)s::jsonb, coalesce(jsonb_object_agg(key, %(version)s::integer), '{}')
      from unnest(%(keys)s::text[]) key
        on conflict (namespace) do update
       set document = excluded.document, schema_version = excluded.schema_version,
           key_versions = head.key_versions || excluded.key_versions, version = excluded.version,
           position = excluded.position
"""
# There is no row where the customers' namespace was withdrawn, whose name a module has now.
CHANNEL = "muniment_config"
"""Tells the name of each namespace that has changed, in the commit that says so: a process that listens for this alone
isn't woken by every other commit.
"""
_NOTIFY = f"select pg_notify('{CHANNEL}', %(name)s::text)"
_ROWS = """
    select namespace, stream, version, position, schema_version, document::text, schema::text,
           declarations, key_versions from configuration_heads
"""


def announcement(namespace: str) -> str:
    """What the commit's notification says of a namespace that has changed."""
    return f"config:{namespace}"


def _announce(event: Any) -> str:
    return announcement(event.name)


HEADS = Inline(
    name="configuration-heads",
    on={
        Namespace.Opened: _OPENED,
        Namespace.Declared: (_DECLARED, _NOTIFY),
        Namespace.Withdrawn: (_WITHDRAWN, _NOTIFY),
        Namespace.Changed: (_CHANGED, _NOTIFY),
    },
    announces=dict.fromkeys((Namespace.Declared, Namespace.Withdrawn, Namespace.Changed), _announce),
    tables=("configuration_heads",),
)


@dataclass(frozen=True, slots=True)
class Head:
    """A namespace as the newest commit has left it.

    `version` is its stream's, `position` the log's of its newest event. `document` are the stored overrides, written
    for the schema of number `schema_version` (0: never written). `schema` is the JSON Schema of a customers' namespace,
    `declarations` its number. `key_versions` are the versions at which stored values became what they are, or went
    back to the default.
    """

    namespace: str
    stream: UUID
    version: int
    position: int
    schema_version: int
    document: dict[str, Any]
    schema: dict[str, Any] | None
    declarations: int
    key_versions: dict[str, int]


def read_heads(connection: Connection[Any], names: Sequence[str] | None = None) -> list[Head]:
    """All namespaces that have a stream, by name, or those of these names. One statement: one moment."""
    with connection.cursor(row_factory=dict_row) as cursor:
        if names is None:
            rows = cursor.execute(f"{_ROWS} order by namespace").fetchall()
        else:
            rows = cursor.execute(f"{_ROWS} where namespace = any(%s) order by namespace", (list(names),)).fetchall()
    return [head_of(row) for row in rows]


def declared(connection: Connection[Any]) -> int:
    """How many namespaces of the customers' own there are."""
    row = connection.execute("select count(*) from configuration_heads where schema is not null").fetchone()
    return int(row[0]) if row else 0


def head_of(row: dict[str, Any]) -> Head:
    """A row of the table, whose two documents come as text.

    jsonb spells 1e22 as twenty-three digits; orjson reads those as the number that they were.
    """
    schema = row["schema"]
    return Head(
        **{
            **row,
            "document": orjson.loads(row["document"]),
            "schema": None if schema is None else orjson.loads(schema),
        }
    )
