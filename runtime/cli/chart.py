"""`muniment events chart`: events over time, drawn in the terminal."""

import shutil
from datetime import timedelta
from uuid import UUID

import click

from infra.charting import By, Chart, count_events
from runtime.cli.options import as_json
from runtime.cli.output import print_json, printable, say, utc
from runtime.cli.pictures import Pen, dim, sparkline
from runtime.cli.ranges import ranged
from runtime.cli.wired import Wired
from runtime.ranges import Asked, Place

LEAST_WIDTH, MOST_WIDTH = 8, 400
PIPED_WIDTH = 60
"""Columns of the picture where there is no terminal."""


@click.command("chart")
@ranged
@click.option(
    "--by", type=click.Choice(["type", "outcome"]), default="type", show_default=True,
    help="A row for each event type; or logins: a row for those that succeeded, and one for each reason of a failure.",
)  # fmt: skip
@click.option(
    "--width", metavar="SPANS", type=click.IntRange(LEAST_WIDTH, MOST_WIDTH),
    help="Spans of time, each a character wide. Default: as the terminal allows.",
)  # fmt: skip
@as_json
@click.pass_obj
def chart_command(
    wired: Wired,
    from_: Place | None,
    to: Place | None,
    types: tuple[str, ...],
    stream: UUID | None,
    by: By,
    width: int | None,
    as_json: bool,
) -> None:
    """Draw events over time: a row for each type, with its count; --by outcome draws logins.

    \b
    Example:
      muniment events chart --from 2026-05-01 --to 2026-05-08 --types 'identity.*'
      muniment events chart --by outcome
    """
    if by == "outcome" and types:
        raise click.UsageError("--by outcome is about logins; --types doesn't go with it")
    wired.check()
    with wired.connection() as connection:
        chosen = Asked(from_, to, types, stream).selection(connection)
        buckets = width or (PIPED_WIDTH if as_json else _room())
        chart = count_events(connection, chosen, by, buckets)
    if as_json:
        starts = chart.starts(buckets)
        rows = [{"name": name, "total": sum(counts), "counts": counts} for name, counts in chart.rows.items()]
        print_json({"by": by, "from": chart.begin, "to": chart.end, "span_seconds": chart.span.total_seconds(),
                    "starts": starts, "rows": rows})  # fmt: skip
    else:
        _draw(chart, buckets)


def _room() -> int:
    """What is left beside the names and the counts."""
    columns = shutil.get_terminal_size((PIPED_WIDTH + 48, 24)).columns
    return min(MOST_WIDTH, max(LEAST_WIDTH, columns - 48))


def _draw(chart: Chart, buckets: int) -> None:
    if chart.begin is None or chart.end is None or not chart.rows:
        say("nothing to draw: no such events in this range")
        return
    pen = Pen.of_terminal()
    names = {name: printable(name) for name in chart.rows}
    name_width = max(5, *map(len, names.values()))
    columns = [sum(column) for column in zip(*chart.rows.values(), strict=True)]
    count_width = len(f"{chart.total:,}")
    rows = list(chart.rows.items())
    if len(rows) > 1:
        rows.append(("", columns))
    most = max(max(counts) for counts in chart.rows.values())
    for name, counts in rows:
        drawn = sparkline(counts, most if name else max(columns), pen.blocks)
        line = f"{names.get(name, 'all'):{name_width}}  {sum(counts):{count_width},}  {drawn}".rstrip()
        click.echo(line if name else click.style(line, bold=True))
    left, right = utc(chart.begin), utc(chart.end)
    gap = max(2, buckets - len(left) - len(right))
    click.echo(dim(f"{'':{name_width}}  {'':{count_width}}  {left}{' ' * gap}{right}"))
    click.echo(dim(f"each character is {_length(chart.span)}; the highest is {most:,} events"))


def _length(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60), ("s", 1), ("ms", 0.001)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} us"
