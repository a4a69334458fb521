"""One-event saves: our recorder, the library's own, and PostgreSQL's bare one-row commits, on one durable server.

Run: python -m benchmarks.saves [SECONDS_PER_ROUND]
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from benchmarks.common import postgres, ratios, told
from infra.embedded.postgres import binaries
from infra.inline import inline_step
from infra.recorder import Limits, LogDatastore, LogRecorder, Save

THREADS = 32
LIBRARY_THREADS = (1, 4, 16, 32)
ROUNDS = 5
WARM_UP_SECONDS = 0.5
TOPIC, STATE = "identity.UserRegistered", b'{"email":"ada@engine.example","name":"Ada Lovelace"}'
METADATA = b'{"actor":"user:0192a7b0-0000-7000-8000-000000000000","correlation_id":"0192a7b1"}'

RAW_TABLE = """
create table raw_events (originator_id uuid, originator_version bigint, topic text, state bytea, metadata bytea,
                         recorded_at timestamptz, primary key (originator_id, originator_version))
"""
# In hexadecimal: pgbench would take the colons for its variables.
RAW_INSERT = rf"""
insert into raw_events values
    (gen_random_uuid(), 1, '{TOPIC}', '\x{STATE.hex()}'::bytea, '\x{METADATA.hex()}'::bytea, clock_timestamp());
"""
INLINE_TABLE = "create table seats (id uuid primary key, position bigint not null, taken_at timestamptz not null)"
INLINE_INSERT = "insert into seats values (%(stream)s, %(position)s, %(recorded_at)s)"


def event() -> StoredEvent:
    return StoredEvent(uuid4(), 1, TOPIC, STATE)


def rate(save: Callable[[], object], threads: int, seconds: float) -> float:
    """Saves per second by so many threads."""
    counts = [0] * threads
    deadline = time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < deadline:
            save()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - started)


def pgbench(conninfo: str, clients: int, seconds: float) -> float:
    """Bare one-row commits per second, prepared."""
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(RAW_INSERT)
        script.flush()
        command = [str(binaries() / "pgbench"), "-n", "-M", "prepared", "-f", script.name, "-T", str(round(seconds))]
        command += [
            "-c",
            str(clients),
            "-j",
            "2",
            "-h",
            str(parts["host"]),
            "-U",
            str(parts["user"]),
            str(parts["dbname"]),
        ]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def library_recorder(conninfo: str, threads: int) -> PostgresApplicationRecorder:
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    where = (str(parts["dbname"]), str(parts["host"]), "5432", str(parts["user"]), "")
    recorder = PostgresApplicationRecorder(
        PostgresDatastore(*where, pool_size=threads), events_table_name="library_events"
    )
    recorder.create_table()
    return recorder


def measure(conninfo: str, seconds: float) -> dict[str, list[float]]:
    """Every contender in each round, so that what else the machine does falls on all of them."""
    ours = LogRecorder(LogDatastore(conninfo, Limits()))
    librarys = {threads: library_recorder(conninfo, threads) for threads in LIBRARY_THREADS}

    def save_ours() -> None:
        ours.insert_events([event()])

    def save_inline() -> None:
        row = event()
        inline = inline_step((INLINE_INSERT, {"stream": row.originator_id}))
        ours.save(Save([row], METADATA, inline=[inline]))

    contenders: dict[str, Callable[[float], float]] = {
        f"pgbench, bare one-row commits, {THREADS} clients": lambda s: pgbench(conninfo, THREADS, s),
        f"ours, {THREADS} threads": lambda s: rate(save_ours, THREADS, s),
        f"ours with one inline table, {THREADS} threads": lambda s: rate(save_inline, THREADS, s),
        "ours, a lone saver": lambda s: rate(save_ours, 1, s),
        "pgbench, 1 client": lambda s: pgbench(conninfo, 1, s),
    }
    for threads, recorder in librarys.items():
        contenders[f"library, {threads} threads"] = lambda s, r=recorder, n=threads: rate(
            lambda: r.insert_events([event()]), n, s
        )
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        if not name.startswith("pgbench"):
            run(WARM_UP_SECONDS)
    for number in range(ROUNDS):
        for name, run in contenders.items():
            results[name].append(run(seconds))
        print(f"round {number + 1} of {ROUNDS} done", file=sys.stderr, flush=True)
    ours.close()
    for recorder in librarys.values():
        recorder.datastore.close()
    return results


def report(results: dict[str, list[float]]) -> None:
    """Medians, and the ratios that the goals are about: taken within each round, since the machine has its moods."""
    for name, values in results.items():
        told(name, values, digits=0, unit="/s")
    librarys = [max(rates) for rates in zip(*(results[f"library, {n} threads"] for n in LIBRARY_THREADS), strict=True)]
    ours, lone = results[f"ours, {THREADS} threads"], results["ours, a lone saver"]
    inline = results[f"ours with one inline table, {THREADS} threads"]
    raw = results[f"pgbench, bare one-row commits, {THREADS} clients"]
    print()
    told("ours / library at its best thread count", ratios(ours, librarys), ">= 10")
    told("ours / bare commits by pgbench", ratios(ours, raw), ">= 0.8")
    told("lone save / library's lone save", ratios(lone, results["library, 1 threads"]), ">= 1.0")
    told("with an inline table / without", ratios(inline, ours))


def main(seconds: float = 3.0) -> None:
    with postgres({"max_connections": "200"}) as conninfo:
        with psycopg.connect(conninfo) as connection:
            connection.execute(RAW_TABLE)
            connection.execute(INLINE_TABLE)
        report(measure(conninfo, seconds))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
