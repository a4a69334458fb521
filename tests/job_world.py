"""Jobs without workers: the real log, queue and view, and what a worker would do, said by the test."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg

from commands.jobs import CancelJob, Enqueue, RetryJob, cancel_job, enqueue_job, retry_job
from domain.aggregate import Personal, Secret
from domain.context import Actor, Context
from domain.jobs import Job, JobType, NoArgs
from domain.jobs.job import FailureReason
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.job_queue import JOB_QUEUE
from projections.builds import ensure_builds
from projections.engine import Build, Engine
from projections.facts import read
from projections.jobs import JOBS
from projections.read import Answer, Reader

WORKER = "jacquard:1"
LEASE_SECONDS = 60.0

_CLAIM = "select id, fence, attempts + 1 from muniment_claim_jobs(%s, null, %s, %s, null) where id is not null"


class Letter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job of sending a letter takes."""

    to: Personal[str]
    template: str = "welcome"
    key: Secret[str] = "none"


NOOP = JobType("loom.noop", NoArgs)
MAIL = JobType("mail.send", Letter, queue="mail", max_attempts=3)


@dataclass(frozen=True)
class Claim:
    """What a worker has of a job."""

    id: UUID
    fence: int
    attempt: int


class JobWorld:
    """The writing side, and the reading side as it stands when it was fed last."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.log = Log(database, inline=[JOB_QUEUE])
        self.dispatcher = Dispatcher(self.log)
        self.connection = psycopg.connect(database, autocommit=True)
        ensure_builds(self.connection, [JOBS])
        self.engine = Engine(self.connection, self.log, Build(JOBS, 1))
        self.position = 0

    def feed(self) -> int:
        """Brings the view to the head of the log; its position."""
        while batch := read(self.log, self.position, 1000):
            self.position = self.engine.apply(batch, self.position)
        return self.position

    def look(self, query: Any, *args: Any, **options: Any) -> Any:
        """What a query finds."""
        return self.answer(lambda read: query(read, *args, **options)).value

    def answer(self, query: Any) -> Answer[Any]:
        return Reader(lambda: psycopg.connect(self.database, autocommit=True)).run(query, JOBS)

    def run(self, handler: Any, command: Any) -> Any:
        return self.dispatcher.dispatch(handler, command, Context(Actor("user", "ada"), "a story")).result

    def enqueue(self, job_type: JobType = NOOP, args: Any = None, **options: Any) -> UUID:
        return self.run(enqueue_job, Enqueue(job_type, args or NoArgs(), **options)).id

    def mail(self, to: str = "ada@engine.example", **options: Any) -> UUID:
        return self.enqueue(MAIL, Letter(to, key="the key"), **options)

    def claim(self, count: int = 1, worker: str = WORKER) -> list[Claim]:
        rows = self.connection.execute(_CLAIM, (worker, count, LEASE_SECONDS)).fetchall()
        return [Claim(*row) for row in rows]

    def claim_one(self) -> Claim:
        (claim,) = self.claim()
        return claim

    def succeed(self, claim: Claim, result: Any = None, seconds: float = 0.25) -> int:
        return self.record(claim.id, lambda job: job.succeed(claim.attempt, claim.fence, WORKER, seconds, result))

    def fail(
        self,
        claim: Claim,
        error: str = "the thread broke",
        *,
        retry_in: float | None = None,
        reason: FailureReason = "error",
    ) -> int:
        again = None if retry_in is None else datetime.now(UTC) + timedelta(seconds=retry_in)
        return self.record(
            claim.id,
            lambda job: job.fail(claim.attempt, claim.fence, WORKER, 0.5, reason, error, "Traceback: …", again),
        )

    def snooze(self, claim: Claim, seconds: float) -> int:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        return self.record(claim.id, lambda job: job.snooze(claim.attempt, claim.fence, WORKER, 0.1, until, "not yet"))

    def die(self, error: str = "the thread broke", **options: Any) -> UUID:
        """A dead letter."""
        id_ = self.mail(**options)
        self.fail(self.claim_one(), error)
        return id_

    def cancel(self, id_: UUID, reason: str = "not needed", **options: Any) -> None:
        self.run(cancel_job, CancelJob(id_, reason, **options))

    def retry(self, id_: UUID, **options: Any) -> None:
        self.run(retry_job, RetryJob(id_, "again", **options))

    def record(self, id_: UUID, decide: Any) -> int:
        def handler(work: Any, _: None) -> None:
            decide(work.get(Job, id_))

        context = Context(Actor("system", f"worker:{WORKER}"), str(uuid4()))
        return self.dispatcher.dispatch(handler, None, context).position

    def close(self) -> None:
        self.connection.close()
        self.log.close()


@contextmanager
def job_world(database: str) -> Iterator[JobWorld]:
    world = JobWorld(database)
    try:
        yield world
    finally:
        world.close()


def ids(rows: Sequence[Any]) -> list[UUID]:
    return [row.id for row in rows]
