"""Workers whose configuration changes while they run jobs."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from domain.jobs import JobType
from infra.configuration.live import Derived, Live, Snapshot
from infra.event_store import Log
from infra.job_queue import JOB_QUEUE
from infra.job_queue_claims import Presence
from infra.settings import Settings
from projections.identity import SESSIONS
from runtime.worker import retry_policy
from stream_apps.jobs import RetryPolicy, Run, job
from stream_apps.jobs.performing import Limits, Performer, Surroundings
from stream_apps.jobs.threads import Threads
from stream_apps.jobs.worker import Worker, WorkerLimits
from tests.stream_apps.working import KEEPING, Site, until

BASE = Settings(worker_threads=1, worker_claim_ahead=0)


def limits(settings: Settings) -> WorkerLimits:
    return WorkerLimits(
        threads=settings.worker_threads,
        async_tasks=settings.worker_async_tasks,
        claim_ahead=settings.worker_claim_ahead,
        drain_seconds=2.0,
        keeping=KEEPING,
    )


class Hall:
    """A queue, and a worker with a configuration that changes."""

    def __init__(self, database: str, *types: JobType) -> None:
        self.site = Site(database, *types)
        self.live = Live.of(BASE)
        self._log = Log(database, inline=[JOB_QUEUE, SESSIONS])
        self.worker = Worker(
            database,
            "hot",
            lambda running: Presence("hot", "here", os.getpid(), None, self.live.settings.worker_threads, running),
            self._performer,
            Derived(self.live, limits),
            chance=lambda: 0.5,
        )
        self.live.on_swap(lambda _: self.worker.limits_changed())

    def _performer(self, worker: Worker) -> Performer:
        found = Limits(self.live.value(lambda s: s.dispatch_attempts), Derived(self.live, retry_policy))
        around = Surroundings(chance=lambda: 0.5)
        return Performer(self._log, self.site.types, worker.look, worker.give_back, found, around, self.live)

    def store(self, version: int, **values: Any) -> None:
        self.live.offer(Snapshot(replace(BASE, **values), version))

    @contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=self.worker.run, daemon=True)
        thread.start()
        try:
            assert self.worker.listening.wait(20)
            yield
        finally:
            self.worker.stop()
            thread.join(20)
            self._log.close()
            self.site.close()
            assert not thread.is_alive()

    def versions(self, job_id: UUID) -> list[int]:
        """Under which configuration each of a job's events was decided."""
        return [event.metadata.config_version for event in self.site.events(job_id)]


@pytest.fixture
def hall(database):
    def open_it(*types: JobType) -> Hall:
        return Hall(database, *types)

    return open_it


class Crowd:
    """Counts who is inside at once, and lets them out together."""

    def __init__(self) -> None:
        self.inside = 0
        self.opened = threading.Event()
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self.inside += 1
        self.opened.wait(20)
        with self._lock:
            self.inside -= 1


def test_more_jobs_run_at_once_from_the_moment_that_more_may_and_fewer_again_afterwards(hall):
    crowd = Crowd()

    @job("crowd.enter")
    def enter(_: Run) -> None:
        crowd.enter()

    found = hall(enter)
    with found.working():
        jobs = [found.site.enqueue(enter) for _ in range(4)]
        until(lambda: crowd.inside == 1)
        found.store(1, worker_threads=4)
        until(lambda: crowd.inside == 4)
        crowd.opened.set()
        for each in jobs:
            found.site.last(each)
        crowd.opened.clear()
        found.store(2, worker_threads=1)
        until(lambda: found.worker._threads._running == 1)
        jobs = [found.site.enqueue(enter) for _ in range(3)]
        until(lambda: crowd.inside == 1)
        assert found.site.queued("running") <= 2
        crowd.opened.set()
        for each in jobs:
            found.site.last(each)


def test_a_worker_whose_threads_come_and_go_runs_every_job_once(hall):
    done: list[int] = []

    @job("tick")
    def tick(_: Run) -> None:
        done.append(1)

    found = hall(tick)
    with found.working():
        jobs = []
        for round_ in range(40):
            jobs += [found.site.enqueue(tick) for _ in range(3)]
            found.store(round_, worker_threads=1 + round_ % 5, worker_claim_ahead=round_ % 3)
        for each in jobs:
            found.site.last(each)
    assert len(done) == len(jobs)


def test_async_jobs_that_run_at_once_follow_the_configuration(hall):
    crowd = Crowd()

    @job("crowd.await")
    async def wait(_: Run) -> None:
        await asyncio.to_thread(crowd.enter)

    found = hall(wait)
    found.store(1, worker_async_tasks=2)
    with found.working():
        jobs = [found.site.enqueue(wait) for _ in range(5)]
        until(lambda: crowd.inside == 2)
        found.store(2, worker_async_tasks=5)
        until(lambda: crowd.inside == 5)
        crowd.opened.set()
        for each in jobs:
            found.site.last(each)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_attempt_keeps_the_configuration_that_it_began_with(hall, is_async):
    begun, opened = threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    def look() -> tuple[int, int]:
        return found.live.bound.version, found.live.settings.bcrypt_cost

    def look_twice() -> None:
        seen.append(look())
        begun.set()
        opened.wait(20)
        seen.append(look())

    @job("look")
    def sync_look(_: Run) -> None:
        look_twice()

    @job("look")
    async def async_look(run: Run) -> None:
        seen.append(look())
        await run.call(look_twice)

    look_job = async_look if is_async else sync_look
    found = hall(look_job)
    found.store(3, bcrypt_cost=6)
    with found.working():
        first = found.site.enqueue(look_job)
        assert begun.wait(20)
        found.store(5, bcrypt_cost=7)
        opened.set()
        found.site.last(first)
        assert set(seen) == {(3, 6)}
        second = found.site.enqueue(look_job)
        found.site.last(second)
        assert set(seen[2 + is_async :]) == {(5, 7)}
        assert found.versions(first)[-1] == 3
        assert found.versions(second)[-1] == 5


def test_a_type_that_says_nothing_of_retries_is_tried_again_as_the_configuration_says(hall):
    @job("break", max_attempts=3)
    def break_(_: Run) -> None:
        raise ValueError("the gear broke")

    @job("break.slowly", max_attempts=3, retry=RetryPolicy(first_seconds=500, limit_seconds=500))
    def break_slowly(_: Run) -> None:
        raise ValueError("the gear broke")

    found = hall(break_, break_slowly)
    found.store(1, retry_first_seconds=1000.0, retry_longest_seconds=1000.0)
    with found.working():
        usual, own = found.site.enqueue(break_), found.site.enqueue(break_slowly)
        for each, seconds in ((usual, 500), (own, 250)):
            event = until(lambda each=each: [e for e in found.site.events(each) if e.topic == "jobs.AttemptFailed"])[0]
            assert seconds - 5 < (event.event.retry_at - event.recorded_at).total_seconds() < seconds + 5
        found.store(2, retry_first_seconds=0.02, retry_longest_seconds=0.02)
        quick = found.site.enqueue(break_)
        assert found.site.last(quick).exhausted


def test_threads_that_are_too_many_end_after_what_they_are_at():
    ended: list[Any] = []
    threads = Threads(8, lambda _: None, ended.append)
    chores = threading.Event()
    done: list[int] = []

    def chore() -> None:
        chores.wait(20)
        done.append(1)

    threads.put([chore] * 20)
    threads.resize(2)
    chores.set()
    until(lambda: len(done) == 20)
    until(lambda: threads._running == 2)
    threads.resize(5)
    assert threads._running == 5
    threads.close()
