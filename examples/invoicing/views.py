"""The read model of invoices, and what is asked of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from examples.invoicing.domain import Invoice, InvoiceNotFound
from projections.projection import Projection
from projections.read import Read

_ADD_LINE = """
    insert into {lines} (invoice_id, line, description, quantity, unit_cents)
    values (%(stream)s, %(line)s, %(description)s, %(quantity)s, %(unit_cents)s)
"""
_ADD_UP = """
    update {invoices}
       set total_cents = total_cents + %(quantity)s::bigint * %(unit_cents)s::bigint, version = %(version)s
     where id = %(stream)s
"""

INVOICES = Projection(
    name="invoices",
    version=1,
    tables="""
        invoices (
            id uuid primary key,
            scope text not null,
            customer text not null,
            email text not null,
            currency text not null,
            status text not null,
            series text,
            number bigint,
            total_cents bigint not null default 0,
            open_cents bigint not null default 0,
            reminders bigint not null default 0,
            drafted_at timestamptz not null,
            drafted_position bigint not null unique,
            issued_at timestamptz,
            due_at timestamptz,
            version bigint not null
        );
        index on invoices (scope, drafted_position);
        lines (
            invoice_id uuid not null,
            line bigint not null,
            description text not null,
            quantity bigint not null,
            unit_cents bigint not null,
            primary key (invoice_id, line)
        )
    """,
    on={
        Invoice.Drafted: "insert into {invoices} (id, scope, customer, email, currency, status, drafted_at,"
        " drafted_position, version) values (%(stream)s, %(scope)s, %(customer)s, %(email)s, %(currency)s, 'draft',"
        " %(recorded_at)s, %(position)s, %(version)s)",
        Invoice.LineAdded: [_ADD_LINE, _ADD_UP],
        Invoice.Issued: "update {invoices} set status = case when %(total_cents)s::bigint = 0 then 'paid' else 'open'"
        " end, series = %(series)s, number = %(number)s, total_cents = %(total_cents)s, open_cents = %(total_cents)s,"
        " issued_at = %(recorded_at)s, due_at = %(due_at)s, version = %(version)s where id = %(stream)s",
        Invoice.Paid: "update {invoices} set status = case when %(open_cents)s::bigint = 0 then 'paid' else 'open' end,"
        " open_cents = %(open_cents)s, version = %(version)s where id = %(stream)s",
        Invoice.Voided: "update {invoices} set status = 'void', open_cents = 0, version = %(version)s"
        " where id = %(stream)s",
        Invoice.Reminded: "update {invoices} set reminders = %(reminder)s, version = %(version)s where id = %(stream)s",
    },
    owners={"invoices": "id", "lines": "invoice_id"},
)


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    """An invoice as lists show it. Money is in cents."""

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
    drafted_position: int
    issued_at: datetime | None
    due_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class LineRow:
    """One line of an invoice."""

    description: str
    quantity: int
    unit_cents: int


@dataclass(frozen=True, slots=True)
class FullInvoice:
    """An invoice with its lines."""

    invoice: InvoiceRow
    lines: list[LineRow]


@dataclass(frozen=True, slots=True)
class Balance:
    """What is open at a scope and below, in one currency, and how much of it is overdue."""

    currency: str
    invoices: int
    open_cents: int
    overdue_cents: int


_BELOW = "(%(scope)s = '/' or scope = %(scope)s or starts_with(scope, %(scope)s || '/'))"
_INVOICE = ", ".join(InvoiceRow.__slots__)


def invoice_by_id(read: Read, id: UUID) -> FullInvoice:  # noqa: A002
    """One invoice, with its lines. Raises InvoiceNotFound."""
    row = read.one(f"select {_INVOICE} from {{invoices}} where id = %(id)s", {"id": id})
    if row is None:
        raise InvoiceNotFound
    lines = read.all(
        "select description, quantity, unit_cents from {lines} where invoice_id = %(id)s order by line", {"id": id}
    )
    return FullInvoice(InvoiceRow(**row), [LineRow(**line) for line in lines])


def invoices(
    read: Read, limit: int, after: tuple[int] | None = None, scope: str = "/", status: str | None = None
) -> list[InvoiceRow]:
    """The invoices at a scope and below, newest first."""
    rows = read.all(
        f"select {_INVOICE} from {{invoices}} where {_BELOW}"
        " and (%(before)s::bigint is null or drafted_position < %(before)s)"
        " and (%(status)s::text is null or status = %(status)s)"
        " order by drafted_position desc limit %(limit)s",
        {"scope": scope, "before": after[0] if after else None, "status": status, "limit": limit},
    )
    return [InvoiceRow(**row) for row in rows]


def balance(read: Read, scope: str = "/") -> list[Balance]:
    """What is open at a scope and below, by currency."""
    rows: list[dict[str, Any]] = read.all(
        "select currency, count(*)::int as invoices, sum(open_cents)::bigint as open_cents,"
        " coalesce(sum(open_cents) filter (where due_at < now()), 0)::bigint as overdue_cents"
        f" from {{invoices}} where status = 'open' and {_BELOW} group by currency order by currency",
        {"scope": scope},
    )
    return [Balance(**row) for row in rows]
