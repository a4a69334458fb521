"""Versions that this release doesn't read: what may go of them, and what somebody else needs."""

from dataclasses import replace

import psycopg
import pytest

from commands.builds import DropBuild
from commands.builds import drop_build as drop
from domain.context import Actor, Context
from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections.builds import active_build, drop_build, ensure_builds
from projections.engine import Build, Engine
from projections.leftover import StillFed, drop_unread_version, settle_unread, unread_builds
from projections.rebuild import Works
from projections.rebuilds import start
from projections.switch import declared, settle
from projections.wishes import WISHES, pending
from tests.projections.harbour import HARBOUR, KEEPERS


@pytest.fixture
def works(database, builds):
    log = Log(database)
    yield Works(database, log)
    log.close()


def led_by_another(connection, fence):
    """A follower leads that feeds none of the builds that are there."""
    connection.execute(
        "insert into leases values ('follower', 'beagle', %(fence)s, clock_timestamp() + interval '1 minute')"
        " on conflict (name) do update set fence = %(fence)s",
        {"fence": fence},
    )


def feed(connection, log, fence, *builds):
    for build in builds:
        Engine(connection, log, build, fence=fence).take_over()


def test_what_a_former_release_has_left_behind_is_found_and_goes(works, connection, builds):
    former = replace(KEEPERS, version=2, tables="keepers (id uuid); keys (id uuid)", on={}, owners={})
    neighbour = replace(KEEPERS, name="keepers_keys", version=2, tables="rings (id uuid)", on={}, owners={})
    ensure_builds(connection, [former, neighbour])
    feed(connection, works.log, 1, Build(former, 1))
    led_by_another(connection, 2)
    newest = [HARBOUR, replace(KEEPERS, version=3)]
    (found,) = unread_builds(connection, newest, "keepers", 2)
    assert found.projection.table_names == ("keepers", "keys")
    drop_unread_version(connection, found)
    assert unread_builds(connection, newest, "keepers", 2) == []
    assert active_build(connection, neighbour) == Build(neighbour, 1)
    assert connection.execute("select count(*) from keepers_keys_rings_v2_b1").fetchone() == (0,)
    gone = "select to_regclass('keepers_keepers_v2_b1'), to_regclass('keepers_keys_v2_b1')"
    assert connection.execute(gone).fetchone() == (None, None)


def test_what_another_release_feeds_or_has_only_just_made_is_not_left_behind(works, connection, builds):
    theirs = Build(replace(KEEPERS, version=2, on={}), 1)
    ensure_builds(connection, [theirs.projection])
    for known in ([HARBOUR], [HARBOUR, replace(KEEPERS, version=3)]):
        with pytest.raises(StillFed, match="keepers v2 is fed by another release, or will be"):
            unread_builds(connection, known, "keepers", 2)
    led_by_another(connection, 4)
    feed(connection, works.log, 4, theirs)
    with pytest.raises(StillFed):
        unread_builds(connection, [HARBOUR], "keepers", 2)
    connection.execute("update leases set expires_at = clock_timestamp() where name = 'follower'")
    with pytest.raises(StillFed):  # whoever led last fed it, and comes back
        unread_builds(connection, [HARBOUR], "keepers", 2)
    led_by_another(connection, 5)
    assert [build.key for build in unread_builds(connection, [HARBOUR], "keepers", 2)] == [theirs.key]


def test_on_the_bus_it_is_seen_whether_it_moves(works, connection, builds, monkeypatch):
    monkeypatch.setattr("projections.leftover.FED_SECONDS", 0.3)
    connection.execute("update projection_builds set feed = 'faust' where projection = 'keepers'")
    with pytest.raises(StillFed):
        unread_builds(connection, [HARBOUR], "keepers", 1)
    connection.execute("update log_head set position = position + 5")
    assert [build.key for build in unread_builds(connection, [HARBOUR], "keepers", 1)] == [Build(KEEPERS, 1).key]


def test_what_is_read_or_newer_is_not_left_behind(connection, builds):
    assert unread_builds(connection, [HARBOUR, KEEPERS], "keepers", 1) == []
    ensure_builds(connection, [replace(KEEPERS, version=2, on={})])
    assert unread_builds(connection, [KEEPERS], "keepers", 2) == []


def test_the_version_of_the_release_before_may_go_although_it_is_fed(works, connection, builds):
    newest = replace(KEEPERS, version=2, on={})
    ensure_builds(connection, [newest])
    led_by_another(connection, 1)
    feed(connection, works.log, 1, Build(KEEPERS, 1), Build(newest, 1))
    (found,) = unread_builds(connection, [HARBOUR, newest, KEEPERS], "keepers", 1)
    drop_unread_version(connection, found)
    assert active_build(connection, KEEPERS) is None
    assert active_build(connection, newest) == Build(newest, 1)


def test_no_number_is_given_twice(works, connection, builds):
    first = start(connection, HARBOUR, asked_by="operator:grace")
    drop_build(connection, first)
    second = start(connection, HARBOUR, asked_by="operator:grace")
    assert (first.number, second.number) == (2, 3)
    drop_build(connection, second)
    drop_unread_version(connection, Build(HARBOUR, 1))
    ensure_builds(connection, [HARBOUR])
    assert active_build(connection, HARBOUR) == Build(HARBOUR, 4)


@pytest.mark.parametrize("known", [[HARBOUR], [HARBOUR, replace(KEEPERS, version=2), KEEPERS]])
def test_who_decided_and_was_killed_is_completed_by_the_next_to_look(works, connection, builds, known):
    feed(connection, works.log, 1, Build(KEEPERS, 1))
    led_by_another(connection, 2)
    log = Log(works.conninfo, inline=[WISHES])
    Dispatcher(log).dispatch(drop, DropBuild("keepers", 1, 1), Context(Actor("operator", "grace"), "a-storm"))
    log.close()
    settle_unread(connection, known)
    assert (active_build(connection, KEEPERS), pending(connection)) == (None, [])
    drop_unread_version(connection, Build(KEEPERS, 1))  # whoever wasn't killed, but slower


def test_a_decision_about_what_is_still_fed_or_read_waits(works, connection, builds, monkeypatch):
    feed(connection, works.log, 1, Build(KEEPERS, 1))
    led_by_another(connection, 1)
    log = Log(works.conninfo, inline=[WISHES])
    Dispatcher(log).dispatch(drop, DropBuild("keepers", 1, 1), Context(Actor("operator", "grace"), "a-storm"))
    log.close()
    with psycopg.connect(works.conninfo) as reader:
        reader.execute("select from keepers_keepers_v1_b1")
        monkeypatch.setattr("projections.switch.DROP_SECONDS", 0.2)
        known = [HARBOUR, KEEPERS, replace(KEEPERS, version=2)]
        settle_unread(connection, known)
        settle(works, declared(known))
        assert len(pending(connection)) == 1
    for known in ([HARBOUR], [HARBOUR, KEEPERS]):
        settle_unread(connection, known)
        assert active_build(connection, KEEPERS) == Build(KEEPERS, 1)
        assert len(pending(connection)) == 1
