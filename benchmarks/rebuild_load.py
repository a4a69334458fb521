"""Checks while a view is rebuilt, beside checks without: whether whoever is served notices.

    python -m benchmarks.rebuild_load [--assignments 200000] [--rounds 3] [--rate 200] [--limit N]

The platform as `muniment up` runs it, over a store with so many assignments (two events each). Checks are paced, one
caller, about 10,000 users in turn. Rounds take turns: without, and while the access view is rebuilt by the command, in
a process of its own; each time the new build is dropped again. With `--limit` also at that rate (events per second).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.common import ROOT, ratios, temporary_folder, told
from benchmarks.load import measure
from benchmarks.running import Platform
from benchmarks.warm_checks import ASKED, ASKED_AT, PATH, ROUND_USERS, prepare, user, warm
from infra.embedded import DataFolder, Postgres

SECONDS = 5.0
STOP_SECONDS = 20.0
BEGIN_SECONDS = 30.0


def command(folder: Path, *arguments: str) -> list[str]:
    """A command of the operator's."""
    return [
        "env",
        f"MUNIMENT_DATA={folder}",
        "MUNIMENT_LOG_LEVEL=warning",
        sys.executable,
        "-m",
        "runtime",
        "projections",
        *arguments,
    ]


@contextmanager
def rebuilding(folder: Path, limit: int | None) -> Iterator[None]:
    """The access view is being rebuilt for as long as the block lasts; then the build goes."""
    rate = ["--rate", str(limit)] if limit else []
    process = subprocess.Popen(
        command(folder, "rebuild", "access", *rate),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _begun(folder, process)
        yield
    finally:
        process.terminate()
        _, said = process.communicate(timeout=STOP_SECONDS)
        print(f"   {said.strip().splitlines()[-1] if said.strip() else ''}", file=sys.stderr, flush=True)
        subprocess.run(command(folder, "drop", "access"), cwd=ROOT, check=True, capture_output=True)


def _begun(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Waits until it has made its tables, and a moment more."""
    sql = "select count(*) from projection_builds where feed = 'rebuild'"
    with psycopg.connect(Postgres(DataFolder(folder)).conninfo, autocommit=True) as connection:
        deadline = time.monotonic() + BEGIN_SECONDS
        while connection.execute(sql).fetchone() == (0,):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the rebuild didn't begin")
            time.sleep(0.05)
    time.sleep(0.2)


def asked(server: Platform, token: str, bodies: Path, rate: int) -> dict[str, Any]:
    """One round."""
    figures: dict[str, Any] = measure(
        server.url + PATH,
        method="POST",
        header=f"Authorization: Bearer {token}",
        bodies=bodies,
        seconds=SECONDS,
        rate=rate,
        connections=8,
    )
    if set(figures["statuses"]) != {"200"}:
        raise RuntimeError(str(figures["statuses"]))
    return figures


def main(assignments: int, rounds: int, rate: int, limit: int | None) -> None:
    """Prints p50 and p99 of each, and the ratio."""
    with temporary_folder() as folder:
        data = folder / "p"
        prepare(data, assignments)
        bodies = folder / "checks.jsonl"
        checks = ({"user_id": str(user(n)), "permission": ASKED, "scope": ASKED_AT} for n in range(ROUND_USERS))
        bodies.write_text("".join(json.dumps(each) + "\n" for each in checks))
        with Platform(data) as server, server.client() as client:
            warm(server)
            without: list[dict[str, Any]] = []
            during: dict[int | None, list[dict[str, Any]]] = {each: [] for each in {None, limit}}
            for _ in range(rounds):
                without.append(asked(server, client.token, bodies, rate))
                for each, found in during.items():
                    with rebuilding(data, each):
                        found.append(asked(server, client.token, bodies, rate))
        _tell("without a rebuild", without)
        for each, found in during.items():
            _tell(f"during a rebuild at {each or 'full'} speed", found)
            goal = "< 2" if each is None else ""
            told(f"p99 during one at {each or 'full'} speed, against without", ratios(_p99(found), _p99(without)), goal)


def _p99(found: list[dict[str, Any]]) -> list[float]:
    return [figures["p99"] for figures in found]


def _tell(what: str, found: list[dict[str, Any]]) -> None:
    middle = statistics.median(figures["p50"] for figures in found)
    told(f"{what} (p50 {middle:.2f} ms): p99", _p99(found), unit=" ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assignments", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    main(given.assignments, given.rounds, given.rate, given.limit)
