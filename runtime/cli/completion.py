"""Completion of commands, options and what is cheap to know, in the operator's shell."""

from typing import Any, cast

import click
from click.shell_completion import get_completion_class

VARIABLE = "_MUNIMENT_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in your shell.

    It completes commands, options, names of projections and roles, and types of events. bash needs 4.4 or later.

    \b
    Example:
      eval "$(muniment completion bash)"                                  # in ~/.bashrc
      muniment completion fish > ~/.config/fish/completions/muniment.fish
    """
    kind = cast("Any", get_completion_class(shell))
    click.echo(kind(context.find_root().command, {}, "muniment", VARIABLE).source())
