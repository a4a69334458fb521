"""One batch, one transaction: rows, position and notification together."""

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import MapperDeserialisationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.projections import Retry, Skip
from projections.builds import drop_build
from projections.compare import differences, fold_views, scratch_build
from projections.engine import Engine
from projections.errors import BuildGone, Fenced, Hole, is_poison
from projections.facts import Unreadable, read, read_at
from projections.plan import Plan
from tests.projections.conftest import row
from tests.projections.harbour import HARBOUR, Keeper, Ship


@pytest.fixture
def harbour(builds):
    return builds[0]


@pytest.fixture
def engine(connection, log, harbour):
    return Engine(connection, log, harbour)


@pytest.fixture
def catch_up(engine, log):
    def go_on():
        position = engine.take_over()
        return engine.apply(read(log, position, 10_000), position)

    return go_on


@pytest.fixture
def parked(connection):
    def rows():
        sql = "select position, error, attempts from projection_parked order by position"
        return connection.execute(sql).fetchall()

    return rows


def ship(name, *berths):
    launched = Ship(name, ["red ensign"])
    for berth in berths:
        launched.moor(berth)
    return launched


def position_of(connection):
    return connection.execute("select position from projection_progress where projection = 'harbour'").fetchone()[0]


class TestABatch:
    def test_lists_go_in_as_arrays_and_as_json(self, record, catch_up, connection):
        record(Ship("Fram", ["no", "se"]))
        catch_up()
        assert connection.execute("select flags, flags_as_json from harbour_ships_v1_b1").fetchone() == (
            ["no", "se"],
            ["no", "se"],
        )

    def test_moves_the_position_past_events_that_mean_nothing_here(self, record, catch_up, connection):
        keeper = record(Keeper("Grace Darling"))
        assert catch_up() == keeper == position_of(connection)

    def test_again_has_no_effect(self, record, engine, log, connection):
        tramp = ship("Tramp")
        tramp.load(5, {"assam": 5})
        record(tramp)
        batch = read(log, 0, 100)
        assert engine.apply(batch, 0) == 2
        assert engine.apply(batch, 0) == 2
        assert engine.apply(batch[1:], 1) == 2
        assert row(connection, tramp.id) == ("Tramp", None, 5)

    def test_that_leaves_a_hole_is_refused(self, record, engine, log, connection):
        record(ship("Vasa", 1, 2))
        with pytest.raises(Hole) as hole:
            engine.apply(read(log, 1, 100), 1)
        assert hole.value.position == 0
        assert position_of(connection) == 0

    def test_of_a_feed_that_was_replaced_is_refused(self, record, log, harbour, connection):
        record(ship("Flying Dutchman"))
        old, new = (Engine(connection, log, harbour, fence=fence) for fence in (1, 2))
        new.take_over()
        with pytest.raises(Fenced):
            old.apply(read(log, 0, 10), 0)
        with pytest.raises(Fenced):
            old.take_over()
        assert new.apply(read(log, 0, 10), 0) == 1

    def test_for_a_build_that_was_dropped_is_refused(self, record, engine, log, harbour, connection):
        record(ship("Mary Celeste"))
        drop_build(connection, harbour)
        with pytest.raises(BuildGone):
            engine.apply(read(log, 0, 10), 0)

    def test_tells_with_its_commit_how_far_it_came_and_what_is_old(self, record, catch_up, connection):
        connection.execute("listen muniment_progress")
        moored = ship("Discovery", 4)
        record(moored)
        catch_up()
        (notification,) = connection.notifies(timeout=5, stop_after=1)
        assert json.loads(notification.payload) == {
            "projection": "harbour",
            "version": 1,
            "build": 1,
            "position": 2,
            "invalidate": [str(moored.id)],
        }

    def test_that_makes_too_much_old_says_everything(self, record, catch_up, connection):
        connection.execute("listen muniment_progress")
        record(*(ship(f"Junk {n}", 1) for n in range(300)))
        catch_up()
        (notification,) = connection.notifies(timeout=5, stop_after=1)
        assert json.loads(notification.payload)["invalidate"] == ["*"]


