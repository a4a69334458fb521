"""What relay and stream worker use when nothing happens, beside a bare idle Faust worker, on a real Apache Kafka.

    python -m benchmarks.idleness [--seconds 60] [--kafka HOST:PORT]

`muniment relay` and `muniment stream` with every view, and an agent that does nothing on the same topics with the same
settings, all at once: processor time of each with all that it started (of the worker: its guard too).
"""

import argparse
import asyncio
import sys
import time
from typing import Any
from uuid import uuid4

import psycopg

from benchmarks.bus import kafka, shape
from benchmarks.common import processor_seconds, told
from infra.settings import Settings
from stream_apps.spreads import spread_of

SETTLE_SECONDS = 12.0
GOAL = 1.2


def idle(brokers: str, topics: list[str]) -> None:
    """A bare agent, until it is killed."""
    from stream_apps.bus import BusLimits, configured, quiet_libraries  # noqa: PLC0415

    async def run() -> None:
        app = configured(Settings(kafka=brokers, kafka_prefix=f"idle-{uuid4().hex}"), uuid4().hex, BusLimits())

        async def hear(stream: Any) -> None:
            async for event in stream.noack().events():
                await stream.ack(event)

        channel = app.topic(*topics, key_serializer="raw", value_serializer="raw")
        app.agent(channel, name="hear", concurrency=1)(hear)
        app.in_worker = True
        await app.start()
        await asyncio.sleep(3600)

    quiet_libraries()
    asyncio.run(run())


def main(seconds: float, address: str) -> None:
    """Prints shares of a core."""
    with kafka(address) as brokers, shape(brokers) as given:
        relay = given.part("relay")
        given.wait_until_sent()
        with psycopg.connect(given.settings.postgres_url, autocommit=True) as connection:
            spread = spread_of(connection)
        assert spread
        worker = given.part("stream")
        bare = given.script("benchmarks.idleness", "--idle", brokers, *sorted(spread.topics.values()))
        given.wait_until_visible()
        time.sleep(SETTLE_SECONDS)
        parts = {"relay": relay, "worker": worker, "bare": bare}
        before, began = {name: processor_seconds(part.pid) for name, part in parts.items()}, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        used = {name: 100 * (processor_seconds(part.pid) - before[name]) / took for name, part in parts.items()}
        bare.kill()
    told(f"idle for {seconds:g} s: relay, % of a core", [used["relay"]], "< 1")
    told("a bare idle Faust worker, % of a core", [used["bare"]])
    told("a stream worker, % of a core", [used["worker"]])
    told("the stream worker / the bare one", [used["worker"] / used["bare"]], f"< {GOAL}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--idle"]:
        idle(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a Kafka that runs already")
    chosen = parser.parse_args()
    main(chosen.seconds, chosen.kafka)
