"""What the routes of configuration share: what they are given, where permissions are needed, and how a namespace looks.

Permissions are needed at `/config/<namespace>`: who has a role at `/` may do it everywhere, who has it at
`/config/shop` there only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol
from uuid import UUID

from msgspec import Meta
from psycopg import Connection
from psycopg_pool import ConnectionPool

from api.routing import Asked, PathScope
from domain.configuration import DocumentSchema, Namespace, NamespaceName
from domain.configuration.document import Values
from domain.configuration.namespace import NAME_LIMIT_CHARS, REASON_LIMIT_CHARS
from domain.errors import FieldError
from domain.ports import Work
from infra.configuration.heads import Head, read_heads
from infra.configuration.past import NamespacePast, check_known
from infra.event_store import Log

NAMESPACE: Final = "/api/v1/config/{namespace}"
SCOPE: Final = PathScope("/config", "namespace")
OF_NAME: Final = PathScope("/config", "name")

ReasonText = Annotated[str, Meta(max_length=REASON_LIMIT_CHARS, description="Why, for whoever reads the history.")]
NameText = Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)]
Version = Annotated[int, Meta(ge=0, le=2**31 - 1, description="A version of the namespace; 0: nothing stored.")]


class OwnNamespaces(Protocol):
    """The platform's own namespaces."""

    @property
    def schemas(self) -> Mapping[str, DocumentSchema]:
        """By name."""
        ...

    @property
    def file(self) -> Mapping[str, Values]:
        """What this process's environment says of each; the value of a secret as HIDDEN."""
        ...

    def consent(self, work: Work, name: str, before: Values, after: Values) -> None:
        """Whether who acts may make this change. Raises Forbidden, InvalidDocument."""
        ...


class References(Protocol):
    """Whether the secrets that a document of the platform's own refers to can be had and used."""

    def wrong(self, namespace: str, values: Values) -> Sequence[FieldError]:
        """Every field whose secret can't. May wait for a store. Raises SecretStoreUnavailable."""
        ...


class OwnConfiguration(OwnNamespaces, Protocol):
    """The platform's own namespaces, and the secrets that their documents refer to."""

    @property
    def references(self) -> References: ...

    @property
    def lease_seconds(self) -> float:
        """A process that is silent for so long is gone."""
        ...

    @property
    def namespaces_limit(self) -> int:
        """How many the customers may declare."""
        ...

    @property
    def of_modules(self) -> Collection[str]:
        """The names of those that modules of one's own have declared."""
        ...


class ConfigurationPorts(Protocol):
    """What these routes are given."""

    @property
    def configuration(self) -> OwnConfiguration: ...

    @property
    def pool(self) -> ConnectionPool[Connection[Any]]: ...

    @property
    def log(self) -> Log: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A namespace at one version, as this process's software and environment have it."""

    head: Head
    schema: DocumentSchema
    file: Values

    @property
    def stored(self) -> dict[str, Any]:
        """What is stored, as the schema has it. Raises NewerDocument, InvalidDocument."""
        return self.schema.upcast(self.head.document, self.head.schema_version)


def name_of(asked: Asked) -> NamespaceName:
    """The namespace that the path names. Raises Invalid."""
    return NamespaceName(asked.path["namespace"], field="namespace")


def stream_of(asked: Asked) -> UUID:
    """Whose version `If-Match` and `ETag` mean."""
    return Namespace.id_of(asked.path["namespace"])


def past_of(asked: Asked) -> NamespacePast:
    """What was stored."""
    ports: ConfigurationPorts = asked.ports
    return NamespacePast(ports.pool, ports.log)


def shown(asked: Asked, name: str, version: int | None = None) -> Shown:
    """A namespace now, or at a version. In a thread. Raises NamespaceNotFound, VersionNotFound."""
    ports: ConfigurationPorts = asked.ports
    own = ports.configuration
    with ports.pool.connection() as connection:
        heads = read_heads(connection, [name])
    check_known(name, list(own.schemas), heads)
    newest = heads[0] if heads else Head(name, Namespace.id_of(name), 0, 0, 0, {}, None, 0, {})
    head = newest if version in {None, newest.version} else past_of(asked).head(name, version or 0)
    return Shown(head, _schema_of(head, own.schemas.get(name)), own.file.get(name, {}))


def _schema_of(head: Head, own: DocumentSchema | None) -> DocumentSchema:
    """A customers' namespace before its first declaration has a schema that says nothing."""
    return own or DocumentSchema(head.schema or {}, head.declarations)