class TestPoison:
    def test_is_parked_and_behind_it_its_own_stream_only(self, record, catch_up, parked, connection):
        sunk, sound = ship("Titanic", 0, 7), ship("Carpathia", 9)
        record(sunk, sound)
        assert catch_up() == 5
        assert row(connection, sunk.id) == ("Titanic", None, 0)
        assert row(connection, sound.id) == ("Carpathia", 9, 0)
        first, behind = parked()
        assert (first[0], first[1].split(":")[0]) == (2, "CheckViolation")
        assert behind == (3, None, 1)

    def test_of_a_function_is_parked_too(self, record, catch_up, parked):
        bold = ship("Nautilus")
        bold.sight_kraken(8)
        bold.sight_kraken(0)
        bold.sight_kraken(4)
        record(bold)
        catch_up()
        assert [(position, error) for position, error, _ in parked()] == [
            (3, "ZeroDivisionError: division by zero"),
            (4, None),
        ]

    @pytest.mark.parametrize("damage", ["state = 'not json'", "state = 'null'", "metadata = 'not json'"])
    def test_that_cannot_even_be_read_is_parked(self, damage, record, catch_up, parked, connection):
        record(ship("Argo", 1), ship("Beagle", 2))
        connection.execute(f"update stored_events set {damage} where notification_id = 2".encode())
        assert catch_up() == 4
        assert [(position, error.split(":")[0]) for position, error, _ in parked()] == [
            (2, "MapperDeserialisationError")
        ]

    def test_of_a_stream_goes_on_being_parked_in_later_batches(self, record, catch_up, parked, connection):
        sunk = ship("Vasa", 0)
        record(sunk)
        catch_up()
        sunk.moor(5)
        record(sunk)
        catch_up()
        assert [position for position, _, _ in parked()] == [2, 3]
        assert row(connection, sunk.id) == ("Vasa", None, 0)

    def test_makes_whoever_remembers_look_again(self, record, catch_up, connection):
        connection.execute("listen muniment_progress")
        sunk = ship("Edmund Fitzgerald", 0)
        record(sunk)
        catch_up()
        (notification,) = connection.notifies(timeout=5, stop_after=1)
        assert json.loads(notification.payload)["invalidate"] == [str(sunk.id)]

    def test_tells_neither_the_values_of_its_row_nor_the_errors_of_others(self, record, catch_up, connection):
        record(ship("Black\0Pearl"), ship("Edmund Fitzgerald", 0), ship("Vasa"))
        catch_up()
        told = connection.execute("select error || traceback from projection_parked order by position").fetchall()
        assert len(told) == 2
        for (text,) in told:
            assert "Failing row" not in text
            assert ("harbour_ships_v1_b1_berth_check" in text) != ("NUL" in text)

    def test_text_with_a_null_character_is_parked_and_described(self, record, catch_up, parked):
        record(ship("Black\0Pearl"))
        catch_up()
        assert [position for position, _, _ in parked()] == [1]


class TestOperators:
    def test_retry_applies_what_is_parked_in_order(self, record, catch_up, parked, connection):
        sunk = ship("Vasa", 0, 7)
        sunk.load(3, {"assam": 3})
        record(sunk)
        catch_up()
        connection.execute("alter table harbour_ships_v1_b1 drop constraint harbour_ships_v1_b1_berth_check")
        record(Retry("harbour", None))
        assert catch_up() == 5
        assert parked() == []
        assert row(connection, sunk.id) == ("Vasa", 7, 3)

    def test_retry_of_what_still_fails_keeps_it_with_those_behind(self, record, catch_up, parked):
        sunk, other = ship("Vasa", 0, 7), ship("Kronan", 0)
        record(sunk, other)
        catch_up()
        record(Retry("harbour", sunk.id))
        catch_up()
        assert [(position, attempts) for position, _, attempts in parked()] == [(2, 2), (3, 2), (5, 1)]

    def test_retry_of_a_whole_fleet_frees_those_that_can_be_freed(self, record, catch_up, parked, connection):
        fleet = [ship(f"Galleon {number}", 0 if number % 2 else -1, 5) for number in range(250)]
        record(*fleet)
        catch_up()
        assert len(parked()) == 500
        connection.execute("alter table harbour_ships_v1_b1 drop constraint harbour_ships_v1_b1_berth_check")
        connection.execute("alter table harbour_ships_v1_b1 add check (berth >= 0)")
        record(Retry("harbour", None))
        catch_up()
        assert len(parked()) == 250
        assert {row(connection, galleon.id)[1] for galleon in fleet[1::2]} == {5}

    @pytest.mark.parametrize("decision", [lambda: Retry("harbour", None), lambda: Skip("harbour", 2, "top-heavy")])
    def test_a_long_look_into_the_log_is_not_taken_for_a_frozen_feed(
        self, decision, record, catch_up, parked, connection, monkeypatch
    ):
        record(ship("Vasa", 0, 7))
        catch_up()
        connection.execute("alter table harbour_ships_v1_b1 drop constraint harbour_ships_v1_b1_berth_check")
        connection.execute("set idle_in_transaction_session_timeout = '50ms'")

        def slow(*arguments):
            time.sleep(0.2)
            return read_at(*arguments)

        monkeypatch.setattr("projections.obey.read_at", slow)
        record(decision())
        assert catch_up() == 4
        assert parked() == []

    def test_retry_of_another_projection_does_nothing_here(self, record, catch_up, parked):
        record(ship("Vasa", 0))
        catch_up()
        record(Retry("keepers", None))
        catch_up()
        assert [attempts for _, _, attempts in parked()] == [1]

    def test_skip_leaves_out_one_event_and_applies_those_behind(self, record, catch_up, parked, connection):
        sunk = ship("Vasa", 0, 7)
        record(sunk)
        catch_up()
        record(Skip("harbour", 2, "she was top-heavy"))
        catch_up()
        assert parked() == []
        assert row(connection, sunk.id) == ("Vasa", 7, 0)

    def test_a_fresh_fold_obeys_them_too(self, record, catch_up, database, log, harbour):
        sunk = ship("Vasa", 0, 7)
        record(sunk)
        catch_up()
        record(Skip("harbour", 2, "she was top-heavy"))
        sunk.moor(0)
        record(sunk)
        record(Retry("harbour", None))
        catch_up()
        assert fold_views(database, log, harbour) == (6, [])


