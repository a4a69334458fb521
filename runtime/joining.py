"""What a module of one's own must be like to join the platform. The first thing that is wrong is one line."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.binding import bind_command, bind_query, check_scope
from api.limits import HttpLimits
from api.openapi import OpenApi, operation_name
from api.router import PARAMETER, Parameter, parameters
from api.routing import Command, Endpoint, Query, Route, waits_for
from commands.jobs.schedules import OwnSchedule, prepare_own
from domain.access import Permission
from domain.aggregate import Aggregate
from domain.audit import ActionName
from domain.configuration import DocumentSchema, NamespaceName
from domain.errors import Invalid
from domain.jobs import JobType, JobTypes
from infra.configuration.schemas import json_schema
from infra.disclosure import marked
from infra.exporting.columns import table_name
from infra.inline import Inline
from infra.own_settings import ConfigSchema
from infra.settings import DECLARATIONS, SETTINGS, Settings, SettingsError
from infra.transcoding import event_types
from muniment_client.secrets.environment import PREFIX as SECRETS
from projections.meaning import Meaning
from projections.projection import Projection, own_fields
from runtime.cli import COMMANDS
from runtime.module import Lazy, Module
from runtime.registry import events, permissions_of, topic_of, with_modules
from stream_apps.reactions import Reaction

API = "/api/"
"""Where the routes of modules stand."""

RESERVED_NAMES = frozenset({"muniment", "events"})
"""`muniment.watermark` and the like stand on the bus, and `analytics.events` is a view of all events."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_COMMAND = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_WHERE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INT = re.compile(r"-?\d+")


class WrongModules(SettingsError):
    """What `MUNIMENT_MODULES` names can't be used. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(f"MUNIMENT_MODULES: {' '.join(message.split())}")


def check(platform: Sequence[Module], named: Sequence[tuple[str, Module]], settings: Settings) -> None:
    """Whether these modules can join the platform's; `named` are they with the entries that named them.

    Raises WrongModules.
    """
    own = [module for _, module in named]
    taken = {module.name for module in platform}
    for entry, module in named:
        if module.name in taken:
            raise WrongModules(f"{entry}: the name {module.name} is taken by another module")
        taken.add(module.name)
        for objection in _of_its_own(module):
            raise WrongModules(f"{entry}: {objection}")
    settings = with_modules(settings, own)
    for checks in (_names(platform, own, settings), _dependencies(platform, own), _relations(platform, own)):
        for objection in checks:
            raise WrongModules(objection)
    for objection in _types(platform, own):
        raise WrongModules(objection)


def _of_its_own(module: Module) -> Iterator[str]:
    """What is wrong with a module whatever else there is."""
    if not _NAME.fullmatch(str(module.name)) or module.name in RESERVED_NAMES:
        yield f"{module.name!r} can't be a module's name (a-z, 0-9 and _, at most 32)"
    yield from _kinds(module)
    if module.migrations is not None and not module.migrations.is_dir():
        yield f"migrations: there is no folder {module.migrations}"
    for aggregate in module.aggregates:
        yield from _aggregate(module, aggregate)
    known, listed = event_types(), {topic_of(kind) for kind in events(module)}
    for topic in sorted(known.keys() - listed):
        if topic.startswith(f"{module.name}."):
            yield f"{known[topic].__qualname__} ({topic}) is an event of an aggregate that isn't among its aggregates"
    yield from _audit(module)
    for permission in module.permissions:
        try:
            Permission(permission)
        except Invalid as error:
            yield f"permission {permission!r} {error.message.partition(': ')[2]}"
    if module.config_schema is not None:
        yield from _config_schema(module.name, module.config_schema)
    for route in module.routes:
        yield from _route(route)
    yield from _documented(module)


def _kinds(module: Any) -> Iterator[str]:
    """Whether each field holds what it is there for, which nobody has checked so far; later checks go by that."""
    if not isinstance(module.migrations, Path | None):
        yield f"migrations: {module.migrations!r} is no pathlib.Path"
    if not callable(module.reactions):
        yield "reactions: a function of the settings is needed"
    if not isinstance(module.config_schema, ConfigSchema | None):
        yield f"config_schema: {module.config_schema!r} is no runtime.module.ConfigSchema"
    fields: tuple[tuple[str, Any, Any], ...] = (
        ("depends_on", module.depends_on, str),
        ("aggregates", module.aggregates, type),
        ("projections", module.projections, Projection),
        ("former", module.former, Projection),
        ("inline", module.inline, Inline),
        ("routes", module.routes, Command | Query | Endpoint),
        ("jobs", module.jobs, JobType),
        ("schedules", module.schedules, OwnSchedule),
        ("permissions", module.permissions, str),
        ("variables", module.variables, str),
        ("cli", module.cli, str),
        ("routine", module.routine, type),
        ("audited", module.audited, type),
    )
    for name, values, kind in fields:
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            yield f"{name}: {values!r} isn't a list of things"
            return
        for value in values:
            if not isinstance(value, kind):
                yield f"{name}: {value!r} is no {getattr(kind, '__name__', 'route')}"
    for value in module.audited.values():
        if not isinstance(value, Meaning):
            yield f"audited: {value!r} is no Meaning"
    yield from _commands(module)


def _commands(module: Any) -> Iterator[str]:
    """What is called isn't imported here: only the command line needs it."""
    if not isinstance(module.cli, Mapping):
        yield "cli: a mapping of names to runtime.module.Lazy is needed"
        return
    for name, command in module.cli.items():
        if not _COMMAND.fullmatch(name):
            yield f"cli: {name!r} can't be a command's name (lower-case words joined by -)"
        if not isinstance(command, Lazy) or not _WHERE.fullmatch(command.where):
            yield f"cli: {name}: a runtime.module.Lazy of the form package.module:command is needed"


