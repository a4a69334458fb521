"""Somebody who decides about configuration, on the real log: for the tests of what becomes of that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from psycopg_pool import ConnectionPool

from commands.configuration import (
    ChangeConfiguration,
    Changed,
    DeclareNamespace,
    Mode,
    RollbackConfiguration,
    Validated,
    WithdrawNamespace,
    change_configuration,
    declare_namespace,
    rollback_configuration,
    validate_configuration,
    withdraw_namespace,
)
from domain.configuration import (
    DocumentSchema,
    Namespace,
    NamespaceName,
)
from domain.configuration.document import Values
from domain.context import Actor, Context
from domain.errors import Forbidden
from domain.ports import Work
from infra.configuration.heads import HEADS, Head, read_heads
from infra.configuration.past import NamespacePast
from infra.dispatch import Dispatcher
from infra.event_store import Log, Recorded

TEA = NamespaceName("tea")
SHOP = NamespaceName("shop")
TEA_SCHEMA = DocumentSchema(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "cups": {"type": "integer", "minimum": 1, "default": 2},
            "leaves": {"type": "string", "default": "assam"},
            "pot": {"type": "object", "default": {"size": 1.5, "lid": True}},
            "port": {"type": "integer", "default": 80, "x-restart": True, "x-variable": "MUNIMENT_PORT"},
            "key": {"type": "string", "default": "", "x-secret": True},
        },
    }
)
SHOP_SCHEMA = {"type": "object", "properties": {"price": {"type": "number", "minimum": 0}}, "required": ["price"]}


@dataclass(frozen=True)
class Own:
    """The platform's own namespaces, as this process knows them."""

    schemas: Mapping[str, DocumentSchema] = field(default_factory=lambda: {TEA: TEA_SCHEMA})
    file: Mapping[str, Values] = field(default_factory=dict)

    def consent(self, work: Work, name: str, before: Values, after: Values) -> None:
        if after.get("leaves") == "gold" != before.get("leaves"):
            raise Forbidden


OWN = Own()


class Site:
    """A log with configuration, and somebody who decides about it."""

    def __init__(self, database: str) -> None:
        self.log = Log(database, inline=[HEADS])
        self.pool: ConnectionPool[Any] = ConnectionPool(
            database, min_size=1, max_size=12, open=True, kwargs={"autocommit": True}
        )
        self.past = NamespacePast(self.pool, self.log)
        self.dispatcher = Dispatcher(self.log)
        self.announced: list[str] = []
        self.log.on_announce(self.announced.extend)

    def do(self, handler: Any, command: Any, if_match: int | None = None) -> Any:
        match = None if if_match is None else (Namespace.id_of(command.name), if_match)
        context = Context(Actor("operator", "ada"), str(uuid4()))
        return self.dispatcher.dispatch(handler, command, context, if_match=match).result

    def change(
        self, values: Values, mode: Mode = "replace", *, name: str = TEA, own: Own = OWN, reason: str = "",
        if_match: int | None = None,
    ) -> Changed:  # fmt: skip
        command = ChangeConfiguration(NamespaceName(name), values, own, mode, reason)
        return self.do(change_configuration, command, if_match)

    def patch(self, values: Values, **more: Any) -> Changed:
        return self.change(values, "merge", **more)

    def rollback(self, version: int, *, name: str = TEA, own: Own = OWN, reason: str = "") -> Changed:
        command = RollbackConfiguration(NamespaceName(name), version, own, self.past, reason)
        return self.do(rollback_configuration, command)

    def validate(self, values: Values, mode: Mode = "replace", *, name: str = TEA, own: Own = OWN) -> Validated:
        return self.do(validate_configuration, ChangeConfiguration(NamespaceName(name), values, own, mode))

    def declare(self, schema: Any = SHOP_SCHEMA, values: Values | None = None, name: str = SHOP) -> Changed:
        return self.do(declare_namespace, DeclareNamespace(NamespaceName(name), schema, OWN, values))

    def withdraw(self, name: str = SHOP, reason: str = "") -> None:
        self.do(withdraw_namespace, WithdrawNamespace(NamespaceName(name), OWN, reason))

    def head(self, name: str = TEA) -> Head:
        with self.pool.connection() as connection:
            return read_heads(connection, [name])[0]

    def stored(self, name: str = TEA) -> dict[str, Any]:
        return self.head(name).document

    def events(self) -> list[Recorded]:
        return self.log.read(0, 10_000)

    def close(self) -> None:
        self.pool.close()
        self.log.close()


def fields(error: Any) -> set[str]:
    return {each.field for each in error.value.errors}
