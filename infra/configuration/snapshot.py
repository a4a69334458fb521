"""From what is stored to a snapshot: of each namespace its newest document, else the newest one that can be used here.

One document that this process can't use (a newer release wrote it, a rule of this one's refuses it, a secret can't be
had) keeps none of the others away: its namespace stays as it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from domain.configuration import InvalidDocument, NewerDocument
from domain.errors import FieldError
from infra.configuration.heads import Head
from infra.configuration.instances import Acknowledgement, Refused
from infra.configuration.live import NOTHING, Snapshot
from infra.configuration.schemas import file_values, schemas_of, settings_of, typed, unusable
from infra.setting import is_reference
from infra.settings import Settings
from muniment_client.secrets import Hidden, SecretError

_NOT_HAD = Hidden("")
"""In place of a secret that can't be had: false, as no value is."""


class Secrets(Protocol):
    """Where references are resolved: `muniment_client.secrets.SecretStores`."""

    def resolve(self, reference: str) -> Hidden:
        """The value, to be used from now on. Raises SecretError, without any value."""
        ...

    def keep(self, references: Iterable[str]) -> None:
        """Says which are in use."""
        ...


@dataclass(frozen=True, slots=True)
class Document:
    """What is stored of a namespace at a version; version 0: nothing is."""

    namespace: str
    version: int = 0
    position: int = 0
    schema_version: int = 0
    values: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    @classmethod
    def of(cls, head: Head) -> Self:
        """The newest one."""
        return cls(head.namespace, head.version, head.position, head.schema_version, head.document)


Earlier = Callable[[Document], Iterable[Document]]
"""The documents of the same namespace before this one, the newest first."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A document that can be used here: the settings that it gives, and the references to secrets in use with it.

    `missing` are those that can't be resolved at the moment.
    """

    document: Document
    values: Mapping[str, Any]
    references: tuple[str, ...] = ()
    missing: tuple[FieldError, ...] = ()


class Unusable(Exception):
    """This process can't use a document. `errors` name every field; `lacks_secrets`: it is no fault of its own."""

    def __init__(self, errors: Iterable[FieldError], *, lacks_secrets: bool = False) -> None:
        self.errors = tuple(errors)
        self.lacks_secrets = lacks_secrets
        super().__init__("; ".join(f"{each.field}: {each.message}" if each.field else each.message for each in errors))


@dataclass(frozen=True, slots=True)
class Built:
    """A snapshot, the documents that it was made from, and which newest ones it wasn't made from, and why.

    `lacks_secrets`: one couldn't be had; that may be otherwise in a moment.
    """

    snapshot: Snapshot
    taken: Mapping[str, Taken]
    refused: Mapping[str, Refused]
    lacks_secrets: bool = False

    @property
    def acknowledgement(self) -> Acknowledgement:
        """What a process with this snapshot has to say."""
        running = {name: taken.document.version for name, taken in self.taken.items()}
        return Acknowledgement(running, self.refused, self.snapshot.version)

    @property
    def references(self) -> list[str]:
        """The secrets in use."""
        return [reference for taken in self.taken.values() for reference in taken.references]


def _none_earlier(_: Document) -> Iterable[Document]:
    return ()


