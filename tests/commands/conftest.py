"""A platform without clothes: the real log on a real PostgreSQL, and a dispatcher."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from commands.identity import RegisterUser, register_user
from domain.context import Actor, Context
from domain.identity import EmailAddress, PersonName
from infra.dispatch import Dispatcher, Outcome
from infra.event_store import Log, Recorded
from infra.secrets import Secrets
from infra.work import UnitOfWork
from projections.identity import SESSIONS
from tests.commands.configuration_site import Site

R = TypeVar("R")

SECRETS = Secrets(b"m" * 32, b"p" * 32, b"c" * 32)


class Given:
    """What has happened before, told by those who did it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.secrets = SECRETS
        self.dispatcher = Dispatcher(log)

    def context(self, actor: Actor | None = None) -> Context:
        return Context(actor or Actor("system", "test"), str(uuid4()))

    def dispatch(self, handler: Callable[..., R], command: Any, actor: Actor | None = None) -> Outcome[R]:
        return self.dispatcher.dispatch(handler, command, self.context(actor))

    def do(self, handler: Callable[..., R], command: Any) -> R:
        return self.dispatch(handler, command).result

    def user(self, email: str = "ada@engine.example", name: str = "Ada Lovelace", password: str = "hashed") -> Any:  # noqa: S107
        address = EmailAddress(email)
        command = RegisterUser(address, self.secrets.claim_id(address), PersonName(name), password)
        return self.do(register_user, command)

    def work(self) -> UnitOfWork:
        return UnitOfWork(self.log, self.context())

    def events(self, *topics: str) -> list[Recorded]:
        return self.log.read(0, 1000, topics)


@pytest.fixture
def given(database: str) -> Iterator[Given]:
    log = Log(database, inline=[SESSIONS])
    yield Given(log)
    log.close()


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    """Where configuration is decided about."""
    made = Site(database)
    yield made
    made.close()
