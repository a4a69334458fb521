"""A question about the past takes as long in a long history as in a short one: no table is read from end to end."""

import re
from collections.abc import Iterator

import pytest

from infra.moments import POSITION_AT_TIME, RECORDED_AT
from projections.access import ACCESS
from projections.access.reader import STATEMENTS
from tests.access_world import World, world_of

PARAMETERS = {"user": "$1::uuid", "build": "$2::int", "time": "$3::timestamptz", "position": "$4::bigint"}
FILL = (
    "{assignments} select gen_random_uuid(), 'r' || n % 500, '/', null, n, now(), 'x', null, null, null",
    "{permissions} select 'r' || n % 500, 'p' || n || ':read', n, now(), 'x', n + 1, now(), 'x'",
    "{includes} select 'r' || n % 500, 'r' || n, n, now(), 'x', n + 1, now(), 'x'",
    "{suspensions} select gen_random_uuid(), n, now(), 'x'",
    "{roles} select 'r' || n, false, 1, n, now(), 'x'",
)


@pytest.fixture
def world(database: str) -> Iterator[World]:
    with world_of(database) as world:
        for sql in FILL:
            world.connection.execute(ACCESS.bind(f"insert into {sql} from generate_series(1, 30000) n", 1).encode())
        world.connection.execute(
            "insert into stored_events (originator_id, originator_version, topic, state, notification_id, recorded_at,"
            " metadata) select gen_random_uuid(), 1, 'x', '', n, now() + n * interval '1 ms', ''"
            " from generate_series(1, 30000) n"
        )
        world.connection.execute("analyze")
        yield world


def plan(world: World, sql: str) -> str:
    """The plan that PostgreSQL keeps for the prepared statement."""
    numbered = re.sub(r"%\((\w+)\)s", lambda found: PARAMETERS[found[1]], ACCESS.bind(sql, 1))
    rows = world.connection.execute(f"explain (generic_plan) {numbered}".encode()).fetchall()
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("when", ["now", "position", "time"])
@pytest.mark.parametrize("marks", [False, True], ids=["a check", "an explanation"])
def test_the_facts_of_a_user_are_found_by_indexes(world, when, marks):
    assert re.findall(r"Seq Scan on (access_\w+|stored_events)", plan(world, STATEMENTS[when, marks])) == []


@pytest.mark.parametrize("sql", [POSITION_AT_TIME, RECORDED_AT], ids=["a time", "a position"])
def test_the_moment_is_found_by_an_index(world, sql):
    assert "Seq Scan on stored_events" not in plan(world, sql)
