"""What a caller can intend with users, sessions and keys, and how it is decided.

What is slow or needs a key happens in a `prepare_…` before the unit of work; the handler decides.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from domain.access import UserAssignments
from domain.aggregate import Aggregate
from domain.errors import Invalid
from domain.identity import (
    AlreadyVerified,
    EmailAddress,
    EmailClaim,
    EmailTaken,
    EmailVerification,
    InvalidCredentials,
    InvalidRefreshToken,
    Keyring,
    KeyringChanged,
    LoginAttempts,
    Onboarding,
    PersonName,
    RefreshTokenReused,
    Session,
    SessionNotFound,
    TooManyAttempts,
    User,
    UserSuspended,
    VerificationInvalid,
    WrongPassword,
    check_password,
)
from domain.ports import Identity, PresentedToken, Work


@dataclass(frozen=True)
class NewUser:
    """What somebody who registers says, in clear."""

    email: str
    name: str
    password: str


@dataclass(frozen=True)
class RegisterUser:
    """`password` is the hash."""

    email: EmailAddress
    claim_id: UUID
    name: PersonName
    password: str


async def prepare_registration(ports: Identity, new: NewUser) -> RegisterUser:
    """Raises Invalid, WeakPassword, Overloaded."""
    email, name = checked(new)
    return RegisterUser(email, ports.claims.claim_id(email), name, await ports.passwords.hash(new.password))


def checked(new: NewUser) -> tuple[EmailAddress, PersonName]:
    """Raises Invalid, WeakPassword."""
    email, name = EmailAddress(new.email), PersonName(new.name)
    check_password(new.password, email=email, name=name)
    return email, name


def register_user(work: Work, command: RegisterUser) -> UUID:
    """Raises EmailTaken. The claim and the user are saved together, so two registrations can't both win."""
    if work.find(EmailClaim, command.claim_id):
        raise EmailTaken
    user = work.add(User(command.email, command.name, command.password))
    work.add(EmailClaim(user_id=user.id, id=command.claim_id))
    return user.id


@dataclass(frozen=True)
class RenameUser:
    """A new name for a user."""

    id: UUID
    name: str


def rename_user(work: Work, command: RenameUser) -> None:
    """Raises UserNotFound, Invalid, TooManyNames."""
    user, name = work.get(User, command.id), PersonName(command.name)
    if name != user.name:
        user.check_may_be_renamed(work.now())
        user.rename(name)


@dataclass(frozen=True)
class SuspendUser:
    """Ends a user's sessions and refuses new ones."""

    id: UUID
    reason: str = ""


def suspend_user(work: Work, command: SuspendUser) -> None:
    """Raises UserNotFound."""
    work.get(User, command.id).suspend(command.reason)


@dataclass(frozen=True)
class ReactivateUser:
    """Lets a suspended user log in again."""

    id: UUID


def reactivate_user(work: Work, command: ReactivateUser) -> None:
    """Raises UserNotFound."""
    work.get(User, command.id).reactivate()


@dataclass(frozen=True)
class NewPassword:
    """What somebody who changes a password says, in clear. `current` is needed for one's own."""

    id: UUID
    new: str
    current: str | None = None


@dataclass(frozen=True)
class ChangePassword:
    """`password` is the new hash; `verified` the stored one that the current password was checked against."""

    id: UUID
    password: str
    verified: str | None


async def prepare_password_change(ports: Identity, new: NewPassword) -> ChangePassword:
    """Raises UserNotFound, WrongPassword, WeakPassword, Overloaded."""
    check_password(new.new, field="new_password")
    stored = await ports.accounts.password_of(new.id)
    if new.current is None:
        return ChangePassword(new.id, await ports.passwords.hash(new.new), None)
    if not await ports.passwords.verify(new.current, stored):
        raise WrongPassword
    return ChangePassword(new.id, await ports.passwords.hash(new.new), stored)


def change_password(work: Work, command: ChangePassword) -> None:
    """Ends every session of the user. Raises WrongPassword where the verified one was replaced meanwhile."""
    user = work.get(User, command.id)
    if command.verified is not None and command.verified != user.password:
        raise WrongPassword
    user.change_password(command.password)


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
        attempts.fail("wrong-credentials" if user is None else "suspended", command.user_id, work.now())
        work.refuse(InvalidCredentials() if user is None else UserSuspended())
    if attempts:
        attempts.clear()
    if command.rehashed:
        user.rehash_password(command.rehashed)
    work.guard(user)  # a suspension at the same moment wins
    work.add(Session(user_id=user.id, token_hash=command.token.hash, id=command.token.session_id))
    return Opened(command.token.session_id, user.id)


