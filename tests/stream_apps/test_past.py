"""The bus and the reactions where the log was cut back to an earlier position and went on from there."""

from dataclasses import replace
from uuid import uuid4

import pytest

from domain.projections import Retry, Skip
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.layouts import Placing
from infra.messages import marks_of_all
from infra.past import forget, is_strange
from infra.reaction_store import Place, places_of, prune_unparked
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from projections.facts import read
from projections.feeds import FAUST, change_feed
from projections.lane import Hooks
from projections.lanes import Spread
from projections.past import discard_strange
from stream_apps.comparison import AnotherPast, compared
from stream_apps.feeder import DROPPED, Feeder
from stream_apps.lanes import LanesDriver, hand_over, lanes_of
from stream_apps.past import put_back
from stream_apps.reactions import Intention
from tests.cutting import cut_back, keep
from tests.e2e.platform import eventually
from tests.projections.harbour import HARBOUR, KEEPERS
from tests.stream_apps.carrying import MESSAGES, Writer, assert_whole, layout_of, relay_setup, relaying, wait_until_sent
from tests.stream_apps.conftest import drive
from tests.stream_apps.streaming import (
    BUILDS,
    PROJECTIONS,
    carried,
    feeder_setup,
    fleet,
    places,
    record_layout,
    sail,
    spread,
)
from tests.stream_apps.tearoom import PAIRS, SERVE, Guest, Ring, Till, ring, till_of

ONE = spread()


# --- reactions


def rung(log, guest):
    """The teas that were rung for a guest, as the log has it."""
    return [fact.event.tea for fact in read(log, 0, 10_000) if isinstance(fact.event, Till.Rung)
            and fact.stream == till_of(guest.id)]  # fmt: skip


def make_good(connection, reaction=SERVE):
    with connection.transaction():
        connection.execute("select from log_head for update")
        names = put_back(connection, [reaction])
        forget(connection, "a test")
    return names


@pytest.fixture
def guest(record):
    guest = Guest("Alice")
    record(guest)
    return guest


def order(record, guest, *teas):
    for tea in teas:
        guest.order(tea)
        record(guest)


def test_what_was_lost_with_the_log_is_issued_again_and_nothing_else_twice(connection, log, record, driver, guest):
    order(record, guest, "assam", "ceylon")
    drive(driver(SERVE), log)
    order(record, guest, "lapsang")  # ordered before the cut, rung after it
    keep(connection)
    drive(driver(SERVE), log)
    lost = Guest("Mad Hatter")
    record(lost)
    order(record, lost, "darjeeling")
    drive(driver(SERVE), log)
    cut_back(connection)
    assert rung(log, guest) == ["assam", "ceylon"]

    assert is_strange(connection)
    assert make_good(connection) == ["serve"]
    drive(driver(SERVE), log)
    assert rung(log, guest) == ["assam", "ceylon", "lapsang"]
    assert not is_strange(connection)


def test_a_log_that_grew_past_the_reaction_again_loses_no_event(connection, log, record, driver, guest):
    order(record, guest, "assam")
    drive(driver(SERVE), log)
    keep(connection)
    lost = Guest("Mad Hatter")
    record(lost)
    order(record, lost, "darjeeling")
    drive(driver(SERVE), log)
    reached = places_of(connection, "serve")[Place("serve")]
    cut_back(connection)
    order(record, guest, *["oolong"] * 6)
    assert log.head() > reached
    assert make_good(connection) == ["serve"]
    drive(driver(SERVE), log)
    assert rung(log, guest) == ["assam", *["oolong"] * 6]


def test_one_that_has_led_to_nothing_yet_goes_back_to_where_it_started(connection, log, record, driver, guest):
    drive(driver(SERVE), log)
    keep(connection)
    order(record, guest, "none", "none")
    drive(driver(SERVE), log)
    cut_back(connection)
    make_good(connection)
    assert places_of(connection, "serve") == {Place("serve"): 0}
    order(record, reread(log, guest), "assam")
    drive(driver(SERVE), log)
    assert rung(log, guest) == ["assam"]


