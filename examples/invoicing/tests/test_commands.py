"""Handlers on a real log: who may, what is saved together, and what becomes of races."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from domain.errors import Forbidden
from examples.invoicing.commands import (
    AddLine,
    IssueInvoice,
    PayInvoice,
    PlanReminder,
    VoidInvoice,
    add_line,
    issue_invoice,
    pay_invoice,
    plan_reminder,
    void_invoice,
)
from examples.invoicing.domain import EmptyInvoice, Invoice, InvoiceNotFound, InvoiceNumber, NotADraft, Overpaid


def test_an_invoice_gets_the_next_number_of_its_scope(office):
    labels = [office.do(issue_invoice, IssueInvoice(office.draft(scope))) for scope in ("/acme", "/acme", "/emca")]
    year = office.log.now().year
    assert labels == [f"{year}-1", f"{year}-2", f"{year}-1"]


def test_the_number_is_saved_with_the_invoice_or_not_at_all(office):
    empty = office.draft(lines=0)
    with pytest.raises(EmptyInvoice):
        office.do(issue_invoice, IssueInvoice(empty))
    assert "invoicing.NumberTaken" not in office.topics()


def test_however_many_issue_at_once_no_number_is_missing_and_none_is_given_twice(office):
    drafts = [office.draft() for _ in range(24)]
    with ThreadPoolExecutor(8) as clerks:
        list(clerks.map(lambda draft: office.do(issue_invoice, IssueInvoice(draft)), drafts))
    numbers = Counter(office.work().get(Invoice, draft).number for draft in drafts)
    assert sorted(numbers) == list(range(1, 25))
    assert set(numbers.values()) == {1}
    taken = office.work().get(InvoiceNumber, InvoiceNumber.create_id("/acme", str(office.log.now().year), 24))
    assert taken.invoice_id in drafts


def test_one_invoice_that_is_issued_by_two_at_once_has_one_number(office):
    draft = office.draft()

    def issue(_: int) -> str:
        try:
            return office.do(issue_invoice, IssueInvoice(draft))
        except NotADraft as error:
            return error.code

    with ThreadPoolExecutor(2) as clerks:
        outcomes = sorted(clerks.map(issue, range(2)))
    assert outcomes == [f"{office.log.now().year}-1", "invoice-not-draft"]
    assert office.topics().count("invoicing.NumberTaken") == 1


def test_a_payment_that_two_record_at_once_is_never_more_than_was_open(office):
    invoice = office.issued()

    def pay(number: int) -> bool:
        try:
            office.do(pay_invoice, PayInvoice(invoice, 6000, f"bank {number}"))
        except Overpaid:
            return False
        return True

    with ThreadPoolExecutor(4) as clerks:
        assert sum(clerks.map(pay, range(4))) == 1
    assert office.work().get(Invoice, invoice).open_cents == 3998


def test_who_may_issue_at_a_scope_may_do_so_there_and_below(office):
    clerk = office.hires("penny", "/acme/eu", "invoice:issue")
    below, beside = office.draft("/acme/eu/lisbon"), office.draft("/acme/us")
    office.do(issue_invoice, IssueInvoice(below), clerk)
    with pytest.raises(Forbidden, match="invoice:issue at /acme/us"):
        office.do(issue_invoice, IssueInvoice(beside), clerk)


def test_each_intention_needs_a_permission_of_its_own(office):
    clerk = office.hires("penny", "/acme", "invoice:issue")
    invoice = office.draft()
    for handler, command in (
        (add_line, AddLine(invoice, "anvil", 1, 1)),
        (pay_invoice, PayInvoice(invoice, 1, "bank")),
        (void_invoice, VoidInvoice(invoice, "why not")),
    ):
        with pytest.raises(Forbidden):
            office.do(handler, command, clerk)


def test_who_has_lost_the_permission_is_refused_at_once(office):
    clerk = office.hires("penny", "/acme", "invoice:issue")
    first, second = office.draft(), office.draft()
    office.do(issue_invoice, IssueInvoice(first), clerk)
    office.fires(clerk, "penny", "/acme")
    with pytest.raises(Forbidden):
        office.do(issue_invoice, IssueInvoice(second), clerk)


def test_an_invoice_that_doesnt_exist_isnt_found(office):
    with pytest.raises(InvoiceNotFound):
        office.do(issue_invoice, IssueInvoice(uuid4()))


def test_a_reminder_that_is_planned_twice_is_one_job(office):
    invoice = office.issued()
    for _ in range(2):
        office.do(plan_reminder, PlanReminder(invoice, 1, office.log.now()))
    assert office.topics().count("jobs.JobEnqueued") == 1
