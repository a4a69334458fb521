"""What whoever runs invoicing may choose, while it runs: the namespace `invoicing` of configuration."""

from dataclasses import dataclass

from infra.settings import Section

INVOICING = Section("invoicing", "invoices")


@dataclass(frozen=True)
class InvoicingSettings:
    """Each is read from `MUNIMENT_INVOICING_...`; what is stored counts over that."""

    payment_term_days: int = INVOICING(
        14, "after its issue an invoice is due, unless its draft says otherwise", hot=True, least=0, most=365
    )
    reminder_interval_days: int = INVOICING(7, "from one reminder to the next", hot=True, least=1, most=90)
    reminders: int = INVOICING(3, "reminders of one invoice at most; 0 = none", hot=True, least=0, most=10)
