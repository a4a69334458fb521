"""The views for SQL tools say what they may, never fail on a value, and their readers can see nothing else."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.domain import event
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from domain.access import Role, UserAssignments
from domain.aggregate import Aggregate, First, Personal, Secret
from domain.audit import Entry
from domain.identity import LoginAttempts, User
from domain.projections import Skip
from infra.analytics import readers
from infra.analytics.readers import NotAReader
from infra.analytics.schema import NoAnalytics, is_current, refresh
from infra.analytics.views import SCHEMAS, WrongName, views
from infra.event_store import Log, Metadata

METADATA = Metadata(actor="user:ada", correlation_id="c-1", ip="192.0.2.7", user_agent="Engine").to_bytes()
TYPES = {
    each.TOPIC: each
    for each in (User.Registered, Entry.Recorded, UserAssignments.RoleAssigned, Role.Defined, Skip.EventSkipped,
                 LoginAttempts.Failed)
}  # fmt: skip


class Kettle(Aggregate):
    """What the tests boil. Its topic isn't among the recorded ones."""

    TOPIC = "tearoom.Kettle"

    class Boiled(First):
        TOPIC = "tearoom.KettleBoiled"
        litres: float
        degrees: int
        whistles: bool
        notes: list[str]
        by: Personal[str | None]
        recipe: Secret[str]
        until: datetime | None

    @event(Boiled)
    def __init__(
        self,
        litres: float,
        degrees: int,
        whistles: bool,
        notes: list[str],
        by: str | None,
        recipe: str,
        until: datetime | None,
    ) -> None: ...


ALL = TYPES | {Kettle.Boiled.TOPIC: Kettle.Boiled}


