"""A worker that is far behind brings its lanes forward in two halves, side by side: the views are the same."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from domain.access import UserAssignments
from domain.context import Context
from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections import feeds
from projections.access import ACCESS
from projections.builds import ensure_builds
from projections.bulk import BulkLimits
from projections.compare import fold_views
from projections.engine import Build
from projections.errors import Fenced
from projections.facts import read
from projections.feeds import FAUST, catch_up_together, change_feed
from projections.lane import Hooks
from projections.lanes import LanesEngine, Spread, Stretch, take_lanes
from projections.lanes_by_sets import LanesBySets
from stream_apps import build_feed
from stream_apps.build_feed import HEALED
from stream_apps.feeder import Feeder, FeederSetup
from tests.stream_apps.streaming import (
    BUILDS,
    METADATA,
    PROJECTIONS,
    feeder_setup,
    fleet,
    places,
    positions,
    record_layout,
    sail,
    spread,
)

ONE = spread()
OF_ACCESS = Spread(1, 4, {module: f"muniment.{module}" for module in ("access", "identity", "projections")})


@pytest.fixture(autouse=True)
def _split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_feed, "SPLIT_EVENTS", 1)


@pytest.fixture
def setup(database: str, log: Log, connection: psycopg.Connection[Any]) -> FeederSetup:
    ensure_builds(connection, PROJECTIONS)
    record_layout(connection, ONE)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, ONE)
    return feeder_setup(database, log, bulk_events=5)


def caught_up(setup: FeederSetup) -> Feeder:
    feeder = Feeder(setup, ONE.topics.values())
    feeder.own(places(ONE))
    feeder.tick()
    return feeder


def healed() -> float:
    return HEALED.labels("harbour", "start")._value.get()


def test_all_lanes_come_to_the_head_and_every_event_is_applied_once(
    database: str, connection: psycopg.Connection[Any], log: Log, setup: FeederSetup
) -> None:
    sail(log, fleet(log), 60)
    before = healed()
    caught_up(setup).close()
    assert set(positions(connection)) == {log.head()}
    assert healed() - before == log.head()
    for build in BUILDS:
        assert fold_views(database, log, build, ONE) == (log.head(), [])


def test_decisions_in_the_middle_wait_for_the_lanes_that_they_are_about(
    database: str, connection: psycopg.Connection[Any], log: Log, setup: FeederSetup
) -> None:
    ships, chance = fleet(log), random.Random(7)  # noqa: S311
    for ship in ships[:4]:
        ship.sight_kraken(0)
        ship.moor(3)
        log.save_work([ship], metadata=METADATA)
    dispatcher, anybody = Dispatcher(log, attempts=3), Context.system("t", "t")
    krakens = [fact.position for fact in read(log, 0, 1000) if fact.topic.endswith("KrakenSighted")]
    caught_up(setup).close()
    assert set(positions(connection)) == {log.head()}
    for position in krakens[:2]:
        dispatcher.dispatch(skip_parked, SkipParked("harbour", position, "no arms"), anybody)
        sail(log, chance.sample(ships[4:], 3), 6)
    dispatcher.dispatch(retry_parked, RetryParked("harbour", None), anybody)
    sail(log, ships[4:], 12)

    caught_up(setup).close()

    assert set(positions(connection)) == {log.head()}
    parked = connection.execute("select position from projection_parked where error is not null").fetchall()
    assert sorted(position for (position,) in parked) == krakens[2:]
    for build in BUILDS:
        assert fold_views(database, log, build, ONE) == (log.head(), [])


def test_who_has_lost_a_lane_stands_back_with_that_view_and_brings_the_others_level(
    connection: psycopg.Connection[Any], log: Log, setup: FeederSetup
) -> None:
    ships = fleet(log)
    feeder = caught_up(setup)
    at = log.head()
    lost = ONE.lanes(BUILDS[0].projection)[1]
    take_lanes(connection, BUILDS[0], [lost])
    sail(log, ships, 20)
    feeder.tick()
    feeder.close()
    assert set(positions(connection, BUILDS[1].projection.name)) == {log.head()}
    row = connection.execute(
        "select position from projection_progress where projection = %s and topic = %s and partition = %s",
        (BUILDS[0].projection.name, lost.topic, lost.partition),
    ).fetchone()
    assert row == (at,)


def test_both_halves_of_a_build_end_where_one_has_lost_a_lane(
    database: str, connection: psycopg.Connection[Any], log: Log, setup: FeederSetup
) -> None:
    sail(log, fleet(log), 40)
    mine, others = BUILDS
    lanes = ONE.lanes(mine.projection)
    with psycopg.connect(database, autocommit=True) as one, psycopg.connect(database, autocommit=True) as two:
        held = take_lanes(connection, mine, lanes)
        halves = [
            LanesEngine(each, log, mine, ONE, {lane: held[lane] for lane in lanes if lane.partition == number})
            for number, each in enumerate((one, two))
        ]
        whole = LanesEngine(connection, log, others, ONE, take_lanes(connection, others, ONE.lanes(others.projection)))
        take_lanes(connection, mine, [lane for lane in lanes if lane.partition == 1][:1])

        @contextmanager
        def standing_back(engine: LanesEngine) -> Iterator[None]:
            try:
                yield
            except Fenced:
                one.close()

        with ThreadPoolExecutor(3) as threads:
            catch_up_together(
                [(engine, list(engine.positions)) for engine in (*halves, whole)],
                log,
                log.head(),
                guard=standing_back,
                limits=BulkLimits(batch_events=4),
                threads=threads,
            )
    assert one.closed
    assert set(whole.positions.values()) == {log.head()}
    assert max(halves[0].positions.values()) <= 4


@pytest.mark.parametrize("tells_partitions_apart", [True, False])
def test_assignments_go_in_at_once_in_both_halves_or_together_and_all_that_was_remembered_is_old(
    tells_partitions_apart: bool,
    database: str,
    connection: psycopg.Connection[Any],
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not every PostgreSQL can tell partitions apart; then one connection takes all of them."""
    monkeypatch.setattr(feeds, "LEAST_EVENTS", 1)
    monkeypatch.setattr(LanesBySets, "splits", tells_partitions_apart)
    users = [UserAssignments(user_id=uuid4()) for _ in range(40)]
    for user in users:
        user.assign("clerk", "/acme", None, datetime.now(UTC))
        user.assign("clerk", "/acme/eu", datetime.now(UTC) + timedelta(days=1), datetime.now(UTC))
        user.revoke("clerk", "/acme")
    log.save_work(users, metadata=METADATA)
    ensure_builds(connection, [ACCESS])
    record_layout(connection, OF_ACCESS)
    change_feed(connection, log, Build(ACCESS, 1), FAUST, OF_ACCESS)
    at_once, old = list[int](), list[tuple[str, ...]]()
    stretch = LanesBySets.stretch

    def counted(engine: LanesBySets, stretches: Sequence[Stretch]) -> None:
        before = engine.applied
        stretch(engine, stretches)
        at_once.append(engine.applied - before)

    monkeypatch.setattr(LanesBySets, "stretch", counted)
    setup = feeder_setup(
        database, log, Hooks(after_commit=lambda applied: old.append(applied.invalidate)), bulk_events=5
    )
    feeder = Feeder(replace(setup, projections=[ACCESS]), OF_ACCESS.topics.values())
    feeder.own(places(OF_ACCESS))
    feeder.tick()
    feeder.close()
    assert set(positions(connection, "access")) == {log.head()}
    assert fold_views(database, log, Build(ACCESS, 1), OF_ACCESS) == (log.head(), [])
    assert len(at_once) == 1 + tells_partitions_apart
    assert sum(at_once) == 3 * len(users)
    assert min(at_once) > 0
    assert old == [("*",)] * len(at_once)
