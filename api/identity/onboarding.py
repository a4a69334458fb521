"""Proving an e-mail address, and how far a user's onboarding is."""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from api.identity.ports import IdentityPorts
from api.ports import Outcome
from api.routing import OPEN, Answer, Asked, Body, Command, Endpoint, Own, Route, View
from commands.identity import (
    IssuedVerification,
    IssueVerification,
    VerifyEmail,
    issue_verification,
    verify_email,
)
from domain.access import UserAssignments
from domain.identity import (
    AlreadyVerified,
    EmailVerification,
    Onboarding,
    TooManyVerifications,
    User,
    UserNotFound,
    VerificationExpired,
    VerificationInvalid,
)
from infra.event_store import Log
from infra.verification import PURPOSE, VerificationTokens
from infra.work import UnitOfWork


class VerificationView(View):
    """What is to be sent to the address: a token that works until `expires_at`."""

    user_id: UUID
    email: str
    token: str
    expires_at: datetime


class TokenBody(Body):
    """The token that was sent to the address."""

    token: Annotated[str, Meta(max_length=128)]


class OnboardingView(View):
    """How far a user's onboarding is: a verified address and a role complete it, in whichever order they come."""

    user_id: UUID
    verification_requested_at: datetime | None
    verified_at: datetime | None
    has_role: bool
    completed_at: datetime | None


def _issue(asked: Asked) -> IssueVerification:
    return IssueVerification(asked.path["id"], _lifetime(asked.ports))


def _issued(asked: Asked, outcome: Outcome) -> VerificationView:
    """The token is made here, from what was decided: so no receipt keeps it either."""
    issued: IssuedVerification = outcome.result
    return VerificationView(
        user_id=issued.user_id,
        email=issued.email,
        token=_tokens(asked.ports).token(issued.user_id, issued.number),
        expires_at=issued.expires_at,
    )


async def prepare_verification(ports: IdentityPorts, body: TokenBody) -> VerifyEmail:
    """Raises VerificationInvalid for a token that this installation never made, without a look into the store."""
    user_id, number = _tokens(ports).read(body.token)
    return VerifyEmail(user_id, number, _lifetime(ports))


async def get_onboarding(asked: Asked) -> Answer:
    """From the event store: right at once."""
    view, position = await asked.in_thread(_onboarding, asked.ports.log, asked)
    return Answer(view, position=position)


def _onboarding(log: Log, asked: Asked) -> tuple[OnboardingView, int]:
    position = log.head()
    work = UnitOfWork(log, asked.context)
    user = work.get(User, asked.path["id"])
    verification = work.find(EmailVerification, EmailVerification.create_id(user.id))
    assignments = work.find(UserAssignments, UserAssignments.create_id(user.id))
    completed = work.find(Onboarding, Onboarding.create_id(user.id))
    now: Any = work.now()
    assigned = assignments.assigned.values() if assignments else ()
    return (
        OnboardingView(
            user_id=user.id,
            verification_requested_at=verification.requested_on if verification else None,
            verified_at=verification.verified_on if verification and verification.is_verified(user.email) else None,
            has_role=any(until is None or until > now for until in assigned),
            completed_at=completed.created_on if completed else None,
        ),
        position,
    )


def _tokens(ports: IdentityPorts) -> VerificationTokens:
    return VerificationTokens(ports.secrets.derive(PURPOSE))


def _lifetime(ports: IdentityPorts) -> timedelta:
    return timedelta(seconds=ports.settings.verification_seconds)


ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/users/{id}/verification", None, issue_verification, command=_issue, answer=_issued,
        permission="user:verify", result=VerificationView,
        raises=(UserNotFound, AlreadyVerified, TooManyVerifications),
    ),
    Command(
        "POST", "/api/v1/auth/verify-email", TokenBody, verify_email, prepare=prepare_verification, permission=OPEN,
        idempotent=False, raises=(VerificationInvalid, VerificationExpired),
    ),
    Endpoint(
        "GET", "/api/v1/users/{id}/onboarding", get_onboarding, permission=Own("id", "user:read"),
        result=OnboardingView, projections=(), raises=(UserNotFound,),
    ),
]  # fmt: skip
