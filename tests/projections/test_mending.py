"""What operators decide about single streams and events: repairs, retries of many, skips that last."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from domain.access import UserAssignments
from domain.projections import Retry, Skip
from domain.verification import Repair
from infra.event_store import Log
from projections.access import ACCESS
from projections.builds import ensure_builds
from projections.compare import differences, feed, scratch_build
from projections.engine import Build, Engine
from projections.facts import read
from projections.skips import SKIPS
from projections.verification import Findings, Sample, verifying, walk
from tests.projections.conftest import METADATA
from tests.projections.harbour import Ship


@pytest.fixture
def log(database):
    log = Log(database, inline=[SKIPS])
    yield log
    log.close()


@pytest.fixture
def harbour(builds):
    return builds[0]


@pytest.fixture
def committed():
    return []


@pytest.fixture
def catch_up(connection, log, harbour, committed) -> Callable[[], int]:
    engine = Engine(connection, log, harbour, committed=committed.append)

    def go_on():
        position = engine.take_over()
        return engine.apply(read(log, position, 50_000), position)

    return go_on


@pytest.fixture
def equals_a_fresh_fold(database, connection, log, harbour):
    def check(build=harbour):
        position = connection.execute(
            "select position from projection_progress where projection = %s", (build.projection.name,)
        ).fetchone()[0]
        with scratch_build(database, build.projection) as fresh:
            feed(Engine(connection, log, fresh, quiet=True), log, 0, position)
            return differences(connection, build, fresh) == []

    return check


def ship(name, *berths):
    launched = Ship(name, [])
    for berth in berths:
        launched.moor(berth)
    return launched


class TestARepair:
    def test_writes_the_rows_of_the_stream_anew_and_no_others(self, record, catch_up, connection, log, committed):
        broken, other = ship("Vasa", 1, 2), ship("Fram", 3)
        broken.sight_kraken(4)
        record(broken, other)
        catch_up()
        connection.execute("update harbour_ships_v1_b1 set berth = 77")
        connection.execute("delete from harbour_sightings_v1_b1")
        connection.execute("insert into harbour_sightings_v1_b1 values (%s, 4711, 1)", (broken.id,))
        assert catch_up() < record(Repair("harbour", broken.id)) == catch_up()
        rows = connection.execute("select name, berth from harbour_ships_v1_b1 order by name").fetchall()
        assert rows == [("Fram", 77), ("Vasa", 2)]
        assert connection.execute("select ship, share from harbour_sightings_v1_b1").fetchall() == [(broken.id, 25.0)]
        assert [applied for applied in committed if "*" in applied.invalidate]

    def test_twice_changes_nothing(self, record, catch_up, equals_a_fresh_fold):
        broken = ship("Vasa", 1, 2)
        record(broken)
        record(Repair("harbour", broken.id), Repair("harbour", broken.id))
        catch_up()
        assert equals_a_fresh_fold()

    def test_takes_away_what_is_left_of_no_event(self, record, catch_up, connection):
        ghost = uuid4()
        record(ship("Fram", 3))
        catch_up()
        connection.execute("insert into harbour_sightings_v1_b1 values (%s, 4711, 1)", (ghost,))
        record(Repair("harbour", ghost))
        catch_up()
        assert connection.execute("select count(*) from harbour_sightings_v1_b1").fetchone() == (0,)

    def test_parks_what_still_fails_and_what_is_behind_it(self, record, catch_up, connection):
        broken = ship("Vasa", 1)
        broken.sight_kraken(0)
        broken.moor(2)
        record(broken)
        catch_up()
        connection.execute("delete from projection_parked")
        record(Repair("harbour", broken.id))
        catch_up()
        assert connection.execute("select position, error is null from projection_parked order by 1").fetchall() == [
            (3, False),
            (4, True),
        ]

    def test_of_another_projection_or_a_longer_stream_than_a_page_is_right_too(
        self, record, catch_up, connection, monkeypatch, equals_a_fresh_fold
    ):
        monkeypatch.setattr("projections.obey.RETRY_EVENTS", 7)
        tramp = ship("Tramp", *range(1, 40))
        record(tramp)
        catch_up()
        connection.execute("delete from harbour_ships_v1_b1")
        record(Repair("keepers", tramp.id))
        catch_up()
        assert not equals_a_fresh_fold()
        record(Repair("harbour", tramp.id))
        catch_up()
        assert equals_a_fresh_fold()

    def test_of_rows_that_are_found_by_a_name_takes_those_of_this_stream_only(
        self, database, log, connection, equals_a_fresh_fold
    ):
        ensure_builds(connection, [ACCESS])
        access = Build(ACCESS, 1)
        ada, lost = UserAssignments(uuid4()), uuid4()
        ada.assign("admin", "/", None, datetime(2026, 1, 1, tzinfo=UTC))
        log.save_work([ada], metadata=METADATA)
        engine = Engine(connection, log, access)
        engine.apply(read(log, 0, 100), 0)
        connection.execute("update access_assignments_v1_b1 set role = 'viewer'")
        connection.execute(
            "insert into access_assignments_v1_b1 (user_id, role, scope, from_position, from_at, from_by)"
            " values (%s, 'admin', '/', 1, now(), 'nobody')",
            (lost,),
        )
        with verifying(database, log, access, lambda *_: None) as verifier:
            total = Findings(access)
            for found, _ in walk(verifier, Sample()):
                total.add(found)
            assert set(total.differing) == {ada.id, UserAssignments.create_id(lost)}
        log.save_work([Repair("access", stream) for stream in total.differing], metadata=METADATA)
        engine.apply(read(log, 2, 100), 2)
        assert equals_a_fresh_fold(access)


class TestASkip:
    def test_lasts_although_the_bug_was_mended_and_the_view_is_built_anew(
        self, record, catch_up, connection, monkeypatch, equals_a_fresh_fold
    ):
        seen = ship("Vasa", 1)
        seen.sight_kraken(0)
        seen.moor(2)
        record(seen)
        catch_up()
        record(Skip("harbour", 3, "there was no kraken"))
        catch_up()
        assert connection.execute("select berth from harbour_ships_v1_b1").fetchone() == (2,)
        monkeypatch.setattr("tests.projections.harbour.NO_ARMS", 8)  # the bug is mended
        assert equals_a_fresh_fold()
        assert connection.execute("select count(*) from harbour_sightings_v1_b1").fetchone() == (0,)

    def test_that_was_killed_before_it_tried_the_rest_tries_it_when_it_is_obeyed_again(
        self, record, catch_up, connection
    ):
        seen = ship("Vasa", 1)
        seen.sight_kraken(0)
        seen.moor(2)
        record(seen)
        catch_up()
        record(Skip("harbour", 3, "there was no kraken"))
        connection.execute("delete from projection_parked where position = 3")
        catch_up()
        assert connection.execute("select count(*) from projection_parked").fetchone() == (0,)


class TestARetry:
    def test_of_very_many_events_is_many_transactions(
        self, record, catch_up, connection, monkeypatch, committed, equals_a_fresh_fold
    ):
        monkeypatch.setattr("projections.obey.RETRY_EVENTS", 10)
        seen = ship("Vasa", 1)
        seen.sight_kraken(0)
        for berth in range(2, 60):
            seen.moor(berth)
        record(seen)
        catch_up()
        monkeypatch.setattr("tests.projections.harbour.NO_ARMS", 8)
        record(Retry("harbour", seen.id))
        committed.clear()
        catch_up()
        assert max(len(applied.facts) for applied in committed) == 10
        assert len(committed) == 7
        assert connection.execute("select count(*) from projection_parked").fetchone() == (0,)
        assert equals_a_fresh_fold()

    def test_forgets_events_that_mean_nothing_to_the_mended_view(self, record, connection, log, harbour, monkeypatch):
        from dataclasses import replace

        seen = ship("Vasa", 1)
        seen.sight_kraken(0)
        record(seen)
        Engine(connection, log, harbour).apply(read(log, 0, 100), 0)
        without = {kind: action for kind, action in harbour.projection.on.items() if kind is not Ship.KrakenSighted}
        mended = Engine(connection, log, Build(replace(harbour.projection, on=without), 1))
        record(Retry("harbour", None))
        assert mended.apply(read(log, 3, 100), 3) == 4
        assert connection.execute("select count(*) from projection_parked").fetchone() == (0,)


def test_a_thousand_streams_park_under_a_bug_and_heal_when_it_is_mended(
    record, catch_up, connection, monkeypatch, equals_a_fresh_fold, database, log, harbour
):
    """The drill: a bug is deployed, events keep coming, the fix is deployed, one decision heals all of it in order."""
    fleet = [ship(f"Number {n}", 1) for n in range(1000)]
    record(*fleet)
    catch_up()
    for n, seen in enumerate(fleet):
        seen.sight_kraken(0)
        seen.moor(2 + n % 5)
        seen.load(1, {"assam": n})
    bystander = ship("Bystander", 9)
    record(bystander, *fleet)
    catch_up()
    assert connection.execute("select count(distinct stream), count(*) from projection_parked").fetchone() == (
        1000,
        3000,
    )
    assert connection.execute("select count(*) from harbour_ships_v1_b1 where berth = 9").fetchone() == (1,)
    monkeypatch.setattr("tests.projections.harbour.NO_ARMS", 8)  # the fix is deployed
    record(Retry("harbour", None))
    catch_up()
    assert connection.execute("select count(*) from projection_parked").fetchone() == (0,)
    assert equals_a_fresh_fold()
    with verifying(database, log, harbour, lambda *_: None) as verifier:
        assert next(found.differing for found, _ in walk(verifier, Sample(0.1, 4))) == {}


def test_an_event_that_is_itself_wrong_is_read_otherwise_and_not_edited(
    record, catch_up, connection, monkeypatch, equals_a_fresh_fold
):
    """The recipe of docs/verifying.md: another class version, an upcaster, a retry."""
    seen = ship("Vasa", 1)
    seen.sight_kraken(0)
    seen.moor(2)
    record(seen)
    catch_up()
    stored = "select state from stored_events where notification_id = 3"
    before = connection.execute(stored).fetchone()

    def upcast_v1_v2(state):
        state["arms"] = state["arms"] or 8

    monkeypatch.setattr(Ship.KrakenSighted, "class_version", 2, raising=False)
    monkeypatch.setattr(Ship.KrakenSighted, "upcast_v1_v2", staticmethod(upcast_v1_v2), raising=False)
    record(Retry("harbour", None))
    catch_up()
    assert connection.execute("select share from harbour_sightings_v1_b1").fetchone() == (12.5,)
    assert connection.execute("select berth from harbour_ships_v1_b1").fetchone() == (2,)
    assert connection.execute(stored).fetchone() == before
    assert equals_a_fresh_fold()


def test_no_error_tells_what_an_event_keeps_secret_or_personal():
    from datetime import UTC, datetime

    from domain.identity import User
    from infra.disclosure import without_marked
    from infra.event_store import Metadata, Recorded

    user = User("ada@engine.example", "Ada", "$2b$12$abcdefghijklmnopqrstuv")
    (registered,) = user.collect_events()
    recorded = Recorded(
        1, user.id, 1, "identity.UserRegistered", datetime(2026, 1, 1, tzinfo=UTC), Metadata("a", "b"), registered
    )
    told = without_marked("can't apply $2b$12$abcdefghijklmnopqrstuv of ada@engine.example", recorded)
    assert told == "can't apply (password: secret) of (email: personal)"
