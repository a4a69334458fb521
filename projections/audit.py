"""The audit log: every security-sensitive event as an entry, in the field's terms (OCSF 1.x, schema.ocsf.io).

`AUDITED` says what each event means to an auditor; `ROUTINE` names the events that mean nothing to one. A test fails
for an event that is in neither.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from domain.access import Role, UserAssignments
from domain.aggregate import Aggregate
from domain.analytics import AnalyticsReader
from domain.audit import Entry, LogExport, LogRead, Refusal
from domain.backup import Backup, Restoration
from domain.builds import BuildDrop, CutOver, Rebuild, Rollback
from domain.configuration import Namespace
from domain.identity import EmailClaim, EmailVerification, Keyring, LoginAttempts, Onboarding, Session, User
from domain.jobs import Job, JobKey, Queue
from domain.jobs.occurrence import Occurrence
from domain.jobs.schedule import Schedule
from domain.projections import Retry, Skip
from domain.verification import Finding, Repair
from infra.event_store import Recorded
from projections.meaning import (
    ACCOUNT_CHANGE,
    API_ACTIVITY,
    AUTHENTICATION,
    AUTHORIZE_SESSION,
    CREATE,
    FAILURE,
    OTHER,
    READ,
    UPDATE,
    Meaning,
    named,
    own,
)
from projections.projection import Owner, Projection, Statements
from projections.read import Read

Event = Aggregate.Event

_user, _of_user, _session = own("user"), named("user", "user_id"), own("session")
_role, _key, _reader = named("role", "name"), named("key", "key_id"), named("database-role", "role")
_queue, _schedule = named("queue", "name"), named("schedule", "name")
_namespace = named("configuration", "name")
_PLAN = ("cron", "timezone", "type", "missed", "overlap", "queue", "priority")


def _projection(event: Any) -> str:
    """A reaction is named `reaction:…` there already."""
    name: str = event.projection
    return name if ":" in name else f"projection:{name}"


AUDITED: Mapping[type[Event], Meaning] = {
    User.Registered: Meaning("user.registered", ACCOUNT_CHANGE, 1, _user),
    User.Renamed: Meaning("user.renamed", ACCOUNT_CHANGE, OTHER, _user),
    User.Suspended: Meaning("user.suspended", ACCOUNT_CHANGE, 5, _user, ("reason",)),
    User.Reactivated: Meaning("user.reactivated", ACCOUNT_CHANGE, 2, _user),
    User.PasswordChanged: Meaning("password.changed", ACCOUNT_CHANGE, 3, _user),
    EmailVerification.Requested: Meaning("email-verification.requested", ACCOUNT_CHANGE, OTHER, _of_user, ("number",)),
    EmailVerification.Issued: Meaning("email-verification.issued", ACCOUNT_CHANGE, OTHER, _of_user, ("number",)),
    EmailVerification.Verified: Meaning("email.verified", ACCOUNT_CHANGE, OTHER, _of_user),
    Onboarding.Completed: Meaning("onboarding.completed", ACCOUNT_CHANGE, OTHER, _of_user),
    Session.Opened: Meaning("login.succeeded", AUTHENTICATION, 1, _of_user),
    Session.Ended: Meaning("session.ended", AUTHENTICATION, 2, _session, ("reason", "user_id")),
    Session.Reused: Meaning(
        "refresh-token.reused", AUTHENTICATION, OTHER, _session, ("generation", "user_id"), FAILURE
    ),
    LoginAttempts.Failed: Meaning(
        "login.failed",
        AUTHENTICATION,
        1,
        lambda event: f"user:{event.user_id}" if event.user_id else f"login-attempts:{event.originator_id}",
        ("reason", "failures", "pause_seconds"),
        FAILURE,
    ),
    Keyring.Started: Meaning("keyring.started", API_ACTIVITY, CREATE, own("keyring")),
    Keyring.Added: Meaning("key.added", API_ACTIVITY, CREATE, _key, ("purpose", "algorithm", "delay_seconds")),
    Keyring.Revoked: Meaning("key.revoked", API_ACTIVITY, 4, _key, ("reason",)),
    UserAssignments.RoleAssigned: Meaning(
        "role.assigned", AUTHORIZE_SESSION, 1, _of_user, ("role", "scope", "expires_at")
    ),
    UserAssignments.RoleRevoked: Meaning("role.revoked", ACCOUNT_CHANGE, 8, _of_user, ("role", "scope")),
    Role.Defined: Meaning("role.defined", API_ACTIVITY, CREATE, _role, ("permissions", "includes")),
    Role.PermissionsChanged: Meaning("role.permissions-changed", API_ACTIVITY, UPDATE, _role, ("permissions",)),
    Role.IncludesChanged: Meaning("role.includes-changed", API_ACTIVITY, UPDATE, _role, ("includes",)),
    Role.Removed: Meaning("role.removed", API_ACTIVITY, 4, _role),
    Refusal.Refused: Meaning(
        "request.refused", API_ACTIVITY, OTHER, named("action", "action"), ("code", "permission"), FAILURE
    ),
    LogRead.Read: Meaning("audit.read", API_ACTIVITY, READ, lambda _: "audit-log", ("action",)),
    LogExport.Exported: Meaning(
        "log.exported", API_ACTIVITY, READ, lambda _: "log", ("action", "after", "upto", "types", "stream", "personal")
    ),
    AnalyticsReader.Granted: Meaning("analytics.granted", ACCOUNT_CHANGE, 7, _reader, ("personal",)),
    AnalyticsReader.Changed: Meaning("analytics.changed", ACCOUNT_CHANGE, 7, _reader, ("personal",)),
    AnalyticsReader.Revoked: Meaning("analytics.revoked", ACCOUNT_CHANGE, 8, _reader),
    Retry.Requested: Meaning("projection.retry-requested", API_ACTIVITY, UPDATE, _projection, ("stream",)),
    Finding.DifferencesFound: Meaning(
        "projection.differences-found",
        API_ACTIVITY,
        OTHER,
        _projection,
        ("build", "view_position", "differing_streams", "rows", "streams"),
        FAILURE,
    ),
    Repair.StreamRepaired: Meaning("projection.stream-repaired", API_ACTIVITY, UPDATE, _projection, ("stream",)),
    Rebuild.Requested: Meaning(
        "projection.rebuild-requested", API_ACTIVITY, CREATE, _projection, ("projection_version", "rate")
    ),
    CutOver.Decided: Meaning("projection.cut-over", API_ACTIVITY, UPDATE, _projection, ("build", "former")),
    Rollback.Decided: Meaning("projection.rolled-back", API_ACTIVITY, UPDATE, _projection, ("build", "former")),
    BuildDrop.Decided: Meaning("projection.build-dropped", API_ACTIVITY, 4, _projection, ("build",)),
    Skip.EventSkipped: Meaning("projection.event-skipped", API_ACTIVITY, 4, _projection, ("position", "reason")),
    Backup.Started: Meaning("log.backup-started", API_ACTIVITY, READ, lambda _: "log", ("destination", "after")),
    Backup.Finished: Meaning(
        "log.backed-up", API_ACTIVITY, READ, lambda _: "log", ("position", "events", "size_bytes", "sha256")
    ),
    Restoration.Restored: Meaning(
        "log.restored", API_ACTIVITY, CREATE, lambda _: "log", ("position", "head_event", "release", "taken_at")
    ),
    Job.CancellationRequested: Meaning("job.cancellation-requested", API_ACTIVITY, UPDATE, own("job"), ("reason",)),
    Job.JobCancelled: Meaning("job.cancelled", API_ACTIVITY, 4, own("job"), ("reason", "attempt", "worker")),
    Job.JobRetried: Meaning("job.retried", API_ACTIVITY, UPDATE, own("job"), ("reason", "attempts_more")),
    Queue.Paused: Meaning("queue.paused", API_ACTIVITY, UPDATE, _queue, ("reason",)),
    Queue.Resumed: Meaning("queue.resumed", API_ACTIVITY, UPDATE, _queue),
    Queue.Limited: Meaning("queue.limited", API_ACTIVITY, UPDATE, _queue, ("limit",)),
    Schedule.Created: Meaning("schedule.created", API_ACTIVITY, CREATE, _schedule, _PLAN),
    Schedule.Changed: Meaning("schedule.changed", API_ACTIVITY, UPDATE, _schedule, _PLAN),
    Schedule.Paused: Meaning("schedule.paused", API_ACTIVITY, UPDATE, _schedule, ("reason",)),
    Schedule.Resumed: Meaning("schedule.resumed", API_ACTIVITY, UPDATE, _schedule, ("reason",)),
    Schedule.Deleted: Meaning("schedule.deleted", API_ACTIVITY, 4, _schedule, ("reason",)),
    Schedule.Reinstated: Meaning("schedule.reinstated", API_ACTIVITY, CREATE, _schedule, _PLAN),
    Namespace.Declared: Meaning(
        "configuration.declared", API_ACTIVITY, UPDATE, _namespace, ("schema_version", "reason")
    ),
    Namespace.Withdrawn: Meaning("configuration.withdrawn", API_ACTIVITY, 4, _namespace, ("reason",)),
    Namespace.Changed: Meaning(
        "configuration.changed", API_ACTIVITY, UPDATE, _namespace, ("keys", "schema_version", "reason", "restores")
    ),
}

ROUTINE: frozenset[type[Event]] = frozenset(
    {
        EmailClaim.Claimed,  # saved with the registration, which is audited
        Session.Refreshed,  # every ten minutes for everybody who is logged in
        User.PasswordRehashed,  # the same password
        EmailVerification.Opened,  # saved with the first request, which is audited
        LoginAttempts.Started,  # saved with the first failure, which is audited
        LoginAttempts.Cleared,  # saved with the login, which is audited
        UserAssignments.Opened,  # saved with the first assignment, which is audited
        Job.Enqueued,  # what is to be done isn't done yet, and what it comes from is recorded beside it
        Job.AttemptSucceeded,  # what it decided is saved with it, and audited where that matters
        Job.AttemptFailed,  # nothing was done
        Job.AttemptSnoozed,  # nothing was done
        JobKey.Claimed,  # saved with the job
        JobKey.Passed,  # saved with the job
        Queue.Opened,  # saved with the first decision about it, which is audited
        Occurrence.Fired,  # what was decided is the schedule, which is audited
        Occurrence.CaughtUp,  # as decided with the schedule
        Occurrence.Coalesced,  # nothing was done
        Occurrence.Skipped,  # nothing was done
        Namespace.Opened,  # saved with the first declaration or change, which is audited
    }
)

_INSERT = """
    insert into {entries} (position, event_id, recorded_at, actor, action, class_uid, activity_id, target, outcome,
                           count, ip, user_agent, session_id, correlation_id, detail, recorded_by)
    values (%(position)s, %(event_id)s, %(recorded_at)s, %(actor)s, %(action)s, %(class_uid)s, %(activity_id)s,
            %(target)s, %(outcome)s, %(count)s, %(ip)s, %(user_agent)s, %(session_id)s, %(correlation_id)s, %(detail)s,
            %(recorded_by)s)
