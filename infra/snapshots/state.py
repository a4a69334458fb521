"""An aggregate's state as bytes (MessagePack) and back, exactly as it was; what wouldn't come back so isn't written.

Nothing is run to read it, unlike with pickle: types are looked up among those that this process has loaded, and their
fields are set.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any
from uuid import UUID

import msgspec

from domain.aggregate import Aggregate

PENDING = "_pending_events"
_BASE = frozenset({"_id", "_version", "_created_on", "_modified_on"})
_AS_THEY_ARE = frozenset({type(None), bool, int, float, str, bytes})
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Unfit(Exception):
    """The state of this aggregate wouldn't come back as it is. The message names what in it."""


class Unreadable(Exception):
    """These bytes aren't a state that was written here."""


def written(aggregate: Aggregate, packages: Iterable[str]) -> bytes:
    """The state of an aggregate without pending events. Types must belong to these packages. Raises Unfit."""
    state = dict(vars(aggregate))
    if state.pop(PENDING):
        raise Unfit("there are events that aren't saved yet")
    try:
        return _encode(_Writer(frozenset(packages)).fields(state))
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise Unfit(str(error)) from error


def read(kind: type[Aggregate], data: bytes) -> Aggregate:
    """The aggregate of a state. Raises Unreadable."""
    try:
        state = {name: _read(value) for name, value in _decode(data).items()}
        if not state.keys() >= _BASE:
            raise Unreadable("it has no id, or no version")  # noqa: TRY301
        aggregate = object.__new__(kind)
        vars(aggregate).update(state, **{PENDING: []})
    except Exception as error:  # bytes that somebody else has written may fail in any way
        raise Unreadable(str(error)) from error
    return aggregate


class _Writer:
    """Whatever is more than a plain value becomes `[tag, content]`."""

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages = packages
        self._mutable: set[int] = set()

    def fields(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values by name."""
        return {name: self.value(value) for name, value in values.items()}

    def value(self, value: Any) -> Any:
        """One value. Raises Unfit."""
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return value
        if kind in _SCALARS:
            tag, write = _SCALARS[kind]
            return [tag, write(value)]
        if kind in {list, dict, set} or not _is_frozen(kind):
            self._refuse_shared(value)
        if kind is dict:
            return ["dict", [[self.value(key), self.value(each)] for key, each in value.items()]]
        if kind in {list, tuple}:
            return [kind.__name__, [self.value(each) for each in value]]
        if kind in {set, frozenset}:
            return [kind.__name__, sorted((self.value(each) for each in value), key=_encode)]
        return self._of_a_type(value)

    def _of_a_type(self, value: Any) -> Any:
        kind = type(value)
        path = self._path(kind)
        if isinstance(value, Enum):
            if value.name not in kind.__members__ or kind[value.name] is not value:
                raise Unfit(f"{value!r} has no name of its own")
            return ["enum", [path, value.name]]
        if isinstance(value, msgspec.Struct):
            return ["struct", [path, self.fields(msgspec.structs.asdict(value))]]
        if dataclasses.is_dataclass(value):
            names = {field.name for field in dataclasses.fields(value)}
            more = getattr(value, "__dict__", {}).keys() - names
            if not all(isinstance(getattr(kind, name, None), cached_property) for name in more):
                raise Unfit(f"a {path} has more than its fields")
            return ["record", [path, self.fields({name: getattr(value, name) for name in sorted(names)})]]
        raise Unfit(f"a {path} has no form of its own")

    def _path(self, kind: type[Any]) -> str:
        path = f"{kind.__module__}:{kind.__qualname__}"
        try:
            known = _resolved(path)
        except (AttributeError, KeyError):
            known = None
        if known is not kind or kind.__module__.partition(".")[0] not in self._packages:
            raise Unfit(f"a {path} isn't of the aggregate's own packages")
        return path

    def _refuse_shared(self, value: Any) -> None:
        """Two names for one list would come back as two lists."""
        if id(value) in self._mutable:
            raise Unfit(f"a {type(value).__name__} stands there twice")
        self._mutable.add(id(value))


def _is_frozen(kind: type[Any]) -> bool:
    if issubclass(kind, tuple | frozenset | Enum):
        return True
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_config__.frozen
    parameters = getattr(kind, "__dataclass_params__", None)
    return bool(parameters and parameters.frozen)


def _read(value: Any) -> Any:
    if type(value) in _AS_THEY_ARE:
        return value
    tag, content = value
    return _READERS[tag](content)


def _read_dict(pairs: Any) -> dict[Any, Any]:
    return {_read(key): _read(each) for key, each in pairs}


def _read_fields(fields: Any) -> dict[str, Any]:
    return {name: _read(each) for name, each in fields.items()}


def _read_enum(content: Any) -> Any:
    path, name = content
    return _checked(path, Enum)[name]


def _read_struct(content: Any) -> Any:
    path, fields = content
    return _checked(path, msgspec.Struct)(**_read_fields(fields))


def _read_record(content: Any) -> Any:
    path, fields = content
    kind = _resolved(path)
    if {field.name for field in dataclasses.fields(kind)} != fields.keys():
        raise Unreadable(f"{path} has other fields")
    record = object.__new__(kind)
    for name, each in _read_fields(fields).items():
        object.__setattr__(record, name, each)
    return record


def _resolved(path: str) -> Any:
    """The type of this name, where its module is loaded. Raises KeyError, AttributeError."""
    module, _, name = path.partition(":")
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _checked(path: str, base: type[Any]) -> Any:
    kind = _resolved(path)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise Unreadable(f"{path} isn't a {base.__name__}")
    return kind


def _write_time(time: datetime) -> str:
    # The rules of a place's clock don't come back from an offset.
    if type(time.tzinfo) not in {timezone, type(None)} or (time.fold and time.tzinfo is None):
        raise Unfit(f"{time!r} is of a time zone with rules")
    return time.isoformat()


_SCALARS: dict[type[Any], tuple[str, Callable[[Any], Any]]] = {
    UUID: ("id", lambda value: value.bytes),
    datetime: ("time", _write_time),
    date: ("date", date.isoformat),
    timedelta: ("span", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("decimal", str),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "id": lambda content: UUID(bytes=content),
    "time": datetime.fromisoformat,
    "date": date.fromisoformat,
    "span": lambda content: timedelta(*content),
    "decimal": Decimal,
    "list": lambda content: [_read(each) for each in content],
    "tuple": lambda content: tuple(_read(each) for each in content),
    "set": lambda content: {_read(each) for each in content},
    "frozenset": lambda content: frozenset(_read(each) for each in content),
    "dict": _read_dict,
    "enum": _read_enum,
    "struct": _read_struct,
    "record": _read_record,
}