def _config_schema(name: str, schema: ConfigSchema) -> Iterator[str]:
    try:
        objections = list(schema.objections(name))
        yield from (f"config_schema: {each}" for each in objections)
        if objections:
            return
        NamespaceName(name)
        yield from (f"config_schema: {each}" for each in schema.flaws())
        if any(setting.pattern for setting in schema.declaration.settings):  # what knows them takes long to load
            DocumentSchema.declared(json_schema(schema.declaration))
    except Exception as error:  # noqa: BLE001 - a rule of the author's may fail in any way
        yield f"config_schema: {type(error).__name__}: {error}"
    for setting in schema.declaration.settings:
        if setting.variable.startswith(SECRETS):
            yield f"config_schema: {setting.variable} would be a secret's variable: choose another name"


def _aggregate(module: Module, aggregate: type[Any]) -> Iterator[str]:
    if Aggregate not in aggregate.__mro__:
        yield f"{aggregate.__qualname__} is no domain.aggregate.Aggregate"
        return
    kinds = [kind for name, kind in vars(aggregate).items() if name != "Event" and _is_event(kind)]
    for kind in (aggregate, *kinds):
        topic = topic_of(kind)
        if not topic:
            yield f"{kind.__qualname__} has no TOPIC"
        elif topic.partition(".")[0] != module.name or not topic.partition(".")[2].isidentifier():
            yield f"{kind.__qualname__}: its topic {topic} isn't of the form {module.name}.Name"
    for kind in kinds:
        for version in range(1, getattr(kind, "class_version", 1)):
            if not hasattr(kind, f"upcast_v{version}_v{version + 1}"):
                yield f"{kind.__qualname__} has no upcast_v{version}_v{version + 1}"


def _is_event(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Aggregate.Event)


