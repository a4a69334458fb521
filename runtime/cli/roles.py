"""`muniment roles`: what roles hold, and who holds them where."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import click

from commands.access import (
    AssignRole,
    ChangeIncludes,
    ChangePermissions,
    CreateRole,
    RemoveRole,
    RevokeRole,
    assign_role,
    change_includes,
    change_permissions,
    create_role,
    remove_role,
    revoke_role,
)
from domain.access import Pattern, RoleName, Scope
from projections.access import ACCESS, fold_user, queries
from projections.errors import whole
from projections.identity import user_at
from runtime.cli.operator import dispatch, id_of, user_id
from runtime.cli.options import Moment, acting, as_json, complete_roles, limited
from runtime.cli.output import print_fields, print_json, print_page, print_table, say
from runtime.cli.ranges import as_of_option
from runtime.cli.views import ask
from runtime.cli.wired import Wired
from runtime.ranges import Place

role_argument = click.argument("role", metavar="ROLE", shell_complete=complete_roles)
user_argument = click.argument("user", metavar="USER")
scope_option = click.option("--scope", default="/", show_default=True, help="Where: there and everywhere below.")
permission_options = click.option(
    "-p", "--permission", "permissions", metavar="PATTERN", multiple=True,
    help="What it holds: resource:action, resource:* or *. Any number.",
)  # fmt: skip
include_options = click.option(
    "-i", "--include", "includes", metavar="ROLE", multiple=True, shell_complete=complete_roles,
    help="A role that it includes. Any number.",
)  # fmt: skip


@click.group()
def roles() -> None:
    """Roles, and who holds them where.

    USER is an id or an e-mail address.

    \b
    Example:
      muniment roles create clerk -p invoice:read -p invoice:write
      muniment roles assign ada@engine.example clerk --scope /acme/eu
    """


@roles.command("list")
@limited
@click.option("--cursor", metavar="ROLE", default="", help="Go on where the page before has ended.")
@as_json
@click.pass_obj
def list_(wired: Wired, limit: int, cursor: str, as_json: bool) -> None:
    """List the roles by name.

    \b
    Example:
      muniment roles list
    """
    found = ask(wired, lambda read: queries.roles(read, limit + 1, (cursor,)), ACCESS)
    rows = found[:limit]
    if not as_json:
        shown = [(row.name, "built in" if row.builtin else "own", row.includes, row.permissions) for row in rows]
        print_table(("NAME", "KIND", "INCLUDES", "PERMISSIONS"), shown)
    print_page(rows, len(found), lambda row: row.name, as_json, "roles")


@roles.command("show")
@role_argument
@as_of_option
@as_json
@click.pass_obj
def show(wired: Wired, role: str, as_of: Place | None, as_json: bool) -> None:
    """Show what one role holds and includes itself, now or at a moment of the past.

    \b
    Example:
      muniment roles show clerk --as-of 2026-05-01T12:00:00Z
    """
    if as_of is None:
        row = ask(wired, lambda read: queries.role_by_name(read, role), ACCESS)
    else:
        with wired.log() as log:
            row = queries.role_at(log, role, log.moment(as_of)[0])
    (print_json if as_json else print_fields)(asdict(row))


@roles.command("create")
@click.argument("name")
@permission_options
@include_options
@acting
@as_json
@click.pass_obj
def create(
    wired: Wired, name: str, permissions: Sequence[str], includes: Sequence[str], actor: str, as_json: bool
) -> None:
    """Define a role.

    \b
    Example:
      muniment roles create clerk -p invoice:read -p "letter:*" --include viewer
    """
    command = CreateRole(RoleName(name), _patterns(permissions), _names(includes))
    with wired.core() as core:
        outcome = dispatch(core, create_role, command, actor)
    if as_json:
        print_json({"name": outcome.result, "position": outcome.position})
    else:
        say(f"there is a role {outcome.result} now")


@roles.command("permissions")
@role_argument
@click.argument("patterns", metavar="PATTERN...", nargs=-1)
@acting
@as_json
@click.pass_obj
def permissions(wired: Wired, role: str, patterns: Sequence[str], actor: str, as_json: bool) -> None:
    """Replace what a role holds itself: from now on exactly these.

    \b
    Example:
      muniment roles permissions clerk invoice:read invoice:write letter:*
    """
    with wired.core() as core:
        command = ChangePermissions(RoleName(role), _patterns(patterns))
        outcome = dispatch(core, change_permissions, command, actor)
    _done(f"{role} holds {', '.join(patterns) or 'nothing'} itself", outcome.position, as_json)


@roles.command("includes")
@role_argument
@click.argument("included", metavar="ROLE...", nargs=-1, shell_complete=complete_roles)
@acting
@as_json
@click.pass_obj
def includes(wired: Wired, role: str, included: Sequence[str], actor: str, as_json: bool) -> None:
    """Replace the roles that a role includes: from now on exactly these.

    \b
    Example:
      muniment roles includes accountant clerk auditor
    """
    with wired.core() as core:
        outcome = dispatch(core, change_includes, ChangeIncludes(RoleName(role), _names(included)), actor)
    _done(f"{role} includes {', '.join(included) or 'nothing'}", outcome.position, as_json)


@roles.command("remove")
@role_argument
@acting
@as_json
@click.pass_obj
def remove(wired: Wired, role: str, actor: str, as_json: bool) -> None:
    """Remove a role: whoever holds it holds nothing by it any more. Its name isn't used again.

    \b
    Example:
      muniment roles remove clerk
    """
    with wired.core() as core:
        outcome = dispatch(core, remove_role, RemoveRole(RoleName(role)), actor)
    _done(f"{role} is no more", outcome.position, as_json)


@roles.command("assign")
@user_argument
@role_argument
@scope_option
@click.option("--until", type=Moment(), help="When it ends by itself: 2026-12-31T18:00:00+01:00.")
@acting
@as_json
@click.pass_obj
def assign(wired: Wired, user: str, role: str, scope: str, until: datetime | None, actor: str, as_json: bool) -> None:
    """Give a user a role at a scope and everywhere below.

    \b
    Example:
      muniment roles assign ada@engine.example clerk --scope /acme/eu --until 2026-12-31
    """
    with wired.core() as core:
        command = AssignRole(user_id(core, user), RoleName(role, field="role"), Scope(scope), until)
        outcome = dispatch(core, assign_role, command, actor)
    _done(f"{user} is {role} at {command.scope}", outcome.position, as_json)


@roles.command("revoke")
@user_argument
@role_argument
@scope_option
@acting
@as_json
@click.pass_obj
def revoke(wired: Wired, user: str, role: str, scope: str, actor: str, as_json: bool) -> None:
    """Take a role at exactly this scope away from a user.

    \b
    Example:
      muniment roles revoke ada@engine.example clerk --scope /acme/eu
    """
    with wired.core() as core:
        command = RevokeRole(user_id(core, user), RoleName(role, field="role"), Scope(scope))
        outcome = dispatch(core, revoke_role, command, actor)
    _done(f"{user} isn't {role} at {command.scope} any more", outcome.position, as_json)


@roles.command("of")
@user_argument
@as_of_option
@as_json
@click.pass_obj
def of(wired: Wired, user: str, as_of: Place | None, as_json: bool) -> None:
    """List the roles that a user has been given, those that have expired too. Straight from the event store.

    \b
    Example:
      muniment roles of ada@engine.example --as-of 4711
    """
    user_id = id_of(wired, user)
    with wired.log() as log:
        position, moment = (log.head(), log.now()) if as_of is None else log.moment(as_of)
        user_at(log, user_id, position)  # there must be such a user
        with whole():
            held = fold_user(log, user_id, position, moment).assignments
    items = [
        {
            "role": each.role,
            "scope": each.scope,
            "expires_at": each.expires_at,
            "expired": each.expires_at is not None and each.expires_at <= moment,
        }
        for each in sorted(held, key=lambda each: (each.scope, each.role))
    ]
    if as_json:
        print_json({"items": items})
        return
    print_table(("ROLE", "SCOPE", "UNTIL", "EXPIRED"), [list(item.values()) for item in items])
    if not items:
        say("no roles")


def _patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, texts))


def _names(texts: Sequence[str]) -> tuple[RoleName, ...]:
    return tuple(RoleName(text, field="include") for text in texts)


def _done(message: str, position: int, as_json: bool) -> None:
    if as_json:
        print_json({"position": position})
    else:
        say(message)
