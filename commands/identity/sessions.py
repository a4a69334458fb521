"""Logging in, going on, and logging out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from domain.aggregate import Aggregate
from domain.errors import Invalid
from domain.identity import (
    EmailAddress,
    EmailClaim,
    InvalidCredentials,
    InvalidRefreshToken,
    Keyring,
    KeyringChanged,
    Lockout,
    LoginAttempts,
    RefreshTokenReused,
    Session,
    SessionNotFound,
    TooManyAttempts,
    User,
    UserSuspended,
)
from domain.ports import Identity, PresentedToken, Work


@dataclass(frozen=True)
class Credentials:
    """What somebody who logs in says, in clear, and from where; `network` is what their failures count under."""

    email: str
    password: str
    ip: str | None = None
    network: str = ""


@dataclass(frozen=True)
class LogIn:
    """A login whose password has been verified against the hash `verified`, or hasn't matched.

    `rehashed` is the same password's hash at today's cost, where that has changed. `token` is the session's first
    refresh token.
    """

    claim_id: UUID
    attempts_id: UUID
    user_id: UUID | None
    verified: str | None
    matches: bool
    rehashed: str | None
    token: PresentedToken
    lockout: Lockout = field(default_factory=Lockout)


async def prepare_login(ports: Identity, given: Credentials) -> LogIn:
    """Takes the same time whether or not anybody has this address. Raises InvalidCredentials, TooManyAttempts."""
    try:
        email = EmailAddress(given.email)
    except Invalid:
        raise InvalidCredentials from None
    claim_id = ports.claims.claim_id(email)
    await ports.throttle.login(claim_id, given.ip)
    attempts_id = ports.claims.attempts_id(claim_id, given.network)
    account = await ports.accounts.look_up(claim_id, attempts_id)
    if account.pause_seconds:
        raise TooManyAttempts(retry_after_seconds=account.pause_seconds)
    matches = await ports.passwords.verify(given.password, account.password)
    rehash = matches and account.password is not None and ports.passwords.needs_rehash(account.password)
    return LogIn(
        claim_id,
        attempts_id,
        account.user_id,
        account.password,
        matches,
        await ports.passwords.hash(given.password) if rehash else None,
        ports.tokens.first_refresh_token(Aggregate.create_id()),
        ports.lockout,
    )


@dataclass(frozen=True)
class Opened:
    """A session that goes on: whose it is, and how its newest refresh token is derived."""

    session_id: UUID
    user_id: UUID
    key_id: str = ""


def log_in(work: Work, command: LogIn) -> Opened:
    """Raises InvalidCredentials, UserSuspended, TooManyAttempts. A failure is recorded before it is answered."""
    attempts = work.find(LoginAttempts, command.attempts_id)
    if attempts and (seconds := attempts.remaining_pause_seconds(work.now())):
        raise TooManyAttempts(retry_after_seconds=seconds)
    user = _verified_user(work, command)
    if user is None or user.suspended:
        attempts = attempts or work.add(LoginAttempts(id=command.attempts_id))
        reason = "wrong-credentials" if user is None else "suspended"
        attempts.fail(reason, command.user_id, work.now(), command.lockout)
        work.refuse(InvalidCredentials() if user is None else UserSuspended())
    if attempts:
        attempts.clear()
    if command.rehashed and user.password == command.verified:
        user.rehash_password(command.rehashed)
    work.guard(user)  # a suspension at the same moment wins
    work.add(Session(user_id=user.id, token_hash=command.token.hash, id=command.token.session_id))
    return Opened(command.token.session_id, user.id)


def _verified_user(work: Work, command: LogIn) -> User | None:
    claim = work.find(EmailClaim, command.claim_id)
    if claim is None or claim.user_id != command.user_id or not command.matches:
        return None
    user = work.get(User, claim.user_id)
    return user if user.has_hash(command.verified) else None


@dataclass(frozen=True)
class RefreshSession:
    """`successor` is what follows the presented token under the key `key_id`, `grace` and `lifetime` the limits."""

    token: PresentedToken
    successor: PresentedToken
    key_id: str
    grace: timedelta
    lifetime: timedelta
    session_limit: timedelta


def refresh_session(work: Work, command: RefreshSession) -> Opened:
    """Rotates the refresh token; the immediate predecessor within the grace gets the same successor again.

    Raises InvalidRefreshToken; RefreshTokenReused for an older one, which ends the session (RFC 9700, 4.14.2);
    KeyringChanged where the successor's key was revoked meanwhile; TooManyRefreshes. A session whose newest token was
    derived under a revoked key is ended: whoever has the key can make that token too.
    """
    token, now = command.token, work.now()
    session = work.find(Session, token.session_id)
    if session is None or session.ended or not session.is_authentic(token.generation, token.hash):
        raise InvalidRefreshToken
    user = work.get(User, session.user_id)
    if (
        user.suspended
        or user.has_ended(session.created_on)
        or now >= session.expires_on(command.lifetime, command.session_limit)
    ):
        raise InvalidRefreshToken
    ring = work.find(Keyring, Keyring.ID)
    if ring and ring.is_revoked(session.key_id):
        session.end("key-revoked")
        work.refuse(InvalidRefreshToken())
    if ring and ring.is_revoked(command.key_id):
        raise KeyringChanged
    if token.generation == session.generation:
        session.check_may_rotate(now)
        session.rotate(command.successor.hash, command.key_id)
        work.guard(user)
    elif not session.within_grace(token.generation, now, command.grace):
        session.report_reuse(token.generation)
        work.refuse(RefreshTokenReused())
    return Opened(session.id, user.id, session.key_id)


@dataclass(frozen=True)
class EndSession:
    """Ends a session's tokens at once. `owner` is whose it must be, where only one's own may be ended."""

    id: UUID
    reason: str = "revoked"
    owner: UUID | None = None


def end_session(work: Work, command: EndSession) -> None:
    """Raises SessionNotFound."""
    session = work.get(Session, command.id)
    if command.owner is not None and session.user_id != command.owner:
        raise SessionNotFound
    session.end(command.reason)


@dataclass(frozen=True)
class ExpireSessions:
    """Ends those of these sessions whose refresh token works no more: their owners can't carry them on any longer."""

    ids: Sequence[UUID]
    lifetime: timedelta
    session_limit: timedelta


def expire_sessions(work: Work, command: ExpireSessions) -> int:
    """How many have ended."""
    now, ended = work.now(), 0
    for id_ in command.ids:
        session = work.find(Session, id_)
        if session and not session.ended and now >= session.expires_on(command.lifetime, command.session_limit):
            session.end("expired")
            ended += 1
    return ended