"""


def _entry(recorded: Recorded, **meaning: Any) -> Statements:
    metadata = recorded.metadata
    common = {
        "position": recorded.position,
        "event_id": recorded.id,
        "recorded_at": recorded.recorded_at,
        "actor": metadata.actor,
        "ip": metadata.ip,
        "user_agent": metadata.user_agent,
        "session_id": metadata.session_id,
        "correlation_id": metadata.correlation_id,
        "count": 1,
        "recorded_by": None,
    }
    return [(_INSERT, common | meaning)]


def _from(audited: Mapping[type[Event], Meaning]) -> Callable[[Recorded], Statements]:
    def entry(recorded: Recorded) -> Statements:
        event = recorded.event
        meaning = audited[type(event)]
        return _entry(
            recorded,
            # who logs in isn't anybody before: the entry names them as the actor
            actor=f"user:{event.user_id}" if isinstance(event, Session.Opened) else recorded.metadata.actor,
            action=meaning.action,
            class_uid=meaning.class_uid,
            activity_id=meaning.activity_id,
            target=meaning.target(event),
            outcome=meaning.outcome,
            count=getattr(event, "count", 1),
            detail=Jsonb({name: _plain(getattr(event, name)) for name in meaning.detail}),
        )

    return entry


def _from_service(recorded: Recorded) -> Statements:
    event = recorded.event
    assert isinstance(event, Entry.Recorded)  # noqa: S101 - tells the type checker
    return _entry(
        recorded,
        actor=event.on_behalf_of or recorded.metadata.actor,
        recorded_by=recorded.metadata.actor,
        action=event.action,
        class_uid=API_ACTIVITY,
        activity_id=OTHER,
        target=event.target,
        outcome=event.outcome,
        detail=Jsonb(event.detail),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, UUID) else value


_TABLES = """
    entries (
        position bigint primary key,
        event_id text not null,
        recorded_at timestamptz not null,
        actor text not null,
        action text not null,
        class_uid integer not null,
        activity_id integer not null,
        target text not null,
        outcome text not null,
        count integer not null,
        ip text,
        user_agent text,
        session_id text,
        correlation_id text not null,
        detail jsonb not null,
        recorded_by text
    );
    index on entries (actor, position);
    index on entries (action, position);
    index on entries (target, position);
    index on entries (recorded_at, position);
    create trigger immutable before update or delete or truncate on {entries}
        for each statement execute function muniment_refuse_change()
