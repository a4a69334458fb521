"""Schemas of documents: JSON Schema 2020-12 with defaults, upcasts of older documents, and rules across fields.

The platform's own namespaces and the customers' have the same mechanism; the platform's come from code, the customers'
by an event. Annotations that mean something here: `default`, `x-unit`, `x-restart` (true: takes effect at a restart
only), `x-variable` (the environment variable that sets it) and `x-secret` (true: must be a reference to a secret).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from domain.configuration.document import (
    ERRORS_LIMIT,
    Values,
    check_limits,
    invalid_document,
    strings,
)
from domain.configuration.errors import InvalidDocument, NewerDocument
from domain.configuration.reference import looks_like_reference
from domain.errors import FieldError

_KEY: Final = re.compile(r"[.\[]")

if TYPE_CHECKING:
    from domain.configuration.dialect import Dialect

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""Brings a stored document of schema number n (its key in `upcasts`) to n + 1."""

Rule = Callable[[Values], Iterable[FieldError]]
"""What must hold across the fields of a whole document: yields what doesn't."""

Source = Literal["default", "file", "stored"]
"""Where a value of the whole document comes from, the weakest first; `file` is the process's environment."""

HIDDEN: Final = "(hidden)"
"""Stands in the layer `file` for a secret's value, which nobody is told."""


@dataclass(frozen=True, eq=False)
class DocumentSchema:
    """What a document may hold. `version` is the schema's number; stored documents carry that of theirs.

    A process that meets a lower number brings the document up by `upcasts`; one that meets a higher number refuses it
    (NewerDocument). Making one checks nothing: `declared` does, for schemas that somebody sends.
    """

    json_schema: Mapping[str, Any]
    version: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)
    rules: Sequence[Rule] = ()

    @classmethod
    def declared(cls, json_schema: Mapping[str, Any], version: int = 1) -> Self:
        """A schema that somebody sends. Raises InvalidSchema naming everything that is wrong with it."""
        from domain.configuration.declaring import check_schema  # noqa: PLC0415 - as below

        check_schema(json_schema)
        schema = cls(json_schema, version)
        schema.check_defaults()
        return schema

    @cached_property
    def _dialect(self) -> "Dialect":
        # who applies no schema needn't wait for what does: its libraries take longer to load than most commands do
        from domain.configuration.dialect import Dialect  # noqa: PLC0415

        return Dialect(self.json_schema)

    @cached_property
    def properties(self) -> Mapping[str, Mapping[str, Any]]:
        """What is said about each key by name."""
        named = self.json_schema.get("properties", {})
        return {key: said if isinstance(said, Mapping) else {} for key, said in named.items()}

    @cached_property
    def restart_only(self) -> Mapping[str, str]:
        """The keys that nobody can store, since a variable sets them when a process starts; each with its variable.

        Without a variable, `x-restart` is for the reader.
        """
        return {
            key: str(said["x-variable"])
            for key, said in self.properties.items()
            if said.get("x-restart") is True and said.get("x-variable")
        }

    def is_secret(self, key: str) -> bool:
        """Whether the key's value is a secret, so that only a reference may be stored."""
        return self.properties.get(key, {}).get("x-secret") is True

    def defaults(self) -> dict[str, Any]:
        """The document where nothing is stored."""
        return self._dialect.defaults()

    def check_defaults(self) -> None:
        """Raises InvalidSchema naming each default that the schema itself refuses."""
        self._dialect.check_defaults()

    def merged(self, stored: Values, file: Values | None = None) -> dict[str, Any]:
        """The whole document: defaults, over these what the process's environment says, over these what is stored."""
        return self._dialect.filled({**(file or {}), **stored})

    def sources(self, stored: Values, file: Values | None = None) -> dict[str, Source]:
        """Where each value of the whole document comes from."""
        return {
            key: "stored" if key in stored else "file" if key in (file or {}) else "default"
            for key in self.merged(stored, file)
        }

    def check(self, stored: Values, file: Values | None = None, path: str = "") -> dict[str, Any]:
        """The whole document. Raises InvalidDocument naming every field that is wrong, each below `path`.

        `file` is what the process's environment says; the values of secrets aren't needed (HIDDEN).
        """
        check_limits(stored, path)
        given = {key: value for key, value in (file or {}).items() if value != HIDDEN}
        whole = self.merged(stored, given)
        errors = [*self._restart_only_in(stored), *self._dialect.errors(whole), *self._misplaced(stored)]
        errors += self._against_rules(whole, errors)
        if errors:
            unique = dict.fromkeys(FieldError(_below(path, each.field), each.message) for each in errors)
            raise invalid_document(list(unique)[:ERRORS_LIMIT])
        return whole

    def upcast(self, values: Values, schema_version: int) -> dict[str, Any]:
        """A stored document as this schema's number has it. Raises NewerDocument, InvalidDocument.

        Number 0 is that of a document that was never written.
        """
        if schema_version > self.version:
            raise NewerDocument(
                f"this document was written for schema {schema_version}; this process knows {self.version}"
            )
        found = dict(values)
        for number in range(max(schema_version, 1), self.version):
            if number in self.upcasts:
                found = self._upcast(number, found)
        return found

    def _upcast(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.upcasts[number](values)
        except Exception as error:  # noqa: BLE001 - an upcast may fail in any way; what it was given isn't told
            message = f"can't be brought from schema {number} to {number + 1}: {type(error).__name__}"
            raise InvalidDocument(message, errors=[FieldError("", message)]) from None

    def _restart_only_in(self, stored: Values) -> Iterator[FieldError]:
        for key, variable in self.restart_only.items():
            if key in stored:
                how = f"set {variable} and start the processes anew"
                yield FieldError(key, f"takes effect at a restart only: {how}")

    def _against_rules(self, whole: Values, errors: Sequence[FieldError]) -> list[FieldError]:
        """What the rules say, but for those that look at what is wrong already."""
        wrong = {_KEY.split(error.field, maxsplit=1)[0] for error in errors}
        if "" in wrong:
            return []
        usable = {**whole, **{key: value for key, value in self.defaults().items() if key in wrong}}
        found: list[FieldError] = []
        for rule in self.rules:
            seen = _Seen(usable)
            said = _said(rule, seen)
            if not seen.keys_seen & wrong:
                found += said
        return found

    def _misplaced(self, stored: Values) -> Iterator[FieldError]:
        """References where no secret is meant: nobody would resolve them."""
        meant = {path for path, _ in self._dialect.secrets(stored)}
        for path, text in strings(stored):
            if looks_like_reference(text) and path not in meant:
                yield FieldError(path, "isn't declared as a secret (x-secret), so that a reference isn't resolved here")


def _said(rule: Rule, values: Values) -> list[FieldError]:
    """What a rule says; a rule that fails takes nothing, and what it was given isn't told."""
    try:
        return list(rule(values))
    except Exception as error:  # noqa: BLE001 - a rule may be anybody's
        return [FieldError("", f"a rule of this namespace fails with {type(error).__name__}")]


class _Seen(dict[str, Any]):
    """A document that knows what was asked for."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.keys_seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As a dictionary's."""
        self.keys_seen.add(key)
        return super().get(key, default)


def _below(path: str, field: str) -> str:
    if not path or not field:
        return path or field
    return f"{path}{field}" if field.startswith("[") else f"{path}.{field}"
