"""Finds the route of a request: fixed paths in one dictionary, the others by their segments."""

import re
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

PARAMETER: Final = re.compile(r"\{(?P<name>[a-z_]+)(?::(?P<kind>uuid|int|str))?\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of a path that varies; `kind` is `uuid`, `int` or `str`."""

    name: str
    kind: str


def parameters(path: str) -> list[Parameter]:
    """The parameters of a path pattern."""
    return [Parameter(m["name"], m["kind"] or _usual_kind(m["name"])) for m in PARAMETER.finditer(path)]


def plain(path: str) -> str:
    """The pattern without the kinds: `/users/{id}`."""
    return PARAMETER.sub(r"{\g<name>}", path)


def _usual_kind(name: str) -> str:
    return "uuid" if name == "id" or name.endswith("_id") else "str"


@dataclass(slots=True)
class _Segment(Generic[T]):
    fixed: "dict[str, _Segment[T]]" = field(default_factory=dict)
    varying: "_Segment[T] | None" = None
    methods: dict[str, T] = field(default_factory=dict)


class Router(Generic[T]):
    """Maps paths to what answers, by method. A fixed segment wins over a varying one."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, T]] = {}
        self._root: _Segment[T] = _Segment()

    def add(self, method: str, path: str, target: T) -> None:
        """Raises ValueError where the same method of the same path is taken."""
        if "{" not in path:
            methods = self._exact.setdefault(path, {})
        else:
            segment = self._root
            for part in path[1:].split("/"):
                segment = self._child(segment, part)
            methods = segment.methods
        if method in methods:
            raise ValueError(f"{method} {path} is declared twice")
        methods[method] = target

    def _child(self, segment: _Segment[T], part: str) -> _Segment[T]:
        if not PARAMETER.fullmatch(part):
            if "{" in part or "}" in part:
                raise ValueError(f"{part}: a parameter is a whole segment of a path")
            return segment.fixed.setdefault(part, _Segment())
        if segment.varying is None:
            segment.varying = _Segment()
        return segment.varying

    def find(self, path: str) -> tuple[dict[str, T], list[str]] | None:
        """The methods of this path, and the values of its parameters; None for an unknown path."""
        methods = self._exact.get(path)
        if methods is not None:
            return methods, []
        values: list[str] = []
        segment = self._walk(self._root, path[1:].split("/"), 0, values) if path[:1] == "/" else None
        return None if segment is None else (segment.methods, values)

    def _walk(self, segment: _Segment[T], parts: list[str], at: int, values: list[str]) -> _Segment[T] | None:
        if at == len(parts):
            return segment if segment.methods else None
        part = parts[at]
        child = segment.fixed.get(part)
        if child is not None:
            found = self._walk(child, parts, at + 1, values)
            if found is not None:
                return found
        if segment.varying is None or not part:
            return None
        values.append(part)
        found = self._walk(segment.varying, parts, at + 1, values)
        if found is None:
            values.pop()
        return found