"""


def audit_view(audited: Mapping[type[Event], Meaning]) -> Projection:
    """The view of the events that mean something to an auditor, each an entry, and of what services have recorded."""
    return Projection(
        name="audit",
        version=1,
        tables=_TABLES,
        on={**dict.fromkeys(audited, _from(audited)), Entry.Recorded: _from_service},
        owners={"entries": Owner("position", "position")},
        only_rebuilt=True,
        generated=(_INSERT,),
    )


AUDIT = audit_view(AUDITED)
"""The platform's own. Events of modules of one's own come beside these (`runtime/registry.py`)."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, on what, with which outcome, when, from where.

    `class_uid` and `activity_id` are OCSF's. `count` is more than 1 where repetitions within a minute were put
    together. `recorded_by` is the service that recorded it, where the platform didn't.
    """

    position: int
    event_id: str
    time: datetime
    actor: str
    action: str
    class_uid: int
    activity_id: int
    target: str
    outcome: str
    count: int
    ip: str | None
    user_agent: str | None
    session_id: str | None
    correlation_id: str
    detail: dict[str, Any]
    recorded_by: str | None


def audit_entries(
    read: Read,
    limit: int,
    after: tuple[int] | None = None,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    outcome: str | None = None,
    from_: datetime | None = None,
    to: datetime | None = None,
) -> list[AuditEntry]:
    """The entries, newest first. `from_` is inclusive, `to` exclusive."""
    given = {
        "position < %(before)s": ("before", after[0] if after else None),
        "actor = %(actor)s": ("actor", actor),
        "action = %(action)s": ("action", action),
        "target = %(target)s": ("target", target),
        "outcome = %(outcome)s": ("outcome", outcome),
        "recorded_at >= %(from)s": ("from", from_),
        "recorded_at < %(to)s": ("to", to),
    }
    conditions = [sql for sql, (_, value) in given.items() if value is not None] or ["true"]
    rows = read.all(
        "select position, event_id, recorded_at as time, actor, action, class_uid, activity_id, target, outcome, count,"
        " ip, user_agent, session_id, correlation_id, detail, recorded_by"
        f" from {{entries}} where {' and '.join(conditions)} order by position desc limit %(limit)s",
        dict(given.values()) | {"limit": limit},
    )
    return [AuditEntry(**row) for row in rows]