def reread(log, guest):
    return log.repository.get(guest.id)


def test_what_was_parked_of_lost_events_is_forgotten(connection, log, record, driver, guest):
    order(record, guest, "gibberish")
    drive(driver(SERVE), log)
    keep(connection)
    lost = Guest("Mad Hatter")
    record(lost)
    order(record, lost, "gibberish")
    drive(driver(SERVE), log)
    assert connection.execute("select count(*) from reaction_parked").fetchone() == (2,)
    cut_back(connection)
    make_good(connection)
    drive(driver(SERVE), log)
    assert connection.execute("select stream from reaction_parked").fetchall() == [(guest.id,)]


def test_each_partition_is_put_back_by_itself(connection, log, record, guest):
    layout = Spread(1, 2, {"tearoom": "tea.tearoom", "projections": "tea.projections"})
    connection.execute(
        "insert into bus_layouts (layout, incarnation, partitions, topics, types_digest, from_position, reason)"
        " values (1, 1, 2, '{tea.projections,tea.tearoom}', '', 0, 'a test')"
    )
    guests = [guest, *(Guest(f"guest {number}") for number in range(7))]
    record(*guests[1:])
    dispatcher = Dispatcher(log)
    hand_over(connection, log, dispatcher, SERVE, layout)
    lanes = lanes_of(SERVE, layout)

    def reacted(lane_limit=None):
        driver = LanesDriver(connection, log, dispatcher, SERVE, layout, list(lanes))
        driver.heal(list(lanes)[:lane_limit], log.head())

    for each in guests:
        order(record, each, "assam")
    reacted()
    for each in guests:
        order(record, each, "ceylon")
    reacted(1)  # one partition is ahead of the other
    keep(connection)
    reacted()
    order(record, guests[0], "lost")
    reacted()
    cut_back(connection)
    assert make_good(connection) == ["serve"]
    reacted()
    assert {tuple(rung(log, each)) for each in guests} == {("assam", "ceylon")}


def parked(connection):
    return connection.execute("select position from reaction_parked order by 1").fetchall()


def healed(cause):
    return Intention(ring, Ring(cause.stream, cause.event.tea))


HEALED = replace(SERVE, on={Guest.Ordered: healed})


def test_what_was_retried_in_the_lost_part_of_the_log_is_parked_again(connection, log, record, driver, guest):
    order(record, guest, "gibberish", "ceylon")
    drive(driver(SERVE), log)
    other = Guest("Dormouse")
    record(other)
    order(record, other, "assam")
    drive(driver(SERVE), log)
    before = parked(connection)
    assert len(before) == 2  # the one that nobody can read, and the one behind it
    keep(connection)
    record(Retry("reaction:serve", None))
    drive(driver(HEALED), log)
    assert (rung(log, guest), parked(connection)) == (["gibberish", "ceylon"], [])
    cut_back(connection)

    assert make_good(connection) == ["serve"]
    assert parked(connection) == before
    record(Retry("reaction:serve", None))
    drive(driver(HEALED), log)
    assert (rung(log, guest), rung(log, other), parked(connection)) == (["gibberish", "ceylon"], ["assam"], [])


def test_what_the_log_still_knows_to_be_done_or_skipped_is_not_parked_again(connection, log, record, driver, guest):
    order(record, guest, "gibberish", "ceylon")
    drive(driver(SERVE), log)
    first, _ = (position for (position,) in parked(connection))
    record(Skip("reaction:serve", first, "illegible"))
    other = Guest("Dormouse")
    record(other)
    order(record, other, "gibberish")
    drive(driver(SERVE), log)
    record(Retry("reaction:serve", None))
    drive(driver(HEALED), log)
    keep(connection)
    order(record, guest, "assam")
    drive(driver(SERVE), log)
    cut_back(connection)

    assert make_good(connection) == ["serve"]
    assert parked(connection) == []
    drive(driver(SERVE), log)
    assert (rung(log, guest), rung(log, other)) == (["ceylon"], ["gibberish"])


