"""Fills commands and calls queries by name, worked out once when the application is made."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from api.router import parameters
from api.routing import Asked, Command, Query, Within

Source = Callable[[Asked], Any]


class BindingError(TypeError):
    """A route and its function don't fit together."""


def bind_command(route: Command) -> Callable[[Asked], Any]:
    """What makes the command (or what `prepare` takes) of a request. Raises BindingError at start, not at a request."""
    if route.command is not None:
        return route.command
    function, at = (route.prepare, 1) if route.prepare is not None else (route.handler, 1)
    wanted = _annotation(function, at)
    if wanted is Asked:
        return lambda asked: asked
    if wanted is route.body and wanted is not None:
        return lambda asked: asked.body
    if not dataclasses.is_dataclass(wanted) or not isinstance(wanted, type):
        raise BindingError(f"{_called(route)}: annotate the second parameter of {_name(function)} with a dataclass")
    sources = _sources(route.path, route.body, route.params)
    fields = {f.name: sources.get(f.name) for f in dataclasses.fields(wanted) if f.init}
    missing = [f.name for f in dataclasses.fields(wanted) if f.init and fields[f.name] is None and _required(f)]
    if missing:
        raise BindingError(f"{_called(route)}: nothing fills {wanted.__name__}.{', '.join(missing)}")
    filled = [(name, source) for name, source in fields.items() if source is not None]
    return lambda asked: wanted(**{name: source(asked) for name, source in filled})


def result_type(handler: Callable[..., Any]) -> Any:
    """What a handler says that it returns."""
    hints = get_type_hints(handler)
    return hints.get("return", Any)


def bind_query(route: Query) -> Callable[[Asked], dict[str, Any]]:
    """The keyword arguments of a query for a request. Raises BindingError at start."""
    sources = _sources(route.path, None, route.params)
    sources |= {"asked": lambda asked: asked, "caller": lambda asked: asked.caller}
    if route.page is not None:
        sources |= {"after": lambda _: None, "limit": lambda _: None}
    taken = []
    for parameter in list(inspect.signature(route.query).parameters.values())[1:]:
        if parameter.name in sources:
            taken.append((parameter.name, sources[parameter.name]))
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise BindingError(f"{_called(route)}: nothing fills {parameter.name} of {_name(route.query)}")
    if route.page is not None and not {"after", "limit"} <= {name for name, _ in taken}:
        raise BindingError(f"{_called(route)}: a paged query takes `after` and `limit`")
    return lambda asked: {name: source(asked) for name, source in taken}


def check_scope(route: Query) -> None:
    """Raises BindingError where nothing says at which scope the permission is needed."""
    if isinstance(route.permission, Within) != (route.scope_of is not None):
        raise BindingError(f"{_called(route)}: the permission `Within` and `scope_of` go together")


def _sources(path: str, body: Any, params: Any) -> dict[str, Source]:
    """By name: what path, body and params can fill. The path wins."""
    sources: dict[str, Source] = {}
    for kind, where in ((params, "params"), (body, "body")):
        if kind is not None:
            sources |= {f.name: _attribute(where, f.name) for f in msgspec.structs.fields(kind)}
    return sources | {p.name: _path_value(p.name) for p in parameters(path)}


def _attribute(where: str, name: str) -> Source:
    return lambda asked: getattr(getattr(asked, where), name)


def _path_value(name: str) -> Source:
    return lambda asked: asked.path[name]


def _annotation(function: Callable[..., Any], at: int) -> Any:
    names = list(inspect.signature(function).parameters)
    if len(names) <= at:
        raise BindingError(f"{_name(function)} takes too few parameters")
    return get_type_hints(function).get(names[at])


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _called(route: Command | Query) -> str:
    return f"{route.method} {route.path}"


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))
