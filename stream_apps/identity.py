"""What identity does because of events: a new user's address is verified, and whoever has all is onboarded."""

from commands.identity import CompleteOnboarding, RequestVerification, complete_onboarding, request_verification
from domain.access import UserAssignments
from domain.identity import EmailVerification, User
from infra.event_store import Recorded
from stream_apps.reactions import Intention, Reaction


def _request(cause: Recorded) -> Intention:
    return Intention(request_verification, RequestVerification(cause.stream))


def _complete(cause: Recorded) -> Intention:
    event = cause.event
    assert isinstance(event, EmailVerification.Verified | UserAssignments.RoleAssigned)  # noqa: S101 - for the types
    return Intention(complete_onboarding, CompleteOnboarding(event.user_id))


EMAIL_VERIFICATION = Reaction("email-verification", {User.Registered: _request})
"""A new user's address is to be verified."""

ONBOARDING = Reaction(
    "onboarding", {EmailVerification.Verified: _complete, UserAssignments.RoleAssigned: _complete}, by_state=True
)
"""Whoever has a role and a verified address, in whichever order they came, is onboarded."""
