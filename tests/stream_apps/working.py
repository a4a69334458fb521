"""Workers in this process, on a real database: for tests of what they do."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg

from commands.jobs import Enqueue, enqueue_job
from domain.context import Actor, Context
from domain.jobs import JobType, JobTypes, NoArgs
from infra.dispatch import Dispatcher
from infra.event_store import Log, Recorded
from infra.job_queue import JOB_QUEUE
from infra.job_queue_claims import Presence
from projections.identity import SESSIONS
from stream_apps.jobs.builtin import BUILTIN
from stream_apps.jobs.keeper import Keeping
from stream_apps.jobs.performing import Performer, Surroundings
from stream_apps.jobs.worker import Worker, WorkerLimits

PATIENCE_SECONDS = 20.0
KEEPING = Keeping(lease_seconds=2.0, cancel_grace_seconds=0.3, grace_seconds=0.5, seen_seconds=5.0)


def worker_on(
    database: str,
    types: JobTypes,
    *,
    name: str = "",
    limits: WorkerLimits | None = None,
    chance: Callable[[], float] = lambda: 0.1,
) -> tuple[Worker, Log]:
    log = Log(database, inline=[JOB_QUEUE, SESSIONS])
    name = name or f"worker-{uuid4().hex[:6]}"
    worker = Worker(
        database,
        name,
        lambda running: Presence(name, "here", os.getpid(), None, 4, running),
        lambda self: Performer(log, types, self.look, self.give_back, around=Surroundings(chance=chance)),
        limits or WorkerLimits(threads=4, drain_seconds=2.0, keeping=KEEPING),
        chance=chance,
    )
    return worker, log


class Site:
    """A queue, who enqueues, and who looks."""

    def __init__(self, database: str, *types: JobType) -> None:
        self.database = database
        self.log = Log(database, inline=[JOB_QUEUE, SESSIONS])
        self.dispatcher = Dispatcher(self.log)
        self.types = JobTypes([*BUILTIN, *types])
        self.connection = psycopg.connect(database, autocommit=True)

    def close(self) -> None:
        self.connection.close()
        self.log.close()

    def context(self) -> Context:
        return Context(Actor("operator", "ada"), str(uuid4()))

    def do(self, handler: Callable[..., Any], command: Any, context: Context | None = None) -> Any:
        return self.dispatcher.dispatch(handler, command, context or self.context()).result

    def enqueue(self, job_type: JobType, args: Any = None, **options: Any) -> UUID:
        command = Enqueue(job_type, args if args is not None else NoArgs(), **options)
        found: UUID = self.do(enqueue_job, command).id
        return found

    @contextmanager
    def working(self, **options: Any) -> Iterator[Worker]:
        """A worker that runs until the block ends."""
        worker, log = worker_on(self.database, self.types, **options)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        try:
            assert worker.listening.wait(PATIENCE_SECONDS)
            yield worker
        finally:
            worker.stop()
            thread.join(PATIENCE_SECONDS)
            log.close()
            assert not thread.is_alive()

    def events(self, job_id: UUID) -> list[Recorded]:
        return self.log.read_stream(job_id)

    def said(self, job_id: UUID) -> list[str]:
        """The topics of what was recorded of a job, without `jobs.`."""
        return [recorded.topic.removeprefix("jobs.") for recorded in self.events(job_id)]

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return self.connection.execute(sql, values).fetchall()

    def queued(self, state: str = "%") -> int:
        count: int = self.rows("select count(*) from job_queue where state like %s", state)[0][0]
        return count

    def last(self, job_id: UUID, topic: str = "", patience: float = PATIENCE_SECONDS) -> Any:
        """The job's newest event once it is of this topic (by default: once it has ended, or is a dead letter)."""
        ends = {topic} if topic else {"AttemptSucceeded", "JobCancelled"}

        def ended() -> Any:
            event = self.events(job_id)[-1]
            name = event.topic.removeprefix("jobs.")
            dead = not topic and name == "AttemptFailed" and event.event.exhausted
            return event if name in ends or dead else None

        return until(ended, patience).event


def until(look: Callable[[], Any], patience: float = PATIENCE_SECONDS) -> Any:
    """What it gives, once it gives something."""
    end = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError("it didn't come to pass in time")
        time.sleep(0.01)
    return found
