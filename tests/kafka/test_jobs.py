"""Jobs and schedules over a real Kafka: two workers on machines whose clocks are hours apart share the queue."""

import sys
import threading
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.jobs import Job
from domain.jobs.occurrence import Occurrence
from domain.jobs.schedule import Schedule
from infra.embedded.ports import free_port
from infra.settings import Settings
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from runtime import modules
from runtime.core import Core, open_core
from runtime.scheduler import scheduler_setup
from runtime.start import first_facts
from stream_apps.jobs.scheduler import Scheduler
from stream_apps.spreads import spread_of
from tests.e2e.abacus import Counter
from tests.e2e.platform import ADMIN, Api, Caller, OurPart, Part, eventually
from tests.kafka.mill import NEWCOMERS
from tests.runtime.cli_site import key

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

PATIENCE_SECONDS = 60
HOSTS = {"ada.example": 3600.0, "babbage.example": -3600.0}
"""Two machines, and by how much the clock of each is wrong."""
LEASE_SECONDS = 4.0
LONG_SECONDS = 4.5
"""Longer than a lease: who has such a job has to keep it."""
LEVEL = """
    select bool_and(b.feed = 'faust' and b.layout = (select max(layout) from bus_layouts))
           and min(p.position) >= (select position from log_head)
           and (select min(position) from reaction_progress) >= (select position from log_head)
      from projection_builds b join projection_progress p using (projection, version, build, layout) where b.active
"""
MINUTE = timedelta(minutes=1)


class OnItsMachine(OurPart):
    """A worker of another machine, with a clock of its own."""

    def __init__(self, settings: Settings, log: Path, skew_seconds: float) -> None:
        super().__init__("worker", settings, log)
        self.skew_seconds = skew_seconds

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "tests.e2e.skewed", str(self.skew_seconds), self.name]


@pytest.fixture
def settings(kafka_server: str, database: str, tmp_path: Path, valkey: str) -> Iterator[Settings]:
    settings = Settings(
        data=tmp_path, postgres_url=database, redis_url=valkey, master_key=key(b"m"), pepper=key(b"p"),
        claim_key=key(b"c"), admin_email=ADMIN[0], admin_password=ADMIN[1], bcrypt_cost=4, pool_size=4,
        port=free_port(), kafka=kafka_server, kafka_prefix=f"t{uuid4().hex}", kafka_partitions=2,
        modules="tests.kafka.mill:MODULE", worker_threads=2, worker_claim_ahead=0, worker_lease_seconds=LEASE_SECONDS,
    )  # fmt: skip
    modules.load(settings)
    with psycopg.connect(database, autocommit=True) as connection:
        ensure_builds(connection, modules.projections())
    first_facts(settings, lambda _: None)
    yield settings
    modules.load(Settings())


@pytest.fixture
def core(settings: Settings) -> Iterator[Core]:
    with open_core(settings) as core:
        yield core


