"""How the bus is, seen in one look: the relay, every partition of every view, who lives, what was counted."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest
from psycopg_pool import ConnectionPool

from infra.bus_status import RELAY_NAME, WORKER_NAME, Count, add_counts, bus_status, call
from projections.builds import ensure_builds
from projections.feeds import FAUST, change_feed
from runtime.bus_gauges import BusGauges
from runtime.bus_health import Brokers, bus_reasons
from stream_apps.counts import Counts, telling
from tests.stream_apps.streaming import BUILDS, PROJECTIONS, fleet, record_layout, sail, spread

ONE = spread()


@pytest.fixture
def pool(database):
    with ConnectionPool(database, min_size=1, open=True, kwargs={"autocommit": True}) as pool:
        yield pool


@pytest.fixture
def dropped():
    return Counter("muniment_stream_dropped", "Messages dropped", ["reason"], registry=None)


@pytest.fixture
def views(connection, log):
    """Fed from the bus, and level with a log of eight events."""
    ensure_builds(connection, PROJECTIONS)
    record_layout(connection, ONE)
    fleet(log)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, ONE)
    connection.execute("update projection_progress set position = 8")
    return connection


def let_time_pass(connection):
    connection.execute("update stored_events set recorded_at = recorded_at - interval '10 s'")


def lead(connection, seconds=60):
    connection.execute(
        "insert into leases values ('relay', 'host-a:4711:abc', 1, clock_timestamp() + %s * interval '1 s')", (seconds,)
    )


def test_without_a_bus_there_is_nothing_to_tell(connection):
    status = bus_status(connection)
    assert (status.relay, status.lanes, status.workers) == (None, [], [])
    assert bus_reasons(status) == ["relay: none has run yet"]


def test_the_relays_position_is_its_slowest_partitions(views, log):
    for partition, position in enumerate((8, 5)):
        views.execute(
            "insert into bus_progress (layout, topic, partition, position, previous)"
            " values (1, 'muniment.harbour', %s, %s, 0)",
            (partition, position),
        )
    lead(views)
    relay = bus_status(views).relay
    assert (relay.position, relay.head, relay.lag_events, relay.leader) == (5, 8, 3, "host-a:4711:abc")
    assert relay.lag_seconds > 0


def test_a_lease_that_ran_out_is_nobodys(views):
    lead(views, seconds=-1)
    status = bus_status(views)
    assert status.relay.leader is None
    assert "relay: none is active" in bus_reasons(status)


def test_a_partition_that_is_behind_is_named(views, log):
    lead(views)
    call(views, f"{WORKER_NAME}host-a-1")
    views.execute(
        "update projection_progress set position = 3"
        " where projection = 'harbour' and topic = 'muniment.harbour' and partition = 1"
    )
    let_time_pass(views)
    views.execute("insert into bus_progress values (1, 'muniment.harbour', 0, 8, 8)")
    (reason,) = bus_reasons(bus_status(views))
    assert reason.startswith("harbour: partition muniment.harbour/1 5 events, 1")


def test_a_view_that_only_just_fell_behind_is_no_reason(views, log):
    lead(views)
    call(views, f"{WORKER_NAME}host-a-1")
    views.execute("insert into bus_progress values (1, 'muniment.harbour', 0, 8, 8)")
    sail(log, fleet(log, 1), 3)
    assert bus_reasons(bus_status(views)) == []


def test_views_that_nobody_feeds_are_a_reason(views):
    lead(views)
    assert "stream: no worker lives" in bus_reasons(bus_status(views))


def test_those_who_live_are_known_by_their_connections(database, connection):
    with psycopg.connect(database, autocommit=True) as relay, psycopg.connect(database, autocommit=True) as worker:
        call(relay, f"{RELAY_NAME}host-a:4711")
        call(worker, f"{WORKER_NAME}host-b-2")
        status = bus_status(connection)
        assert (status.relays, status.workers) == (["host-a:4711"], ["host-b-2"])
    # the server ends a session a moment after its client
    for _ in range(100):
        if not bus_status(connection).workers:
            break
    assert bus_status(connection).workers == []


def test_only_what_is_new_is_told(dropped):
    counts = Counts([dropped])
    dropped.labels("forged").inc(3)
    assert counts.news() == [Count("muniment_stream_dropped_total", {"reason": "forged"}, 3)]
    counts.told(counts.news())
    assert counts.news() == []
    dropped.labels("forged").inc()
    assert [each.count for each in counts.news()] == [1]


def test_what_several_count_is_added_up(connection):
    for _ in range(2):
        add_counts(connection, [Count("holes", {"view": "a"}, 2), Count("holes", {"view": "b"}, 1)])
    status = bus_status(connection)
    assert (status.total("holes"), status.total("holes", view="a"), status.total("none")) == (6, 4, 0)


def test_what_was_counted_last_is_told_at_the_end(pool, connection, dropped):
    with telling(pool.connection, [dropped], seconds=60):
        dropped.labels("garbled").inc(2)
    assert bus_status(connection).total("muniment_stream_dropped_total", reason="garbled") == 2


def test_an_idle_one_tells_nothing(pool, connection, dropped):
    with telling(pool.connection, [dropped], seconds=0.01):
        pass
    assert bus_status(connection).counts == []


def test_what_cant_be_told_now_is_told_later(connection, dropped):
    class Refusing:
        def __enter__(self):
            raise psycopg.OperationalError("away")

        def __exit__(self, *_):
            return None

    dropped.labels("forged").inc()
    with telling(Refusing, [dropped], seconds=60):
        pass
    counts = Counts([dropped])
    assert [each.count for each in counts.news()] == [1]


def test_a_scrape_tells_all_of_it(views, pool):
    lead(views)
    add_counts(views, [Count("muniment_stream_holes_total", {"projection": "harbour"}, 7)])

    async def scraped():
        with ThreadPoolExecutor(1) as executor:
            gauges = BusGauges(pool, executor)
            registry = CollectorRegistry()
            registry.register(gauges)
            await gauges.refresh()
            return generate_latest(registry).decode()

    text = asyncio.run(scraped())
    assert 'muniment_bus_holes_total{projection="harbour"} 7.0' in text
    assert "muniment_bus_led 1.0" in text
    lane = 'build="1",partition="1",projection="harbour",topic="muniment.harbour",version="1"'
    assert f"muniment_partition_position{{{lane}}} 8.0" in text
    assert f"muniment_partition_lag_events{{{lane}}} 0.0" in text


def test_scrapes_close_together_cost_one_look(views, pool):
    async def scraped():
        with ThreadPoolExecutor(1) as executor:
            gauges = BusGauges(pool, executor)
            await gauges.refresh()
            add_counts(views, [Count("muniment_stream_holes_total", {"projection": "harbour"}, 7)])
            await gauges.refresh()
            return list(gauges.collect())

    holes = next(family for family in asyncio.run(scraped()) if family.name == "muniment_bus_holes")
    assert holes.samples == []


def test_kafka_is_there_while_one_broker_takes_connections():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert asyncio.run(Brokers(f"127.0.0.1:1, 127.0.0.1:{port}").answer())
    assert not asyncio.run(Brokers(f"127.0.0.1:{port}").answer())


def test_addresses_that_make_no_sense_dont_answer():
    assert not asyncio.run(Brokers("127.0.0.1:nonsense").answer())


def test_a_bus_that_isnt_wanted_isnt_missed(views):
    assert asyncio.run(Brokers("").answer())
