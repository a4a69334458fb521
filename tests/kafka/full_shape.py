"""The full shape as processes of this machine: each part can be killed, stopped, frozen and started again."""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

import psycopg
import redis

from infra.embedded import DataFolder, Postgres, Valkey
from infra.embedded.kafka import Kafka
from infra.event_store import Log
from infra.layouts import current_layout
from infra.settings import Settings
from projections.compare import Difference, differences, feed, scratch_build
from projections.engine import Build, Engine
from runtime import modules
from runtime.start import first_facts, migrate
from tests.e2e.platform import ADMIN, Api, OurPart, Part, ServicePart, eventually, free_port
from tests.kafka.node import Node

LEVEL_SECONDS = 60.0
LOG_LINES = 25
LEVELS = ("INFO", "WARNING", "ERROR", "CRITICAL", "Error")
KEEP_SECONDS = 0.5
STOP_KAFKA_SECONDS = 4.0

LEAST = """
    select b.projection, min(p.position)
      from projection_builds b left join projection_progress p using (projection, version, build, layout)
     where b.active group by b.projection
"""
ACTIVE = "select projection, build from projection_builds where active"


class FullShape:
    """PostgreSQL, Valkey, Kafka, an API, two followers, two relays and two stream workers."""

    def __init__(self, folder: Path) -> None:
        data = DataFolder(folder)
        self.node = Node(Kafka(data))
        postgres, valkey = Postgres(data, {"fsync": "off", "full_page_writes": "off"}), Valkey(data)
        self.postgres, self.valkey = ServicePart(postgres), ServicePart(valkey)
        self.settings = Settings(
            data=folder,
            postgres_url=postgres.conninfo,
            redis_url=valkey.url,
            kafka=self.node.address,
            admin_email=ADMIN[0],
            admin_password=ADMIN[1],
            bcrypt_cost=4,
            pool_size=6,
        )
        self.folder = folder
        self.followers = self._parts("follow")
        self.relays = self._parts("relay")
        self.workers = self._parts("stream")
        self.api = Api(replace(self.settings, port=free_port()), folder / "api.log")
        self.ended: list[str] = []
        self._started = ExitStack()
        self._hands = Lock()
        self._enough = Event()

    def _parts(self, name: str, count: int = 2) -> list[OurPart]:
        return [OurPart(name, self.settings, self.folder / f"{name}-{number}.log") for number in range(count)]

    def __enter__(self) -> Self:
        for part in (self.postgres, self.valkey, self.node):
            self._run(part)
        migrate(self.settings, lambda _: None)
        first_facts(self.settings, lambda _: None)
        for part in (*self.followers, *self.relays, *self.workers, self.api):
            self._run(part)
        keeper = Thread(target=self._keep, name="keeper")
        keeper.start()
        self._started.callback(keeper.join)
        self._started.callback(self._enough.set)
        eventually(lambda: self.api.anybody.get("/readyz").status_code == 200, LEVEL_SECONDS)
        return self

    @property
    def _ours(self) -> Sequence[OurPart]:
        return (*self.followers, *self.relays, *self.workers, self.api)

    def _keep(self) -> None:
        """Starts again what ended by itself, as a supervisor does, and remembers it."""
        while not self._enough.wait(KEEP_SECONDS):
            for part in self._ours:
                with self._hands:
                    if part.process.poll() is not None:
                        self.ended.append(f"{part.log.name}: {part.process.returncode}")
                        part.start()

    def restart(self, part: OurPart) -> None:
        with self._hands:
            part.restart()

    def _kill(self, parts: Sequence[OurPart]) -> None:
        self.restart(random.choice(parts))  # noqa: S311

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def _run(self, part: Part) -> None:
        part.start()
        self._started.callback(part.stop)

    # --- what can happen

    def kill_relay(self) -> None:
        self._kill(self.relays)

    def kill_worker(self) -> None:
        self._kill(self.workers)

    def kill_follower(self) -> None:
        self._kill(self.followers)

    def kill_broker(self) -> None:
        self.node.restart()

    def stop_broker(self, seconds: float = STOP_KAFKA_SECONDS) -> None:
        self.node.stop()
        time.sleep(seconds)
        self.node.start()

    def delete_topics(self) -> None:
        with psycopg.connect(self.settings.postgres_url) as connection:
            layout = current_layout(connection)
        if layout:
            self.node.delete(layout.topics)

    def let_two_relays_lead(self) -> None:
        self._execute("update leases set expires_at = clock_timestamp() where name = 'relay'")

    def flush_valkey(self) -> None:
        with redis.Redis.from_url(self.settings.redis_url) as client:
            client.flushall()

    def restart_postgres(self) -> None:
        self.postgres.restart()

    def freeze_worker(self, seconds: float = 15.0) -> None:
        victim = random.choice(self.workers)  # noqa: S311
        victim.freeze()
        time.sleep(seconds)
        victim.thaw()

    # --- what must be so afterwards

    def wait_until_level(self) -> int:
        """Until every view has applied the whole log; its head."""
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            head = connection.execute("select position from log_head").fetchone()[0]
            try:
                eventually(lambda: set(self._lags(connection, head).values()) == {0}, LEVEL_SECONDS, 0.1)
            except AssertionError:
                raise AssertionError(
                    f"not level with {head}: behind by {self._lags(connection, head)}\n{self.logs()}"
                ) from None
        return head

    def differences(self) -> list[Difference]:
        """The rows in which a view differs from a fresh fold of the whole log. Nobody may write meanwhile."""
        log = Log(self.settings.postgres_url)
        found: list[Difference] = []
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            active = dict(connection.execute(ACTIVE).fetchall())
            for projection in modules.projections():
                with scratch_build(self.settings.postgres_url, projection) as fresh:
                    feed(Engine(connection, log, fresh, quiet=True), log, 0, log.head())
                    found += differences(connection, Build(projection, active[projection.name]), fresh)
        log.close()
        return found

    def wait_for_log(self, words: str) -> None:
        """Until a stream worker has said this."""
        eventually(lambda: any(words in worker.log.read_text() for worker in self.workers), LEVEL_SECONDS, 0.1)

    def logs(self) -> str:
        """The ends of the parts' logs."""
        told = [f"ended: {self.ended}"]
        for part in self._ours:
            lines = [line for line in part.log.read_text().splitlines() if line.startswith(LEVELS)]
            told += [f"--- {part.log.name}", *lines[-LOG_LINES:]]
        return "\n".join(told)

    def _lags(self, connection: psycopg.Connection, head: int) -> dict[str, int]:
        return {name: head - (position or 0) for name, position in connection.execute(LEAST).fetchall()}

    def _execute(self, sql: str) -> None:
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            connection.execute(sql)
