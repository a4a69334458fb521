"""Dispatch: gives a handler its unit of work, saves what it decided, and runs it again when somebody was faster."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from prometheus_client import Counter

from domain.context import Context
from domain.errors import Conflict
from domain.ports import Work
from infra.configuration.live import Live, given
from infra.event_store import Log, Metadata
from infra.inline import Statement
from infra.recorder import InlineRefused
from infra.work import Refused, UnitOfWork

C = TypeVar("C")
R = TypeVar("R")

RERUNS = Counter("muniment_dispatch_reruns_total", "Runs of a handler that a faster writer made void")
LONGEST_PAUSE_SECONDS = 0.02


class WriteConflict(Conflict):
    """Others kept changing the same things; try again."""

    code = "write-conflict"


class AlreadyDone(Conflict):
    """Another request with this Idempotency-Key was faster; repeat this one to get its answer."""

    code = "idempotency-key-in-flight"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What a handler returned, the position of its last event (or the head it saw), and the streams' versions.

    `rider_waits`: nothing was written, not even the rider, and no head was looked at. Then `read` are the streams that
    this was decided by, also those that were empty.
    """

    result: R
    position: int
    versions: Mapping[UUID, int]
    rider_waits: bool = False
    read: frozenset[UUID] = frozenset()


class Rider(Protocol):
    """Something that is written in the commit of a command, such as its receipt."""

    def statement(self, result: Any, versions: Mapping[UUID, int]) -> Statement:
        """The SQL, which may name `%(position)s` and `%(recorded_at)s` of the command's last event."""
        ...


class Dispatcher:
    """Runs handlers. `attempts` bounds how often one runs; `pause` (seconds) is slept between the runs.

    With `live`, all that is decided in one dispatch is decided under one snapshot, whose version goes into the events.
    """

    def __init__(
        self,
        log: Log,
        *,
        attempts: int | Callable[[], int] = 25,
        pause: Callable[[float], None] = time.sleep,
        random_: random.Random | None = None,
        live: Live | None = None,
    ) -> None:
        self._log = log
        self._attempts = given(attempts)
        self._live = live
        self._pause = pause
        self._random = random_ or random.Random()  # noqa: S311 - jitter, not a secret

    def bind(self) -> AbstractContextManager[object]:
        """What is prepared and dispatched inside of it is decided under one snapshot of the configuration."""
        return nullcontext() if self._live is None else self._live.bind()

    def dispatch(
        self,
        handler: Callable[[Work, C], R],
        command: C,
        context: Context,
        *,
        if_match: tuple[UUID, int] | None = None,
        rider: Rider | None = None,
        rider_may_wait: bool = False,
    ) -> Outcome[R]:
        """Returns when all that the handler decided is durable.

        `rider_may_wait`: the rider isn't written where the handler has returned None, and neither recorded nor guarded
        anything; then whoever called sees to it.

        Raises what the handler raises; WriteConflict when others were faster every time; Stale for `if_match`;
        AlreadyDone when the rider's receipt exists by now; Overloaded, OutcomeUnknown, Unavailable.
        """
        if self._live is None:
            return self._dispatch(handler, command, context, if_match, rider, rider_may_wait)
        with self._live.bind() as snapshot:
            if context.config_version != snapshot.version:
                context = replace(context, config_version=snapshot.version)
            return self._dispatch(handler, command, context, if_match, rider, rider_may_wait)

    def _dispatch(
        self,
        handler: Callable[[Work, C], R],
        command: C,
        context: Context,
        if_match: tuple[UUID, int] | None,
        rider: Rider | None,
        rider_may_wait: bool,
    ) -> Outcome[R]:
        metadata = Metadata.from_context(context).to_bytes()
        for attempt in range(self._attempts()):
            if attempt:
                RERUNS.inc()
                self._pause(self._random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.001 * 2**attempt)))
            try:
                work = UnitOfWork(self._log, context, if_match)
                return self._run(handler, command, work, metadata, rider, rider_may_wait)
            except IntegrityError:
                continue
            except InlineRefused as refused:
                if refused.unique_violation and refused.table == "receipts":
                    raise AlreadyDone from None
                raise
        raise WriteConflict

    def _run(
        self,
        handler: Callable[[Work, C], R],
        command: C,
        work: UnitOfWork,
        metadata: bytes,
        rider: Rider | None,
        rider_may_wait: bool,
    ) -> Outcome[R]:
        try:
            result = handler(work, command)
        except Refused as refused:
            guards = work.guards()
            self._log.save_events(work.collect(), guards=guards, metadata=metadata)
            raise refused.error from None
        versions = work.versions()
        guards = work.guards()
        events = work.collect()
        if rider_may_wait and result is None and not events and not guards:
            return Outcome(result, 0, versions, rider_waits=True, read=work.read())
        riders = [rider.statement(result, versions)] if rider else []
        if not events and not riders:
            return Outcome(result, self._log.head(), versions)
        committed = self._log.save_events(events, guards=guards, metadata=metadata, riders=riders)
        return Outcome(result, committed.position, versions)
