"""What one can intend with invoices, and how it is decided.

The permissions are needed at the scope of the invoice, which only the handler knows: it requires them itself.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from commands.access import require
from commands.jobs import enqueue
from domain.aggregate import derived_id
from domain.ports import Work
from examples.invoicing.domain import Invoice, InvoiceNumber, Line, first_free
from examples.invoicing.reminders import REMINDER, Reminder

CREATE, ISSUE, PAY, VOID, READ = "invoice:create", "invoice:issue", "invoice:pay", "invoice:void", "invoice:read"


@dataclass(frozen=True, slots=True)
class DraftInvoice:
    """A new one, empty, due so many days after it is issued."""

    scope: str
    customer: str
    email: str
    currency: str
    due_days: int


@dataclass(frozen=True, slots=True)
class AddLine:
    """One more line of a draft."""

    invoice_id: UUID
    description: str
    quantity: int
    unit_cents: int


@dataclass(frozen=True, slots=True)
class IssueInvoice:
    """Number it and send it. The series is the year."""

    invoice_id: UUID


@dataclass(frozen=True, slots=True)
class PayInvoice:
    """Some or all of it was paid; `reference` is the bank's."""

    invoice_id: UUID
    amount_cents: int
    reference: str


@dataclass(frozen=True, slots=True)
class VoidInvoice:
    """It was never meant."""

    invoice_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class PlanReminder:
    """Remind the customer then, if it is still open."""

    invoice_id: UUID
    reminder: int
    at: datetime


def draft_invoice(work: Work, command: DraftInvoice) -> UUID:
    """The id. The route has asked for the permission at the scope that the body names."""
    invoice = Invoice(
        scope=command.scope,
        customer=command.customer,
        email=command.email,
        due_days=command.due_days,
        currency=command.currency,
    )
    return work.add(invoice).id


def add_line(work: Work, command: AddLine) -> None:
    """Raises InvoiceNotFound, NotADraft, TooManyLines, Forbidden."""
    invoice = _invoice(work, command.invoice_id, CREATE)
    invoice.add_line(Line(command.description, command.quantity, command.unit_cents))


def issue_invoice(work: Work, command: IssueInvoice) -> str:
    """How it is called from now on. Raises InvoiceNotFound, NotADraft, EmptyInvoice, Forbidden."""
    invoice = _invoice(work, command.invoice_id, ISSUE)
    now = work.now()
    series = str(now.year)
    number = first_free(
        lambda each: work.find(InvoiceNumber, InvoiceNumber.create_id(invoice.scope, series, each)) is not None
    )
    invoice.issue(series, number, now)
    work.add(InvoiceNumber(scope=invoice.scope, series=series, number=number, invoice_id=invoice.id))
    return invoice.label


def pay_invoice(work: Work, command: PayInvoice) -> None:
    """Raises InvoiceNotFound, NotOpen, Overpaid, Forbidden."""
    _invoice(work, command.invoice_id, PAY).pay(command.amount_cents, command.reference)


def void_invoice(work: Work, command: VoidInvoice) -> None:
    """Raises InvoiceNotFound, NotOpen, PartlyPaid, Forbidden."""
    _invoice(work, command.invoice_id, VOID).void(command.reason)


def plan_reminder(work: Work, command: PlanReminder) -> None:
    """A job for then. Its id is derived, so that there is one for each reminder whatever happens."""
    reminder = Reminder(command.invoice_id, command.reminder)
    job_id = derived_id("invoice-reminder", f"{command.invoice_id}:{command.reminder}")
    enqueue(work, REMINDER, reminder, run_at=command.at, id=job_id)


def _invoice(work: Work, invoice_id: UUID, permission: str) -> Invoice:
    """Raises InvoiceNotFound, Forbidden."""
    invoice = work.get(Invoice, invoice_id)
    require(work, permission, invoice.scope)
    return invoice
