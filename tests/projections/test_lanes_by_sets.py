"""Stretches that go into a live build at once, in the lanes that somebody holds, leave what events leave one by one."""

import random
from contextlib import ExitStack, closing, contextmanager
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from domain.projections import Retry, Skip
from domain.verification import Repair
from infra.event_store import Log
from infra.partitions import partition_of
from infra.versions import READ
from projections import feeds
from projections.builds import create_build, drop_build
from projections.bulk import BulkLimits
from projections.compare import differences
from projections.engine import WHOLE, Engine
from projections.errors import BuildGone, Fenced
from projections.facts import read
from projections.feeds import FAUST, catch_up, catch_up_together, change_feed
from projections.lanes import LanesEngine, Spread, take_lanes
from projections.lanes_by_sets import LanesBySets
from projections.skips import SKIPS
from tests.projections.test_by_sets import (
    LETTERS,
    LINERS,
    PASSENGERS,
    STAYS,
    WRONG,
    Liner,
    built,
    changed_by,
    deeds,
    from_here,
    projection,
    remember,
    spoil,
    wrongs,
)

PARTITIONS = 3
SPREAD = Spread(1, PARTITIONS, {"liners": "muniment.liners", "projections": "muniment.projections"})
OF_ITS_OWN = "; ".join((STAYS, LETTERS.replace("on letters (words)", "on letters (liner, words)"), LINERS))
"""What is unique is so within a stream: between two streams of different lanes it is open which one comes first."""


@pytest.fixture(autouse=True)
def _always_far(monkeypatch):
    monkeypatch.setattr(feeds, "LEAST_EVENTS", 1)


def declared(**changed):
    return projection(**{"tables": OF_ITS_OWN} | changed)


@contextmanager
def fed_in_lanes(connection, log, declaration, start):
    with built(connection, declaration, WHOLE) as build:
        from_here(connection, build, start)
        change_feed(connection, log, build, FAUST, SPREAD)
        yield build


@contextmanager
def holding(database, log, build, lanes, kind=LanesBySets, **more):
    with psycopg.connect(database, autocommit=True) as own:
        yield kind(own, log, build, SPREAD, take_lanes(own, build, lanes), **more)


def forward(engine, log, upto, stretch=1000):
    (found,) = catch_up_together(
        [(engine, list(engine.positions))], log, upto, limits=BulkLimits(batch_events=50, scan_events=stretch)
    )
    return found


def one_by_one(connection, log, build, start):
    from_here(connection, build, start)
    engine, position = Engine(connection, log, build, quiet=True), start
    while facts := read(log, position, 1000):
        position = engine.apply(facts, position)


def lanes_at(connection, build):
    sql = (
        "select distinct position, recorded_at, seen_position, seen_id, seen_at from projection_progress"
        " where (projection, version, build) = (%s, %s, %s)"
    )
    return connection.execute(sql, tuple(build.key.values())).fetchall()


def parked(connection, build):
    """Not how often it was tried: when a decision is obeyed, all lanes have come so far, and some further."""
    sql = (
        "select position, stream, topic, regexp_replace(error, '_b[0-9]+', '', 'g') from projection_parked"
        " where (projection, version, build) = (%s, %s, %s) order by 1"
    )
    return connection.execute(sql, tuple(build.key.values())).fetchall()


def assert_equal(connection, log, many, single, why=None):
    assert differences(connection, many, single) == [], why
    assert parked(connection, many) == parked(connection, single), why
    (at,) = lanes_at(connection, many)
    (last,) = read(log, log.head() - 1, 1)
    assert at == (last.position, last.recorded_at, last.position, f"{last.stream}:{last.version}", last.recorded_at), (
        why
    )


# --- any history, whoever holds which lanes, wherever they stand

histories = st.lists(st.tuples(st.integers(0, 3), deeds), min_size=20, max_size=60)


