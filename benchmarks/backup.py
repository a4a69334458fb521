"""Backup and restore of a long log beside PostgreSQL's own COPY of the table to and from a file, on one server.

Ours compresses, checks every block, seals, waits for the disk; and a restore also makes the inline tables anew and
checks that there are no gaps. COPY writes 7 times the bytes, and fills the table with its indexes in place.

Run: python -m benchmarks.backup [EVENTS]
"""

import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from benchmarks.common import postgres, ratios, temporary_folder, told
from benchmarks.made_up import fill
from infra.backup.load import load
from infra.backup.moment import header_of
from infra.backup.source import Backup
from infra.backup.take import write
from infra.backup.target import new_file
from infra.event_store import Log
from infra.layouts import Wanted
from infra.refill import refill
from runtime import modules
from runtime.restore import fact

EVENTS = 1_000_000
ROUNDS = 3
KEY = bytes(32)
# Neither side waits for a checkpoint that the other has caused.
SERVER = {"max_wal_size": "4GB", "checkpoint_timeout": "1h"}


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def emptied(connection: Connection[Any]) -> None:
    """No event, no session, nothing left to write to the disk."""
    for statement in (
        "truncate stored_events, sessions, session_floors",
        "update log_head set position = 0, recorded_at = 'epoch'",
        "checkpoint",
    ):
        connection.execute(statement.encode())


class Bench:
    """One server with a log, and a folder for files."""

    def __init__(self, connection: Connection[Any], log: Log, folder: Path) -> None:
        self._connection = connection
        self._log = log
        self._table = folder / "table.copy"
        self._file = folder / "muniment.backup"

    def copy_out(self) -> None:
        """PostgreSQL's own."""
        self._connection.execute(f"copy stored_events to '{self._table}' (format binary)".encode())

    def copy_in(self) -> None:
        """PostgreSQL's own."""
        self._connection.execute(f"copy stored_events from '{self._table}' (format binary)".encode())

    def back_up(self) -> None:
        """Ours."""
        with new_file(self._file, replace=True) as sink:
            write(self._connection.info.dsn, sink, header_of(self._connection, {}), KEY)

    def restore(self) -> None:
        """Ours."""
        with self._file.open("rb") as source:
            backup = Backup(source, "backup")
            load(
                self._connection,
                [backup],
                fact(self._log, backup.header, "ada"),
                lambda within: refill(within, self._log.mapper, modules.inline_tables()),
                seal_key=KEY,
                bus=Wanted("muniment", 4, ()),
            )

    def sizes(self) -> tuple[int, int]:
        """Bytes of both files."""
        return self._table.stat().st_size, self._file.stat().st_size


def main(events: int) -> None:
    """Prints the ratios."""
    with (
        postgres(SERVER) as conninfo,
        temporary_folder() as folder,
        closing(Log(conninfo)) as log,
        psycopg.connect(conninfo, autocommit=True, application_name="muniment restore") as connection,
    ):
        bench = Bench(connection, log, folder)
        print(f"filling {events:,} events in took {seconds(lambda: fill(connection, events)):.0f} s", flush=True)
        ratio_of("backup", events, [(seconds(bench.copy_out), seconds(bench.back_up)) for _ in range(ROUNDS)])
        ratio_of("restore", events, [brought_back(connection, bench) for _ in range(ROUNDS)])
        table, file = bench.sizes()
    told("size of COPY's file / ours", [table / file], digits=1)
    told(
        "most memory of this process", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], digits=0, unit=" MB"
    )


def brought_back(connection: Connection[Any], bench: Bench) -> tuple[float, float]:
    """Seconds of COPY and of ours, each into an empty table."""
    emptied(connection)
    theirs = seconds(bench.copy_in)
    emptied(connection)
    return theirs, seconds(bench.restore)


def ratio_of(name: str, events: int, rounds: list[tuple[float, float]]) -> None:
    """Prints how fast both sides were."""
    told(f"{name}: COPY, events/s", [events / theirs for theirs, _ in rounds], digits=0)
    told(f"{name}: ours, events/s", [events / ours for _, ours in rounds], digits=0)
    told(f"{name}: ours / COPY", ratios([theirs for theirs, _ in rounds], [ours for _, ours in rounds]), ">= 0.5")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
