"""What operators intend with queues."""

from dataclasses import dataclass

from domain.errors import invalid_field
from domain.jobs import Queue
from domain.jobs.job_type import NAME
from domain.jobs.policy import CONCURRENCY_LIMIT, NAME_LIMIT_CHARS, REASON_LIMIT_CHARS
from domain.ports import Work


@dataclass(frozen=True)
class PauseQueue:
    """Its jobs wait from now on; what runs goes on."""

    name: str
    reason: str = ""


@dataclass(frozen=True)
class ResumeQueue:
    """Its jobs are claimed again."""

    name: str


@dataclass(frozen=True)
class LimitQueue:
    """So many of its jobs run at once, over all workers; None: as many as there are workers for."""

    name: str
    limit: int | None


def pause_queue(work: Work, command: PauseQueue) -> None:
    """Its jobs wait from now on; what runs goes on. Twice records nothing. Raises Invalid."""
    reason = command.reason.strip()
    if len(reason) > REASON_LIMIT_CHARS or "\0" in reason:
        raise invalid_field("reason", f"at most {REASON_LIMIT_CHARS} characters, none of them NUL")
    _queue(work, command.name).pause(reason)


def resume_queue(work: Work, command: ResumeQueue) -> None:
    """Its jobs are claimed again. For one that isn't paused that records nothing. Raises Invalid."""
    _check_name(command.name)
    found = work.find(Queue, Queue.id_of(command.name))
    if found is not None:
        found.resume()


def limit_queue(work: Work, command: LimitQueue) -> None:
    """So many of its jobs run at once, over all workers. The same limit again records nothing. Raises Invalid."""
    if command.limit is not None and not 1 <= command.limit <= CONCURRENCY_LIMIT:
        raise invalid_field("limit", f"1 to {CONCURRENCY_LIMIT}, or nothing")
    _queue(work, command.name).set_limit(command.limit)


def _queue(work: Work, name: str) -> Queue:
    """A queue needs no making: deciding about it opens its stream."""
    _check_name(name)
    queue_id = Queue.id_of(name)
    return work.find(Queue, queue_id) or work.add(Queue(name, queue_id))


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > NAME_LIMIT_CHARS:
        raise invalid_field("name", "lower-case words joined by . - or _")