def test_what_was_taken_out_long_ago_is_forgotten(connection, log, record, driver, guest):
    order(record, guest, "gibberish")
    drive(driver(SERVE), log)
    record(Retry("reaction:serve", None))
    drive(driver(HEALED), log)
    assert prune_unparked(connection) == 0
    connection.execute("update reaction_unparked set unparked_at = unparked_at - interval '91 days'")
    assert prune_unparked(connection) == 1


def test_a_reaction_that_this_release_no_longer_has_is_recognised_once(connection, log, record, driver, guest):
    keep(connection)
    order(record, guest, "none", "none")
    drive(driver(SERVE), log)
    cut_back(connection)
    assert make_good(connection, PAIRS) == []
    assert not is_strange(connection)
    assert places_of(connection, "serve") == {Place("serve"): log.head()}


# --- views that are fed from the bus


@pytest.fixture
def feeder(database, log, connection):
    ensure_builds(connection, PROJECTIONS)
    record_layout(connection, ONE)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, ONE)

    def look_back():
        if is_strange(connection):
            with connection.transaction():
                discard_strange(connection, PROJECTIONS)
                forget(connection, "a test")

    feeder = Feeder(feeder_setup(database, log, Hooks(look_back)), ONE.topics.values())
    feeder.own(places(ONE))
    yield feeder
    feeder.close()


def test_messages_of_lost_events_are_never_applied(connection, database, log, feeder):
    ships = fleet(log)
    feeder.handle(carried(log, ONE))
    keep(connection)
    sail(log, ships, 30)
    of_lost = carried(log, ONE, after=8)
    cut_back(connection)
    before = DROPPED.labels("past")._value.get()
    sail(log, [log.repository.get(ship.id) for ship in reversed(ships)], 40)
    feeder.handle(of_lost)
    assert DROPPED.labels("past")._value.get() == before + len(of_lost)
    feeder.handle(carried(log, ONE))
    for build in BUILDS:
        assert fold_views(database, log, build, ONE) == (log.head(), [])


def test_the_same_events_at_the_same_positions_at_another_time_are_lost_ones(connection, database, log, feeder):
    ships = fleet(log)
    feeder.handle(carried(log, ONE))
    keep(connection)
    sail(log, ships, 12)
    of_lost = carried(log, ONE, after=8)
    ids = [fact.id for fact in read(log, 0, 100)]
    cut_back(connection)
    # the same versions of the same streams at the same positions; the ships sail elsewhere
    again = [log.repository.get(ship.id) for ship in ships]
    for number in range(12):
        again[number % 8].moor(77)
        log.save_work([again[number % 8]], metadata=b"{}")
    assert [fact.id for fact in read(log, 0, 100)] == ids
    feeder.handle(of_lost)
    feeder.handle(carried(log, ONE))
    for build in BUILDS:
        assert fold_views(database, log, build, ONE) == (log.head(), [])


def test_views_that_were_ahead_are_made_anew_in_their_partitions(connection, database, log, feeder):
    ships = fleet(log)
    keep(connection)
    sail(log, ships, 30)
    feeder.handle(carried(log, ONE))
    cut_back(connection)
    feeder.own(places(ONE))  # as a worker that takes its partitions over
    feeder.tick()
    feeder.tick()
    feeder.handle(carried(log, ONE))
    active = connection.execute("select projection, build, feed, layout from projection_builds where active order by 1")
    assert active.fetchall() == [("harbour", 2, FAUST, 1), ("keepers", 2, FAUST, 1)]
    for projection in (HARBOUR, KEEPERS):
        assert fold_views(database, log, Build(projection, 2), ONE) == (log.head(), [])


# --- the relay


@pytest.fixture
def prefix(kafka):
    prefix = f"t{uuid4().hex}"
    for incarnation in (1, 2, 3):
        kafka.make(relay_setup("", kafka.config, prefix).wanted.topics(incarnation))
    return prefix


@pytest.fixture
def writer(database):
    log = Log(database)
    yield Writer(log)
    log.close()


