"""The bus as a cluster has it: Apache Kafka, PostgreSQL, Valkey, and relays and stream workers as processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg

from benchmarks.common import ROOT, family, temporary_folder
from infra.embedded import DataFolder, Postgres, Valkey, running
from infra.embedded.kafka import AS_DELIVERED, QUICK, Kafka
from infra.settings import Settings
from runtime.start import first_facts, migrate

STOP_SECONDS = 20.0
PATIENCE_SECONDS = 120.0

_LEAST = """
    select coalesce(min(p.position), -1)
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.feed = 'faust'
"""
_ON_BUS = """
    select coalesce(min(position), -1) from bus_progress where layout = (select max(layout) from bus_layouts)
"""


@contextmanager
def kafka(address: str) -> Iterator[str]:
    """The address of an Apache Kafka: the given one, or one node of our own for as long as the block lasts."""
    if address:
        yield address
        return
    with temporary_folder() as folder:
        node = Kafka(DataFolder(folder), java=(QUICK, *AS_DELIVERED))
        with running(node):
            yield node.address


@dataclass
class Part:
    """`muniment NAME` as a process, or a script of ours with the same settings."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to it and to all that it started, at once."""
        for each in reversed(family(self.pid)):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and what doesn't end is killed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


class Shape:
    """A data folder with its services, on a bus of its own name; parts are started as they are needed."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings = settings
        self._log = log
        self._parts: list[Part] = []

    def part(self, name: str, **changes: object) -> Part:
        """Starts `muniment NAME`, with these settings changed."""
        return self._started(["-m", "runtime", name], changes)

    def script(self, *arguments: str, **changes: object) -> Part:
        """Starts `python -m ...`; its output can be read."""
        return self._started(["-m", *arguments], changes, read=True)

    def _started(self, arguments: list[str], changes: dict[str, object], *, read: bool = False) -> Part:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "MUNIMENT_LOG_LEVEL": "warning",
            **replace(self.settings, **changes).to_env(),  # type: ignore[arg-type]
        }
        with self._log.open("a") as log:
            part = Part(
                subprocess.Popen(
                    [sys.executable, *arguments], cwd=ROOT, env=environment, text=True, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if read else log, stderr=log,
                )
            )  # fmt: skip
        self._parts.append(part)
        return part

    def stop(self) -> None:
        """All parts."""
        for part in reversed(self._parts):
            part.stop()

    def postgres_pid(self) -> int:
        """The server's first process, which has started all others of it."""
        with psycopg.connect(self.settings.postgres_url) as connection:
            return psutil.Process(connection.info.backend_pid).ppid()

    def head(self) -> int:
        """The log's newest position."""
        return self._number("select position from log_head")

    def wait_until_sent(self, position: int | None = None) -> None:
        """Until Kafka has acknowledged everything up to a position, or to the head."""
        wanted = self.head() if position is None else position
        self._until(lambda: self._number(_ON_BUS) >= wanted, "the relay doesn't get there")

    def wait_until_visible(self, position: int | None = None) -> None:
        """Until the stream workers have brought every view so far."""
        wanted = self.head() if position is None else position
        self._until(lambda: self._number(_LEAST) >= wanted, "the views don't get there")

    def _number(self, sql: str) -> int:
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            row = connection.execute(sql.encode()).fetchone()
        return int(row[0]) if row else -1

    def _until(self, reached: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{complaint}: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)


@contextmanager
def shape(brokers: str, **changes: object) -> Iterator[Shape]:
    """PostgreSQL (durable) and Valkey in a folder that goes away, migrated, with an administrator; no part runs yet."""
    with temporary_folder() as folder:
        data = DataFolder(folder)
        postgres, valkey = Postgres(data), Valkey(data)
        with running(postgres), running(valkey):
            settings = Settings(
                data=folder, postgres_url=postgres.conninfo, redis_url=valkey.url, kafka=brokers,
                kafka_prefix=f"bench-{uuid4().hex[:12]}", admin_email="ada@engine.example",
                admin_password="notes on the engine", bcrypt_cost=4,
            )  # fmt: skip
            given = Shape(replace(settings, **changes), folder / "parts.log")  # type: ignore[arg-type]
            migrate(given.settings, lambda _: None)
            first_facts(given.settings, lambda _: None)
            try:
                yield given
            finally:
                given.stop()
