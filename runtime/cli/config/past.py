"""Who has changed what and why, how two versions differ, and going back to one."""

from dataclasses import asdict

import click

from commands.configuration import RollbackConfiguration, rollback_configuration
from domain.configuration import NamespaceName, differences
from runtime.cli.config.answer import tell
from runtime.cli.config.changing import described, print_changes
from runtime.cli.config.shared import (
    VERSION,
    decided,
    if_version_option,
    look,
    namespace_argument,
    own,
    past_of,
    reason_option,
    told_whole,
)
from runtime.cli.options import acting, as_json, cursor, limited
from runtime.cli.output import print_json, print_page, print_table, say
from runtime.cli.wired import Wired


@click.command("history")
@namespace_argument
@limited
@cursor
@as_json
@click.pass_obj
def history(wired: Wired, namespace: NamespaceName, limit: int, cursor: int | None, as_json: bool) -> None:
    """List who has changed a namespace, when, what and why; the newest first.

    \b
    Example:
      muniment config history api
    """
    wired.check()
    with wired.log() as log:
        look(wired, log, namespace)
        found = past_of(wired, log).entries(namespace, limit + 1, cursor)
    rows = found[:limit]
    if not as_json:
        print_table(
            ("VERSION", "AT", "WHO", "WHAT", "KEYS", "WHY"),
            [(row.version, row.at, row.actor, _what(row.kind, row.restores), row.keys, row.reason) for row in rows],
        )
    shown = [asdict(row) for row in rows] if as_json else rows
    print_page(shown, len(found), lambda _: rows[-1].version, as_json, "changes")


def _what(kind: str, restores: int | None) -> str:
    return kind if restores is None else f"back to {restores}"


@click.command("diff")
@namespace_argument
@click.option("--from", "from_", type=VERSION, metavar="VERSION", help="By default the one before --to.")
@click.option("--to", type=VERSION, metavar="VERSION", help="By default the newest.")
@click.option("--defaults", is_flag=True, help="In place of --from: what holds where nothing is stored.")
@as_json
@click.pass_obj
def diff(
    wired: Wired, namespace: NamespaceName, from_: int | None, to: int | None, defaults: bool, as_json: bool
) -> None:
    """Tell how the stored documents of two versions differ, or a version from what holds where nothing is stored.

    \b
    Example:
      muniment config diff api --from 3 --to 7
      muniment config diff api --defaults
    """
    if defaults and from_ is not None:
        raise click.UsageError("either --from or --defaults")
    wired.check()
    with wired.log() as log:
        after = look(wired, log, namespace, to)
        if defaults:
            bare = after.schema.merged({}, after.file)
            base, changes = None, differences(bare, after.whole)
        else:
            before = look(wired, log, namespace, max(0, after.head.version - 1) if from_ is None else from_)
            base, changes = before.head.version, differences(before.stored, after.stored)
    if as_json:
        print_json({"from": base, "to": after.head.version, "changes": [described(each) for each in changes]})
        return
    since = "what holds otherwise" if base is None else f"version {base}"
    say(
        f"{namespace}, from {since} to version {after.head.version}: "
        + (f"{len(changes)} changed" if changes else "equal")
    )
    print_changes(changes)


@click.command("rollback")
@namespace_argument
@click.argument("version", metavar="VERSION", type=VERSION)
@if_version_option
@reason_option
@acting
@as_json
@click.pass_obj
def rollback(
    wired: Wired,
    namespace: NamespaceName,
    version: int,
    if_version: int | None,
    reason: str,
    actor: str,
    as_json: bool,
) -> None:
    """Store once more what was stored at a version, if today's schema takes it; 0: nothing.

    \b
    Example:
      muniment config rollback api 7 --reason "too many for the database"
    """
    with wired.core() as core, told_whole():
        command = RollbackConfiguration(namespace, version, own(wired), past_of(wired, core.log), reason)
        outcome = decided(wired, core, namespace, rollback_configuration, command, actor, if_version)
        tell(wired, core.log, namespace, outcome, as_json)
