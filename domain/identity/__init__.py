"""Identity: who users are, how they prove it, and how long that lasts."""

from domain.identity.attempts import LoginAttempts, TooManyAttempts
from domain.identity.keyring import KeyRecord, Keyring, KeyringChanged, KeyUnknown
from domain.identity.session import (
    InvalidRefreshToken,
    RefreshTokenReused,
    Session,
    SessionNotFound,
    TooManyRefreshes,
)
from domain.identity.user import (
    EmailAddress,
    EmailClaim,
    EmailTaken,
    InvalidCredentials,
    PersonName,
    TooManyNames,
    User,
    UserNotFound,
    UserSuspended,
    WeakPassword,
    WrongPassword,
    check_password,
)

__all__ = [
    "EmailAddress",
    "EmailClaim",
    "EmailTaken",
    "InvalidCredentials",
    "InvalidRefreshToken",
    "KeyRecord",
    "KeyUnknown",
    "Keyring",
    "KeyringChanged",
    "LoginAttempts",
    "PersonName",
    "RefreshTokenReused",
    "Session",
    "SessionNotFound",
    "TooManyAttempts",
    "TooManyNames",
    "TooManyRefreshes",
    "User",
    "UserNotFound",
    "UserSuspended",
    "WeakPassword",
    "WrongPassword",
    "check_password",
]