@pytest.fixture
def owner(database: str) -> Iterator[Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        refresh(connection, ALL)
        yield connection


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    opened = Log(database)
    yield opened
    opened.close()


@pytest.fixture
def reader(owner: Connection[Any], database: str) -> Iterator[Callable[..., str]]:
    """Makes readers: how each connects. Roles are the whole server's, so they go away in the end."""
    made: list[str] = []

    def make(*, personal: bool = False) -> str:
        made.append(f"reader_{uuid4().hex[:12]}")
        readers.create(owner, made[-1], "a-long-password")
        readers.grant(owner, made[-1], personal=personal)
        return make_conninfo(database, user=made[-1])

    yield make
    for role in made:
        owner.execute(f"drop owned by {role}")
        owner.execute(f"drop role {role}")


def rows(connection: Connection[Any], sql: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.encode()).fetchall()


def stored(connection: Connection[Any], topic: str, state: bytes) -> None:
    """As nobody but a mistake would store it."""
    connection.execute(
        "with moved as (update log_head set position = position + 1 returning position)"
        " insert into stored_events select %s, 1, %s, %s, position, clock_timestamp(), %s from moved",
        (uuid4(), topic, state, METADATA),
    )


def test_a_type_has_a_view_with_a_typed_column_per_field(owner, log):
    until = datetime(2026, 2, 28, 12, 30, tzinfo=UTC)
    log.save_work([Kettle(1.5, 100, True, ["hot", "loud"], "ada", "the-secret-recipe", until)], metadata=METADATA)
    (row,) = rows(owner, "select * from analytics.tearoom_kettle_boiled")
    assert {name: row[name] for name in ("litres", "degrees", "whistles", "notes", "until")} == {
        "litres": 1.5, "degrees": 100, "whistles": True, "notes": ["hot", "loud"], "until": until,
    }  # fmt: skip
    assert (row["position"], row["version"], row["actor"], row["correlation_id"]) == (1, 1, "user:ada", "c-1")
    assert {"recipe", "by", "ip", "user_agent"} & row.keys() == set()


def test_personal_fields_stand_in_a_schema_of_their_own_and_secrets_nowhere(owner, log):
    log.save_work([User("ada@example.org", "Ada", "a-hash")], metadata=METADATA)
    log.save_work([Kettle(1, 1, False, [], "ada", "the-secret-recipe", None)], metadata=METADATA)
    plain = repr([rows(owner, f"select * from analytics.{name}") for name in ("events", "identity_user_registered")])
    personal = repr(
        [
            rows(owner, f"select * from analytics_personal.{name}")
            for name in ("events", "identity_user_registered", "tearoom_kettle_boiled")
        ]
    )
    for shown in ("ada@example.org", "192.0.2.7"):
        assert shown not in plain
        assert shown in personal
    for secret in ("a-hash", "the-secret-recipe"):
        assert secret not in plain + personal


def test_events_has_every_event_with_its_body(owner, log):
    log.save_work([Entry("tea.poured", "cup", "success", {"sugar": 2}, None)], metadata=METADATA)
    (row,) = rows(owner, "select type, body, class_version from analytics.events")
    assert row == {
        "type": "audit.EntryRecorded",
        "body": {"action": "tea.poured", "target": "cup", "outcome": "success", "detail": {"sugar": 2}},
        "class_version": 1,
    }


def test_what_is_not_declared_is_not_shown(owner):
    stored(owner, Entry.Recorded.TOPIC, b'{"action": "a", "once_a_secret": "x"}')
    stored(owner, "identity.NewerThanWeAre", b'{"password": "x"}')
    first, second = rows(owner, "select * from analytics.events order by position")
    assert first["body"] == {"action": "a"}
    assert second["body"] is None or second["body"] == {}
    assert second["type"] == "identity.NewerThanWeAre"


@pytest.mark.parametrize(
    "state",
    [
        b'{"litres": "much", "degrees": 1e99, "whistles": "loud", "notes": {"a": 1}, "until": "tomorrow", "by": 7}',
        b'{"litres": 1e999, "degrees": 99999999999999999999, "whistles": 1, "notes": [null, 1, {"b": 2}], "until": 3}',
        b'{"litres": null, "degrees": null, "notes": null, "until": "2026-01-01T00:00:00+23:59"}',
        rb'{"by": "\u0000", "notes": ["\u0000\u0000", "\\u0000", "\\\u0000"], "until": "2026-01-01 00:00"}',
        b"{}",
    ],
)
def test_no_value_makes_a_view_fail(owner, state):
    stored(owner, Kettle.Boiled.TOPIC, state)
    for schema in SCHEMAS:
        for name in ("events", "tearoom_kettle_boiled"):
            assert len(rows(owner, f"select * from {schema}.{name}")) == 1


def test_zero_characters_are_replaced_and_nothing_else_is(owner):
    stored(owner, Entry.Recorded.TOPIC, rb'{"action": "a\u0000\u0000b", "target": "\\u0000 \\\u0000 \\\\u0000 \u0001"}')
    (row,) = rows(owner, "select action, target from analytics.audit_entry_recorded")
    assert row == {"action": "a\ufffd\ufffdb", "target": "\\u0000 \\\ufffd \\\\u0000 \x01"}


def test_times_are_read_with_every_offset_that_python_writes(owner):
    for offset in ("Z", "+00:00", "-23:59", "+23:59", "+05:30"):
        stored(owner, Kettle.Boiled.TOPIC, json.dumps({"until": f"2026-01-31T23:59:59.123456{offset}"}).encode())
    found = [row["until"] for row in rows(owner, "select until from analytics.tearoom_kettle_boiled order by position")]
    expected = [f"2026-01-31T23:59:59.123456{offset}" for offset in ("+00:00", "+00:00", "-23:59", "+23:59", "+05:30")]
    assert found == [datetime.fromisoformat(text) for text in expected]


def test_a_field_named_as_a_column_that_every_view_has_keeps_its_value(owner, log):
    log.save_work([Skip("access", 4711, "broken")], metadata=METADATA)
    (row,) = rows(owner, "select position, body_position, reason from analytics.projections_event_skipped")
    assert row == {"position": 1, "body_position": 4711, "reason": "broken"}


def test_views_are_made_only_when_they_have_changed(database):
    with psycopg.connect(database, autocommit=True) as connection:
        assert refresh(connection, TYPES).state == "made"
        assert refresh(connection, TYPES).state == "unchanged"
        added = refresh(connection, ALL)
        assert {name.partition(".")[2] for name in added.changed} == {"events", "tearoom_kettle_boiled"}
        assert is_current(connection, ALL)


def test_an_older_release_leaves_the_views_of_a_newer_one_alone(owner):
    assert refresh(owner, TYPES).state == "newer"
    assert is_current(owner, ALL)


def test_readers_see_the_views_that_a_later_release_brings(database, reader):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop schema analytics cascade; drop schema analytics_personal cascade")
        refresh(connection, TYPES)
        address = reader()
        connection.execute("comment on schema analytics is null")
        connection.execute("drop view analytics.events")
        refresh(connection, ALL)
    with psycopg.connect(address) as reading:
        assert rows(reading, "select count(*) as events from analytics.tearoom_kettle_boiled") == [{"events": 0}]


def test_a_view_that_something_depends_on_is_named(owner):
    owner.execute("create view public.mine as select * from analytics.tearoom_kettle_boiled")
    owner.execute("comment on schema analytics is null")
    with pytest.raises(NoAnalytics, match="mine"):
        refresh(owner, ALL)
    assert rows(owner, "select * from analytics.tearoom_kettle_boiled") == []


def test_who_may_not_make_a_schema_is_told_what_its_owner_has_to_run(database, owner):
    role = f"poor_{uuid4().hex[:12]}"
    owner.execute(f"create role {role} login")
    owner.execute("drop schema analytics cascade; drop schema analytics_personal cascade")
    try:
        with psycopg.connect(make_conninfo(database, user=role), autocommit=True) as connection:
            with pytest.raises(NoAnalytics, match=f'create schema analytics authorization "{role}"'):
                refresh(connection, ALL)
            with pytest.raises(NotAReader, match="may not create roles"):
                readers.create(connection, f"other_{role}", "a-long-password")
    finally:
        owner.execute(f"drop role {role}")


def test_event_types_that_would_have_one_view_are_refused():
    with pytest.raises(WrongName):
        views({"tea.CupPoured": Entry.Recorded, "tea.Cup_Poured": Entry.Recorded})


REFUSALS = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.FeatureNotSupported,
)
FORBIDDEN = [
    "select * from public.stored_events",
    "select state from public.stored_events limit 1",
    "select metadata from public.stored_events",
    "select * from public.sessions",
    "select * from public.receipts",
    "select * from public.log_head",
    "select * from analytics_personal.events",
    "select * from analytics_personal.identity_user_registered",
    "select * from pg_authid",
    "select * from pg_statistic",
    "select pg_read_file('postgresql.conf')",
    "select lo_import('/etc/passwd')",
    "copy (select 1) to program 'cat'",
    "copy public.stored_events to stdout",
    "create table public.mine (x int)",
    "create table analytics.mine (x int)",
    "create view analytics.mine as select 1",
    "create or replace function analytics.document(stored bytea) returns jsonb language sql as 'select null::jsonb'",
    "drop view analytics.events",
    "insert into analytics.audit_entry_recorded (position) values (1)",
    "delete from public.stored_events",
    "update log_head set position = 0",
    "alter role current_user superuser",
    "create role friend",
    "select public.muniment_move_reaction('a', 0, '*', 0, 0, 1)",
    "do $$ begin lock table public.stored_events; end $$",
    "truncate public.stored_events",
]


