"""Events of one type as Arrow columns, typed from the type's declaration."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any

import pyarrow as pa
from msgspec import UNSET, Meta, Raw

from infra.exporting.bodies import Said, Shape, Unreadable, said, shape
from infra.exporting.columns import Column, Kind, columns_of

BIGINT = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

_TIME = pa.timestamp("us", tz="UTC")
_ARROW: dict[Kind, Any] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "uuid": pa.string(),  # hardly a tool reads Parquet's own type for them
    "time": _TIME,
    "texts": pa.list_(pa.string()),
    "json": pa.string(),
}
_READ: dict[Kind, Any] = {
    "text": str | None,
    "integer": BIGINT | None,
    "float": float | None,
    "boolean": bool | None,
    "uuid": str | None,
    "time": datetime | None,
    "texts": list[str] | None,
    "json": Raw,
}


@cache
def schema(topic: str, personal: bool) -> pa.Schema:
    """The envelope's columns, then the type's own."""
    more = [("ip", pa.string()), ("user_agent", pa.string())] if personal else []
    return pa.schema(
        [
            pa.field("position", pa.int64(), nullable=False),
            pa.field("stream", pa.string(), nullable=False),
            pa.field("version", pa.int64(), nullable=False),
            pa.field("recorded_at", _TIME, nullable=False),
            ("actor", pa.string()),
            ("correlation_id", pa.string()),
            ("causation_id", pa.string()),
            *more,
            *((column.name, _ARROW[column.kind]) for column in columns_of(topic, personal)),
        ]
    )


def batch(topic: str, rows: Sequence[tuple[Any, ...]], personal: bool, unreadable: list[int]) -> pa.RecordBatch:
    """The rows of one type as columns. What can't be read is null, and its position is added to `unreadable`."""
    found: Any = _typed(topic, personal)
    blank = found.struct()
    read, who = [], []
    for row in rows:
        try:
            fields, metadata = found.read(row[5]), said(row[6])
        except Unreadable:
            unreadable.append(row[0])
            fields, metadata = blank, Said()
        read.append(fields)
        who.append(metadata)
    position, stream, version, _, recorded_at, _, _ = zip(*rows, strict=True)
    own = schema(topic, personal)
    values: list[Any] = [
        position,
        stream,
        version,
        pa.array(recorded_at, pa.int64()).cast(_TIME),
        [each.actor for each in who],
        [each.correlation_id for each in who],
        [each.causation_id for each in who],
        *(([each.ip for each in who], [each.user_agent for each in who]) if personal else ()),
        *(_values(column, read) for column in columns_of(topic, personal)),
    ]
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, field.type)
        for value, field in zip(values, own, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=own)


@cache
def _typed(topic: str, personal: bool) -> Shape[Any]:
    return shape(topic, "Typed", {column.field: _READ[column.kind] for column in columns_of(topic, personal)})


def _values(column: Column, read: Sequence[Any]) -> list[Any]:
    values = [getattr(each, column.field) for each in read]
    if column.kind == "json":
        return [None if value is UNSET else bytes(value).decode() for value in values]
    return [None if value is UNSET else value for value in values]
