"""What the platform's own chores do, with the parts of the process that runs them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from commands.identity import AddKey, ExpireSessions, add_key, expire_sessions
from commands.jobs import enqueue
from domain.identity import Keyring
from domain.jobs import JobType, JobTypes
from infra.keys import SIGN, new_signing_key
from infra.reaction_store import prune_unparked
from infra.sessions import who_may_have_expired
from infra.snapshots.keeping import forget_former, long_streams
from runtime.core import Core
from runtime.mail import Mail
from runtime.verifying import look_around
from stream_apps.jobs import Run, job
from stream_apps.jobs.chores import (
    EXPIRE_SESSIONS,
    FORGET_RECEIPTS,
    ROTATE_KEYS,
    SNAPSHOT_STREAMS,
    VERIFY_VIEWS,
    ExpireArgs,
    SnapshotArgs,
    VerifyArgs,
)

SESSIONS_AT_ONCE = 100
"""In one save: so many names still fit into a commit's notification."""
STREAMS_AT_ONCE = 100
"""Whose snapshots one job proves."""


def with_chores(types: Iterable[JobType], core: Core) -> JobTypes:
    """These types, where the chores and the mail jobs have their handlers."""
    own = {job_type.name: job_type for job_type in (*Chores(core).job_types(), *Mail(core).job_types())}
    return JobTypes(own.get(job_type.name, job_type) for job_type in types)


@dataclass(frozen=True)
class Chores:
    """The handlers."""

    core: Core

    def job_types(self) -> tuple[JobType, ...]:
        """The chores' types with their handlers."""
        return (
            job(FORGET_RECEIPTS)(self.forget_receipts),
            job(EXPIRE_SESSIONS)(self.expire_sessions),
            job(ROTATE_KEYS)(self.rotate_keys),
            job(VERIFY_VIEWS)(self.verify_views),
            job(SNAPSHOT_STREAMS)(self.snapshot_streams),
        )

    def forget_receipts(self, _: Run) -> int:
        """How many were forgotten."""
        forgotten = self.core.receipts.prune()
        with self.core.pool.connection() as connection:
            return forgotten + prune_unparked(connection)

    def expire_sessions(self, run: Run, args: ExpireArgs) -> int:
        """How many have ended. The next job goes on behind the last session that was looked at."""
        settings, now = self.core.settings, run.work.now()
        lifetime = timedelta(seconds=settings.refresh_token_seconds)
        limit = timedelta(seconds=settings.session_limit_seconds)
        with self.core.pool.connection() as connection:
            opened_before = now - min(lifetime, limit)
            ids = who_may_have_expired(connection, opened_before, args.after or UUID(int=0), SESSIONS_AT_ONCE)
        if len(ids) == SESSIONS_AT_ONCE:
            enqueue(run.work, EXPIRE_SESSIONS, ExpireArgs(after=ids[-1]))
        return expire_sessions(run.work, ExpireSessions(ids, lifetime, limit))

    def rotate_keys(self, run: Run) -> str | None:
        """The new key's id; None where the newest is young enough."""
        days, secrets = self.core.settings.key_rotation_days, self.core.secrets
        newest = run.work.get(Keyring, Keyring.ID).newest(SIGN)
        if not days or (newest is not None and run.work.now() - newest.counts_from < timedelta(days=days)):
            return None
        key = new_signing_key(secrets)
        delay = self.core.settings.key_overlap_seconds
        command = AddKey(secrets.ids, key.key_id, key.purpose, key.algorithm, key.public, key.private, delay)
        return add_key(run.work, command)

    def verify_views(self, _: Run, args: VerifyArgs) -> dict[str, int]:
        """How many streams of each view were compared. What differs is recorded, and a metric and an audited event."""
        return {found.build.projection.name: found.streams for found in look_around(self.core, args.streams)}

    def snapshot_streams(self, run: Run, args: SnapshotArgs) -> dict[str, int]:
        """What came of each stream, counted. The next job goes on behind the last; the last one of all tidies up."""
        loader, after = self.core.log.loader, args.after or UUID(int=0)
        with self.core.pool.connection() as connection:
            streams = long_streams(connection, after, STREAMS_AT_ONCE)
        found = Counter(str(loader.prove(stream, run.check)) for stream in streams)
        if len(streams) == STREAMS_AT_ONCE:
            enqueue(run.work, SNAPSHOT_STREAMS, SnapshotArgs(after=streams[-1]))
            return dict(found)
        with self.core.pool.connection() as connection:
            return {**found, "forgotten": forget_former(connection)}