@settings(max_examples=30, phases=(Phase.generate,), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=histories, wrong=st.just([]) | wrongs, stretch=st.sampled_from([3, 11, 1000]), seed=st.integers(0, 2**32)
)
def test_any_history_comes_out_the_same(history, wrong, stretch, seed, log, record, connection, database):
    start, declaration, chance = log.head(), declared(), random.Random(seed)  # noqa: S311
    remember(record, history)
    spoil(connection, start, wrong)
    with (
        fed_in_lanes(connection, log, declaration, start) as many,
        built(connection, declaration, WHOLE) as single,
        ExitStack() as stack,
    ):
        lanes = SPREAD.lanes(declaration)
        scatter(database, log, many, lanes, start, chance)
        mine = {lane: chance.random() < 0.5 for lane in lanes}
        workers = [
            stack.enter_context(holding(database, log, many, [lane for lane in lanes if mine[lane] is whose]))
            for whose in (True, False)
        ]
        for _ in range(3):
            forward(chance.choice(workers), log, chance.randint(start, log.head()), stretch)
        for _ in range(3 * len(history)):  # a decision is obeyed once the other worker has come as far
            for worker in workers:
                forward(worker, log, log.head(), stretch)
            if len(lanes_at(connection, many)) == 1:
                break
        one_by_one(connection, log, single, start)
        assert_equal(connection, log, many, single)


