"""The views of the schemas `analytics` and `analytics_personal`, as SQL, generated from the declarations of the events.

`events` has everything with the body as jsonb; beside it each event type has a view with a column per field. Both go by
a list of what a type may say, so a field that isn't declared (any more) is never shown, and an event that only a newer
release knows has no body. SQL sees what is stored: a field that came with a later version of a type is null in older
events (`class_version` tells which), where everything else upcasts.

No value makes a view fail: what can't be cast is null, and U+0000, which jsonb can't hold, becomes U+FFFD.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.exporting.columns import Column, Kind, columns, shown_fields, table_name

SCHEMA = "analytics"
PERSONAL_SCHEMA = "analytics_personal"
SCHEMAS = (SCHEMA, PERSONAL_SCHEMA)

IDENTIFIER_LIMIT = 63

FUNCTIONS = {
    "document(bytea)": r"""
        create or replace function analytics.document(stored bytea) returns jsonb
        language sql immutable parallel safe begin atomic
            select case
                when position('\x5c7530303030'::bytea in stored) = 0 then convert_from(stored, 'UTF8')::jsonb
                else regexp_replace(
                    convert_from(stored, 'UTF8'), '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g'
                )::jsonb
            end;
        end
    """,
    "kept(jsonb, text[])": """
        create or replace function analytics.kept(document jsonb, fields text[]) returns jsonb
        language sql immutable parallel safe begin atomic
            select coalesce(jsonb_object_agg(key, value), '{}')
              from jsonb_each(document) where key = any(fields);
        end
    """,
    "moment(text)": r"""
        create or replace function analytics.moment(written text) returns timestamptz
        language sql immutable parallel safe begin atomic
            select case when written ~
                '^\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-][0-2]\d:[0-5]\d)$'
            then (
                substring(written from '^[^Z+]*?(?=Z|[+-]\d\d:\d\d$)')::timestamp
                - case when right(written, 1) = 'Z' then interval '0' else right(written, 6)::interval end
            ) at time zone 'UTC' end;
        end
    """,
}
"""Pure functions over what they are given; they read no table, so whoever may call them learns nothing from it."""

_METADATA = (
    "cross join lateral jsonb_to_record(analytics.document(e.metadata))"
    " as m (actor text, correlation_id text, causation_id text, ip text, user_agent text)"
)
_ENVELOPE = "m.actor, m.correlation_id, m.causation_id"
_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_FLOAT = r"^-?\d{1,250}(\.\d+)?$"  # jsonb writes no exponents; more digits wouldn't fit
_READ_AS: dict[Kind, str] = {"texts": "jsonb", "json": "jsonb"}
_AS: dict[Kind, str] = {
    "text": "{0}",
    "integer": r"case when {0} ~ '^-?\d{{1,18}}$' then {0}::bigint end",
    "float": f"case when {{0}} ~ '{_FLOAT.replace('{', '{{').replace('}', '}}')}' then {{0}}::float8 end",
    "boolean": "case {0} when 'true' then true when 'false' then false end",
    "uuid": f"case when {{0}} ~ '{_UUID.replace('{', '{{').replace('}', '}}')}' then {{0}}::uuid end",
    "time": "analytics.moment({0})",
    "texts": "case jsonb_typeof({0}) when 'array' then array(select jsonb_array_elements_text({0})) end",
    "json": "{0}",
}


class WrongName(Exception):
    """Two event types would have the same view, or a view's name would be too long."""


@dataclass(frozen=True, slots=True)
class View:
    """One view: where it stands, its SQL, and what is said about it."""

    schema: str
    name: str
    sql: str
    comment: str


def views(types: Mapping[str, type[Any]]) -> list[View]:
    """All views over these event types by topic, in both schemas. Raises WrongName."""
    names = [table_name(topic) for topic in types]
    if len({*names, "events"}) != len(names) + 1 or any(len(name) > IDENTIFIER_LIMIT for name in names):
        raise WrongName(f"the event types' names don't make views: {', '.join(sorted(names))}")
    return [view for schema in SCHEMAS for view in _of_schema(schema, types)]


def _of_schema(schema: str, types: Mapping[str, type[Any]]) -> Iterator[View]:
    yield View(schema, "events", _events(schema, types), "Every event; body without what may not be shown")
    for topic, kind in sorted(types.items()):
        version = getattr(kind, "class_version", 1)
        yield View(schema, table_name(topic), _of_type(schema, topic, kind), f"{topic}, version {version}")


def _events(schema: str, types: Mapping[str, type[Any]]) -> str:
    personal = schema == PERSONAL_SCHEMA
    allowed = ", ".join(
        f"({_text(topic)}, array[{', '.join(map(_text, shown_fields(kind, personal)))}]::text[])"  # type: ignore[arg-type]
        for topic, kind in sorted(types.items())
    )
    return f"""
        create view {schema}.events with (security_barrier) as
        select e.notification_id as position, e.originator_id as stream, e.originator_version as version,
               e.topic as type, e.recorded_at, {_ENVELOPE}{", m.ip, m.user_agent" if personal else ""},
               analytics.kept(analytics.document(e.state), t.fields) as body,
               coalesce((analytics.document(e.state) ->> 'class_version')::integer, 1) as class_version
          from stored_events e
          left join (values {allowed}) as t (type, fields) on t.type = e.topic
         {_METADATA}
    """


def _of_type(schema: str, topic: str, kind: type[Any]) -> str:
    personal = schema == PERSONAL_SCHEMA
    own = columns(kind, personal)  # type: ignore[arg-type]  # a class is hashable
    fields = "".join(f", {_name(column.field)} {_READ_AS.get(column.kind, 'text')}" for column in own)
    selected = "".join(f", {_column(column)}" for column in own)
    return f"""
        create view {schema}.{table_name(topic)} with (security_barrier) as
        select e.notification_id as position, e.originator_id as stream, e.originator_version as version,
               e.recorded_at, {_ENVELOPE}{", m.ip, m.user_agent" if personal else ""}{selected},
               coalesce(b.class_version, 1) as class_version
          from stored_events e
         {_METADATA}
         cross join lateral jsonb_to_record(analytics.document(e.state)) as b (class_version integer{fields})
         where e.topic = {_text(topic)}
    """


def _column(column: Column) -> str:
    return f"{_AS[column.kind].format('b.' + _name(column.field))} as {_name(column.name)}"


def _name(name: str) -> str:
    return f'"{name}"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