@contextmanager
def scheduling(core: Core, ahead: timedelta) -> Iterator[None]:
    """A scheduler in this process, whose clock is ahead by so much: nobody waits for the next minute."""
    scheduler = Scheduler(replace(scheduler_setup(core), now=lambda: core.log.now() + ahead))
    thread = threading.Thread(target=scheduler.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        scheduler.stop()
        thread.join(10)


def to_next_minute(now: datetime) -> timedelta:
    return now.replace(second=0, microsecond=0) + MINUTE - now


def is_level(settings: Settings) -> bool:
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        row = connection.execute(LEVEL).fetchone()
    return bool(row and row[0])


def unfinished(settings: Settings) -> int:
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        row = connection.execute("select count(*) from job_queue where state <> 'dead'").fetchone()
    return int(row[0]) if row else 0


def items(caller: Caller, path: str, *, paged: bool = True, **params: Any) -> list[dict[str, Any]]:
    """All that a list has, in short pages."""
    found: list[dict[str, Any]] = []
    params |= {"limit": 5} if paged else {}
    while True:
        page = caller.done("GET", path, params=params).json()
        found += page["items"]
        if not page.get("next"):
            return found
        params["cursor"] = page["next"]


def events(core: Core, *topics: str) -> list[Any]:
    return [recorded.event for recorded in core.log.read(0, 10_000, topics)]


def fired(core: Core) -> dict[datetime, str]:
    """The instants of our schedule (others may be due, too), each with its job."""
    found = [event for event in events(core, Occurrence.Fired.TOPIC) if event.schedule == "minutely"]
    return {event.instant: str(event.job_id) for event in found}


def jobs_of_log(core: Core) -> dict[str, tuple[str, int, int]]:
    """State, attempts and version of each job, folded from its stream."""
    ids: list[UUID] = [event.originator_id for event in events(core, Job.Enqueued.TOPIC)]
    found: list[Any] = [core.log.repository.get(id_) for id_ in ids]
    return {str(job.id): (job.state_at(core.log.now()).value, job.attempts, job.version) for job in found}


@pytest.fixture
def admin(settings: Settings, tmp_path: Path) -> Iterator[Caller]:
    """Whoever asks the API, while a relay, a stream worker and two workers run."""
    api = Api(settings, tmp_path / "api.log")
    parts: list[Part] = [OurPart(name, settings, tmp_path / f"{name}.log") for name in ("relay", "stream")]
    for host, skew_seconds in HOSTS.items():
        parts.append(OnItsMachine(replace(settings, host_name=host), tmp_path / f"{host}.log", skew_seconds))
    with ExitStack() as stack:
        for part in (*parts, api):
            part.start()
            stack.callback(part.stop)
        api.wait_until_ready()
        admin = api.login(*ADMIN)
        eventually(lambda: {each["host"] for each in admin.get("/api/v1/workers").json()["items"]} == HOSTS.keys())
        eventually(lambda: is_level(settings), PATIENCE_SECONDS, 0.1)
        yield admin


def test_views_fed_by_kafka_say_of_jobs_and_schedules_what_the_log_does(
    settings: Settings, core: Core, admin: Caller
) -> None:
    long = [enqueued(admin, seconds=LONG_SECONDS) for _ in range(2 * len(HOSTS))]
    plan = {"name": "minutely", "cron": "* * * * *", "type": "abacus.grind", "args": {"counter": 3}}
    admin.done("POST", "/api/v1/schedules", plan)
    with scheduling(core, ahead=to_next_minute(core.log.now())):
        admin.registers("ada@engine.example", "Ada")
        once, never = enqueued(admin, fails=1), enqueued(admin, fails=3)
        eventually(lambda: fired(core))
    eventually(lambda: not unfinished(settings) and is_level(settings), PATIENCE_SECONDS, 0.1)

    shown = {job["id"]: job for job in items(admin, "/api/v1/jobs")}
    assert {shown[id_]["worker"].split(":")[0] for id_ in long} == HOSTS.keys()
    assert {shown[id_]["attempts"] for id_ in long} == {1}
    assert [shown[id_]["state"] for id_ in (once, never)] == ["success", "dead-letter"]
    assert {id_: (job["state"], job["attempts"], job["version"]) for id_, job in shown.items()} == jobs_of_log(core)
    assert counts(admin) == Tally((job["queue"], job["type"], job["state"]) for job in shown.values())
    assert_schedule_is_told(core, admin)
    assert_effects_happened_once(core, shown)
    feeds = {each["name"]: each["feed"] for each in items(admin, "/api/v1/projections", paged=False)}
    assert (feeds["jobs"], feeds["schedules"]) == ("faust", "faust")
    with psycopg.connect(settings.postgres_url) as connection:
        spread = spread_of(connection)
    for projection in modules.projections():
        assert fold_views(settings.postgres_url, core.log, Build(projection, 1), spread) == (core.log.head(), [])


def enqueued(admin: Caller, **args: Any) -> str:
    job = {"type": "abacus.grind", "args": {"counter": 2, **args}}
    return str(admin.done("POST", "/api/v1/jobs", job).json()["id"])


def counts(admin: Caller) -> Tally[tuple[str, str, str]]:
    counted = items(admin, "/api/v1/jobs/counts")
    return Tally({(each["queue"], each["type"], each["state"]): each["count"] for each in counted})


def assert_schedule_is_told(core: Core, admin: Caller) -> None:
    """Each occurrence that the log has, and the newest one with its schedule."""
    runs = items(admin, "/api/v1/schedules/minutely/runs", outcome="fired")
    assert {datetime.fromisoformat(run["at"]): run["job_id"] for run in runs} == fired(core)
    schedules = {each["name"]: each for each in items(admin, "/api/v1/schedules")}
    assert schedules.keys() == {event.name for event in events(core, Schedule.Created.TOPIC)}
    assert schedules["minutely"]["last"]["job_id"] == fired(core)[max(fired(core))]


def assert_effects_happened_once(core: Core, shown: Mapping[str, Mapping[str, Any]]) -> None:
    """Of the jobs that a reaction and the schedule enqueued, too."""
    ground = {UUID(id_) for id_, job in shown.items() if (job["type"], job["state"]) == ("abacus.grind", "success")}
    assert Tally(event.job_id for event in events(core, Counter.Added.TOPIC)) == Tally(ground)
    newcomers: Any = core.log.repository.get(Counter.create_id(NEWCOMERS))
    assert newcomers.version == len(["opened", "added"])
