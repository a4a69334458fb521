"""`muniment jobs top`: queues, rates and what runs, live in the terminal."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

import click
import psycopg
from psycopg import Connection

from domain.jobs import JobState
from projections.jobs import JOBS, JobRow, QueueRow, WorkerRow, jobs, queues, take_forward, tallies, workers
from projections.read import Read, Reader
from runtime.cli.options import as_json
from runtime.cli.output import print_json, printable, utc
from runtime.cli.progress import duration
from runtime.cli.wired import Wired

RUNNING_SHOWN = 200
"""Running jobs that are looked at; a terminal shows those for which it has lines."""

WINDOW_SECONDS = 10.0
"""Rates are those of so many seconds past."""

BAR_CHARS = 12
ALTERNATE, BACK, HOME, REST = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[J"
LINE_REST = "\x1b[K"
"""Of a terminal (ECMA-48, xterm): another screen, the first one, its beginning, what is below, the rest of the line."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How everything stands at a time. `ended` are all attempts that ever ended, by outcome."""

    at: datetime
    queues: list[QueueRow]
    running: list[JobRow]
    workers: list[WorkerRow]
    ended: dict[str, int]


@dataclass
class Rates:
    """How many attempts end per second, over the window."""

    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)

    def add(self, seconds: float, ended: dict[str, int]) -> None:
        """At a time of a steady clock, so many had ended."""
        self.samples.append((seconds, ended))
        while len(self.samples) > 2 and self.samples[1][0] <= seconds - WINDOW_SECONDS:
            self.samples.pop(0)

    def per_second(self) -> dict[str, float]:
        """By outcome; empty as long as there is one sample."""
        (began, first), (until, last) = self.samples[0], self.samples[-1]
        if until <= began:
            return {}
        return {name: (count - first.get(name, 0)) / (until - began) for name, count in last.items()}


def frame(read: Read) -> Frame:
    """One look, in one snapshot."""
    ended: dict[str, int] = {}
    for each in tallies(read):
        if each.what == "outcome":
            ended[each.label] = ended.get(each.label, 0) + each.count
    return Frame(
        datetime.now(UTC), queues(read), jobs(read, RUNNING_SHOWN, state=JobState.RUNNING), workers(read), ended
    )


@click.command("top")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between two looks."
)
@as_json
@click.pass_obj
def top(wired: Wired, interval: float, as_json: bool) -> None:
    """Show the queues, rates and running jobs, live; Ctrl-C ends it. Without a terminal, and with --json, once.

    \b
    Example:
      muniment jobs top
    """
    wired.check()
    if as_json:
        found = _look(wired.connection)
        print_json(asdict(found))
    elif not sys.stdout.isatty():
        click.echo("\n".join(lines(_look(wired.connection), {}, 10_000, 500)))
    else:
        with _screen(sys.stdout) as draw:
            _watch(wired.connection, draw, interval)


def _look(connect: Callable[[], Any]) -> Frame:
    take_forward(connect)
    return Reader(connect).run(frame, JOBS).value


def _watch(connect: Callable[[], Any], draw: Callable[[list[str]], None], interval_seconds: float) -> None:
    """Draws until Ctrl-C; what PostgreSQL says when it is away stands in the place of the picture."""
    rates = Rates()
    while True:
        try:
            with connect() as connection:
                while True:
                    found = _look(_lent(connection))
                    rates.add(time.monotonic(), found.ended)
                    size = shutil.get_terminal_size()
                    draw(lines(found, rates.per_second(), size.lines, size.columns))
                    time.sleep(interval_seconds)
        except (psycopg.OperationalError, click.ClickException) as error:
            draw([f"PostgreSQL is away; trying again ({printable(str(error).splitlines()[0])})"])
            time.sleep(max(interval_seconds, 1.0))


def _lent(connection: Connection[Any]) -> Callable[[], Any]:
    @contextmanager
    def lend() -> Iterator[Connection[Any]]:
        yield connection

    return lend


@contextmanager
def _screen(out: TextIO) -> Iterator[Callable[[list[str]], None]]:
    """The terminal's other screen, given back at the end, however that comes."""

    def draw(shown: list[str]) -> None:
        out.write(HOME + "".join(f"{line}{LINE_REST}\r\n" for line in shown[:-1]) + f"{shown[-1]}{LINE_REST}{REST}")
        out.flush()

    out.write(ALTERNATE)
    try:
        yield draw
    except KeyboardInterrupt:
        pass
    finally:
        out.write(BACK)
        out.flush()


def lines(found: Frame, per_second: dict[str, float], height: int, width: int) -> list[str]:
    """The picture, for a terminal of this size."""
    shown = [*_summary(found, per_second), "", *_queue_lines(found.queues), ""]
    room = max(0, height - len(shown) - 1)
    shown += _running_lines(found, room)
    return [line[: width - 1] for line in shown[:height]]


def _summary(found: Frame, per_second: dict[str, float]) -> Iterator[str]:
    alive = [worker for worker in found.workers if worker.alive]
    threads = sum(worker.threads for worker in alive)
    yield f"{utc(found.at)} UTC   {len(alive)} workers, {threads} threads   {len(found.running)} running"
    failed = sum(rate for name, rate in per_second.items() if name not in {"succeeded", "cancelled", "snoozed"})
    if per_second:
        yield f"{per_second.get('succeeded', 0.0):,.1f}/s succeed   {failed:,.1f}/s fail"
    total = ", ".join(f"{count:,} {name}" for name, count in sorted(found.ended.items()))
    yield f"ever: {total or 'nothing has ended yet'}"


_QUEUE = "{:24} {:>9} {:>8} {:>8} {:>8} {:>8} {:>10} {:>12} {:>9}  {}"


def _queue_lines(rows: list[QueueRow]) -> Iterator[str]:
    yield _QUEUE.format(
        "QUEUE", "PENDING", "RUNNING", "WAITING", "RETRY", "DEAD", "DONE", "OLDEST", "LAST MIN", ""
    ).rstrip()
    for row in rows:
        counts = row.counts
        standing = "paused" if row.paused else ""
        limit = f"at most {row.limit}" if row.limit is not None else ""
        oldest = "-" if row.oldest_seconds is None else duration(row.oldest_seconds)
        yield _QUEUE.format(
            row.name[:24], counts["pending"], counts["running"], counts["waiting"], counts["retry-scheduled"],
            counts["dead-letter"], counts["success"], oldest, round(row.per_minute), f"{standing} {limit}".strip(),
        ).rstrip()  # fmt: skip


def _running_lines(found: Frame, room: int) -> Iterator[str]:
    if room < 2 or not found.running:
        return
    yield "{:36}  {:24} {:>3} {:>10}  {:20}  {}".format("RUNNING", "TYPE", "TRY", "FOR", "PROGRESS", "WORKER")
    longest_first = sorted(found.running, key=lambda job: job.started_at or found.at)
    for job in longest_first[: room - 1]:
        seconds = (found.at - job.started_at).total_seconds() if job.started_at else 0.0
        took = duration(max(0.0, seconds))
        told = f"  {printable(job.message)}" if job.message else ""
        shown = _bar(job.progress)
        yield f"{job.id}  {job.type[:24]:24} {job.attempts + 1:>3} {took:>10}  {shown:20}  {job.worker}{told}"


def _bar(progress: float | None) -> str:
    if progress is None:
        return ""
    return f"[{'#' * int(progress * BAR_CHARS):-<{BAR_CHARS}}] {progress:4.0%}"