def is_refused(connection: Connection[Any], sql: str) -> bool:
    try:
        connection.execute(sql.encode())
    except REFUSALS:
        return True
    return False


def test_a_reader_can_do_nothing_but_read_the_views(reader, log):
    log.save_work([User("ada@example.org", "Ada", "a-hash")], metadata=METADATA)
    with psycopg.connect(reader(), autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        allowed = [sql for sql in FORBIDDEN if not is_refused(connection, sql)]
    assert allowed == []


def test_a_reader_cannot_become_somebody_else(reader, owner):
    platform = owner.execute("select current_user").fetchone()[0]
    with psycopg.connect(reader(), autocommit=True) as connection:
        for statement in (f"set role {platform}", f"set session authorization {platform}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_a_function_that_tells_everything_it_sees_is_told_no_secret(reader, log):
    """Without a security barrier PostgreSQL may call it for rows, and with values, that the view leaves out."""
    log.save_work([User("ada@example.org", "Ada", "a-hash")], metadata=METADATA)
    seen: list[str] = []
    with psycopg.connect(reader(), autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
        connection.execute("set default_transaction_read_only = off")
        connection.execute(
            "create function pg_temp.tell(anyelement) returns boolean language plpgsql cost 0.0000001 as"
            " $$ begin raise notice 'saw %', $1; return true; end $$"
        )
        connection.execute("select * from analytics.events e where pg_temp.tell(e.*)")
        connection.execute("select * from analytics.identity_user_registered e where pg_temp.tell(e.*)")
    assert len(seen) >= 2
    assert not any(secret in "".join(seen) for secret in ("a-hash", "ada@example.org", "192.0.2.7"))


def test_statistics_and_catalogues_tell_a_reader_no_value(reader, owner, log):
    log.save_work([User(f"ada{n}@example.org", "Ada", "a-hash") for n in range(50)], metadata=METADATA)
    owner.execute("analyze public.stored_events")
    with psycopg.connect(reader(), autocommit=True) as connection:
        assert (
            rows(connection, "select * from pg_stats where schemaname not in ('pg_catalog', 'information_schema')")
            == []
        )
        assert rows(connection, "select * from information_schema.tables where table_schema = 'public'") == []
        assert (
            rows(
                connection,
                "select query from pg_stat_activity where usename <> current_user"
                " and query not in ('', '<insufficient privilege>')",
            )
            == []
        )
        bodies = repr(rows(connection, "select prosrc from pg_proc")) + repr(
            rows(connection, "select definition from pg_views")
        )
        assert "a-hash" not in bodies


def test_a_reader_with_personal_fields_sees_them_and_loses_them_again(reader, owner, log, database):
    log.save_work([User("ada@example.org", "Ada", "a-hash")], metadata=METADATA)
    address = reader(personal=True)
    role = readers.readers(owner)[-1].role
    query = "select email from analytics_personal.identity_user_registered"
    with psycopg.connect(address, autocommit=True) as connection:
        assert rows(connection, query) == [{"email": "ada@example.org"}]
        readers.grant(owner, role, personal=False)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(connection, query)
        assert rows(connection, "select count(*) as n from events") == [{"n": 1}]
        readers.revoke(owner, role)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(connection, "select * from analytics.events")
    assert role not in [each.role for each in readers.readers(owner)]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("alter role {role} superuser", "may do more"),
        ("alter role {role} createrole", "may do more"),
        ("alter role {role} replication", "may do more"),
        ("grant pg_read_all_data to {role}", "pg_read_all_data"),
        ("grant pg_monitor to {role}", "pg_monitor"),
        ("grant {owner} to {role}", "may do more"),
        ("grant select on public.stored_events to {role}", "public.stored_events"),
        ("grant select (state) on public.stored_events to {role}", "public.stored_events"),
        ("grant insert on public.sessions to {role}", "public.sessions"),
    ],
)
def test_a_role_that_may_do_more_is_not_made_a_reader(owner, more, why):
    role, us = f"strong_{uuid4().hex[:12]}", owner.execute("select current_user").fetchone()[0]
    owner.execute(f"create role {role} login")
    try:
        owner.execute(more.format(role=role, owner=us))
        with pytest.raises(NotAReader, match=why):
            readers.grant(owner, role, personal=False)
        assert readers.readers(owner) == []
    finally:
        owner.execute(f"drop owned by {role}")
        owner.execute(f"drop role {role}")


def test_a_reader_that_was_created_here_is_bounded_and_its_password_is_not_kept(owner, reader):
    address = reader()
    role = readers.readers(owner)[-1].role
    (kept,) = rows(owner, f"select rolpassword, rolconnlimit from pg_authid where rolname = '{role}'")
    assert kept["rolpassword"].startswith("SCRAM-SHA-256$")
    assert kept["rolconnlimit"] == readers.CONNECTIONS
    with psycopg.connect(address, autocommit=True) as connection:
        shown = rows(
            connection, "select current_setting('statement_timeout') as t, current_setting('search_path') as p"
        )
        assert shown == [{"t": "5min", "p": "analytics"}]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("create temporary table mine (x int)")
