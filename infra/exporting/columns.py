"""The fields of an event type as columns: named and typed from its declaration, without what may not be shown."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from domain.aggregate import PERSONAL, SECRET
from infra.disclosure import marked
from infra.inline import OWN_FIELDS_LEFT_OUT
from infra.transcoding import event_type

Kind: TypeAlias = Literal["text", "integer", "float", "boolean", "uuid", "time", "texts", "json"]

ENVELOPE = ("position", "stream", "version", "recorded_at", "actor", "correlation_id", "causation_id")
"""The columns that every event has, whatever its type."""

TAKEN = frozenset({*ENVELOPE, "id", "type", "day", "body", "ip", "user_agent", "class_version"})
"""Names that a field's column can't have; such a field's column is `body_<field>`."""

_KINDS: dict[Any, Kind] = {
    str: "text",
    int: "integer",
    float: "float",
    bool: "boolean",
    UUID: "uuid",
    datetime: "time",
    list[str]: "texts",
    tuple[str, ...]: "texts",
}
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Column:
    """One field: its name in the event, its column's name, and what stands there. Any of them may be null."""

    field: str
    name: str
    kind: Kind


@cache
def shown_fields(kind: type[Any], personal: bool) -> tuple[str, ...]:
    """The declared fields of an event type that may be shown: never the secret ones, the personal ones if asked."""
    marks = marked(kind)  # type: ignore[arg-type]  # a class is hashable
    hidden = {SECRET} if personal else {SECRET, PERSONAL}
    return tuple(
        name for name in kind.__dataclass_fields__ if name not in OWN_FIELDS_LEFT_OUT and marks.get(name) not in hidden
    )


@cache
def columns(kind: type[Any], personal: bool) -> tuple[Column, ...]:
    """The columns of an event type, in the order of its declaration."""
    hints = get_type_hints(kind)
    return tuple(
        Column(name, f"body_{name}" if name in TAKEN else name, kind_of(hints[name]))
        for name in shown_fields(kind, personal)  # type: ignore[arg-type]  # a class is hashable
    )


def columns_of(topic: str, personal: bool) -> tuple[Column, ...]:
    """The columns of an event type by its topic. Raises NewerSoftware for one that this release doesn't know."""
    return columns(event_type(topic), personal)  # type: ignore[arg-type]  # a class is hashable


def kind_of(declared: Any) -> Kind:
    """What a field's column holds; whatever has no type of its own among columns is JSON."""
    if get_origin(declared) in {Union, UnionType}:
        inner = [each for each in get_args(declared) if each is not NoneType]
        return kind_of(inner[0]) if len(inner) == 1 else "json"
    if declared in _KINDS:
        return _KINDS[declared]
    return "text" if isinstance(declared, type) and issubclass(declared, str) else "json"


def table_name(topic: str) -> str:
    """The table of an event type: `identity_user_registered` for `identity.UserRegistered`."""
    return _WORDS.sub("_", topic.replace(".", "_")).lower()
