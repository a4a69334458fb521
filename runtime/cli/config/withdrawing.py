"""Doing away with a namespace of one's own."""

import click

from commands.configuration import WithdrawNamespace, withdraw_namespace
from domain.configuration import NamespaceName
from runtime.cli.config.shared import decided, if_version_option, namespace_argument, own, reason_option
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, say
from runtime.cli.wired import Wired


@click.command("withdraw")
@namespace_argument
@if_version_option
@reason_option
@acting
@as_json
@click.pass_obj
def withdraw(
    wired: Wired, namespace: NamespaceName, if_version: int | None, reason: str, actor: str, as_json: bool
) -> None:
    """Do away with a namespace of your own. Its past stays in the log; declared again, it begins empty.

    \b
    Example:
      muniment config withdraw shop --reason "the shop is closed"
    """
    with wired.core() as core:
        command = WithdrawNamespace(namespace, own(wired), reason)
        outcome = decided(wired, core, namespace, withdraw_namespace, command, actor, if_version)
    if as_json:
        print_json({"namespace": namespace, "position": outcome.position})
    else:
        say(f"{namespace} is no more")
