"""What the routes of configuration are given: the own namespaces, and how long the instances are waited for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool

from domain.configuration import DocumentSchema
from domain.configuration.document import Values
from domain.ports import Work
from infra.configuration.instances import Instance, instances
from infra.configuration.live import Live
from infra.configuration.references import References
from infra.configuration.schemas import file_values, schemas_of
from infra.configuration.waiting import Waits
from infra.listener import Listener
from infra.settings import Settings
from muniment_client.secrets import SecretStores
from runtime.configuration_consent import consent


@dataclass(frozen=True)
class ConfigurationPorts:
    """`environment` are the settings that this process was started with, whatever was stored since.

    `secrets` are the stores that the process itself uses, so that what it has fetched needn't be fetched again.
    """

    environment: Settings
    live: Live
    waits: Waits
    secrets: SecretStores

    @cached_property
    def schemas(self) -> Mapping[str, DocumentSchema]:
        """Of the platform's own namespaces, and of those of its modules."""
        return schemas_of(self.environment)

    @property
    def of_modules(self) -> frozenset[str]:
        """Those of modules of one's own."""
        return frozenset(each.namespace for each in self.environment.own)

    @cached_property
    def file(self) -> Mapping[str, Values]:
        """What the environment says of each namespace; the value of a secret as HIDDEN."""
        return {name: file_values(self.environment, name) for name in self.schemas}

    def consent(self, work: Work, name: str, before: Values, after: Values) -> None:
        """Whether who acts may make this change. Raises Forbidden, InvalidDocument."""
        consent(work, name, before, after)

    @property
    def references(self) -> References:
        """Whether the secrets that a document refers to can be had and used."""
        return References(self.secrets, self.live.settings)

    @property
    def namespaces_limit(self) -> int:
        """How many namespaces the customers may declare."""
        return self.live.settings.config_namespaces

    @property
    def answer_seconds(self) -> float:
        """How long an update's answer waits for the instances."""
        return self.live.settings.config_answer_seconds

    @property
    def lease_seconds(self) -> float:
        """An instance that is silent for so long is gone."""
        return self.live.settings.config_lease_seconds


def waits(
    listener: Listener, pool: ConnectionPool[Connection[Any]], in_thread: Callable[..., Any], live: Live
) -> Waits:
    """Waits that look in the bounded pool of threads. Make it before the listener starts."""

    def read(namespace: str) -> Sequence[Instance]:
        with pool.connection() as connection:
            return instances(connection, namespace, live.settings.config_lease_seconds)

    async def look(namespace: str) -> Sequence[Instance]:
        found: Sequence[Instance] = await in_thread(read, namespace)
        return found

    return Waits(listener, look)
