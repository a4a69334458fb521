"""Small batches of several builds are one transaction; whatever is unusual leaves no trace, and goes the usual way."""

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from threading import Barrier, Thread

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.pq import PipelineStatus, TransactionStatus

from projections.builds import create_build
from projections.compare import fold_views
from projections.engine import BULK_EVENTS, WHOLE
from projections.facts import read
from projections.feeds import FAUST, change_feed
from projections.lane import FollowerLimits, connect
from projections.lanes import LanesEngine, Stretch, take_lanes
from projections.together import advance_together
from stream_apps.feeder import Feeder
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship
from tests.stream_apps.streaming import PROJECTIONS, carried, feeder_setup, places, record_layout, spread

ONE = spread()
PATIENCE_SECONDS = 20.0
TABLES = {HARBOUR.name: ("ships", "sightings"), KEEPERS.name: ("keepers",)}
PROGRESS = """
    select topic, partition, position, fence, recorded_at, seen_position, seen_id, seen_at
      from projection_progress where projection = %(projection)s and build = %(build)s order by topic, partition
"""
PARKED = """
    select position, stream, stream_version, topic, error, attempts
      from projection_parked where projection = %(projection)s and build = %(build)s order by position
"""


def in_lanes(connection, log, *builds):
    """Fed from the bus from now on."""
    for build in builds:
        change_feed(connection, log, build, FAUST, ONE)
    return builds


@pytest.fixture
def fed(connection, log, builds):
    """Both builds, fed from the bus."""
    record_layout(connection, ONE)
    return in_lanes(connection, log, *builds)


@pytest.fixture
def shared(database):
    """The connection on which several builds advance."""
    with closing(connect(database, FollowerLimits())) as connection:
        yield connection


@dataclass
class Told:
    """What was said of a build's commits, before and after each."""

    committing: list = field(default_factory=list)
    committed: list = field(default_factory=list)


@pytest.fixture
def engine(database, log):
    """Makes engines that have just taken these partitions of a build, on a connection of the build's own."""
    connections = {}

    def make(build, *partitions, committing=lambda _: None, committed=lambda _: None):
        key = build.projection.name, build.number, partitions
        own = connections[key] = connections.get(key) or connect(database, FollowerLimits())
        lanes = [lane for lane in ONE.lanes(build.projection) if not partitions or lane.partition in partitions]
        held, told = take_lanes(own, build, lanes), Told()

        def before(applied):
            told.committing.append(applied)
            committing(applied)

        def after(applied):
            told.committed.append(applied)
            committed(applied)

        made = LanesEngine(own, log, build, ONE, held, committing=before, committed=after)
        made.said = told
        return made

    yield make
    for connection in connections.values():
        connection.close()


def moves(log, *engines, after=0, upto=None, lanes=None):
    """All that is new in the lanes of these engines, or in some of them, through a position."""
    facts = [fact for fact in read(log, after, 10_000) if upto is None or fact.position <= upto]
    end = facts[-1]
    found = {
        engine: [
            Stretch(
                lane, at, [f for f in facts if ONE.lane(f) == lane and f.position > at], end.position, end.recorded_at
            )
            for lane, at in engine.positions.items()
            if end.position > at and (lanes is None or lane in lanes)
        ]
        for engine in engines
    }
    return {engine: stretches for engine, stretches in found.items() if stretches}


def found(connection, build):
    """Everything that there is of a build."""
    rows = {
        table: connection.execute(
            f"select * from {build.projection.table(table, build.number)} order by 1, 2"
        ).fetchall()
        for table in TABLES[build.projection.name]
    }
    return rows, connection.execute(PROGRESS, build.key).fetchall(), connection.execute(PARKED, build.key).fetchall()


def positions(connection, build):
    return {row[2] for row in connection.execute(PROGRESS, build.key).fetchall()}


def writers(connection, *tables):
    """The transactions that wrote what is in these tables."""
    sql = " union ".join(f"select xmin::text from {table}" for table in tables)
    return {number for (number,) in connection.execute(sql).fetchall()}


def assert_at_rest(connection):
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert connection.pgconn.pipeline_status == PipelineStatus.OFF


