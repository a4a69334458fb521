"""From save to visible through the follower: the platform's own views, a durable PostgreSQL, 500 events a second.

    python -m benchmarks.follower [--rate 500] [--seconds 20] [--idle 20]

The generator saves single events at fixed times (an audit entry, a session), each durable before it counts; a view is
visible at a position once its own notification says so, which PostgreSQL sends behind the commit. Printed per view:
milliseconds from the save's answer to visible, beside the same for the commit's own notification, which nobody works
on; and what the follower uses when nothing happens. Three processes beside
PostgreSQL: generator, follower, and this one, which listens.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread
from typing import Self
from uuid import uuid4

import psutil
import psycopg

from benchmarks.common import ROOT, postgres, quantile, told
from domain.audit import Entry
from domain.identity import Session
from infra.event_store import Log, Metadata
from projections.builds import ensure_builds
from projections.follower import Follower
from projections.identity import SESSIONS
from projections.lane import Setup
from runtime import modules

PROJECTIONS = modules.projections()
GENERATOR_THREADS = 8
WARM_UP_SECONDS = 2.0
P99_MILLISECONDS = 20.0
BARE = "the bare notification"
METADATA = Metadata(actor="service:benchmark", correlation_id="bench").to_bytes()


def follow(conninfo: str) -> None:
    """The follower, as a process."""
    Follower(Setup(Log(conninfo), conninfo, PROJECTIONS)).run()


def generate(conninfo: str, rate: float, seconds: float) -> None:
    """Saves at fixed times; prints a line for each: position, when it was due, when it was answered."""
    log = Log(conninfo, inline=[SESSIONS])
    start = time.monotonic() + 0.2
    count = int(rate * seconds)

    def save(number: int) -> str:
        due = start + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        fact = (
            Entry("tea.poured", f"cup/{number}", "success", {"sugar": 2}, None)
            if number % 2
            else Session(uuid4(), "hash", uuid4())
        )
        position = log.save_work([fact], metadata=METADATA).position
        return f"{position} {due} {time.monotonic()}"

    with ThreadPoolExecutor(GENERATOR_THREADS) as pool:
        for line in pool.map(save, range(count)):
            print(line)
    log.close()


class Ears:
    """When each view said that it had reached a position."""

    def __init__(self, conninfo: str) -> None:
        self.heard: dict[str, list[tuple[int, float]]] = {}
        self._conninfo = conninfo
        self._closing = Event()
        self._thread = Thread(target=self._listen)

    def __enter__(self) -> Self:
        gc.disable()  # it would take what is heard meanwhile for late
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        gc.enable()

    def _listen(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute("listen muniment_log")
            connection.execute("listen muniment_progress")
            while not self._closing.is_set():
                for notification in connection.notifies(timeout=0.2):
                    now = time.monotonic()
                    payload = json.loads(notification.payload)
                    name, position = payload.get("projection", BARE), payload.get("position", payload.get("head"))
                    self.heard.setdefault(name, []).append((position, now))


def delays(answered: Sequence[tuple[int, float]], heard: Sequence[tuple[int, float]]) -> list[float]:
    """Milliseconds from each answer to the first notification at or past its position; 0 if that came first."""
    result, index = [], 0
    for position, moment in answered:
        while heard[index][0] < position:
            index += 1
        result.append(max(0.0, heard[index][1] - moment) * 1000)
    return sorted(result)


@contextmanager
def prepared() -> Iterator[str]:
    with postgres() as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            ensure_builds(connection, PROJECTIONS)
        yield conninfo


def started(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.follower", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)  # type: ignore[call-overload, no-any-return]


def saves(conninfo: str, rate: float, seconds: float) -> list[tuple[int, float, float]]:
    generator = started("--generate", conninfo, "--rate", str(rate), "--seconds", str(seconds), stdout=subprocess.PIPE)
    output, _ = generator.communicate()
    rows = [line.split() for line in output.splitlines()]
    return sorted((int(position), float(due), float(answered)) for position, due, answered in rows)


def level(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        sql = "select (select position from log_head) = (select min(position) from projection_progress)"
        while connection.execute(sql).fetchone() != (True,):
            time.sleep(0.05)


def main(rate: float, seconds: float, idle: float) -> None:
    with prepared() as conninfo:
        follower = started("--follow", conninfo)
        try:
            saves(conninfo, rate, WARM_UP_SECONDS)
            level(conninfo)
            with Ears(conninfo) as ears:
                time.sleep(0.3)
                rows = saves(conninfo, rate, seconds)
                level(conninfo)
                time.sleep(0.3)
            report(rows, ears)
            process = psutil.Process(follower.pid)
            before = sum(process.cpu_times()[:2])
            time.sleep(idle)
            used = (sum(process.cpu_times()[:2]) - before) / idle
            print(f"idle for {idle:g} s: {used:.2%} of a core, {process.memory_full_info().pss / 2**20:.0f} MB (PSS)")
        finally:
            follower.terminate()
            follower.wait()


def report(rows: Sequence[tuple[int, float, float]], ears: Ears) -> None:
    span = rows[-1][2] - rows[0][1]
    print(f"{len(rows)} events in {span:.1f} s: {len(rows) / span:.0f}/s")
    late = sorted((answered - due) * 1000 for _, due, answered in rows)
    print(f"{'due to durable':>24}: median {quantile(late, 0.5):5.1f} ms, p99 {quantile(late, 0.99):5.1f} ms")
    for name, heard in sorted(ears.heard.items()):
        took = delays([(position, answered) for position, _, answered in rows], heard)
        spread = f"median {quantile(took, 0.5):.1f}, longest {took[-1]:.1f} ms, {len(heard)} commits"
        goal = "" if name == BARE else f"< {P99_MILLISECONDS:g}"
        told(f"durable to {name}: p99 ({spread})", [quantile(took, 0.99)], goal, digits=1, unit=" ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of idleness to measure")
    parser.add_argument("--follow", metavar="CONNINFO", help=argparse.SUPPRESS)
    parser.add_argument("--generate", metavar="CONNINFO", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.follow:
        follow(given.follow)
    elif given.generate:
        generate(given.generate, given.rate, given.seconds)
    else:
        main(given.rate, given.seconds, given.idle)
