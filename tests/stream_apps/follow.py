"""A real follower process that drives reactions, for tests that kill it: `python follow.py CONNINFO LEASE_SECONDS`."""

import sys

from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections.follower import Follower
from projections.lane import FollowerLimits, Setup
from stream_apps.driver import Reacting
from tests.stream_apps.tearoom import PAIRS, SERVE


def main(conninfo: str, lease_seconds: float) -> None:
    log = Log(conninfo)
    limits = FollowerLimits(
        lease_seconds=lease_seconds, renew_seconds=lease_seconds / 3, batch_events=20, tail_events=40
    )
    consumers = [Reacting(log, Dispatcher(log), reaction) for reaction in (SERVE, PAIRS)]
    Follower(Setup(log, conninfo, (), limits=limits, consumers=consumers)).run()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
