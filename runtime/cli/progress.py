"""How far a long command has come: one line rewritten on a terminal, a line now and then elsewhere. On stderr."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click

REDRAW_SECONDS = 0.1
"""How often the line on a terminal is drawn anew."""

LINE_SECONDS = 5.0
"""How often a line is printed where there is no terminal."""

WINDOW_SECONDS = 10.0
"""The rate is that of so many seconds past."""

SURE_SECONDS = 4.0
"""So long it is watched how fast the end moves away, before that counts."""

BAR_CHARS = 16
MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60, 3600, 86_400


class Progress:
    """Where the work stands: position, rate, the time it will take. Made by `progress`.

    `total` is where it ends, None if nobody knows; `start` is where it went on from. Counted in `unit`s.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        total: int | None,
        start: int,
        out: TextIO,
        clock: Callable[[], float],
    ) -> None:
        self.position = start
        self._label, self._unit, self._total = label, unit, total
        self._start, self._out, self._clock = start, out, clock
        self._is_terminal = out.isatty()
        self._began = clock()
        self._samples: deque[tuple[float, int, int]] = deque([(self._began, start, total or 0)])
        self._drawn_at = self._began if not self._is_terminal else float("-inf")
        self._drawn = ""
        self._phase = ""

    def advance_to(self, position: int, total: int | None = None) -> None:
        """The work has come so far; `total` where its end has moved."""
        self.position, self._phase = position, ""
        self._total = total if total is not None else self._total
        now = self._clock()
        if len(self._samples) > 1 and now - self._samples[-2][0] < REDRAW_SECONDS:
            self._samples.pop()  # however often it is told, the samples are few
        self._samples.append((now, position, self._total or 0))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()
        if now - self._drawn_at >= (REDRAW_SECONDS if self._is_terminal else LINE_SECONDS):
            self._drawn_at = now
            self._draw(self.line())

    def phase(self, what: str) -> None:
        """What is being done now, while the position stands still; shown at once, until the work goes on."""
        self._phase, self._drawn_at = what, self._clock()
        self._draw(self.line())

    @property
    def per_second(self) -> float:
        """The rate of the last seconds."""
        return self._lately(1)

    @property
    def growth_per_second(self) -> float:
        """How fast the end has moved away in the last seconds; 0 as long as that can't be told from one step."""
        return self._lately(2) if self._samples[-1][0] - self._samples[0][0] >= SURE_SECONDS else 0.0

    @property
    def never_ends(self) -> bool:
        """Whether the end moves away as fast as the work comes forward."""
        return 0 < self.growth_per_second >= self.per_second

    @property
    def eta_seconds(self) -> float | None:
        """How long it will take at this rate; None if that can't be said."""
        nearer = self.per_second - self.growth_per_second
        if self._total is None or nearer <= 0:
            return None
        return max(0, self._total - self.position) / nearer

    def _lately(self, column: int) -> float:
        first, last = self._samples[0], self._samples[-1]
        return (last[column] - first[column]) / (last[0] - first[0]) if last[0] > first[0] else 0.0

    def line(self) -> str:
        """`identity  [#####---]  62%  31,000 of 50,000 events  12,400/s  2 s left`, or what is done meanwhile."""
        parts = [self._label]
        if self._phase:
            of = f" of {self._total:,}" if self._total is not None else ""
            return "  ".join([*parts, f"{self.position:,}{of} {self._unit}", self._phase])
        if self._total:
            share = min(1.0, self.position / self._total)
            if self._is_terminal:
                parts.append(f"[{'#' * int(share * BAR_CHARS):-<{BAR_CHARS}}]")
            parts.append(f"{share:4.0%}")
        of = f" of {self._total:,}" if self._total is not None else ""
        parts.append(f"{self.position:,}{of} {self._unit}")
        parts.append(f"{self.per_second:,.0f}/s")
        if self.position < (self._total or 0):
            if self.never_ends:
                parts.append(f"it won't end so: {self.growth_per_second:,.0f}/s are added")
            elif self.eta_seconds is not None:
                parts.append(f"{duration(self.eta_seconds)} left")
        return "  ".join(parts)

    def close(self, *, done: bool) -> None:
        """The last line: what it came to, at which rate altogether. None where it was stopped before it began."""
        if not done and len(self._samples) == 1:
            return
        seconds = self._clock() - self._began
        moved = self.position - self._start
        rate = f", {moved / seconds:,.0f}/s" if seconds > 0 else ""
        end = "" if done else "stopped at "
        self._draw(f"{self._label}  {end}{self.position:,} {self._unit} in {duration(seconds)}{rate}")
        if self._is_terminal:
            self._out.write("\n")
            self._out.flush()

    def _draw(self, line: str) -> None:
        if not self._is_terminal:
            click.echo(line, file=self._out)
            return
        line = line[: max(1, shutil.get_terminal_size().columns - 1)]
        self._out.write(f"\r{line:<{len(self._drawn)}}")
        self._out.flush()
        self._drawn = line


@contextmanager
def progress(
    label: str,
    unit: str,
    total: int | None = None,
    *,
    start: int = 0,
    out: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Shows on stderr how far the block has come, by `advance_to(position)`; at the end a line that sums it up.

    On a terminal one line with a bar is rewritten; elsewhere there is a line every few seconds. `start` is where the
    work goes on from, so that the rate is that of this run.
    """
    shown = Progress(label, unit, total, start, out or sys.stderr, clock)
    done = False
    try:
        yield shown
        done = True
    finally:
        shown.close(done=done)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in (
        (DAY_SECONDS, "d", HOUR_SECONDS, "h"),
        (HOUR_SECONDS, "h", MINUTE_SECONDS, "min"),
        (MINUTE_SECONDS, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {smaller_name}"
    return f"{whole} s"
