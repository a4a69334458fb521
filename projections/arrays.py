"""Columns of values as PostgreSQL's arrays: many events' parameters in one, as psycopg would send them one by one.

The type of a column is the one that psycopg gives its values; where it gives none (text, NULL), the server says what it
takes there. An array is sent in the binary form where that is quick to make, and else as text, which the server reads
element by element with the same input function as it does for a single value.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from struct import Struct
from typing import Any
from uuid import UUID

from psycopg.abc import Buffer, Transformer
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format
from psycopg.types.json import Jsonb

UNKNOWN, BOOL, INT8, INT4, TEXT, FLOAT8, VARCHAR, TIMESTAMPTZ, UUID_TYPE = 0, 16, 20, 23, 25, 701, 1043, 1184, 2950
TEXT_ARRAY, UUID_ARRAY, JSONB = 1009, 2951, 3802

INT4_LEAST, INT4_MOST = -(2**31), 2**31 - 1
INT8_LEAST, INT8_MOST = -(2**63), 2**63 - 1

_TYPES: dict[type[Any], int] = {
    str: UNKNOWN,
    type(None): UNKNOWN,
    bool: BOOL,
    float: FLOAT8,
    UUID: UUID_TYPE,
    Jsonb: JSONB,
}

_HEADER = Struct(">iiIii").pack
_LENGTH = Struct(">i").pack
_BOOL = Struct(">i?").pack
_INT4 = Struct(">ii").pack
_INT8 = Struct(">iq").pack
_FLOAT8 = Struct(">id").pack
_UUID_LENGTH = _LENGTH(16)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DAY_MICROSECONDS, _SECOND_MICROSECONDS = 86_400_000_000, 1_000_000


class Unlike(Exception):
    """The values of a column go to the server as different types: they can't be one array."""


@dataclass(frozen=True, slots=True)
class Binary:
    """An array in PostgreSQL's binary form."""

    oid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Literal:
    """An array as text: `{...}`."""

    oid: int
    data: bytes


class _ArrayDumper(Dumper):
    """Hands over what is encoded already, under the array's own type."""

    def get_key(self, obj: Any, format: PyFormat) -> Any:  # noqa: A002 - the library's name
        return (self.cls, obj.oid)

    def upgrade(self, obj: Any, format: PyFormat) -> "_ArrayDumper":  # noqa: A002 - the library's name
        made = type(self)(self.cls)
        made.oid = obj.oid
        return made

    def dump(self, obj: Any) -> Buffer:
        data: bytes = obj.data
        return data


class BinaryDumper(_ArrayDumper):
    """For `Binary`."""

    format = Format.BINARY


class LiteralDumper(_ArrayDumper):
    """For `Literal`."""

    format = Format.TEXT


def column_type(values: Sequence[Any], transformer: Transformer) -> int:
    """The type under which psycopg sends these values, all of one Python type; 0 where the server decides.

    Raises Unlike, and what psycopg raises for a value that it can't adapt.
    """
    kind = type(values[0])
    if kind is int:
        return _int_type(values)
    if kind in _TYPES:
        return _TYPES[kind]
    if kind is datetime and all(value.tzinfo for value in values):
        return TIMESTAMPTZ
    found = {transformer.get_dumper(value, PyFormat.TEXT).oid for value in values}
    if len(found) > 1:
        raise Unlike
    return found.pop()


def _int_type(values: Sequence[int]) -> int:
    least, most = min(values), max(values)
    if least >= INT4_LEAST and most <= INT4_MOST:
        return INT4
    small = sum(INT4_LEAST <= value <= INT4_MOST for value in values)
    if small or least < INT8_LEAST or most > INT8_MOST:
        raise Unlike
    return INT8


def array(values: Sequence[Any], element_oid: int, array_oid: int, transformer: Transformer) -> Binary | Literal:
    """The column as an array of the element type. Raises what psycopg raises for a value that it can't adapt."""
    encode = _BINARY.get((type(values[0]), element_oid))
    if encode is None:
        return Literal(array_oid, _literal(values, transformer))
    header = _HEADER(1, 0, element_oid, len(values), 1)
    return Binary(array_oid, header + b"".join(encode(values)))


def _texts(values: Sequence[str]) -> list[bytes]:
    return [_LENGTH(len(text)) + text for text in [value.encode() for value in values]]


def _times(values: Sequence[datetime]) -> list[bytes]:
    return [
        _INT8(8, gap.days * _DAY_MICROSECONDS + gap.seconds * _SECOND_MICROSECONDS + gap.microseconds)
        for gap in [value - _EPOCH for value in values]
    ]


def _documents(values: Sequence[Jsonb]) -> list[bytes]:
    texts = [(value.dumps or json.dumps)(value.obj) for value in values]
    coded = [text.encode() if isinstance(text, str) else text for text in texts]
    return [_LENGTH(len(text) + 1) + b"\x01" + text for text in coded]  # the version of the binary form


_BINARY: dict[tuple[type[Any], int], Callable[[Sequence[Any]], list[bytes]]] = {
    (str, TEXT): _texts,
    (str, VARCHAR): _texts,
    (bool, BOOL): lambda values: [_BOOL(1, value) for value in values],
    (int, INT4): lambda values: [_INT4(4, value) for value in values],
    (int, INT8): lambda values: [_INT8(8, value) for value in values],
    (float, FLOAT8): lambda values: [_FLOAT8(8, value) for value in values],
    (Jsonb, JSONB): _documents,
    (UUID, UUID_TYPE): lambda values: [_UUID_LENGTH + value.bytes for value in values],
    (datetime, TIMESTAMPTZ): _times,
}


def _literal(values: Sequence[Any], transformer: Transformer) -> bytes:
    return b"{" + b",".join([_element(value, transformer) for value in values]) + b"}"


def _element(value: Any, transformer: Transformer) -> bytes:
    if value is None:
        return b"NULL"
    dumped = transformer.get_dumper(value, PyFormat.TEXT).dump(value)
    if dumped is None:
        return b"NULL"
    return b'"' + bytes(dumped).replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
