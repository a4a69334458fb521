"""A stream worker beside a bare Faust agent, on a real Apache Kafka: from save to visible, and catching up.

    python -m benchmarks.stream [--only visible | catching-up] [--rate 500] [--seconds 20]
                                [--events 200000] [--rounds 4] [--kafka HOST:PORT]

*Visible*: single events are saved at fixed times, each durable before it counts. A view is visible at a position once
its own notification says so. Relay and stream worker run as `muniment relay` and `muniment stream` do, with every view
on Faust. Beside it: messages that are produced at the same rate on the same Kafka, until a bare agent has them.

*Catching up*: one worker for the view of access alone, without the way from the log; every event is an assignment or a
revocation of a role, and those that were applied are counted. In turns with it, each time for a part of the events, a
bare agent takes the same topic's messages with `noack_take` and acknowledges them. Processor time is that of their
processes, from the first batch to the last.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
from confluent_kafka import Producer

from benchmarks.bare_agent import TAKE, WITHIN_SECONDS, Taken, bare_agent
from benchmarks.bus import Shape, kafka, shape
from benchmarks.common import ROOT, processor_seconds, quantile, ratios, told
from benchmarks.follower import BARE, WARM_UP_SECONDS, Ears, delays, saves
from benchmarks.history import fill
from infra.event_store import Log
from infra.invalidation import Invalidator
from infra.settings import Settings
from infra.topics import TopicLimits, ensure_topics
from projections.access import ACCESS
from projections.engine import Applied
from projections.feeds import FAUST, FOLLOWER
from projections.lane import Hooks
from runtime import modules
from runtime.core import open_core
from runtime.feeds import choose_feed
from runtime.relay import messages
from stream_apps.spreads import spread_of

P99_MILLISECONDS = 60.0
CATCH_UP_GOAL = ">= 0.6"
PARTITIONS = 4
NEVER_SECONDS = 1e9
OVERSHOOT = 2000
"""Events that a worker may apply beyond those of its round, until it has stopped."""


# --- from save to visible


def visible(brokers: str, rate: float, seconds: float) -> None:
    """Prints how long a saved event takes until each view has it."""
    with shape(brokers) as given:
        parts = {"relay": given.part("relay").pid, "stream worker": given.part("stream").pid}
        conninfo = given.settings.postgres_url
        given.wait_until_sent()
        saves(conninfo, rate, WARM_UP_SECONDS)
        time.sleep(2.0)
        given.wait_until_visible()
        bare = quantile(bare_delays(brokers, rate, seconds / 2), 0.99)
        with Ears(conninfo) as ears:
            time.sleep(0.3)
            before = {name: processor_seconds(pid) for name, pid in parts.items()}
            rows = saves(conninfo, rate, seconds)
            used = {name: processor_seconds(pid) - before[name] for name, pid in parts.items()}
            given.wait_until_visible()
            time.sleep(0.3)
    span = rows[-1][2] - rows[0][1]
    shares = ", ".join(f"{name} {each / span:.0%} of a core" for name, each in used.items())
    print(f"{len(rows)} events in {span:.1f} s: {len(rows) / span:.0f}/s; {shares}; load {os.getloadavg()[0]:.1f}")
    told("produced to taken by a bare Faust agent: p99", [bare], digits=1, unit=" ms")
    for name, heard in sorted(ears.heard.items()):
        if name == BARE:
            continue
        took = delays([(position, answered) for position, _, answered in rows], heard)
        spread = f"median {quantile(took, 0.5):.1f}, longest {took[-1]:.1f}, {len(heard)} commits"
        told(
            f"durable to {name}: p99 ({spread})",
            [quantile(took, 0.99)],
            f"< {P99_MILLISECONDS:g}",
            digits=1,
            unit=" ms",
        )


def bare_delays(brokers: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from each message's production to a bare agent, both at this rate, over as many partitions."""
    topic = f"bare-{uuid4().hex[:12]}"
    ensure_topics({"bootstrap.servers": brokers}, [topic], PARTITIONS, TopicLimits())
    command = [sys.executable, "-m", "benchmarks.stream", "--take", brokers, topic, str(int(rate * seconds))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as agent:
        time.sleep(6.0)
        producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 1})
        for partition in range(PARTITIONS):  # the first wait for what the producer must ask the broker
            producer.produce(topic, b"", partition=partition)
        producer.flush(10)
        time.sleep(1.0)
        start = time.monotonic()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            producer.produce(topic, str(time.monotonic()).encode(), partition=number % PARTITIONS)
            producer.poll(0)
        producer.flush(10)
        output, _ = agent.communicate(timeout=60)
    return [float(line) for line in output.splitlines()]


def take(brokers: str, topic: str, count: int) -> None:
    """A bare agent: takes so many messages and prints how old each was, in milliseconds."""
    from stream_apps.bus import BusLimits, configured, quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    ages: list[float] = []

    async def run() -> None:
        app = configured(Settings(kafka=brokers, kafka_prefix=topic), uuid4().hex, BusLimits())
        done = asyncio.Event()

        async def note(stream: Any) -> None:
            async for events in stream.noack_take(TAKE, within=WITHIN_SECONDS):
                now = time.monotonic()
                ages.extend((now - float(event.value)) * 1000 for event in events if event.value)
                for event in events:
                    await stream.ack(event)
                if len(ages) >= count:
                    done.set()

        app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"), name="note", concurrency=1)(note)
        app.in_worker = True
        starting = asyncio.ensure_future(app.start())
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(done.wait(), 120)
        starting.cancel()
        with suppress(asyncio.CancelledError, asyncio.TimeoutError, Exception):
            await asyncio.wait_for(app.stop(), 5)

    asyncio.run(run())
    print("\n".join(map(str, ages)))


