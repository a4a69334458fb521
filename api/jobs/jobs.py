"""Jobs: enqueueing, looking, cancelling, driving again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, cast
from uuid import UUID

from msgspec import convert
from psycopg import Connection
from psycopg_pool import ConnectionPool

from api import requests
from api.jobs.views import (
    CancelBody,
    CountFilter,
    CountView,
    EnqueuedView,
    EnqueuedViews,
    JobDetailView,
    JobFilter,
    JobView,
    NewJob,
    NewJobs,
    RedriveBody,
    RedrivenView,
    RetryBody,
)
from api.personal import hiding, sees_personal, without
from api.ports import Outcome
from api.routing import Answer, Asked, Command, Created, Endpoint, Keyset, Page, Query, Route
from commands.jobs import (
    CancelJob,
    Enqueue,
    EnqueueBatch,
    Redrive,
    RetryJob,
    cancel_job,
    enqueue_batch,
    enqueue_job,
    prepare_batch,
    prepare_enqueue,
    redrive,
    retry_job,
)
from domain.errors import Overloaded
from domain.jobs import JobFinished, JobNotFound, JobTypes, UniqueKeyTaken, UnknownJobType
from domain.jobs.job import ENDED
from projections.jobs import DeadFilter, count_dead, counts, dead_letters, job_by_id, jobs, take_forward
from projections.read import Read

VIEWS = ("jobs",)

_IS_RUNNING = "select state = 'leased' as running from job_queue where id = %(id)s"


class JobPorts(Protocol):
    """What this module's routes are given."""

    @property
    def job_types(self) -> JobTypes: ...
    @property
    def pool(self) -> ConnectionPool[Connection[Any]]: ...
    def now(self) -> datetime: ...


async def prepare_job(ports: JobPorts, body: NewJob) -> Enqueue:
    """Raises UnknownJobType, Invalid naming the argument's field."""
    return prepare_enqueue(ports.job_types.for_anybody, body.request(), ports.now())


async def prepare_jobs(ports: JobPorts, asked: Asked) -> EnqueueBatch:
    """In a thread: a thousand take a moment. Raises UnknownJobType, Invalid naming the argument's field."""
    body: NewJobs = asked.body
    requests = [job.request() for job in body.jobs]
    return await asked.in_thread(prepare_batch, ports.job_types.for_anybody, requests, ports.now())


async def prepare_cancellation(_: JobPorts, asked: Asked) -> CancelJob:
    """Whether it runs is known to the queue."""
    id_ = asked.path["id"]
    found = await asked.in_thread(asked.services.reader.look, lambda read: read.scalar(_IS_RUNNING, {"id": id_}), ())
    return CancelJob(id_, asked.body.reason, running=bool(found.value), firm=asked.body.firm)


async def prepare_redrive(_: JobPorts, asked: Asked) -> Redrive:
    """Which dead letters those are now."""
    body: RedriveBody = asked.body
    which = DeadFilter(body.type, body.queue, body.error, body.since, body.until)

    def look(read: Read) -> tuple[list[UUID], int]:
        return dead_letters(read, which, body.limit), count_dead(read, which)

    ids, found = (await asked.in_thread(asked.services.reader.look, look, VIEWS)).value
    return Redrive(ids, found, body.reason, body.per_second, body.begin_at)


async def get_job(asked: Asked) -> Answer:
    """A job with all that is known of it, as of the view's position. Personal arguments are for who may read events.

    While it isn't finished its progress changes without a version, so only of one that is `If-None-Match` gets a 304.
    """
    id_ = asked.path["id"]
    found = await asked.in_thread(asked.services.reader.look, lambda read: job_by_id(read, id_), VIEWS)
    tag = b'"%d"' % found.value.version
    if found.value.state in ENDED and requests.none_match(asked.headers, tag):
        return Answer(None, 304, [(b"etag", tag)], found.position)
    view = convert(found.value, JobDetailView, from_attributes=True)
    personal = found.value.personal
    if personal and not await sees_personal(asked):
        view.unique_key = hiding(view.unique_key, view.args, personal)
        view.concurrency_key = hiding(view.concurrency_key, view.args, personal)
        view.args, view.withheld = without(view.args, personal), sorted(personal)
    return Answer(view, 200, [(b"etag", tag)], found.position)


async def sum_up(asked: Asked) -> None:
    """So that what has ended isn't counted anew each time."""
    await asked.in_thread(take_forward, asked.ports.pool.connection)


def _job_id(asked: Asked) -> UUID:
    return cast("UUID", asked.path["id"])


def _position(row: Any) -> Sequence[Any]:
    return (row.position,)


def _enqueued(_: Asked, outcome: Outcome) -> Created:
    return Created(id=outcome.result.id)


def _enqueued_batch(_: Asked, outcome: Outcome) -> EnqueuedViews:
    return EnqueuedViews(items=[EnqueuedView(id=each.id, duplicate=not each.is_new) for each in outcome.result])


ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/jobs", NewJob, enqueue_job, prepare=prepare_job, permission="job:enqueue", answers=202,
        also=(200,), status=lambda outcome: 202 if outcome.result.is_new else 200, result=Created, answer=_enqueued,
        location="/api/v1/jobs/{id}", raises=(UnknownJobType,),
    ),
    Command(
        "POST", "/api/v1/jobs/batch", NewJobs, enqueue_batch, prepare=prepare_jobs, permission="job:enqueue",
        name="enqueue_jobs", answers=202, result=EnqueuedViews, answer=_enqueued_batch, raises=(UnknownJobType,),
    ),
    Query(
        "GET", "/api/v1/jobs", Page[JobView], jobs, permission="job:read", projections=VIEWS, params=JobFilter,
        page=Keyset(_position, (int,)),
    ),
    Query(
        "GET", "/api/v1/jobs/counts", Page[CountView], counts, permission="job:read", projections=VIEWS, before=sum_up,
        params=CountFilter, page=Keyset(lambda row: (row.queue, row.type, row.state), (str, str, str)),
        name="job_counts",
    ),
    Endpoint(
        "GET", "/api/v1/jobs/{id}", get_job, permission="job:read", result=JobDetailView, also=(304,),
        projections=VIEWS, raises=(JobNotFound, Overloaded), headers={"ETag": "The job's version."},
    ),
    Command(
        "POST", "/api/v1/jobs/{id}/cancel", CancelBody, cancel_job, prepare=prepare_cancellation,
        permission="job:cancel", stream=_job_id, raises=(JobNotFound, JobFinished),
    ),
    Command(
        "POST", "/api/v1/jobs/{id}/retry", RetryBody, retry_job, permission="job:retry", stream=_job_id,
        command=lambda asked: RetryJob(
            asked.path["id"], asked.body.reason, asked.body.attempts_more, asked.body.run_at
        ),
        raises=(JobNotFound, JobFinished, UniqueKeyTaken),
    ),
    Command(
        "POST", "/api/v1/jobs/dead/redrive", RedriveBody, redrive, prepare=prepare_redrive, permission="job:retry",
        result=RedrivenView,
    ),
]  # fmt: skip
