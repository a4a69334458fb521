"""What the routes of configuration are given: the own namespaces, and how long the instances are waited for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool

from infra.configuration.instances import Instance, instances
from infra.configuration.live import Live
from infra.configuration.references import References
from infra.configuration.waiting import Waits
from infra.listener import Listener
from muniment_client.secrets import SecretStores
from runtime.configuration_own import Own


@dataclass(frozen=True)
class ConfigurationPorts(Own):
    """`secrets` are the stores that the process itself uses, so that what it has fetched needn't be fetched again."""

    live: Live
    waits: Waits
    secrets: SecretStores

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