# --- catching up


def catching_up(brokers: str, events: int, rounds: int) -> None:
    """Prints how fast one worker catches up, and a bare agent beside it: in rounds, each of a part of the events.

    The worker goes on where it was stopped. The bare agent begins anew each time; what it takes is all of one kind.
    """
    theirs, ours = [], []
    with shape(brokers) as given:
        fill(given.settings.postgres_url, events + rounds * OVERSHOOT)
        relay = given.part("relay")
        given.wait_until_sent()
        relay.stop()
        log = Log(given.settings.postgres_url)
        for projection in modules.projections():
            choose_feed(given.settings.postgres_url, log, projection, FOLLOWER)
        with psycopg.connect(given.settings.postgres_url) as connection:
            spread = spread_of(connection)
        assert spread
        start_anew(given, log)
        for _ in range(rounds):
            theirs.append(bare_agent(brokers, spread.topics.values(), messages=events // rounds))
            worker = given.script("benchmarks.stream", "--feed", str(events // rounds), stream_bulk_events=0)
            output, _ = worker.process.communicate(timeout=600)
            figures, _, more = output.partition(";")
            ours.append(Taken(*map(float, figures.split())))
            print(f"    {more.strip()}; load average {os.getloadavg()[0]:.1f}", flush=True)
        log.close()
    told("a bare Faust agent, events/s", [each.per_second for each in theirs], digits=0)
    told("one worker, view of access, applied events/s", [each.per_second for each in ours], digits=0)
    rates = ratios([each.per_second for each in ours], [each.per_second for each in theirs])
    told("the worker / the bare agent", rates, CATCH_UP_GOAL)
    told("a bare Faust agent, processor, us/event", [each.used for each in theirs], digits=0)
    told("one worker, processor, us/event", [each.used for each in ours], digits=0)
    told("the same by processor time", ratios([each.used for each in theirs], [each.used for each in ours]))


def start_anew(given: Shape, log: Log) -> None:
    """The view of access is empty, at the log's beginning, and Faust's."""
    conninfo = given.settings.postgres_url
    choose_feed(conninfo, log, ACCESS, FAUST)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for table in ("roles", "permissions", "includes", "assignments", "suspensions"):
            connection.execute(f"truncate {ACCESS.table(table, 1)}".encode())
        connection.execute("update projection_progress set position = 0 where projection = 'access'")


class Count:
    """Events that were applied, and what they took from the first commit to that with the last wanted one."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._applied = self._first = self._position = 0
        self._began_at = self._used = self._fed = 0.0

    def add(self, applied: Applied) -> bool:
        """Told before a commit and after it, of which one counts; whether all are there."""
        if not applied.facts or applied.facts[0].position == self._position:
            return False
        self._position = applied.facts[0].position
        self._applied += len(applied.facts)
        if not self._first:
            self._first, self._began_at = self._applied, time.monotonic()
            self._used, self._fed = time.process_time(), time.thread_time()
        return self._applied >= self._wanted

    def told(self, healed: float) -> str:
        """What each used, in microseconds of the processor; events a second; and more about them."""
        seconds, events = time.monotonic() - self._began_at, self._applied - self._first
        used = (time.process_time() - self._used) / events * 1e6
        fed = (time.thread_time() - self._fed) / events * 1e6
        shares = f"{events:,} applied, {fed:.0f} of {used:.0f} us in the feeder's thread"
        return f"{used:.1f} {events / seconds:.1f}; {shares}; {healed:.0f} read from the log"


def feed(wanted: int) -> None:
    """A stream worker for one view, that ends when it has applied so many events, and prints how fast it was."""
    from stream_apps import bus  # noqa: PLC0415
    from stream_apps.feeder import HEALED, Feeder, FeederLimits, FeederSetup  # noqa: PLC0415

    settings, count = Settings.from_env(), Count(wanted)
    with open_core(settings) as core, psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        spread = spread_of(connection)
        assert spread
        invalidator = Invalidator(settings.postgres_url, settings.redis_url)

        def committed(applied: Applied) -> None:
            invalidator.committed(ACCESS.name, applied.invalidate, applied.position)
            if count.add(applied):
                healed = sum(sample.value for metric in HEALED.collect() for sample in metric.samples)
                print(count.told(healed), flush=True)
                os.kill(os.getpid(), signal.SIGTERM)

        given = FeederSetup(
            core.log, settings.postgres_url, (ACCESS,), messages(core), spread_of,
            Hooks(on_takeover=invalidator.taken_over, after_commit=committed),
            FeederLimits(settings.stream_bulk_events, silence_seconds=NEVER_SECONDS),
        )  # fmt: skip
        topics = spread.topics.values()
        bus.run(settings, topics, uuid4().hex, Feeder(given, topics))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a Kafka that runs already")
    parser.add_argument("--only", choices=("visible", "catching-up"))
    parser.add_argument("--take", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--feed", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.take:
        take(chosen.take[0], chosen.take[1], int(chosen.take[2]))
    elif chosen.feed:
        feed(chosen.feed)
    else:
        with kafka(chosen.kafka) as address:
            if chosen.only != "catching-up":
                visible(address, chosen.rate, chosen.seconds)
            if chosen.only != "visible":
                catching_up(address, chosen.events, chosen.rounds)
