"""Making inline tables anew from the log, in a transaction that holds `log_head`.

PostgreSQL itself goes through the log, with the very statements that commits use: no event leaves the server. Only
where an event has to be brought to a newer version first, which is Python's business, does it come here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Mapper
from eventsourcing.utils import get_topic
from psycopg import Connection, sql

from infra.inline import EVENTS, METADATAS, OFFSET, PLACEHOLDER, Inline, actor_of, adaptable, as_json, own_fields
from infra.transcoding import RecordedEvent

READ_EVENTS = 2_000
REFILLING = "select set_config('muniment.refilling', 'on', true)"
"""What a statement may ask for that refuses a commit: what has been committed isn't refused any more."""

_RESERVED = {
    "stream": "_e.originator_id",
    "version": "_e.originator_version",
    "position": "_e.notification_id",
    "recorded_at": "_e.recorded_at",
    "event_id": "(_e.originator_id || ':' || _e.originator_version)",
    "actor": "coalesce(convert_from(_e.metadata, 'UTF8')::jsonb ->> 'actor', '')",
    "metadata": "convert_from(_e.metadata, 'UTF8')",
    EVENTS: "array[jsonb_build_array(_s || jsonb_build_object("
    "'stream', _e.originator_id, 'version', _e.originator_version))::json]",
    METADATAS: "array[convert_from(_e.metadata, 'UTF8')::jsonb]",
}
_TYPES = "select parameter_types::text[] from pg_prepared_statements where name = 'muniment_refill'"
_LOOP = """
do $muniment$
declare _e record; _s jsonb;
begin
    for _e in select originator_id, originator_version, topic, state, metadata, notification_id, recorded_at
                from stored_events where topic = any({topics}) order by notification_id
    loop
        _s := convert_from(_e.state, 'UTF8')::jsonb;
        case _e.topic
{branches}
        end case;
    end loop;
end
$muniment$
"""
_PAGE = """
    select originator_id, originator_version, topic, state, notification_id, recorded_at, metadata from stored_events
     where topic = any(%s) and notification_id > %s order by notification_id limit %s
"""


def refill(connection: Connection[Any], mapper: Mapper[UUID], tables: Sequence[Inline]) -> None:
    """Empties the inline tables and fills them from the whole log, inside the caller's transaction.

    Those that name no tables are left as they are: the log doesn't tell what is still in them. The transaction must
    hold `log_head`, so that nothing is committed meanwhile. Raises psycopg.Error.
    """
    tables = [table for table in tables if table.tables]
    connection.execute(REFILLING)
    for name in (name for table in tables for name in table.tables):
        connection.execute(sql.SQL("delete from {}").format(sql.Identifier(name)))
    statements = _statements(tables)
    if any(getattr(kind, "class_version", 1) > 1 for kind in statements):
        refill_one_by_one(connection, mapper, tables)
    elif statements:
        refill_in_place(connection, tables)


def refill_in_place(connection: Connection[Any], tables: Sequence[Inline]) -> None:
    """PostgreSQL does it alone. For events that are stored as they are read."""
    statements = _statements(tables)
    branches = [
        sql.SQL("        when {} then\n").format(get_topic(kind))
        + sql.SQL("").join(sql.SQL(f"            {_in_place(connection, text)};\n") for text in texts)
        for kind, texts in statements.items()
    ]
    loop = sql.SQL(_LOOP).format(topics=list(map(get_topic, statements)), branches=sql.SQL("").join(branches))
    connection.execute(loop)


def refill_one_by_one(connection: Connection[Any], mapper: Mapper[UUID], tables: Sequence[Inline]) -> None:
    """Each event comes here, is read as any other, and its statements go back."""
    statements = _statements(tables)
    topics, position = list(map(get_topic, statements)), 0
    with connection.cursor() as cursor:
        while rows := connection.execute(_PAGE, (topics, position, READ_EVENTS)).fetchall():
            for row in rows:
                recorded = RecordedEvent(*row)
                event: Any = mapper.to_domain_event(recorded)
                values = {
                    **_values(recorded, event),
                    EVENTS: [as_json([mapper.to_stored_event(event)]).decode()],
                    METADATAS: [recorded.metadata.decode()],
                }
                for text in statements[type(event)]:
                    cursor.execute(text.encode(), values)
            position = rows[-1][4]


def _values(row: RecordedEvent, event: Any) -> Mapping[str, Any]:
    return {name: adaptable(value) for name, value in own_fields(event).items()} | {
        "stream": row.originator_id,
        "version": row.originator_version,
        "position": row.position,
        "recorded_at": row.recorded_at,
        "event_id": f"{row.originator_id}:{row.originator_version}",
        "actor": actor_of(row.metadata),
        "metadata": row.metadata.decode(),
    }


def _statements(tables: Iterable[Inline]) -> dict[type[Any], list[str]]:
    """What each type of event writes, in the tables' order."""
    found: dict[type[Any], list[str]] = {}
    for table in tables:
        for kind, texts in table.on.items():
            found.setdefault(kind, []).extend([texts] if isinstance(texts, str) else texts)
    return found


def _in_place(connection: Connection[Any], text: str) -> str:
    """The statement with expressions over the row in hand where it has placeholders."""
    names = list(dict.fromkeys(name for name, _ in PLACEHOLDER.findall(text) if name and name != OFFSET))
    types = dict(zip(names, _parameter_types(connection, text, names), strict=True))

    def expression(name: str) -> str:
        return _RESERVED.get(name) or _field(name, types[name])

    text = PLACEHOLDER.sub(lambda match: "%" if match[2] else expression(match[1]), text)
    return re.sub(r"^\s*select\b", "perform", text)  # PL/pgSQL wants to know that the result isn't wanted


def _parameter_types(connection: Connection[Any], text: str, names: Sequence[str]) -> list[str]:
    """What PostgreSQL takes each of these parameters for."""
    numbered = PLACEHOLDER.sub(lambda match: "%" if match[2] else f"${names.index(match[1]) + 1}", text)
    connection.execute(f"prepare muniment_refill as {numbered}".encode())
    row = connection.execute(_TYPES).fetchone()
    connection.execute("deallocate muniment_refill")
    return list(row[0]) if row else []


def _field(name: str, kind: str) -> str:
    """A field of the event, out of its JSON."""
    if kind in {"json", "jsonb"}:
        return f"nullif(_s -> '{name}', 'null')::{kind}"
    if kind.endswith("[]"):
        elements = f"array(select jsonb_array_elements_text(_s -> '{name}'))::{kind}"
        return f"(case jsonb_typeof(_s -> '{name}') when 'array' then {elements} end)"
    return f"(_s ->> '{name}')::{kind}"
