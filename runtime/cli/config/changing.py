"""Changing a document, trying a change out, and declaring namespaces."""

from collections.abc import Mapping
from typing import Any, BinaryIO

import click

from commands.configuration import (
    ChangeConfiguration,
    DeclareNamespace,
    Mode,
    change_configuration,
    declare_namespace,
    validate_configuration,
)
from domain.configuration import ABSENT, Change, NamespaceName, NamespaceReserved, merge_patch
from domain.configuration.document import Values
from infra.configuration.heads import declared
from infra.configuration.instances import holds
from runtime.cli.config.answer import tell
from runtime.cli.config.shared import (
    Shown,
    as_text,
    decided,
    if_version_option,
    look,
    namespace_argument,
    own,
    reason_option,
    told_whole,
    try_references,
)
from runtime.cli.config.values import assigned, read_file, unset
from runtime.cli.operator import dispatch
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, print_table, say
from runtime.cli.wired import Wired

pairs_argument = click.argument("pairs", metavar="[KEY=VALUE...]", nargs=-1)
file_option = click.option(
    "--file", type=click.File("rb"), help="A JSON object with values (- is stdin); comments may be in it."
)
unset_option = click.option("--unset", multiple=True, metavar="KEY", help="Back to what holds where nothing is stored.")
replace_option = click.option("--replace", is_flag=True, help="What is given is all that is stored from now on.")


@click.command("set")
@namespace_argument
@pairs_argument
@file_option
@unset_option
@replace_option
@if_version_option
@reason_option
@acting
@as_json
@click.pass_obj
def set_(
    wired: Wired,
    namespace: NamespaceName,
    pairs: tuple[str, ...],
    file: BinaryIO | None,
    unset: tuple[str, ...],
    replace: bool,
    if_version: int | None,
    reason: str,
    actor: str,
    as_json: bool,
) -> None:
    """Store values, and tell what every process makes of them within a second.

    VALUE is JSON, or text as it stands where the schema says so; null takes a key back. A value within an object is
    given as limits.logins=5. What isn't named stays as it is, unless --replace is given. Exit status 3: it is stored,
    but somebody refuses to run with it.

    \b
    Example:
      muniment config set api page_size=100 page_limit=500 --reason "lists are long here"
      muniment config set shop --file shop.json --replace --if-version 7
    """
    with wired.core() as core, told_whole():
        shown = look(wired, core.log, namespace)
        values, mode = _given(shown, pairs, file, unset, replace=replace)
        try_references(core, namespace, values)
        command = ChangeConfiguration(namespace, values, own(wired), mode, reason)
        outcome = decided(wired, core, namespace, change_configuration, command, actor, if_version)
        tell(wired, core.log, namespace, outcome, as_json)


@click.command("validate")
@namespace_argument
@pairs_argument
@file_option
@unset_option
@replace_option
@as_json
@click.pass_obj
def validate(
    wired: Wired,
    namespace: NamespaceName,
    pairs: tuple[str, ...],
    file: BinaryIO | None,
    unset: tuple[str, ...],
    replace: bool,
    as_json: bool,
) -> None:
    """Tell what `set` would do, or everything that is wrong with it, and do nothing.

    \b
    Example:
      muniment config validate shop --file shop.json --replace
    """
    with wired.core() as core, told_whole():
        shown = look(wired, core.log, namespace)
        values, mode = _given(shown, pairs, file, unset, replace=replace)
        try_references(core, namespace, values)
        command = ChangeConfiguration(namespace, values, own(wired), mode)
        found = dispatch(core, validate_configuration, command, "validate").result
    if as_json:
        print_json({"version": found.version, "changes": [described(each) for each in found.changes]})
        return
    say(f"{namespace}, version {found.version}: " + ("this would change" if found.changes else "nothing would change"))
    print_changes(found.changes)


@click.command("declare")
@namespace_argument
@click.argument("schema", metavar="SCHEMA", type=click.File("rb"))
@click.option(
    "--values", type=click.File("rb"), help="Store this document with it, for a schema that needs another one."
)
@if_version_option
@reason_option
@acting
@as_json
@click.pass_obj
def declare(
    wired: Wired,
    namespace: NamespaceName,
    schema: BinaryIO,
    values: BinaryIO | None,
    if_version: int | None,
    reason: str,
    actor: str,
    as_json: bool,
) -> None:
    """Open a namespace of your own, or give it another JSON Schema (2020-12), which its document must fit.

    \b
    Example:
      muniment config declare shop shop.schema.json --reason "the shop's own"
    """
    document = read_file(values) if values else None
    with wired.core() as core, told_whole():
        with wired.connection() as connection:
            if holds(connection, namespace, core.settings.config_lease_seconds):
                raise NamespaceReserved
            there_are = declared(connection)
        limit = core.settings.config_namespaces
        command = DeclareNamespace(namespace, read_file(schema), own(wired), document, reason, there_are, limit)
        outcome = decided(wired, core, namespace, declare_namespace, command, actor, if_version)
        tell(wired, core.log, namespace, outcome, as_json)


def _given(
    shown: Shown, pairs: tuple[str, ...], file: BinaryIO | None, keys: tuple[str, ...], *, replace: bool
) -> tuple[Values, Mode]:
    """What was typed, together: the file first, over it the pairs. Raises UsageError."""
    if not (pairs or file or keys):
        raise click.UsageError("give KEY=VALUE, --file or --unset")
    patch = {**assigned(pairs, shown.schema), **unset(keys, shown.schema)}
    document = read_file(file) if file else {}
    if replace:
        return merge_patch(document, patch), "replace"
    return _over(document, patch), "merge"


def _over(document: Values, patch: Values) -> dict[str, Any]:
    """Both patches as one: the second counts where both name a place."""
    found = dict(document)
    for key, value in patch.items():
        below = found.get(key)
        found[key] = _over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def described(change: Change) -> dict[str, Any]:
    """A difference as the API has it: what one side doesn't have is left out."""
    sides = {"before": change.before, "after": change.after}
    return {"field": change.field, **{side: value for side, value in sides.items() if value is not ABSENT}}


def print_changes(changes: list[Change]) -> None:
    """A line for each."""
    print_table(("KEY", "BEFORE", "AFTER"), [(each.field, _side(each.before), _side(each.after)) for each in changes])


def _side(value: Any) -> str:
    return "-" if value is ABSENT else as_text(value)
