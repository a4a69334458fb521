"""Users, their passwords and their sessions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, cast
from uuid import UUID

from msgspec import Meta, convert

from api import requests
from api.identity.ports import IdentityPorts
from api.moments import PAST, AsOfParams, folded_at, moment_of
from api.routing import (
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
    Self,
    View,
)
from commands.access import NotHeld, SetPassword, set_password
from commands.identity import (
    ChangePassword,
    EndSession,
    NewPassword,
    NewUser,
    RegisterUser,
    SuspendUser,
    change_password,
    end_session,
    prepare_password_change,
    prepare_registration,
    reactivate_user,
    register_user,
    rename_user,
    suspend_user,
)
from domain.errors import Forbidden, Overloaded
from domain.identity import (
    EmailTaken,
    SessionNotFound,
    TooManyAttempts,
    TooManyNames,
    UserNotFound,
    WeakPassword,
    WrongPassword,
)
from domain.ports import Work
from projections.identity import sessions_of, user_at, users

VIEWS = ("identity",)
EMAIL_CHARS, NAME_CHARS, PASSWORD_CHARS = 254, 200, 1024
OTHERS_PASSWORD, ANY_SESSION = Self("user:set-password"), Self("session:revoke")


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
    """A user, from memory where that is sure; with `as_of`, as they were then, by the name that they had then."""
    ports, user_id = asked.ports, asked.path["id"]
    as_of = moment_of(asked.params.as_of)
    if as_of is not None:
        user, position = await folded_at(asked, ports.log, as_of, lambda at: user_at(ports.log, user_id, at))
        return Answer(convert(user, UserView, from_attributes=True), position=position)
    found = await ports.users.get(user_id)
    tag = b'"%d"' % found.value.version
    if requests.none_match(asked.headers, tag):
        return Answer(None, 304, [(b"etag", tag)], found.position)
    return Answer(convert(found.value, UserView, from_attributes=True), 200, [(b"etag", tag)], found.position)


async def prepare_new_user(ports: IdentityPorts, body: NewUserBody) -> RegisterUser:
    """Raises Invalid, WeakPassword, Overloaded."""
    return await prepare_registration(ports, NewUser(body.email, body.name, body.password))


async def prepare_password(ports: IdentityPorts, asked: Asked) -> ChangePassword | SetPassword:
    """One's own with the current password; another's, or without it, with the permission."""
    user_id, current = asked.path["id"], asked.body.current_password
    own = current is not None and user_id == asked.caller.user_id
    if not own:
        await asked.services.authoriser.require(asked.caller, OTHERS_PASSWORD.others, "/")
    if current is not None:
        await ports.throttle.login(user_id, asked.ip)
    change = await prepare_password_change(ports, NewPassword(user_id, asked.body.new_password, current))
    return change if own else SetPassword(user_id, change.password)


def replace_password(work: Work, command: ChangePassword | SetPassword) -> None:
    """Ends every session of the user. Raises WrongPassword, NotHeld, Forbidden, UserNotFound."""
    if isinstance(command, SetPassword):
        set_password(work, command)
    else:
        change_password(work, command)


async def prepare_revocation(_: IdentityPorts, asked: Asked) -> EndSession:
    """One's own session, or anybody's with the permission."""
    try:
        await asked.services.authoriser.require(asked.caller, ANY_SESSION.others, "/")
    except Forbidden:
        return EndSession(asked.path["id"], "revoked", asked.caller.user_id)
    return EndSession(asked.path["id"], "revoked")


def _user_id(asked: Asked) -> UUID:
    return cast("UUID", asked.path["id"])


def _registered(row: Any) -> Sequence[Any]:
    return (row.registered_position,)


def _opened(row: Any) -> Sequence[Any]:
    return (row.opened_position,)


TAKEN = (EmailTaken, WeakPassword, Overloaded)


ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/users", NewUserBody, register_user, prepare=prepare_new_user, permission="user:create",
        answers=201, result=Created, location="/api/v1/users/{id}", raises=TAKEN,
    ),
    Query(
        "GET", "/api/v1/users", Page[UserView], users, permission="user:read", projections=VIEWS, params=UserSearch,
        page=Keyset(_registered, (int,)),
    ),
    Endpoint(
        "GET", "/api/v1/users/{id}", get_user, permission=Own("id", "user:read"), params=AsOfParams, result=UserView,
        also=(304,), projections=VIEWS, raises=(UserNotFound, *PAST), headers={"ETag": "The user's version."},
    ),
    Command(
        "PATCH", "/api/v1/users/{id}", RenameBody, rename_user, permission=Own("id", "user:update"), stream=_user_id,
        raises=(UserNotFound, TooManyNames),
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
        "POST", "/api/v1/users/{id}/password", PasswordBody, replace_password, prepare=prepare_password,
        permission=OTHERS_PASSWORD, stream=_user_id, name="change_password",
        raises=(UserNotFound, WrongPassword, WeakPassword, NotHeld, TooManyAttempts, Overloaded),
    ),
    Query(
        "GET", "/api/v1/users/{id}/sessions", Page[SessionView], sessions_of, permission=Own("id", "session:read"),
        projections=VIEWS, params=Paging, page=Keyset(_opened, (int,)), raises=(UserNotFound,),
    ),
    Command(
        "DELETE", "/api/v1/sessions/{id}", None, end_session, prepare=prepare_revocation, permission=ANY_SESSION,
        raises=(SessionNotFound,),
    ),
]  # fmt: skip