@pytest.fixture
def untouched(connection, shared, fed):
    """That nothing of any build has changed since, and that the connection may be used again."""

    class Untouched:
        def __enter__(self):
            self.before = [found(connection, build) for build in fed]

        def __exit__(self, *_):
            assert [found(connection, build) for build in fed] == self.before
            if not shared.closed:
                assert_at_rest(shared)

    return Untouched()


@pytest.fixture
def heard(database):
    """What has been told of the builds since this was last asked: of which, what became old, through which position."""
    with psycopg.connect(database, autocommit=True) as listening:
        listening.execute("listen muniment_progress")

        def so_far():
            listening.execute("notify muniment_progress, 'so far'")  # in the order of the commits
            told = []
            for note in listening.notifies(timeout=PATIENCE_SECONDS):
                if note.payload == "so far":
                    break
                told.append(json.loads(note.payload))
            return [(each["projection"], each["invalidate"], each["position"]) for each in told]

        yield so_far


# --- in one transaction


def test_two_builds_advance_in_one_transaction(record, log, fed, engine, shared, connection):
    harbour, keepers = map(engine, fed)
    ships = [Ship("Beagle", []), Ship("Cutty Sark", ["of the line"])]
    record(*ships, Keeper("Ada"))
    ships[0].moor(4)
    ships[1].load(3, {"assam": 3})
    record(*ships)
    assert advance_together(shared, moves(log, harbour, keepers))
    assert len(writers(connection, "harbour_ships_v1_b1", "keepers_keepers_v1_b1", "projection_progress")) == 1
    assert [positions(connection, build) for build in fed] == [{5}, {5}]
    assert {*harbour.positions.values(), *keepers.positions.values()} == {5}
    assert_at_rest(shared)


@pytest.fixture
def seen(connection, fed):
    """How many rows there are of each build, and how far it is, for somebody else."""

    def look():
        counts = [connection.execute(f"select count(*) from {table}").fetchone()[0] for table in
                  ("harbour_ships_v1_b1", "keepers_keepers_v1_b1")]  # fmt: skip
        return counts, [positions(connection, build) for build in fed]

    return look


def test_others_see_nothing_before_the_commit_and_all_of_it_when_the_first_build_hears_of_it(
    record, log, fed, engine, shared, seen
):
    looks = []
    harbour, keepers = (
        engine(build, committing=lambda _: looks.append(seen()), committed=lambda _: looks.append(seen()))
        for build in fed
    )
    ship = Ship("Beagle", [])
    ship.moor(1)
    record(ship, Keeper("Ada"))
    assert advance_together(shared, moves(log, harbour, keepers))
    assert looks == [([0, 0], [{0}, {0}])] + 2 * [([1, 1], [{3}, {3}])]


def test_each_build_hears_once_of_its_commit_and_before_it_only_of_what_becomes_old(record, log, fed, engine, shared):
    harbour, keepers = map(engine, fed)
    ships = [Ship(name, []) for name in ("Beagle", "Cutty Sark", "Endurance")]
    for ship in ships[:2]:
        ship.moor(3)
    record(*ships, Keeper("Ada"))
    assert advance_together(shared, moves(log, harbour, keepers))
    (before,), (after,), (other,) = harbour.said.committing, harbour.said.committed, keepers.said.committed
    assert before == after
    assert (after.build, after.position, set(after.invalidate)) == (fed[0], 6, {str(ship.id) for ship in ships[:2]})
    assert [fact.position for fact in after.facts] == [1, 2, 3, 4, 5]
    assert keepers.said.committing == []
    assert (other.build, other.position, other.invalidate) == (fed[1], 6, ())


def test_it_goes_on_batch_after_batch_and_in_some_of_the_lanes(record, log, fed, engine, shared, database):
    harbour, keepers = map(engine, fed)
    for number in range(6):
        record(Ship(f"ship {number}", []), Keeper(f"keeper {number}"))
        lanes = [lane for lane in harbour.positions if lane.partition == number % 2]
        assert advance_together(shared, moves(log, harbour, keepers, lanes=lanes))
    assert advance_together(shared, moves(log, harbour, keepers))
    assert [fold_views(database, log, build, ONE) for build in fed] == [(12, []), (12, [])]


