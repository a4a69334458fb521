"""What happens because of events: who owes something will be reminded once it is due."""

from examples.invoicing.commands import PlanReminder, plan_reminder
from examples.invoicing.domain import Invoice
from examples.invoicing.settings import InvoicingSettings
from infra.event_store import Recorded
from stream_apps.reactions import Intention, Reaction


def reminders(settings: InvoicingSettings) -> Reaction:
    """Where nobody is to be reminded, nothing follows."""

    def plan(cause: Recorded) -> Intention | None:
        event = cause.event
        assert isinstance(event, Invoice.Issued)  # noqa: S101 - for the types
        if not event.total_cents or not settings.reminders:
            return None
        return Intention(plan_reminder, PlanReminder(cause.stream, 1, event.due_at))

    return Reaction("invoice-reminders", {Invoice.Issued: plan})
