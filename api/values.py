"""JSON bodies, query strings and path values to typed values, or to the list of everything that is wrong with them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
import orjson

from api.limits import MAX_NAMED_ERRORS, MAX_PATH_VALUE_CHARS
from api.problems import Malformed, MalformedJson
from api.router import Parameter
from domain.errors import FieldError, Invalid, invalid_field

_LARGEST: Final = 2**63 - 1
_KEY: Final = re.compile(rb'"\s*:')
_MANY_DIGITS: Final = re.compile(rb"\d{19}")
_AT: Final = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_LARGEST_FIELDS: Final = 100


class Empty(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a route that needs none."""


class JsonBody:
    """Decodes the bodies of one route."""

    def __init__(self, kind: Any, depth: int) -> None:
        self.kind = kind
        self.depth = depth
        self._decode = msgspec.json.Decoder(kind).decode
        self._names, self._holds, self._integers = _shape(kind)
        self._empty_will_do = _all_optional(kind)

    def read(self, body: bytes, depth: int | None = None) -> Any:
        """The typed body. Raises MalformedJson, Malformed (not UTF-8), Invalid naming the fields.

        `depth` is how far arrays and objects may be nested, if not as always.
        """
        depth = depth or self.depth
        if not body and self._empty_will_do:
            body = b"{}"
        try:
            value = self._decode(body)
        except msgspec.ValidationError as error:
            raise self._invalid(body, error, depth) from None
        except msgspec.DecodeError as error:
            raise MalformedJson(f"The body is not JSON: {error}" if body else "The body is missing.") from None
        except UnicodeDecodeError:
            raise Malformed("The body is not UTF-8.") from None
        except RecursionError:
            raise Invalid("The body is nested too deeply.") from None
        if self._suspicious(body):
            check(body, depth)
        return value

    def _suspicious(self, body: bytes) -> bool:
        """Whether a full look is needed for what the decoder lets pass. A false alarm costs only time."""
        if self._holds == "anything" or b"\\u" in body:
            return True
        if self._integers and _MANY_DIGITS.search(body):
            return True
        if self._holds == "structs":
            return _keys(orjson.loads(body)) != len(_KEY.findall(body))
        return any(body.count(name) > 1 for name in self._names)

    def _invalid(self, body: bytes, first: msgspec.ValidationError, depth: int) -> Invalid:
        try:
            check(body, depth)
            errors = errors_in(msgspec.json.decode(body), self.kind)
        except (msgspec.MsgspecError, RecursionError):
            errors = []
        except Invalid as error:
            return error
        return invalid(errors or [_field_error("", first)])


def invalid(errors: Sequence[FieldError]) -> Invalid:
    """An error that names all these fields."""
    named = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors[:3])
    return Invalid(named + ("; …" if len(errors) > 3 else ""), errors=errors)


