"""From the platform's document to the value that a service runs with, or the fields that are why it doesn't."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from muniment_client.keeping import Document
from muniment_client.live import FieldError, Refused
from muniment_client.secrets import Hidden, SecretError, SecretStores
from muniment_client.secrets.hidden import SHOWN
from muniment_client.secrets.store import SCHEME

T = TypeVar("T")

ERRORS_LIMIT = 50
FIELD_CHARS = 300
MESSAGE_CHARS = 500
"""What the platform takes of a refusal."""

Source = Literal["platform", "disk"]
Build = Callable[[dict[str, Any]], T]

_MSGSPEC = re.compile(r"(?P<message>.*) - at `\$\.?(?P<field>.*)`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """A whole configuration: `value` is what the service's own `build` made of version `version`.

    `source` is `disk` as long as the platform hasn't been heard since the start.
    """

    namespace: str
    version: int
    value: T
    source: Source


def frozen(values: Any) -> Any:
    """For services without a type of their own: the values as they are, all the way down unchangeable."""
    if isinstance(values, dict):
        return MappingProxyType({name: frozen(value) for name, value in values.items()})
    if isinstance(values, list):
        return tuple(frozen(value) for value in values)
    return values


def understood(namespace: str, data: bytes, id_: str) -> Document:
    """The document that came. Raises ValueError for what is none of this namespace."""
    given = json.loads(data)
    match given:
        case {"namespace": str(name), "version": int(version), "values": dict(values)} if name == namespace:
            return Document(namespace, version, id_, values)
    raise ValueError(f"no document of {namespace}")


class Maker(Generic[T]):
    """Makes snapshots. `secrets` resolves references; without, they stay the text that they are."""

    def __init__(self, build: Build[T], secrets: SecretStores | None) -> None:
        self._build, self._secrets = build, secrets

    def make(self, document: Document, source: Source) -> Snapshot[T]:
        """Raises Refused, whose messages hold no secret's value, whatever the service's own code has put in them."""
        hidden: dict[str, Hidden] = {}
        errors: list[FieldError] = []
        values = self._copied(document.values, "", hidden, errors)
        if errors:
            raise Refused(errors)
        try:
            value = self._build(values)
        except Exception as error:  # noqa: BLE001 - whatever the service's code makes of it: it can't run with this
            found = _without(hidden.values(), fields_of(error))
        else:
            return Snapshot(document.namespace, document.version, value, source)
        raise Refused(found)  # outside of the handler: what was raised there may hold a secret, and isn't its context

    def use(self, document: Document) -> None:
        """The document is in force: of its secrets a rotation is told, of no others."""
        if self._secrets is None:
            return
        named = sorted(references(document.values))
        for each in named:
            try:
                self._secrets.resolve(each)
            except SecretError:  # it was there a moment ago; the store will be asked again
                continue
        self._secrets.keep(named)

    def _copied(self, given: Any, path: str, hidden: dict[str, Hidden], errors: list[FieldError]) -> Any:
        if isinstance(given, dict):
            return {
                name: self._copied(value, f"{path}.{name}" if path else name, hidden, errors)
                for name, value in given.items()
            }
        if isinstance(given, list):
            return [self._copied(value, f"{path}[{n}]", hidden, errors) for n, value in enumerate(given)]
        if self._secrets is None or not isinstance(given, str) or not given.startswith(SCHEME):
            return given
        try:
            hidden[given] = self._secrets.look(given)
        except SecretError as error:
            errors.append(FieldError(path, str(error)))
            return given
        return hidden[given]


def references(given: Any) -> set[str]:
    """Every reference to a secret in a document."""
    if isinstance(given, dict):
        return set().union(*map(references, given.values()))
    if isinstance(given, list):
        return set().union(*map(references, given))
    return {given} if isinstance(given, str) and given.startswith(SCHEME) else set()


def fields_of(error: Exception) -> list[FieldError]:
    """What an error of the service's own says about fields: `Refused`, and what pydantic and msgspec raise."""
    if isinstance(error, Refused):
        return list(error.errors) or [FieldError("", "refused")]
    listed = getattr(error, "errors", None)
    if callable(listed):
        found = _of_pydantic(listed)
        if found:
            return found
    text = str(error) or type(error).__name__
    if (named := _MSGSPEC.fullmatch(text)) is not None:
        return [FieldError(named["field"], named["message"])]
    return [FieldError("", text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}")]


def _of_pydantic(listed: Callable[[], Any]) -> list[FieldError]:
    try:
        return [FieldError(_joined(each["loc"]), str(each["msg"])) for each in listed()]
    except (TypeError, KeyError, AttributeError):
        return []


def _joined(location: Iterable[str | int]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _without(hidden: Iterable[Hidden], errors: list[FieldError]) -> list[FieldError]:
    values = sorted({each.reveal() for each in hidden}, key=len, reverse=True)

    def shown(text: str) -> str:
        for value in values:
            text = text.replace(value, SHOWN)
        return text

    return [FieldError(shown(each.field), shown(each.message)) for each in errors]


def told(errors: Iterable[FieldError]) -> list[Mapping[str, str]]:
    """The errors as they are sent: as many and as long as the platform takes."""
    listed = list(errors)
    if len(listed) > ERRORS_LIMIT:
        more = len(listed) - ERRORS_LIMIT + 1
        listed = [*listed[: ERRORS_LIMIT - 1], FieldError("", f"and {more} more")]
    return [{"field": each.field[:FIELD_CHARS], "message": each.message[:MESSAGE_CHARS]} for each in listed]