def scatter(database, log, build, lanes, start, chance):
    """Brings lanes to places of their own, event by event."""
    with holding(database, log, build, lanes, LanesEngine) as engine:
        for lane in lanes:
            if chance.random() < 0.6:
                catch_up(engine, log, [lane], chance.randint(start, (start + log.head()) // 2))


def test_whatever_is_wrong_with_an_event_comes_out_the_same(log, record, connection, database):
    declaration, others = declared(), [("post", "a"), ("disembark", PASSENGERS[0], "A", None)]
    boarding = ("embark", PASSENGERS[0], "A", None, 7, True)
    for change in WRONG:
        start = log.head()
        remember(record, [(number, deed) for number in range(2) for deed in (boarding, *others, boarding)])
        spoil(connection, start, [(offset, ("state", changed_by(change))) for offset in (5, 6, 7)])
        with (
            fed_in_lanes(connection, log, declaration, start) as many,
            built(connection, declaration, WHOLE) as single,
            holding(database, log, many, SPREAD.lanes(declaration)) as worker,
        ):
            forward(worker, log, log.head())
            one_by_one(connection, log, single, start)
            assert_equal(connection, log, many, single, change)


# --- what goes which way


@pytest.fixture
def voyage(record):
    """Twelve liners, in turns in all partitions. In each come three passengers, one goes, and one letter is sent."""
    liners = [liner_in(number % PARTITIONS) for number in range(12)]
    for number, liner in enumerate(liners):
        for passenger in PASSENGERS:
            liner.embark(passenger, f"{number}", None, 5, True)
        liner.disembark(PASSENGERS[0], f"{number}", None)
        liner.post("all is well")
    record(*liners)
    return liners


def liner_in(partition):
    while partition_of((liner := Liner("Titania", [])).id, PARTITIONS) != partition:
        pass
    return liner


@pytest.fixture
def live(connection, log):
    with fed_in_lanes(connection, log, declared(), 0) as build:
        yield build


@pytest.fixture
def equals_a_fold(connection, log):
    def check(build):
        with built(connection, build.projection, WHOLE) as single:
            one_by_one(connection, log, single, 0)
            assert_equal(connection, log, build, single)

    return check


def of(*partitions):
    return [lane for lane in SPREAD.lanes(projection()) if lane.partition in partitions]


def test_what_is_as_it_should_be_goes_in_at_once(voyage, log, live, database, equals_a_fold):
    with holding(database, log, live, of(0, 1, 2)) as worker:
        assert forward(worker, log, log.head()) == 72
        assert (worker.applied, worker._failures) == (60, 0)
    equals_a_fold(live)


def test_each_of_several_workers_takes_what_is_its_own(voyage, log, live, database, equals_a_fold):
    own = [sum(partition_of(liner.id, PARTITIONS) in some for liner in voyage) for some in ({0}, {1, 2})]
    with holding(database, log, live, of(0)) as one, holding(database, log, live, of(1, 2)) as other:
        assert forward(one, log, 40) < own[0] * 6
        assert forward(other, log, log.head()) == own[1] * 6
        forward(one, log, log.head())
        assert (one.applied, other.applied) == (own[0] * 5, own[1] * 5)
    equals_a_fold(live)


def test_lanes_that_stand_apart_go_in_at_once_too(voyage, log, live, database, equals_a_fold):
    with holding(database, log, live, of(0, 1, 2), LanesEngine) as engine:
        for lane, upto in zip(engine.positions, (0, 17, 40), strict=False):
            catch_up(engine, log, [lane], upto)
    with holding(database, log, live, of(0, 1, 2)) as worker:
        assert forward(worker, log, log.head()) < 72
        assert (worker._failures, worker.applied > 20) == (0, True)
    equals_a_fold(live)


def test_the_database_finds_partitions_as_we_do(connection):
    for stream in [uuid4() for _ in range(200)]:
        for count in (1, 3, 7, 64):
            sql = "select crc32(uuid_send(%s::uuid)) %% %s::int"
            assert connection.execute(sql, (stream, count)).fetchone() == (partition_of(stream, count),)


def test_an_older_database_takes_all_partitions_together_or_event_by_event(
    voyage, log, live, database, equals_a_fold, monkeypatch
):
    monkeypatch.setattr(LanesBySets, "splits", False)
    with holding(database, log, live, of(0)) as part:
        assert forward(part, log, 30) > 0
        assert part.applied == 0
    with holding(database, log, live, of(0, 1, 2)) as whole:
        forward(whole, log, 50, 25)  # the lanes aren't level before the first stretch ends
        assert set(whole.positions.values()) == {50}
        before = whole.applied
        forward(whole, log, log.head())
        assert whole.applied - before == sum(fact.topic != Liner.Launched.TOPIC for fact in read(log, 50, 100))
    equals_a_fold(live)


def test_who_is_near_goes_event_by_event(voyage, log, live, database, monkeypatch):
    monkeypatch.setattr(feeds, "LEAST_EVENTS", 1000)
    with holding(database, log, live, of(0, 1, 2)) as worker:
        assert forward(worker, log, log.head()) == 72
        assert worker.applied == 0


def test_decisions_wait_until_what_goes_in_at_once_has_come_as_far(
    voyage, record, log, live, database, connection, equals_a_fold
):
    spoil(connection, 0, [(4, ("state", lambda _: b"{"))])
    with holding(database, log, live, of(0, 1, 2)) as worker:
        forward(worker, log, log.head())
        assert [position for position, *_ in parked(connection, live)] == [4, 5, 6]
        voyage[0].embark(PASSENGERS[1], "bridge", None, 9, False)
        voyage[1].post("on we go")
        record(*voyage[:2], Retry(live.projection.name, None), Repair(live.projection.name, voyage[1].id))
        voyage[2].post("on and on")
        record(voyage[2])
        for _ in range(3):  # each decision waits for the lane in which the other one stands
            forward(worker, log, log.head())
            assert worker._failures == 0
    assert [position for position, *_ in parked(connection, live)] == [4, 5, 6, 73]
    equals_a_fold(live)


def test_what_an_operator_took_out_stays_out(voyage, live, database, connection, equals_a_fold):
    with closing(Log(database, inline=[SKIPS])) as log:
        log.save_work([Skip(live.projection.name, 3, "never paid")], metadata=b"{}")
        with holding(database, log, live, of(0, 1, 2)) as worker:
            forward(worker, log, log.head())
            assert worker._failures == 0
            assert worker.applied >= 59
    stays = live.projection.table("stays", live.number)
    assert connection.execute(f"select 1 from {stays} where from_position = 3").fetchone() is None
    equals_a_fold(live)


def test_events_that_were_parked_by_a_decision_meanwhile_are_seen(
    voyage, log, live, database, connection, monkeypatch, equals_a_fold
):
    """Between the look at what is parked and the lock on the lanes somebody may have mended a stream."""
    spoil(connection, 0, [(4, ("state", lambda _: b"{"))])
    with holding(database, log, live, of(0, 1, 2)) as worker:
        forward(worker, log, 36)
        assert len(parked(connection, live)) == 3
        begin = worker._begin

        def begin_late(streams, after=0):
            monkeypatch.setattr(worker, "_begin", begin)
            connection.execute("update projection_parked set stream = %s where position = 4", (voyage[11].id,))
            return begin(streams, after)

        monkeypatch.setattr(worker, "_begin", begin_late)
        forward(worker, log, log.head())
        assert worker._failures == 1
        waiting = [position for position, stream, *_ in parked(connection, live) if stream == voyage[11].id]
        assert waiting == [4, *range(67, 73)]


# --- who reads meanwhile, and who comes after


def test_all_that_was_remembered_is_old_in_the_very_commit(voyage, log, live, database, connection):
    connection.execute("listen muniment_progress")
    connection.execute("listen muniment_cache")
    graph, told = connection.execute(READ).fetchone()[1], []
    keyed = declared(invalidates={Liner.Embarked: "passenger"})
    with (
        fed_in_lanes(connection, log, keyed, 0) as build,
        holding(database, log, build, of(0, 1, 2), committed=told.append) as worker,
    ):
        for _ in connection.notifies(timeout=0):
            pass
        forward(worker, log, log.head())
    heard = [(each.channel, each.payload) for each in connection.notifies(timeout=20, stop_after=3)]
    assert [channel for channel, _ in heard] == ["muniment_cache", "muniment_progress", "muniment_progress"]
    assert '"*"' in heard[1][1]
    assert [each.invalidate for each in told] == [("*",)]
    assert connection.execute(READ).fetchone()[1] > graph


def test_what_makes_nothing_old_forgets_nothing(voyage, log, live, database, connection):
    connection.execute("listen muniment_cache")
    with holding(database, log, live, of(0, 1, 2)) as worker:
        forward(worker, log, log.head())
    assert list(connection.notifies(timeout=0)) == []


def test_who_has_lost_a_lane_writes_nothing(voyage, log, live, database, connection):
    lanes = SPREAD.lanes(live.projection)
    with holding(database, log, live, lanes) as late, holding(database, log, live, lanes[-1:]) as early:
        with pytest.raises(Fenced):
            forward(late, log, log.head())
        assert lanes_at(connection, live) == [(0, None, None, None, None)]
        stays = live.projection.table("stays", live.number)
        assert connection.execute(f"select count(*) from {stays}").fetchone() == (0,)
        forward(early, log, log.head())


def test_who_is_killed_in_a_stretch_has_done_nothing_of_it(voyage, log, live, database, connection, equals_a_fold):
    with holding(database, log, live, of(0, 1, 2)) as doomed:
        move = doomed._move_lanes

        def killed(*given):
            move(*given)
            connection.execute("select pg_terminate_backend(%s)", (doomed._connection.info.backend_pid,))

        doomed._move_lanes = killed
        with pytest.raises(psycopg.OperationalError):
            forward(doomed, log, log.head())
    assert lanes_at(connection, live) == [(0, None, None, None, None)]
    with holding(database, log, live, of(0, 1, 2)) as worker:
        forward(worker, log, log.head())
    equals_a_fold(live)


def test_a_build_that_was_dropped_is_said_to_be_gone(voyage, log, database, connection):
    build = create_build(connection, declared(), feed="scratch", lane=WHOLE)
    change_feed(connection, log, build, FAUST, SPREAD)
    with holding(database, log, build, of(0, 1, 2)) as worker:
        drop_build(connection, build)
        with pytest.raises(BuildGone):
            forward(worker, log, log.head())


def test_readers_and_the_log_go_on_while_a_stretch_is_on_its_way(voyage, record, log, live, database, connection):
    """What it holds are its own lanes; and only at its end the number that readers look at."""
    connection.execute("set lock_timeout = '1s'")
    keyed = declared(invalidates={Liner.Embarked: "passenger"})
    with (
        fed_in_lanes(connection, log, keyed, 0) as build,
        holding(database, log, build, of(0, 1, 2)) as worker,
    ):
        sets, stays = worker._sets, build.projection.table("stays", build.number)

        def meanwhile(*given):
            found = sets(*given)
            assert connection.execute(f"select count(*) from {stays}").fetchone() == (0,)
            connection.execute("update cache_versions set graph = graph + 1")
            voyage[0].post(f"meanwhile {random.random()}")  # noqa: S311
            record(voyage[0])
            return found

        worker._sets = meanwhile
        forward(worker, log, 72)
        assert connection.execute(f"select count(*) from {stays}").fetchone() == (36,)
