"""Claims, leases and heartbeats of jobs: short transactions of their own, by the database's clock.

None of them waits for a row that a commit has locked. The fence of a claim is above all before it, and an outcome
counts only under the fence of the newest claim, while its lease lasts (see `infra/job_queue.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

Pg = Connection[TupleRow]

SETTINGS = """
    select set_config('enable_seqscan', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false),
           set_config('jit', 'off', false), set_config('synchronous_commit', 'off', false),
           set_config('lock_timeout', '2s', false), set_config('statement_timeout', '10s', false),
           set_config('timezone', 'UTC', false)
"""
"""Of a worker's session. A claim that a crash of PostgreSQL takes back is a claim that nobody has: it needn't be
durable, and whoever believes to have it is refused.
"""

_CLAIM = """
    select id, type, type_version, args, queue, priority, run_at, rank, attempts, max_attempts, timeout_seconds,
           stream_version, concurrency_key, occurrence, enqueued_at, metadata, cancelling, fence, worker,
           extract(epoch from leased_at - run_at)::float8,
           queue in (select name from job_queues where slots is not null)
      from muniment_claim_jobs(%(worker)s::text, %(queues)s::text[], %(count)s::integer, %(lease)s::float8,
                               %(freed)s::text[])
"""
_HEARTBEAT = """
    update job_queue j
       set lease_until = clock_timestamp() + %(lease)s * interval '1 second', progress = b.progress,
           message = b.message
      from unnest(%(ids)s::uuid[], %(fences)s::bigint[], %(progresses)s::float8[], %(messages)s::text[])
           as b (id, fence, progress, message)
     where j.id = b.id
       and j.id in (select q.id from job_queue q
                     where q.id = any(%(ids)s::uuid[]) and q.fence = any(%(fences)s::bigint[])
                       and q.state = 'leased' and q.worker = %(worker)s and q.lease_until > clock_timestamp()
                       for update skip locked)
       and j.fence = b.fence
    returning j.fence, j.cancelling
"""
_HELD = """
    select fence, cancelling from job_queue
     where id = any(%(ids)s::uuid[]) and fence = any(%(fences)s::bigint[]) and worker = %(worker)s
       and state = 'leased' and lease_until > clock_timestamp()
"""
_HAND_BACK = """
    update job_queue
       set state = 'ready', worker = null, leased_at = null, lease_until = null, progress = null, message = null
     where id in (select id from job_queue
                   where id = any(%(ids)s::uuid[]) and fence = any(%(fences)s::bigint[]) and worker = %(worker)s
                     and state = 'leased'
                     for update skip locked)
    returning fence
"""
_TELL = """
    select pg_notify('muniment_log',
                     json_build_object('head', position, 'announce', json_build_array('jobs:*'))::text)
      from log_head
"""
_NEXT = """
    select extract(epoch from least(
               (select min(run_at) from job_queue where state = 'scheduled'),
               (select min(lease_until) from job_queue where state = 'leased' and lease_until > clock_timestamp()
                   and worker <> %(worker)s),
               (select clock_timestamp() + %(held)s * interval '1 second' from job_queue
                 where concurrency_key is not null and state = 'held' limit 1),
               (select clock_timestamp() + %(limited)s * interval '1 second' from job_queues d
                 where d.slots is not null and not d.paused
                   and exists (select from job_queue q where q.state = 'ready' and q.queue = d.name) limit 1)
           ) - clock_timestamp())::float8,
           exists (select from job_queue where state = 'leased' and lease_until <= clock_timestamp())
"""
_EXPIRED = """
    select id, type, queue, attempts, max_attempts, stream_version, fence, worker, cancelling, metadata,
           extract(epoch from lease_until - leased_at)::float8
      from job_queue where state = 'leased' and lease_until <= clock_timestamp() order by lease_until limit %(limit)s
"""
_LOOK = """
    select stream_version, cancelling, lease_until > clock_timestamp() from job_queue
     where id = %(id)s and fence = %(fence)s and worker = %(worker)s and state = 'leased'
"""
_SEEN = """
    insert into job_workers as w (name, host, pid, queues, threads, running)
    values (%(name)s, %(host)s, %(pid)s, %(queues)s, %(threads)s, %(running)s)
    on conflict (name) do update set seen_at = clock_timestamp(), running = excluded.running
"""
_FORGET_OLD = "delete from job_workers where seen_at < clock_timestamp() - interval '1 hour'"
_GONE = "delete from job_workers where name = %s"
_IS_RUNNING = "select state = 'leased' from job_queue where id = %s"
_DEAD = """
    select id from job_queue
     where state = 'dead' and (%(type)s::text is null or type = %(type)s)
       and (%(queue)s::text is null or queue = %(queue)s)
       and (%(since)s::timestamptz is null or run_at >= %(since)s)
       and (%(until)s::timestamptz is null or run_at < %(until)s)
     order by run_at, id limit %(limit)s
