"""Users, and the claims that make an e-mail address one user's alone."""

import re
import unicodedata
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Personal, Secret
from domain.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, Throttled, Unauthenticated, invalid_field


class EmailTaken(Conflict):
    """This e-mail address belongs to another user."""

    code = "email-taken"


class UserNotFound(NotFound):
    """There is no such user."""

    code = "user-not-found"


class UserSuspended(Forbidden):
    """This user is suspended."""

    code = "user-suspended"


class TooManyNames(Throttled):
    """This user has had too many names today."""

    code = "too-many-names"


class InvalidCredentials(Unauthenticated):
    """E-mail address or password is wrong."""

    code = "invalid-credentials"


class WrongPassword(Forbidden):
    """The current password is wrong."""

    code = "wrong-password"


class WeakPassword(Invalid):
    """This password is too weak."""

    code = "weak-password"


_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}@[^\s@.\x00-\x1f\x7f]+(\.[^\s@.\x00-\x1f\x7f]+)*")
EMAIL_LIMIT = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets
NAME_LIMIT = 200
NAMES_A_DAY = 50
"""Everybody may rename themselves; without a limit one could make the stream so long that reading it takes seconds."""
DAY = timedelta(days=1)
PASSWORD_LEAST = 10
"""Characters of a new password, unless the configuration says otherwise."""
PASSWORD_LIMIT = 1024
HASHES_LIMIT = 8
"""Former hashes of a password that are remembered with it."""


def _is_invisible(character: str) -> bool:
    """Whether two addresses could differ by this alone and look the same: zero widths, directions, blanks."""
    return unicodedata.category(character)[0] in "CZ"


class EmailAddress(str):
    """An e-mail address, normalised: trimmed, NFC, lower case; without characters one can't see. Raises Invalid."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        # lower case may compose anew what upper case couldn't: J with a caron has no character of its own, j has
        address = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).lower())
        if len(address) > EMAIL_LIMIT or not _EMAIL.fullmatch(address) or any(map(_is_invisible, address)):
            raise invalid_field("email", "not an e-mail address")
        return super().__new__(cls, address)


class PersonName(str):
    """What somebody is called, 1 to 200 characters, trimmed, NFC, without control characters. Raises Invalid."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        name = unicodedata.normalize("NFC", text.strip())
        if not 1 <= len(name) <= NAME_LIMIT or any(unicodedata.category(c) == "Cc" for c in name):
            raise invalid_field("name", f"1 to {NAME_LIMIT} characters, none of them control characters")
        return super().__new__(cls, name)


def check_password(
    password: str, *, email: str = "", name: str = "", field: str = "password", least_chars: int = PASSWORD_LEAST
) -> None:
    """Refuses what is guessed first (NIST SP 800-63B, 5.1.1.2): short, monotonous, or the user's own name.

    Raises WeakPassword.
    """
    problem = _weakness(password, email.casefold(), name.casefold(), least_chars)
    if problem:
        raise WeakPassword(f"{field}: {problem}", errors=[FieldError(field, problem)])


def _weakness(password: str, email: str, name: str, least_chars: int) -> str | None:
    folded = password.casefold()
    if len(password) < least_chars:
        return f"at least {least_chars} characters"
    if len(password) > PASSWORD_LIMIT:
        return f"at most {PASSWORD_LIMIT} characters"
    if len(set(folded)) < 5:
        return "at least 5 different characters"
    if email and folded in {email, email.partition("@")[0]}:
        return "not the e-mail address"
    if name and folded == name:
        return "not the name"
    if any(folded == (word * 9)[: len(folded)] for word in _COMMON):
        return "not one of the passwords that everybody guesses first"
    return None


_COMMON = ("password", "passw0rd", "1234567890", "qwertyuiop", "letmein", "iloveyou", "welcome", "administrator")


