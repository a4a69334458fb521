"""The namespaces that come with the software, as a process has them: for its routes and its commands alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from domain.configuration import DocumentSchema
from domain.configuration.document import Values
from domain.ports import Work
from infra.configuration.schemas import file_values, schemas_of
from infra.settings import Settings
from runtime.configuration_consent import consent


@dataclass(frozen=True)
class Own:
    """Implements `commands.configuration.OwnNamespaces`.

    `environment` are the settings that this process was started with, whatever was stored since.
    """

    environment: Settings

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
