"""What the benchmarks share: places that go away, how results read, and what processes have used."""

import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from infra import migrate
from infra.embedded import DataFolder, Postgres, running
from runtime import modules

ROOT = Path(__file__).parent.parent


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes away; its path is short, because sockets have little room."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """A private, durable PostgreSQL with the platform's tables: its connection string."""
    with temporary_folder() as folder:
        server = Postgres(DataFolder(folder), settings)
        with running(server):
            migrate.apply(server.conninfo, modules.sources())
            yield server.conninfo


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, since what else the machine does falls on both of a round alike."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def told(what: str, values: Sequence[float], goal: str = "", *, digits: int = 2, unit: str = "") -> None:
    """Prints the median and the range; with a goal such as `>= 0.8`, whether the median reaches it."""
    middle = statistics.median(values)
    spread = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
    verdict = f"   goal {goal}: {'reached' if _reaches(middle, goal) else 'NOT reached'}" if goal else ""
    print(f"{what:64} {middle:9,.{digits}f}{unit}{spread}{verdict}", flush=True)


def _reaches(value: float, goal: str) -> bool:
    operator, number = goal.split()
    return {">=": value >= float(number), "<": value < float(number)}[operator]


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def processor_seconds(pid: int) -> float:
    """What a process and all that it started have used so far, those that have ended included."""
    total = 0.0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
