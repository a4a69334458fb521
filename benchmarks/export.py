"""Exports beside the library's bare reading and mapping of the same events.

    python -m benchmarks.export [--events 100000] [--rounds 3]

Per round the same log is read by the library (its query for notifications, its mapper and JSON, nothing else), the same
with our own mapper in the place of its own, and exported to JSON Lines, Parquet, CSV and DuckDB: checkpoints, fsync and
checksums included, in one process beside PostgreSQL. Half of the events have a secret field, which is left out. Memory
is that of this process, which did it all.
"""

import argparse
import resource
import time
from pathlib import Path

from benchmarks.common import postgres, ratios, temporary_folder, told
from benchmarks.relay import bare, fill, library
from infra.event_store import Log
from infra.exporting.export import FORMATS, export, opener
from infra.exporting.rows import Selection
from runtime.analysis import selected

GOALS = {"jsonl": ">= 1.5", "parquet": ">= 1.0"}


def exported(conninfo: str, head: int, name: str, folder: Path) -> float:
    """Events per second of one export."""
    header = {"asked": {"format": name, "log": ""}, "after": 0, "upto": head}
    started = time.monotonic()
    done = export(conninfo, Selection(0, head), name, folder / f"{name}-{started}", header)
    assert done.events == head
    return head / (time.monotonic() - started)


def iterated(conninfo: str, head: int) -> float:
    """Events per second of the iterator."""
    started = time.monotonic()
    assert sum(1 for _ in selected(conninfo, Selection(0, head))) == head
    return head / (time.monotonic() - started)


def main(events: int, rounds: int) -> None:
    with postgres() as conninfo, temporary_folder() as folder:
        log = Log(conninfo)
        fill(log, events)
        head = log.head()
        peer: list[float] = []
        quicker: list[float] = []
        mapper = library()
        ours: dict[str, list[float]] = {name: [] for name in (*FORMATS, "iterator")}
        for name in FORMATS:
            opener(name)  # imports its library, once per process
        for _ in range(rounds):
            peer.append(bare(log, mapper).per_second)
            quicker.append(bare(log, log.mapper).per_second)
            for name in FORMATS:
                ours[name].append(exported(conninfo, head, name, folder))
            ours["iterator"].append(iterated(conninfo, head))
        log.close()
    told("the library's bare reading and mapping", peer, digits=0, unit="/s")
    told("the same with our mapper", quicker, digits=0, unit="/s")
    for name, rates in ours.items():
        told(f"{name}", rates, digits=0, unit="/s")
        told(f"{name} / the library", ratios(rates, peer), GOALS.get(name, ""))
        told(f"{name} / the library with our mapper", ratios(rates, quicker))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"the most memory that this process had: {memory:.0f} MB, at {head:,} events")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.events, given.rounds)
