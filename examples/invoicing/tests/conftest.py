"""The platform without clothes, and people with roles: the real log on a real PostgreSQL, and a dispatcher."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from commands.access import AssignRole, CreateRole, RevokeRole, assign_role, create_role, revoke_role
from domain.access import Pattern, RoleName, Scope
from domain.context import Actor, Context
from examples.invoicing import MODULE
from examples.invoicing.commands import AddLine, DraftInvoice, IssueInvoice, add_line, draft_invoice, issue_invoice
from examples.invoicing.settings import InvoicingSettings
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.own_settings import Own
from infra.settings import Settings
from infra.work import UnitOfWork
from runtime.modules import MODULES
from runtime.own_modules import registry
from runtime.registry import Registry
from tests.commands.conftest import Given
from tests.conftest import (  # noqa: F401 - fixtures
    database,
    empty_database,
    new_database,
    postgres_server,
    services_folder,
    template,
)

R = TypeVar("R")

SYSTEM = Actor("system", "test")


class Office:
    """A company that writes invoices."""

    system = SYSTEM

    def __init__(self, log: Log) -> None:
        self.log = log
        self.dispatcher = Dispatcher(log, attempts=50)
        self._given = Given(log)

    def do(self, handler: Callable[..., R], command: Any, actor: Actor = SYSTEM) -> R:
        return self.dispatcher.dispatch(handler, command, Context(actor, str(uuid4()))).result

    def draft(self, scope: str = "/acme", actor: Actor = SYSTEM, due_days: int = 14, lines: int = 1) -> UUID:
        command = DraftInvoice(scope, "Wile E. Coyote", "wile@desert.example", "EUR", due_days)
        invoice_id = self.do(draft_invoice, command, actor)
        for _ in range(lines):
            self.do(add_line, AddLine(invoice_id, "anvil", 2, 4999), actor)
        return invoice_id

    def issued(self, scope: str = "/acme", actor: Actor = SYSTEM) -> UUID:
        invoice_id = self.draft(scope, actor)
        self.do(issue_invoice, IssueInvoice(invoice_id), actor)
        return invoice_id

    def hires(self, name: str, scope: str, *permissions: str) -> Actor:
        """Somebody who holds these permissions there."""
        user_id = self._given.user(f"{name}@acme.example", name.title())
        role = RoleName(f"role-of-{name}")
        self.do(create_role, CreateRole(role, tuple(map(Pattern, permissions))))
        self.do(assign_role, AssignRole(user_id, role, Scope(scope)))
        return Actor("user", str(user_id))

    def fires(self, actor: Actor, name: str, scope: str) -> None:
        assert actor.user_id
        self.do(revoke_role, RevokeRole(actor.user_id, RoleName(f"role-of-{name}"), Scope(scope)))

    def work(self) -> UnitOfWork:
        return UnitOfWork(self.log, Context(SYSTEM, ""))

    def topics(self) -> list[str]:
        """What was recorded in invoicing and jobs, in order."""
        return [each.topic for each in self.log.read(0, 10_000) if each.topic.startswith(("invoicing.", "jobs."))]


def configured(**chosen: int) -> Settings:
    """Settings in which these of invoicing are chosen."""
    assert MODULE.config_schema is not None
    return Settings(own=(Own(MODULE.config_schema, InvoicingSettings(**chosen)),))


@pytest.fixture(scope="session")
def whole() -> Registry:
    """The platform with this module, without a word to the rest of the process."""
    return registry(MODULES, Settings(modules="examples.invoicing:MODULE"))


@pytest.fixture
def office(database: str, whole: Registry) -> Iterator[Office]:  # noqa: F811
    assert MODULE in whole.own
    log = Log(database, inline=whole.inline_tables)
    yield Office(log)
    log.close()
