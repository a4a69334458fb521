"""Documents of configuration: what one may hold, how a patch changes it, and how two of them differ.

Paths are those of the fields that are named in errors: `limits.logins[2].window`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from domain.configuration.errors import InvalidDocument
from domain.errors import FieldError, Invalid

Values = Mapping[str, Any]

DOCUMENT_LIMIT_BYTES = 1_000_000
"""As canonical JSON."""
KEYS_LIMIT = 1_000
"""Keys of a document; what is nested in them counts by its size only."""
KEY_LIMIT_CHARS = 200
DEPTH_LIMIT = 20
"""Nested arrays and objects, with the document itself."""
INTEGER_LIMIT = 2**63 - 1
ERRORS_LIMIT = 1_000
"""Fields that one error names."""

_UNFIT_KEY = "has a key that isn't text, or has characters that can't be stored"


class Absent:
    """Stands for a value where there is none, which null isn't."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Change:
    """One place where two documents differ; `ABSENT` where it is in one of them only."""

    field: str
    before: Any
    after: Any


def canonical(value: Any) -> bytes:
    """JSON with the names sorted: equal documents are equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def joined(path: str, key: str | int) -> str:
    """The path of what a key, or an index, leads to."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def invalid_document(errors: Sequence[FieldError], kind: type[Invalid] = InvalidDocument) -> Invalid:
    """An error that names all these fields."""
    named = "; ".join(f"{each.field}: {each.message}" if each.field else each.message for each in errors[:3])
    return kind(named + ("; …" if len(errors) > 3 else ""), errors=errors)


def check_limits(values: Values, path: str = "") -> None:
    """Whether a document can be stored at all, whatever its schema says. Raises InvalidDocument naming every field."""
    errors = list(_unfit_keys(values, path))
    for key, value in values.items():
        errors.extend(unfit(value, joined(path, key), DEPTH_LIMIT - 1))
        if len(errors) >= ERRORS_LIMIT:
            break
    if not errors and (size := len(canonical(values))) > DOCUMENT_LIMIT_BYTES:
        errors = [FieldError(path, f"has {size:,} bytes; at most {DOCUMENT_LIMIT_BYTES:,} are taken")]
    if errors:
        raise invalid_document(errors[:ERRORS_LIMIT])


def _unfit_keys(values: Mapping[Any, Any], path: str) -> Iterator[FieldError]:
    if len(values) > KEYS_LIMIT:
        yield FieldError(path, f"has {len(values):,} keys; at most {KEYS_LIMIT:,} are taken")
    for key in values:
        if not isinstance(key, str) or unfit_text(key) is not None:
            yield FieldError(path, _UNFIT_KEY)
        elif not key or len(key) > KEY_LIMIT_CHARS:
            yield FieldError(path, f"has a key of {len(key):,} characters; 1 to {KEY_LIMIT_CHARS} are taken")


def unfit(value: Any, path: str, depth: int) -> Iterator[FieldError]:
    """What JSON, PostgreSQL or a 64-bit machine can't hold, and what is nested too deeply."""
    if isinstance(value, str):
        if (wrong := unfit_text(value)) is not None:
            yield FieldError(path, wrong)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > INTEGER_LIMIT:
            yield FieldError(path, "is beyond 64 bits")
    elif isinstance(value, float):
        if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN is not itself
            yield FieldError(path, "is no number that JSON has")
    elif isinstance(value, Mapping | list):
        yield from _unfit_items(value, path, depth)
    else:
        yield FieldError(path, "is nothing that JSON has")


def _unfit_items(value: Mapping[Any, Any] | list[Any], path: str, depth: int) -> Iterator[FieldError]:
    if depth <= 0:
        yield FieldError(path, f"is nested too deeply: at most {DEPTH_LIMIT} arrays and objects")
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(value, Mapping) and (not isinstance(key, str) or unfit_text(key) is not None):
            yield FieldError(path, _UNFIT_KEY)
        else:
            yield from unfit(item, joined(path, key), depth - 1)


def unfit_text(text: str) -> str | None:
    """Why a text can't be stored; None if it can."""
    if "\0" in text:
        return "contains a NUL character"
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return "contains half of a surrogate pair"
    return None


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, and where it stands."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(item, joined(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, joined(path, index))


def merge_patch(target: Any, patch: Any) -> Any:
    """The target as the patch says (RFC 7396, section 2): null removes, objects are merged, all else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def differences(before: Any, after: Any, path: str = "") -> list[Change]:
    """Where two documents differ, in the order of the paths. Objects are compared by key, arrays as a whole."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = sorted({*before, *after})
        return [
            change
            for key in keys
            for change in differences(before.get(key, ABSENT), after.get(key, ABSENT), joined(path, key))
        ]
    return [] if _same(before, after) else [Change(path, before, after)]


def _same(before: Any, after: Any) -> bool:
    """Equal, and of the same type: true isn't 1."""
    if isinstance(before, Absent) or isinstance(after, Absent):
        return before is after
    return canonical(before) == canonical(after)
