"""What `muniment status` tells about the bus."""

import psycopg
import pytest

from infra.bus_status import RELAY_NAME, WORKER_NAME, Count, add_counts, call


@pytest.fixture(scope="module")
def bus(cli_site):
    """As relays and workers leave it: a layout in use, a leader, one worker, some counts, one lane behind."""
    with (
        psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as relay,
        psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as worker,
    ):
        call(relay, f"{RELAY_NAME}host-a:4711")
        call(worker, f"{WORKER_NAME}host-b-1")
        relay.execute(
            "insert into bus_layouts (layout, incarnation, partitions, topics, types_digest, from_position, reason)"
            " values (1, 1, 1, '{muniment.audit}', '', 0, 'a test')"
        )
        relay.execute("insert into bus_progress select 1, 'muniment.audit', 0, position, 0 from log_head")
        relay.execute("insert into leases values ('relay', 'host-a:4711:f00', 1, clock_timestamp() + interval '1 h')")
        relay.execute("update projection_builds set feed = 'faust', layout = 1 where projection = 'audit'")
        relay.execute(
            "insert into projection_progress (projection, version, build, layout, topic, partition, position)"
            " select projection, version, build, 1, 'muniment.audit', 0, 1 from projection_builds"
            " where projection = 'audit'"
        )
        add_counts(
            relay,
            [
                Count("muniment_stream_holes_total", {"projection": "audit"}, 2),
                Count("muniment_stream_healed_events_total", {"projection": "audit", "why": "hole"}, 17),
                Count("muniment_stream_duplicates_total", {"projection": "audit"}, 5),
                Count("muniment_stream_dropped_total", {"reason": "forged"}, 3),
            ],
        )
        yield cli_site


def test_status_tells_the_relay_and_who_lives(bus):
    shown = bus.done("status").stdout
    assert "level with the log; layout 1, led by host-a:4711" in shown
    assert "1 (host-b-1)" in shown


def test_status_tells_what_was_counted(bus):
    shown = bus.done("status").stdout
    assert (
        "2 holes healed, 17 events read from the log, 5 duplicates ignored,"
        " 3 messages dropped (3 with a false seal)" in shown
    )


def test_status_tells_each_partition(bus):
    line = next(line for line in bus.done("status").stdout.splitlines() if "muniment.audit/0" in line)
    assert line.split()[:4] == ["audit", "1.1", "muniment.audit/0", "1"]


def test_programs_are_told_the_same(bus):
    told = bus.json("status")
    relay, (lane,) = told["bus"]["relay"], told["bus"]["lanes"]
    assert (relay["position"], relay["lag_events"], relay["leader"]) == (told["head"], 0, "host-a:4711:f00")
    assert (lane["position"], lane["lag_events"]) == (1, told["head"] - 1)
    assert lane["lag_seconds"] > 0
    assert told["bus"]["workers"] == ["host-b-1"]
    counts = {each["metric"]: each["count"] for each in told["bus"]["counts"]}
    assert counts["muniment_stream_holes_total"] == 2