def check(body: bytes, depth: int) -> None:
    """Refuses what JSON decoders let pass but nothing behind us can take. Raises Invalid, Malformed.

    Duplicate names (RFC 8259, section 4: behaviour is unpredictable), NUL characters (PostgreSQL's text has none),
    integers beyond 64 bits, deep nesting.
    """
    try:
        value = json.loads(
            body, object_pairs_hook=_without_duplicates, parse_int=_integer_of, parse_constant=_no_constant
        )
    except RecursionError:
        raise Invalid("The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except ValueError as error:
        raise MalformedJson(f"The body is not JSON: {error}") from None
    for problem in _unfit(value, "", depth):
        raise invalid([problem])


def _integer_of(digits: str) -> int:
    """Python refuses to read thousands of digits; one beyond 64 bits is as good, and can be named."""
    return int(digits) if len(digits) < 30 else 2 * _LARGEST


def _no_constant(name: str) -> Any:
    raise MalformedJson(f"The body is not JSON: {name}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid_field(twice, "is given twice")
    return found


def _unfit(value: Any, path: str, depth: int) -> Iterator[FieldError]:
    if isinstance(value, str):
        if "\0" in value:
            yield FieldError(path, "contains a NUL character")
        elif not value.isascii() and _unfit_text(value):
            yield FieldError(path, "contains half of a surrogate pair")
    elif isinstance(value, int):
        if abs(value) > _LARGEST:
            yield FieldError(path, "is beyond 64 bits")
    elif isinstance(value, list | dict):
        if depth == 0:
            yield FieldError(path, "is nested too deeply")
            return
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                yield from _unfit(key, path, depth)
            yield from _unfit(item, _join(path, key), depth - 1)


def _unfit_text(value: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in value)


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def errors_in(value: Any, kind: Any, path: str = "", *, strict: bool = True) -> list[FieldError]:
    """Everything that is wrong with a decoded value, where the decoder stops at the first."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    inner: list[FieldError] = []
    if _is_struct(bare) and isinstance(value, dict):
        inner = _errors_in_fields(value, bare, path, strict=strict)
    elif get_origin(bare) is list and isinstance(value, list):
        (item,) = get_args(bare)
        for n, element in enumerate(value):
            inner += errors_in(element, item, _join(path, n), strict=strict)
            if len(inner) >= MAX_NAMED_ERRORS:
                break
    elif get_origin(bare) in (Union, UnionType) and isinstance(value, dict | list):
        options = [option for option in get_args(bare) if option is not NoneType]
        inner = errors_in(value, options[0], path, strict=strict) if len(options) == 1 else []
    return inner or _error_in(value, kind, path, strict=strict)


def _error_in(value: Any, kind: Any, path: str, *, strict: bool) -> list[FieldError]:
    try:
        msgspec.convert(value, kind, strict=strict, str_keys=True)
    except msgspec.ValidationError as error:
        return [_field_error(path, error)]
    return []


def _errors_in_fields(value: dict[str, Any], kind: Any, path: str, *, strict: bool) -> list[FieldError]:
    errors = []
    known = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for name, f in known.items():
        if name in value:
            errors += errors_in(value[name], f.type, _join(path, name), strict=strict)
        elif f.required:
            errors.append(FieldError(_join(path, name), "is missing"))
    if kind.__struct_config__.forbid_unknown_fields:
        errors += [FieldError(_join(path, name), "is unknown") for name in value if name not in known]
    return errors


def _field_error(path: str, error: msgspec.ValidationError) -> FieldError:
    """The decoder's message with its JSON path, as a field and what is wrong with it."""
    message = str(error)
    at = _AT.search(message)
    if at is not None:
        message = message[: at.start()]
        rest = at["path"].partition("$")[2]
        path = path + rest if path else rest.removeprefix(".")
    for pattern, text in ((_MISSING, "is missing"), (_UNKNOWN, "is unknown")):
        named = pattern.fullmatch(message)
        if named is not None:
            return FieldError(_join(path, named["field"]), text)
    return FieldError(path, message[:1].lower() + message[1:])


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag is None


def _all_optional(kind: Any) -> bool:
    return _is_struct(kind) and not any(f.required for f in msgspec.structs.fields(kind))


def _shape(kind: Any) -> tuple[list[bytes], Literal["scalars", "structs", "anything"], bool]:
    """A body's field names as they are written, what its fields can hold, and whether any holds an integer."""
    if not _is_struct(kind):
        return [], "anything", True
    names = [b'"%s"' % f.encode_name.encode() for f in msgspec.structs.fields(kind)]
    leaves = [leaf for f in msgspec.structs.fields(kind) for leaf in _leaves(f.type)]
    if all(leaf in _SCALARS for leaf in leaves):
        return names, "scalars", int in leaves
    inner = [_shape(leaf) for leaf in leaves if leaf not in _SCALARS]
    closed = all(holds != "anything" for _, holds, _ in inner)
    return names, "structs" if closed else "anything", int in leaves or any(integers for *_, integers in inner)


def _keys(value: Any) -> int:
    """The names in all objects. As many stand in the text before colons, unless one is given twice."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(v) for v in value.values() if type(v) in (dict, list))
    return sum(map(_keys, value)) if isinstance(value, list) else 0


def _leaves(kind: Any) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _leaves(get_args(kind)[0])
    elif origin in (Union, UnionType, list):
        for arg in get_args(kind):
            yield from _leaves(arg)
    else:
        yield str if str(origin) == "typing.Literal" else kind


_SCALARS: Final = frozenset((str, int, float, bool, NoneType, UUID, datetime, date, msgspec.UnsetType))


class QueryString:
    """Decodes the query strings of one route."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self._lists = (
            frozenset()
            if kind is None
            else frozenset(
                f.encode_name
                for f in msgspec.structs.fields(kind)
                if any(get_origin(k) is list for k in _unwrapped(f.type))
            )
        )

    def read(self, text: bytes) -> Any:
        """The typed parameters. Raises Malformed for bad escapes, Invalid naming the parameters."""
        given = self._given(text) if text else {}
        if self.kind is None:
            if given:
                raise invalid([FieldError(name, "is unknown") for name in given])
            return None
        try:
            found = msgspec.convert(given, self.kind, strict=False, str_keys=True)
        except msgspec.ValidationError as error:
            raise invalid(errors_in(given, self.kind, strict=False) or [_field_error("", error)]) from None
        if given:
            self._check(given, found, text)
        return found

    def _check(self, given: Mapping[str, Any], found: Any, text: bytes) -> None:
        """What the lax conversion lets pass: `null` for a number, integers beyond 64 bits."""
        values = {f.encode_name: getattr(found, f.name) for f in msgspec.structs.fields(self.kind)}
        for name in given:
            if values[name] is None:
                raise invalid_field(name, "null can't be said here; leave it out")
        if _MANY_DIGITS.search(text):
            for problem in _unfit(values, "", 2):
                raise invalid([problem])

    def _given(self, text: bytes) -> dict[str, Any]:
        try:
            pairs = parse_qsl(
                text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_LARGEST_FIELDS
            )
        except UnicodeError:
            raise Malformed("The query string is not percent-encoded UTF-8.") from None
        except ValueError:
            raise Malformed(f"The query string has more than {_LARGEST_FIELDS} parameters.") from None
        given: dict[str, Any] = {}
        for name, value in pairs:
            if "\0" in name or "\0" in value:
                raise invalid_field(name.replace("\0", "\\0"), "contains a NUL character")
            if name in self._lists:
                given.setdefault(name, []).append(value)
            elif name in given:
                raise invalid_field(name, "is given twice")
            else:
                given[name] = value
        return given


def _unwrapped(kind: Any) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _unwrapped(get_args(kind)[0])
    elif origin in (Union, UnionType):
        for arg in get_args(kind):
            yield from _unwrapped(arg)
    else:
        yield kind


def path_values(parameters: Sequence[Parameter], values: Sequence[str]) -> Mapping[str, Any]:
    """The typed values of a path's parameters. Raises Invalid naming the first that is none."""
    return {p.name: _CONVERTERS[p.kind](p.name, value) for p, value in zip(parameters, values, strict=True)}


def _uuid(name: str, value: str) -> UUID:
    if not _UUID.fullmatch(value):
        raise invalid_field(name, "an id is needed, such as 0192aab4-5a5c-7c3e-9d3a-2f0a7c1b9e11")
    return UUID(value)


def _integer(name: str, value: str) -> int:
    if not _INTEGER.fullmatch(value) or abs(int(value)) > _LARGEST:
        raise invalid_field(name, "an integer of at most 64 bits is needed")
    return int(value)


def _text(name: str, value: str) -> str:
    if "\0" in value:
        raise invalid_field(name, "contains a NUL character")
    if not value.isascii() and _unfit_text(value):
        raise invalid_field(name, "is not UTF-8")
    if len(value) > MAX_PATH_VALUE_CHARS:
        raise invalid_field(name, f"is longer than {MAX_PATH_VALUE_CHARS} characters")
    return value


_CONVERTERS: Final[dict[str, Callable[[str, str], Any]]] = {"uuid": _uuid, "int": _integer, "str": _text}
