"""What an event says, read by PostgreSQL from the log itself: exactly what Python would read, or said to be unsure.

For each parameter that a statement may use there is an expression over `raw` (the columns of a row of the log, `s` its
state and `m` its metadata as jsonb), and for each type of event a condition under which these expressions, and Python's
reading of the same bytes, are sure to agree. It is strict: what no release of ours would have written is unsure.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from domain.aggregate import Aggregate
from infra.disclosure import marked
from infra.event_store import Metadata
from projections.rows import RESERVED_PATHS

TEXT, UUID_TYPE, BIGINT, TIMESTAMPTZ, BOOLEAN = "text", "uuid", "bigint", "timestamp with time zone", "boolean"

MOST_BYTES = 1900
"""Longer documents are left to Python: they might be nested deeper than its parser takes (1,024 levels)."""

_SQL_TYPES: Mapping[Any, str] = {str: TEXT, UUID: UUID_TYPE, int: BIGINT, datetime: TIMESTAMPTZ, bool: BOOLEAN}
_JSON_TYPES = {TEXT: "string", UUID_TYPE: "string", TIMESTAMPTZ: "string", BIGINT: "number", BOOLEAN: "boolean"}
_TIME = (
    "'^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"([.]([0-9]{3}|[0-9]{6}))?([+]00:00|Z)$'"
)
_WHOLE = "'^-?[0-9]{1,18}$'"
_NO_TEXT = """'strict $.* ? (@.type() != "string" && @.type() != "null")'"""


@dataclass(frozen=True, slots=True)
class Value:
    """An expression over `raw`, its type as PostgreSQL calls it, and whether it may be null."""

    sql: str
    type: str
    nullable: bool = False


_RAW = """
    select notification_id as position, recorded_at, originator_id as stream, originator_version as version, topic,
           octet_length(state) as state_bytes, octet_length(metadata) as metadata_bytes,
           convert_from(state, 'UTF8')::jsonb as s, convert_from(metadata, 'UTF8')::jsonb as m, metadata
      from stored_events
     where notification_id > %(after)s and notification_id <= %(upto)s and topic = any(%(topics)s)
       and originator_id <> all(%(parked)s) and notification_id <> all(%(skipped)s)
"""
RAW = f"{_RAW} offset 0"
"""The rows of a stretch of the log. What isn't JSON, or not so by PostgreSQL's rules, raises psycopg.DataError."""

RAW_OF_PARTITIONS = f"{_RAW} and crc32(uuid_send(originator_id)) %% %(count)s = any(%(partitions)s) offset 0"
"""Those of the streams of some partitions only (`infra/partitions.py`), of `count` in all. Since PostgreSQL 18."""

_RESERVED = {
    "stream": Value("stream", UUID_TYPE),
    "version": Value("version", BIGINT),
    "position": Value("position", BIGINT),
    "recorded_at": Value("recorded_at", TIMESTAMPTZ),
    "event_id": Value("stream::text || ':' || version::text", TEXT),
    "topic": Value("topic", TEXT),
}


def values_of(kind: type[Aggregate.Event]) -> dict[str, Value] | None:
    """The expression of each parameter of an event type; None where only Python can read events of that type."""
    if hasattr(kind, "class_version") or marked(kind):  # what is personal may once be encrypted
        return None
    own: dict[str, Value] = {}
    for name, hint in _fields(kind).items():
        declared, nullable = _without_none(hint)
        if declared not in _SQL_TYPES:
            return None
        own[name] = _member("s", name, _SQL_TYPES[declared], nullable)
    return own | _RESERVED | _from_metadata()


def sound(kind: type[Aggregate.Event]) -> str:
    """The condition under which an event of that type is what `values_of` says, for one that isn't None."""
    fields = {name: _without_none(hint) for name, hint in _fields(kind).items()}
    forms = [_has_form(name, *each) for name, each in fields.items()]
    each = [_is_of_type(name, *each) for name, each in fields.items()]
    # What else it says (a field of former days) may be anything that every parser reads alike.
    rest = f"not jsonb_path_exists(s - array[{_names(fields)}], {_NO_TEXT})"
    texts = [f"s ? '{name}'" if nullable else f"s->>'{name}' is not null" for name, (_, nullable) in fields.items()]
    if not all(_JSON_TYPES[_SQL_TYPES[declared]] == "string" for declared, _ in fields.values()):
        texts = ["false"]
    # Mostly there is nothing but text, which is seen at one look.
    types = (
        f"case when jsonb_path_exists(s, {_NO_TEXT}) then {' and '.join([*each, rest])}"
        f" else {' and '.join(texts or ['true'])} end"
    )
    first = "coalesce(jsonb_typeof(s->'originator_topic') = 'string', true)"
    bounded = f"state_bytes <= {MOST_BYTES} and jsonb_typeof(s) = 'object'"
    return " and ".join([bounded, types, *filter(None, forms), first])


