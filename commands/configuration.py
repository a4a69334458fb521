"""What one can intend with configuration: declaring namespaces, changing documents, and going back to former ones.

What a document becomes is decided inside the handler, on what is there then: patches of different keys at once lose
nothing, and whoever is too late decides anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from domain.configuration import (
    HIDDEN,
    Change,
    DocumentSchema,
    InvalidDocument,
    Namespace,
    NamespaceName,
    NamespaceNotFound,
    NamespaceReserved,
    TooManyNamespaces,
    canonical,
    differences,
    merge_patch,
)
from domain.configuration.document import Values, invalid_document
from domain.errors import FieldError
from domain.ports import Work

Mode = Literal["replace", "merge"]
"""The values are the whole document, or a JSON Merge Patch (RFC 7396) of it."""

NAMESPACES_LIMIT = 1_000
"""Namespaces that customers may declare, unless the setting says otherwise."""

FIELD = "values"
"""Where the document stands in what is sent; paths of what is wrong with it begin here."""


class OwnNamespaces(Protocol):
    """The platform's own namespaces, which come with the software."""

    @property
    def schemas(self) -> Mapping[str, DocumentSchema]:
        """The schema of each by name."""
        ...

    @property
    def file(self) -> Mapping[str, Values]:
        """What the environment says of each; the value of a secret as HIDDEN."""
        ...

    def consent(self, work: Work, name: str, before: Values, after: Values) -> None:
        """Whether who acts here may turn one whole document into another.

        Some values give people what only some may give. Raises Forbidden, InvalidDocument.
        """
        ...


class Past(Protocol):
    """What was stored, for those who go back to it. It never changes, so it may be read outside the unit of work."""

    def document(self, name: str, version: int) -> tuple[dict[str, Any], int]:
        """What a namespace's document was at a version, and the number of its schema. Raises VersionNotFound."""
        ...


@dataclass(frozen=True)
class DeclareNamespace:
    """A namespace of the customers' own has this JSON Schema from now on.

    `values` become its document with it, for a schema that the stored document doesn't fit. `declared` are those that
    there were when it was asked for, of which there may be `limit`: counted before, so that who declares at the same
    moment doesn't wait for another. Several at once may pass it by as many as they are.
    """

    name: NamespaceName
    schema: Mapping[str, Any]
    own: OwnNamespaces
    values: Values | None = None
    reason: str = ""
    declared: int = 0
    limit: int = NAMESPACES_LIMIT


@dataclass(frozen=True)
class WithdrawNamespace:
    """There is no such namespace of the customers' own any more."""

    name: NamespaceName
    own: OwnNamespaces
    reason: str = ""


@dataclass(frozen=True)
class ChangeConfiguration:
    """The document of a namespace becomes this, or is patched by it.

    `unusable` are the fields whose secrets can't be had or used: that was looked up before, since it may take a while.
    """

    name: NamespaceName
    values: Values
    own: OwnNamespaces
    mode: Mode = "replace"
    reason: str = ""
    unusable: Sequence[FieldError] = ()


@dataclass(frozen=True)
class RollbackConfiguration:
    """The document of a namespace becomes what it was at a version; 0: nothing stored. `unusable`: as of a change."""

    name: NamespaceName
    version: int
    own: OwnNamespaces
    past: Past
    reason: str = ""
    unusable: Sequence[FieldError] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """The namespace's version, and whether this made it."""

    version: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Validated:
    """What a change would do: to which version, and where the stored document would be another one."""

    version: int
    changes: list[Change] = field(default_factory=list)


def declare_namespace(work: Work, command: DeclareNamespace) -> Changed:
    """Opens the namespace, or gives it another schema, which its document must fit. The same schema records nothing.

    A namespace whose document was never written may leave open what the schema requires. Raises NamespaceReserved,
    TooManyNamespaces, InvalidSchema, InvalidDocument, Invalid.
    """
    if command.name in command.own.schemas:
        raise NamespaceReserved
    stream = Namespace.id_of(command.name)
    namespace = work.find(Namespace, stream) or work.add(Namespace(str(command.name)))
    if namespace.is_of_software:
        raise NamespaceReserved
    if namespace.schema is None and command.declared >= command.limit:
        raise TooManyNamespaces(f"At most {command.limit:,} may be declared; withdraw one that nobody needs.")
    schema = _declared(namespace, command.schema)
    changed = namespace.declare(dict(command.schema), command.reason)
    if command.values is not None or namespace.is_stored:
        values = namespace.values if command.values is None else command.values
        schema.check(values, path=FIELD)
        before = namespace.values
        changed |= namespace.change(values, namespace.declarations, command.reason, before=before)
    return Changed(namespace.version, changed)


def withdraw_namespace(work: Work, command: WithdrawNamespace) -> None:
    """Its past stays in the log. One that was declared before there was a module of its name can be withdrawn, too.

    Raises NamespaceReserved, NamespaceNotFound, Invalid.
    """
    namespace = work.find(Namespace, Namespace.id_of(command.name))
    if command.name in command.own.schemas and (namespace is None or namespace.schema is None):
        raise NamespaceReserved
    if namespace is None:
        raise NamespaceNotFound
    namespace.withdraw(command.reason)