def test_a_bus_that_is_ahead_gets_new_topics(connection, kafka, writer, database, prefix):
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(30))
        at = keep(connection)
        wait_until_sent(database, writer.write(30))
    cut_back(connection)
    writer.versions = versions_of(connection)
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(50))
    layout = layout_of(database)
    assert (layout.incarnation, layout.from_position) == (2, at)
    assert_whole(kafka, writer.log, database, prefix)


def test_watermarks_that_came_along_are_compared_too(connection, kafka, writer, database, prefix):
    """A burst of which only the first event has come tells of the last, which the restored log has not."""
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(30))
    layout = layout_of(database)
    (first, *_) = writer.log.read(0, 1)
    place = Placing(layout, prefix).place(first.topic, first.stream.bytes)
    newest, head = dict.fromkeys(layout.topics, 0), writer.log.head()
    lost = "00000000-0000-0000-0000-000000000000:1", head + 5
    opened = {}
    for event_id, position in ((first.id, first.position), lost):
        marks = marks_of_all(event_id.encode(), first.recorded_at, position=position, newest=newest)
        message = MESSAGES.event(place, first, previous=0, layout=layout.number, marks=marks)
        opened[position] = MESSAGES.open(place, message.key, message.value, message.headers)
    assert compared(connection, layout, {}, {place: opened[first.position]})[place].position == first.position
    with pytest.raises(AnotherPast):
        compared(connection, layout, {}, {place: opened[head + 5]})


def test_the_same_ids_at_the_same_positions_are_told_apart_by_their_times(connection, kafka, writer, database, prefix):
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(30))
        keep(connection)
        wait_until_sent(database, writer.write(30))
    ids = connection.execute("select notification_id, originator_id, originator_version from stored_events").fetchall()
    cut_back(connection)
    writer.versions = versions_of(connection)
    writer.write(30)
    again = connection.execute("select notification_id, originator_id, originator_version from stored_events")
    assert sorted(again.fetchall()) == sorted(ids)
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(5))
    assert layout_of(database).incarnation == 2
    assert_whole(kafka, writer.log, database, prefix)


def test_a_relay_that_noted_more_than_the_log_has_doesnt_go_on_behind_that(connection, kafka, writer, database, prefix):
    """Where the bus itself can't tell: it has lost everything, too."""
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(30))
        keep(connection)
        wait_until_sent(database, writer.write(30))
    cut_back(connection)
    writer.versions = versions_of(connection)
    lost = f"t{uuid4().hex}"
    for table, column in (("bus_progress", "topic"), ("bus_layouts", "topics")):
        kind = "::text[]" if column == "topics" else ""
        connection.execute(f"update {table} set {column} = replace({column}::text, %s, %s){kind}", (prefix, lost))
    for incarnation in (1, 2):
        kafka.make(relay_setup("", kafka.config, lost).wanted.topics(incarnation))
    with relaying(relay_setup(database, kafka.config, lost)):
        wait_until_sent(database, writer.write(50))
    assert layout_of(database).incarnation == 2
    assert_whole(kafka, writer.log, database, lost)


def test_a_layout_that_was_given_up_is_not_gone_on_with(connection, kafka, writer, database, prefix):
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(30))
    connection.execute("update bus_layouts set given_up = true")
    with relaying(relay_setup(database, kafka.config, prefix)):
        wait_until_sent(database, writer.write(5))
    assert layout_of(database).incarnation == 2


def test_a_running_relay_notices_that_the_log_went_back(connection, kafka, writer, database, prefix):
    with relaying(relay_setup(database, kafka.config, prefix, limits={"renew_seconds": 0.2})):
        wait_until_sent(database, writer.write(30))
        keep(connection)
        wait_until_sent(database, writer.write(30))
        cut_back(connection)
        writer.versions = versions_of(connection)
        wait_for_layout(database, 2)
        wait_until_sent(database, writer.write(9))
    assert layout_of(database).incarnation == 2
    assert_whole(kafka, writer.log, database, prefix)


def versions_of(connection):
    sql = "select originator_id, max(originator_version) from stored_events group by 1"
    return dict(connection.execute(sql).fetchall())


def wait_for_layout(database, number):
    eventually(lambda: layout_of(database).number == number)
