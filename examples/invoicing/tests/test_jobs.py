"""The job that reminds: what it records, and its letter, which is one however often it is tried."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from domain.aggregate import derived_id
from domain.context import Context
from domain.jobs import Job
from examples.invoicing.commands import PayInvoice, pay_invoice
from examples.invoicing.domain import Invoice
from examples.invoicing.jobs import OUTBOX_VARIABLE, remind
from examples.invoicing.reminders import Reminder
from examples.invoicing.settings import InvoicingSettings
from examples.invoicing.tests.conftest import configured
from infra.work import UnitOfWork
from stream_apps.jobs import Run


class NeverStops:
    reason = None

    def wait(self, seconds: float) -> bool:
        raise AssertionError("it needn't wait")


@pytest.fixture
def outbox(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTBOX_VARIABLE, str(tmp_path / "letters"))
    return tmp_path / "letters"


@pytest.fixture
def attempt(office):
    """One attempt of the job for a reminder; what it decides is saved, as the worker does."""

    def run(invoice: UUID, reminder: int = 1, job: UUID | None = None, *, saved: bool = True, **chosen: int) -> bool:
        def handler(work: UnitOfWork, _: None) -> bool:
            given = Run(
                job or uuid4(), remind.name, remind.queue, 1, remind.max_attempts, office.log.now(), None, work,
                NeverStops(), lambda *_: None, configured(**chosen),
            )  # fmt: skip
            return remind.handler(given, Reminder(invoice, reminder))

        return office.do(handler, None) if saved else handler(UnitOfWork(office.log, Context(office.system, "")), None)

    return run


def test_who_owes_something_gets_a_letter_and_the_next_reminder_is_planned(office, outbox, attempt):
    invoice = office.issued()
    assert attempt(invoice)
    (letter,) = outbox.glob("*.eml")
    assert "To: wile@desert.example" in letter.read_text()
    assert office.work().get(Invoice, invoice).reminders == 1
    planned = office.work().get(Job, derived_id("invoice-reminder", f"{invoice}:2"))
    assert not planned.is_finished


def test_an_attempt_that_died_before_it_was_saved_leaves_one_letter_all_the_same(office, outbox, attempt):
    invoice, job = office.issued(), uuid4()
    assert attempt(invoice, job=job, saved=False)
    assert office.work().get(Invoice, invoice).reminders == 0
    assert attempt(invoice, job=job)
    assert len(list(outbox.iterdir())) == 1
    assert office.topics().count("invoicing.InvoiceReminded") == 1


def test_who_has_paid_meanwhile_hears_nothing(office, outbox, attempt):
    invoice = office.issued()
    office.do(pay_invoice, PayInvoice(invoice, 9998, "bank"))
    assert not attempt(invoice)
    assert not outbox.exists()
    assert "invoicing.InvoiceReminded" not in office.topics()


def test_after_the_last_reminder_none_is_planned(office, outbox, attempt):
    assert attempt(office.issued(), InvoicingSettings().reminders)
    assert "jobs.JobEnqueued" not in office.topics()


def test_without_an_outbox_the_reminder_is_a_fact_and_no_letter(office, attempt, monkeypatch):
    monkeypatch.delenv(OUTBOX_VARIABLE, raising=False)
    assert attempt(office.issued())
    assert "invoicing.InvoiceReminded" in office.topics()


def test_how_often_and_when_somebody_is_reminded_again_is_as_the_configuration_says(office, outbox, attempt):
    soon, never = office.issued(), office.issued()
    before = office.log.now()
    attempt(soon, reminder_interval_days=2)
    planned = office.work().get(Job, derived_id("invoice-reminder", f"{soon}:2"))
    assert timedelta(days=2) <= planned.due - before < timedelta(days=2, hours=1)
    attempt(never, reminders=1)
    assert office.work().find(Job, derived_id("invoice-reminder", f"{never}:2")) is None
