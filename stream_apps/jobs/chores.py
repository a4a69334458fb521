"""The platform's own chores: which there are, and when they are done. What each does is in `runtime/chores.py`.

Their schedules are created at the first start, and the operators' from then on.
"""

from typing import Annotated
from uuid import UUID

import msgspec

from commands.jobs.schedules import OwnSchedule, PlanRequest
from domain.jobs import JobType

QUEUE = "chores"
PRIORITY = -10
"""Chores give way to a product's own jobs."""


class ExpireArgs(msgspec.Struct, frozen=True):
    """Sessions behind this id."""

    after: UUID | None = None


class SnapshotArgs(msgspec.Struct, frozen=True):
    """Streams behind this id."""

    after: UUID | None = None


class VerifyArgs(msgspec.Struct, frozen=True):
    """So many streams of each view."""

    streams: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1_000


FORGET_RECEIPTS = JobType(
    "receipts.forget", queue=QUEUE, priority=PRIORITY, max_attempts=3, timeout_seconds=300.0, is_reserved=True
)
"""Receipts of requests that are too old to be repeated, and what was parked and taken out long ago."""

EXPIRE_SESSIONS = JobType(
    "sessions.expire", args=ExpireArgs, queue=QUEUE, priority=PRIORITY, timeout_seconds=300.0, is_reserved=True
)
"""Ends sessions whose refresh token works no more, some at a time; as many jobs in a row as it takes."""

ROTATE_KEYS = JobType("keys.rotate", queue=QUEUE, priority=PRIORITY, is_reserved=True)
"""A new signing key where the newest is too old."""

VERIFY_VIEWS = JobType(
    "views.verify", args=VerifyArgs, queue=QUEUE, priority=PRIORITY, timeout_seconds=3_600.0, is_reserved=True
)
"""Folds a part of each view's streams again and compares; what differs is recorded."""

SNAPSHOT_STREAMS = JobType(
    "streams.snapshot", args=SnapshotArgs, queue=QUEUE, priority=PRIORITY, timeout_seconds=3_600.0, is_reserved=True
)
"""Folds long streams from their first events on and proves their snapshots by it, some streams at a time."""

CHORES = (FORGET_RECEIPTS, EXPIRE_SESSIONS, ROTATE_KEYS, VERIFY_VIEWS, SNAPSHOT_STREAMS)


def _at(cron: str, job_type: JobType) -> OwnSchedule:
    return OwnSchedule(job_type.name, PlanRequest(cron=cron, type=job_type.name, missed="once", overlap="coalesce"))


TIMES = (
    _at("7 * * * *", FORGET_RECEIPTS),
    _at("17 3 * * *", EXPIRE_SESSIONS),
    _at("37 3 * * *", ROTATE_KEYS),
    _at("47 3 * * *", VERIFY_VIEWS),
    _at("57 3 * * *", SNAPSHOT_STREAMS),
)