class TestTheMoment:
    """What isn't the event's fault parks nothing."""

    def test_a_lock_that_is_held_too_long(self, record, engine, log, connection, database, parked):
        record(ship("Endurance", 1))
        engine.apply(read(log, 0, 1), 0)
        connection.execute("set lock_timeout = '50ms'")
        with psycopg.connect(database) as ice:
            ice.execute("select from harbour_ships_v1_b1 for update")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                engine.apply(read(log, 1, 1), 1)
        assert parked() == []
        assert engine.apply(read(log, 1, 1), 1) == 2

    def test_a_lost_connection(self, record, log, harbour, connection, database, parked):
        record(ship("Endurance", 1))
        with psycopg.connect(database, autocommit=True) as doomed:
            engine = Engine(doomed, log, harbour)
            connection.execute("select pg_terminate_backend(%s)", (doomed.info.backend_pid,))
            with pytest.raises(psycopg.OperationalError):
                engine.apply(read(log, 0, 10), 0)
        assert parked() == []
        assert position_of(connection) == 0

    def test_a_missing_table(self, record, engine, log, connection, parked):
        record(ship("Atlantis"))
        connection.execute("alter table harbour_ships_v1_b1 rename to lost_at_sea")
        with pytest.raises(psycopg.errors.UndefinedTable):
            engine.apply(read(log, 0, 10), 0)
        assert parked() == []

    def test_a_deadlock_and_a_full_disk_are_of_the_moment_and_a_bad_value_is_not(self):
        moment = (
            psycopg.errors.DeadlockDetected,
            psycopg.errors.SerializationFailure,
            psycopg.errors.DiskFull,
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.AdminShutdown,
            psycopg.errors.QueryCanceled,
            psycopg.errors.FeatureNotSupported,
            psycopg.errors.ReadOnlySqlTransaction,
            psycopg.OperationalError,
            psycopg.InterfaceError,
            MemoryError,
            KeyboardInterrupt,
        )
        poison = (
            psycopg.errors.NotNullViolation,
            psycopg.errors.NumericValueOutOfRange,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.RaiseException,
            psycopg.errors.ProgramLimitExceeded,
            psycopg.DataError,
            KeyError,
        )
        assert [is_poison(error()) for error in moment] == [False] * len(moment)
        assert [is_poison(error()) for error in poison] == [True] * len(poison)


deeds = st.lists(
    st.tuples(st.integers(0, 4), st.one_of(st.integers(0, 3).map(lambda n: ("moor", n)), st.just(("load", 1)))),
    max_size=40,
)


def expected(fleet, history):
    """The rows and what is parked, folded by hand: the oracle."""
    rows = {ship.id: [ship.name, None, 0] for ship in fleet}
    stuck, left_out = set(), []
    for position, vessel, deed, value in history:
        if vessel.id in stuck or (deed, value) == ("moor", 0):
            stuck.add(vessel.id)
            left_out.append(position)
        elif deed == "moor":
            rows[vessel.id][1] = value
        else:
            rows[vessel.id][2] += value
    return {id_: tuple(values) for id_, values in rows.items()}, left_out


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=deeds, cuts=st.lists(st.integers(1, 15), min_size=1, max_size=10))
def test_poison_anywhere_leaves_every_stream_in_order(deeds, cuts, record, log, harbour, connection, database):
    fleet = [Ship(f"{n}{len(deeds)}", []) for n in range(5)]
    start = record(*fleet)
    history = []
    for number, (deed, value) in deeds:
        vessel = fleet[number]
        vessel.moor(value) if deed == "moor" else vessel.load(value, {})
        history.append((record(vessel), vessel, deed, value))
    with scratch_build(database, harbour.projection) as build:
        connection.execute(
            "update projection_progress set position = %s where build = %s", (start - len(fleet), build.number)
        )
        engine, position, cut = Engine(connection, log, build), start - len(fleet), 0
        while batch := read(log, position, cuts[cut % len(cuts)]):
            position, cut = engine.apply(batch, position), cut + 1
        table = build.projection.table("ships", build.number)
        rows = {id_: tuple(rest) for id_, *rest in connection.execute(f"select id, name, berth, chests from {table}")}
        left_out = [p for (p,) in connection.execute("select position from projection_parked order by 1")]
        assert (rows, left_out) == expected(fleet, history)
        assert not differences(connection, build, build)


def test_an_event_that_cant_be_read_fails_each_time_by_an_error_of_its_own():
    unreadable = Unreadable(1, uuid4(), 1, "harbour.ShipMoored", datetime.now(UTC), MapperDeserialisationError("torn"))
    told = []
    for _ in range(3):
        with pytest.raises(MapperDeserialisationError, match="torn") as failed:
            Plan(HARBOUR, 1).rows(unreadable)
        told.append(failed.value)
    assert len(set(map(id, told))) == 3
