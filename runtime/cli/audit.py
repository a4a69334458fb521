"""`muniment audit`: who did what, on what, with which outcome, when, from where."""

from datetime import datetime

import click

from commands.audit import RecordRead, record_read
from projections.audit import AUDIT, AuditEntry, audit_entries
from runtime.cli.operator import dispatch
from runtime.cli.options import Moment, acting, as_json, paged
from runtime.cli.output import cut, fields_in_line, print_page, text, utc
from runtime.cli.views import ask
from runtime.cli.wired import Wired


@click.group()
def audit() -> None:
    """The audit log. Reading it is in it.

    \b
    Example:
      muniment audit list --outcome failure
    """


@audit.command("list")
@click.option("--actor", "who", metavar="ACTOR", help="Who: user:ID, operator:NAME, anonymous:, ...")
@click.option("--action", help="What: login.failed, role.assigned, ...")
@click.option("--target", help="On what: user:ID, role:NAME, ...")
@click.option("--outcome", type=click.Choice(["success", "failure"]))
@click.option("--from", "from_", type=Moment(), help="Not before (a date is in UTC).")
@click.option("--to", type=Moment(), help="Before (a date is in UTC).")
@paged
@acting
@as_json
@click.pass_obj
def list_(
    wired: Wired,
    who: str | None,
    action: str | None,
    target: str | None,
    outcome: str | None,
    from_: datetime | None,
    to: datetime | None,
    limit: int,
    cursor: int | None,
    actor: str,
    as_json: bool,
) -> None:
    """List the entries, newest first.

    \b
    Example:
      muniment audit list --action login.failed --from 2026-05-01
    """
    with wired.core() as core:
        dispatch(core, record_read, RecordRead("muniment audit list"), actor)
    found = ask(
        wired,
        lambda read: audit_entries(
            read, limit + 1, (cursor,) if cursor else None, who, action, target, outcome, from_, to
        ),
        AUDIT,
    )
    rows = found[:limit]
    if not as_json:
        for row in rows:
            _print(row)
    print_page(rows, len(found), lambda row: row.position, as_json, "entries")


def _print(entry: AuditEntry) -> None:
    """Two lines of at most about 100 columns."""
    outcome = entry.outcome if entry.count == 1 else f"{entry.outcome} x{entry.count}"
    colour = "red" if entry.outcome == "failure" else None
    first = f"{entry.position:8}  {utc(entry.time)}  {click.style(f'{outcome:12}', fg=colour)}  {text(entry.action)}"
    click.echo(f"{first}  {click.style(text(entry.ip), dim=True)}" if entry.ip else first)
    second = f"{'':8}  {text(entry.actor)} on {text(entry.target)}  {fields_in_line(entry.detail)}"
    click.echo(click.style(cut(second.rstrip()), dim=True))
