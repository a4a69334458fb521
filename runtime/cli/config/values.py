"""Values as they are typed: `key=value`, or a file with a document."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import click

from domain.configuration import DocumentSchema
from domain.configuration.document import DOCUMENT_LIMIT_BYTES
from runtime.cli.config.text import Unreadable, parsed

FILE_LIMIT_BYTES = 4 * DOCUMENT_LIMIT_BYTES
"""Of a file, which may have comments and blanks."""


def assigned(pairs: Iterable[str], schema: DocumentSchema) -> dict[str, Any]:
    """A patch of `key=value`. Raises UsageError naming the key; it never quotes a value, which may be a secret."""
    patch: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise click.UsageError("values are given as KEY=VALUE")
        *outer, last = _steps(path, schema)
        place = patch
        for step in outer:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise click.UsageError(f"{path}: something else is given for {step}")
        if last in place:
            raise click.UsageError(f"{path} is given twice")
        place[last] = _value(path, text, _said(schema, [*outer, last]))
    return patch


def unset(keys: Iterable[str], schema: DocumentSchema) -> dict[str, Any]:
    """A patch that takes these back to what holds otherwise."""
    return assigned((f"{key}=null" for key in keys), DocumentSchema(_without_types(schema)))


def read_file(file: BinaryIO) -> dict[str, Any]:
    """The document in a file: JSON, with comments as `edit` writes them. Raises UsageError."""
    name = getattr(file, "name", "<stdin>")
    data = file.read(FILE_LIMIT_BYTES + 1)
    if len(data) > FILE_LIMIT_BYTES:
        raise click.UsageError(f"{name}: larger than {FILE_LIMIT_BYTES:,} bytes")
    try:
        return parsed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}: not UTF-8, at byte {error.start}") from None
    except Unreadable as error:
        raise click.UsageError(f"{name}: {error}") from None


def _steps(path: str, schema: DocumentSchema) -> list[str]:
    """`limits.logins` is a key, or leads into the key `limits` where the schema has that."""
    first, dot, rest = path.partition(".")
    if dot and rest and path not in schema.properties and first in schema.properties:
        return [first, *rest.split(".")]
    return [path]


def _said(schema: DocumentSchema, steps: Sequence[str]) -> Mapping[str, Any]:
    """What the schema says of a place, as far as that is plain to see."""
    found: Any = schema.json_schema
    for step in steps:
        found = found.get("properties", {}).get(step, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _value(path: str, text: str, said: Mapping[str, Any]) -> Any:
    """Where the schema says text, the text itself; else JSON, and what isn't JSON is text where the schema lets it."""
    kinds = _kinds(said)
    if "string" in kinds:
        return None if text == "null" and "null" in kinds else text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if kinds:
            raise click.UsageError(f"{path}: JSON is needed here ({' or '.join(sorted(kinds))})") from None
        return text


def _kinds(said: Mapping[str, Any]) -> set[str]:
    kinds = said.get("type", [])
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _without_types(schema: DocumentSchema) -> dict[str, Any]:
    """Only the names, so that null is null everywhere."""
    return {"properties": {key: {} for key in schema.properties}}
