"""Logging in and out, users, sessions, keys."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol, cast
from uuid import UUID

from msgspec import Meta, convert

from api import requests
from api.routing import (
    OPEN,
    SELF,
    Answer,
    Asked,
    Body,
    Command,
    Created,
    Endpoint,
    Keyset,
    Own,
    Page,
    Paging,
    Query,
    Route,
    View,
)
from commands.identity import (
    AddKey,
    ChangePassword,
    Credentials,
    EndSession,
    NewPassword,
    NewUser,
    Opened,
    RefreshSession,
    RegisterUser,
    RevokeKey,
    SuspendUser,
    add_key,
    change_password,
    end_session,
    log_in,
    prepare_login,
    prepare_password_change,
    prepare_registration,
    reactivate_user,
    refresh_session,
    register_user,
    rename_user,
    revoke_key,
    suspend_user,
)
from domain.access import UserAssignments
from domain.errors import Forbidden, Overloaded, PositionUnknown, ProjectionBehind
from domain.identity import (
    EmailTaken,
    InvalidCredentials,
    InvalidRefreshToken,
    KeyUnknown,
    RefreshTokenReused,
    SessionNotFound,
    TooManyAttempts,
    User,
    UserNotFound,
    UserSuspended,
    WeakPassword,
    WrongPassword,
)
from domain.ports import Identity
from infra.event_store import Log
from infra.keys import Keys, new_signing_key
from infra.secrets import Secrets
from infra.settings import Settings
from infra.tokens import RefreshToken, Tokens, parse_refresh_token
from infra.work import UnitOfWork
from projections.identity import sessions_of, users

VIEWS = ("identity",)
EMAIL_CHARS, NAME_CHARS, PASSWORD_CHARS = 254, 200, 1024


class IdentityPorts(Identity, Protocol):
    """What this module's routes are given, beside what its commands are."""

    @property
    def tokens(self) -> Tokens: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def secrets(self) -> Secrets: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def log(self) -> Log: ...


# --- logging in and out


class LoginBody(Body):
    """Who logs in."""

    email: Annotated[str, Meta(max_length=EMAIL_CHARS)]
    password: Annotated[str, Meta(max_length=PASSWORD_CHARS)]


class RefreshBody(Body):
    """The newest refresh token of a session."""

    refresh_token: Annotated[str, Meta(max_length=128)]


class TokenView(View):
    """An access token (RFC 6750, RFC 9068) and the refresh token that follows it. Lifetimes in seconds."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    session_id: UUID


async def login(asked: Asked) -> Answer:
    """Opens a session for whoever knows e-mail address and password."""
    ports: IdentityPorts = asked.ports
    command = await prepare_login(ports, Credentials(asked.body.email, asked.body.password, asked.ip))
    outcome = await asked.in_thread(asked.services.dispatcher.dispatch, log_in, command, asked.context)
    return _tokens(ports, outcome.result, cast("RefreshToken", command.token), outcome.position)


async def refresh(asked: Asked) -> Answer:
    """Rotates the refresh token. The same token within the grace gets the same successor; an older one ends it all."""
    ports: IdentityPorts = asked.ports
    token = parse_refresh_token(asked.body.refresh_token)
    successor, key_id = ports.tokens.successor(token)
    command = RefreshSession(token, successor, key_id, ports.refresh_grace, ports.refresh_lifetime)
    outcome = await asked.in_thread(asked.services.dispatcher.dispatch, refresh_session, command, asked.context)
    opened: Opened = outcome.result
    if opened.key_id != key_id:  # somebody else rotated it first, under the key before
        successor, _ = ports.tokens.successor(token, opened.key_id)
    return _tokens(ports, opened, successor, outcome.position)


async def logout(asked: Asked) -> Answer:
    """Ends the session that the access token belongs to."""
    command = EndSession(cast("UUID", asked.caller.session_id), "logout")
    outcome = await asked.in_thread(asked.services.dispatcher.dispatch, end_session, command, asked.context)
    return Answer(None, 204, position=outcome.position)


def _tokens(ports: IdentityPorts, opened: Opened, token: RefreshToken, position: int) -> Answer:
    view = TokenView(
        access_token=ports.tokens.access_token(opened.user_id, opened.session_id),
        token_type="Bearer",  # noqa: S106 - RFC 6750, not a password
        expires_in=ports.settings.access_token_seconds,
        refresh_token=token.text,
        refresh_expires_in=int(ports.refresh_lifetime / timedelta(seconds=1)),
        session_id=opened.session_id,
    )
    return Answer(view, position=position)


class MeView(View):
    """The caller."""

    id: UUID
    email: str
    name: str
    status: str
    roles: list[str]


async def me(asked: Asked) -> Answer:
    """Who the access token belongs to, from the event store: right at once."""
    view, position = await asked.in_thread(_me, asked.ports.log, asked)
    return Answer(view, position=position)


def _me(log: Log, asked: Asked) -> tuple[MeView, int]:
    position = log.head()
    work = UnitOfWork(log, asked.context)
    user = work.get(User, asked.caller.user_id)
    held, now = work.find(UserAssignments, UserAssignments.create_id(user.id)), work.now()
    assigned = held.assigned.items() if held else ()
    view = MeView(
        id=user.id,
        email=user.email,
        name=user.name,
        status="suspended" if user.suspended else "active",
        roles=sorted({place.role for place, expires_at in assigned if expires_at is None or expires_at > now}),
    )
    return view, position


# --- users


class NewUserBody(Body):
    """Somebody who is registered."""

    email: Annotated[str, Meta(max_length=EMAIL_CHARS)]
    password: Annotated[str, Meta(max_length=PASSWORD_CHARS)]
    name: Annotated[str, Meta(max_length=NAME_CHARS)]


class RenameBody(Body):
    """What changes about a user."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]


