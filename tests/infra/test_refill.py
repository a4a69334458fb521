"""Inline tables that are filled anew are those that the commits had written."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.aggregate import Aggregate, derived_id
from domain.identity import Session, User
from infra.event_store import Log
from infra.inline import Inline
from infra.refill import refill, refill_in_place, refill_one_by_one
from projections.identity import SESSIONS


class Cargo(Aggregate):
    TOPIC = "refill.Cargo"

    class Loaded(Aggregate.Event):
        TOPIC = "refill.CargoLoaded"
        name: str
        tons: int
        tags: list[str]
        note: dict[str, Any] | None
        owner: UUID | None


CARGO = Inline(
    name="cargo",
    on={
        Cargo.Loaded: (
            (
                "insert into cargo (id, version, event_id, position, recorded_at, actor, name, tons, tags, note, owner)"
                " values (%(stream)s, %(version)s, %(event_id)s, %(position)s, %(recorded_at)s, %(actor)s, %(name)s,"
                " %(tons)s, %(tags)s, %(note)s, %(owner)s)"
            ),
            "update cargo set name = name || ' 100%%' where id = %(stream)s and version = %(version)s",
        )
    },
    tables=("cargo",),
)
MANIFEST = Inline(
    name="manifest",
    on={
        Cargo.Loaded: "insert into manifest select e.stream, e.version, e.name, e.tons, e.note, e.owner,"
        " %(recorded_at)s, saved.metadata ->> 'actor'"
        " from unnest(%(events)s::json[], %(metadatas)s::jsonb[]) as saved (events, metadata),"
        " json_to_recordset(saved.events)"
        " as e (stream uuid, version bigint, name text, tons integer, note jsonb, owner uuid)"
    },
    tables=("manifest",),
)
TABLE = """
    create table manifest (id uuid, version bigint, name text, tons integer, note jsonb, owner uuid,
                           recorded_at timestamptz, actor text);
    create table cargo (id uuid, version bigint, event_id text, position bigint, recorded_at timestamptz, actor text,
                        name text, tons integer, tags text[], note jsonb, owner uuid)
"""
TABLES = ("sessions", "session_floors", "cargo", "manifest")
INLINE = (SESSIONS, CARGO, MANIFEST)

streams = st.sampled_from([derived_id("ship", name) for name in "abc"])
words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8)
cargoes = st.builds(
    lambda stream, **fields: (Cargo.Loaded, stream, fields),
    streams,
    name=words,
    tons=st.integers(-(2**31), 2**31 - 1),
    tags=st.lists(words, max_size=3),
    note=st.none() | st.dictionaries(words, st.integers(0, 9) | words, max_size=2),
    owner=st.none() | st.uuids(),
)
users = st.builds(lambda stream: (User.Suspended, stream, {"reason": "it's 100%"}), streams)
sessions = st.builds(
    lambda user, ended: (Session.Opened, uuid4(), {"user_id": user, "token_hash": "x", "ended": ended}),
    streams,
    st.booleans(),
)
pasts = st.lists(cargoes | users | sessions, max_size=25)


@pytest.fixture
def log(database: str):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
    log = Log(database, inline=INLINE)
    yield log
    log.close()


@pytest.fixture
def connection(database: str, log: Log):
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def event(kind: type[Any], stream: UUID, version: int, **fields: Any) -> Any:
    return kind(
        originator_id=stream, originator_version=version, timestamp=Aggregate.Event.create_timestamp(), **fields
    )


def live(log: Log, past: list[tuple[type[Any], UUID, dict[str, Any]]], together: int = 1) -> None:
    """The past as commits write it, with so many events in one."""
    versions: dict[UUID, int] = {}
    events = []
    for kind, stream, fields in past:
        versions[stream] = versions.get(stream, 0) + 1
        ended = fields.pop("ended", False)
        first = {"originator_topic": Session.TOPIC} if kind is Session.Opened else {}
        events.append(event(kind, stream, versions[stream], **fields, **first))
        if ended:
            events.append(event(Session.Ended, stream, 2, user_id=fields["user_id"], reason="logout"))
    for start in range(0, len(events), together):
        log.save_events(events[start : start + together], metadata=b'{"actor":"operator:ada"}')


def contents(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    return {name: sorted(connection.execute(f"select {name}::text from {name}").fetchall()) for name in TABLES}


@given(past=pasts, together=st.integers(1, 6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_come_to_what_the_commits_had_written(log, connection, past, together) -> None:
    connection.execute(f"truncate stored_events, {', '.join(TABLES)}")
    live(log, past, together)
    written = contents(connection)

    for way in (refill_in_place, lambda c, tables: refill_one_by_one(c, log.mapper, tables)):
        with connection.transaction():
            connection.execute(f"truncate {', '.join(TABLES)}")
            way(connection, INLINE)
        assert contents(connection) == written


def test_what_the_log_doesnt_tell_is_left_alone(log, connection) -> None:
    live(log, [(User.Suspended, derived_id("ship", "a"), {"reason": "late"})])
    unfinished = Inline("unfinished", {User.Suspended: "insert into cargo (id) values (%(stream)s)"})

    with connection.transaction():
        refill(connection, log.mapper, (SESSIONS, unfinished))

    assert contents(connection)["cargo"] == []
    assert len(contents(connection)["session_floors"]) == 1


def test_what_stood_there_before_is_gone(log, connection) -> None:
    connection.execute("insert into sessions values (gen_random_uuid(), gen_random_uuid(), 7, null)")

    refill(connection, log.mapper, INLINE)

    assert contents(connection)["sessions"] == []
