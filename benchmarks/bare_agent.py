"""A bare Faust agent, the peer of a stream worker: it takes messages with `noack_take`, acknowledges, and does no more.

    python -m benchmarks.bare_agent BROKERS TOPIC ... [--messages 50000] [--warm-up 1000] [--take 500] [--within 0.005]

A process of its own, on the very settings of our worker. It reads all partitions from the beginning and prints one
line: microseconds of the processor for each event, and events per second, from the batch at which the warm-up is over
to the one with which so many messages more have come. Fewer, where no more come for a while: the in-process broker
keeps only the newest of each partition (5 MB). `bare_agent(...)` runs it and gives the figures.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks.common import ROOT
from infra.settings import Settings
from stream_apps.bus import BusLimits, configured, quiet_libraries

MESSAGES, WARM_UP = 50_000, 1000
TAKE, WITHIN_SECONDS = 500, 0.005
SILENCE_SECONDS = 10.0
LIMIT_SECONDS = 300.0


class Taken(NamedTuple):
    """Events per second, and what each used of the processor in that process, in microseconds."""

    used: float
    per_second: float


def bare_agent(
    brokers: str,
    topics: Collection[str],
    *,
    messages: int = MESSAGES,
    take: int = TAKE,
    within_seconds: float = WITHIN_SECONDS,
) -> Taken:
    """What a bare agent takes from these topics, in a process of its own.

    Raises CalledProcessError, TimeoutExpired.
    """
    command = [sys.executable, "-m", "benchmarks.bare_agent", brokers, *sorted(topics)]
    options = ["--messages", str(messages), "--take", str(take), "--within", str(within_seconds)]
    found = subprocess.run(
        [*command, *options], cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    return Taken(*map(float, found.stdout.split()[-2:]))


class Count:
    """How many messages came, and when those that count began and ended."""

    def __init__(self, messages: int, warm_up: int) -> None:
        self.done = asyncio.Event()
        self._messages, self._warm_up = messages, warm_up
        self._taken = self._before = 0
        self._began_at = self._used_before = self._used = 0.0
        self.heard_at = time.monotonic()

    def add(self, taken: int) -> None:
        """One batch is acknowledged."""
        self.heard_at = time.monotonic()
        self._taken += taken
        self._used = time.process_time()
        if not self._before and self._taken >= self._warm_up:
            self._before, self._began_at, self._used_before = self._taken, self.heard_at, self._used
        elif self._before and self._taken >= self._before + self._messages:
            self.done.set()

    @property
    def found(self) -> Taken:
        """The figures. Raises RuntimeError where nothing came."""
        count = self._taken - self._before
        if count <= 0:
            raise RuntimeError(f"only {self._taken} messages came")
        used = (self._used - self._used_before) / count * 1e6
        return Taken(used, count / (self.heard_at - self._began_at))


async def take_all(brokers: str, topics: Collection[str], count: Count, take: int, within_seconds: float) -> None:
    """Until so many messages are acknowledged, or no more come."""
    settings = Settings(kafka=brokers, kafka_prefix=f"bare-{uuid4().hex}")
    app = configured(settings, uuid4().hex, BusLimits())
    channel = app.topic(*sorted(topics), key_serializer="raw", value_serializer="raw")

    async def acknowledge(stream: Any) -> None:
        async for events in stream.noack_take(take, within=within_seconds):
            for event in events:
                await stream.ack(event)
            count.add(len(events))

    app.agent(channel, name="acknowledge", concurrency=1)(acknowledge)
    app.in_worker = True
    starting = asyncio.ensure_future(app.start())
    try:
        await _until_silent(count)
    finally:
        starting.cancel()
        with suppress(asyncio.CancelledError, asyncio.TimeoutError, Exception):
            await asyncio.wait_for(app.stop(), BusLimits().stop_seconds)


async def _until_silent(count: Count) -> None:
    while time.monotonic() < count.heard_at + SILENCE_SECONDS:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(count.done.wait(), 0.2)
        if count.done.is_set():
            return


def main(brokers: str, topics: Collection[str], messages: int, warm_up: int, take: int, within_seconds: float) -> None:
    """Prints the figures."""
    quiet_libraries()

    async def run() -> Taken:
        count = Count(messages, warm_up)
        await take_all(brokers, topics, count, take, within_seconds)
        return count.found

    print(*asyncio.run(run()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brokers", help="host:port,...")
    parser.add_argument("topics", nargs="+")
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    parser.add_argument("--take", type=int, default=TAKE)
    parser.add_argument("--within", type=float, default=WITHIN_SECONDS, help="seconds")
    given = parser.parse_args()
    main(given.brokers, given.topics, given.messages, given.warm_up, given.take, given.within)