def _verified_user(work: Work, command: LogIn) -> User | None:
    claim = work.find(EmailClaim, command.claim_id)
    if claim is None or claim.user_id != command.user_id or not command.matches:
        return None
    user = work.get(User, claim.user_id)
    return user if user.password == command.verified else None


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
class AddKey:
    """A key for the keyring, its private part encrypted. It counts from `delay_seconds` on.

    `secret_ids` are fingerprints of the installation's secrets; a keyring that is started keeps them.
    """

    secret_ids: dict[str, str]
    key_id: str
    purpose: str
    algorithm: str
    public: str
    private: str
    delay_seconds: int = 0
    only_if_none: bool = False


def add_key(work: Work, command: AddKey) -> str:
    """Starts the keyring where there is none and returns the key's id. `only_if_none`: one key a purpose will do."""
    ring = work.find(Keyring, Keyring.ID) or work.add(Keyring(command.secret_ids, id=Keyring.ID))
    if command.only_if_none and ring.has_key_for(command.purpose):
        return ""
    ring.add(command.key_id, command.purpose, command.algorithm, command.public, command.private, command.delay_seconds)
    return command.key_id


@dataclass(frozen=True)
class RevokeKey:
    """Nothing that this key made is believed any more. `spares` has a new key for each purpose, should it be needed."""

    key_id: str
    reason: str
    spares: tuple[AddKey, ...] = ()


def revoke_key(work: Work, command: RevokeKey) -> None:
    """Raises KeyUnknown. A purpose that this leaves without a key gets a spare: without one nobody could log in."""
    ring = work.get(Keyring, Keyring.ID)
    ring.revoke(command.key_id, command.reason)
    for spare in command.spares:
        if not ring.has_key_for(spare.purpose):
            add_key(work, spare)


@dataclass(frozen=True)
class RequestVerification:
    """A new user's address is to be verified."""

    user_id: UUID


def request_verification(work: Work, command: RequestVerification) -> None:
    """Where it was requested already, for this address, nothing is recorded. Raises UserNotFound."""
    user, verification = _verification(work, command.user_id)
    if verification.email != user.email:
        verification.request(user.email)


@dataclass(frozen=True)
class IssueVerification:
    """Somebody who sends the mail asks for the token. It lives for `lifetime` from its request."""

    user_id: UUID
    lifetime: timedelta


@dataclass(frozen=True)
class IssuedVerification:
    """Which token: that of this user's request `number`, to be sent to `email`, worthless from `expires_at` on."""

    user_id: UUID
    number: int
    email: str
    expires_at: datetime


def issue_verification(work: Work, command: IssueVerification) -> IssuedVerification:
    """The newest request's token, of a new request where that has expired.

    Raises UserNotFound, AlreadyVerified, TooManyVerifications.
    """
    user, verification = _verification(work, command.user_id)
    if verification.is_verified(user.email):
        raise AlreadyVerified
    now = work.now()
    requested_on = verification.requested_on
    if requested_on is None or not verification.is_open(user.email, now, command.lifetime):
        verification.request(user.email)
        requested_on = now
    verification.issue()
    return IssuedVerification(user.id, verification.number, user.email, requested_on + command.lifetime)


@dataclass(frozen=True)
class VerifyEmail:
    """The token of a user's request `number` was presented; it lives for `lifetime` from its request."""

    user_id: UUID
    number: int
    lifetime: timedelta


def verify_email(work: Work, command: VerifyEmail) -> None:
    """Presented twice it records nothing. Raises VerificationInvalid, VerificationExpired."""
    user = work.find(User, command.user_id)
    verification = work.find(EmailVerification, EmailVerification.create_id(command.user_id))
    if user is None or verification is None:
        raise VerificationInvalid
    work.guard(user)
    verification.verify(command.number, user.email, work.now(), command.lifetime)


@dataclass(frozen=True)
class CompleteOnboarding:
    """Something that a user needs for being onboarded has happened: perhaps it was the last."""

    user_id: UUID


def complete_onboarding(work: Work, command: CompleteOnboarding) -> None:
    """Onboards a user who has a role and a verified address; any other, and a second time, records nothing."""
    verification = work.find(EmailVerification, EmailVerification.create_id(command.user_id))
    if verification is None or not verification.verified:
        return  # as of most: whoever is given a role while not verified costs one stream, not four
    if work.find(Onboarding, Onboarding.create_id(command.user_id)):
        return  # and a further role of somebody onboarded costs two
    user = work.find(User, command.user_id)
    assignments = work.find(UserAssignments, UserAssignments.create_id(command.user_id))
    if not (user and assignments):
        return
    for read in (user, verification, assignments):
        work.guard(read)
    now = work.now()
    if verification.is_verified(user.email) and any(
        until is None or until > now for until in assignments.assigned.values()
    ):
        work.add(Onboarding(user_id=user.id))


def _verification(work: Work, user_id: UUID) -> tuple[User, EmailVerification]:
    user = work.get(User, user_id)
    work.guard(user)
    found = work.find(EmailVerification, EmailVerification.create_id(user_id))
    return user, found or work.add(EmailVerification(user_id=user_id))
