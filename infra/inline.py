"""Tables that are written in the commit's own transaction, because they must be right at the moment of commit."""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from struct import Struct
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.persistence import StoredEvent
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from domain.aggregate import Aggregate
from infra.wire import Step

Event = Aggregate.Event
Params = Mapping[str, Any]
Statement = tuple[str, Params]
"""SQL with `%(name)s` placeholders, and the values by name."""

OWN_FIELDS_LEFT_OUT = frozenset({"originator_id", "originator_version", "originator_topic", "timestamp"})

OFFSET = "_events_after"
EVENTS, METADATAS = "events", "metadatas"
PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|(%)|)")
_SUBSELECTS = {
    # The transaction has already moved log_head past its own last event: this one is that many events before it.
    "position": f"(select position - %({OFFSET})s::bigint from log_head)",
    "recorded_at": "(select recorded_at from log_head)",
}
_BIGINT_OID = 20
_JSONB_VERSION = b"\x01"
"""PostgreSQL's jsonb_send: its version, then the text."""
_bigint = Struct(">q").pack
_length = Struct(">i").pack


@dataclass(frozen=True)
class Inline:
    """A table written in the commit's own transaction.

    `on` maps an event's type to SQL (or several) with `%(stream)s`, `%(version)s`, `%(position)s`, `%(recorded_at)s`,
    `%(actor)s`, `%(metadata)s` (JSON text) and the event's own fields by name. SQL with `%(events)s` instead is run
    once, after any other, for all events of the type that stand one after another in a save, and with them for those
    of the saves beside it in the commit: a json[], and `%(metadatas)s` a jsonb[], with one element for each save; its
    events are an array of objects, each with the event's fields, `stream` and `version`. Of other values it may have
    `%(recorded_at)s`. `announces` maps an event's type to what the commit's
    notification tells every process, such as `session:<id>`.

    `tables` are those that it writes, where they can be filled anew from the log (infra/refill.py). None are named
    where rows end by something else than an event, such as work that was done: filled anew, it would come back.

    Commits are serial, so this work must be tiny. It waits at most 200 ms for a row; if it fails, the command whose
    event it belongs to is refused, and no other. Nobody may hold a lock on such a row while waiting for a commit.
    """

    name: str
    on: Mapping[type[Event], str | Sequence[str]] = field(default_factory=dict)
    announces: Mapping[type[Event], Callable[[Any], str]] = field(default_factory=dict)
    tables: tuple[str, ...] = ()


def own_fields(event: Event) -> dict[str, Any]:
    """What the event itself says: its fields without id, version and time."""
    return {name: value for name, value in vars(event).items() if name not in OWN_FIELDS_LEFT_OUT}


def as_json(rows: Sequence[StoredEvent]) -> bytes:
    """Events as an element of `%(events)s`: what is stored is JSON already."""
    objects = [
        b'{"stream":"%s","version":%d%s%s'
        % (str(row.originator_id).encode(), row.originator_version, b"" if row.state == b"{}" else b",", row.state[1:])
        for row in rows
    ]
    return b"[%s]" % b",".join(objects)


def _element(value: bytes) -> bytes:
    return _length(len(value)) + value


@dataclass(slots=True)
class InlineStep(Step):
    """A statement of one save, ready to be sent with its commit."""

    events_after: int = 0
    """How many events of the same save stand behind the one that this belongs to."""
    offset_at: int | None = None
    """Which value says how far before the transaction's last event that is."""

    def place(self, events_behind: int) -> None:
        """Says how many events of other saves stand behind this save's in the transaction."""
        if self.offset_at is not None:
            params = list(self.params)
            params[self.offset_at] = _bigint(self.events_after + events_behind)
            self.params = params


@dataclass(slots=True)
class RunStep(InlineStep):
    """What is written for events of one type that stand one after another in a save.

    Those of saves beside each other are sent as one (infra/append.py): `names` says which value stands where, and each
    value is the save's element of that array (array_send).
    """

    names: tuple[str, ...] = ()


def inline_step(statement: Statement) -> InlineStep:
    """The statement with its values converted. Raises psycopg.ProgrammingError for a value without SQL form."""
    sql, values = statement
    compiled = compiled_sql(sql)
    transformer = _transformer()
    given = compiled.values(values)
    params = list(transformer.dump_sequence(given, [PyFormat.AUTO] * len(given)))
    types, formats = tuple(transformer.types or ()), list(transformer.formats or ())
    if compiled.offset_at is not None:
        # By name and last: its value is known only when the group is.
        params[compiled.offset_at] = None
        types = (*types[:-1], _BIGINT_OID)
        formats[-1] = Format.BINARY
    return InlineStep(compiled.sql, params, types, formats, values.get(OFFSET, 0), compiled.offset_at)


