"""What was stored of a namespace, by whom and why: from its stream, reading no document that nobody asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from domain.configuration import Namespace, NamespaceNotFound, VersionNotFound
from infra.configuration.heads import Head
from infra.event_store import Log, Metadata
from infra.moments import AsOf

_CHANGED, _DECLARED, _WITHDRAWN = Namespace.Changed.TOPIC, Namespace.Declared.TOPIC, Namespace.Withdrawn.TOPIC
_NEWEST = """
    select originator_version, notification_id from stored_events
     where originator_id = %(stream)s and originator_version <= %(version)s
     order by originator_version desc limit 1
"""
_LAST = """
    select originator_id, originator_version, topic, state, notification_id, recorded_at, metadata from stored_events
     where originator_id = %(stream)s and originator_version <= %(version)s and topic = %(topic)s
       and originator_version > %(since)s
     order by originator_version desc limit 1
"""
_KEYS = """
    select key, max(originator_version)::integer as version
      from stored_events, jsonb_array_elements_text(convert_from(state, 'UTF8')::jsonb -> 'keys') key
     where originator_id = %(stream)s and originator_version <= %(version)s and topic = %(topic)s
       and originator_version > %(since)s
     group by key
"""
# Documents and schemas stay where they are: a page of them could be hundreds of megabytes.
_ENTRIES = """
    select originator_version as version, notification_id as position, recorded_at, topic, metadata,
           (convert_from(state, 'UTF8')::jsonb - 'values' - 'schema')::text as said
      from stored_events
     where originator_id = %(stream)s and originator_version < %(before)s and topic = any(%(topics)s)
     order by originator_version desc limit %(limit)s
"""
_AT = "select max(originator_version) from stored_events where originator_id = %s and notification_id <= %s"
_ANY = 2**62
_KINDS = {_CHANGED: "changed", _DECLARED: "declared", _WITHDRAWN: "withdrawn"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision about a namespace. `keys` are those whose stored value it changed; `restores` is of a rollback."""

    version: int
    position: int
    at: datetime
    actor: str
    kind: str
    keys: list[str]
    schema_version: int
    reason: str
    restores: int | None


class NamespacePast:
    """Implements `commands.configuration.Past`, over the pool and the log."""

    def __init__(self, pool: ConnectionPool[Connection[Any]], log: Log) -> None:
        self._pool = pool
        self._log = log

    def document(self, name: str, version: int) -> tuple[dict[str, Any], int]:
        """What was stored at a version, and the number of its schema. Raises VersionNotFound."""
        with self._at(name, version) as (connection, asked, _):
            changed = self._last(connection, asked, _CHANGED)
        return (changed.values, changed.schema_version) if changed else ({}, 0)

    def head(self, name: str, version: int) -> Head:
        """The namespace at a version; 0: before anything was stored. Raises VersionNotFound."""
        with self._at(name, version) as (connection, asked, position):
            changed = self._last(connection, asked, _CHANGED)
            declared = self._last(connection, asked, _DECLARED)
            keys: dict[str, int] = dict(connection.execute(_KEYS, {**asked, "topic": _CHANGED}).fetchall())
        return Head(
            namespace=name,
            stream=asked["stream"],
            version=version,
            position=position,
            schema_version=changed.schema_version if changed else 0,
            document=changed.values if changed else {},
            schema=declared.schema if declared else None,
            declarations=declared.schema_version if declared else 0,
            key_versions=keys,
        )

    @contextmanager
    def _at(self, name: str, version: int) -> Iterator[tuple[Connection[Any], dict[str, Any], int]]:
        """What a query about a version is asked with, in one transaction, and its position. Raises VersionNotFound."""
        asked: dict[str, Any] = {"stream": Namespace.id_of(name), "version": version, "since": 0}
        with self._pool.connection() as connection, connection.transaction():
            found = connection.execute(_NEWEST, asked).fetchone()
            if version < 0 or (found[0] if found else 0) != version:
                raise VersionNotFound(f"This namespace has no version {version}.")
            if (withdrawn := self._last(connection, asked, _WITHDRAWN)) is not None:
                asked["since"] = withdrawn.originator_version
            yield connection, asked, found[1] if found else 0

    def _last(self, connection: Connection[Any], asked: dict[str, Any], topic: str) -> Any:
        """The last event of this topic up to the version; None where there is none."""
        row = connection.execute(_LAST, {**asked, "topic": topic}).fetchone()
        return self._log.recorded_columns(row).event if row else None

    def version_at(self, name: str, as_of: AsOf) -> tuple[int, int]:
        """The version at a position or a time, and the position. Raises PositionUnknown, Invalid."""
        position, _ = self._log.moment(as_of)
        with self._pool.connection() as connection:
            row = connection.execute(_AT, (Namespace.id_of(name), position)).fetchone()
        return (row[0] if row and row[0] else 0), position

    def entries(self, name: str, limit: int, before: int | None = None) -> list[Entry]:
        """The decisions about a namespace before a version, the newest first."""
        asked = {
            "stream": Namespace.id_of(name),
            "before": _ANY if before is None else before,
            "topics": list(_KINDS),
            "limit": limit,
        }
        with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return [_entry(row) for row in cursor.execute(_ENTRIES, asked).fetchall()]


def _entry(row: dict[str, Any]) -> Entry:
    said = orjson.loads(row["said"])
    return Entry(
        version=row["version"],
        position=row["position"],
        at=row["recorded_at"],
        actor=Metadata.from_bytes(row["metadata"]).actor,
        kind=_KINDS[row["topic"]] if said.get("restores") is None else "rolled-back",
        keys=said.get("keys", []),
        schema_version=said.get("schema_version", 0),
        reason=said["reason"],
        restores=said.get("restores"),
    )


def check_known(name: str, own: Sequence[str], heads: Sequence[Head]) -> None:
    """Raises NamespaceNotFound for a name that neither the software nor anybody has declared."""
    if name not in own and not any(head.schema is not None for head in heads):
        raise NamespaceNotFound