def test_what_is_behind_a_parked_event_of_its_stream_is_parked_in_the_same_transaction(
    record, log, fed, engine, shared, connection
):
    harbour, keepers = map(engine, fed)
    cursed, sound = Ship("Flying Dutchman", []), Ship("Beagle", [])
    cursed.sight_kraken(0)
    record(cursed, sound)
    for each, stretches in moves(log, harbour, keepers).items():
        each.advance(stretches)
    cursed.moor(1)
    sound.moor(2)
    record(cursed, sound, Keeper("Ada"))
    assert advance_together(shared, moves(log, harbour, keepers))
    rows, _, parked = found(connection, fed[0])
    assert {row[1]: row[4] for row in rows["ships"]} == {"Flying Dutchman": None, "Beagle": 2}
    assert [(row[1], row[4] is None) for row in parked] == [(cursed.id, False), (cursed.id, True)]
    last = "(select * from (select xmin, * from projection_parked order by position desc limit 1) p) q"
    assert len(writers(connection, last, "keepers_keepers_v1_b1", "projection_progress")) == 1
    assert set(harbour.said.committed[-1].invalidate) == {str(cursed.id), str(sound.id)}


def test_what_concerns_nobody_moves_all_lanes_by_one_statement(record, log, fed, engine, shared, connection):
    harbour, keepers = map(engine, fed)
    ship = Ship("Beagle", [])
    record(ship)
    assert advance_together(shared, moves(log, harbour, keepers))
    ship.sing("what shall we do with a drunken sailor")
    record(ship)
    rows = writers(connection, "harbour_ships_v1_b1")
    assert advance_together(shared, moves(log, harbour, keepers))
    assert [positions(connection, build) for build in fed] == [{2}, {2}]
    assert len(writers(connection, "projection_progress")) == 1
    assert writers(connection, "harbour_ships_v1_b1") == rows
    assert [applied.invalidate for applied in harbour.said.committed] == [(), ()]
    assert_at_rest(shared)


def test_of_nothing_all_is_done(shared):
    assert advance_together(shared, {})


# --- what isn't as it should be


@pytest.fixture
def new(record):
    """One event for each of the builds."""
    return record(Ship("Beagle", []), Keeper("Ada"))


def test_where_somebody_else_has_taken_a_lane_nobody_advances(new, log, fed, engine, shared, connection, untouched):
    harbour, keepers = map(engine, fed)
    take_lanes(connection, fed[1], list(keepers.positions)[:1])
    with untouched:
        assert not advance_together(shared, moves(log, harbour, keepers))
    assert harbour.said == keepers.said == Told()
    assert {*harbour.positions.values(), *keepers.positions.values()} == {0}


def test_where_nothing_concerns_anyone_only_the_lane_that_was_taken_stays(
    new, record, log, fed, engine, shared, connection
):
    harbour, keepers = map(engine, fed)
    assert advance_together(shared, moves(log, harbour, keepers))
    ship = Ship("Cutty Sark", [])
    record(ship)
    assert advance_together(shared, moves(log, harbour, keepers))
    ship.sing("fifteen men on the dead man's chest")
    head, taken = record(ship), next(iter(keepers.positions))
    take_lanes(connection, fed[1], [taken])
    assert not advance_together(shared, moves(log, harbour, keepers))
    stays = {row[2] for row in found(connection, fed[1])[1] if row[:2] == (taken.topic, taken.partition)}
    assert (positions(connection, fed[0]), positions(connection, fed[1]), stays) == (
        {head},
        {head - 1, head},
        {head - 1},
    )


@pytest.mark.parametrize(
    "elsewhere",
    ["set position = 1", "set position = 0, fence = 9", "set position = -1"],
    ids=["further", "under a later fence", "further back"],
)
def test_where_a_lane_stands_elsewhere_nobody_advances(new, log, fed, engine, shared, connection, untouched, elsewhere):
    harbour, keepers = map(engine, fed)
    connection.execute(
        f"update projection_progress {elsewhere} where projection = 'keepers' and partition = 1 and topic = %s",
        (ONE.topics["harbour"],),
    )
    with untouched:
        assert not advance_together(shared, moves(log, harbour, keepers))


