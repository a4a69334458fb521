"""Workers, schedulers and services are killed and frozen; each job has one end, each effect happened exactly once."""

import os
import random
import shutil
import tempfile
import time
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import pytest

from commands.jobs import Enqueue, EnqueueBatch, enqueue_batch
from commands.jobs.schedules import CreateSchedule, PlanRequest, create_schedule, prepare_plan
from domain.aggregate import derived_id
from domain.context import Context
from domain.errors import OutcomeUnknown, Unavailable
from domain.jobs import Job, JobState
from domain.jobs.schedule import Schedule, ScheduleName
from infra.dispatch import Dispatcher
from infra.embedded import DataFolder, Postgres, Valkey
from infra.event_store import Log
from infra.settings import Settings
from runtime import modules
from runtime.start import first_facts, migrate
from tests.e2e.abacus import AddArgs, Counter, add
from tests.e2e.platform import OurPart, Part, ServicePart, eventually

LEASE_SECONDS = 2.0
FROZEN_SECONDS = 3.0
"""Longer than a lease."""
WORKERS, SCHEDULERS, SCHEDULES = 3, 2, 5
HOPELESS_EACH = 50
"""One of so many jobs never succeeds."""
END_SECONDS = 120.0
SYSTEM = Context.system("test", "drill")
MINUTE = timedelta(minutes=1)
OUTCOMES = ("jobs.OccurrenceFired", "jobs.OccurrenceCaughtUp", "jobs.OccurrencesCoalesced", "jobs.OccurrencesSkipped")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets have little room."""
    path = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Works:
    """PostgreSQL, Valkey, workers and schedulers as processes, and somebody who enqueues and looks."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311
        data = DataFolder(folder)
        postgres, valkey = Postgres(data, {"fsync": "off", "full_page_writes": "off"}), Valkey(data)
        self.postgres, self.valkey = ServicePart(postgres), ServicePart(valkey)
        self.settings = Settings(
            data=folder, postgres_url=postgres.conninfo, redis_url=valkey.url, modules="tests.e2e.abacus:MODULE",
            admin_email="ada@engine.example", admin_password="notes-on-the-engine", bcrypt_cost=4, pool_size=4,
            worker_threads=8, worker_lease_seconds=LEASE_SECONDS, worker_drain_seconds=1.0, scheduler_lease_seconds=1.0,
        )  # fmt: skip
        self.workers = [OurPart("worker", self.settings, folder / f"worker-{n}.log") for n in range(WORKERS)]
        self.schedulers = [
            OurPart("scheduler", self.settings, folder / f"scheduler-{n}.log") for n in range(SCHEDULERS)
        ]
        self.jobs: list[UUID] = []
        self.happened: Tally[str] = Tally()
        self._frozen: list[tuple[float, Part]] = []
        self._started = ExitStack()

    def __enter__(self) -> Self:
        modules.load(self.settings)
        self._started.callback(modules.load, Settings())
        try:
            for service in (self.postgres, self.valkey):
                self._run(service)
            migrate(self.settings, lambda _: None)
            first_facts(self.settings, lambda _: None)
            self.log = Log(self.settings.postgres_url, inline=modules.inline_tables())
            self._started.callback(self.log.close)
            self.dispatcher = Dispatcher(self.log)
            self.names = [ScheduleName(f"minutely-{n}") for n in range(SCHEDULES)]
            for name in self.names:
                request = PlanRequest(cron="* * * * *", type="muniment.noop", args={}, missed="all")
                plan = prepare_plan(modules.job_types(), request)
                self.dispatcher.dispatch(create_schedule, CreateSchedule(name, plan), SYSTEM)
            for part in (*self.workers, *self.schedulers):
                self._run(part)
        except BaseException:
            self._started.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw(everybody=True)
        self._started.close()

    def _run(self, part: Part) -> None:
        part.start()
        self._started.callback(part.stop)

    # What is asked for

    def enqueue(self, count: int) -> None:
        """So many more, each once: an attempt whose outcome isn't known is repeated."""
        numbers = range(len(self.jobs), len(self.jobs) + count)
        batch = [self._job(number) for number in numbers]

        def enqueued() -> bool:
            try:
                self.dispatcher.dispatch(enqueue_batch, EnqueueBatch(batch), SYSTEM)
            except (Unavailable, OutcomeUnknown):
                return False
            return True

        eventually(enqueued, END_SECONDS, pause_seconds=0.2)
        self.jobs += [job.id for job in batch if job.id]

    def _job(self, number: int) -> Enqueue:
        is_hopeless = number % HOPELESS_EACH == 7
        args = AddArgs(number % (number // 100 + 3), self.chance.uniform(0, 0.03), is_hopeless)
        attempts = 2 if is_hopeless else None
        return Enqueue(add, args, id=derived_id("drill", str(number)), max_attempts=attempts)

    # What happens

    def mishap(self) -> None:
        """Something at random, mostly to a worker."""
        kinds = (self._kill, self._freeze, self._end, self._kill_scheduler, self._postgres, self._valkey)
        (what,) = self.chance.choices(kinds, weights=(60, 12, 8, 12, 4, 4))
        self.happened[what.__name__.strip("_")] += 1
        what()

    def _kill(self) -> None:
        self._anew(self.chance.choice(self.workers))

    def _freeze(self) -> None:
        part = self.chance.choice([*self.workers, *self.schedulers])
        if part not in [each for _, each in self._frozen]:
            part.freeze()
            self._frozen.append((time.monotonic() + FROZEN_SECONDS, part))

    def _end(self) -> None:
        part = self.chance.choice(self.workers)
        self._thaw_now(part)
        part.stop()
        part.start()

    def _kill_scheduler(self) -> None:
        self._anew(self.chance.choice(self.schedulers))

    def _postgres(self) -> None:
        self.postgres.restart()

    def _valkey(self) -> None:
        self.valkey.restart()

    def _anew(self, part: Part) -> None:
        self._thaw_now(part)
        part.restart()

    def _thaw_now(self, part: Part) -> None:
        self._frozen = [(until, each) for until, each in self._frozen if each is not part]
        part.thaw()

    def thaw(self, *, everybody: bool = False) -> None:
        """Who was frozen for long enough goes on."""
        for until, part in list(self._frozen):
            if everybody or time.monotonic() >= until:
                self._thaw_now(part)

    def keep(self) -> None:
        """Starts again what ended by itself, as the supervisor does."""
        for part in (*self.workers, *self.schedulers):
            if (status := part.process.poll()) is not None:
                said = part.log.read_text().splitlines()[-1:]
                self.happened[f"{part.name} ended by itself ({status}: {''.join(said)[:200]})"] += 1
                part.start()

    # What came of it

    def unfinished(self) -> int:
        """Jobs that have no end yet."""
        return self._count("select count(*) from job_queue where state <> 'dead'")

    def _count(self, sql: str) -> int:
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            row = connection.execute(sql.encode()).fetchone()
        return int(row[0]) if row else 0

    def ends(self) -> dict[UUID, JobState]:
        """How each job stands by the facts."""
        now = self.log.now()
        return {id_: self.log.repository.get(id_).state_at(now) for id_ in self.jobs}  # type: ignore[attr-defined]

    def effects(self) -> Tally[UUID]:
        """How often each job's effect happened."""
        return Tally(event.job_id for event in self._events(Counter.Added.TOPIC))

    def occurrences(self) -> dict[str, list[datetime]]:
        """Each schedule's instants that have an outcome."""
        found: dict[str, list[datetime]] = {name: [] for name in self.names}
        for event in self._events(*OUTCOMES):
            found[event.schedule] += [event.instant] if hasattr(event, "instant") else event.instants
        return found

    def runs_of_schedules(self) -> Tally[str]:
        """How many jobs each occurrence has."""
        return Tally(event.occurrence for event in self._events(Job.Enqueued.TOPIC) if event.occurrence)

    def _events(self, *topics: str) -> Iterator[Any]:
        after = 0
        while events := self.log.read(after, 5_000, topics):
            yield from (recorded.event for recorded in events)
            after = events[-1].position

    def logs(self) -> str:
        """The ends of everybody's logs."""
        parts = (*self.workers, *self.schedulers)
        return "\n".join(f"--- {part.log.stem}\n{part.log.read_text()[-1500:]}" for part in parts)


def drill(works: Works, mishaps: int, jobs: int) -> None:
    """So many mishaps while so many jobs are enqueued and run; and then what must be so."""
    began = time.monotonic()
    share = -(-jobs // mishaps)
    for _ in range(mishaps):
        works.enqueue(share)
        time.sleep(works.chance.uniform(0.1, 0.9))
        works.thaw()
        works.keep()
        works.mishap()
    works.thaw(everybody=True)

    def all_ended() -> bool:
        works.keep()
        return works.unfinished() == 0

    try:
        eventually(all_ended, END_SECONDS, pause_seconds=0.2)
    except AssertionError:
        raise AssertionError(f"{works.unfinished()} jobs have no end\n{works.logs()}") from None
    print(f"{len(works.jobs)} jobs, {dict(works.happened)}, {time.monotonic() - began:.0f} s")
    check_jobs(works)
    check_schedules(works)


def check_jobs(works: Works) -> None:
    """Each job has an end; each effect happened once for those that succeeded, and never for the others."""
    ends, effects = works.ends(), works.effects()
    assert Tally(ends.values()).keys() == {JobState.SUCCESS, JobState.DEAD_LETTER}
    done = {id_ for id_, state in ends.items() if state is JobState.SUCCESS}
    assert effects == Tally(done)
    dead = [number for number, id_ in enumerate(works.jobs) if id_ not in done]
    assert dead == [number for number in range(len(works.jobs)) if number % HOPELESS_EACH == 7]


def check_schedules(works: Works) -> None:
    """Every minute since a schedule was created has exactly one outcome, and at most one job."""
    assert set(works.runs_of_schedules().values()) <= {1}
    now = works.log.now()
    last = now.replace(second=0, microsecond=0)
    if now - last < timedelta(seconds=5):
        last -= MINUTE
    eventually(lambda: all(not instants or max(instants) >= last for instants in works.occurrences().values()))
    for name, instants in works.occurrences().items():
        schedule = works.log.repository.get(Schedule.create_id(name))
        first = schedule.created_on.replace(second=0, microsecond=0) + MINUTE  # type: ignore[attr-defined]
        wanted = [first + MINUTE * n for n in range(int((last - first) / MINUTE) + 1)]
        assert [each for each in sorted(instants) if each <= last] == wanted, name


def seed() -> int:
    return int(os.environ.get("DRILL_SEED", datetime.now(UTC).microsecond))


def test_whoever_is_killed_each_effect_happens_once(folder: Path) -> None:
    number = seed()
    print(f"DRILL_SEED={number}")
    with Works(folder, number) as works:
        drill(works, mishaps=10, jobs=300)


@pytest.mark.faults
@pytest.mark.timeout(3_500)
def test_whoever_is_killed_a_thousand_times_each_effect_happens_once(folder: Path) -> None:
    number = seed()
    print(f"DRILL_SEED={number}")
    with Works(folder, number) as works:
        drill(works, mishaps=int(os.environ.get("DRILL_KILLS", "1000")), jobs=20_000)
