"""The job that reminds: what it records is exactly once, and so is its letter, by the run's idempotency key."""

import os
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

from commands.jobs import enqueue
from domain.aggregate import derived_id
from examples.invoicing.domain import Invoice
from examples.invoicing.reminders import REMINDER, Reminder
from examples.invoicing.settings import InvoicingSettings
from stream_apps.jobs import Run, job

OUTBOX_VARIABLE = "INVOICING_OUTBOX"
"""The folder where letters are put, for whoever sends them. Without it reminders are recorded, and none is written."""


@job(REMINDER)
def remind(run: Run, args: Reminder) -> bool:
    """Whether the customer was reminded: not if the invoice is paid or void by now."""
    invoice = run.work.get(Invoice, args.invoice_id)
    if invoice.status != "open":
        return False
    if folder := os.environ.get(OUTBOX_VARIABLE):
        put(Path(folder), run.idempotency_key, letter(invoice, args.reminder))
    invoice.remind(args.reminder)
    settings = run.settings.of(InvoicingSettings)
    if args.reminder < settings.reminders:
        again = Reminder(args.invoice_id, args.reminder + 1)
        job_id = derived_id("invoice-reminder", f"{again.invoice_id}:{again.reminder}")
        run_at = run.work.now() + timedelta(days=settings.reminder_interval_days)
        enqueue(run.work, REMINDER, again, run_at=run_at, id=job_id)
    return True


def letter(invoice: Invoice, reminder: int) -> EmailMessage:
    """What the customer is told."""
    message = EmailMessage()
    message["To"] = invoice.email
    message["Subject"] = f"Invoice {invoice.label}: reminder {reminder}"
    euros = f"{invoice.open_cents // 100}.{invoice.open_cents % 100:02}"
    message.set_content(f"Dear {invoice.customer},\n\n{euros} {invoice.currency} of it are still open.\n")
    return message


def put(folder: Path, key: str, message: EmailMessage) -> None:
    """The letter in a file named by the key, whole or not at all: a second attempt puts the same letter once more."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{key}"
    draft.write_bytes(message.as_bytes())
    draft.replace(folder / f"{key}.eml")
