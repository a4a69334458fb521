"""`muniment users`: for the operator at the machine, without a token, by the same handlers as the API."""

from dataclasses import asdict
from uuid import UUID

import click

from commands.identity import (
    EndSession,
    NewPassword,
    NewUser,
    ReactivateUser,
    RenameUser,
    SuspendUser,
    change_password,
    end_session,
    prepare_password_change,
    prepare_registration,
    reactivate_user,
    register_user,
    rename_user,
    suspend_user,
)
from projections import identity
from projections.identity import USERS, sessions_of, user_at, user_by_id
from runtime.cli.operator import dispatch, id_of, prepared, user_id
from runtime.cli.options import acting, as_json, paged
from runtime.cli.output import print_fields, print_json, print_page, print_table, say
from runtime.cli.passwords import given_password, password_options
from runtime.cli.ranges import as_of_option
from runtime.cli.views import ask
from runtime.cli.wired import Wired
from runtime.ranges import Place

user_argument = click.argument("user", metavar="USER")


@click.group()
def users() -> None:
    """Users, their passwords and their sessions.

    USER is an id or an e-mail address.

    \b
    Example:
      muniment users create ada@engine.example --name "Ada Byron" --generate
    """


@users.command("create")
@click.argument("email")
@click.option("--name", required=True, help="What they are called.")
@password_options
@acting
@as_json
@click.pass_obj
def create(
    wired: Wired, email: str, name: str, password_stdin: bool, generate: bool, actor: str, as_json: bool
) -> None:
    """Register a user. Asks for the password unless told otherwise.

    \b
    Example:
      muniment users create ada@engine.example --name "Ada Byron"
      pwgen 20 1 | muniment users create babbage@engine.example --name "Charles" --password-stdin
    """
    given = given_password(password_stdin, generate)
    with wired.core() as core:
        given = given.long_enough(core.settings.password_least_chars)
        new = NewUser(email, name, given.password)
        command = prepared(core, lambda ports: prepare_registration(ports, new))
        outcome = dispatch(core, register_user, command, actor)
    if as_json:
        print_json({"id": outcome.result, "position": outcome.position} | given.to_show)
        return
    say(f"registered {command.email}")
    print_fields({"id": outcome.result} | given.to_show)


@users.command("list")
@click.option("-q", "--search", metavar="TEXT", help="Only those whose e-mail address or name contains it.")
@paged
@as_json
@click.pass_obj
def list_(wired: Wired, search: str | None, limit: int, cursor: int | None, as_json: bool) -> None:
    """List the users, newest first.

    \b
    Example:
      muniment users list --search lovelace
    """
    after = (cursor,) if cursor else None
    found = ask(wired, lambda read: identity.users(read, limit + 1, after, search), USERS)
    rows = found[:limit]
    if not as_json:
        print_table(("NAME", "E-MAIL", "STATUS", "ID"), [(row.name, row.email, row.status, row.id) for row in rows])
    print_page(rows, len(found), lambda row: row.registered_position, as_json, "users")


@users.command("show")
@user_argument
@as_of_option
@as_json
@click.pass_obj
def show(wired: Wired, user: str, as_of: Place | None, as_json: bool) -> None:
    """Show one user, now or as they were.

    \b
    Example:
      muniment users show ada@engine.example --as-of 2026-05-01T12:00:00Z
    """
    user_id = id_of(wired, user)
    if as_of is None:
        row = ask(wired, lambda read: user_by_id(read, user_id), USERS)
    else:
        with wired.log() as log:
            row = user_at(log, user_id, log.moment(as_of)[0])
    (print_json if as_json else print_fields)(asdict(row))


@users.command("rename")
@user_argument
@click.argument("name")
@acting
@as_json
@click.pass_obj
def rename(wired: Wired, user: str, name: str, actor: str, as_json: bool) -> None:
    """Give a user another name.

    \b
    Example:
      muniment users rename ada@engine.example "Ada Lovelace"
    """
    with wired.core() as core:
        outcome = dispatch(core, rename_user, RenameUser(user_id(core, user), name), actor)
    _done(f"{user} is called {name}", outcome.position, as_json)


@users.command("suspend")
@user_argument
@click.option("--reason", default="", help="Why; it is kept with the user and in the audit log.")
@acting
@as_json
@click.pass_obj
def suspend(wired: Wired, user: str, reason: str, actor: str, as_json: bool) -> None:
    """End a user's sessions at once, and refuse new ones.

    \b
    Example:
      muniment users suspend mallory@engine.example --reason "left the company"
    """
    with wired.core() as core:
        outcome = dispatch(core, suspend_user, SuspendUser(user_id(core, user), reason), actor)
    _done(f"{user} is suspended", outcome.position, as_json)


@users.command("reactivate")
@user_argument
@acting
@as_json
@click.pass_obj
def reactivate(wired: Wired, user: str, actor: str, as_json: bool) -> None:
    """Let a suspended user log in again.

    \b
    Example:
      muniment users reactivate mallory@engine.example
    """
    with wired.core() as core:
        outcome = dispatch(core, reactivate_user, ReactivateUser(user_id(core, user)), actor)
    _done(f"{user} may log in", outcome.position, as_json)


@users.command("password")
@user_argument
@password_options
@acting
@as_json
@click.pass_obj
def password(wired: Wired, user: str, password_stdin: bool, generate: bool, actor: str, as_json: bool) -> None:
    """Set a user's password; ends all their sessions.

    \b
    Example:
      muniment users password admin@localhost --generate
    """
    given = given_password(password_stdin, generate)
    with wired.core() as core:
        given = given.long_enough(core.settings.password_least_chars)
        new = NewPassword(user_id(core, user), given.password)
        command = prepared(core, lambda ports: prepare_password_change(ports, new))
        outcome = dispatch(core, change_password, command, actor)
    if given.generated and not as_json:
        print_fields(given.to_show)
    _done(f"{user} has a new password", outcome.position, as_json, **given.to_show)


@users.command("sessions")
@user_argument
@paged
@as_json
@click.pass_obj
def sessions(wired: Wired, user: str, limit: int, cursor: int | None, as_json: bool) -> None:
    """List a user's sessions, newest first.

    \b
    Example:
      muniment users sessions ada@engine.example
    """
    after = (cursor,) if cursor else None
    found = ask(wired, lambda read: sessions_of(read, id_of(wired, user), limit + 1, after), USERS)
    rows = found[:limit]
    if not as_json:
        shown = [(row.id, row.status, row.opened_at, row.refreshed_at, row.ip) for row in rows]
        print_table(("ID", "STATUS", "OPENED", "REFRESHED", "FROM"), shown)
    print_page(rows, len(found), lambda row: row.opened_position, as_json, "sessions")


@users.command("end-session")
@click.argument("session", type=click.UUID)
@click.option("--reason", default="revoked", show_default=True, help="Why.")
@acting
@as_json
@click.pass_obj
def end(wired: Wired, session: UUID, reason: str, actor: str, as_json: bool) -> None:
    """End a session: its tokens stop working at once.

    \b
    Example:
      muniment users end-session 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d
    """
    with wired.core() as core:
        outcome = dispatch(core, end_session, EndSession(session, reason), actor)
    _done("the session has ended", outcome.position, as_json)


def _done(message: str, position: int, as_json: bool, **more: str) -> None:
    if as_json:
        print_json({"position": position} | more)
    else:
        say(message)
