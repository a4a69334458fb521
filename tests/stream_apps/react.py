"""A stream worker that drives reactions, to be killed: `react.py CONNINFO BROKERS PREFIX NAME`."""

import sys

import psycopg

from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.settings import Settings
from projections.lane import FollowerLimits
from stream_apps import bus
from stream_apps.feeder import Feeder, FeederLimits, FeederSetup
from stream_apps.reacting import ReactingSetup, ReactionFeeds
from stream_apps.spreads import spread_of
from tests.stream_apps.streaming import MESSAGES, fetch_soon
from tests.stream_apps.tearoom import PAIRS, SERVE


def main(conninfo: str, brokers: str, prefix: str, instance: str) -> None:
    fetch_soon()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        spread = spread_of(connection)
    assert spread
    log = Log(conninfo)
    limits = FeederLimits(bulk_events=0, silence_seconds=1e9, engine=FollowerLimits(lease_seconds=2.0))
    reactions = ReactionFeeds(ReactingSetup(log, conninfo, Dispatcher(log), (SERVE, PAIRS), spread_of))
    setup = FeederSetup(log, conninfo, (), MESSAGES, spread_of, limits=limits, companions=[reactions])
    feeder = Feeder(setup, spread.topics.values())
    settings = Settings(kafka=brokers, kafka_prefix=prefix)
    bus.run(
        settings,
        spread.topics.values(),
        instance,
        feeder,
        limits=bus.BusLimits(session_seconds=6.0, batch_messages=50),
    )
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:5])
