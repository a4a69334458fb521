"""The OpenAPI 3.1 document, made from the same types that validate."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_type_hints

import msgspec

from api import problems
from api.limits import HttpLimits
from api.problems import Problem
from api.router import parameters, plain
from api.routing import OPEN, SELF, Answer, Asked, Command, Endpoint, Own, Query, Route, Self, Within, waits_for
from domain.errors import (
    Conflict,
    DomainError,
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PositionUnknown,
    ProjectionBehind,
    Stale,
    Unauthenticated,
    Unavailable,
)
from infra.receipts import KeyInFlight, KeyReused

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_PATH_SCHEMAS: Final[dict[str, Json]] = {
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": -(2**63) + 1, "maximum": 2**63 - 1},
    "str": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^/\\u0000]+$"},
}
_POSITION: Final[Json] = {
    "description": "The log position that the answer reflects.",
    "schema": {"type": "integer", "minimum": 0},
}


class OpenApi:
    """Makes the document of a table of routes."""

    def __init__(self, routes: Sequence[Route], limits: HttpLimits, version: str) -> None:
        self.routes, self.limits, self.version = routes, limits, version
        schemas, self._components = msgspec.json.schema_components(list(self._types()), ref_template=_REF)
        self._schemas = dict(zip(map(_key, self._types()), schemas, strict=True))
        self._names: set[str] = set()

    def _types(self) -> Iterator[Any]:
        yield Problem
        for route in self.routes:
            yield from (kind for kind in (*_inputs(route), _output(route)) if kind is not None)

    def document(self) -> Json:
        """The whole document. Raises ValueError for two operations of one name."""
        paths: dict[str, Json] = {}
        for route in self.routes:
            paths.setdefault(plain(route.path), {})[route.method.lower()] = self._operation(route)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Muniment",
                "version": self.version,
                "description": "Identity, access and audit on one log of facts. Errors are RFC 9457 problems.",
            },
            "paths": paths,
            "components": {
                "schemas": self._components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            },
        }

    def _operation(self, route: Route) -> Json:
        name, text = operation_name(route), _text(route)
        if name in self._names:
            raise ValueError(f"{route.method} {route.path}: the operation {name} exists already; give the route a name")
        self._names.add(name)
        operation: Json = {
            "operationId": name,
            "summary": route.summary or name.replace("_", " ").capitalize(),
            "description": "\n\n".join(part for part in (text, _permission_text(route)) if part),
            "tags": [route.tag or _tag(route.path)],
            "security": [] if route.permission is OPEN else [{"token": []}],
            "x-permission": repr(route.permission) if not isinstance(route.permission, str) else route.permission,
            "responses": self._responses(route),
        }
        taken = [*self._path_parameters(route), *self._query_parameters(route), *_header_parameters(route)]
        if taken:
            operation["parameters"] = taken
        if isinstance(route, Command | Endpoint) and route.body is not None:
            optional = not any(f.required for f in msgspec.structs.fields(route.body))
            schema = self._schemas[_key(route.body)]
            operation["requestBody"] = {"required": not optional, "content": {"application/json": {"schema": schema}}}
        return operation

    def _path_parameters(self, route: Route) -> Iterator[Json]:
        for p in parameters(route.path):
            yield {"name": p.name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[p.kind]}

    def _query_parameters(self, route: Route) -> Iterator[Json]:
        if route.params is None:
            return
        schema = self._components[self._schemas[_key(route.params)]["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items():
            field = _queried(field)  # noqa: PLW2901 - null can't be said in a query string
            if name == "limit" and isinstance(route, Query) and route.page is not None:
                field |= {"maximum": self.limits.page_limit, "default": self.limits.page_size}
            parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", ())}
            if "description" in field:
                parameter["description"] = field.pop("description")
            yield {**parameter, "schema": field}

    def _responses(self, route: Route) -> Json:
        found: dict[str, Json] = {}
        for status in _statuses(route):
            found[str(status)] = self._success(route, status)
        for status, kinds in sorted(_failures(route).items()):
            if str(status) not in found:
                lines = [f"`{kind.code}`: {_first_line(kind)}" for kind in kinds]
                found[str(status)] = {"description": "\n\n".join(lines), "content": _PROBLEM}
        return found

    def _success(self, route: Route, status: int) -> Json:
        headers: Json = {"Muniment-Position": _POSITION}
        if (isinstance(route, Command) and _has_tag(route)) or (isinstance(route, Query) and route.etag):
            headers["ETag"] = {"description": "The version, for If-Match.", "schema": {"type": "string"}}
        if isinstance(route, Command) and route.location:
            headers["Location"] = {"description": "Where it is.", "schema": {"type": "string"}}
        headers |= {name: {"description": text, "schema": {"type": "string"}} for name, text in route.headers.items()}
        response: Json = {"description": problems.reason(status), "headers": headers}
        kind, media_type = _output(route), getattr(route, "media_type", "application/json")
        if status not in (204, 304) and (kind is not None or media_type != "application/json"):
            response["content"] = {media_type: {"schema": {} if kind is None else self._schemas[_key(kind)]}}
            if isinstance(route, Endpoint) and route.streams:
                response["content"][route.streams] = {"schema": {}}
        return response


def openapi_route(document: Json) -> Endpoint:
    """`GET /openapi.json`."""
    body = msgspec.json.encode(document)

    async def openapi(_: Asked) -> Answer:
        """This document."""
        return Answer(body)

    return Endpoint("GET", "/openapi.json", openapi, permission=OPEN, tag="operation")


def _inputs(route: Route) -> tuple[Any, ...]:
    return (route.params,) if isinstance(route, Query) else (route.params, route.body)


def _output(route: Route) -> Any:
    return route.view if isinstance(route, Query) else route.result


def _key(kind: Any) -> str:
    return repr(kind)


def _function(route: Route) -> Any:
    if isinstance(route, Command):
        return route.handler
    return route.query if isinstance(route, Query) else route.endpoint


def operation_name(route: Route) -> str:
    """Its id in the document: unique among all routes."""
    return route.name or str(_function(route).__name__).strip("_")


def _text(route: Route) -> str:
    return inspect.getdoc(_function(route)) or ""


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part and not re.fullmatch(r"api|v\d+|\.well-known|\{.*\}", part)]
    return parts[0] if parts else "other"


def _permission_text(route: Route) -> str:
    permission = route.permission
    if permission is OPEN:
        return "Needs no token."
    if isinstance(permission, Own | Self):
        needed = permission.permission if isinstance(permission, Own) else permission.others
        if not needed:
            return "Any valid token will do."
        return f"For the caller's own any valid token will do; for others' it needs `{needed}`."
    if isinstance(permission, Within):
        return f"Needs the permission `{permission.permission}` at the scope of what is named, or above it."
    return f"Needs the permission `{permission}`."


def _header_parameters(route: Route) -> Iterator[Json]:
    if waits_for(route) is not None:
        text = "Answer from views that hold at this position; waits a bounded time."
        yield _header("Muniment-At-Least", text, {"type": "integer", "minimum": 0})
    if isinstance(route, Command) and route.idempotent and route.permission is not OPEN:
        text = "Repeats with the same key and body get the first answer again, for 24 hours."
        yield _header("Idempotency-Key", text, {"type": "string", "minLength": 1, "maxLength": 255})
    if isinstance(route, Command) and route.stream is not None:
        yield _header("If-Match", "The entity tag that the caller has seen.", {"type": "string"})


def _header(name: str, text: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _has_tag(route: Command) -> bool:
    return route.stream is not None or get_type_hints(route.handler).get("return") is not None


def _statuses(route: Route) -> list[int]:
    if isinstance(route, Query):
        return [200, 304] if route.etag is not None else [200]
    if isinstance(route, Command):
        return [route.answers or (200 if route.result is not None else 204), *route.also]
    return [route.answers, *route.also]


def _failures(route: Route) -> dict[int, list[type[DomainError]]]:
    """By status: what this route can refuse with, its own errors first."""
    found: dict[int, list[type[DomainError]]] = {}
    for kind in (*route.raises, *_common(route)):
        kinds = found.setdefault(problems.status_of(kind), [])
        if kind not in kinds:
            kinds.append(kind)
    return found


def _common(route: Route) -> Iterator[type[DomainError]]:
    yield from (problems.Malformed, problems.UrlTooLong, problems.HeadersTooLarge, Invalid, problems.InternalError)
    yield Unavailable
    if route.permission is not OPEN:
        yield Unauthenticated
    if route.permission not in (OPEN, SELF):
        yield Forbidden
    if parameters(route.path):
        yield NotFound
    if waits_for(route) is not None:
        yield from (ProjectionBehind, PositionUnknown)
    if isinstance(route, Query):
        yield Overloaded
        if route.page is not None:
            yield problems.InvalidCursor
        return
    if isinstance(route, Command) or route.method != "GET":
        yield from _of_what_changes(route)


def _of_what_changes(route: Command | Endpoint) -> Iterator[type[DomainError]]:
    yield from (problems.MalformedJson, problems.BodyTooSlow, problems.BodyTooLarge, problems.UnsupportedMediaType)
    yield from (Conflict, Overloaded, OutcomeUnknown)
    if isinstance(route, Command) and route.stream is not None:
        yield Stale
    if isinstance(route, Command) and route.idempotent and route.permission is not OPEN:
        yield from (KeyReused, KeyInFlight)


def _queried(field: Json) -> Json:
    """The schema of a query parameter: what can be null in the type is absent in a query string."""
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    rest = {name: value for name, value in field.items() if name != "anyOf"}
    if rest.get("default", ...) is None:
        del rest["default"]
    if not options:
        return rest
    return {**options[0], **rest} if len(options) == 1 else {"anyOf": options, **rest}


def _first_line(kind: type[DomainError]) -> str:
    return (kind.__doc__ or kind.code).strip().splitlines()[0]
