"""`muniment backup` and `muniment restore`: the log as one file, and a platform out of it."""

from typing import Any

import click

from infra.backup.form import Header
from runtime.backup import STANDARD, Made, make, verified
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_fields, print_json, say
from runtime.cli.wired import Wired
from runtime.restore import restore as run


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--since", metavar="EARLIER", help="Copy only what this earlier backup hasn't.")
@click.option("--verify", is_flag=True, help="Copy nothing: check a backup that exists, and tell what is in it.")
@acting
@as_json
@click.pass_obj
def backup(wired: Wired, file: str, force: bool, since: str | None, verify: bool, actor: str, as_json: bool) -> None:
    """Copy the log into one file, while the platform serves.

    `-` is standard output. The file has every event up to one position, personal data in clear: it is for its owner
    alone (0600). It has none of the secrets: keep those, too, or nobody can restore it.

    \b
    Example:
      muniment backup /var/backups/muniment-2026-05-01.backup
      muniment backup - | age -r age1... > muniment.backup.age
    """
    if verify and (force or since):
        raise click.UsageError("--verify copies nothing: it goes with neither --force nor --since")
    if verify:
        made, sealed = verified(wired.given, file)
        _print(made, as_json, seal="right" if sealed else "not checked: the master key isn't at hand")
        return
    with wired.core() as core:
        made = make(core, file, actor, force=force, since=since)
    _print(made, as_json, to_stderr=file == STANDARD)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@acting
@as_json
@click.pass_obj
def restore(wired: Wired, files: tuple[str, ...], actor: str, as_json: bool) -> None:
    """Make a platform out of a backup of its log.

    `-` is standard input. The platform must be stopped and its log empty, and the secrets of the installation that
    the backup is from must be given (MUNIMENT_MASTER_KEY, MUNIMENT_PEPPER, MUNIMENT_CLAIM_KEY, or their files in
    the data folder). All events are brought in, or none; then the views are made. Several files are one backup and
    those made with --since of the one before.

    \b
    Example:
      MUNIMENT_DATA=/var/lib/muniment muniment restore /var/backups/muniment-2026-05-01.backup
    """
    done = run(wired.given, files, actor, say)
    summary: dict[str, Any] = {
        "position": done.position,
        "events": done.events,
        "head": done.head,
        "release": done.header.release,
        "created_at": done.header.created_at,
    }
    if as_json:
        print_json(summary)
    else:
        print_fields(summary)
        say("everything is there: start the platform (`muniment up`)")


def _print(made: Made, as_json: bool, *, seal: str = "", to_stderr: bool = False) -> None:
    """On stdout, unless the backup itself goes there."""
    summary = made.summary() | ({"seal": seal} if seal else {})
    if to_stderr:
        say(f"{made.header.events} events up to {made.header.position}, sha256 {made.sha256}")
    elif as_json:
        print_json(summary)
    else:
        print_fields(_readable(made.header, summary))


def _readable(header: Header, summary: dict[str, Any]) -> dict[str, Any]:
    return summary | {
        "after": header.after or None,
        "keys": [f"{name} {id_}" for name, id_ in header.keys.items()],
        "types": None,
    }
