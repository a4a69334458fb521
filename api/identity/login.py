"""Logging in and out, and who one is."""

from datetime import timedelta
from typing import Annotated, cast
from uuid import UUID

from msgspec import Meta

from api.identity.ports import IdentityPorts
from api.rate_limits import rate_limit_headers
from api.routing import (
    OPEN,
    SELF,
    Answer,
    Asked,
    Body,
    Endpoint,
    Route,
    View,
)
from commands.identity import (
    Credentials,
    EndSession,
    Opened,
    RefreshSession,
    end_session,
    log_in,
    prepare_login,
    refresh_session,
)
from domain.access import UserAssignments
from domain.errors import Overloaded
from domain.identity import (
    InvalidCredentials,
    InvalidRefreshToken,
    KeyringChanged,
    RefreshTokenReused,
    TooManyAttempts,
    TooManyRefreshes,
    User,
    UserSuspended,
)
from infra.addresses import network_of
from infra.event_store import Log
from infra.tokens import RefreshToken, parse_refresh_token
from infra.work import UnitOfWork

VIEWS = ("identity",)
RATE_LIMIT_HEADERS = {
    "RateLimit": "Login attempts left for the client's address.",
    "RateLimit-Policy": "How many there are.",
}
EMAIL_CHARS, NAME_CHARS, PASSWORD_CHARS = 254, 200, 1024


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
    command = await prepare_login(
        ports, Credentials(asked.body.email, asked.body.password, asked.ip, network_of(asked.ip))
    )
    outcome = await asked.in_thread(asked.services.dispatcher.dispatch, log_in, command, asked.context)
    answer = _tokens(ports, outcome.result, cast("RefreshToken", command.token), outcome.position)
    standing = await asked.ports.throttle.standing(asked.ip)
    answer.headers = rate_limit_headers(
        "login-address",
        quota=standing.quota,
        window_seconds=standing.window_seconds,
        remaining=standing.remaining,
        reset_seconds=standing.reset_seconds,
    )
    return answer


async def refresh(asked: Asked) -> Answer:
    """Rotates the refresh token. The same token within the grace gets the same successor; an older one ends it all."""
    ports: IdentityPorts = asked.ports
    token = parse_refresh_token(asked.body.refresh_token)
    successor, key_id = ports.tokens.successor(token)
    command = RefreshSession(token, successor, key_id, ports.refresh_grace, ports.refresh_lifetime, ports.session_limit)
    try:
        outcome = await asked.in_thread(asked.services.dispatcher.dispatch, refresh_session, command, asked.context)
    except KeyringChanged:
        ports.keys.forget()
        raise
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


ROUTES: list[Route] = [
    Endpoint(
        "POST", "/api/v1/auth/login", login, permission=OPEN, body=LoginBody, result=TokenView,
        headers=RATE_LIMIT_HEADERS, raises=(InvalidCredentials, UserSuspended, TooManyAttempts, Overloaded),
    ),
    Endpoint(
        "POST", "/api/v1/auth/refresh", refresh, permission=OPEN, body=RefreshBody, result=TokenView,
        raises=(InvalidRefreshToken, RefreshTokenReused, KeyringChanged, TooManyRefreshes),
    ),
    Endpoint("POST", "/api/v1/auth/logout", logout, permission=SELF, answers=204),
    Endpoint("GET", "/api/v1/auth/me", me, permission=SELF, result=MeView, projections=()),
]  # fmt: skip
