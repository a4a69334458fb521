"""What the commands about parked events share: those of views, and those that a reaction couldn't react to."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from runtime.cli.options import acting, as_json, paged
from runtime.cli.output import print_json, print_page, print_table, say

F = TypeVar("F", bound=Callable[..., Any])

WAITS = "(waits)"
"""In place of an error: nothing is wrong with this one, it waits behind another of its stream."""

_position = click.argument("position", type=click.IntRange(min=1))
_reason = click.option("--reason", required=True, help="Why; it is in the audit log.")
_only_stream = click.option("--stream", type=click.UUID, help="Only those of one stream.")
_traceback = click.option("--traceback", is_flag=True, help="With the whole traceback of each.")


def listing(function: F) -> F:
    """Adds `--stream`, `--traceback`, and what lists have."""
    return _only_stream(_traceback(paged(as_json(function))))


def retrying(function: F) -> F:
    """Adds `--stream`, and what recording commands have."""
    return click.option("--stream", type=click.UUID, help="Only the events of one stream.")(acting(as_json(function)))


def skipping(function: F) -> F:
    """Adds the position and `--reason`, and what recording commands have."""
    return _position(_reason(acting(as_json(function))))


def print_parked(found: Sequence[Any], limit: int, *, traceback: bool, as_json: bool) -> None:
    """Parked events in the order of the log; `found` is one more than `limit` where there are more."""
    rows = found[:limit]
    if traceback and not as_json:
        for row in rows:
            click.echo(f"{row.position} {row.topic} of {row.stream}\n{row.traceback or row.error or WAITS}")
    elif not as_json:
        shown = [(row.position, row.topic, row.attempts, row.stream, row.error or WAITS) for row in rows]
        print_table(("POSITION", "TYPE", "ATTEMPTS", "STREAM", "ERROR"), shown)
    items = [asdict(row) for row in rows]
    print_page(items, len(found), lambda row: row["position"], as_json, "parked events")


def done(message: str, position: int, as_json: bool) -> None:
    """Says that a decision is recorded; as JSON, at which position."""
    if as_json:
        print_json({"position": position})
    else:
        say(message)
