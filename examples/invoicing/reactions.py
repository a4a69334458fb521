"""What happens because of events: who owes something will be reminded once it is due."""

from examples.invoicing.commands import PlanReminder, plan_reminder
from examples.invoicing.domain import Invoice
from infra.event_store import Recorded
from stream_apps.reactions import Intention, Reaction


def _plan(cause: Recorded) -> Intention | None:
    event = cause.event
    assert isinstance(event, Invoice.Issued)  # noqa: S101 - for the types
    return Intention(plan_reminder, PlanReminder(cause.stream, 1, event.due_at)) if event.total_cents else None


REMINDERS = Reaction("invoice-reminders", {Invoice.Issued: _plan})
