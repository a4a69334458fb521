"""Inline SQL for many events: run once for those of all saves that stand beside each other in a commit."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest

from domain.aggregate import Aggregate
from infra.append import attempt
from infra.event_store import Log
from infra.inline import Inline, InlineTables
from infra.recorder import InlineRefused
from infra.save import Limits, Save


class Ferry(Aggregate):
    TOPIC = "runs.Ferry"

    class Boarded(Aggregate.Event):
        TOPIC = "runs.FerryBoarded"
        name: str

    class Left(Aggregate.Event):
        TOPIC = "runs.FerryLeft"


BOARD = """
    insert into passengers (ferry, version, name, actor, at)
    select e.stream, e.version, e.name, saved.metadata ->> 'actor', %(recorded_at)s
      from unnest(%(events)s::json[], %(metadatas)s::jsonb[]) as saved (events, metadata),
           json_to_recordset(saved.events) as e (stream uuid, version bigint, name text)
"""
PASSENGERS = Inline(
    "passengers",
    on={Ferry.Boarded: BOARD, Ferry.Left: "update passengers set position = %(position)s where ferry = %(stream)s"},
    tables=("passengers",),
)
TABLE = """
    create table passengers (ferry uuid, version bigint, name text check (name <> 'stowaway'), actor text,
                             at timestamptz, position bigint)
"""


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    with psycopg.connect(database) as connection:
        connection.execute(TABLE)
    log = Log(database, inline=[PASSENGERS])
    yield log
    log.close()


def event(kind: Any, ferry: UUID, version: int, **fields: Any) -> Any:
    return kind(originator_id=ferry, originator_version=version, timestamp=kind.create_timestamp(), **fields)


def boarded(ferry: UUID, *names: str) -> list[Any]:
    return [event(Ferry.Boarded, ferry, version, name=name) for version, name in enumerate(names, 1)]


def a_save(log: Log, events: list[Any]) -> Save:
    rows = [log.mapper.to_stored_event(each) for each in events]
    return Save(rows, b"{}", inline=InlineTables([PASSENGERS]).steps(events, rows, b"{}"))


def inline_sql(saves: list[Save]) -> list[str]:
    """What of the transaction writes the table."""
    found = [step.sql.decode() for step in attempt(saves, Limits()).steps]
    return [sql.split()[0] for sql in found if "passengers" in sql]


def test_those_of_saves_beside_each_other_are_one_statement(log):
    saves = [a_save(log, boarded(uuid4(), "Ada", "Grace")) for _ in range(5)]
    assert inline_sql(saves) == ["insert"]


def test_their_order_among_others_stays(log):
    ferry = uuid4()
    leaving = a_save(log, [event(Ferry.Left, ferry, 2)])
    saves = [a_save(log, boarded(uuid4(), "Ada")), leaving, *(a_save(log, boarded(uuid4(), "Ada")) for _ in range(2))]
    assert inline_sql(saves) == ["insert", "update", "insert"]


def test_each_save_keeps_its_own_metadata(log, database):
    ferries = {uuid4(): f"user:{number}" for number in range(40)}

    def board(ferry: UUID, actor: str) -> None:
        log.save_events(boarded(ferry, "Ada", "Grâce"), metadata=orjson.dumps({"actor": actor}))

    in_threads([lambda f=ferry, a=actor: board(f, a) for ferry, actor in ferries.items()])

    with psycopg.connect(database) as connection:
        rows = connection.execute("select ferry, version, name, actor, at from passengers").fetchall()
    times = {each.stream: each.recorded_at for each in log.read(0, 100)}
    assert sorted(rows) == sorted(
        (ferry, version, name, actor, times[ferry])
        for ferry, actor in ferries.items() for version, name in ((1, "Ada"), (2, "Grâce"))
    )  # fmt: skip


def test_only_the_save_that_is_refused_is_refused(log, database):
    refused: list[UUID] = []
    ferries = {uuid4(): "stowaway" if number % 4 == 0 else "Ada" for number in range(40)}

    def board(ferry: UUID, name: str) -> None:
        try:
            log.save_events(boarded(ferry, "Grace", name), metadata=b"{}")
        except InlineRefused:
            refused.append(ferry)

    in_threads([lambda f=ferry, n=name: board(f, n) for ferry, name in ferries.items()])

    assert set(refused) == {ferry for ferry, name in ferries.items() if name == "stowaway"}
    assert log.head() == 2 * 30
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*), count(distinct ferry) from passengers").fetchone() == (60, 30)


def test_an_event_after_them_in_the_same_save_sees_what_they_wrote(log, database):
    ferry = uuid4()
    log.save_events([*boarded(ferry, "Ada", "Grace"), event(Ferry.Left, ferry, 3)], metadata=b"{}")
    with psycopg.connect(database) as connection:
        assert connection.execute("select distinct position from passengers").fetchall() == [(3,)]


@pytest.mark.parametrize("name", ["position", "actor", "stream", "name"])
def test_values_that_each_event_has_for_itself_are_refused(name):
    sql = f"insert into passengers select %({name})s from unnest(%(events)s::json[])"
    with pytest.raises(ValueError, match="for many events"):
        InlineTables([Inline("passengers", on={Ferry.Boarded: sql})])


def in_threads(tasks: list[Any]) -> None:
    gate = threading.Barrier(len(tasks))

    def run(task: Any) -> None:
        gate.wait(10)
        task()

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
