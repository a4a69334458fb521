"""Taking over on a real Apache Kafka: from a kill, or an orderly stop, until views or the bus go on.

    python -m benchmarks.takeover [--rounds 5] [--kafka HOST:PORT]

Two stream workers share the partitions, and two relays the lease. One is killed (SIGKILL, with its guard, and not
started again), an event is saved for every partition, and the clock runs until every view has all of them, or until
Kafka has acknowledged them. A worker that is stopped in good order leaves its group, and is measured too.
"""

import argparse
import time
from collections.abc import Callable

import psycopg

from benchmarks.bus import Part, Shape, kafka, shape
from benchmarks.common import told
from domain.audit import Entry
from infra.event_store import Log, Metadata

WORKER_SECONDS, RELAY_SECONDS, STOP_SECONDS = 15.0, 5.0, 2.0
EVENTS = 64
"""Each of a stream of its own, so that hardly a partition has none."""

SETTLE_SECONDS = 6.0
METADATA = Metadata(actor="service:benchmark", correlation_id="bench").to_bytes()


def pour(log: Log) -> int:
    """Events for every partition; the position of the last."""
    cups = [Entry("tea.poured", f"cup/{number}", "success", {}, None) for number in range(EVENTS)]
    return log.save_work(cups, metadata=METADATA).position


def workers(given: Shape, log: Log, rounds: int, end: Callable[[Part], None]) -> list[float]:
    """Seconds from the end of one of two stream workers until the views have what was saved right after."""
    seconds, parts = [], [given.part("stream"), given.part("stream")]
    for number in range(rounds):
        settle(given, log)
        victim = parts[number % 2]
        started = time.monotonic()
        end(victim)
        given.wait_until_visible(pour(log))
        seconds.append(time.monotonic() - started)
        parts[number % 2] = given.part("stream")
    for part in parts:
        part.stop()
    return seconds


def settle(given: Shape, log: Log) -> None:
    """Until the views are level, and those who came have their share of the partitions."""
    for _ in range(2):
        time.sleep(SETTLE_SECONDS)
        given.wait_until_visible(pour(log))


def relays(given: Shape, log: Log, rounds: int) -> list[float]:
    """Seconds from the kill of the relay that leads until Kafka has what was saved right after."""
    seconds, parts = [], [given.part("relay")]
    given.wait_until_sent(pour(log))
    for _ in range(rounds):
        parts.append(given.part("relay"))
        time.sleep(SETTLE_SECONDS)
        given.wait_until_sent(pour(log))
        leader = next(part for part in parts if part.pid == leader_pid(given))
        started = time.monotonic()
        leader.kill()
        given.wait_until_sent(pour(log))
        seconds.append(time.monotonic() - started)
        parts.remove(leader)
    for part in parts:
        part.stop()
    return seconds


def leader_pid(given: Shape) -> int:
    """A relay signs its lease with its host, its process and a name of its own."""
    with psycopg.connect(given.settings.postgres_url, autocommit=True) as connection:
        row = connection.execute("select holder from leases where name = 'relay'").fetchone()
    assert row
    return int(row[0].split(":")[-2])


def main(rounds: int, address: str) -> None:
    """Prints the times of each round."""
    with kafka(address) as brokers, shape(brokers) as given:
        log = Log(given.settings.postgres_url)
        report("the relay: SIGKILL to the next events on the bus, s", relays(given, log, rounds), RELAY_SECONDS)
        relay = given.part("relay")
        given.wait_until_sent(pour(log))
        report("a stream worker: SIGKILL to visible, s", workers(given, log, rounds, Part.kill), WORKER_SECONDS)
        report("a stream worker: SIGTERM to visible, s", workers(given, log, rounds, Part.stop), STOP_SECONDS)
        relay.stop()
        log.close()


def report(what: str, seconds: list[float], goal: float) -> None:
    """The longest counts."""
    print(f"    {', '.join(f'{each:.1f}' for each in seconds)}")
    told(f"{what}, longest of {len(seconds)}", [max(seconds)], f"< {goal:g}", digits=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a Kafka that runs already")
    chosen = parser.parse_args()
    main(chosen.rounds, chosen.kafka)
