"""Whether the secrets that a document of the platform's own refers to can be had, before it is stored.

The references in customers' documents are resolved by their services: what these can read isn't the platform's to know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from domain.configuration import SecretStoreUnavailable
from domain.configuration.document import Values, invalid_document
from domain.errors import FieldError
from infra.configuration.schemas import settings_of, unusable
from infra.setting import is_reference
from infra.settings import Settings
from muniment_client.secrets import Hidden, MalformedReference, SecretError, StoreUnavailable

FIELD = "values"


class Looks(Protocol):
    """Where they are looked up: `muniment_client.secrets.SecretStores`."""

    def look(self, reference: str) -> Hidden:
        """The value, to be looked at only. Raises SecretError, without any value."""
        ...


@dataclass(frozen=True)
class References:
    """`base` are the settings that the values are tried with. May wait for a store: not inside a unit of work."""

    stores: Looks
    base: Settings

    def check(self, namespace: str, values: Values) -> None:
        """Raises InvalidDocument as `wrong`, SecretStoreUnavailable."""
        if errors := self.wrong(namespace, values):
            raise invalid_document(errors)

    def wrong(self, namespace: str, values: Values) -> list[FieldError]:
        """Every field whose secret can't be had or used. Raises SecretStoreUnavailable."""
        found: dict[str, Any] = {}
        errors = []
        for name, reference in self._references(namespace, values):
            try:
                found[name] = self.stores.look(reference)
            except MalformedReference:
                continue  # the schema says so, with everything else that is wrong
            except StoreUnavailable as error:
                raise SecretStoreUnavailable(str(error)) from None
            except SecretError as error:
                errors.append(FieldError(f"{FIELD}.{name}", str(error)))
        tried = unusable(namespace, self.base.with_values({namespace: found})) if found else ()
        return errors + [FieldError(f"{FIELD}.{each.field}", each.message) for each in tried if each.field in found]

    def _references(self, namespace: str, values: Values) -> Iterator[tuple[str, str]]:
        for setting in settings_of(self.base, namespace):
            value = values.get(setting.name)
            if setting.reference and isinstance(value, str) and is_reference(value):
                yield setting.name, value
