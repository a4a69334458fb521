"""Reminding: when, how often, and the type of job that does it, for those who enqueue it and don't run it."""

from datetime import timedelta
from uuid import UUID

from msgspec import Struct

from domain.jobs import JobType

REMINDERS_LIMIT = 3
"""Reminders of one invoice."""

INTERVAL = timedelta(days=7)
"""From one reminder to the next."""


class Reminder(Struct, frozen=True):
    """Which reminder of which invoice; the first is 1."""

    invoice_id: UUID
    reminder: int


REMINDER = JobType("invoicing.remind", args=Reminder, queue="mail", max_attempts=10, timeout_seconds=60)