class Builder:
    """Makes snapshots over the settings that a process was started with."""

    def __init__(self, base: Settings, secrets: Secrets | None = None, earlier: Earlier = _none_earlier) -> None:
        self._base = base
        self._secrets = secrets
        self._earlier = earlier
        self._schemas = schemas_of(base)
        self._file = {name: file_values(base, name) for name in self._schemas}

    def build(self, newest: Mapping[str, Document], last: Built | None = None) -> Built:
        """From the newest documents by namespace; `last` is what was made before, by this process."""
        taken: dict[str, Taken] = {}
        refused: dict[str, Refused] = {}
        lacking = False
        for name in self._schemas:
            document = newest.get(name, Document(name))
            before = last.taken[name] if last else None
            try:
                taken[name] = self._take(document, before)
            except Unusable as unusable_:
                lacking |= unusable_.lacks_secrets
                refused[name] = Refused(document.version, unusable_.errors)
                taken[name] = self._fallen_back(document, before)
            if taken[name].missing and name not in refused:
                refused[name] = Refused(document.version, taken[name].missing)
        if self._secrets is not None:
            self._secrets.keep(reference for each in taken.values() for reference in each.references)
        lacking |= any(each.missing for each in taken.values())
        return Built(self._snapshot(taken), taken, refused, lacking)

    def _snapshot(self, taken: Mapping[str, Taken]) -> Snapshot:
        documents = [each.document for each in taken.values()]
        return Snapshot(
            self._base.with_values({name: each.values for name, each in taken.items()}),
            max(document.position for document in documents),
            {document.namespace: document.version for document in documents},
        )

    def _take(self, document: Document, before: Taken | None) -> Taken:
        """Raises Unusable. What was in use stays so while its secrets can't be had, but without them."""
        same = before is not None and before.document == document
        if same and before is not None and not before.references and not before.missing:
            return before
        return self._taken(document, bears_missing=same or before is None)

    def _fallen_back(self, document: Document, before: Taken | None) -> Taken:
        """The newest former document that will do: what is in use already, or what came after it and was missed.

        At the start any, and in the end none.
        """
        for candidate in self._candidates(document, before):
            in_use = before is None or candidate == before.document
            try:
                return self._taken(candidate, bears_missing=in_use)
            except Unusable:
                continue
        if before:
            return before  # a secret was rotated to what can't be used: the value before it is the last good one
        return self._taken(Document(document.namespace), bears_missing=True)

    def _candidates(self, document: Document, before: Taken | None) -> Iterator[Document]:
        for former in self._earlier(document):
            if before is not None and former.version <= before.document.version:
                break
            yield former
        if before is not None:
            yield before.document

    def _taken(self, document: Document, *, bears_missing: bool) -> Taken:
        """Raises Unusable; for a secret that can't be had only where it doesn't bear that."""
        values = self._values(document)
        references, missing = self._resolve(document.namespace, values)
        if missing and not bears_missing:
            raise Unusable(missing, lacks_secrets=True)
        problems = (
            [] if missing else list(unusable(document.namespace, self._base.with_values({document.namespace: values})))
        )
        if problems:
            raise Unusable(problems)
        return Taken(document, values, tuple(references), tuple(missing))

    def _values(self, document: Document) -> dict[str, Any]:
        """The settings that a document gives, references as they stand there. Raises Unusable."""
        if not document.version:
            return {}
        schema = self._schemas[document.namespace]
        try:
            stored = schema.upcast(document.values, document.schema_version)
            schema.check(stored, self._file[document.namespace])
        except NewerDocument as error:
            raise Unusable([FieldError("", error.message)]) from None
        except InvalidDocument as error:
            raise Unusable(error.errors or [FieldError("", error.message)]) from None
        return typed(self._base, document.namespace, stored)

    def _resolve(self, namespace: str, values: dict[str, Any]) -> tuple[list[str], list[FieldError]]:
        """Puts secrets in the place of their references, wherever these come from. Those used, and those not had."""
        references: list[str] = []
        missing: list[FieldError] = []
        base = self._base.of_namespace(namespace)
        for setting in settings_of(self._base, namespace):
            reference = values.get(setting.name, getattr(base, setting.name))
            if not setting.reference or not is_reference(reference):
                continue
            references.append(reference)
            try:
                values[setting.name] = self._resolved(reference)
            except SecretError as error:
                values[setting.name] = _NOT_HAD
                missing.append(FieldError(setting.name, str(error)))
        return references, missing

    def _resolved(self, reference: str) -> Hidden:
        if self._secrets is None:
            raise SecretError(f"{reference}: this process has no store of secrets")
        return self._secrets.resolve(reference)
