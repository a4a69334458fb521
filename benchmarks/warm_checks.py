"""Warm checks over HTTP, beside an empty route of bare Starlette on the same server with the same requests.

    python -m benchmarks.warm_checks [--assignments 10000 1000000] [--rounds 5] [--seconds 2]

One caller with a valid token asks about 10,000 users in turn; the process remembers 10,000. Everything else is as
`muniment up` runs it. Each platform's store is filled before it starts, log and view alike, by COPY: two events and one
row per assignment, as commands and follower would have written them, and samples are compared with the fold of the
event store. (The other views are told to begin behind these events: checks don't read them.)
"""

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg

from benchmarks.common import ratios, temporary_folder, told
from benchmarks.load import measure
from benchmarks.running import EMAIL, PASSWORD, Bare, Platform
from domain.access import UserAssignments
from domain.aggregate import NAMESPACE
from domain.context import Context
from infra.embedded import DataFolder, Postgres, running
from infra.event_store import Log, Metadata
from infra.settings import Settings
from projections.access import ACCESS
from projections.builds import builds_fed_by
from projections.compare import feed
from projections.engine import Engine
from projections.follower import FEED
from runtime import modules
from runtime.start import first_facts
from runtime.start import migrate as bring_up_to_date

ROUND_USERS = 10_000
PATH = "/api/v1/access/check"
ROLE, SCOPE, ASKED, ASKED_AT = "operator", "/acme/eu", "projection:read", "/acme/eu/berlin"
CAREFREE = {"fsync": "off", "max_wal_size": "4GB"}
SAMPLES = 25
BATCH = 1_000


def user(number: int) -> UUID:
    """The id of one of the users."""
    return uuid5(NAMESPACE, f"bench:{number}")


def prepare(folder: Path, assignments: int) -> None:
    """A data folder whose store has so many assignments, each of another user."""
    postgres = Postgres(DataFolder(folder), CAREFREE)
    with running(postgres):
        settings = Settings(data=folder, postgres_url=postgres.conninfo, admin_email=EMAIL, admin_password=PASSWORD)
        bring_up_to_date(settings, lambda _: None)
        first_facts(settings, lambda _: None)
        log = Log(postgres.conninfo)
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            builds = builds_fed_by(connection, FEED, modules.projections())
            for build in builds:
                feed(Engine(connection, log, build, quiet=True), log, 0, log.head())
            fill(connection, log, assignments)
        log.close()


def fill(connection: psycopg.Connection[Any], log: Log, assignments: int) -> None:
    """What `assign_role` for each user would have left in the log and in the view of access."""
    table = ACCESS.table("assignments", 1)
    now = datetime.now(UTC)
    metadata = Metadata.from_context(Context.system("benchmark", "bench")).to_bytes()
    before = log.head()
    events = assigned_events(log, assignments)
    columns = "originator_id, originator_version, topic, state, notification_id, recorded_at, metadata"
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy(f"copy stored_events ({columns}) from stdin (format binary)".encode()) as copy:
            copy.set_types(["uuid", "int8", "text", "bytea", "int8", "timestamptz", "bytea"])
            for position, (stream, version, topic, state) in enumerate(events, start=before + 1):
                copy.write_row((stream, version, topic, state, position, now, metadata))
        columns = "user_id, role, scope, from_position, from_at, from_by"
        with cursor.copy(f"copy {table} ({columns}) from stdin (format binary)".encode()) as copy:
            copy.set_types(["uuid", "text", "text", "int8", "timestamptz", "text"])
            for number in range(assignments):
                copy.write_row((user(number), ROLE, SCOPE, before + 2 * (number + 1), now, "system:benchmark"))
        head = before + 2 * assignments
        cursor.execute("update log_head set position = %s, recorded_at = %s", (head, now))
        cursor.execute("update projection_progress set position = %s, recorded_at = %s", (head, now))
    connection.execute("vacuum analyze")


def assigned_events(log: Log, assignments: int) -> Iterator[tuple[UUID, int, str, bytes]]:
    """The rows of one real aggregate, with everybody's ids in the place of its own."""
    model = UserAssignments(user_id=NAMESPACE)
    model.assign(ROLE, SCOPE, None, datetime.now(UTC))
    rows = [log.mapper.to_stored_event(event) for event in model.collect_events()]
    for number in range(assignments):
        user_id = user(number)
        stream, text = UserAssignments.create_id(user_id), str(user_id).encode()
        for row in rows:
            yield stream, row.originator_version, row.topic, row.state.replace(str(NAMESPACE).encode(), text)


def warm(server: Platform) -> None:
    """Asks about everybody once."""
    with server.client() as client:
        for start in range(0, ROUND_USERS, BATCH):
            checks = [{"user_id": str(user(n)), "permission": ASKED} for n in range(start, start + BATCH)]
            client.do("POST", f"{PATH}/batch", {"checks": checks})


