"""How a group of saves becomes durable, and how each save gets its own answer."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import psycopg
from eventsourcing import persistence
from psycopg.errors import LockNotAvailable, ReadOnlySqlTransaction, UniqueViolation

from domain.errors import OutcomeUnknown, Unavailable
from infra import metrics, recovery
from infra.append import LOCK_HEAD, Attempt, attempt, existing_step, newest_step, read_bigint, read_pairs, read_time
from infra.judgement import judge
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


_SAME_POSITION = "stored_events_position"
_MAX_CULPRITS = 3
"""Past that, a group with still another one is done save by save: trying it whole costs more."""

_NOT_THEIRS = (psycopg.OperationalError, ReadOnlySqlTransaction)
"""Errors that no save of the group has brought about: each would get the same."""


def library_error(error: psycopg.Error) -> persistence.PersistenceError:
    """The library's own exception for a database error."""
    for theirs, librarys in _LIBRARY_ERRORS:
        if isinstance(error, theirs):
            return librarys(str(error))
    return persistence.PersistenceError(str(error))


@dataclass(slots=True)
class _Group:
    """Saves to be committed together, and what is known of them."""

    saves: list[Save]
    carefully: bool = False
    """Some contradict each other or what is recorded."""
    culprits: int = 0
    """So many were taken out for what an inline table said."""


Todo = list[_Group]


