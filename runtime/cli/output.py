"""How the commands print: results on stdout, everything else on stderr."""

import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import orjson

Value = Any
Row = Mapping[str, Value]

GAP = "  "


def say(message: str) -> None:
    """Progress and messages."""
    click.echo(message, err=True)


def print_json(value: object) -> None:
    """One line; times in UTC as RFC 3339 has them."""
    click.echo(orjson.dumps(value, option=orjson.OPT_UTC_Z, default=str).decode())


def print_page(rows: Sequence[Any], fetched: int, cursor: Callable[[Any], Any], as_json: bool, title: str) -> None:
    """The end of a list: as JSON the whole page, else only where the next one begins.

    `fetched` is how many rows there were, one more than asked if there is a next page; `cursor` tells a row's place.
    """
    following = cursor(rows[-1]) if fetched > len(rows) else None
    if as_json:
        print_json({"items": rows, "next": following})
    elif following is not None:
        say(f"there are more: --cursor {following}")
    elif not rows:
        say(f"no {title}")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
    """Aligned columns under their titles; numbers to the right. Prints nothing without rows."""
    if not rows:
        return
    cells = [[text(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    right = [all(isinstance(row[n], int | float) for row in rows) for n in range(len(titles))]
    click.echo(click.style(cut(_line(titles, widths, right)), bold=True))
    for row in cells:
        click.echo(cut(_line(row, widths, right)))


def print_fields(fields: Row) -> None:
    """One thing: its fields below each other, without what is None."""
    known = {name: value for name, value in fields.items() if value is not None}
    width = max(map(len, known), default=0)
    for name, value in known.items():
        click.echo(f"{click.style(f'{name:{width}}', bold=True)}{GAP}{text(value)}".rstrip())


def fields_in_line(fields: Row) -> str:
    """`name=Ada reason="left the company"`; what is None or empty is left out."""
    return " ".join(f"{name}={_quoted(text(value))}" for name, value in fields.items() if value not in (None, "", []))


def text(value: Value) -> str:
    """A value for people: times in UTC, nothing for None, and no character that could drive the terminal."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return utc(value)
        case float():
            return f"{value:.1f}"
        case list() | tuple() | set() | frozenset():
            return ", ".join(map(text, value)) or "-"
        case _:
            return printable(str(value))


def utc(moment: datetime) -> str:
    """`2026-01-31 23:59:59`, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def printable(given: str) -> str:
    """The text with its control characters written out: what strangers sent must not drive the terminal."""
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in given)


def _quoted(said: str) -> str:
    return said if said and " " not in said and '"' not in said else orjson.dumps(said).decode()


def cut(line: str) -> str:
    """The line as far as the terminal goes; whole where there is no terminal."""
    if not sys.stdout.isatty():
        return line
    columns = shutil.get_terminal_size().columns
    return line if _width(line) <= columns else f"{line[: columns - 1]}…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        f"{' ' * (width - _width(cell))}{cell}" if to_right else f"{cell}{' ' * (width - _width(cell))}"
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return GAP.join(padded).rstrip()


def _width(cell: str) -> int:
    """Columns that it takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in cell)
    return len(cell) + wide - sum(unicodedata.combining(c) > 0 for c in cell)