def test_a_lane_that_somebody_holds_lets_nobody_wait(new, log, fed, engine, shared, connection, untouched):
    """As who compares a view with the log does: the others go on meanwhile, each by itself."""
    shared.execute("set lock_timeout = 0")
    harbour, keepers = map(engine, fed)
    done = []
    waiting = Thread(target=lambda: done.append(advance_together(shared, moves(log, harbour, keepers))))
    with connection.transaction():
        connection.execute("select from projection_progress where projection = 'keepers' and partition = 1 for update")
        with untouched:
            waiting.start()
            waiting.join(PATIENCE_SECONDS / 4)
            assert done == [False]
    waiting.join(PATIENCE_SECONDS)
    assert advance_together(shared, moves(log, harbour, keepers))


def test_where_a_build_was_dropped_nobody_advances(new, log, fed, engine, shared, connection, untouched):
    harbour, keepers = map(engine, fed)
    connection.execute("delete from projection_progress where projection = 'keepers'")
    with untouched:
        assert not advance_together(shared, moves(log, harbour, keepers))


def curse(ship, how):
    ship.sight_kraken(0) if how == "in its function" else ship.moor(0)


@pytest.mark.parametrize("how", ["in its function", "in its SQL"])
def test_an_event_that_fails_for_one_build_is_left_to_the_usual_way_by_all(
    record, log, fed, engine, shared, untouched, how
):
    harbour, keepers = map(engine, fed)
    ships = [Ship("Flying Dutchman", []), Ship("Beagle", [])]
    curse(ships[0], how)
    ships[1].moor(2)
    record(*ships, Keeper("Ada"))
    for stretches in (moves(log, keepers, harbour), moves(log, harbour, keepers)):
        with untouched:
            assert not advance_together(shared, stretches)
    assert harbour.said.committed == keepers.said.committed == []


@pytest.mark.parametrize("how", ["in its function", "in its SQL"])
def test_an_event_that_fails_for_one_view_is_parked_for_that_by_the_feeder_and_the_others_have_theirs(
    database, record, log, fed, connection, how
):
    ships = [Ship("Flying Dutchman", []), Ship("Beagle", [])]
    curse(ships[0], how)
    ships[1].moor(2)
    record(*ships, Keeper("Ada"))
    with closing(Feeder(feeder_setup(database, log), ONE.topics.values())) as feeder:
        feeder.own(places(ONE))
        feeder.handle(carried(log, ONE))
        ships[0].moor(3)
        ships[1].moor(3)
        record(*ships)
        feeder.handle(carried(log, ONE))
    harbour, keepers = (found(connection, build) for build in fed)
    assert {row[1]: row[4] for row in harbour[0]["ships"]} == {"Flying Dutchman": None, "Beagle": 3}
    assert [(row[1], row[4] is None) for row in harbour[2]] == [(ships[0].id, False), (ships[0].id, True)]
    assert ([row[1] for row in keepers[0]["keepers"]], keepers[2]) == (["Ada"], [])
    assert [positions(connection, build) for build in fed] == [{log.head()}, {log.head()}]


@pytest.mark.parametrize("count", [BULK_EVENTS - 1, BULK_EVENTS], ids=["fewer", "so many"])
def test_so_many_events_that_they_go_by_arrays_are_left_to_each_build(
    record, log, fed, engine, shared, connection, count
):
    harbour = engine(fed[0])
    record(*(Ship(f"ship {number}", []) for number in range(count)))
    is_done = count < BULK_EVENTS
    assert advance_together(shared, moves(log, harbour)) == is_done
    assert positions(connection, fed[0]) == {count if is_done else 0}
    assert len(harbour.said.committed) == is_done


def kill(connection, other):
    connection.execute("select pg_terminate_backend(%s, 5000)", (other.info.backend_pid,))


def test_a_connection_that_was_lost_is_an_error_of_the_moment(new, log, fed, engine, shared, connection, untouched):
    harbour, keepers = map(engine, fed)
    kill(connection, shared)
    with untouched, pytest.raises(psycopg.OperationalError):
        advance_together(shared, moves(log, harbour, keepers))
    assert harbour.said == keepers.said == Told()