@dataclass(frozen=True, slots=True)
class Compiled:
    """SQL with `$1` placeholders, and which value each of them is."""

    sql: bytes
    names: tuple[str, ...]

    @property
    def offset_at(self) -> int | None:
        """The index of the value that says how far the event is from the head."""
        return len(self.names) - 1 if OFFSET in self.names else None

    def values(self, given: Params) -> list[Any]:
        """The values in the placeholders' order. Raises KeyError for one that isn't given."""
        return [adaptable(given[name] if name != OFFSET else given.get(OFFSET, 0)) for name in self.names]


@lru_cache(maxsize=4096)
def compiled_sql(sql: str) -> Compiled:
    """`%(name)s` to `$1`; position and time to what this transaction's own update has just put into `log_head`."""
    sql = PLACEHOLDER.sub(lambda match: _SUBSELECTS.get(match[1], match[0]), sql)
    found = dict.fromkeys(match[1] for match in PLACEHOLDER.finditer(sql) if match[1] and match[1] != OFFSET)
    names = (*found, OFFSET) if f"%({OFFSET})s" in sql else tuple(found)
    numbers = {name: number for number, name in enumerate(names, start=1)}

    def placeholder(match: re.Match[str]) -> str:
        if match[2]:
            return "%"
        if not match[1]:
            raise ValueError(f"a lone % in SQL is written %%: {sql}")
        return f"${numbers[match[1]]}"

    return Compiled(PLACEHOLDER.sub(placeholder, sql).encode(), names)


def _of_run(sql: str) -> Compiled:
    """Raises ValueError for values that each event, or each save, has for itself."""
    compiled = compiled_sql(sql)
    if others := set(compiled.names) - {EVENTS, METADATAS}:
        raise ValueError(f"SQL for many events has no %({min(others)})s: {sql}")
    return compiled


def adaptable(value: Any) -> Any:
    """A field's value as psycopg takes it: dicts as JSON, tuples and sets as arrays."""
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return Jsonb(value) if isinstance(value, dict) else value


_local = threading.local()


def _transformer() -> Any:
    """One per thread: it isn't safe to share."""
    try:
        return _local.transformer
    except AttributeError:
        _local.transformer = Transformer()
        return _local.transformer


def actor_of(metadata: bytes) -> str:
    """The actor in an event's metadata; "" if there is none."""
    actor = orjson.loads(metadata).get("actor", "")
    return actor if isinstance(actor, str) else ""


class InlineTables:
    """All inline tables of the platform, looked up by type of event."""

    def __init__(self, tables: Iterable[Inline] = ()) -> None:
        self._statements: dict[type, list[str]] = {}
        self._of_runs: dict[type, list[Compiled]] = {}
        self._announcers: dict[type, list[Callable[[Any], str]]] = {}
        for table in tables:
            for kind, sql in table.on.items():
                for statement in [sql] if isinstance(sql, str) else sql:
                    if f"%({EVENTS})s" in statement:
                        self._of_runs.setdefault(kind, []).append(_of_run(statement))
                    else:
                        self._statements.setdefault(kind, []).append(statement)
            for kind, announce in table.announces.items():
                self._announcers.setdefault(kind, []).append(announce)

    def steps(self, events: Sequence[Event], rows: Sequence[StoredEvent], metadata: bytes) -> list[InlineStep]:
        """What the commit of these events, whose rows are given, writes into inline tables, in the events' order."""
        found: list[InlineStep] = []
        end = 0
        for kind, run in groupby(events, type):
            start, end = end, end + len(list(run))
            if statements := self._statements.get(kind):
                given = {"actor": actor_of(metadata), "metadata": metadata.decode()}
                found += [
                    inline_step((sql, self._params(events[number], given, len(events) - number - 1)))
                    for number in range(start, end)
                    for sql in statements
                ]
            if run_statements := self._of_runs.get(kind):
                values = {EVENTS: _element(as_json(rows[start:end])), METADATAS: _element(_JSONB_VERSION + metadata)}
                found += [
                    RunStep(each.sql, [values[name] for name in each.names], names=each.names)
                    for each in run_statements
                ]
        return found

    def announcements(self, events: Sequence[Event]) -> list[str]:
        """What the commit of these events announces."""
        if not self._announcers:
            return []
        return [announce(event) for event in events for announce in self._announcers.get(type(event), ())]

    @staticmethod
    def _params(event: Event, given: Params, events_after: int) -> dict[str, Any]:
        stream: UUID = event.originator_id
        return {
            **own_fields(event),
            **given,
            "stream": stream,
            "version": event.originator_version,
            "event_id": f"{stream}:{event.originator_version}",
            OFFSET: events_after,
        }
