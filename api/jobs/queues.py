"""Queues, what operators decide about them, and the workers."""

from uuid import UUID

from msgspec import convert

from api.jobs.jobs import VIEWS, sum_up
from api.jobs.views import LimitBody, PauseBody, QueueView, WorkersView, WorkerView
from api.routing import Asked, Command, Keyset, Page, Paging, Query, Route
from commands.jobs import (
    LimitQueue,
    PauseQueue,
    ResumeQueue,
    limit_queue,
    pause_queue,
    resume_queue,
)
from domain.jobs import Queue
from projections.jobs import queues, workers
from projections.read import Read


def list_workers(read: Read) -> WorkersView:
    """The worker processes that were seen within the hour, and what they are at."""
    return WorkersView(items=convert(workers(read), list[WorkerView], from_attributes=True))


def _queue_id(asked: Asked) -> UUID:
    return Queue.id_of(asked.path["name"])


ROUTES: list[Route] = [
    Query(
        "GET", "/api/v1/queues", Page[QueueView], queues, permission="queue:read", projections=VIEWS, before=sum_up,
        params=Paging, page=Keyset(lambda row: (row.name,), (str,)), name="list_queues",
    ),
    Command(
        "POST", "/api/v1/queues/{name}/pause", PauseBody, pause_queue, permission="queue:pause", stream=_queue_id,
        command=lambda asked: PauseQueue(asked.path["name"], asked.body.reason),
    ),
    Command(
        "POST", "/api/v1/queues/{name}/resume", None, resume_queue, permission="queue:pause", stream=_queue_id,
        command=lambda asked: ResumeQueue(asked.path["name"]),
    ),
    Command(
        "PUT", "/api/v1/queues/{name}/limit", LimitBody, limit_queue, permission="queue:limit", stream=_queue_id,
        command=lambda asked: LimitQueue(asked.path["name"], asked.body.limit),
    ),
    Query("GET", "/api/v1/workers", WorkersView, list_workers, permission="queue:read", projections=VIEWS),
]  # fmt: skip
