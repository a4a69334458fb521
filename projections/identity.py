"""Who the users are and which sessions they have."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.identity import Keyring, Session, User, UserNotFound
from infra.event_store import Log
from infra.inline import Inline
from projections.errors import whole
from projections.projection import Projection
from projections.read import Read

SESSIONS = Inline(
    name="sessions",
    on={
        Session.Opened: "insert into sessions (id, user_id, opened_position)"
        " values (%(stream)s, %(user_id)s, %(position)s)",
        Session.Ended: "update sessions set ended_position = %(position)s where id = %(stream)s",
        User.Suspended: "insert into session_floors (user_id, not_before) values (%(stream)s, %(position)s)"
        " on conflict (user_id) do update set not_before = excluded.not_before",
        User.PasswordChanged: "insert into session_floors (user_id, not_before) values (%(stream)s, %(position)s)"
        " on conflict (user_id) do update set not_before = excluded.not_before",
    },
    announces={
        Session.Ended: lambda event: f"session:{event.originator_id}",
        User.Suspended: lambda event: f"user:{event.originator_id}",
        User.PasswordChanged: lambda event: f"user:{event.originator_id}",
        Keyring.Added: lambda _: "keyring",
        Keyring.Revoked: lambda _: "keyring",
    },
    tables=("sessions", "session_floors"),
)

USERS = Projection(
    name="identity",
    version=1,
    tables="""
        users (
            id uuid primary key,
            email text not null,
            name text not null,
            registered_at timestamptz not null,
            registered_position bigint not null unique,
            suspended_at timestamptz,
            suspended_reason text,
            sessions_ended_position bigint not null default 0,
            version bigint not null
        );
        sessions (
            id uuid primary key,
            user_id uuid not null,
            opened_at timestamptz not null,
            opened_position bigint not null,
            refreshed_at timestamptz not null,
            ended_at timestamptz,
            end_reason text,
            ip text,
            user_agent text
        );
        index on sessions (user_id, opened_position)
    """,
    on={
        User.Registered: "insert into {users} (id, email, name, registered_at, registered_position, version)"
        " values (%(stream)s, %(email)s, %(name)s, %(recorded_at)s, %(position)s, %(version)s)",
        User.Renamed: "update {users} set name = %(name)s, version = %(version)s where id = %(stream)s",
        User.Suspended: "update {users} set suspended_at = %(recorded_at)s, suspended_reason = %(reason)s,"
        " sessions_ended_position = %(position)s, version = %(version)s where id = %(stream)s",
        User.Reactivated: "update {users} set suspended_at = null, suspended_reason = null, version = %(version)s"
        " where id = %(stream)s",
        User.PasswordChanged: "update {users} set sessions_ended_position = %(position)s, version = %(version)s"
        " where id = %(stream)s",
        User.PasswordRehashed: "update {users} set version = %(version)s where id = %(stream)s",
        Session.Opened: "insert into {sessions} (id, user_id, opened_at, opened_position, refreshed_at, ip, user_agent)"
        " values (%(stream)s, %(user_id)s, %(recorded_at)s, %(position)s, %(recorded_at)s, %(ip)s, %(user_agent)s)",
        Session.Refreshed: "update {sessions} set refreshed_at = %(recorded_at)s where id = %(stream)s",
        Session.Ended: "update {sessions} set ended_at = %(recorded_at)s, end_reason = %(reason)s"
        " where id = %(stream)s",
    },
    invalidates=dict.fromkeys(
        (
            User.Registered,
            User.Renamed,
            User.Suspended,
            User.Reactivated,
            User.PasswordChanged,
            User.PasswordRehashed,
        ),
        "stream",
    ),
    owners={"users": "id", "sessions": "id"},
)


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as lists and `GET /users/{id}` show it."""

    id: UUID
    email: str
    name: str
    status: str
    registered_at: datetime
    registered_position: int
    suspended_at: datetime | None
    suspended_reason: str | None
    version: int


_USER = """
    id, email, name, case when suspended_at is null then 'active' else 'suspended' end as status,
    registered_at, registered_position, suspended_at, suspended_reason, version
"""


def user_by_id(read: Read, id: UUID) -> UserRow:  # noqa: A002
    """Raises UserNotFound."""
    row = read.one(f"select {_USER} from {{users}} where id = %(id)s", {"id": id})
    if row is None:
        raise UserNotFound
    return UserRow(**row)


def user_at(log: Log, user_id: UUID, position: int) -> UserRow:
    """A user as they were at a position, folded from the event store. Raises UserNotFound, Unavailable."""
    with whole():
        events = log.read_stream(user_id, 0, position)
        if not events or not isinstance(events[0].event, User.Registered):
            raise _not_yet(log, user_id, position)
    values: dict[str, Any] = {"suspended_at": None, "suspended_reason": None}
    for recorded in events:
        match recorded.event:
            case User.Registered(email=email, name=name):
                values |= {"email": email, "name": name, "registered_at": recorded.recorded_at}
            case User.Renamed(name=name):
                values["name"] = name
            case User.Suspended(reason=reason):
                values |= {"suspended_at": recorded.recorded_at, "suspended_reason": reason}
            case User.Reactivated():
                values |= {"suspended_at": None, "suspended_reason": None}
    status = "suspended" if values["suspended_at"] else "active"
    first, last = events[0], events[-1]
    return UserRow(id=user_id, status=status, registered_position=first.position, version=last.version, **values)


def _not_yet(log: Log, user_id: UUID, position: int) -> UserNotFound:
    later = log.read_stream(user_id, 0, limit=1)
    if later and isinstance(later[0].event, User.Registered):
        return UserNotFound(
            f"At position {position} there was no such user: they were registered later, at {later[0].position}."
        )
    return UserNotFound()


def users(read: Read, limit: int, after: tuple[int] | None = None, q: str | None = None) -> list[UserRow]:
    """The users, newest first, whose e-mail address or name contains `q` (case doesn't count)."""
    rows = read.all(
        f"select {_USER} from {{users}}"
        " where (%(before)s::bigint is null or registered_position < %(before)s)"
        " and (%(q)s::text is null or strpos(lower(email), lower(%(q)s)) > 0 or strpos(lower(name), lower(%(q)s)) > 0)"
        " order by registered_position desc limit %(limit)s",
        {"before": after[0] if after else None, "q": q or None, "limit": limit},
    )
    return [UserRow(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as its owner sees it. `refreshed_at` is when its refresh token was last rotated."""

    id: UUID
    user_id: UUID
    status: str
    opened_at: datetime
    opened_position: int
    refreshed_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    ip: str | None
    user_agent: str | None


def sessions_of(read: Read, id: UUID, limit: int, after: tuple[int] | None = None) -> list[SessionRow]:  # noqa: A002
    """A user's sessions, newest first. Raises UserNotFound."""
    user_by_id(read, id)
    rows = read.all(
        """
        select s.id, s.user_id, s.opened_at, s.opened_position, s.refreshed_at, s.ip, s.user_agent,
               s.ended_at, s.end_reason,
               case when s.ended_at is not null or s.opened_position <= u.sessions_ended_position
                    then 'ended' else 'active' end as status
        from {sessions} s join {users} u on u.id = s.user_id
        where s.user_id = %(user)s and (%(before)s::bigint is null or s.opened_position < %(before)s)
        order by s.opened_position desc limit %(limit)s
        """,
        {"user": id, "before": after[0] if after else None, "limit": limit},
    )
    return [SessionRow(**row) for row in rows]