class ReasonBody(Body):
    """Why."""

    reason: Annotated[str, Meta(max_length=500)] = ""


class NoBody(Body):
    """Nothing."""


class PasswordBody(Body):
    """The current password is needed for one's own; without it, `user:set-password` is."""

    new_password: Annotated[str, Meta(max_length=PASSWORD_CHARS)]
    current_password: Annotated[str, Meta(max_length=PASSWORD_CHARS)] | None = None


class UserView(View):
    """A user."""

    id: UUID
    email: str
    name: str
    status: str
    registered_at: datetime
    suspended_at: datetime | None
    suspended_reason: str | None
    version: int


class UserSearch(Paging):
    """`q` is searched in e-mail addresses and names."""

    q: Annotated[str, Meta(max_length=200)] | None = None


class SessionView(View):
    """A session."""

    id: UUID
    user_id: UUID
    status: str
    opened_at: datetime
    refreshed_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    ip: str | None
    user_agent: str | None


async def get_user(asked: Asked) -> Answer:
    """A user, from memory where that is sure."""
    ports, user_id = asked.ports, asked.path["id"]
    if (position := requests.at_least(asked.headers)) is not None:
        await asked.services.positions.wait(VIEWS, position, ports.settings.at_least_timeout_seconds)
    found = await ports.users.get(user_id)
    tag = b'"%d"' % found.value.version
    if requests.none_match(asked.headers, tag):
        return Answer(None, 304, [(b"etag", tag)], found.position)
    return Answer(convert(found.value, UserView, from_attributes=True), 200, [(b"etag", tag)], found.position)


async def prepare_new_user(ports: IdentityPorts, body: NewUserBody) -> RegisterUser:
    """Raises Invalid, WeakPassword, Overloaded."""
    return await prepare_registration(ports, NewUser(body.email, body.name, body.password))


async def prepare_password(ports: IdentityPorts, asked: Asked) -> ChangePassword:
    """One's own with the current password; another's, or without it, with the permission."""
    user_id, current = asked.path["id"], asked.body.current_password
    if current is None or user_id != asked.caller.user_id:
        await asked.services.authoriser.require(asked.caller, "user:set-password", "/")
    if current is not None:
        await ports.throttle.login(user_id, asked.ip)
    return await prepare_password_change(ports, NewPassword(user_id, asked.body.new_password, current))


async def prepare_revocation(_: IdentityPorts, asked: Asked) -> EndSession:
    """One's own session, or anybody's with the permission."""
    try:
        await asked.services.authoriser.require(asked.caller, "session:revoke", "/")
    except Forbidden:
        return EndSession(asked.path["id"], "revoked", asked.caller.user_id)
    return EndSession(asked.path["id"], "revoked")


def _user_id(asked: Asked) -> UUID:
    return cast("UUID", asked.path["id"])


# --- keys


class KeyView(View):
    """A key of the keyring; never its private part."""

    key_id: str
    purpose: str
    algorithm: str
    counts_from: datetime
    revoked: bool


class KeysView(View):
    """The keyring."""

    items: list[KeyView]


class RotationBody(Body):
    """How many seconds the new key is published before it signs; the overlap of the settings unless said."""

    delay_seconds: Annotated[int, Meta(ge=0, le=86_400)] | None = None


class RotationView(View):
    """The new key."""

    key_id: str


