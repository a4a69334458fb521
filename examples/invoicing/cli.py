"""`muniment invoices`: for the operator at the machine."""

from uuid import UUID

import click
import msgspec

from examples.invoicing.commands import VoidInvoice, void_invoice
from examples.invoicing.views import INVOICES, InvoiceRow
from examples.invoicing.views import invoices as invoice_rows
from runtime.command import Wired, acting, as_json, ask, dispatch, limited, print_json, print_table, say


@click.group()
def invoices() -> None:
    """Invoices: which there are, and taking one back."""


@invoices.command("list")
@click.option("--scope", default="/", show_default=True, help="There and below.")
@click.option("--status", type=click.Choice(["draft", "open", "paid", "void"]), help="Only these.")
@limited
@as_json
@click.pass_obj
def list_(wired: Wired, scope: str, status: str | None, limit: int, as_json: bool) -> None:
    """List invoices, the newest first.

    \b
    Example:
      muniment invoices list --scope /acme --status open
    """
    found = ask(wired, lambda read: invoice_rows(read, limit, scope=scope, status=status), INVOICES)
    if as_json:
        print_json({"items": msgspec.to_builtins(found)})
    else:
        print_table(("ID", "NUMBER", "CUSTOMER", "STATUS", "TOTAL", "OPEN", "DUE"), [_in_table(row) for row in found])


@invoices.command("void")
@click.argument("invoice", metavar="INVOICE", type=click.UUID)
@click.option("--reason", required=True, help="Why; it is in the audit log.")
@acting
@as_json
@click.pass_obj
def void(wired: Wired, invoice: UUID, reason: str, actor: str, as_json: bool) -> None:
    """Take an invoice back that was never meant.

    \b
    Example:
      muniment invoices void 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d --reason "sent twice"
    """
    with wired.core() as core:
        outcome = dispatch(core, void_invoice, VoidInvoice(invoice, reason), actor)
    if as_json:
        print_json({"position": outcome.position})
    else:
        say("it is void")


def _in_table(row: InvoiceRow) -> tuple[object, ...]:
    number = f"{row.series}-{row.number}" if row.number is not None else "-"
    return row.id, number, row.customer, row.status, _money(row.total_cents), _money(row.open_cents), row.due_at


def _money(cents: int) -> str:
    return f"{cents / 100:.2f}"
