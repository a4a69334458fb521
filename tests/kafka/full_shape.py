"""The full shape as processes of this machine: each part can be killed, stopped, frozen and started again."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self, TypeVar

import psutil
import psycopg
import redis
from confluent_kafka import KafkaError, KafkaException

from infra.embedded import DataFolder, Postgres, Valkey
from infra.embedded.kafka import Kafka
from infra.embedded.ports import free_port
from infra.event_store import Log
from infra.layouts import Layout, current_layout
from infra.settings import Settings
from projections.compare import Difference, fold_views
from projections.engine import Build
from runtime import modules
from runtime.start import first_facts, migrate
from stream_apps.spreads import spread_of
from tests.e2e.platform import ADMIN, Api, OurPart, Part, ServicePart, eventually, family, signal_all
from tests.kafka.node import Node
from tests.kafka.traffic import DEFAULT_ROLE, define_roles

T = TypeVar("T")

LEVEL_SECONDS = 60.0
QUIET_SECONDS = 180.0
LOG_LINES = 25
END_LINES = 12
LINE = 160
HANDS = 4
LEVELS = ("INFO", "WARNING", "ERROR", "CRITICAL", "Error")
KEEP_SECONDS = 0.5
MOST_PATIENCE_SECONDS = 4.0
STOP_KAFKA_SECONDS = 4.0
OUTLIVE_SECONDS = 5.0

BEHIND = """
    select name, (select position from log_head) - coalesce(position, 0) from (
        select b.projection as name, min(p.position) as position
          from projection_builds b left join projection_progress p using (projection, version, build, layout)
         where b.active group by 1
        union all
        select 'reaction ' || reaction, min(position) from reaction_progress group by 1) as each
"""
"""One statement, so one moment: who is behind the log, by how much. Who is level reacts to nothing more."""

ACTIVE = "select projection, build, layout from projection_builds where active"
EXPIRE = "update leases set expires_at = clock_timestamp() where name = 'relay'"
PARKED = """
    select projection, position, error from projection_parked
    union all select reaction, position, error from reaction_parked
