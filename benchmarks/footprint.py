"""What `muniment up` needs: the time from start to ready on an existing folder, memory, and the processor when idle.

    python -m benchmarks.footprint [--starts 5] [--idle 60]

Ready is what `/readyz` says. Memory is the PSS of all processes (shared pages counted once); the processor's time is
that of all of them, from /proc.
"""

import argparse
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.common import family, temporary_folder, told
from benchmarks.running import Platform

USERS = 30
SETTLE_SECONDS = 5.0
MEGABYTE = 1 << 20


def small_store(data: Path) -> None:
    """A few dozen people with a role each."""
    with Platform(data, MUNIMENT_BCRYPT_COST="4") as server, server.client() as client:
        for number in range(USERS):
            new = {"email": f"clerk{number}@engine.example", "name": "A Clerk", "password": "ledgers and tea"}
            user_id = client.do("POST", "/api/v1/users", new)["id"]
            client.do("POST", f"/api/v1/users/{user_id}/roles", {"role": "auditor", "scope": f"/acme/{number}"})


def part_names(root: int) -> dict[int, str]:
    """Which part each process belongs to."""
    names = {root: "up"}
    for child in psutil.Process(root).children():
        line = child.cmdline()
        name = line[-1] if "runtime" in line else Path(line[0]).name
        names |= {process.pid: name.split(":")[0] for process in [child, *child.children(recursive=True)]}
    return names


def memory(root: int) -> Counter[str]:
    """PSS in bytes, by part."""
    names, found = part_names(root), Counter[str]()
    for process in family(root):
        with suppress(psutil.NoSuchProcess):
            found[names.get(process.pid, "other")] += process.memory_full_info().pss
    return found


def used(root: int) -> Counter[str]:
    """Processor seconds so far, by part; those of children that have ended are in their parents'."""
    names, found = part_names(root), Counter[str]()
    for process in family(root):
        with suppress(psutil.NoSuchProcess):
            found[names.get(process.pid, "other")] += sum(process.cpu_times()[:4])
    return found


def main(starts: int, idle_seconds: float) -> None:
    """Prints the three figures."""
    with temporary_folder() as folder:
        data = folder / "data"
        small_store(data)
        seconds = []
        for _ in range(starts - 1):
            with Platform(data) as server:
                seconds.append(server.start_seconds)
        with Platform(data) as server:
            seconds.append(server.start_seconds)
            told("start on an existing folder to ready", seconds, "< 5", unit=" s")
            with server.client() as client:
                client.do("GET", "/api/v1/users")
            time.sleep(SETTLE_SECONDS)
            found = memory(server.pid)
            told("memory of all processes (PSS)", [found.total() / MEGABYTE], "< 350", digits=0, unit=" MB")
            print("    " + ", ".join(f"{name} {size / MEGABYTE:.0f}" for name, size in found.most_common()))
            before, began = used(server.pid), time.monotonic()
            time.sleep(idle_seconds)
            spent, took = used(server.pid), time.monotonic() - began
            spent.subtract(before)
            told(f"idle for {idle_seconds:g} s: share of a core", [spent.total() / took * 100], "< 1", unit=" %")
            print("    " + ", ".join(f"{name} {each / took:.2%}" for name, each in spent.most_common()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--idle", type=float, default=60.0)
    given = parser.parse_args()
    main(given.starts, given.idle)
