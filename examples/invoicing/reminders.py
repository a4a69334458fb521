"""Reminding: the type of job that does it, for those who enqueue it and don't run it."""

from uuid import UUID

from msgspec import Struct

from domain.jobs import JobType


class Reminder(Struct, frozen=True):
    """Which reminder of which invoice; the first is 1."""

    invoice_id: UUID
    reminder: int


REMINDER = JobType("invoicing.remind", args=Reminder, queue="mail", max_attempts=10, timeout_seconds=60)
