"""The parts of the documentation that are made from the code, and the places where they stand."""

import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
from prometheus_client import REGISTRY, CollectorRegistry

from api.app import metrics_route
from api.docs import docs_route
from api.health import health_routes
from api.limits import HttpLimits
from api.metrics import HttpCollector
from api.openapi import OpenApi, openapi_route
from api.problems import status_of
from api.routing import Own, Route, Self, Within
from domain.access import BUILTIN_ROLES
from domain.errors import DomainError
from infra.setting import Setting
from infra.settings import SECTIONS as SETTING_SECTIONS
from infra.settings import SETTINGS
from projections.audit import AUDITED, ROUTINE, Meaning
from runtime.bus_gauges import BusGauges
from runtime.cli import COMMANDS
from runtime.configuration_health import InstanceGauges
from runtime.gauges import Gauges, ReactionGauges
from runtime.job_gauges import JobGauges
from runtime.secret_gauges import SecretGauges
from runtime.view_gauges import ViewGauges

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
ROOMS_OF_ERRORS = ("domain", "commands", "projections", "infra", "api")

_SECTION = re.compile(r"(<!-- made from the code: (?P<name>[a-z-]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)

Rows = Iterable[Sequence[str]]


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def filled(text: str) -> str:
    """The text with every section that is made from the code as it is now."""
    return _SECTION.sub(lambda found: f"{found[1]}\n{SECTIONS[found['name']]()}\n{found[3]}", text)


def sections(text: str) -> list[str]:
    """The names of the sections in it that are made from the code."""
    return [found["name"] for found in _SECTION.finditer(text)]


def table(titles: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


def _code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


# --- settings


def settings() -> str:
    """Every setting, by its namespace."""
    parts = []
    for section in SETTING_SECTIONS:
        title = f"### {section.title[0].upper()}{section.title[1:]}\n\nNamespace {_code(section.namespace)}."
        rows = [_setting(each) for each in SETTINGS.values() if each.section == section]
        parts.append(f"{title}\n\n" + table(("setting", "default", "means", "changes"), rows))
    return "\n\n".join(parts)


def _setting(setting: Setting) -> tuple[str, str, str, str]:
    default = str(setting.default).lower() if setting.kind is bool else str(setting.default)
    return (
        _code(setting.variable),
        f"{_code(default)} {setting.unit}" if default else "",
        f"{setting.help} ({setting.bounds})" if setting.bounds else setting.help,
        "at once" if setting.hot else "at the next start",
    )


# --- what HTTP answers


def routes() -> list[Route]:
    """Every route that an API process answers."""
    import_module("runtime.serve")
    own = cast("list[Route]", import_module("runtime.modules").routes())
    tables = [*own, *health_routes(cast("Any", None)), metrics_route()]
    document = OpenApi(tables, HttpLimits(), "0").document()
    return [*tables, openapi_route(document), docs_route(document)]


def route_list() -> str:
    """Every route: what it needs, what it does, and the problems of its own."""
    tables = routes()
    document = OpenApi(tables, HttpLimits(), "0").document()["paths"]
    rows = []
    for route in tables:
        path = re.sub(r"\{([a-z_]+):[a-z]+\}", r"{\1}", route.path)
        operation = document[path][route.method.lower()]
        codes = sorted({kind.code for kind in route.raises})
        rows.append((_code(f"{route.method} {path}"), _needs(route), _does(operation), ", ".join(map(_code, codes))))
    return table(("route", "needs", "does", "problems of its own"), rows)


def _needs(route: Route) -> str:
    permission = route.permission
    if isinstance(permission, Own):
        text = f"any token for one's own, else {_code(permission.permission)}"
    elif isinstance(permission, Within):
        text = f"{_code(permission.permission)} at the scope of what is named"
    elif isinstance(permission, Self) and permission.others:
        text = f"any token for one's own, else {_code(permission.others)}"
    elif isinstance(permission, str):
        text = _code(permission)
    else:
        text = {"open": "nothing", "self": "any token"}[repr(permission)]
    return text + (" at the scope asked for" if route.scope is not None else "")


def _does(operation: Mapping[str, Any]) -> str:
    first = operation["description"].partition("\n\n")[0]
    return re.sub(r"\s*Raises [^.]*\.", "", first).strip() or f"{operation['summary']}."


def errors() -> list[type[DomainError]]:
    """Every kind of error that the API can answer with."""
    import_module("runtime.serve")
    return sorted(
        (kind for kind in _subclasses(DomainError) if kind.__module__.partition(".")[0] in ROOMS_OF_ERRORS),
        key=lambda kind: (kind.code, kind.__module__),
    )


def error_codes() -> str:
    """Every stable code with its status and what it says."""
    rows = []
    for code, kinds in groupby((kind for kind in errors() if "code" in vars(kind)), key=lambda kind: kind.code):
        same = list(kinds)
        said = dict.fromkeys((kind.__doc__ or "").strip().splitlines()[0] for kind in same)
        waits = "yes" if any(kind.retry_after_seconds is not None for kind in same) else ""
        rows.append((_code(code), str(status_of(same[0])), " Or: ".join(said), waits))
    rows.sort(key=lambda row: (row[1], row[0]))
    return table(("code", "status", "says", "`Retry-After`"), rows)


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


# --- the others


def audited() -> str:
    """What each event means to an auditor."""
    rows = [
        (
            _code(meaning.action),
            _code(cast("Any", kind).TOPIC),
            f"{meaning.class_uid}, {meaning.activity_id}",
            meaning.outcome,
            _detail(meaning),
        )
        for kind, meaning in AUDITED.items()
    ]
    return table(("action", "event", "OCSF class, activity", "outcome", "detail"), rows)


def _detail(meaning: Meaning) -> str:
    return ", ".join(map(_code, meaning.detail))


def routine() -> str:
    """The events that aren't audited."""
    return ", ".join(_code(topic) for topic in sorted(cast("Any", kind).TOPIC for kind in ROUTINE)) + "."


def builtin_roles() -> str:
    """The roles of every installation."""
    rows = [(_code(name), ", ".join(map(_code, patterns))) for name, patterns in BUILTIN_ROLES.items()]
    return table(("role", "holds"), rows)


def metrics() -> str:
    """What the processes tell Prometheus about the platform."""
    import_module("runtime.serve")
    for module in pkgutil.walk_packages([str(ROOT / "stream_apps")], "stream_apps."):
        if module.name != "stream_apps.bus":  # Faust has none of its own
            import_module(module.name)
    others = CollectorRegistry()
    others.register(HttpCollector([], dict.fromkeys(("calls_taken", "calls_room", "threads", "streams"), 0.0).copy))
    others.register(_gauges())
    others.register(BusGauges(cast("Any", None), cast("Any", None)))
    idle = cast("Any", SimpleNamespace(submit=lambda _: None))
    others.register(ReactionGauges(cast("Any", None), idle))
    others.register(ViewGauges(cast("Any", None), idle, ()))
    others.register(JobGauges(cast("Any", None), idle))
    others.register(InstanceGauges(cast("Any", None), idle))
    others.register(SecretGauges())
    found = {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for registry in (REGISTRY, others)
        for family in registry.collect()
        if family.name.startswith("muniment_")
    }
    return table(("metric", "is", "tells"), [(_code(name), *what) for name, what in sorted(found.items())])


def _gauges() -> Gauges:
    """As an API process has them, over nothing."""
    listener: Any = SimpleNamespace(head=0, fresh=False, position=lambda _: 0, lag_seconds=lambda _: 0.0)
    pool: Any = SimpleNamespace(get_stats=dict)
    passwords: Any = SimpleNamespace(waiting=0)
    return Gauges(listener, {"view": 1}, {"pool": pool}, passwords)


def commands() -> str:
    """Every command."""
    rows = [
        (_code(name), command.get_short_help_str(200))
        for top, lazy in COMMANDS.items()
        for name, command in _leaves(f"muniment {top}", lazy.load())
    ]
    return table(("command", "does"), rows)


def _leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        arguments = [each.make_metavar(click.Context(command)) for each in command.params if _is_argument(each)]
        yield " ".join((name, *arguments)), command
        return
    for below, inner in command.commands.items():
        yield from _leaves(f"{name} {below}", inner)


def _is_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


SECTIONS: Mapping[str, Callable[[], str]] = {
    "audited": audited,
    "builtin-roles": builtin_roles,
    "commands": commands,
    "error-codes": error_codes,
    "metrics": metrics,
    "routes": route_list,
    "routine": routine,
    "settings": settings,
}
