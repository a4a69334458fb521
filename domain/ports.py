"""What the rules need from outside, as Protocols; `infra/` implements them, `runtime/bootstrap.py` hands them in."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn, Protocol, TypeVar
from uuid import UUID

from domain.aggregate import Aggregate, First
from domain.context import Context
from domain.errors import DomainError
from domain.identity import EmailAddress, Lockout

A = TypeVar("A", bound=Aggregate)


class Work(Protocol):
    """One unit of work: all aggregates that it touched are saved together or not at all.

    Each save checks that nobody else changed what was loaded; if somebody was faster, the handler runs again on a
    fresh `Work`, a bounded number of times.
    """

    context: Context

    def get(self, kind: type[A], id: UUID) -> A:  # noqa: A002
        """The aggregate, folded from its stream. Raises NotFound."""
        ...

    def find(self, kind: type[A], id: UUID) -> A | None:  # noqa: A002
        """The aggregate, or None where its stream is empty."""
        ...

    def add(self, aggregate: A) -> A:
        """Takes a new aggregate into this unit."""
        ...

    def begin(self, event: First) -> None:
        """Takes a new aggregate by its first event; it is made only if somebody looks for it."""
        ...

    def guard(self, aggregate: Aggregate) -> None:
        """Refuses the save if this aggregate, which was only read, has changed meanwhile."""
        ...

    def refuse(self, error: DomainError) -> NoReturn:
        """Saves what was decided so far and then raises: a failed login is a fact too."""
        ...

    def now(self) -> datetime:
        """The time by the database's clock, comparable with `recorded_at` (an aggregate's `modified_on`)."""
        ...


class Passwords(Protocol):
    """Hashes and verifies passwords, in threads of its own."""

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Overloaded."""
        ...

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether this is the password; without a stored hash it takes the same time and says no."""
        ...

    def needs_rehash(self, stored: str) -> bool:
        """Whether the cost or the pepper has changed since it was made."""
        ...


class Claims(Protocol):
    """Derives ids under the claim key, so that they reveal nothing."""

    def claim_id(self, email: EmailAddress) -> UUID:
        """The id of this address's claim."""
        ...

    def attempts_id(self, claim_id: UUID, network: str) -> UUID:
        """The id of the stream of failed logins at this claim's address from a network."""
        ...


class PresentedToken(Protocol):
    """A refresh token, taken apart."""

    @property
    def session_id(self) -> UUID:
        """Whose it is."""
        ...

    @property
    def generation(self) -> int:
        """How many came before it."""
        ...

    @property
    def hash(self) -> str:
        """What the session keeps of it."""
        ...


class Tokens(Protocol):
    """Makes refresh tokens."""

    def first_refresh_token(self, session_id: UUID) -> PresentedToken:
        """That of a session which is being opened."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """What a login needs to know before the password is verified."""

    user_id: UUID | None
    password: str | None
    pause_seconds: int


class Accounts(Protocol):
    """Looks into the event store before the unit of work, off the event loop."""

    async def look_up(self, claim_id: UUID, attempts_id: UUID) -> Account:
        """Who holds the claim, and for how long logins pause there. Takes as long where nobody does."""
        ...

    async def password_of(self, user_id: UUID) -> str:
        """The stored hash. Raises UserNotFound."""
        ...


class Throttle(Protocol):
    """Counts login attempts per e-mail address and per client address."""

    async def login(self, claim_id: UUID, ip: str | None) -> None:
        """Raises TooManyAttempts."""
        ...


class Identity(Protocol):
    """What the identity module's `prepare` functions are given."""

    @property
    def passwords(self) -> Passwords: ...

    @property
    def claims(self) -> Claims: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def accounts(self) -> Accounts: ...

    @property
    def throttle(self) -> Throttle: ...

    @property
    def refresh_lifetime(self) -> timedelta: ...

    @property
    def session_limit(self) -> timedelta: ...

    @property
    def refresh_grace(self) -> timedelta: ...

    @property
    def password_least_chars(self) -> int: ...

    @property
    def lockout(self) -> Lockout: ...
