"""The feeder on real PostgreSQL, handed messages as a broker might: views equal a fresh fold, whatever came."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from msgspec import structs

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from domain.context import Context
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.layouts import Place
from infra.listener import Listener
from infra.messages import Messages
from infra.settings import Settings
from infra.transcoding import NewerSoftware
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import WHOLE, Build, Engine
from projections.facts import read
from projections.feeds import FAUST, FOLLOWER, change_feed
from projections.lanes import Spread
from projections.read import Reader
from runtime import modules
from runtime.relay import wanted
from stream_apps import standstill
from stream_apps.feeder import DROPPED, Feeder, FeederSetup, NewTopics, Raw
from tests.e2e.platform import eventually
from tests.projections.harbour import HARBOUR, Keeper
from tests.stream_apps.streaming import (
    BUILDS,
    METADATA,
    PROJECTIONS,
    carried,
    feeder_setup,
    fleet,
    places,
    positions,
    record_layout,
    sail,
    spread,
)

ONE = spread()


@pytest.fixture
def setup(database: str, log: Log, connection: psycopg.Connection[Any]) -> FeederSetup:
    ensure_builds(connection, PROJECTIONS)
    record_layout(connection, ONE)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, ONE)
    return feeder_setup(database, log)


@pytest.fixture
def feeder(setup: FeederSetup) -> Iterator[Feeder]:
    feeder = worker(setup)
    yield feeder
    feeder.close()


def worker(setup: FeederSetup) -> Feeder:
    """One that holds everything."""
    feeder = Feeder(setup, ONE.topics.values())
    feeder.own(places(ONE))
    return feeder


def assert_level(database: str, log: Log, layout: Any = ONE) -> None:
    for build in BUILDS:
        assert fold_views(database, log, build, layout) == (log.head(), [])


def dropped(reason: str) -> float:
    return DROPPED.labels(reason)._value.get()


def test_feeds_views_that_equal_a_fold(database: str, log: Log, feeder: Feeder) -> None:
    sail(log, fleet(log), 60)
    log.save_work([Keeper("Ada", uuid4())], metadata=METADATA)
    feeder.handle(carried(log, ONE))
    assert_level(database, log)


@pytest.mark.parametrize("seed", range(6))
def test_holes_repeats_and_another_order_of_partitions_do_no_harm(
    database: str, log: Log, feeder: Feeder, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    ships = fleet(log)
    sail(log, ships, 60)
    messages = carried(log, ONE)
    end = messages[-len(places(ONE)) :]
    for _ in range(6):
        kept = [message for message in messages if chance.random() < 0.6]
        # Within a partition a broker keeps the order; between partitions there is none.
        order = {place: chance.random() for place in places(ONE)}
        kept.sort(key=lambda message, order=order: order[message.place])
        feeder.handle(kept[: chance.randrange(len(kept) + 1)])
    feeder.handle(end)
    assert_level(database, log)


def test_a_bus_that_lost_everything_is_made_up_for(database: str, log: Log, feeder: Feeder) -> None:
    ships = fleet(log)
    feeder.handle(carried(log, ONE))
    before = log.head()
    sail(log, ships, 40)
    feeder.handle(carried(log, ONE, after=log.head())[-len(places(ONE)) :])
    assert log.head() > before
    assert_level(database, log)


def test_garbage_and_forgeries_are_dropped_and_stop_nothing(database: str, log: Log, feeder: Feeder) -> None:
    sail(log, fleet(log), 20)
    messages = carried(log, ONE)
    forged = [Raw(m.place, m.key, (m.value or b"") + b" ", m.headers) for m in messages[:3]]
    elsewhere = [replace(m, place=Place(m.place.topic, 1 - m.place.partition)) for m in messages[:3]]
    other_seal = Messages(b"x" * 32)
    fact = read(log, 0, 1)[0]
    sealed_by_others = other_seal.event(messages[0].place, fact, previous=0, layout=1)
    garbage = [
        Raw(messages[0].place, None, None, None),
        Raw(messages[0].place, b"\xff", b"not json", [("ce_seal", b"??"), ("ce_type", None)]),
        Raw(messages[0].place, sealed_by_others.key, sealed_by_others.value, sealed_by_others.headers),
    ]
    before = dropped("forged"), dropped("unsealed")
    feeder.handle([*garbage, *forged, *elsewhere])
    feeder.handle([each for pair in zip(messages, garbage * 99, strict=False) for each in pair])
    assert_level(database, log)
    assert dropped("forged") >= before[0] + 7
    assert dropped("unsealed") >= before[1] + 1


def test_what_stands_above_the_log_is_of_another_past(database: str, log: Log, setup: FeederSetup) -> None:
    sail(log, fleet(log), 10)
    fact = structs.replace(read(log, 0, 1)[0], position=10_000)
    place = Place("muniment.harbour", 0)
    message = setup.messages.event(place, fact, previous=0, layout=1)
    feeder = worker(setup)
    feeder.handle([Raw(place, message.key, message.value, message.headers)])
    feeder.close()
    with psycopg.connect(database) as connection:
        assert max(positions(connection)) == 0


def test_an_authentic_message_of_a_newer_release_stops_the_worker(log: Log, feeder: Feeder, setup: FeederSetup) -> None:
    fleet(log)
    fact = structs.replace(read(log, 0, 1)[0], topic="harbour.ShipTeleported")
    place = Place("muniment.harbour", 0)
    message = setup.messages.event(place, fact, previous=0, layout=1)
    with pytest.raises(NewerSoftware):
        feeder.handle([Raw(place, message.key, message.value, message.headers)])


def test_silent_partitions_keep_up_by_watermarks(connection: psycopg.Connection[Any], log: Log, feeder: Feeder) -> None:
    ship = fleet(log, 1)[0]
    for _ in range(3):
        ship.sing("ho")
        log.save_work([ship], metadata=METADATA)
    feeder.handle(carried(log, ONE))
    assert set(positions(connection)) == {log.head()}


def test_at_least_a_position_is_reached_where_most_partitions_have_been_silent_for_hours(
    database: str, connection: psycopg.Connection[Any], log: Log, feeder: Feeder
) -> None:
    ships = fleet(log)
    feeder.handle(carried(log, ONE))
    for sql in (
        "update stored_events set recorded_at = recorded_at - interval '7 h'",
        "update projection_progress set recorded_at = recorded_at - interval '7 h', seen_at = seen_at - interval '7 h'",
    ):
        connection.execute(sql)

    async def waited() -> int:
        listener = Listener(database, {HARBOUR.name: HARBOUR.version})
        await listener.start()
        waiting = asyncio.create_task(listener.wait([HARBOUR.name], log.head() + 1, 10))
        await asyncio.sleep(0)
        ships[0].moor(3)
        log.save_work(ships[:1], metadata=METADATA)
        messages = carried(log, ONE, after=log.head() - 1)
        assert len(messages) == 1 + len(places(ONE)), "one event, and a watermark for each partition"
        await asyncio.to_thread(feeder.handle, messages)
        await waiting
        found = listener.position(HARBOUR.name)
        await listener.stop()
        return found

    assert asyncio.run(waited()) == log.head()


def test_the_last_lane_to_arrive_tells_how_far_the_view_is(
    database: str, connection: psycopg.Connection[Any], log: Log, feeder: Feeder
) -> None:
    sail(log, fleet(log), 12)
    connection.execute("listen muniment_progress")
    by_place: dict[Place, list[Raw]] = {}
    for message in carried(log, ONE):
        by_place.setdefault(message.place, []).append(message)
    told = []
    for messages in by_place.values():
        feeder.handle(messages)
        said = [note.payload for note in connection.notifies(timeout=0.2)]
        told.append(max((json.loads(text)["position"] for text in said if '"harbour"' in text), default=0))
    assert told == [0, 0, 0, log.head()]


def test_at_least_is_the_least_over_the_partitions(database: str, log: Log, feeder: Feeder) -> None:
    sail(log, fleet(log), 12)
    messages = carried(log, ONE)
    feeder.handle([m for m in messages if m.place == messages[0].place])
    with psycopg.connect(database, autocommit=True) as connection:

        def lend() -> Any:
            return nullcontext(connection)

        assert Reader(lend).run(lambda read: 0, HARBOUR).position == 0
        feeder.handle(messages)
        assert Reader(lend).run(lambda read: 0, HARBOUR, at_least=log.head()).position == log.head()


def test_a_dead_event_is_parked_and_retried_and_skipped_as_from_the_log(
    database: str, log: Log, feeder: Feeder, connection: psycopg.Connection[Any]
) -> None:
    ships = fleet(log)
    for ship in ships[:4]:
        ship.sight_kraken(0)
        ship.moor(3)
        log.save_work([ship], metadata=METADATA)
    feeder.handle(carried(log, ONE))
    dispatcher = Dispatcher(log, attempts=3)
    parked = connection.execute(
        "select position from projection_parked where projection = 'harbour' and error is not null order by 1"
    ).fetchall()
    assert len(parked) == 4
    dispatcher.dispatch(skip_parked, SkipParked("harbour", parked[0][0], "no arms"), Context.system("t", "t"))
    dispatcher.dispatch(retry_parked, RetryParked("harbour", None), Context.system("t", "t"))
    dispatcher.dispatch(skip_parked, SkipParked("harbour", parked[1][0], "no arms"), Context.system("t", "t"))
    sail(log, ships, 8)
    messages = carried(log, ONE)
    # The decisions come first, before the lanes that they are about: they wait for those.
    feeder.handle([m for m in messages if m.place.topic == "muniment.projections"])
    assert positions(connection)[-2:] != [log.head(), log.head()]
    feeder.handle(messages)
    feeder.handle(messages)
    assert connection.execute("select count(*) from projection_parked where error is not null").fetchone() == (2,)
    assert_level(database, log)


def test_two_workers_share_the_partitions(database: str, log: Log, setup: FeederSetup) -> None:
    sail(log, fleet(log), 40)
    halves = [Feeder(setup, ONE.topics.values()) for _ in range(2)]
    for number, half in enumerate(halves):
        half.own(place for place in places(ONE) if place.partition == number)
    for half in halves:
        half.handle(carried(log, ONE))
        half.close()
    assert_level(database, log)


def test_who_took_the_lanes_is_not_disturbed_by_who_had_them(database: str, log: Log, setup: FeederSetup) -> None:
    ships = fleet(log)
    old, new = worker(setup), worker(setup)
    old.handle(carried(log, ONE))
    new.tick()
    sail(log, ships, 10)
    old.handle(carried(log, ONE))
    with psycopg.connect(database) as connection:
        assert max(positions(connection)) < log.head()
    new.handle(carried(log, ONE))
    assert_level(database, log)
    old.close()
    new.close()


@pytest.mark.parametrize("first", [FAUST, FOLLOWER])
def test_feeds_change_both_ways_without_loss_or_repetition(
    database: str, connection: psycopg.Connection[Any], log: Log, feeder: Feeder, first: str
) -> None:
    ships = fleet(log)
    messages = carried(log, ONE)
    feeder.handle(messages[: len(messages) // 2])
    for turn in range(3):
        sail(log, ships, 9)
        for build in BUILDS:
            change_feed(connection, log, build, FOLLOWER, ONE)
            follow(database, log, build, upto=log.head() - 3)
        sail(log, ships, 4)
        for build in BUILDS:
            change_feed(connection, log, build, FAUST, ONE)
        feeder.tick()
        messages = carried(log, ONE)
        feeder.handle(messages[turn::2])
    feeder.handle(messages)
    assert_level(database, log)


def follow(database: str, log: Log, build: Build, upto: int) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        engine = Engine(connection, log, build, lane=WHOLE, fence=9)
        position = engine.take_over()
        engine.apply(read(log, position, max(0, upto - position)), position)


def test_a_new_layout_goes_on_where_the_former_one_is(
    database: str, connection: psycopg.Connection[Any], log: Log, feeder: Feeder
) -> None:
    ships = fleet(log)
    sail(log, ships, 10)
    messages = carried(log, ONE)
    feeder.handle(messages[: len(messages) // 2])
    start = log.head()
    two = spread(2, 3)
    record_layout(connection, two, start)
    sail(log, ships, 10)
    feeder.own(places(two))
    feeder.tick()
    feeder.handle(messages)
    feeder.handle(carried(log, two, start))
    assert_level(database, log, two)


def test_a_layout_with_other_topics_asks_for_a_new_process(
    connection: psycopg.Connection[Any], log: Log, feeder: Feeder
) -> None:
    feeder.tick()
    record_layout(connection, spread(2, 2, "muniment.k"))
    with pytest.raises(NewTopics):
        eventually(feeder.tick)  # the notification takes its time


def test_who_is_far_behind_reads_the_log_in_bulk(database: str, log: Log, setup: FeederSetup) -> None:
    sail(log, fleet(log), 50)
    feeder = worker(replace(setup, limits=replace(setup.limits, bulk_events=20)))
    feeder.tick()
    feeder.close()
    assert_level(database, log)


def test_a_silent_bus_is_made_up_for_by_the_log(database: str, log: Log, setup: FeederSetup) -> None:
    ships = fleet(log)
    feeder = worker(replace(setup, limits=replace(setup.limits, bulk_events=10_000, silence_seconds=0.0)))
    feeder.tick()
    sail(log, ships, 5)
    feeder.tick()
    feeder.tick()
    feeder.close()
    assert_level(database, log)


def test_a_worker_without_partitions_notices_that_nobody_feeds_the_views(
    database: str, log: Log, setup: FeederSetup, feeder: Feeder
) -> None:
    ships = fleet(log)
    idle = Feeder(replace(setup, limits=replace(setup.limits, silence_seconds=0.0)), ONE.topics.values())
    feeder.handle(carried(log, ONE))
    for _ in range(3):
        idle.tick()
    assert idle.silent_seconds == 0
    sail(log, ships, 5)
    for _ in range(3):
        idle.tick()
    assert idle.silent_seconds > 0
    feeder.handle(carried(log, ONE))
    idle.tick()
    assert idle.silent_seconds == 0
    idle.close()


@pytest.fixture
def impatient(setup: FeederSetup, monkeypatch: pytest.MonkeyPatch) -> FeederSetup:
    """Nothing needs to be silent or to stand still for long."""
    monkeypatch.setattr(standstill, "FORSAKEN_SECONDS", 0.0)
    return replace(setup, limits=replace(setup.limits, bulk_events=10_000, silence_seconds=0.0))


def tick_until_level(database: str, log: Log, *feeders: Feeder) -> None:
    def is_level() -> bool:
        for feeder in feeders:
            feeder.tick()
        with psycopg.connect(database) as connection:
            return min(positions(connection, "harbour") + positions(connection, "keepers")) == log.head()

    eventually(is_level)
    assert_level(database, log)


def test_without_a_bus_a_worker_feeds_from_the_log_what_nobody_feeds(
    database: str, log: Log, impatient: FeederSetup
) -> None:
    ships = fleet(log)
    lonely = Feeder(impatient, ONE.topics.values())
    lonely.stand_in()
    for _ in range(3):
        sail(log, ships, 5)
        tick_until_level(database, log, lonely)
    lonely.close()


def test_without_a_bus_two_workers_leave_nothing_behind(database: str, log: Log, impatient: FeederSetup) -> None:
    ships = fleet(log)
    workers = [Feeder(impatient, ONE.topics.values()) for _ in range(2)]
    for each in workers:
        each.stand_in()
    for _ in range(3):
        sail(log, ships, 5)
        tick_until_level(database, log, *workers)
    for each in workers:
        each.close()


def test_who_stood_in_gives_way_to_whom_the_bus_gives_the_partitions(
    database: str, log: Log, impatient: FeederSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ships = fleet(log)
    lonely = Feeder(impatient, ONE.topics.values())
    lonely.stand_in()
    tick_until_level(database, log, lonely)
    monkeypatch.setattr(standstill, "FORSAKEN_SECONDS", 1e9)
    rightful = worker(replace(impatient, limits=replace(impatient.limits, silence_seconds=1e9)))
    rightful.tick()
    for _ in range(3):
        sail(log, ships, 5)
        lonely.tick()
    rightful.handle(carried(log, ONE))
    assert_level(database, log)
    assert len(rightful._feeds) == len(BUILDS)
    assert not lonely._feeds
    lonely.close()
    rightful.close()


def test_a_lost_connection_loses_nothing(
    database: str, connection: psycopg.Connection[Any], log: Log, feeder: Feeder
) -> None:
    ships = fleet(log)
    feeder.handle(carried(log, ONE))
    for _ in range(3):
        sail(log, ships, 7)
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        feeder.handle(carried(log, ONE))
    assert_level(database, log)


def test_what_becomes_old_is_buried_before_the_commit_and_after(database: str, log: Log, setup: FeederSetup) -> None:
    ships = fleet(log)
    seen: list[tuple[str, bool]] = []

    def buried(applied: Any) -> None:
        with psycopg.connect(database) as other:
            row = other.execute("select berth from harbour_ships_v1_b1 where id = %s", (ships[0].id,)).fetchone()
        if applied.invalidate:
            seen.append((applied.invalidate[0], row == (5,)))

    feeder = worker(replace(setup, hooks=replace(setup.hooks, after_commit=buried)))
    feeder.handle(carried(log, ONE))
    ships[0].moor(5)
    log.save_work(ships[:1], metadata=METADATA)
    feeder.handle(carried(log, ONE))
    feeder.close()
    assert seen == [(str(ships[0].id), False), (str(ships[0].id), True)]


def test_nothing_that_may_need_the_views_own_locks_happens_before_its_commit(
    database: str, log: Log, setup: FeederSetup, connection: psycopg.Connection[Any]
) -> None:
    """A retry or skip makes everything old: what moves for that in PostgreSQL mustn't wait for the view itself."""
    ships = fleet(log)
    ships[0].sight_kraken(0)
    log.save_work(ships[:1], metadata=METADATA)
    before: list[bool] = []

    def buried(applied: Any) -> None:
        if "*" in applied.invalidate:
            with psycopg.connect(database) as other:
                parked = other.execute("select count(*) from projection_parked where projection = 'harbour'").fetchone()
            before.append(parked == (1,))

    feeder = worker(replace(setup, hooks=replace(setup.hooks, after_commit=buried)))
    feeder.handle(carried(log, ONE))
    parked = connection.execute("select position from projection_parked where projection = 'harbour'").fetchone()
    assert parked
    command = SkipParked("harbour", parked[0], "no arms")
    Dispatcher(log, attempts=3).dispatch(skip_parked, command, Context.system("t", "t"))
    feeder.handle(carried(log, ONE))
    feeder.handle(carried(log, ONE))
    feeder.close()
    assert before == [False]


@pytest.mark.parametrize("count", [180, 198, 202, 206, 300])
def test_what_makes_more_old_than_a_notification_holds_says_everything(
    database: str, connection: psycopg.Connection[Any], log: Log, feeder: Feeder, count: int
) -> None:
    ships = fleet(log, count)
    feeder.handle(carried(log, ONE))
    connection.execute("listen muniment_progress")
    for ship in ships:
        ship.moor(5)
    log.save_work(ships, metadata=METADATA)
    feeder.handle(carried(log, ONE))
    told = [json.loads(each.payload)["invalidate"] for each in connection.notifies(timeout=0)]
    assert [str(ship.id) for ship in ships] in told or ["*"] in told
    assert_level(database, log)


def test_every_view_of_the_platform_can_be_fed_from_the_bus() -> None:
    topics = {topic.rpartition(".")[2]: topic for topic in wanted(Settings()).topics(1)}
    for view in modules.projections():
        assert Spread(1, 2, topics).lanes(view)