def _audit(module: Module) -> Iterator[str]:
    own = list(events(module))
    for kind in own:
        if (kind in module.audited) == (kind in module.routine):
            yield f"{topic_of(kind)}: put it either into `audited` or into `routine`"
    for kind in sorted({*module.audited, *module.routine} - set(own), key=lambda kind: kind.__qualname__):
        yield f"{kind.__qualname__} is audited or routine, but no event of its own"
    for kind, meaning in module.audited.items():
        try:
            ActionName(meaning.action)
        except Invalid:
            yield f"{topic_of(kind)}: {meaning.action!r} can't be an action: lower-case words joined by . or :"
        for name in meaning.detail:
            if name not in own_fields(kind):
                yield f"{topic_of(kind)}: the event has no field {name}, which is a detail for the audit log"
            elif name in marked(kind):
                yield f"{topic_of(kind)}.{name} is {marked(kind)[name]}: it can't be a detail for the audit log"


def _route(route: Route) -> Iterator[str]:
    called = f"{route.method} {route.path}"
    if not route.path.startswith(API):
        yield f"{called}: routes of modules stand under {API}"
    for part in route.path.split("/"):
        if ("{" in part or "}" in part) and not PARAMETER.fullmatch(part):
            yield f"{called}: {part}: a parameter is a whole segment of a path"
    try:
        if isinstance(route, Command):
            bind_command(route)
        elif isinstance(route, Query):
            bind_query(route)
            check_scope(route)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being served
        yield f"{called}: {error}"


def _documented(module: Module) -> Iterator[str]:
    try:
        OpenApi(list(module.routes), HttpLimits(), "0").document()
    except Exception as error:  # noqa: BLE001 - types that have no schema are refused in many ways
        yield f"its routes can't be documented: {error}"


def _names(platform: Sequence[Module], own: Sequence[Module], settings: Settings) -> Iterator[str]:
    """What is called as something else is called already."""
    owners: dict[tuple[str, str], str] = {}
    owners |= {("command", name): "the platform" for name in COMMANDS}
    owners |= {("namespace", name): "the platform" for name in DECLARATIONS}
    owners |= {("variable", each.variable): "the platform" for each in SETTINGS.values()}
    for module in platform:
        names = [*_taken_by(module, settings), *(("permission", each) for each in _asked(module))]
        owners |= {name: owners.get(name, module.name) for name in names}
    for module in own:
        for kind, name in _taken_by(module, settings):
            if (kind, name) in owners:
                yield f"{module.name}: the {kind} {name} is taken by {owners[kind, name]}"
            owners[kind, name] = module.name


def _asked(module: Module) -> Iterator[str]:
    for route in module.routes:
        yield from permissions_of(route)


def _taken_by(module: Module, settings: Settings) -> Iterator[tuple[str, str]]:
    """What may be there only once, and by which names this module has it."""
    views, routes = (*module.projections, *module.former), module.routes
    declared = [module.config_schema.declaration] if module.config_schema else []
    names: dict[str, Iterable[str]] = {
        "topic": map(topic_of, (*module.aggregates, *events(module))),
        "view of the log": (table_name(topic_of(kind)) for kind in events(module)),
        "projection": (projection.name for projection in module.projections),
        "table": (view.table(table, 1) for view in views for table in view.table_names),
        "inline projection": (inline.name for inline in module.inline),
        "inline table": (table for inline in module.inline for table in inline.tables),
        "reaction": (reaction.name for reaction in _reactions(module, settings)),
        "job type": (job.name for job in module.jobs),
        "schedule": (schedule.name for schedule in module.schedules),
        "route": (f"{route.method} {PARAMETER.sub('{}', route.path)}" for route in routes),
        "operation": map(operation_name, routes),
        "permission": module.permissions,
        "namespace": (each.section.namespace for each in declared),
        "variable": (setting.variable for each in declared for setting in each.settings),
        "command": module.cli,
        "audited action": dict.fromkeys(meaning.action for meaning in module.audited.values()),
    }
    return ((kind, name) for kind, given in names.items() for name in given)