async def jwks(asked: Asked) -> Answer:
    """The keys that verify every unexpired access token (RFC 7517)."""
    ports: IdentityPorts = asked.ports
    return Answer(
        await asked.in_thread(ports.keys.jwks),
        headers=((b"cache-control", b"public, max-age=300"),),
        media_type=b"application/jwk-set+json",
    )


async def keys(asked: Asked) -> Answer:
    """The keyring."""
    records = await asked.in_thread(asked.ports.keys.records)
    items = [
        KeyView(key_id=r.key_id, purpose=r.purpose, algorithm=r.algorithm, counts_from=r.counts_from, revoked=r.revoked)
        for r in records
    ]
    return Answer(KeysView(items=items))


async def prepare_rotation(ports: IdentityPorts, body: RotationBody) -> AddKey:
    """A fresh signing key, encrypted."""
    delay = ports.settings.key_overlap_seconds if body.delay_seconds is None else body.delay_seconds
    key = new_signing_key(ports.secrets)
    return AddKey(ports.secrets.master_key_id, key.key_id, key.purpose, key.algorithm, key.public, key.private, delay)


def _registered(row: Any) -> Sequence[Any]:
    return (row.registered_position,)


def _opened(row: Any) -> Sequence[Any]:
    return (row.opened_position,)


TAKEN = (EmailTaken, WeakPassword, Overloaded)

ROUTES: list[Route] = [
    Endpoint(
        "POST", "/api/v1/auth/login", login, permission=OPEN, body=LoginBody, result=TokenView,
        raises=(InvalidCredentials, UserSuspended, TooManyAttempts, Overloaded),
    ),
    Endpoint(
        "POST", "/api/v1/auth/refresh", refresh, permission=OPEN, body=RefreshBody, result=TokenView,
        raises=(InvalidRefreshToken, RefreshTokenReused),
    ),
    Endpoint("POST", "/api/v1/auth/logout", logout, permission=SELF, answers=204),
    Endpoint("GET", "/api/v1/auth/me", me, permission=SELF, result=MeView),
    Command(
        "POST", "/api/v1/users", NewUserBody, register_user, prepare=prepare_new_user, permission="user:create",
        answers=201, result=Created, location="/api/v1/users/{id}", raises=TAKEN,
    ),
    Query(
        "GET", "/api/v1/users", Page[UserView], users, permission="user:read", projections=VIEWS, params=UserSearch,
        page=Keyset(_registered, (int,)),
    ),
    Endpoint(
        "GET", "/api/v1/users/{id}", get_user, permission=Own("id", "user:read"), result=UserView, also=(304,),
        raises=(UserNotFound, ProjectionBehind, PositionUnknown), headers={"ETag": "The user's version."},
    ),
    Command(
        "PATCH", "/api/v1/users/{id}", RenameBody, rename_user, permission=Own("id", "user:update"), stream=_user_id,
        raises=(UserNotFound,),
    ),
    Command(
        "POST", "/api/v1/users/{id}/suspend", ReasonBody, suspend_user, permission="user:suspend", stream=_user_id,
        command=lambda asked: SuspendUser(asked.path["id"], asked.body.reason), raises=(UserNotFound,),
    ),
    Command(
        "POST", "/api/v1/users/{id}/reactivate", None, reactivate_user, permission="user:suspend", stream=_user_id,
        raises=(UserNotFound,),
    ),
    Command(
        "POST", "/api/v1/users/{id}/password", PasswordBody, change_password, prepare=prepare_password,
        permission=SELF, stream=_user_id, raises=(UserNotFound, WrongPassword, WeakPassword, Overloaded),
    ),
    Query(
        "GET", "/api/v1/users/{id}/sessions", Page[SessionView], sessions_of, permission=Own("id", "session:read"),
        projections=VIEWS, params=Paging, page=Keyset(_opened, (int,)), raises=(UserNotFound,),
    ),
    Command(
        "DELETE", "/api/v1/sessions/{id}", None, end_session, prepare=prepare_revocation, permission=SELF,
        raises=(SessionNotFound,),
    ),
    Endpoint("GET", "/api/v1/keys", keys, permission="key:read", result=KeysView),
    Command(
        "POST", "/api/v1/keys/rotate", RotationBody, add_key, prepare=prepare_rotation, permission="key:rotate",
        answers=201, result=RotationView,
    ),
    Command(
        "POST", "/api/v1/keys/{key}/revoke", ReasonBody, revoke_key, permission="key:rotate",
        command=lambda asked: RevokeKey(asked.path["key"], asked.body.reason), raises=(KeyUnknown,),
    ),
    Endpoint("GET", "/.well-known/jwks.json", jwks, permission=OPEN, media_type="application/jwk-set+json"),
]  # fmt: skip
