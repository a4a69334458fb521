"""The rules, without anything around them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Invalid
from examples.invoicing.domain import (
    CENTS_LIMIT,
    LINES_LIMIT,
    EmptyInvoice,
    Invoice,
    InvoiceNumber,
    Line,
    NotADraft,
    NotOpen,
    Overpaid,
    PartlyPaid,
    TooManyLines,
    first_free,
)
from infra.transcoding import EventMapper, OrjsonTranscoder

NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)
ANVIL = Line("anvil", 2, 4999)


def draft(*lines: Line) -> Invoice:
    invoice = Invoice(scope="/acme", customer="Wile", email="wile@desert.example", due_days=14, currency="EUR")
    for line in lines:
        invoice.add_line(line)
    return invoice


def issued(*lines: Line) -> Invoice:
    invoice = draft(*(lines or (ANVIL,)))
    invoice.issue("2026", 7, NOON)
    return invoice


def test_an_invoice_is_drafted_issued_and_paid_in_parts():
    invoice = issued()
    assert (invoice.status, invoice.label, invoice.open_cents) == ("open", "2026-7", 9998)
    invoice.pay(9000, "first")
    assert (invoice.status, invoice.paid_cents) == ("open", 9000)
    invoice.pay(998, "rest")
    assert (invoice.status, invoice.open_cents) == ("paid", 0)


def test_it_is_due_so_many_days_after_it_was_issued():
    (event,) = (each for each in issued().pending_events if isinstance(each, Invoice.Issued))
    assert event.due_at == datetime(2026, 5, 31, 12, tzinfo=UTC)


def test_an_empty_invoice_isnt_issued():
    with pytest.raises(EmptyInvoice):
        draft().issue("2026", 1, NOON)


def test_what_was_issued_isnt_changed_any_more():
    with pytest.raises(NotADraft):
        issued().add_line(ANVIL)
    with pytest.raises(NotADraft):
        issued().issue("2026", 8, NOON)


def test_nobody_pays_more_than_is_open():
    with pytest.raises(Overpaid, match="9998"):
        issued().pay(9999, "too much")


@pytest.mark.parametrize("settle", [lambda invoice: invoice.pay(9998, "all"), lambda invoice: invoice.void("never")])
def test_what_is_settled_isnt_paid(settle):
    invoice = issued()
    settle(invoice)
    with pytest.raises(NotOpen):
        invoice.pay(1, "again")


def test_what_is_partly_paid_isnt_voided():
    invoice = issued()
    invoice.pay(1, "a cent")
    with pytest.raises(PartlyPaid):
        invoice.void("a mistake")


def test_voiding_twice_and_reminding_twice_record_nothing():
    invoice = issued()
    invoice.remind(1)
    invoice.remind(1)
    invoice.void("a mistake")
    before = len(invoice.pending_events)
    invoice.void("a mistake")
    assert len(invoice.pending_events) == before == 5


def test_what_costs_nothing_is_paid():
    assert issued(Line("advice", 1, 0)).status == "paid"


def test_lines_have_limits():
    with pytest.raises(Invalid):
        draft(Line("moon", 1, CENTS_LIMIT), Line("penny", 1, 1))
    with pytest.raises(TooManyLines):
        draft(*[Line("nail", 1, 1)] * (LINES_LIMIT + 1))


@given(st.integers(min_value=0, max_value=10**9))
def test_the_first_free_number_is_found_in_few_steps(taken):
    asked = []

    def is_taken(number: int) -> bool:
        asked.append(number)
        return number <= taken

    assert first_free(is_taken) == taken + 1
    assert len(asked) <= 2 * (taken + 1).bit_length() + 1


def test_a_number_is_one_claim_per_scope_and_series():
    ids = {
        InvoiceNumber.create_id(*each)
        for each in [("/a", "2026", 1), ("/a", "2026", 2), ("/a", "2027", 1), ("/b", "2026", 1)]
    }
    assert len(ids) == 4


def test_what_was_drafted_before_there_were_currencies_was_in_euros():
    (event,) = draft().pending_events
    row = EventMapper(OrjsonTranscoder()).to_stored_event(event)
    old = row.state.replace(b',"currency":"EUR"', b"").replace(b',"class_version":2', b"")
    assert b"EUR" not in old
    read = EventMapper(OrjsonTranscoder()).event_of(event.originator_id, 1, row.topic, old, NOON)
    assert read.currency == "EUR"


ADD, ISSUE, PAY, VOID, REMIND = "add", "issue", "pay", "void", "remind"


@given(st.lists(st.tuples(st.sampled_from([ADD, ISSUE, PAY, VOID, REMIND]), st.integers(1, 20_000)), max_size=12))
def test_whatever_is_tried_the_sums_are_right_and_the_events_tell_the_same(tries):
    invoice = draft()
    did = {
        ADD: lambda cents: invoice.add_line(Line("anvil", 1, cents)),
        ISSUE: lambda _: invoice.issue("2026", 1, NOON),
        PAY: lambda cents: invoice.pay(cents, "bank"),
        VOID: lambda _: invoice.void("why not"),
        REMIND: invoice.remind,
    }
    paid = 0
    for what, cents in tries:
        try:
            did[what](cents)
        except (NotADraft, EmptyInvoice, NotOpen, Overpaid, PartlyPaid):
            continue
        paid += cents if what == PAY else 0
    assert 0 <= paid <= invoice.total_cents
    if invoice.status in {"open", "paid"}:
        assert invoice.open_cents == invoice.total_cents - paid
    assert (invoice.status == "paid") == (paid > 0 and paid == invoice.total_cents)
    again = None
    for recorded in invoice.pending_events:
        again = recorded.mutate(again)
    assert vars(again).items() >= {name: vars(invoice)[name] for name in ("status", "lines", "open_cents")}.items()