"""

HELD_SECONDS = 5.0
"""After so long keys are looked at for whose free slots nobody came: whoever freed them died at once."""
LIMITED_SECONDS = 1.0
"""The same for queues with a limit."""


@dataclass(slots=True)
class Claimed:
    """A job as it was claimed. `attempts` have ended before this one; `waited_seconds` since it was due.

    `limited`: its queue has a limit, over all workers.
    """

    id: UUID
    type: str
    type_version: int
    args: dict[str, Any]
    queue: str
    priority: int
    run_at: datetime
    rank: datetime
    attempts: int
    max_attempts: int
    timeout_seconds: float
    stream_version: int
    concurrency_key: str | None
    occurrence: str | None
    enqueued_at: datetime
    metadata: dict[str, Any]
    cancelling: bool
    fence: int
    worker: str
    waited_seconds: float
    limited: bool

    @property
    def attempt(self) -> int:
        """The number of this attempt, 1 and up."""
        return self.attempts + 1


@dataclass(frozen=True, slots=True)
class Expired:
    """A lease that has run out: of which job, and who had it for how long."""

    id: UUID
    type: str
    queue: str
    attempts: int
    max_attempts: int
    stream_version: int
    fence: int
    worker: str
    cancelling: bool
    metadata: dict[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat says of one claim."""

    id: UUID
    fence: int
    progress: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """How a claimed row stands now; `alive`: the lease lasts still."""

    stream_version: int
    cancelling: bool
    alive: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker tells of itself."""

    name: str
    host: str
    pid: int
    queues: Sequence[str] | None
    threads: int
    running: int


def configure(connection: Pg) -> None:
    """Makes a connection, which must be in autocommit, one for claims."""
    connection.execute(SETTINGS)


def claim(
    connection: Pg,
    worker: str,
    queues: Sequence[str] | None,
    count: int,
    lease_seconds: float,
    freed: Sequence[str] | None,
) -> tuple[list[Claimed], bool]:
    """At most `count` jobs, what is first first, and whether there may be more although these are fewer.

    `freed` are concurrency keys of which this worker has freed a slot since its last claim; None: look at all.
    """
    values = {
        "worker": worker,
        "queues": list(queues) if queues is not None else None,
        "count": count,
        "lease": lease_seconds,
        "freed": list(freed) if freed is not None else None,
    }
    rows = connection.cursor(binary=True).execute(_CLAIM, values, prepare=True).fetchall()
    claimed = [Claimed(*row) for row in rows if row[0] is not None]
    claimed.sort(key=lambda each: (each.rank, each.id))
    return claimed, len(claimed) < len(rows)


def heartbeat(connection: Pg, worker: str, beats: Sequence[Beat], lease_seconds: float) -> dict[int, bool]:
    """The fences of the leases that last, and whether the job is to stop. Those whose rows a commit has just locked
    are among them, not prolonged: their outcome is on its way.
    """
    values = {
        "worker": worker,
        "lease": lease_seconds,
        "ids": [beat.id for beat in beats],
        "fences": [beat.fence for beat in beats],
        "progresses": [beat.progress for beat in beats],
        "messages": [beat.message for beat in beats],
    }
    kept: dict[int, bool] = dict(connection.execute(_HEARTBEAT, values, prepare=True).fetchall())
    missing = [beat for beat in beats if beat.fence not in kept]
    if missing:
        values = {"worker": worker, "ids": [b.id for b in missing], "fences": [b.fence for b in missing]}
        kept |= dict(connection.execute(_HELD, values, prepare=True).fetchall())
    return kept


def hand_back(connection: Pg, worker: str, claims: Iterable[tuple[UUID, int]]) -> int:
    """Gives jobs back that were claimed and not begun, or whose attempt was cut off; returns how many.

    Whoever else waits is told. Such an attempt was none, and their fences count no more.
    """
    pairs = list(claims)
    if not pairs:
        return 0
    values = {"worker": worker, "ids": [id_ for id_, _ in pairs], "fences": [fence for _, fence in pairs]}
    rows = connection.execute(_HAND_BACK, values).fetchall()
    if rows:
        connection.execute(_TELL)
    return len(rows)


def next_instant(connection: Pg, worker: str) -> tuple[float | None, bool]:
    """In how many seconds there may be something to claim without anybody saying so; whether leases have run out."""
    values = {"worker": worker, "held": HELD_SECONDS, "limited": LIMITED_SECONDS}
    row = connection.execute(_NEXT, values, prepare=True).fetchone()
    return (row[0], row[1]) if row else (None, False)


def expired(connection: Pg, limit: int) -> list[Expired]:
    """Leases that have run out, the oldest first."""
    return [Expired(*row) for row in connection.execute(_EXPIRED, {"limit": limit}, prepare=True).fetchall()]


def look(connection: Pg, claimed: Claimed) -> Held | None:
    """How a claimed row stands; None where it is somebody else's by now, or nobody's."""
    values = {"id": claimed.id, "fence": claimed.fence, "worker": claimed.worker}
    row = connection.execute(_LOOK, values).fetchone()
    return Held(*row) if row else None


def seen(connection: Pg, presence: Presence) -> None:
    """This worker lives."""
    values = {
        "name": presence.name,
        "host": presence.host,
        "pid": presence.pid,
        "queues": list(presence.queues) if presence.queues is not None else None,
        "threads": presence.threads,
        "running": presence.running,
    }
    connection.execute(_SEEN, values)


def gone(connection: Pg, name: str) -> None:
    """This worker has ended."""
    connection.execute(_GONE, (name,))
    forget_old(connection)


def forget_old(connection: Pg) -> None:
    """Workers that ended without saying so are forgotten after an hour."""
    connection.execute(_FORGET_OLD)


def is_running(connection: Pg, job_id: UUID) -> bool:
    """Whether a worker has this job."""
    row = connection.execute(_IS_RUNNING, (job_id,)).fetchone()
    return bool(row and row[0])


def dead_letters(
    connection: Pg,
    limit: int,
    *,
    type: str | None = None,  # noqa: A002
    queue: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[UUID]:
    """Dead letters of a type, of a queue, that died since and before a time: the oldest first."""
    values = {"limit": limit, "type": type, "queue": queue, "since": since, "until": until}
    return [row[0] for row in connection.execute(_DEAD, values).fetchall()]
