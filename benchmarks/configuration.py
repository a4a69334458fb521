"""What it costs that configuration can change: reading a value, eight idle processes, an update until all have it.

    python -m benchmarks.configuration [--seconds 60] [--updates 200] [--only reading|idle|updates]

Reading: a value of the snapshot beside an attribute of a plain object. Idle: eight processes of what a part is built
from, with the configuration followed and acknowledged and without, and the processor time of their PostgreSQL with
them. Updates: an update's commit until all eight say that they run with it, on a connection that hears their answers.
"""

import argparse
import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from benchmarks.common import ROOT, postgres, processor_seconds, told
from commands.configuration import ChangeConfiguration, change_configuration
from domain.configuration import NamespaceName
from domain.context import Actor, Context
from infra.configuration.heads import HEADS
from infra.configuration.instances import instances
from infra.configuration.live import Live, Snapshot
from infra.configuration.schemas import SCHEMAS
from infra.configuration.waiting import wait_for_answers
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.settings import Settings

PROCESSES = 8
READS = 500_000
ROW = 100
ROUNDS = 15
SETTLE_SECONDS = 3.0
LONGEST_ANSWER_SECONDS = 10.0


# --- reading


class Plain:
    """An object with one attribute."""

    def __init__(self) -> None:
        self.page_size = 50


def reading() -> None:
    """Prints ratios. Of each way the quickest round counts: whatever else the machine does only adds to it."""
    live = Live.of(Settings())
    names = {"plain": Plain(), "snapshot": live.current, "live": live}
    plainly = min(timed("plain.page_size", names) for _ in range(ROUNDS))
    told("an attribute of a plain object, ns", [1e9 * plainly], digits=1)
    for expression, what, goal in WAYS:
        with live.bind() if "in a request" in what else nullcontext():
            seconds = min(timed(expression, names) for _ in range(ROUNDS))
        told(f"{expression}, {what}, ns", [1e9 * seconds], digits=1)
        told("    times as long", [seconds / plainly], goal)


WAYS = (
    ("snapshot.settings.page_size", "of what a request has in hand", "< 3"),
    ("live.current.settings.page_size", "of what is in force", "< 3"),
    ("live.settings.page_size", "of what is bound, outside of anything", ""),
    ("live.settings.page_size", "of what is bound, in a request", ""),
)
"""Ways of reading a value. The last two are for what knows of no request: hashing, tokens, caches."""


