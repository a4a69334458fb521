"""`muniment analytics`: views of the log for SQL tools, and who may read them."""

import secrets
import sys

import click
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from commands.analytics import GrantAnalytics, RevokeAnalytics, grant_analytics, revoke_analytics
from infra.analytics import readers
from infra.analytics.schema import NoAnalytics, Refreshed, is_current, refresh
from infra.analytics.views import PERSONAL_SCHEMA, SCHEMA, views
from infra.configuration.instance import for_one_command
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.transcoding import event_types
from runtime.cli.operator import context_of
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, print_table, say
from runtime.cli.wired import Wired

PASSWORD_BYTES = 24
PASSWORD_CHARS = 12


def _role_name(_: click.Context, __: click.Parameter, name: str) -> str:
    if not name.isprintable() or not 1 <= len(name.encode()) <= readers.NAME_CHARS or name == "public":
        raise click.BadParameter(f"a role's name has 1 to {readers.NAME_CHARS} visible characters")
    return name


role_argument = click.argument("role", callback=_role_name)


@click.group()
def analytics() -> None:
    """Views of the log for SQL tools, and who may read them.

    \b
    Example:
      muniment analytics grant metabase --create
    """


@analytics.command("status")
@as_json
@click.pass_obj
def status(wired: Wired, as_json: bool) -> None:
    """Tell whether the views are this release's, and who may read them.

    \b
    Example:
      muniment analytics status
    """
    wired.check()
    with wired.connection() as connection:
        current = is_current(connection, event_types())
        found = readers.readers(connection)
    if as_json:
        print_json({"current": current, "views": len(views(event_types())), "readers": found})
        return
    say("the views are this release's" if current else "the views aren't this release's: `muniment analytics refresh`")
    print_table(("role", "reads", "personal"), [(r.role, _schemas(r.personal), r.personal) for r in found])


@analytics.command("refresh")
@as_json
@click.pass_obj
def refresh_command(wired: Wired, as_json: bool) -> None:
    """Make the views that this release's events need. Each start does so, too.

    \b
    Example:
      muniment analytics refresh
    """
    wired.check()
    with wired.connection() as connection:
        done = _refreshed(connection)
    if as_json:
        print_json({"state": done.state, "changed": done.changed})
    elif done.state == "newer":
        say("a newer release has made the views; they stay")
    else:
        say(f"{len(done.changed)} views made" if done.changed else "nothing to do")


@analytics.command("grant")
@role_argument
@click.option("--create", is_flag=True, help="Create the role, with a password that is shown this once.")
@click.option("--password-stdin", is_flag=True, help="With --create: read its password from stdin instead.")
@click.option("--personal", is_flag=True, help=f"Also {PERSONAL_SCHEMA}: the fields that tell something about people.")
@acting
@as_json
@click.pass_obj
def grant(
    wired: Wired, role: str, create: bool, password_stdin: bool, personal: bool, actor: str, as_json: bool
) -> None:
    """Let a role of PostgreSQL's read the views, and nothing else. The audit log says so.

    \b
    Example:
      muniment analytics grant metabase --create
    """
    if password_stdin and not create:
        raise click.UsageError("--password-stdin goes with --create")
    password = _password(password_stdin) if create else None
    with wired.log() as log, wired.connection() as connection:
        _refreshed(connection)
        try:
            if password is None:
                readers.check(connection, role)
            else:
                readers.create(connection, role, password)
            Dispatcher(log, live=for_one_command(wired.settings)).dispatch(
                grant_analytics, GrantAnalytics(role, personal), context_of(actor)
            )
            readers.grant(connection, role, personal=personal)
        except readers.NotAReader as error:
            raise click.ClickException(str(error)) from error
    shown = None if password_stdin else password
    address = _address(wired, role)
    if as_json:
        print_json({"role": role, "schemas": _schemas(personal).split(", "), "password": shown, "address": address})
        return
    say(f"{role} may read {_schemas(personal)}, at {address}")
    if shown:
        click.echo(f"password (shown this once): {shown}")


@analytics.command("revoke")
@role_argument
@acting
@as_json
@click.pass_obj
def revoke(wired: Wired, role: str, actor: str, as_json: bool) -> None:
    """Let a role read nothing here any more. The role itself stays.

    \b
    Example:
      muniment analytics revoke metabase
    """
    with wired.log() as log, wired.connection() as connection:
        if not readers.exists(connection, role):
            raise click.ClickException(f"there is no role {role}")
        Dispatcher(log, live=for_one_command(wired.settings)).dispatch(
            revoke_analytics, RevokeAnalytics(role), context_of(actor)
        )
        readers.revoke(connection, role)
    if as_json:
        print_json({"role": role})
    else:
        say(f"{role} may read nothing here any more; connections that it has keep what they have fetched")


def _dispatcher(wired: Wired, log: Log) -> Dispatcher:
    """Secrets aren't needed, so this is no whole core; the configuration of now goes into the events all the same."""
    return Dispatcher(log, live=for_one_command(wired.settings))


def _refreshed(connection: Connection[TupleRow]) -> Refreshed:
    try:
        return refresh(connection, event_types())
    except NoAnalytics as error:
        raise click.ClickException(str(error)) from error


def _password(from_stdin: bool) -> str:
    if not from_stdin:
        return secrets.token_urlsafe(PASSWORD_BYTES)
    given = sys.stdin.readline().rstrip("\n")
    if len(given) < PASSWORD_CHARS:
        raise click.ClickException(f"a password has at least {PASSWORD_CHARS} characters")
    return given


def _address(wired: Wired, role: str) -> str:
    """How the role connects; without the platform's own password."""
    known = conninfo_to_dict(wired.settings.postgres_url)
    kept = {name: known[name] for name in ("host", "port", "dbname") if known.get(name)}
    return make_conninfo("", **kept, user=role)


def _schemas(personal: bool) -> str:
    return f"{SCHEMA}, {PERSONAL_SCHEMA}" if personal else SCHEMA
