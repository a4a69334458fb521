"""The relay beside the library's bare reading and mapping of the same events.

    python -m benchmarks.relay [--events 50000] [--rounds 3] [--kafka [HOST:PORT]]

Per round the same log is read by the library (its query for notifications, its mapper and JSON, nothing else), the same
with our own mapper in the place of its own, and by a relay that carries it to Kafka until all of it is acknowledged.
Before the first round library and relay do the same once, uncounted.
Without `--kafka` the broker is that of librdkafka, in a process of its own, which is faster than a real one and takes
its share of the processor like it. Processor time is that of this process, in which both read and map; of the relay,
librdkafka's threads are included.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
from confluent_kafka import Producer
from eventsourcing.persistence import DatetimeAsISO, DecimalAsStr, JSONTranscoder, Mapper, UUIDAsHex

from benchmarks.bus import kafka
from benchmarks.common import ROOT, postgres, ratios, told
from domain.audit import Entry
from domain.identity import Session
from infra.event_store import Log, Metadata
from infra.layouts import Wanted
from infra.messages import Messages
from infra.topics import TopicLimits, ensure_topics
from infra.transcoding import event_types
from runtime import modules
from runtime.relay import tune
from stream_apps.relay import Relay, RelaySetup

METADATA = Metadata(actor="service:benchmark", correlation_id="bench", ip="192.0.2.7").to_bytes()
BATCH = 1000
PARTITIONS = 4
GOAL = ">= 0.5"
PATIENCE_SECONDS = 120.0
OWN = "own"

assert modules.MODULES  # every module's events are known


def fill(log: Log, events: int) -> None:
    """So many events of two kinds, one with a secret field."""
    for start in range(0, events, BATCH):
        facts = [
            Entry("tea.poured", f"cup/{n}", "success", {"sugar": 2, "milk": n % 3 == 0}, None)
            if n % 2
            else Session(uuid4(), "a secret hash", uuid4())
            for n in range(start, min(events, start + BATCH))
        ]
        log.save_work(facts, metadata=METADATA)


def library() -> Any:
    """The library's own mapper, with its own JSON."""
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DecimalAsStr(), DatetimeAsISO()):
        transcoder.register(transcoding)
    return Mapper(transcoder)


class Done(NamedTuple):
    """Events per second, and what each used of the processor, in microseconds."""

    per_second: float
    used: float


class Watch:
    """Times what this process does."""

    def __init__(self) -> None:
        self._began_at, self._used = time.monotonic(), time.process_time()

    def done(self, events: int) -> Done:
        """Now so many events are done."""
        used = (time.process_time() - self._used) / events * 1e6
        return Done(events / (time.monotonic() - self._began_at), used)


def bare(log: Log, mapper: Any) -> Done:
    """Reading notifications, each mapped to its event."""
    watch, position, count = Watch(), 0, 0
    while notifications := log.recorder.select_notifications(position + 1, BATCH):
        for notification in notifications:
            mapper.to_domain_event(notification)
        position = int(notifications[-1].id)
        count += len(notifications)
    return watch.done(count)


def setup(conninfo: str, brokers: str, prefix: str) -> RelaySetup:
    wanted = Wanted(prefix, PARTITIONS, tuple(sorted(event_types())))
    return RelaySetup(Log(conninfo), conninfo, {"bootstrap.servers": brokers}, Messages(b"k" * 32), wanted)


def make_topics(given: RelaySetup, brokers: str, *, real: bool) -> None:
    if real:
        ensure_topics(dict(given.kafka), given.wanted.topics(1), PARTITIONS, TopicLimits())
        return
    client = Producer({"bootstrap.servers": brokers})
    for topic in given.wanted.topics(1):
        client.list_topics(topic, timeout=10)


def wait_until_sent(conninfo: str, position: int) -> None:
    newest = "(select max(layout) from bus_layouts)"
    sql = f"select coalesce(min(position), -1) >= %s from bus_progress where layout = {newest}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while connection.execute(sql, (position,)).fetchone() != (True,):
            assert time.monotonic() < deadline, "the relay doesn't get there"
            time.sleep(0.02)


def carried(conninfo: str, brokers: str, *, real: bool) -> Done:
    """What a relay does, from its comparison with the bus to the last acknowledgement."""
    given = setup(conninfo, brokers, f"b{uuid4().hex}")
    make_topics(given, brokers, real=real)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("delete from bus_layouts")
    head, relay = given.log.head(), Relay(given)
    thread = Thread(target=relay.run)
    thread.start()
    relay.leading.wait()
    watch = Watch()
    wait_until_sent(conninfo, head)
    done = watch.done(head)
    relay.stop()
    thread.join()
    given.log.close()
    return done


@contextmanager
def broker(given: str) -> Iterator[str]:
    """The address of a broker: the given one, or librdkafka's in a process of its own."""
    if given:
        with kafka("" if given == OWN else given) as address:
            yield address
        return
    command = [sys.executable, "-m", "benchmarks.relay", "--broker"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield process.stdout.readline().strip()
        process.stdin.close()


def be_broker() -> None:
    """Says where it is, and lives until its input ends."""
    owner = Producer({"bootstrap.servers": "in-process", "test.mock.num.brokers": 1})
    print(",".join(f"{node.host}:{node.port}" for node in owner.list_topics(timeout=10).brokers.values()), flush=True)
    sys.stdin.read()


def rates(ours: Sequence[Done], theirs: Sequence[Done]) -> list[float]:
    return ratios([each.per_second for each in ours], [each.per_second for each in theirs])


def main(events: int, rounds: int, address: str) -> None:
    with postgres() as conninfo, broker(address) as brokers:
        log = Log(conninfo)
        fill(log, events)
        mapper = library()
        bare(log, mapper)  # warm: both read from PostgreSQL's memory
        carried(conninfo, brokers, real=bool(address))  # and a broker that has just started compiles what it runs
        tune()
        theirs, faster, ours = [], [], []
        for _ in range(rounds):
            theirs.append(bare(log, mapper))
            faster.append(bare(log, log.mapper))
            ours.append(carried(conninfo, brokers, real=bool(address)))
        told("the library's bare reading and mapping, events/s", [each.per_second for each in theirs], digits=0)
        told("the relay, events/s", [each.per_second for each in ours], digits=0)
        told("the relay / the library's bare reading and mapping", rates(ours, theirs), GOAL)
        told("the relay / the same reading with our own mapper", rates(ours, faster))
        told("the library's, processor, us/event", [each.used for each in theirs], digits=1)
        told("the relay, processor, us/event", [each.used for each in ours], digits=1)
        told("the first by processor time", ratios([each.used for each in theirs], [each.used for each in ours]))
        log.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--kafka",
        nargs="?",
        const=OWN,
        default="",
        metavar="HOST:PORT",
        help="an Apache Kafka that runs already; without an address one of our own",
    )
    parser.add_argument("--broker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.broker:
        be_broker()
    else:
        main(given.events, given.rounds, given.kafka)
