"""A stream worker that is far behind catches up from the log, beside a bare Faust agent that only acknowledges.

    python -m benchmarks.catchup [--events 1000000] [--views access] [--together] [--messages 15000] [--kafka HOST:PORT]

The worker is the very feeder of `muniment stream`, in a process of its own, with all lanes of a layout of four
partitions at the log's beginning: it takes them, and brings the views to the head in bulk. It counts as many events as
the log has that concern a view; with several views the log is read once, and the events are counted once, too:
`--together` prints what a worker does for all views, after what it does for those chosen. The bare
agent takes what a relay has published of the same log, with `noack_take`: from librdkafka's broker in a process of its
own, which is quicker than a real one and keeps the newest 5 MB of a partition; or from a real one. It runs before and
after the worker. Processor time is that of the two processes, and beside the worker's that of all of PostgreSQL.
"""

import argparse
import subprocess
import sys
import time
from threading import Thread
from uuid import uuid4

import psutil
import psycopg

from benchmarks.bare_agent import Taken, bare_agent
from benchmarks.common import ROOT, postgres, processor_seconds, told
from benchmarks.history import TOPICS, fill
from benchmarks.relay import broker, make_topics, setup, wait_until_sent
from infra.event_store import Log
from infra.messages import Messages, Place
from projections.builds import ensure_builds
from projections.feeds import FAUST, builds_of, change_feed
from projections.lanes import Spread, module_of
from projections.projection import Projection
from runtime import modules
from stream_apps.feeder import Feeder, FeederSetup
from stream_apps.relay import Relay

GOAL = ">= 8"
PARTITIONS = 4
PUBLISHED = 60_000
"""Events of the log that the bare agent's peers are published from, where the broker is not a real one."""


def printed(*arguments: str) -> Taken:
    """What this script, with these arguments, says in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.catchup", *arguments]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return Taken(*map(float, found.stdout.split()[-2:]))


def feed(conninfo: str, views: list[str]) -> None:
    """Takes all lanes, catches up, and prints what each event used of this process, and events per second."""
    chosen = [projection for projection in modules.projections() if projection.name in views]
    spread = _spread(chosen)
    log = Log(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        ensure_builds(connection, chosen)
        for projection in chosen:
            for build, _, _ in builds_of(connection, projection):
                change_feed(connection, log, build, FAUST, spread)
        row = connection.execute("select count(*) from stored_events where topic = any(%s)", (list(TOPICS),)).fetchone()
        wanted = row[0] if row else 0
        feeder = Feeder(
            FeederSetup(log, conninfo, chosen, Messages(b"k" * 32), lambda _, __: spread), spread.topics.values()
        )
        feeder.own(Place(topic, partition) for topic in spread.topics.values() for partition in range(PARTITIONS))
        started, used = time.monotonic(), time.process_time()
        feeder.tick()
        seconds, used = time.monotonic() - started, time.process_time() - used
        feeder.close()
        row = connection.execute("select min(position) from projection_progress").fetchone()
        assert row
        assert row[0] == log.head(), f"it stands at {row[0]}"
    log.close()
    print(used / wanted * 1e6, wanted / seconds)


def _spread(projections: list[Projection]) -> Spread:
    """One topic for each module, as a relay would have laid them out."""
    topics = {str(kind.TOPIC) for projection in projections for kind in projection.on}  # type: ignore[attr-defined]
    modules_of_them = {module_of(topic) for topic in topics} | {"projections"}
    return Spread(1, PARTITIONS, {name: f"muniment.{name}" for name in sorted(modules_of_them)})


def bare(messages: int, kafka: str) -> Taken:
    """What a bare agent takes of what a relay published of the same kind of log."""
    with postgres() as conninfo, broker(kafka) as brokers:
        fill(conninfo, messages if kafka else PUBLISHED)
        given = setup(conninfo, brokers, f"b{uuid4().hex}")
        make_topics(given, brokers, real=bool(kafka))
        relay = Relay(given)
        thread = Thread(target=relay.run)
        thread.start()
        relay.leading.wait()
        wait_until_sent(conninfo, given.log.head())
        relay.stop()
        thread.join()
        given.log.close()
        topic = next(topic for topic in given.wanted.topics(1) if topic.endswith("access"))
        return bare_agent(brokers, [topic], messages=messages)


def database_seconds() -> float:
    """Processor time of the PostgreSQL that was started here."""
    return sum(
        processor_seconds(child.pid) for child in psutil.Process().children() if "postgres" in " ".join(child.cmdline())
    )


def main(events: int, chosen: list[list[str]], messages: int, kafka: str) -> None:
    """Prints what the module says, for each choice of views."""
    peer = ["--bare", "--messages", str(messages), *(["--kafka", kafka] if kafka else [])]
    theirs, ours = [printed(*peer)], []
    for views in chosen:
        with postgres() as conninfo:
            fill(conninfo, events)
            before = database_seconds()
            ours.append(printed("--feed", conninfo, "--views", *views))
            database = (database_seconds() - before) / events * 1e6
        theirs.append(printed(*peer))
        told(f"a worker {events:,} events behind ({', '.join(views)}), events/s", [ours[-1].per_second], digits=0)
        told("of the processor, us/event: the worker", [ours[-1].used], digits=1)
        told("PostgreSQL", [database], digits=1)
    told("a bare Faust agent, events/s", [each.per_second for each in theirs], digits=0)
    told("of the processor, us/event", [each.used for each in theirs], digits=1)
    for views, mine in zip(chosen, ours, strict=True):
        found = [mine.per_second / each.per_second for each in theirs]
        told(f"the worker ({', '.join(views)}) / the bare agent", found, GOAL, digits=1)


if __name__ == "__main__":
    names = [projection.name for projection in modules.projections()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--views", nargs="+", default=["access"], choices=names)
    parser.add_argument("--together", action="store_true", help="all views, too")
    parser.add_argument("--messages", type=int, default=15_000)
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a real Kafka")
    parser.add_argument("--feed", metavar="CONNINFO", help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        print(*bare(given.messages, given.kafka))
    elif given.feed:
        feed(given.feed, given.views)
    else:
        main(given.events, [given.views, *([names] if given.together else [])], given.messages, given.kafka)