def change_configuration(work: Work, command: ChangeConfiguration) -> Changed:
    """Stores the document that results, if it is valid and another one than before.

    Raises NamespaceNotFound, InvalidDocument naming every field, NewerDocument, Invalid.
    """
    target = _target(work, command.name, command.own, patched=command.mode == "merge")
    values = target.result(command.values, command.mode)
    target.check(work, values, command.unusable)
    return target.store(work, values, command.reason)


def rollback_configuration(work: Work, command: RollbackConfiguration) -> Changed:
    """Stores a former document once more, if today's schema takes it.

    Raises NamespaceNotFound, VersionNotFound, InvalidDocument naming every field, NewerDocument, Invalid.
    """
    target = _target(work, command.name, command.own)
    former, schema_version = command.past.document(command.name, command.version)
    values = target.schema.upcast(former, schema_version)
    target.check(work, values, command.unusable)
    return target.store(work, values, command.reason, restores=command.version)


def validate_configuration(work: Work, command: ChangeConfiguration) -> Validated:
    """What the change would do, without doing it. Raises as `change_configuration`."""
    target = _target(work, command.name, command.own, patched=command.mode == "merge")
    values = target.result(command.values, command.mode)
    target.check(work, values, command.unusable)
    return Validated(target.version, differences(target.before, values))


@dataclass(frozen=True, slots=True)
class _Target:
    """A namespace in this unit of work; None where nobody has changed it yet."""

    name: NamespaceName
    namespace: Namespace | None
    schema: DocumentSchema
    own: OwnNamespaces
    before: dict[str, Any]

    @property
    def version(self) -> int:
        return self.namespace.version if self.namespace else 0

    @property
    def file(self) -> Values:
        return self.own.file.get(self.name, {})

    @property
    def whole(self) -> dict[str, Any]:
        """What is shown of it now."""
        return self.schema.merged(self.before, self.file)

    def result(self, values: Values, mode: Mode) -> dict[str, Any]:
        """What is to be stored."""
        whole = self.whole
        meant = {key: value for key, value in values.items() if not self._is_as_shown(key, value, whole)}
        return self._patched(meant, whole) if mode == "merge" else meant

    def _patched(self, patch: Values, whole: Values) -> dict[str, Any]:
        """A patch is of what is shown, so an object that is a default is patched as if it were stored."""
        shown = {key: whole[key] for key, value in patch.items() if isinstance(value, Mapping) and key in whole}
        patched: dict[str, Any] = merge_patch({**shown, **self.before}, patch)
        return patched

    def _is_as_shown(self, key: str, value: Any, whole: Values) -> bool:
        """Who sends back all that is shown means no change of what can't be changed here."""
        fixed = key in self.schema.restart_only or whole.get(key) == HIDDEN
        return fixed and key in whole and canonical(value) == canonical(whole[key])

    def check(self, work: Work, values: Values, unusable: Sequence[FieldError]) -> None:
        try:
            after = self.schema.check(values, self.file, FIELD)
        except InvalidDocument as error:
            raise invalid_document([*error.errors, *unusable]) from None
        if unusable:
            raise invalid_document(unusable)
        if self.name in self.own.schemas:
            self.own.consent(work, self.name, self.whole, after)

    def store(self, work: Work, values: Values, reason: str, restores: int | None = None) -> Changed:
        if canonical(values) == canonical(self.before):
            return Changed(self.version, changed=False)
        namespace = self.namespace or work.add(Namespace(str(self.name)))
        number = self.schema.version
        changed = namespace.change(values, number, reason, before=self.before, restores=restores)
        return Changed(namespace.version, changed)


def _target(work: Work, name: NamespaceName, own: OwnNamespaces, *, patched: bool = False) -> _Target:
    """Raises NamespaceNotFound, NewerDocument; InvalidDocument where what can't be read is to be patched."""
    namespace = work.find(Namespace, Namespace.id_of(name))
    schema = own.schemas.get(name)
    if schema is None:
        if namespace is None or namespace.schema is None:
            raise NamespaceNotFound
        schema = DocumentSchema(namespace.schema, namespace.declarations)
    before = _stored(namespace, schema, patched=patched) if namespace else {}
    return _Target(name, namespace, schema, own, before)


def _stored(namespace: Namespace, schema: DocumentSchema, *, patched: bool) -> dict[str, Any]:
    """What is stored, as the schema has it. What can't be brought up can be replaced all the same."""
    try:
        return schema.upcast(namespace.values, namespace.schema_version)
    except InvalidDocument:
        if patched:
            raise
        return dict(namespace.values)


def _declared(namespace: Namespace, json_schema: Mapping[str, Any]) -> DocumentSchema:
    if namespace.schema is not None and canonical(namespace.schema) == canonical(json_schema):
        return DocumentSchema(namespace.schema, namespace.declarations)
    return DocumentSchema.declared(json_schema, namespace.declarations + 1)
