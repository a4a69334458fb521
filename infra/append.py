"""The commit as SQL: one statement moves the head, appends the events of a group and notifies."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from uuid import UUID

import orjson
from psycopg.pq.abc import PGresult

from infra.inline import EVENTS, METADATAS, RunStep
from infra.save import Limits, Save
from infra.wire import BINARY, COMMIT, Step

CHANNEL = "muniment_log"
MAX_ANNOUNCEMENT_BYTES = 7_800
"""PostgreSQL refuses a payload of 8,000 bytes, and the head goes with it."""
ALL = b'["*"]'

APPEND = b"""
with head as (
    update log_head
       set position = position + $1::bigint, recorded_at = greatest(recorded_at, clock_timestamp())
     where only_row
    returning position, recorded_at
), appended as (
    insert into stored_events
           (originator_id, originator_version, topic, state, metadata, notification_id, recorded_at)
    select e.originator_id, e.originator_version, e.topic, e.state, e.metadata,
           head.position - $1::bigint + e.ordinality, head.recorded_at
      from head, unnest($2::uuid[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[])
           with ordinality as e (originator_id, originator_version, topic, state, metadata, ordinality)
)
select position, recorded_at,
       pg_notify('muniment_log', '{"head": ' || position || ', "announce": ' || $7::text || '}')
  from head
"""
LOCK_HEAD = Step(b"select position from log_head where only_row for update")
EXISTING = b"""
select e.originator_id, e.originator_version
  from unnest($1::uuid[], $2::bigint[]) as e (originator_id, originator_version)
 where exists (select from stored_events s
                where s.originator_id = e.originator_id and s.originator_version = e.originator_version)
"""
NEWEST = b"""
select g.originator_id,
       coalesce((select s.originator_version from stored_events s where s.originator_id = g.originator_id
                  order by s.originator_version desc limit 1), 0)
  from unnest($1::uuid[]) as g (originator_id)
"""

_UUID_OID, _BIGINT_OID, _TEXT_OID, _BYTEA_OID, _JSON_OID, _JSONB_OID = 2950, 20, 25, 17, 114, 3802
_RUN_OIDS = {EVENTS: _JSON_OID, METADATAS: _JSONB_OID}
_APPEND_FORMATS = (BINARY,) * 6 + (0,)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_header = Struct(">iiiii").pack
_bigint = Struct(">q").pack
_read_bigint = Struct(">q").unpack
_element_id = Struct(">i16s").pack
_element_version = Struct(">iq").pack


@dataclass(slots=True)
class Attempt:
    """One transaction: its steps, the first of which appends, and for each inline step whose it is."""

    steps: list[Step]
    owners: dict[int, list[Save]]


def attempt(saves: Sequence[Save], limits: Limits, *, begun: bool = False) -> Attempt:
    """The steps that commit these saves; `begun`: the transaction is open already.

    Else none is opened: what is sent in one pipeline is one transaction (PostgreSQL documentation, 55.2.4), and so
    two answers fewer have to be read.
    """
    steps = [append_step(saves)]
    inline = list(_inline(saves))
    owners = {number: whose for number, (_, whose) in enumerate(inline, start=2)}
    if inline:
        # After the head was taken: waiting for another process's commit may take longer than waiting for a row.
        steps.append(Step(b"set local lock_timeout = %d" % limits.inline_lock_milliseconds))
        steps += [step for step, _ in inline]
        # PostgreSQL notifies one commit after the other, over all databases: the wait for that is nobody's fault here.
        steps.append(Step(b"set local lock_timeout = %d" % round(limits.head_lock_seconds * 1000)))
    if begun:
        steps.append(COMMIT)
    return Attempt(steps, owners)


def _inline(saves: Sequence[Save]) -> Iterator[tuple[Step, list[Save]]]:
    """The inline steps in their order, and whose they are; runs of the same that stand together are one."""
    run: list[tuple[RunStep, Save]] = []
    behind = sum(len(save.events) for save in saves)
    for save in saves:
        behind -= len(save.events)
        for step in save.inline:
            if run and not (isinstance(step, RunStep) and step.sql == run[0][0].sql):
                yield _together(run)
                run = []
            if isinstance(step, RunStep):
                run.append((step, save))
            else:
                step.place(behind)
                yield step, [save]
    if run:
        yield _together(run)


def _together(run: Sequence[tuple[RunStep, Save]]) -> tuple[Step, list[Save]]:
    steps = [step for step, _ in run]
    columns = zip(*[step.params for step in steps], strict=True)
    params = [array(_RUN_OIDS[name], len(run), column) for name, column in zip(steps[0].names, columns, strict=True)]
    return Step(steps[0].sql, params, (), (BINARY,) * len(params)), [save for _, save in run]


def append_step(saves: Sequence[Save]) -> Step:
    """The one statement, with the events of all saves in order."""
    count = sum([len(save.events) for save in saves])
    ids, versions, topics, states, metadata = zip(*[save.columns for save in saves], strict=True)
    params = [
        _bigint(count),
        array(_UUID_OID, count, ids),
        array(_BIGINT_OID, count, versions),
        array(_TEXT_OID, count, topics),
        array(_BYTEA_OID, count, states),
        array(_BYTEA_OID, count, metadata),
        announcement(saves),
    ]
    return Step(APPEND, params, (), _APPEND_FORMATS)


def array(element_oid: int, count: int, elements: Iterable[bytes]) -> bytes:
    """A one-dimensional array in binary (PostgreSQL's array_send); the elements carry their lengths."""
    return _header(1, 0, element_oid, count, 1) + b"".join(elements)


def announcement(saves: Sequence[Save]) -> bytes:
    """What the commit tells every process: a JSON list, or `["*"]` (forget everything) if that would be too long."""
    words = [word for save in saves for word in save.announcements]
    if not words:
        return b"[]"
    encoded = orjson.dumps(list(dict.fromkeys(words)))
    return encoded if len(encoded) <= MAX_ANNOUNCEMENT_BYTES else ALL


def existing_step(saves: Sequence[Save]) -> Step:
    """Which (stream, version) pairs of these saves are recorded already."""
    return Step(EXISTING, pair_arrays([pair for save in saves for pair in save.pairs]), (), (BINARY, BINARY))


def newest_step(streams: Sequence[UUID]) -> Step:
    """The newest version of each stream; 0 for an empty one."""
    return Step(NEWEST, [id_array(streams)], (), (BINARY,))


def pair_arrays(pairs: Sequence[tuple[UUID, int]]) -> list[bytes]:
    """Streams and versions, as two arrays."""
    versions = [_element_version(8, version) for _, version in pairs]
    return [id_array([stream for stream, _ in pairs]), array(_BIGINT_OID, len(pairs), versions)]


def id_array(ids: Sequence[UUID]) -> bytes:
    """An array of ids."""
    return array(_UUID_OID, len(ids), [_element_id(16, id_.bytes) for id_ in ids])


def bytes_array(values: Sequence[bytes]) -> bytes:
    """An array of bytes."""
    return array(_BYTEA_OID, len(values), [len(value).to_bytes(4) + value for value in values])


def read_pairs(result: PGresult) -> list[tuple[UUID, int]]:
    """Rows of (id, integer)."""
    return [
        (UUID(bytes=result.get_value(row, 0)), read_bigint(result.get_value(row, 1))) for row in range(result.ntuples)
    ]


def read_bigint(value: bytes | None) -> int:
    """A binary bigint."""
    number: int = _read_bigint(value or b"")[0]
    return number


def read_time(value: bytes | None) -> datetime:
    """A binary timestamptz: microseconds since 2000."""
    return _POSTGRES_EPOCH + timedelta(microseconds=read_bigint(value))