@dataclass
class Contender:
    """Somebody who is asked, and what was found round by round."""

    name: str
    server: Any
    url: str
    header: str
    per_second: list[float] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)

    def run(self, bodies: Path, seconds: float) -> None:
        """One round. `microseconds` is the server's processor time per request."""
        part = getattr(self.server, "part", None)
        used = (lambda: part("api")) if part else self.server.processor_seconds
        before = used()
        figures: dict[str, Any] = measure(
            self.url, method="POST", header=self.header, bodies=bodies, seconds=seconds, warmup=0
        )
        if set(figures["statuses"]) != {"200"}:
            raise RuntimeError(f"{self.name}: {figures['statuses']}")
        self.microseconds.append((used() - before) / figures["statuses"]["200"] * 1e6)
        self.per_second.append(figures["rps"])
        self.latencies.append(figures)


def lookups(server: Platform) -> dict[str, float]:
    """How many checks each level has answered so far."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = (line for line in lines if line.startswith("muniment_check_seconds_count{"))
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def compare_with_store(server: Platform, assignments: int) -> None:
    """Raises AssertionError where view and event store differ."""
    with server.client() as client:
        for number in range(0, ROUND_USERS, ROUND_USERS // SAMPLES):
            asked = {"user_id": str(user(number % assignments)), "permission": ASKED, "scope": ASKED_AT}
            answers = [client.do("POST", PATH, asked | {"consistency": level}) for level in ("fast", "full")]
            assert all(answer["allowed"] for answer in answers), answers
            refused = client.do("POST", PATH, asked | {"scope": "/acme", "consistency": "full"})
            assert not refused["allowed"]


@contextmanager
def contenders(folder: Path, sizes: list[int]) -> Iterator[list[Contender]]:
    """All at once, so that rounds can take turns."""
    with ExitStack() as stack:
        bare = stack.enter_context(Bare(folder))
        found = [Contender("bare Starlette, empty route", bare, f"{bare.url}/empty", "")]
        for size in sizes:
            data = folder / f"p{size}"
            prepare(data, size)
            print(f"filled {size:,} assignments", file=sys.stderr, flush=True)
            server = stack.enter_context(Platform(data))
            compare_with_store(server, size)
            with server.client() as client:
                found.append(Contender(f"check, {size:,} assignments", server, server.url + PATH, client.token))
        for each in found:  # the same bytes for everybody
            each.header = f"Authorization: Bearer {each.header or found[1].header}"
        yield found


def main(sizes: list[int], rounds: int, seconds: float) -> None:
    """Prints requests per second, and the ratios that the goals are about."""
    with temporary_folder() as folder, contenders(folder, sizes) as everybody:
        bodies = folder / "checks.jsonl"
        asked = ({"user_id": str(user(n)), "permission": ASKED, "scope": ASKED_AT} for n in range(ROUND_USERS))
        bodies.write_text("".join(json.dumps(each) + "\n" for each in asked))
        for each in everybody[1:]:
            warm(each.server)
        before = [lookups(each.server) for each in everybody[1:]]
        for _ in range(rounds):
            for each in everybody:
                each.run(bodies, seconds)
        report(everybody, before)


def report(everybody: list[Contender], before: list[dict[str, float]]) -> None:
    bare, *ours = everybody
    for each in everybody:
        p50, p99 = (sorted(f[p] for f in each.latencies)[len(each.latencies) // 2] for p in ("p50", "p99"))
        told(f"{each.name} (p50 {p50:.2f} ms, p99 {p99:.2f} ms)", each.per_second, digits=0, unit="/s")
        told("    processor time of the server", each.microseconds, digits=0, unit=" us")
    print()
    for each in ours:
        told(f"{each.name} / bare Starlette", ratios(each.per_second, bare.per_second), ">= 0.6")
        told("    by processor time", ratios(bare.microseconds, each.microseconds))
    for each in ours[1:]:
        told(f"{each.name} / {ours[0].name}", ratios(each.per_second, ours[0].per_second), ">= 0.9")
        told("    by processor time", ratios(ours[0].microseconds, each.microseconds))
    for each, earlier in zip(ours, before, strict=True):
        # The caller's own right to ask is looked up too, each time, always here: it is not counted as a hit of theirs.
        levels = {level: count - earlier.get(level, 0) for level, count in lookups(each.server).items()}
        asked = sum(levels.values()) / 2
        told(f"{each.name}: share of local misses", [(sum(levels.values()) - levels["local"]) / asked * 100],
             digits=3, unit=" %")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assignments", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    main(given.assignments, given.rounds, given.seconds)