def timed(expression: str, names: dict[str, Any]) -> float:
    """Seconds of processor time that one evaluation takes: many in a row, so that the loop hardly counts."""
    body = "; ".join([expression] * ROW)
    code = compile(f"def work(rounds, {', '.join(names)}):\n for _ in rounds:\n  {body}", "<reading>", "exec")
    made: dict[str, Any] = {}
    exec(code, made)
    rounds = range(READS // ROW)
    started = time.process_time()
    made["work"](rounds, **names)
    return (time.process_time() - started) / READS


# --- eight processes


def process(folder: str, conninfo: str, *, follows: bool) -> None:
    """What a part is built from, until SIGTERM; `follows`: with its configuration kept up to date."""
    from runtime.configured import configured  # noqa: PLC0415 - only the children need the platform
    from runtime.core import open_core  # noqa: PLC0415

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    settings = Settings(data=Path(folder), postgres_url=conninfo, pool_size=4)
    with configured(settings, "benchmark") if follows else open_core(Live.of(settings)):
        print("ready", flush=True)
        ended.wait()


@contextmanager
def eight(conninfo: str, folder: str, *, follows: bool) -> Iterator[list[int]]:
    """Their process ids, once all run."""
    command = [sys.executable, "-m", "benchmarks.configuration", "--process", folder, conninfo]
    started = [
        subprocess.Popen([*command, *(["--follows"] if follows else [])], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(PROCESSES)
    ]
    try:
        for each in started:
            assert each.stdout
            assert each.stdout.readline() == b"ready\n"
        yield [each.pid for each in started]
    finally:
        for each in started:
            each.terminate()
        for each in started:
            each.wait(20)


def server_pid(conninfo: str) -> int:
    """The process of the server that all its others are children of."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("select pg_backend_pid()").fetchone()
        assert row
        return int(Path(f"/proc/{row[0]}/stat").read_text().rpartition(")")[2].split()[1])


def idle(seconds: float) -> None:
    """Prints shares of a core."""
    shares: dict[bool, float] = {}
    with postgres() as conninfo, folder_of_secrets() as folder:
        server = server_pid(conninfo)
        for follows in (False, True):
            with eight(conninfo, folder, follows=follows) as pids:
                if follows:
                    wait_until_all_tell(conninfo)
                time.sleep(SETTLE_SECONDS)
                before, began = [processor_seconds(pid) for pid in (server, *pids)], time.monotonic()
                time.sleep(seconds)
                took = time.monotonic() - began
                used = sum(processor_seconds(pid) for pid in (server, *pids)) - sum(before)
                shares[follows] = 100 * used / took
    told(f"{PROCESSES} processes idle for {seconds:g} s, without configuration", [shares[False]], unit=" % of a core")
    told("with it, followed and acknowledged", [shares[True]], unit=" % of a core")
    told("with minus without", [shares[True] - shares[False]], "< 1", unit=" % of a core")


@contextmanager
def folder_of_secrets() -> Iterator[str]:
    """Keys that all eight have."""
    from benchmarks.common import temporary_folder  # noqa: PLC0415

    with temporary_folder() as folder:
        (folder / "secrets").mkdir(mode=0o700)
        for name in ("master_key", "pepper", "claim_key"):
            path = folder / "secrets" / name
            path.write_text(base64.b64encode(os.urandom(32)).decode())
            path.chmod(0o600)
        yield str(folder)


def wait_until_all_tell(conninfo: str) -> None:
    """Until each of the eight has said what it runs with."""
    until = time.monotonic() + 30
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while len(instances(connection, "api")) < PROCESSES:
            assert time.monotonic() < until
            time.sleep(0.05)


# --- updates


class Own:
    """The platform's own namespaces, over an empty environment."""

    schemas = SCHEMAS
    file: MappingProxyType[str, Any] = MappingProxyType({})

    def consent(self, *_: Any) -> None:
        """Nobody is asked."""


def updates(count: int) -> None:
    """Prints milliseconds from an update's commit to the last of eight acknowledgements."""
    took: list[float] = []
    with postgres() as conninfo, folder_of_secrets() as folder, eight(conninfo, folder, follows=True):
        wait_until_all_tell(conninfo)
        with closing(Log(conninfo, inline=(HEADS,))) as log, psycopg.connect(conninfo, autocommit=True) as connection:
            dispatcher, context = Dispatcher(log), Context(Actor("operator", "benchmark"), "benchmark")
            for number in range(count):
                command = ChangeConfiguration(NamespaceName("api"), {"page_size": 1 + number % 200}, Own())
                changed = dispatcher.dispatch(change_configuration, command, context)
                committed = time.perf_counter()
                answered = wait_for_answers(connection, "api", changed.result.version, LONGEST_ANSWER_SECONDS)
                took.append(1e3 * (time.perf_counter() - committed))
                assert answered.complete
                assert len(answered.instances) == PROCESSES
    took.sort()
    told(f"{count} updates until all {PROCESSES} processes run with them, median", [took[len(took) // 2]], unit=" ms")
    told("p99", [took[int(len(took) * 0.99)]], "< 200", unit=" ms")


def swap_cost() -> None:
    """Prints what a swap itself takes."""
    base = Settings()
    live = Live.of(base)
    snapshots = [Snapshot(replace(base, page_size=number + 1), number) for number in range(100)]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for snapshot in snapshots:
            live.offer(snapshot)
        seconds.append(1e6 * (time.perf_counter() - started) / len(snapshots))
    told("a swap, microseconds", seconds)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "reading": lambda _: (reading(), swap_cost())[0],
    "updates": lambda given: updates(given.updates),
    "idle": lambda given: idle(given.seconds),
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        process(*sys.argv[2:4], follows="--follows" in sys.argv)
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--only", choices=PARTS, default=None)
    chosen = parser.parse_args()
    for name in [chosen.only] if chosen.only else PARTS:
        PARTS[name](chosen)
