"""Background jobs over HTTP: enqueueing, looking, cancelling, driving again; queues and who works."""

from api.jobs.jobs import ROUTES as JOBS
from api.jobs.queues import ROUTES as QUEUES
from api.jobs.schedules import ROUTES as SCHEDULES
from api.routing import Route

ROUTES: list[Route] = [*JOBS, *QUEUES, *SCHEDULES]

__all__ = ["ROUTES"]
