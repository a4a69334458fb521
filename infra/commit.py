"""How a group of saves becomes durable, and how each save gets its own answer."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
from eventsourcing import persistence
from eventsourcing.persistence import IntegrityError
from psycopg.errors import LockNotAvailable, ReadOnlySqlTransaction, UniqueViolation

from domain.errors import OutcomeUnknown, Unavailable
from infra import metrics, recovery
from infra.append import LOCK_HEAD, Attempt, attempt, existing_step, newest_step, read_bigint, read_pairs, read_time
from infra.save import Committed, InlineRefused, Limits, Save
from infra.wire import BEGIN, ROLLBACK, Answer, Backend, ConnectionLost, Wire

_LOG = logging.getLogger(__name__)

_LIBRARY_ERRORS: tuple[tuple[type[psycopg.Error], type[persistence.PersistenceError]], ...] = (
    (psycopg.InterfaceError, persistence.InterfaceError),
    (psycopg.OperationalError, persistence.OperationalError),
    (psycopg.DataError, persistence.DataError),
    (psycopg.IntegrityError, persistence.IntegrityError),
    (psycopg.InternalError, persistence.InternalError),
    (psycopg.ProgrammingError, persistence.ProgrammingError),
    (psycopg.NotSupportedError, persistence.NotSupportedError),
    (psycopg.DatabaseError, persistence.DatabaseError),
)


_NOT_THEIRS = (psycopg.OperationalError, ReadOnlySqlTransaction)
"""Errors that no save of the group has brought about: each would get the same."""


def library_error(error: psycopg.Error) -> persistence.PersistenceError:
    """The library's own exception for a database error."""
    for theirs, librarys in _LIBRARY_ERRORS:
        if isinstance(error, theirs):
            return librarys(str(error))
    return persistence.PersistenceError(str(error))


@dataclass(slots=True)
class Flight:
    """A group on its way, with what its leaders need to know of each other."""

    saves: list[Save]
    handed_over: bool = False
    """Who leads it got it from the former leader, who sends it."""
    begun: bool = False
    passed_on: bool = False
    attempt: Attempt | None = None
    """What was sent; None if all is still to do."""
    wire: Wire | None = None
    started: float = field(default_factory=time.monotonic)


class Committer:
    """Commits groups, one after the other, on a connection of its own. Used by one thread at a time."""

    def __init__(self, conninfo: str, limits: Limits) -> None:
        self._conninfo = conninfo
        self._limits = limits
        self._settings = _settings(limits)
        self._wire: Wire | None = None
        self._lost: Backend | None = None

    def begin(self, flight: Flight) -> None:
        """Sends the group, if that needs no waiting; else all is left to `finish`."""
        flight.begun = True
        if self._wire is None or any(save.guards for save in flight.saves):
            return
        flight.attempt = attempt(flight.saves, self._limits.inline_lock_milliseconds)
        flight.wire = self._wire
        # If the connection is lost here, the answer won't come either: `finish` sees to that.
        with suppress(ConnectionLost):
            flight.wire.send(flight.attempt.steps, flight.started + self._limits.commit_seconds)

    def finish(self, flight: Flight) -> None:
        """Each save of the group has its result afterwards, whatever happens."""
        try:
            if flight.attempt is None or flight.wire is None:
                self._commit([save for save in flight.saves if not save.done])
            else:
                self._land(flight.saves, flight.attempt, flight.wire, flight.started + self._limits.commit_seconds)
        except BaseException as error:
            # Not an error of the database's: but what was sent may have happened.
            self._recover(flight.saves)
            if not isinstance(error, Exception):
                raise
            _LOG.exception("a commit failed in an unforeseen way")
        finally:
            for save in flight.saves:
                if not save.done:
                    save.error = OutcomeUnknown()
            metrics.group_committed(flight.saves, time.monotonic() - flight.started)

    def close(self) -> None:
        """Ends the connection. A group that is still on its way gets OutcomeUnknown or Unavailable."""
        if self._wire is not None:
            self._wire.close()

    def _land(self, saves: Sequence[Save], sent: Attempt, wire: Wire, deadline: float) -> None:
        try:
            answer = wire.receive(deadline)
        except ConnectionLost:
            self._recover(saves)
        else:
            self._settle(saves, sent, answer)

    def _commit(self, saves: Sequence[Save]) -> None:
        """From the start, in its own time."""
        if not saves:
            return
        try:
            wire = self._connected()
        except psycopg.Error as error:
            _fail(saves, Unavailable(f"The log can't be reached: {error}"))
            return
        try:
            if any(save.guards for save in saves):
                self._commit_carefully(wire, saves)
            else:
                steps = attempt(saves, self._limits.inline_lock_milliseconds)
                self._settle(saves, steps, wire.run(steps.steps, self._deadline()))
        except ConnectionLost:
            self._recover(saves)

    def _settle(self, saves: Sequence[Save], sent: Attempt, answer: Answer) -> None:
        """Gives each save its part of the answer; on an error finds whose it was, and commits the others."""
        error = answer.error
        if error is None:
            _succeed(saves, answer, sent.append_at)
        elif answer.failed in sent.owners:
            self._without_culprit(saves, sent.owners[answer.failed], error)
        elif isinstance(error, UniqueViolation):
            self._commit_carefully(self._connected(), saves)
        elif len(saves) == 1 or isinstance(error, _NOT_THEIRS):
            self._refuse(saves, error)
        else:
            for save in saves:
                self._commit([save])

    def _refuse(self, saves: Sequence[Save], error: psycopg.Error) -> None:
        """The database said no: surely nothing was committed."""
        if isinstance(error, ReadOnlySqlTransaction) and self._wire is not None:
            # A standby, after a fail-over: the next connection may reach the new primary.
            self._wire.close()
            self._wire = None
        if isinstance(error, _NOT_THEIRS):
            _fail(saves, Unavailable(f"The log can't be written right now: {error}"))
        else:
            _fail(saves, library_error(error))

    def _without_culprit(self, saves: Sequence[Save], culprit: Save, error: psycopg.Error) -> None:
        """The others first. The culprit's error may come from one of those: alone it gets its own, or none."""
        others = [save for save in saves if save is not culprit]
        self._commit(others)
        if others and not isinstance(error, LockNotAvailable):
            self._commit([culprit])
        else:
            culprit.error = InlineRefused(error)

    def _commit_carefully(self, wire: Wire, saves: Sequence[Save]) -> None:
        """Takes the head first, then looks (in a statement of its own, which sees all commits before), then appends."""
        guarded = list(dict.fromkeys(stream for save in saves for stream, _ in save.guards))
        steps = [BEGIN, LOCK_HEAD, existing_step(saves), *([newest_step(guarded)] if guarded else [])]
        answer = wire.run(steps, self._deadline())
        if answer.error is not None:
            self._refuse(saves, answer.error)
            return
        existing = set(read_pairs(answer.results[2]))
        newest = dict(read_pairs(answer.results[3])) if guarded else {}
        winners, rivals = _judge(saves, existing, newest)
        if not winners:
            wire.run([ROLLBACK], self._deadline())
            return
        sent = attempt(winners, self._limits.inline_lock_milliseconds, begun=True)
        self._settle(winners, sent, wire.run(sent.steps, self._deadline()))
        if all(save.committed for save in winners):
            for save, conflict in rivals:
                save.error = conflict
        elif rivals:
            self._commit_carefully(self._connected(), [save for save, _ in rivals])

    def _recover(self, saves: Sequence[Save]) -> None:
        """The connection is lost: finds out what became of the saves, and commits again what surely didn't happen."""
        undecided = [save for save in saves if not save.done]
        if self._wire is not None:
            self._lost = self._wire.backend
            self._wire.close()
            self._wire = None
        if self._lost is not None:
            self._wire = recovery.look_up(self._conninfo, self._settings, self._lost, undecided, self._limits)
            self._lost = None
        missing = [save for save in undecided if not save.done]
        again = [save for save in missing if not save.retried]
        _fail(
            [save for save in missing if save.retried], Unavailable("The connection was lost; nothing was committed.")
        )
        for save in again:
            save.retried = True
        self._commit(again)

    def _connected(self) -> Wire:
        if self._wire is None:
            self._wire = Wire.connect(self._conninfo, self._limits.connect_seconds, self._settings)
        return self._wire

    def _deadline(self) -> float:
        return time.monotonic() + self._limits.commit_seconds