@dataclass(slots=True)
class Flight:
    """A group on its way, with what its leaders need to know of each other."""

    saves: list[Save]
    followers: Iterator[Save] = field(init=False)
    """All but the leader, each once: whoever is woken wakes the next."""
    handed_over: bool = False
    """Who leads it got it from the former leader, who sends it."""
    begun: bool = False
    passed_on: bool = False
    attempt: Attempt | None = None
    """What was sent; None if all is still to do."""
    wire: Wire | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.followers = iter(self.saves[1:])

    @property
    def leader(self) -> Save:
        """Whose saver sees to it that each gets its result."""
        return self.saves[0]


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
        # The one who sends isn't one of this group. If the connection is lost here, the answer won't come either, and
        # what can't be sent at all fails again: `finish` sees to that.
        with suppress(Exception):
            flight.attempt = attempt(flight.saves, self._limits)
            flight.wire = self._wire
            flight.wire.send(flight.attempt.steps, flight.started + self._limits.commit_seconds)

    def finish(self, flight: Flight) -> None:
        """Each save of the group has its result afterwards, whatever happens."""
        try:
            todo = deque(self._land(flight))
            while todo:
                todo.extendleft(reversed(self._commit(todo.popleft())))
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

    # Each of the following settles what it can, and returns what has to be committed after it, in this order.

    def _land(self, flight: Flight) -> Todo:
        """Reads the answer to what `begin` sent."""
        if flight.attempt is None or flight.wire is None:
            return [_Group([save for save in flight.saves if not save.done])]
        group = _Group(flight.saves)
        try:
            answer = flight.wire.receive(flight.started + self._limits.commit_seconds)
        except ConnectionLost:
            return self._recover(group.saves)
        return self._settle(group, flight.attempt, answer)

    def _commit(self, group: _Group) -> Todo:
        """From the start, in its own time."""
        saves = group.saves
        if not saves:
            return []
        try:
            wire = self._connected()
        except psycopg.Error as error:
            return _fail(saves, partial(Unavailable, f"The log can't be reached: {error}"))
        try:
            if group.carefully or any(save.guards for save in saves):
                return self._commit_carefully(wire, group)
            sent = attempt(saves, self._limits)
            return self._settle(group, sent, wire.run(sent.steps, self._deadline()))
        except ConnectionLost:
            return self._recover(saves)

    def _settle(self, group: _Group, sent: Attempt, answer: Answer) -> Todo:
        """Gives each save its part of the answer; on an error finds whose it was, and leaves the others to be done."""
        error, saves = answer.error, group.saves
        if error is None or answer.failed is None:
            return _succeed(saves, answer)
        if answer.failed in sent.owners:
            owners = sent.owners[answer.failed]
            return _without_culprit(group, owners[0], error) if len(owners) == 1 else [_Group([s]) for s in saves]
        if isinstance(error, UniqueViolation) and error.diag.constraint_name == _SAME_POSITION:
            return _fail(saves, partial(Unavailable, "The log is damaged: log_head stands behind the newest event."))
        if isinstance(error, UniqueViolation) and not group.carefully:
            return [replace(group, carefully=True)]
        if len(saves) > 1 and not isinstance(error, _NOT_THEIRS):
            return [_Group([save]) for save in saves]
        if answer.failed > 0 and not isinstance(error, _NOT_THEIRS):
            return _fail(saves, partial(InlineRefused, error))
        return self._refuse(saves, error)

    def _refuse(self, saves: Sequence[Save], error: psycopg.Error) -> Todo:
        """The database said no: surely nothing was committed."""
        if isinstance(error, ReadOnlySqlTransaction) and self._wire is not None:
            # A standby, after a fail-over: the next connection may reach the new primary.
            self._wire.close()
            self._wire = None
        if isinstance(error, _NOT_THEIRS):
            return _fail(saves, partial(Unavailable, f"The log can't be written right now: {error}"))
        return _fail(saves, partial(library_error, error))

    def _commit_carefully(self, wire: Wire, group: _Group) -> Todo:
        """Takes the head first, then looks (in a statement of its own, which sees all commits before), then appends."""
        guarded = list(dict.fromkeys(stream for save in group.saves for stream, _ in save.guards))
        steps = [BEGIN, LOCK_HEAD, existing_step(group.saves), *([newest_step(guarded)] if guarded else [])]
        answer = wire.run(steps, self._deadline())
        if answer.error is not None:
            return self._refuse(group.saves, answer.error)
        existing = set(read_pairs(answer.results[2]))
        newest = dict(read_pairs(answer.results[3])) if guarded else {}
        winners, rivals = judge(group.saves, existing, newest)
        if not winners:
            wire.run([ROLLBACK], self._deadline())
            return []
        sent = attempt(winners, self._limits, begun=True)
        answer = wire.run(sent.steps, self._deadline())
        todo = self._settle(replace(group, saves=winners, carefully=True), sent, answer)
        if all(save.committed for save in winners):
            for save, conflict in rivals:
                save.error = conflict
            return todo
        return [*todo, _Group([save for save, _ in rivals])]

    def _recover(self, saves: Sequence[Save]) -> Todo:
        """The connection is lost: finds out what became of the saves; what surely didn't happen is done again, once."""
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
        twice = [save for save in missing if save.retried]
        _fail(twice, partial(Unavailable, "The connection was lost, nothing committed."))
        for save in again:
            save.retried = True
        return [_Group(again)]

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


def _succeed(saves: Sequence[Save], answer: Answer) -> Todo:
    result = answer.results[0]
    if result.ntuples != 1:
        return _fail(saves, partial(Unavailable, "The log is damaged: log_head has no row."))
    head, recorded_at = read_bigint(result.get_value(0, 0)), read_time(result.get_value(0, 1))
    position = head - sum([len(save.events) for save in saves])
    for save in saves:
        position += len(save.events)
        save.committed = Committed(position, recorded_at)
    return []


def _fail(saves: Sequence[Save], error: Callable[[], Exception]) -> Todo:
    """Each save gets an error of its own: they are raised in different threads."""
    for save in saves:
        save.error = error()
    return []


def _without_culprit(group: _Group, culprit: Save, error: psycopg.Error) -> Todo:
    """The others first. The culprit's error may come from one of those: alone it gets its own, or none."""
    others = [save for save in group.saves if save is not culprit]
    if not others or isinstance(error, LockNotAvailable):
        culprit.error = InlineRefused(error)
        return [replace(group, saves=others, culprits=group.culprits + 1)]
    if group.culprits >= _MAX_CULPRITS:
        return [_Group([save]) for save in group.saves]
    return [replace(group, saves=others, culprits=group.culprits + 1), _Group([culprit])]
