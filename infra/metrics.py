"""What the log tells Prometheus. Touched once per group, not once per save."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from infra.save import Save

APPENDS = Counter("muniment_log_appended_events", "Events appended to the log")
SAVES = Counter("muniment_log_saves", "Saves by outcome", ["outcome"])
GROUP_SIZE = Histogram("muniment_log_group_saves", "Saves per commit", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
COMMIT_SECONDS = Histogram(
    "muniment_log_commit_seconds",
    "Time from taking a group to its result",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 10),
)
QUEUE = Gauge("muniment_log_queue_saves", "Saves waiting for their turn")

_COMMITTED, _REFUSED, _OVERLOADED = (SAVES.labels(outcome) for outcome in ("committed", "refused", "overloaded"))


def group_committed(saves: Sequence[Save], seconds: float) -> None:
    """A group has its results."""
    committed = [len(save.events) for save in saves if save.committed is not None]
    GROUP_SIZE.observe(len(saves))
    COMMIT_SECONDS.observe(seconds)
    if committed:
        APPENDS.inc(sum(committed))
        _COMMITTED.inc(len(committed))
    if len(committed) < len(saves):
        _REFUSED.inc(len(saves) - len(committed))


def overloaded(saves: int = 1) -> None:
    """Saves were turned away."""
    _OVERLOADED.inc(saves)


def queue_length(saves: int) -> None:
    """So many saves wait."""
    QUEUE.set(saves)
