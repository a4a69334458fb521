"""Which namespaces there are, what holds in one, what it may hold, and who runs with it."""

import sys
from typing import Any

import click
import msgspec

from api.configuration.instances import InstanceView, updated
from domain.configuration import NamespaceName
from infra.configuration.instances import State, instances
from infra.configuration.waiting import Answered
from runtime.cli.config.answer import print_instances, waiting
from runtime.cli.config.shared import VERSION, Shown, as_text, in_words, look, namespace_argument, own
from runtime.cli.config.text import facts_of
from runtime.cli.options import as_json, limited
from runtime.cli.output import print_json, print_page, print_table, printable, say
from runtime.cli.wired import Wired
from runtime.configuration_own import Own

_HEADS = """
    select namespace, version, declarations from configuration_heads
     where declarations > 0 or namespace = any(%s) order by namespace
"""


@click.command("list")
@limited
@click.option("--cursor", metavar="NAME", default="", help="Go on where the page before has ended.")
@as_json
@click.pass_obj
def list_(wired: Wired, limit: int, cursor: str, as_json: bool) -> None:
    """List the namespaces: the platform's, those of modules, and your own.

    \b
    Example:
      muniment config list
    """
    wired.check()
    software = own(wired)
    known = list(software.schemas)
    with wired.connection() as connection:
        found = {name: (version, number) for name, version, number in connection.execute(_HEADS, (known,))}
    names = [name for name in sorted({*known, *found}) if name > cursor][: limit + 1]
    rows = [_described(software, name, *found.get(name, (0, 0))) for name in names[:limit]]
    if not as_json:
        print_table(("NAMESPACE", "KIND", "VERSION", "SCHEMA"), [tuple(row.values()) for row in rows])
    print_page(rows, len(names), lambda row: row["namespace"], as_json, "namespaces")


def _described(software: Own, name: str, version: int, number: int) -> dict[str, Any]:
    schema = software.schemas.get(name)
    return {
        "namespace": name,
        "kind": "own" if schema is None else "module" if name in software.of_modules else "platform",
        "version": version,
        "schema_version": number if schema is None else schema.version,
    }


@click.command("get")
@namespace_argument
@click.argument("keys", metavar="[KEY...]", nargs=-1)
@click.option("--version", "version", type=VERSION, help="As of this version; by default the newest.")
@click.option("--stored", is_flag=True, help="Only what is stored.")
@as_json
@click.pass_obj
def get(
    wired: Wired, namespace: NamespaceName, keys: tuple[str, ...], version: int | None, stored: bool, as_json: bool
) -> None:
    """Show what holds in a namespace, and where each value comes from; of one KEY the value alone.

    FROM is stored, file (the environment of whoever types this) or default; SINCE the version that stored it.

    \b
    Example:
      muniment config get api
      muniment config get api page_size
    """
    with wired.log() as log:
        shown = look(wired, log, namespace, version)
        values = dict(shown.stored if stored else shown.whole)
        if shown.problem:
            say(f"what is stored can't be used by this release: {in_words(shown.problem)}")
    if unknown := [key for key in keys if key not in values]:
        raise click.ClickException(f"{namespace} has no {', '.join(map(printable, unknown))}")
    values = {key: values[key] for key in keys} if keys else values
    if as_json:
        print_json(_view(shown, values))
    elif len(keys) == 1:
        (value,) = values.values()
        click.echo(_bare(value))
    else:
        say(f"{namespace}, version {shown.head.version}")
        _print(shown, values)


def _bare(value: Any) -> str:
    """For scripts as it is; what may have come from strangers mustn't drive a terminal."""
    if not isinstance(value, str):
        return as_text(value)
    return printable(value) if sys.stdout.isatty() else value


def _view(shown: Shown, values: dict[str, Any]) -> dict[str, Any]:
    """What the API answers."""
    sources, defaults = shown.schema.sources(shown.stored, shown.file), shown.schema.defaults()
    return {
        "namespace": shown.name,
        "version": shown.head.version,
        "schema_version": shown.schema.version,
        "values": values,
        "sources": {key: sources[key] for key in values},
        "defaults": {key: defaults[key] for key in values if key in defaults},
        "versions": {key: shown.head.key_versions.get(key, 0) for key in values},
    }


def _print(shown: Shown, values: dict[str, Any]) -> None:
    view = _view(shown, values)
    print_table(
        ("KEY", "VALUE", "FROM", "SINCE", "DEFAULT"),
        [
            (
                key, as_text(value), view["sources"][key], str(view["versions"][key] or "-"),
                as_text(view["defaults"][key]) if key in view["defaults"] else "-",
            )
            for key, value in values.items()
        ],
    )  # fmt: skip


@click.command("schema")
@namespace_argument
@as_json
@click.pass_obj
def schema(wired: Wired, namespace: NamespaceName, as_json: bool) -> None:
    """Tell what a namespace may hold; with --json its JSON Schema (2020-12).

    \b
    Example:
      muniment config schema identity
    """
    with wired.log() as log:
        found = look(wired, log, namespace).schema
    if as_json:
        print_json({"namespace": namespace, "schema_version": found.version, "schema": found.json_schema})
        return
    rows = [
        (key, _default(said), ", ".join(facts_of(said)), said.get("description", ""))
        for key, said in found.properties.items()
    ]
    print_table(("KEY", "DEFAULT", "MUST BE", "MEANS"), rows)


def _default(said: Any) -> str:
    return as_text(said["default"]) if "default" in said else "-"


@click.command("instances")
@namespace_argument
@click.option("--state", type=click.Choice([each.value for each in State]), help="Only these.")
@as_json
@click.pass_obj
def instances_(wired: Wired, namespace: NamespaceName, state: str | None, as_json: bool) -> None:
    """List who runs with a namespace: with which version, or which one they refuse and why.

    \b
    Example:
      muniment config instances api --state refused
    """
    with wired.log() as log:
        version = look(wired, log, namespace).head.version
        lease = waiting(wired, log).lease
    with wired.connection() as connection:
        found = Answered(namespace, version, tuple(instances(connection, namespace, lease)))
    view = updated(found)
    shown: list[InstanceView] = [each for each in view.instances if state in {None, each.state}]
    if as_json:
        print_json({"version": version, "items": msgspec.to_builtins(shown)})
        return
    say(f"{namespace}, version {version}: " + (f"{len(shown)} instances" if shown else "nobody"))
    print_instances(shown)
