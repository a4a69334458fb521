"""Invoices, as a module of one's own: MUNIMENT_MODULES=examples.invoicing:MODULE

This file is its table of contents, as `runtime/modules.py` is the platform's.
"""

from examples.invoicing.api import ROUTES
from examples.invoicing.commands import CREATE, ISSUE, PAY, READ, VOID
from examples.invoicing.domain import Invoice, InvoiceNumber
from examples.invoicing.jobs import OUTBOX_VARIABLE, remind
from examples.invoicing.reactions import reminders
from examples.invoicing.settings import InvoicingSettings
from examples.invoicing.views import INVOICES
from projections.meaning import API_ACTIVITY, OTHER, Meaning, own
from runtime.module import ConfigSchema, Lazy, Module

_invoice = own("invoice")

MODULE = Module(
    "invoicing",
    depends_on=("access", "jobs"),
    aggregates=(Invoice, InvoiceNumber),
    projections=(INVOICES,),
    routes=ROUTES,
    reactions=lambda settings: (reminders(settings.of(InvoicingSettings)),),
    jobs=(remind,),
    permissions=(CREATE, ISSUE, PAY, VOID, READ),
    config_schema=ConfigSchema(InvoicingSettings),
    variables=(OUTBOX_VARIABLE,),
    cli={"invoices": Lazy("examples.invoicing.cli:invoices", "Invoices: which there are, and taking one back.")},
    audited={
        Invoice.Issued: Meaning("invoice.issued", API_ACTIVITY, OTHER, _invoice, ("series", "number", "total_cents")),
        Invoice.Paid: Meaning("invoice.paid", API_ACTIVITY, OTHER, _invoice, ("amount_cents", "reference")),
        Invoice.Voided: Meaning("invoice.voided", API_ACTIVITY, OTHER, _invoice, ("reason",)),
    },
    routine=frozenset(
        {
            Invoice.Drafted,  # nobody owes anything yet
            Invoice.LineAdded,
            Invoice.Reminded,  # the platform's own doing
            InvoiceNumber.Taken,  # saved with the issuing, which is audited
        }
    ),
)
