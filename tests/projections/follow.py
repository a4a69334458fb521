"""A real follower process, for tests that kill and freeze it: `python follow.py CONNINFO LEASE_SECONDS`."""

import sys

from infra.event_store import Log
from projections.follower import Follower
from projections.lane import FollowerLimits, Setup
from tests.projections.harbour import HARBOUR, KEEPERS


def main(conninfo: str, lease_seconds: float) -> None:
    limits = FollowerLimits(
        lease_seconds=lease_seconds, renew_seconds=lease_seconds / 3, batch_events=50, tail_events=100
    )
    Follower(Setup(Log(conninfo), conninfo, [HARBOUR, KEEPERS], limits=limits)).run()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
