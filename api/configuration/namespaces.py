"""The customers' own namespaces: declaring them by a JSON Schema, and asking what is declared."""

from typing import Any

from api.configuration.common import OF_NAME, ConfigurationPorts, ReasonText
from api.configuration.instances import UpdatedView, instances_of
from api.ports import Outcome
from api.routing import Asked, Body, Command, Keyset, Page, Paging, Query, Route, View
from commands.configuration import (
    Changed,
    DeclareNamespace,
    WithdrawNamespace,
    declare_namespace,
    withdraw_namespace,
)
from domain.configuration import (
    InvalidDocument,
    InvalidSchema,
    Namespace,
    NamespaceName,
    NamespaceNotFound,
    NamespaceReserved,
    TooManyNamespaces,
)
from infra.configuration import heads
from infra.configuration.instances import holds
from projections.read import Read

PATH = "/api/v1/config-namespaces"


class DeclarationBody(Body):
    """A JSON Schema (2020-12) of an object. `values` become the document with it, where what is stored doesn't fit."""

    schema: dict[str, Any]
    values: dict[str, Any] | None = None
    reason: ReasonText = ""


class WithdrawalParams(Body):
    """Why."""

    reason: ReasonText = ""


class DeclaredView(View):
    """A namespace of the customers' own: its version, and the number of its schema."""

    name: str
    version: int
    schema_version: int


def list_namespaces(read: Read, limit: int, after: tuple[str] | None = None) -> list[DeclaredView]:
    """The customers' own namespaces by name."""
    rows = read.all(
        "select namespace as name, version, declarations as schema_version from configuration_heads"
        " where declarations > 0 and namespace > %(after)s order by namespace limit %(limit)s",
        {"after": after[0] if after else "", "limit": limit},
    )
    return [DeclaredView(**row) for row in rows]


def get_namespace(read: Read, name: str) -> DeclaredView:
    """A namespace of the customers' own. Its schema is at `/api/v1/config/{namespace}/schema`."""
    row = read.one(
        "select namespace as name, version, declarations as schema_version from configuration_heads"
        " where declarations > 0 and namespace = %(name)s",
        {"name": name},
    )
    if row is None:
        raise NamespaceNotFound
    return DeclaredView(**row)


async def prepare_declaration(ports: ConfigurationPorts, asked: Asked) -> DeclareNamespace:
    """Raises Invalid, NamespaceReserved."""
    body: DeclarationBody = asked.body
    own = ports.configuration
    name = NamespaceName(asked.path["name"])
    there_are = await asked.in_thread(_counted, ports, name)
    return DeclareNamespace(name, body.schema, own, body.values, body.reason, there_are, own.namespaces_limit)


def _counted(ports: ConfigurationPorts, name: NamespaceName) -> int:
    """How many there are. Raises NamespaceReserved for a name that a module has which isn't here."""
    with ports.pool.connection() as connection:
        if holds(connection, name, ports.configuration.lease_seconds):
            raise NamespaceReserved
        return heads.declared(connection)


async def prepare_withdrawal(ports: ConfigurationPorts, asked: Asked) -> WithdrawNamespace:
    """Raises Invalid."""
    return WithdrawNamespace(NamespaceName(asked.path["name"]), ports.configuration, asked.params.reason)


async def declared(asked: Asked, outcome: Outcome) -> UpdatedView:
    """What the instances that watch the namespace make of it."""
    found: Changed = outcome.result
    return await instances_of(asked, asked.path["name"], found.version)


ROUTES: list[Route] = [
    Query(
        "GET", PATH, Page[DeclaredView], list_namespaces, permission="config:read", params=Paging,
        page=Keyset(lambda row: (row.name,), (str,)),
    ),
    Query(
        "GET", f"{PATH}/{{name}}", DeclaredView, get_namespace, permission="config:read", scope=OF_NAME,
        etag=lambda view: view.version, raises=(NamespaceNotFound,),
    ),
    Command(
        "PUT", f"{PATH}/{{name}}", DeclarationBody, declare_namespace, permission="config:declare", scope=OF_NAME,
        prepare=prepare_declaration, stream=lambda asked: Namespace.id_of(asked.path["name"]), result=UpdatedView,
        answered=declared, raises=(NamespaceReserved, TooManyNamespaces, InvalidSchema, InvalidDocument),
    ),
    Command(
        "DELETE", f"{PATH}/{{name}}", None, withdraw_namespace, permission="config:declare", scope=OF_NAME,
        prepare=prepare_withdrawal, params=WithdrawalParams, stream=lambda asked: Namespace.id_of(asked.path["name"]),
        raises=(NamespaceReserved, NamespaceNotFound),
    ),
]  # fmt: skip
