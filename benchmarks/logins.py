"""Logins per second beside bare bcrypt on all cores; and, in a run of its own, paced checks during a storm of logins.

    python -m benchmarks.logins [--rounds 4] [--seconds 10] [--storm 30]

Cost 12. Bare bcrypt is one thread per core in one process, no server, no store, each with the lower priority that the
platform's hashing threads have, so that other work on the machine falls on both alike. The paced checks, too, run once
beside bare bcrypt in another process: that is what busy cores alone do to them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bcrypt

from benchmarks.common import ROOT, ratios, temporary_folder, told
from benchmarks.load import measure
from benchmarks.running import EMAIL, PASSWORD, Platform
from infra.passwords import LOWER_PRIORITY

COST = 12
AT_ONCE = 16
CHECKS_PER_SECOND = 200
P99_MILLISECONDS = 25.0


def bare(seconds: float) -> tuple[float, float]:
    """Verifications per second on all cores, and the processor seconds of one."""
    hashed = bcrypt.hashpw(b"x" * 44, bcrypt.gensalt(COST))
    until = time.monotonic() + seconds

    def work() -> int:
        os.setpriority(os.PRIO_PROCESS, 0, LOWER_PRIORITY)  # of this thread: Linux schedules them one by one
        count = 0
        while time.monotonic() < until:
            bcrypt.checkpw(b"x" * 44, hashed)
            count += 1
        return count

    cores = os.cpu_count() or 1
    used, started = time.process_time(), time.monotonic()
    with ThreadPoolExecutor(cores) as pool:
        count = sum(pool.map(lambda _: work(), range(cores)))
    return count / (time.monotonic() - started), (time.process_time() - used) / count


def logins(server: Platform, seconds: float) -> tuple[float, float]:
    """Logins per second, and the processor seconds that the whole platform used for one."""
    body = json.dumps({"email": EMAIL, "password": PASSWORD})
    used = server.processor_seconds()
    figures: dict[str, Any] = measure(
        f"{server.url}/api/v1/auth/login", method="POST", body=body, connections=AT_ONCE, seconds=seconds, warmup=0
    )
    assert set(figures["statuses"]) == {"200"}, figures["statuses"]
    return figures["rps"], (server.processor_seconds() - used) / figures["statuses"]["200"]


def storm(server: Platform, seconds: float) -> None:
    """Checks at a steady pace, before a storm and during it."""
    with server.client() as client:
        header = f"Authorization: Bearer {client.token}"
    body = json.dumps({"permission": "invoice:read", "scope": "/acme"})

    def paced(length: float) -> dict[str, Any]:
        options = {"method": "POST", "header": header, "body": body, "rate": CHECKS_PER_SECOND, "seconds": length}
        return measure(f"{server.url}/api/v1/access/check", **options)

    def beside(work: Callable[[], object]) -> dict[str, Any]:
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(work)
            time.sleep(1.0)
            figures = paced(seconds - 2.0)
            busy.result()
        assert set(figures["statuses"]) == {"200"}, figures["statuses"]
        return figures

    told_of(f"checks at {CHECKS_PER_SECOND}/s without logins", paced(seconds / 2))
    told_of("the same beside bare bcrypt in another process", beside(lambda: bare_elsewhere(seconds)))
    told_of("the same in a storm of logins", beside(lambda: logins(server, seconds)), f"< {P99_MILLISECONDS:g}")


def told_of(what: str, figures: dict[str, Any], goal: str = "") -> None:
    """Prints how long checks took."""
    told(f"{what}: p99 (p50 {figures['p50']:.1f} ms)", [figures["p99"]], goal, digits=1, unit=" ms")


def bare_elsewhere(seconds: float) -> None:
    """Bare bcrypt in a process of its own: what a machine whose cores hash passwords does to whoever wants to work."""
    command = [sys.executable, "-c", f"from benchmarks.logins import bare; bare({seconds})"]
    subprocess.run(command, check=True, cwd=ROOT)


def main(rounds: int, seconds: float, storm_seconds: float) -> None:
    """Prints rates and ratios."""
    with temporary_folder() as folder, Platform(folder / "data", MUNIMENT_BCRYPT_COST=str(COST)) as server:
        logins(server, 1.0)
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(bare(seconds))
            ours.append(logins(server, seconds))
        (bare_rates, bare_used), (rates, used) = zip(*theirs, strict=True), zip(*ours, strict=True)
        told(f"bare bcrypt at cost {COST}, {os.cpu_count()} cores", bare_rates, unit="/s")
        told(f"logins, {AT_ONCE} at once", rates, unit="/s")
        told("logins / bare bcrypt", ratios(rates, bare_rates), ">= 0.95")
        told("    by processor time of the whole platform", ratios(bare_used, used))
        print()
        storm(server, storm_seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--storm", type=float, default=30.0)
    given = parser.parse_args()
    main(given.rounds, given.seconds, given.storm)