def _settings(limits: Limits) -> str:
    """Of the committing session: durable, planned once, and no lock waited for without end."""
    return f"""
        set application_name = 'muniment commit';
        set timezone = 'UTC';
        set default_transaction_isolation = 'read committed';
        set plan_cache_mode = force_generic_plan;
        set enable_seqscan = off;
        set jit = off;
        set lock_timeout = '{round(limits.head_lock_seconds * 1000)}ms';
        set idle_in_transaction_session_timeout = '{round(limits.commit_seconds * 1000)}ms';
        select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'
    """


def _succeed(saves: Sequence[Save], answer: Answer, append_at: int) -> None:
    result = answer.results[append_at]
    if result.ntuples != 1:
        _fail(saves, persistence.OperationalError("log_head has lost its row: nothing was appended"))
        return
    head, recorded_at = read_bigint(result.get_value(0, 0)), read_time(result.get_value(0, 1))
    position = head - sum([len(save.events) for save in saves])
    for save in saves:
        position += len(save.events)
        save.committed = Committed(position, recorded_at)


def _fail(saves: Sequence[Save], error: Exception) -> None:
    for save in saves:
        save.error = error


Pair = tuple[UUID, int]


def _judge(
    saves: Sequence[Save], existing: set[Pair], newest: dict[UUID, int]
) -> tuple[list[Save], list[tuple[Save, IntegrityError]]]:
    """Walks the group in order. Who contradicts what is recorded gets its error.

    Returns the winners, and their rivals: who contradicts only an earlier save of the group, and would be right if that
    one came to nothing.
    """
    winners: list[Save] = []
    rivals: list[tuple[Save, IntegrityError]] = []
    ahead, after = set(existing), dict(newest)
    for save in saves:
        conflict = _conflict(save, ahead, after)
        if conflict is None:
            winners.append(save)
            ahead.update(save.pairs)
            after.update((stream, max(after[stream], version)) for stream, version in save.pairs if stream in after)
        elif winners and not _conflict(save, existing, newest):
            rivals.append((save, conflict))
        else:
            save.error = conflict
    return winners, rivals


def _conflict(save: Save, existing: set[Pair], newest: dict[UUID, int]) -> IntegrityError | None:
    if len(set(save.pairs)) < len(save.pairs):
        return IntegrityError("the save has one version of a stream twice")
    for stream, version in save.pairs:
        if (stream, version) in existing:
            return IntegrityError(f"stream {stream} has version {version} already")
    for stream, version in save.guards:
        if newest[stream] != version:
            return IntegrityError(f"stream {stream} is at version {newest[stream]}, no longer at {version}")
    return None
