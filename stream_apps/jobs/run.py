"""What a handler is given: its unit of work, and what it needs to know and to say about its attempt."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar
from uuid import UUID

from domain.context import Context
from domain.jobs.errors import Cancelled
from domain.ports import Work
from infra.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


class Stop(Protocol):
    """Whether an attempt is to stop, and why."""

    @property
    def reason(self) -> str | None:
        """`cancelled`, `timeout`, `lost`, `shutdown`; None: it isn't."""
        ...

    def wait(self, seconds: float) -> bool:
        """Waits so long, or until it is to stop; whether it is."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler.

    What it decides in `work` is saved together with the attempt's success, or not at all. It may run several times:
    again within the attempt if somebody else was faster, and in further attempts. For what it does outside (mail, HTTP)
    `idempotency_key` is the same in all of them: hand it on, so that the other side can tell a repetition.
    """

    job_id: UUID
    type: str
    queue: str
    attempt: int
    max_attempts: int
    enqueued_at: datetime
    occurrence: str | None
    work: Work
    stop: Stop
    report: Callable[[float, str], None]
    settings: Settings = field(default_factory=Settings)
    """The configuration under which this attempt runs, from its beginning to its end."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this job, and no other job's."""
        return str(self.job_id)

    @property
    def context(self) -> Context:
        """Who acts and because of what: the job, because of its enqueueing, in the correlation of that."""
        return self.work.context

    @property
    def cancelled(self) -> bool:
        """Whether it had better stop: it was cancelled, its time is up, or the worker is going to end."""
        return self.stop.reason is not None

    def check(self) -> None:
        """Raises Cancelled if it had better stop; to be called now and then by what takes long."""
        if self.stop.reason is not None:
            raise Cancelled(self.stop.reason)

    def sleep(self, seconds: float) -> None:
        """Waits so long. Raises Cancelled as soon as it had better stop. For sync handlers."""
        self.stop.wait(seconds)
        self.check()

    def progress(self, fraction: float, message: str = "") -> None:
        """Tells how far it is, from 0 to 1, to whoever looks. Kept with the next heartbeat; no fact."""
        self.report(max(0.0, min(1.0, fraction)), message)

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what blocks, such as reading with `work`, in a thread. For async handlers."""
        return await asyncio.to_thread(function, *args, **kwargs)
