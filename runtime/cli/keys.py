"""`muniment keys`: the keyring."""

import click

from api.identity import RotationBody, prepare_revocation, prepare_rotation
from commands.identity import RevokeKey, add_key, revoke_key
from runtime.cli.operator import dispatch, prepared
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_fields, print_json, print_table, say
from runtime.cli.wired import Wired

LONGEST_DELAY_SECONDS = 86_400


@click.group()
def keys() -> None:
    """The keys that sign and derive tokens. Their private parts are never shown.

    \b
    Example:
      muniment keys rotate
    """


@keys.command("list")
@as_json
@click.pass_obj
def list_(wired: Wired, as_json: bool) -> None:
    """List the keys, oldest first.

    \b
    Example:
      muniment keys list
    """
    with wired.core() as core:
        records, now = core.keys.records(), core.keys.now()
        signing = core.keys.signing()[0].key_id
    items = [
        {
            "key_id": key.key_id,
            "purpose": key.purpose,
            "algorithm": key.algorithm,
            "counts_from": key.counts_from,
            "state": "revoked" if key.revoked else "coming" if key.counts_from > now else
                     "signing" if key.key_id == signing else "",
        }
        for key in records
    ]  # fmt: skip
    if as_json:
        print_json({"items": items})
    else:
        print_table(("ID", "PURPOSE", "ALGORITHM", "COUNTS FROM", "STATE"), [list(item.values()) for item in items])


@keys.command("rotate")
@click.option(
    "--delay", metavar="SECONDS", type=click.IntRange(0, LONGEST_DELAY_SECONDS),
    help="How long the new key is published before it signs; MUNIMENT_KEY_OVERLAP_SECONDS unless said.",
)  # fmt: skip
@acting
@as_json
@click.pass_obj
def rotate(wired: Wired, delay: int | None, actor: str, as_json: bool) -> None:
    """Add a signing key; the former verifies until the last token that it signed has expired.

    \b
    Example:
      muniment keys rotate --delay 0
    """
    with wired.core() as core:
        command = prepared(core, lambda ports: prepare_rotation(ports, RotationBody(delay_seconds=delay)))
        outcome = dispatch(core, add_key, command, actor)
    if as_json:
        print_json({"key_id": outcome.result, "position": outcome.position})
        return
    print_fields({"key_id": outcome.result})
    say(f"it signs in {command.delay_seconds} s")


@keys.command("revoke")
@click.argument("key_id", metavar="KEY")
@click.option("--reason", required=True, help="Why; it is in the audit log.")
@acting
@as_json
@click.pass_obj
def revoke(wired: Wired, key_id: str, reason: str, actor: str, as_json: bool) -> None:
    """Believe nothing any more that this key has made. The last of its purpose gets a successor at once.

    \b
    Example:
      muniment keys revoke 2NhCzTpkW3rXbUjq --reason "found in a pastebin"
    """
    with wired.core() as core:
        command = prepared(core, lambda ports: prepare_revocation(ports, RevokeKey(key_id, reason)))
        outcome = dispatch(core, revoke_key, command, actor)
    if as_json:
        print_json({"position": outcome.position})
    else:
        say(f"{key_id} is revoked")