def test_a_connection_that_is_lost_before_the_commit_has_changed_nothing(
    new, record, log, fed, engine, shared, connection, untouched
):
    harbour = engine(fed[0], committing=lambda _: kill(connection, shared))
    keepers = engine(fed[1])
    assert advance_together(shared, moves(log, harbour, keepers))
    ship = Ship("Cutty Sark", [])
    ship.moor(1)
    record(ship)
    with untouched, pytest.raises(psycopg.OperationalError):
        advance_together(shared, moves(log, harbour, keepers))
    assert len(harbour.said.committed) == len(keepers.said.committed) == 1


def test_who_is_interrupted_leaves_no_transaction_open(new, record, log, fed, engine, shared, untouched):
    def interrupted(_):
        raise KeyboardInterrupt

    harbour, keepers = engine(fed[0], committing=interrupted), engine(fed[1])
    ship = Ship("Cutty Sark", [])
    ship.moor(1)
    record(ship)
    with untouched, pytest.raises(KeyboardInterrupt):
        advance_together(shared, moves(log, harbour, keepers))


def test_what_is_committed_is_noted_though_it_cant_be_told_at_once(record, log, fed, engine, shared, connection, heard):
    """Else nobody would hear after the commit what it made old: next time there is nothing to commit."""
    connection.execute("create schema mute")
    connection.execute(
        "create function mute.jsonb_set(jsonb, text[], jsonb) returns jsonb language plpgsql immutable as"
        " $$ begin if $1 ->> 'projection' = 'keepers' then raise 'mute'; end if;"
        " return pg_catalog.jsonb_set($1, $2, $3); end $$"
    )
    shared.execute("set search_path = mute, pg_catalog, public")
    harbour, keepers = map(engine, fed)
    ship = Ship("Beagle", [])
    ship.moor(1)
    record(ship, Keeper("Ada"))
    assert advance_together(shared, moves(log, harbour, keepers))
    assert [positions(connection, build) for build in fed] == [{3}, {3}]
    assert [applied.invalidate for applied in harbour.said.committed] == [(str(ship.id),)]
    assert len(keepers.said.committed) == 1
    assert sorted(heard()) == [("harbour", [], 3), ("harbour", [str(ship.id)], 3), ("keepers", [], 3)]
    assert_at_rest(shared)


# --- what is told


def test_how_far_it_is_is_told_once_for_each_build_and_after_what_became_old_was_seen_to(
    record, log, fed, engine, shared, heard
):
    before = []
    harbour = engine(fed[0], committed=lambda _: before.extend(heard()))
    keepers = engine(fed[1])
    ship = Ship("Beagle", [])
    ship.moor(1)
    record(ship, Keeper("Ada"))
    assert advance_together(shared, moves(log, harbour, keepers))
    # The first says what became old, with the commit itself; the other build has nothing to wait for.
    assert before == [("harbour", [str(ship.id)], 3), ("keepers", [], 3)]
    assert heard() == [("harbour", [], 3)]
    assert advance_together(shared, moves(log, harbour, keepers)), "nothing is new"
    assert heard() == []


def test_it_is_told_only_once_the_last_of_a_builds_lanes_has_come_so_far(new, log, fed, engine, shared, heard):
    harbour, keepers = map(engine, fed)
    first, *others = harbour.positions
    assert advance_together(shared, moves(log, harbour, keepers, lanes=[first]))
    assert heard() == []
    assert advance_together(shared, moves(log, harbour, keepers, lanes=others))
    assert sorted(heard()) == [("harbour", [], new), ("keepers", [], new)]


# --- side by side


