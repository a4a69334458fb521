"""Onboarding: a user proves that they receive mail at their address, is given a role, and is done."""

from datetime import datetime, timedelta
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Personal, derived_id
from domain.errors import Conflict, Invalid, NotFound, Throttled

MAX_ISSUES = 20
"""How often the token of one request is handed out."""


class VerificationInvalid(Invalid):
    """This is not the token of the newest verification of an address."""

    code = "verification-invalid"


class VerificationExpired(Invalid):
    """This token has expired; a new one has to be asked for."""

    code = "verification-expired"


class AlreadyVerified(Conflict):
    """This user's e-mail address is verified already."""

    code = "already-verified"


class TooManyVerifications(Throttled):
    """This token was handed out too often; wait until it expires."""

    code = "too-many-verifications"
    retry_after_seconds = 3600


class EmailVerification(Aggregate):
    """Whether a user receives mail at their address. A stream beside the user's, which it leaves at its version.

    Each request has a number. Its token is derived from user and number under a key, so no secret is stored, and a
    new request makes the tokens of those before worthless.
    """

    TOPIC = "identity.EmailVerification"

    class NOT_FOUND(NotFound):  # noqa: N801
        """No verification was ever requested."""

    class Opened(First):
        TOPIC = "identity.EmailVerificationOpened"
        user_id: UUID

    class Requested(Aggregate.Event):
        """Whoever sends mail fetches the token and sends it to the address."""

        TOPIC = "identity.EmailVerificationRequested"
        user_id: UUID
        email: Personal[str]
        number: int

        def apply(self, aggregate: "EmailVerification") -> None:
            aggregate.email, aggregate.number, aggregate.issues = self.email, self.number, 0
            aggregate.requested_on = self.timestamp

    class Issued(Aggregate.Event):
        """The token was handed out to whoever acted."""

        TOPIC = "identity.EmailVerificationIssued"
        user_id: UUID
        number: int

    class Verified(Aggregate.Event):
        """Somebody has presented the token that was sent to the address."""

        TOPIC = "identity.EmailVerified"
        user_id: UUID
        email: Personal[str]

        def apply(self, aggregate: "EmailVerification") -> None:
            aggregate.verified, aggregate.verified_on = self.email, self.timestamp

    @staticmethod
    def create_id(user_id: UUID) -> UUID:
        """Derived from the user's id, so that a user has one."""
        return derived_id("email-verification", str(user_id))

    @event(Opened)
    def __init__(self, user_id: UUID) -> None:
        self.user_id = user_id
        self.email = ""
        self.number = 0
        self.issues = 0
        self.requested_on: datetime | None = None
        self.verified = ""
        self.verified_on: datetime | None = None

    def is_verified(self, email: str) -> bool:
        """Whether it is this address that was verified."""
        return self.verified == email

    def is_open(self, email: str, now: datetime, lifetime: timedelta) -> bool:
        """Whether the newest request is for this address and its token still works."""
        return self.email == email and self.requested_on is not None and now < self.requested_on + lifetime

    def request(self, email: str) -> None:
        """Asks for mail to be sent to the address."""
        self.trigger_event(self.Requested, user_id=self.user_id, email=email, number=self.number + 1)

    def issue(self) -> None:
        """The newest request's token is handed out. Raises TooManyVerifications."""
        if self.issues >= MAX_ISSUES:
            raise TooManyVerifications
        self._issue(self.user_id, self.number)

    @event(Issued)
    def _issue(self, user_id: UUID, number: int) -> None:
        self.issues += 1

    def verify(self, number: int, email: str, now: datetime, lifetime: timedelta) -> None:
        """The token of request `number` was presented. Once more records nothing.

        Raises VerificationInvalid for an older request's or that of another address, VerificationExpired.
        """
        if number != self.number or self.email != email:
            raise VerificationInvalid
        if self.is_verified(email):
            return
        if not self.is_open(email, now, lifetime):
            raise VerificationExpired
        self.trigger_event(self.Verified, user_id=self.user_id, email=email)


class Onboarding(Aggregate):
    """A user has a role and a verified address. A stream of one event under a derived id: it happens once."""

    TOPIC = "identity.Onboarding"

    class NOT_FOUND(NotFound):  # noqa: N801
        """This user isn't onboarded yet."""

    class Completed(First):
        TOPIC = "identity.OnboardingCompleted"
        user_id: UUID

    @staticmethod
    def create_id(user_id: UUID) -> UUID:
        """Derived from the user's id, so that it can't be completed twice."""
        return derived_id("onboarding", str(user_id))

    @event(Completed)
    def __init__(self, user_id: UUID) -> None:
        self.user_id = user_id