def _reactions(module: Module, settings: Settings) -> Sequence[Reaction]:
    try:
        found = tuple(module.reactions(settings))
    except SettingsError:
        raise
    except Exception as error:  # the author's code may fail in any way
        raise WrongModules(f"{module.name}: reactions: {type(error).__name__}: {error}") from error
    for each in found:
        if not isinstance(each, Reaction):
            raise WrongModules(f"{module.name}: reactions: {each!r} is no Reaction")
    return found


def _dependencies(platform: Sequence[Module], own: Sequence[Module]) -> Iterator[str]:
    wanted = {module.name: module.depends_on for module in (*platform, *own)}
    for module in own:
        for name in module.depends_on:
            if name not in wanted:
                yield f"{module.name} depends on {name}, which there isn't"
                return
    for module in own:
        path = _circle(module.name, wanted, ())
        if path:
            yield f"modules depend on each other in a circle: {' -> '.join(path)}"


def _circle(name: str, wanted: dict[str, tuple[str, ...]], path: tuple[str, ...]) -> tuple[str, ...]:
    if name in path:
        return (*path[path.index(name) :], name)
    return next((found for each in wanted[name] if (found := _circle(each, wanted, (*path, name)))), ())


def _relations(platform: Sequence[Module], own: Sequence[Module]) -> Iterator[str]:
    """What refers to something that another module has, or gets into its way."""
    everybody = (*platform, *own)
    views = {projection.name for module in everybody for projection in module.projections}
    permissions = {p for module in platform for p in _asked(module)} | {p for module in own for p in module.permissions}
    for module in own:
        yield from _schedules(module, [job for each in everybody for job in each.jobs])
        others = [(each.name, route) for each in everybody if each is not module for route in each.routes]
        for route in module.routes:
            called = f"{module.name}: {route.method} {route.path}"
            for view in waits_for(route) or ():
                if view not in views:
                    yield f"{called}: there is no projection {view}"
            for permission in permissions_of(route):
                if permission not in permissions:
                    yield f"{called}: the permission {permission} isn't among its permissions"
            for owner, other in others:
                if route.method == other.method and overlap(route.path, other.path):
                    yield f"{called} collides with {other.path} of {owner}"


def _schedules(module: Module, jobs: Sequence[JobType]) -> Iterator[str]:
    for schedule in module.schedules:
        try:
            prepare_own(JobTypes(jobs), [schedule])
        except Exception as error:  # noqa: BLE001 - the author's plan may be wrong in any way
            yield f"{module.name}: schedule {schedule.name}: {error}"


def _types(platform: Sequence[Module], own: Sequence[Module]) -> Iterator[str]:
    """Types go by their names in the document of the API; where two have one name, both are called otherwise."""
    qualified = _qualified((*platform, *own))
    for name in sorted(qualified - _qualified(platform)):
        alike = sorted(each for each in qualified if each.rpartition(".")[2] == name.rpartition(".")[2])
        yield f"types of routes need names of their own: {' and '.join(alike)}"


def _qualified(modules: Sequence[Module]) -> set[str]:
    routes = [route for module in modules for route in module.routes]
    schemas = OpenApi(routes, HttpLimits(), "0").document()["components"]["schemas"]
    return {name for name in schemas if "." in name}


def overlap(one: str, other: str) -> bool:
    """Whether a request's path could be meant by both patterns."""
    ours, theirs = _segments(one), _segments(other)
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _segments(path: str) -> list[str | Parameter]:
    kinds = iter(parameters(path))
    return [next(kinds) if PARAMETER.fullmatch(part) else part for part in path.split("/")]


def _same(one: str | Parameter, other: str | Parameter) -> bool:
    match one, other:
        case Parameter(), Parameter():
            return {one.kind, other.kind} != {"uuid", "int"}
        case str(), Parameter():
            return _fits(one, other.kind)
        case Parameter(), str():
            return _fits(other, one.kind)
        case _:
            return one == other


def _fits(text: str, kind: str) -> bool:
    if kind == "str":
        return text != ""
    return (_UUID if kind == "uuid" else _INT).fullmatch(text) is not None