def test_two_workers_that_share_the_partitions_dont_wait_for_each_other_for_ever(
    database, record, log, fed, engine, connection
):
    """Whichever build each of them has first."""
    workers = [[engine(build, partition) for build in fed[:: 1 - 2 * partition]] for partition in range(2)]
    ships = [Ship(f"ship {number}", []) for number in range(8)]
    record(*ships, *(Keeper(f"keeper {number}") for number in range(8)))
    for berth in range(1, 10):
        for ship in ships:
            ship.moor(berth)
        record(*ships)
    ends, start, done = range(8, log.head() + 1, 8), Barrier(2), Counter()

    def work(number):
        with closing(connect(database, FollowerLimits(lock_timeout_seconds=2.0))) as own:
            start.wait(PATIENCE_SECONDS)
            for end in ends:
                done[number] += advance_together(own, moves(log, *workers[number], upto=end))

    threads = [Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert done == {0: len(ends), 1: len(ends)}
    assert [fold_views(database, log, build, ONE) for build in fed] == [(log.head(), []), (log.head(), [])]


# --- the same as build by build


NAMES = st.sampled_from(["Beagle", "Cutty Sark", "Endurance", "Fram", "Victory"])
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("launch"), NAMES),
        st.tuples(st.just("hire"), NAMES),
        st.tuples(st.just("moor"), st.integers(0, 9)),
        st.tuples(st.just("load"), st.integers(1, 9)),
        st.tuples(st.just("kraken"), st.integers(0, 8)),
        st.tuples(st.just("sing"), NAMES),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def twins(connection, log, fed):
    """Second builds of both projections."""
    return in_lanes(
        connection,
        log,
        *(create_build(connection, projection, feed="scratch", lane=WHOLE) for projection in PROJECTIONS),
    )


def anew(connection, *builds):
    """An empty harbour, and everybody at the head."""
    for build in builds:
        for table in TABLES[build.projection.name]:
            connection.execute(f"truncate {build.projection.table(table, build.number)}")
    connection.execute("delete from projection_parked")
    connection.execute(
        "update projection_progress set position = (select position from log_head),"
        " (recorded_at, seen_position, seen_id, seen_at) = (null, null, null, null)"
    )


def do(deeds, ships, data):
    """What these deeds change: some of the ships that are there, new ones, and keepers."""
    changed = {}
    for deed, value in deeds:
        ship = ships[data.draw(st.integers(0, len(ships) - 1))] if ships else None
        match deed:
            case "launch":
                ship = Ship(value, [])
                ships.append(ship)
            case "hire":
                ship = Keeper(value)
            case "moor" if ship:
                ship.moor(value)
            case "load" if ship:
                ship.load(value, {"assam": value})
            case "kraken" if ship:
                ship.sight_kraken(value)
            case "sing" if ship:
                ship.sing(value)
        if ship:
            changed[ship.id] = ship
    return changed.values()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), bursts=st.lists(DEEDS, min_size=1, max_size=6))
def test_small_batches_together_come_to_the_same_as_build_by_build(
    record, log, fed, twins, engine, shared, connection, data, bursts
):
    anew(connection, *fed, *twins)
    together, apart = [engine(build) for build in fed], [engine(build) for build in twins]
    ships, lanes = [], ONE.lanes(HARBOUR)
    start = log.head()
    for deeds in [*bursts, []]:
        if changed := do(deeds, ships, data):
            record(*changed)
        if log.head() == start:
            continue
        upto, some = log.head(), lanes
        if deeds:
            upto = start + data.draw(st.integers(1, log.head() - start))
            some = data.draw(st.lists(st.sampled_from(lanes), unique=True))
        coming = moves(log, *together, after=start, upto=upto, lanes=some)
        if not advance_together(shared, coming):
            for each, stretches in coming.items():
                each.advance(stretches)
        for each, stretches in moves(log, *apart, after=start, upto=upto, lanes=some).items():
            each.advance(stretches)
        assert_at_rest(shared)
        for one, other in zip(together, apart, strict=True):
            first, second = (but_for_its_number(found(connection, each.build), each.build) for each in (one, other))
            assert first == second
            assert list(one.positions.values()) == list(other.positions.values())
            assert old(one.said.committed) == old(other.said.committed)


def but_for_its_number(everything, build):
    """Nor does it matter how often its lanes were taken."""
    rows, progress, parked = everything
    said = [(*row[:4], row[4] and row[4].replace(f"_b{build.number}", "_b"), row[5]) for row in parked]
    return rows, [(*row[:3], *row[4:]) for row in progress], said


def old(applied):
    """What became old, in which order it was applied."""
    return [set(each.invalidate) for each in applied if each.invalidate]
