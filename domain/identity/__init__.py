"""Identity: who users are, how they prove it, and how long that lasts."""

from domain.identity.attempts import Lockout, LoginAttempts, TooManyAttempts
from domain.identity.keyring import KeyRecord, Keyring, KeyringChanged, KeyUnknown
from domain.identity.session import (
    InvalidRefreshToken,
    RefreshTokenReused,
    Session,
    SessionNotFound,
    TooManyRefreshes,
)
from domain.identity.user import (
    PASSWORD_LEAST,
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
from domain.identity.verification import (
    AlreadyVerified,
    EmailVerification,
    Onboarding,
    TooManyVerifications,
    VerificationExpired,
    VerificationInvalid,
)

__all__ = [
    "PASSWORD_LEAST",
    "AlreadyVerified",
    "EmailAddress",
    "EmailClaim",
    "EmailTaken",
    "EmailVerification",
    "InvalidCredentials",
    "InvalidRefreshToken",
    "KeyRecord",
    "KeyUnknown",
    "Keyring",
    "KeyringChanged",
    "Lockout",
    "LoginAttempts",
    "Onboarding",
    "PersonName",
    "RefreshTokenReused",
    "Session",
    "SessionNotFound",
    "TooManyAttempts",
    "TooManyNames",
    "TooManyRefreshes",
    "TooManyVerifications",
    "User",
    "UserNotFound",
    "UserSuspended",
    "VerificationExpired",
    "VerificationInvalid",
    "WeakPassword",
    "WrongPassword",
    "check_password",
]
