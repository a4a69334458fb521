"""The relay beside the library's bare reading and mapping of the same events; taking over; idleness.

    python -m benchmarks.relay [--events 50000] [--rounds 3] [--idle 20] [--kafka HOST:PORT]

Per round the same log is read twice: by the library (its own query for notifications, each mapped to its event, nothing
else), and by a relay that carries it to Kafka until all of it is acknowledged. Without `--kafka` the broker is that of
librdkafka, in a process of its own, which is faster than a real one and takes its share of the processor like it.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from uuid import uuid4

import psutil
import psycopg
from confluent_kafka import Producer

from benchmarks.common import ROOT, postgres, ratios, told
from domain.audit import Entry
from domain.identity import Session
from infra.event_store import Log, Metadata
from infra.layouts import Wanted
from infra.messages import Messages
from infra.topics import TopicLimits, ensure_topics
from infra.transcoding import event_types
from runtime import modules
from stream_apps.relay import Relay, RelaySetup

METADATA = Metadata(actor="service:benchmark", correlation_id="bench", ip="192.0.2.7").to_bytes()
BATCH = 1000
PARTITIONS = 4
GOAL = ">= 0.5"
TAKE_OVER_SECONDS = 5.0
KILLS = 5
PATIENCE_SECONDS = 120.0

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


def pour(log: Log) -> int:
    """One more event; its position."""
    return log.save_work([Entry("tea.poured", "cup", "success", {}, None)], metadata=METADATA).position


def bare(log: Log) -> float:
    """Events per second of the library's reading and mapping."""
    started, position, count = time.monotonic(), 0, 0
    while notifications := log.recorder.select_notifications(position + 1, BATCH):
        for notification in notifications:
            log.mapper.to_domain_event(notification)
        position = int(notifications[-1].id)
        count += len(notifications)
    return count / (time.monotonic() - started)


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


def carried(conninfo: str, brokers: str, *, real: bool) -> float:
    """Events per second of a relay, from its comparison with the bus to the last acknowledgement."""
    given = setup(conninfo, brokers, f"b{uuid4().hex}")
    make_topics(given, brokers, real=real)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("delete from bus_layouts")
    head, relay = given.log.head(), Relay(given)
    thread = Thread(target=relay.run)
    thread.start()
    relay.leading.wait()
    started = time.monotonic()
    wait_until_sent(conninfo, head)
    seconds = time.monotonic() - started
    relay.stop()
    thread.join()
    given.log.close()
    return head / seconds


def take_overs(conninfo: str, brokers: str, prefix: str) -> list[float]:
    """Seconds from SIGKILL of the relay that leads to a new event's acknowledgement, with a standby."""
    log, seconds = Log(conninfo), []
    relays = [process(conninfo, brokers, prefix) for _ in range(2)]
    try:
        for _ in range(KILLS):
            wait_until_sent(conninfo, pour(log))
            time.sleep(3.0)  # the standby must stand by
            leader = next(relay for relay in relays if relay.pid == leader_pid(conninfo))
            leader.kill()
            started = time.monotonic()
            leader.wait()
            wait_until_sent(conninfo, pour(log))
            seconds.append(time.monotonic() - started)
            relays[relays.index(leader)] = process(conninfo, brokers, prefix)
    finally:
        for relay in relays:
            relay.kill()
            relay.wait()
        log.close()
    return seconds


def leader_pid(conninfo: str) -> int:
    """A relay signs its lease with its host, its process and a name of its own."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("select holder from leases where name = 'relay'").fetchone()
    assert row
    return int(row[0].split(":")[-2])


def process(conninfo: str, brokers: str, prefix: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.relay", "--carry", conninfo, brokers, prefix], cwd=ROOT)


def carry(conninfo: str, brokers: str, prefix: str) -> None:
    """A relay, as a process."""
    Relay(setup(conninfo, brokers, prefix)).run()


def idleness(conninfo: str, brokers: str, prefix: str, seconds: float) -> float:
    """Share of a core that a relay uses when nothing happens."""
    relay = process(conninfo, brokers, prefix)
    try:
        time.sleep(8.0)
        used = psutil.Process(relay.pid).cpu_times()
        time.sleep(seconds)
        now = psutil.Process(relay.pid).cpu_times()
        return (now.user + now.system - used.user - used.system) / seconds
    finally:
        relay.terminate()
        relay.wait()


@contextmanager
def broker(given: str) -> Iterator[str]:
    """The address of a broker: the given one, or librdkafka's in a process of its own."""
    if given:
        yield given
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


def main(events: int, rounds: int, idle: float, kafka: str) -> None:
    with postgres() as conninfo, broker(kafka) as brokers:
        log = Log(conninfo)
        fill(log, events)
        bare(log)  # warm: both read from PostgreSQL's memory
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(bare(log))
            ours.append(carried(conninfo, brokers, real=bool(kafka)))
        told("the library's bare reading and mapping, events/s", theirs, digits=0)
        told("the relay, events/s", ours, digits=0)
        told("the relay / the library's bare reading and mapping", ratios(ours, theirs), GOAL)
        prefix = f"b{uuid4().hex}"
        make_topics(setup(conninfo, brokers, prefix), brokers, real=bool(kafka))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("delete from bus_layouts")
        log.close()
        seconds = take_overs(conninfo, brokers, prefix)
        told("from SIGKILL to the next event on the bus, s", [max(seconds)], f"< {TAKE_OVER_SECONDS:g}")
        told(f"idle for {idle:g} s, % of a core", [100 * idleness(conninfo, brokers, prefix, idle)], "< 1")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of idleness to measure")
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a real Kafka")
    parser.add_argument("--carry", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--broker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.carry:
        carry(*given.carry)
    elif given.broker:
        be_broker()
    else:
        main(given.events, given.rounds, given.idle, given.kafka)
