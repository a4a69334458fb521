"""What can be drawn with characters: sparklines, and the lines of a tree."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*#@"


@dataclass(frozen=True, slots=True)
class Pen:
    """The characters that this terminal can show."""

    blocks: str
    branch: str
    last: str
    down: str
    arrow: str

    @classmethod
    def of_terminal(cls) -> "Pen":
        """Plain ASCII where NO_COLOR or a dumb terminal asks for it, or where stdout can't encode more."""
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        try:
            f"{BLOCKS}├└│".encode(sys.stdout.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            plain = True
        return ASCII if plain else UNICODE


UNICODE = Pen(BLOCKS, "├─ ", "└─ ", "│  ", "↳")
ASCII = Pen(ASCII_BLOCKS, "|- ", "`- ", "|  ", "->")


def sparkline(counts: Sequence[int], most: int, blocks: str) -> str:
    """A character for each count, its height by the largest; nothing for none at all, never for some."""
    if most <= 0:
        return " " * len(counts)
    top = len(blocks)
    return "".join(" " if count <= 0 else blocks[max(1, -(-count * top // most)) - 1] for count in counts)


def dim(text: str) -> str:
    """For what is of less interest."""
    return click.style(text, dim=True)
