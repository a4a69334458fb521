"""A member of a consumer group that does nothing with what it gets, as a program: BROKERS TOPIC NAME."""

import sys
from typing import Any

from infra.settings import Settings
from stream_apps import bus

SESSION_SECONDS = 30.0


class Idle:
    """In the place of a feeder."""

    def own(self, places: Any) -> None:
        """Needs none."""

    handle = own

    def tick(self) -> None:
        """Has nothing to do."""

    stop = close = stand_in = tick


if __name__ == "__main__":
    brokers, topic, name = sys.argv[1:]
    feeder: Any = Idle()
    limits = bus.BusLimits(session_seconds=SESSION_SECONDS)
    bus.run(Settings(kafka=brokers, kafka_prefix=topic), [topic], name, feeder, limits=limits)
