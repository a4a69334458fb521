"""A verified address, and what follows from it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from domain.access import UserAssignments
from domain.identity import AlreadyVerified, EmailVerification, Onboarding, User, VerificationInvalid
from domain.ports import Work


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
