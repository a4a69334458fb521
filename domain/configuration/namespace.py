"""A namespace of configuration: what is stored of its document, and who has changed it why.

The document is the stored overrides alone; what isn't stored has its default (domain/configuration/schema.py).
"""

import re
from typing import Any, Self
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Secret, derived_id
from domain.configuration.document import Values, canonical, unfit_text
from domain.configuration.errors import NamespaceNotFound
from domain.errors import invalid_field

NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")
NAME_LIMIT_CHARS = 100
REASON_LIMIT_CHARS = 1_000


class NamespaceName(str):
    """A namespace's name: lower-case words joined by `-`, `_` or `.`. Raises Invalid, naming `field`."""

    __slots__ = ()

    def __new__(cls, text: str, *, field: str = "name") -> Self:
        if len(text) > NAME_LIMIT_CHARS or not NAME.fullmatch(text):
            raise invalid_field(
                field, f"must be lower-case words joined by -, _ or ., at most {NAME_LIMIT_CHARS} characters"
            )
        return super().__new__(cls, text)


class Namespace(Aggregate):
    """What has been decided about a namespace. The platform's own have a stream once somebody has changed them."""

    TOPIC = "configuration.Namespace"
    NOT_FOUND = NamespaceNotFound

    class Opened(First):
        TOPIC = "configuration.NamespaceOpened"
        name: str

    class Declared(Aggregate.Event):
        """The customers' own: from now on this JSON Schema holds. The first is number 1, the next 2."""

        TOPIC = "configuration.NamespaceDeclared"
        name: str
        schema: dict[str, Any]
        schema_version: int
        reason: str

        def apply(self, aggregate: "Namespace") -> None:
            aggregate.schema, aggregate.declarations = self.schema, self.schema_version

    class Withdrawn(Aggregate.Event):
        """The customers' own: from now on there is no such namespace, and nothing is stored of it."""

        TOPIC = "configuration.NamespaceWithdrawn"
        name: str
        reason: str

        def apply(self, aggregate: "Namespace") -> None:
            aggregate.schema, aggregate.values, aggregate.schema_version = None, {}, 0

    class Changed(Aggregate.Event):
        """The whole stored document. `schema_version` is the number of the schema that it was written for.

        `keys` are those whose stored value is another one than before; `restores` is the version whose document it is
        once more, after a rollback. The values stay in the store: they may say more than everybody on the bus may know.
        """

        TOPIC = "configuration.ConfigurationChanged"
        name: str
        values: Secret[dict[str, Any]]
        schema_version: int
        keys: list[str]
        reason: str
        restores: int | None

        def apply(self, aggregate: "Namespace") -> None:
            aggregate.values, aggregate.schema_version = self.values, self.schema_version

    @staticmethod
    def create_id(name: str, *_: Any, **__: Any) -> UUID:
        """Derived from the name, so that two namespaces can't have the same one."""
        return Namespace.id_of(name)

    @staticmethod
    def id_of(name: str) -> UUID:
        """The one stream of the namespace of this name."""
        return derived_id("configuration", name)

    @event(Opened)
    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[str, Any] = {}
        self.schema_version = 0
        self.schema: dict[str, Any] | None = None
        self.declarations = 0

    @property
    def is_stored(self) -> bool:
        """Whether its document was ever written."""
        return self.schema_version > 0

    @property
    def is_of_software(self) -> bool:
        """Whether something is stored that no schema of the customers' is about: then the name is that of a module
        which whoever asks doesn't have.
        """
        return self.schema is None and bool(self.values)

    def declare(self, schema: dict[str, Any], reason: str = "") -> bool:
        """From now on this is the schema. The same schema again records nothing. Raises Invalid."""
        if self.schema is not None and canonical(schema) == canonical(self.schema):
            return False
        self.trigger_event(
            self.Declared,
            name=self.name,
            schema=schema,
            schema_version=self.declarations + 1,
            reason=checked_reason(reason),
        )
        return True

    def withdraw(self, reason: str = "") -> None:
        """It is no more; declared once more, it begins without a document. Raises NamespaceNotFound, Invalid."""
        if self.schema is None:
            raise NamespaceNotFound
        self.trigger_event(self.Withdrawn, name=self.name, reason=checked_reason(reason))

    def change(
        self, values: Values, schema_version: int, reason: str = "", *, before: Values, restores: int | None = None
    ) -> bool:
        """Stores this document. One that is equal to what was there records nothing. Raises Invalid.

        `before` is what was there, as this schema's number has it.
        """
        keys = changed_keys(before, values)
        if not keys:
            return False
        self.trigger_event(
            self.Changed,
            name=self.name,
            values=dict(values),
            schema_version=schema_version,
            keys=keys,
            reason=checked_reason(reason),
            restores=restores,
        )
        return True


def changed_keys(before: Values, after: Values) -> list[str]:
    """The keys whose value is another one, or in one of the two only."""
    return sorted(
        key
        for key in {*before, *after}
        if key not in before or key not in after or canonical(before[key]) != canonical(after[key])
    )


def checked_reason(reason: str) -> str:
    """Raises Invalid naming the field."""
    reason = reason.strip()
    if len(reason) > REASON_LIMIT_CHARS or unfit_text(reason) is not None:
        raise invalid_field("reason", f"at most {REASON_LIMIT_CHARS} characters that can be stored")
    return reason