class User(Aggregate):
    """Somebody who can log in. Logins don't go on this stream: it stays short."""

    TOPIC = "identity.User"
    NOT_FOUND = UserNotFound

    class Registered(First):
        TOPIC = "identity.UserRegistered"
        email: Personal[str]
        name: Personal[str]
        password: Secret[str]

    class Renamed(Aggregate.Event):
        TOPIC = "identity.UserRenamed"
        name: Personal[str]

        def apply(self, aggregate: "User") -> None:
            if self.timestamp - aggregate.names_since >= DAY:
                aggregate.names_since, aggregate.names = self.timestamp, 0
            aggregate.names += 1
            aggregate.name = self.name

    class Suspended(Aggregate.Event):
        TOPIC = "identity.UserSuspended"
        reason: str

        def apply(self, aggregate: "User") -> None:
            aggregate.suspended = True
            aggregate.sessions_ended_on = self.timestamp

    class Reactivated(Aggregate.Event):
        TOPIC = "identity.UserReactivated"

    class PasswordChanged(Aggregate.Event):
        """A new password. It ends every session that was opened before."""

        TOPIC = "identity.PasswordChanged"
        password: Secret[str]

        def apply(self, aggregate: "User") -> None:
            aggregate.password, aggregate.former_hashes = self.password, ()
            aggregate.sessions_ended_on = self.timestamp

    class PasswordRehashed(Aggregate.Event):
        """The same password, hashed anew because the cost or the pepper has changed."""

        TOPIC = "identity.PasswordRehashed"
        password: Secret[str]

    @event(Registered)
    def __init__(self, email: str, name: str, password: str) -> None:
        self.email, self.name, self.password = email, name, password
        self.former_hashes: tuple[str, ...] = ()
        self.suspended = False
        self.sessions_ended_on: datetime | None = None
        self.names_since: datetime = self.created_on
        self.names = 0

    def rename(self, name: PersonName) -> None:
        """The same name again records nothing."""
        if name != self.name:
            self.trigger_event(self.Renamed, name=str(name))

    def check_may_be_renamed(self, now: datetime) -> None:
        """Raises TooManyNames."""
        left = self.names_since + DAY - now
        if self.names >= NAMES_A_DAY and left > timedelta(0):
            raise TooManyNames(retry_after_seconds=int(left.total_seconds()) + 1)

    def suspend(self, reason: str) -> None:
        """Ends every session and refuses new ones. Suspending twice records nothing."""
        if not self.suspended:
            self.trigger_event(self.Suspended, reason=reason)

    def reactivate(self) -> None:
        """Lets the user log in again. Sessions that were ended stay ended."""
        if self.suspended:
            self._reactivate()

    @event(Reactivated)
    def _reactivate(self) -> None:
        self.suspended = False

    def change_password(self, password: str) -> None:
        """`password` is the new one's hash."""
        self.trigger_event(self.PasswordChanged, password=password)

    @event(PasswordRehashed)
    def rehash_password(self, password: str) -> None:
        """`password` is the new hash of the same password."""
        self.former_hashes = (*self.former_hashes, self.password)[-HASHES_LIMIT:]
        self.password = password

    def has_hash(self, verified: str | None) -> bool:
        """Whether this is a hash of the present password: the newest, or one that a login has replaced meanwhile.

        Of two logins at the same time the slower one was verified against what the faster one has hashed anew.
        """
        return verified == self.password or verified in self.former_hashes

    def has_ended(self, opened_on: datetime) -> bool:
        """Whether a session opened then has been ended for all of this user's sessions."""
        return self.sessions_ended_on is not None and opened_on <= self.sessions_ended_on


class EmailClaim(Aggregate):
    """The one holder of an e-mail address. Its id is an HMAC of the address, so it reveals nothing by itself."""

    TOPIC = "identity.EmailClaim"
    NOT_FOUND = UserNotFound

    class Claimed(First):
        TOPIC = "identity.EmailClaimed"
        user_id: UUID

    @event(Claimed)
    def __init__(self, user_id: UUID, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.user_id = user_id
