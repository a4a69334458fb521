"""Facts and rules about invoices. No I/O, no clock: times come in."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Personal, derived_id
from domain.errors import Conflict, NotFound, invalid_field

LINES_LIMIT = 200
"""Lines of one invoice."""

CENTS_LIMIT = 10**12
"""What one line, and an invoice, may come to at most."""

Status = Literal["draft", "open", "paid", "void"]


class InvoiceNotFound(NotFound):
    """There is no such invoice."""

    code = "invoice-not-found"


class NotADraft(Conflict):
    """Only a draft can be changed or issued."""

    code = "invoice-not-draft"


class NotOpen(Conflict):
    """Only an invoice that was issued and is neither paid nor void can be paid."""

    code = "invoice-not-open"


class EmptyInvoice(Conflict):
    """An invoice without lines can't be issued."""

    code = "invoice-empty"


class TooManyLines(Conflict):
    """An invoice can't have more lines."""

    code = "invoice-too-long"


class Overpaid(Conflict):
    """This is more than what is still open."""

    code = "invoice-overpaid"


class PartlyPaid(Conflict):
    """Something was paid already: such an invoice can't be voided."""

    code = "invoice-partly-paid"


@dataclass(frozen=True, slots=True)
class Line:
    """So much of something, at this price each."""

    description: str
    quantity: int
    unit_cents: int

    @property
    def cents(self) -> int:
        """What the line comes to."""
        return self.quantity * self.unit_cents


class Invoice(Aggregate):
    """Drafted, issued, then paid or voided. It belongs to a scope, where one needs the permissions."""

    TOPIC = "invoicing.Invoice"
    NOT_FOUND = InvoiceNotFound

    class Drafted(First):
        """Version 2 says the currency. Everything before was in euros."""

        TOPIC = "invoicing.InvoiceDrafted"
        class_version = 2
        scope: str
        customer: Personal[str]
        email: Personal[str]
        due_days: int
        currency: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["currency"] = "EUR"

    class LineAdded(Aggregate.Event):
        TOPIC = "invoicing.LineAdded"
        line: int
        description: str
        quantity: int
        unit_cents: int

    class Issued(Aggregate.Event):
        """From here on somebody owes `total_cents`, until `due_at`."""

        TOPIC = "invoicing.InvoiceIssued"
        series: str
        number: int
        total_cents: int
        due_at: datetime

    class Paid(Aggregate.Event):
        """Some or all of it. `open_cents` is what is still open then."""

        TOPIC = "invoicing.InvoicePaid"
        amount_cents: int
        reference: str
        open_cents: int

    class Voided(Aggregate.Event):
        TOPIC = "invoicing.InvoiceVoided"
        reason: str

    class Reminded(Aggregate.Event):
        TOPIC = "invoicing.InvoiceReminded"
        reminder: int

    @event(Drafted)
    def __init__(self, scope: str, customer: str, email: str, due_days: int, currency: str) -> None:
        self.scope, self.customer, self.email = scope, customer, email
        self.due_days, self.currency = due_days, currency
        self.status: Status = "draft"
        self.lines: list[Line] = []
        self.series, self.number = "", 0
        self.open_cents = 0
        self.reminders = 0

    @property
    def total_cents(self) -> int:
        """What all lines come to."""
        return sum(line.cents for line in self.lines)

    @property
    def paid_cents(self) -> int:
        """What was paid so far."""
        return self.total_cents - self.open_cents if self.status in {"open", "paid"} else 0

    @property
    def label(self) -> str:
        """How people call it: `2026-7`."""
        return f"{self.series}-{self.number}"

    def add_line(self, line: Line) -> None:
        """Raises NotADraft, TooManyLines, Invalid."""
        self._check_draft()
        if len(self.lines) >= LINES_LIMIT:
            raise TooManyLines
        if self.total_cents + line.cents > CENTS_LIMIT:
            raise invalid_field("unit_cents", f"the invoice would come to more than {CENTS_LIMIT} cents")
        self._add_line(len(self.lines) + 1, line.description, line.quantity, line.unit_cents)

    @event(LineAdded)
    def _add_line(self, line: int, description: str, quantity: int, unit_cents: int) -> None:
        self.lines.append(Line(description, quantity, unit_cents))

    def issue(self, series: str, number: int, now: datetime) -> None:
        """Raises NotADraft, EmptyInvoice."""
        self._check_draft()
        if not self.lines:
            raise EmptyInvoice
        self._issue(series, number, self.total_cents, now + timedelta(days=self.due_days))

    @event(Issued)
    def _issue(self, series: str, number: int, total_cents: int, due_at: datetime) -> None:
        self.status = "open" if total_cents else "paid"
        self.series, self.number, self.open_cents = series, number, total_cents

    def pay(self, amount_cents: int, reference: str) -> None:
        """Some or all of it. Raises NotOpen, Overpaid."""
        if self.status != "open":
            raise NotOpen
        if amount_cents > self.open_cents:
            raise Overpaid(f"Only {self.open_cents} cents are still open.")
        self._pay(amount_cents, reference, self.open_cents - amount_cents)

    @event(Paid)
    def _pay(self, amount_cents: int, reference: str, open_cents: int) -> None:
        self.open_cents = open_cents
        self.status = "open" if open_cents else "paid"

    def void(self, reason: str) -> None:
        """It was never meant: a draft, or what nobody has paid yet. Raises NotOpen, PartlyPaid.

        Its number stays taken. Twice records nothing.
        """
        if self.status == "paid":
            raise NotOpen
        if self.paid_cents:
            raise PartlyPaid
        if self.status != "void":
            self._void(reason)

    @event(Voided)
    def _void(self, reason: str) -> None:
        self.status = "void"
        self.open_cents = 0

    def remind(self, reminder: int) -> None:
        """The customer was reminded. The same reminder twice records nothing."""
        if reminder > self.reminders:
            self._remind(reminder)

    @event(Reminded)
    def _remind(self, reminder: int) -> None:
        self.reminders = reminder

    def _check_draft(self) -> None:
        if self.status != "draft":
            raise NotADraft


class InvoiceNumber(Aggregate):
    """A number that is taken, once for all, in a series of a scope.

    A claim: its id is derived from what it claims and it is saved with the invoice, so that of two who want the same
    number one is first and the other tries the next. Nobody gives a number back, and nobody skips one: so there is no
    gap, however many issue at once. A stream each, so that no stream grows with the years.
    """

    TOPIC = "invoicing.InvoiceNumber"

    class Taken(First):
        TOPIC = "invoicing.NumberTaken"
        scope: str
        series: str
        number: int
        invoice_id: UUID

    @staticmethod
    def create_id(scope: str, series: str, number: int, **_: Any) -> UUID:
        """The one of this number."""
        return derived_id("invoice-number", f"{scope}:{series}:{number}")

    @event(Taken)
    def __init__(self, scope: str, series: str, number: int, invoice_id: UUID) -> None:
        self.number, self.invoice_id = number, invoice_id


def first_free(is_taken: Callable[[int], bool]) -> int:
    """The least number from 1 on that isn't taken, where those taken have no gap. Asks about 2 log2 n times."""
    above = 1
    while is_taken(above):
        above *= 2
    taken = above // 2
    while above - taken > 1:
        middle = (taken + above) // 2
        taken, above = (middle, above) if is_taken(middle) else (taken, middle)
    return above
