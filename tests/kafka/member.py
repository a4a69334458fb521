"""A member of a consumer group that does nothing with what it gets, as a program: BROKERS GROUP NAME TOPIC [HOW]."""

import sys
from typing import Any

import aiokafka.consumer.consumer as client
from aiokafka.consumer.group_coordinator import GroupCoordinator

from infra.settings import Settings
from stream_apps import bus

SESSION_SECONDS = 30.0
SHORT_SESSION_SECONDS = 6.0
IDLE_SECONDS = 2.0
FORMER, SHORT = "former", "short"
"""As it was in a former release: as Faust and aiokafka have it. With a short session."""


class Idle:
    """In the place of a feeder."""

    def own(self, places: Any) -> None:
        """Needs none."""

    handle = own

    def tick(self) -> None:
        """Has nothing to do."""

    stop = close = stand_in = tick


def main(brokers: str, group: str, name: str, topic: str, how: str = "") -> None:
    if how == FORMER:
        client.GroupCoordinator = GroupCoordinator
    feeder: Any = Idle()
    limits = bus.BusLimits(session_seconds=SHORT_SESSION_SECONDS if how == SHORT else SESSION_SECONDS)
    bus.run(Settings(kafka=brokers, kafka_prefix=group), [topic], name, feeder, limits=limits)


if __name__ == "__main__":
    main(*sys.argv[1:])