"""


@dataclass(frozen=True)
class Ended:
    """A part that ended by itself, and the end of its log at that moment."""

    part: str
    status: int
    said: str

    @property
    def reason(self) -> str:
        """What it said last, without what differs from time to time."""
        return f"{self.part.rstrip('-0123456789')} {self.status}: {self.said.splitlines()[-1:]}"


class FullShape:
    """PostgreSQL, Valkey, Kafka, an API, a follower, two relays and two stream workers. `seed`: whom it hits.

    The parts' logs stand in `logs_folder`, so that they outlive the rest.
    """

    def __init__(self, folder: Path, logs_folder: Path, seed: int = 0) -> None:
        self._chance = random.Random(seed)  # noqa: S311
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
            default_role=DEFAULT_ROLE,
            bcrypt_cost=4,
            pool_size=6,
        )
        self.folder = logs_folder
        self.followers = self._parts("follow", 1)
        self.relays = self._parts("relay")
        self.workers = self._parts("stream")
        self.api = Api(replace(self.settings, port=free_port()), self.folder / "api.log")
        self.ended: list[Ended] = []
        self._started = ExitStack()
        self._lock = Lock()
        self._enough = Event()

    def _parts(self, name: str, count: int = 2) -> list[OurPart]:
        return [OurPart(name, self.settings, self.folder / f"{name}-{number}.log") for number in range(count)]

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._started.close()
            raise
        return self

    def _begin(self) -> None:
        # The kernel ends what a thread has started when that thread ends: these last as long as the shape.
        self.hands = self._started.enter_context(ThreadPoolExecutor(HANDS, "hands"))
        kafka = self.hands.submit(self._run, self.node)
        for part in (self.postgres, self.valkey):
            self._run(part)
        migrate(self.settings, lambda _: None)
        first_facts(self.settings, lambda _: None)
        define_roles(self.settings)
        kafka.result()
        for part in (*self.followers, *self.relays, *self.workers, self.api):
            self._run(part)
        self.log = self._started.enter_context(closing(Log(self.settings.postgres_url)))
        keeper = Thread(target=self._keep, name="keeper")
        keeper.start()
        self._started.callback(keeper.join)
        self._started.callback(self._enough.set)
        eventually(lambda: self.api.anybody.get("/readyz").status_code == 200, LEVEL_SECONDS)

    @property
    def _ours(self) -> Sequence[OurPart]:
        return (*self.followers, *self.relays, *self.workers, self.api)

    def _keep(self) -> None:
        """Starts again what ended by itself, as a supervisor does: not at once, where it keeps ending."""
        ended: dict[OurPart, float] = {}
        patience: dict[OurPart, float] = {}
        while not self._enough.wait(KEEP_SECONDS):
            now = time.monotonic()
            for part in self._ours:
                with self._lock:
                    if part.process.poll() is None:
                        ended.pop(part, None)
                        continue
                    if part not in ended:
                        self.ended.append(Ended(part.log.stem, part.process.returncode, _end_of(part.log)))
                        patience[part] = min(MOST_PATIENCE_SECONDS, 2 * patience.get(part, KEEP_SECONDS / 2))
                    if now - ended.setdefault(part, now) >= patience[part]:
                        del ended[part]
                        part.start()

    def restart(self, part: OurPart) -> None:
        with self._lock:
            part.restart()

    def _kill(self, parts: Sequence[OurPart]) -> None:
        self.restart(self._chance.choice(parts))

    def __exit__(self, *_: object) -> None:
        members = [each for part in self._ours for each in family(part.process.pid)]
        self._started.close()
        _, left = psutil.wait_procs(members, OUTLIVE_SECONDS)
        signal_all(left, signal.SIGKILL)
        assert not left, f"still there after the end: {left}"

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
        self._tell_broker(self.node.delete)

    def truncate_topics(self, seconds: float = 2.0) -> None:
        """While nobody reads: what was sent meanwhile is gone before it was seen."""
        with self._frozen(self.workers):
            time.sleep(seconds)
            self._tell_broker(self.node.truncate)

    def let_two_relays_lead(self) -> None:
        """The one that has the lease learns only when it renews it that it has lost it."""
        self._asked(lambda connection: connection.execute(EXPIRE))

    def flush_valkey(self) -> None:
        with redis.Redis.from_url(self.settings.redis_url) as client:
            client.flushall()

    def restart_postgres(self) -> None:
        self.postgres.restart()

    def freeze_worker(self, seconds: float = 15.0) -> None:
        """Longer than its session in the group: its partitions are somebody else's when it wakes up."""
        with self._frozen([self._chance.choice(self.workers)]):
            time.sleep(seconds)

    def freeze_relay(self, seconds: float = 5.0) -> None:
        """Longer than its lease: another one leads when it wakes up and goes on sending."""
        with self._frozen([self._chance.choice(self.relays)]):
            time.sleep(seconds)

    @contextmanager
    def _frozen(self, parts: Sequence[OurPart]) -> Iterator[None]:
        for part in parts:
            part.freeze()
        try:
            yield
        finally:
            for part in parts:
                part.thaw()

    def _tell_broker(self, what: Callable[[Layout], None]) -> None:
        """Again and again, as brokers come and go in a drill."""
        layout = self._asked(current_layout)
        assert layout
        until = time.monotonic() + LEVEL_SECONDS
        while True:
            try:
                return what(layout)
            except (KafkaException, TimeoutError) as error:
                if _is_unknown_topic(error):
                    return None  # gone already, and not made again yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    # --- what must be so afterwards

    def wait_until_quiet(self) -> float:
        """Until views and reactions have come to the end of the log, all at one moment; how long that took, in seconds.

        The log's end isn't waited for where it was: it moves while reactions go on.
        """
        began = time.monotonic()
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            try:
                eventually(lambda: set(self._behind(connection).values()) == {0}, QUIET_SECONDS, 0.1)
            except AssertionError:
                raise AssertionError(f"behind by {self._behind(connection)}\n{self.logs()}") from None
        return time.monotonic() - began

    def differences(self) -> list[Difference]:
        """The rows in which a view differs from a fresh fold of the whole log at one position."""
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            active = {name: (build, layout) for name, build, layout in connection.execute(ACTIVE).fetchall()}
            spreads = {layout: spread_of(connection, layout) for _, layout in active.values() if layout}
        found: list[Difference] = []
        for projection in modules.projections():
            build, layout = active[projection.name]
            found += fold_views(self.settings.postgres_url, self.log, Build(projection, build), spreads.get(layout))[1]
        return found

    def parked(self) -> list[tuple[str, int, str]]:
        """What no view and no reaction could do anything with."""
        with psycopg.connect(self.settings.postgres_url) as connection:
            return connection.execute(PARKED).fetchall()

    def wait_for_log(self, words: str) -> None:
        """Until a stream worker has said this."""
        eventually(lambda: any(words in worker.log.read_text() for worker in self.workers), LEVEL_SECONDS, 0.1)

    def logs(self) -> str:
        """The ends of the parts' logs, and what those said last that ended by themselves: one for each reason."""
        told = [f"the logs are in {self.folder}"]
        reasons = Counter(ended.reason for ended in self.ended)
        latest = {ended.reason: ended for ended in self.ended}
        for reason, count in reasons.most_common():
            told += [f"--- {latest[reason].part} ended by itself ({count} times so)", latest[reason].said]
        for part in self._ours:
            lines = [line for line in part.log.read_text().splitlines() if line.startswith(LEVELS)]
            told += [f"--- {part.log.name}", *lines[-LOG_LINES:]]
        return "\n".join(told)

    @staticmethod
    def _behind(connection: psycopg.Connection) -> dict[str, int]:
        return dict(connection.execute(BEHIND).fetchall())

    def _asked(self, what: Callable[[psycopg.Connection], T]) -> T:
        """Again and again, as PostgreSQL comes and goes in a drill, too."""
        until = time.monotonic() + LEVEL_SECONDS
        while True:
            try:
                with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
                    return what(connection)
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


def _end_of(log: Path) -> str:
    """What a part said last."""
    return "\n".join(line[:LINE] for line in log.read_text().splitlines()[-END_LINES:])


def _is_unknown_topic(error: Exception) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
