"""Invoices over HTTP: JSON in, command or query, JSON out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta

from api.routing import Asked, Body, Command, Created, Keyset, Page, Paging, Query, Route, View, Within
from domain.access import Scope
from domain.identity import EmailAddress
from examples.invoicing.commands import (
    CREATE,
    ISSUE,
    PAY,
    READ,
    VOID,
    DraftInvoice,
    IssueInvoice,
    add_line,
    draft_invoice,
    issue_invoice,
    pay_invoice,
    void_invoice,
)
from examples.invoicing.domain import (
    CENTS_LIMIT,
    EmptyInvoice,
    InvoiceNotFound,
    NotADraft,
    NotOpen,
    Overpaid,
    PartlyPaid,
    TooManyLines,
)
from examples.invoicing.settings import InvoicingSettings
from examples.invoicing.views import FullInvoice, balance, invoice_by_id, invoices

VIEWS = ("invoices",)

ScopeText = Annotated[str, Meta(max_length=512, description="A path such as `/acme/eu`; `/` is everywhere.")]
Text = Annotated[str, Meta(max_length=200, pattern=r"\S")]
Cents = Annotated[int, Meta(ge=0, le=CENTS_LIMIT)]


class NewInvoice(Body):
    """Whom to bill, and where that belongs. Without `due_days` it is due as the configuration of invoicing says."""

    scope: ScopeText
    customer: Text
    email: Annotated[str, Meta(max_length=254)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$", max_length=3)] = "EUR"
    due_days: Annotated[int, Meta(ge=0, le=365)] | None = None


class NewLine(Body):
    """So much of something, at this price each."""

    description: Text
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    unit_cents: Cents


class Payment(Body):
    """What came in."""

    amount_cents: Annotated[int, Meta(ge=1, le=CENTS_LIMIT)]
    reference: Text


class VoidReason(Body):
    """Why."""

    reason: Text


class InvoiceScope(Body):
    """Where."""

    scope: ScopeText = "/"


class InvoiceFilter(Paging):
    """Where, and which."""

    scope: ScopeText = "/"
    status: Literal["draft", "open", "paid", "void"] | None = None


class InvoiceView(View):
    """An invoice. Money is in cents."""

    id: UUID
    scope: str
    customer: str
    email: str
    currency: str
    status: str
    series: str | None
    number: int | None
    total_cents: int
    open_cents: int
    reminders: int
    drafted_at: datetime
    issued_at: datetime | None
    due_at: datetime | None
    version: int


class LineView(View):
    """One line of an invoice."""

    description: str
    quantity: int
    unit_cents: int


class FullInvoiceView(View):
    """An invoice with its lines."""

    invoice: InvoiceView
    lines: list[LineView]


class IssuedView(View):
    """How the invoice is called from now on: series and number."""

    label: str


class BalanceView(View):
    """What is open in one currency, and how much of it is overdue."""

    currency: str
    invoices: int
    open_cents: int
    overdue_cents: int


def _invoice_id(asked: Asked) -> UUID:
    found: UUID = asked.path["invoice_id"]
    return found


def _body_scope(asked: Asked) -> str:
    return str(Scope(asked.body.scope))


def _asked_scope(asked: Asked) -> str:
    return str(Scope(asked.params.scope))


def _draft(asked: Asked) -> DraftInvoice:
    """Raises Invalid for an address or a scope that can't be one."""
    body: NewInvoice = asked.body
    email = str(EmailAddress(body.email))
    term_days: int = asked.ports.settings.of(InvoicingSettings).payment_term_days
    due_days = term_days if body.due_days is None else body.due_days
    return DraftInvoice(_body_scope(asked), body.customer, email, body.currency, due_days)


def _newest_first(row: Any) -> Sequence[Any]:
    return (row.drafted_position,)


def _scope_of(found: FullInvoice) -> str:
    return found.invoice.scope


ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/invoices", NewInvoice, draft_invoice, permission=CREATE, scope=_body_scope, command=_draft,
        answers=201, result=Created, location="/api/v1/invoices/{id}",
    ),
    Query(
        "GET", "/api/v1/invoices", Page[InvoiceView], invoices, permission=READ, scope=_asked_scope, projections=VIEWS,
        params=InvoiceFilter, page=Keyset(_newest_first, (int,)), name="list_invoices",
    ),
    Query(
        "GET", "/api/v1/invoices/balance", list[BalanceView], balance, permission=READ, scope=_asked_scope,
        projections=VIEWS, params=InvoiceScope, name="invoice_balance",
    ),
    Query(
        "GET", "/api/v1/invoices/{id}", FullInvoiceView, invoice_by_id, permission=Within(READ), scope_of=_scope_of,
        projections=VIEWS, raises=(InvoiceNotFound,), name="get_invoice",
        etag=lambda view: view.invoice.version,
    ),
    Command(
        "POST", "/api/v1/invoices/{invoice_id}/lines", NewLine, add_line, permission=Within(CREATE), stream=_invoice_id,
        raises=(InvoiceNotFound, NotADraft, TooManyLines), name="add_invoice_line",
    ),
    Command(
        "POST", "/api/v1/invoices/{invoice_id}/issue", None, issue_invoice, permission=Within(ISSUE),
        command=lambda asked: IssueInvoice(_invoice_id(asked)), stream=_invoice_id, result=IssuedView,
        raises=(InvoiceNotFound, NotADraft, EmptyInvoice),
    ),
    Command(
        "POST", "/api/v1/invoices/{invoice_id}/payments", Payment, pay_invoice, permission=Within(PAY),
        stream=_invoice_id, raises=(InvoiceNotFound, NotOpen, Overpaid),
    ),
    Command(
        "POST", "/api/v1/invoices/{invoice_id}/void", VoidReason, void_invoice, permission=Within(VOID),
        stream=_invoice_id, raises=(InvoiceNotFound, NotOpen, PartlyPaid),
    ),
]  # fmt: skip
