"""What became of a commit whose connection was lost."""

import time
from collections.abc import Sequence

import psycopg
from psycopg.pq.abc import PGresult

from domain.errors import OutcomeUnknown
from infra.append import bytes_array, pair_arrays, read_bigint, read_time
from infra.save import Committed, Limits, Save
from infra.wire import BINARY, Backend, ConnectionLost, Step, Wire

TERMINATE = (
    b"select pg_terminate_backend(pid) from pg_stat_activity where pid = $1::int and backend_start = $2::timestamptz"
)
STILL_THERE = b"select 1 from pg_stat_activity where pid = $1::int and backend_start = $2::timestamptz"
LOOK_UP = b"""
select e.ordinality, s.notification_id, s.recorded_at
  from unnest($1::uuid[], $2::bigint[], $3::bytea[])
       with ordinality as e (originator_id, originator_version, metadata, ordinality)
  join stored_events s on s.originator_id = e.originator_id and s.originator_version = e.originator_version
                      and s.metadata = e.metadata
"""
STANDBY = b"select 1 where pg_is_in_recovery()"
PAUSE_SECONDS = 0.05


def look_up(conninfo: str, settings: str, lost: Backend, saves: Sequence[Save], limits: Limits) -> Wire | None:
    """Marks the saves that are committed, on a new connection, which is returned; the others surely didn't happen.

    The old backend could still commit later: so it is ended first, and only when it is gone is there something to
    see. If that can't be done within `recovery_seconds`, the saves get OutcomeUnknown.
    """
    deadline = time.monotonic() + limits.recovery_seconds
    while time.monotonic() < deadline:
        wire = None
        try:
            wire = Wire.connect(conninfo, deadline - time.monotonic(), settings)
            _refuse_standby(wire, deadline)
            _end(wire, lost, deadline)
            _mark(wire, saves, deadline)
        except (ConnectionLost, psycopg.Error):
            if wire is not None:
                wire.close()
            time.sleep(PAUSE_SECONDS)
        else:
            return wire
    for save in saves:
        save.error = OutcomeUnknown()
    return None


def _refuse_standby(wire: Wire, deadline: float) -> None:
    """It neither runs the old backend nor knows of every commit; during a fail-over the primary is yet to come."""
    if _run(wire, Step(STANDBY), deadline).ntuples:
        raise psycopg.OperationalError("this is a standby")


def _end(wire: Wire, backend: Backend, deadline: float) -> None:
    params = [str(backend.pid).encode(), backend.started.isoformat().encode()]
    while True:
        # Again and again: a backend that starts a statement after the signal was taken is told again.
        _run(wire, Step(TERMINATE, params), deadline)
        if _run(wire, Step(STILL_THERE, params), deadline).ntuples == 0:
            return
        time.sleep(PAUSE_SECONDS)


def _mark(wire: Wire, saves: Sequence[Save], deadline: float) -> None:
    params = [*pair_arrays([save.pairs[-1] for save in saves]), bytes_array([save.metadata for save in saves])]
    result = _run(wire, Step(LOOK_UP, params, (), (BINARY,) * 3), deadline)
    for row in range(result.ntuples):
        save = saves[read_bigint(result.get_value(row, 0)) - 1]
        position, recorded_at = result.get_value(row, 1), result.get_value(row, 2)
        save.committed = Committed(read_bigint(position), read_time(recorded_at))


def _run(wire: Wire, step: Step, deadline: float) -> PGresult:
    answer = wire.run([step], deadline)
    if answer.error is not None:
        raise answer.error
    return answer.results[0]
