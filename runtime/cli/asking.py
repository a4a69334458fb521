"""`muniment who` and `muniment explain`: who may do what, and why, now or at any moment of the past."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import click
import msgspec

from domain.access import Permission, Scope
from domain.identity import User
from infra.event_store import Log
from projections.access import ACCESS, Because, Explained, Fact, Near, explain_fold, fold_user, holders
from projections.errors import whole
from runtime.cli.operator import id_of
from runtime.cli.options import as_json, limited
from runtime.cli.output import print_page, print_table, text, utc
from runtime.cli.ranges import as_of_option
from runtime.cli.views import ask
from runtime.cli.wired import Wired
from runtime.ranges import Place

DENIED = 1
"""The exit status where the answer is no, so that nothing is done in doubt; stdout has the answer all the same."""

scope_option = click.option("--scope", default="/", show_default=True, help="Where.")


@click.command("who")
@click.argument("permission")
@scope_option
@as_of_option
@limited
@click.option("--cursor", metavar="ID", type=click.UUID, help="Go on after this user.")
@as_json
@click.pass_obj
def who(
    wired: Wired, permission: str, scope: str, as_of: Place | None, limit: int, cursor: UUID | None, as_json: bool
) -> None:
    """List who may do something somewhere, and by which assignments.

    \b
    Example:
      muniment who invoice:read --scope /acme/eu --as-of 2026-05-01T12:00:00Z
    """
    after = (cursor,) if cursor else None
    with wired.log() as log:
        found = ask(wired, lambda read: holders.who(read, log, permission, scope, limit + 1, as_of, after), ACCESS)
        rows = found[:limit]
        if not as_json:
            names = Names(log, log.head())
            shown = [
                (names.of(f"user:{row.user_id}"), given.role, given.scope, given.expires_at, row.user_id)
                for row in rows
                for given in row.assignments
            ]
            print_table(("USER", "ROLE", "SCOPE", "UNTIL", "ID"), shown)
    print_page(rows, len(found), lambda row: row.user_id, as_json, "users")


@click.command("explain")
@click.argument("user", metavar="USER")
@click.argument("permission")
@scope_option
@as_of_option
@as_json
@click.pass_context
def explain(context: click.Context, user: str, permission: str, scope: str, as_of: Place | None, as_json: bool) -> None:
    """Tell why a user may do something, or why not and what nearly would have done. Straight from the event store.

    USER is an id or an e-mail address. The exit status is 1 where the answer is no.

    \b
    Example:
      muniment explain ada@engine.example invoice:read --scope /acme/eu --as-of 2026-05-01T12:00:00Z
    """
    wired: Wired = context.obj
    wanted, place = Permission(permission), Scope(scope)
    asked_id = id_of(wired, user)
    with wired.log() as log:
        with whole():
            explained = _explained(log, asked_id, wanted, place, as_of)
        if as_json:
            click.echo(msgspec.json.encode(explained).decode())
        else:
            _print(explained, f"{user} {wanted} at {place}", Names(log, explained.position))
    if not explained.allowed:
        context.exit(DENIED)


def _explained(log: Log, user: UUID, permission: str, scope: str, as_of: Place | None) -> Explained:
    if as_of is None:
        position, moment = log.head(), log.now()
    else:
        position, moment = log.moment(as_of)
    return explain_fold(log, fold_user(log, user, position, moment), permission, scope)


class Names:
    """Actors as people know them: e-mail addresses of users, as of a position."""

    def __init__(self, log: Log, position: int) -> None:
        self._log, self._position = log, position
        self._known: dict[str, str] = {}

    def of(self, actor: str) -> str:
        """`user:0192…` is looked up, once."""
        if actor not in self._known:
            self._known[actor] = self._look_up(actor)
        return self._known[actor]

    def _look_up(self, actor: str) -> str:
        kind, _, rest = actor.partition(":")
        if kind != "user":
            return actor
        for recorded in self._log.read_stream(UUID(rest), 0, self._position, limit=1):
            if isinstance(recorded.event, User.Registered):
                return str(vars(recorded.event)["email"])
        return actor


def _print(explained: Explained, question: str, names: Names) -> None:
    because = explained.because
    verdict = click.style("allowed", fg="green") if explained.allowed else click.style("denied", fg="red")
    click.echo(f"{verdict}  {text(question)}  (position {explained.position})")
    lines = _granted(because, names) if explained.allowed else _denied(because, names)
    for line in lines:
        click.echo(line)


def _granted(because: Because, names: Names) -> Iterator[str]:
    if because.assignment and because.permission:
        scope = because.scope or "/"
        yield from _path(scope, because.assignment, because.roles, because.permission, because.expires_at, names)


REASONS: Mapping[str, str] = {
    "not-granted": "nothing that this user has been given allows it",
    "user-unknown": "there was no such user",
    "suspended": "the user is suspended",
}


def _denied(because: Because, names: Names) -> Iterator[str]:
    yield f"  {REASONS[because.reason]}{_done(because.suspended, names)}"
    if because.missing:
        yield f"  it needs  {' or '.join(because.missing.patterns)}"
        yield f"  at        {' or '.join(map(text, because.missing.scopes))}"
    for near in because.near:
        yield f"  {NEARLY[near.kind]}{_when(near)}{_done(near.ended, names)}"
        path = _path(near.scope, near.assignment, near.roles, near.permission, near.expires_at, names)
        yield from (f"    {line}" for line in path)


NEARLY: Mapping[str, str] = {
    "suspended": "were it not so, this would allow it",
    "revoked": "the role was revoked",
    "permission-removed": "the permission was taken out of the role",
    "include-removed": "the role doesn't include the other any more",
    "role-removed": "the role was removed",
    "expired": "it has expired",
    "elsewhere": "at another scope it is allowed",
    "other-action": "another action is allowed",
}


def _when(near: Near) -> str:
    if near.kind == "expired" and near.expires_at:
        return f" at {utc(near.expires_at)}"
    return f": {text(near.ended.name)}" if near.ended and near.kind != "revoked" else ""


def _path(scope: str, assignment: Fact, roles: Any, permission: Fact, expires_at: Any, names: Names) -> Iterator[str]:
    until = f" until {utc(expires_at)}" if expires_at else ""
    yield f"  role {text(assignment.name)} at {text(scope)}{until}{_done(assignment, names)}"
    indent = "  "
    for role in roles:
        yield f"{indent}└─ includes {text(role.name)}{_done(role, names)}"
        indent += "   "
    yield f"{indent}└─ holds {text(permission.name)}{_done(permission, names)}"


def _done(fact: Fact | None, names: Names) -> str:
    if fact is None:
        return ""
    return click.style(f"  {text(names.of(fact.by))}, {utc(fact.at)}, position {fact.position}", dim=True)