def sound_metadata() -> str:
    """The condition under which an event's metadata are what `values_of` says."""
    fields = get_type_hints(Metadata)
    each = " and ".join(_is_if_there(name, *_without_none(hint)) for name, hint in fields.items())
    known = ", ".join(f"'{name}'" for name in fields)
    return (
        f"metadata_bytes <= {MOST_BYTES} and jsonb_typeof(m) = 'object' and case"
        """ when jsonb_path_exists(m, 'strict $.* ? (@.type() != "string")')"""
        f" then m - array[{known}] = '{{}}' and {each} else not m ?| array['config_version', 'hops'] end"
    )


def _fields(kind: type[Aggregate.Event]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    names = [name for name in kind.__dataclass_fields__ if not name.startswith("originator_") and name != "timestamp"]
    return {name: hints.get(name, Any) for name in names}


def _without_none(hint: Any) -> tuple[Any, bool]:
    """`str | None` is (str, True)."""
    if get_origin(hint) in {Union, types.UnionType}:
        others = [each for each in get_args(hint) if each is not type(None)]
        if len(others) == 1:
            return others[0], True
    return hint, False


def _member(document: str, name: str, sql_type: str, nullable: bool) -> Value:
    text = f"{document}->>'{name}'"
    return Value(text if sql_type == TEXT else f"({text})::{sql_type}", sql_type, nullable)


def _from_metadata() -> dict[str, Value]:
    found = {}
    hints = get_type_hints(Metadata)
    for parameter, path in RESERVED_PATHS.items():
        name = path.removeprefix("metadata.")
        if name != path:
            _, nullable = _without_none(hints[name])
            text = f"m->>'{name}'"
            found[parameter] = Value(text if nullable else f"coalesce({text}, '')", TEXT, nullable)
    return found


def _is_of_type(name: str, declared: Any, nullable: bool) -> str:
    """That the field is there, and of its type as JSON has it."""
    right = f"jsonb_typeof(s->'{name}') = '{_JSON_TYPES[_SQL_TYPES[declared]]}'"
    return f"(jsonb_typeof(s->'{name}') = 'null' or {right})" if nullable else right


def _has_form(name: str, declared: Any, nullable: bool) -> str:
    """That it is written as Python would write it, where other forms mean something to one of both alone."""
    value = f"s->>'{name}'"
    form = {
        UUID_TYPE: f"({value})::uuid::text = {value}",
        TIMESTAMPTZ: f"{value} ~ {_TIME}",
        BIGINT: f"{value} ~ {_WHOLE}",
    }.get(_SQL_TYPES[declared], "")
    return f"({value} is null or {form})" if nullable and form else form


def _names(fields: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in (*fields, "originator_topic"))


def _is_if_there(name: str, declared: Any, nullable: bool) -> str:
    kind, value = f"jsonb_typeof(m->'{name}')", f"m->>'{name}'"
    if declared is int:
        # As it is written: 1e3 is no whole number to Python.
        written = f"convert_from(metadata, 'UTF8') ~ ('\"{name}\":' || ({value}) || '[,}}]')"
        right = f"{kind} = 'number' and {value} ~ {_WHOLE} and {written}"
    else:
        right = f"{kind} = 'string'"
    return f"(m->'{name}' is null or {right}{f' or {kind} = ' + repr('null') if nullable else ''})"
