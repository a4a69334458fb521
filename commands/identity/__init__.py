"""What a caller can intend with users, sessions and keys, and how it is decided.

What is slow or needs a key happens in a `prepare_…` before the unit of work; the handler decides.
"""

from commands.identity.keys import AddKey, RevokeKey, add_key, revoke_key
from commands.identity.passwords import ChangePassword, NewPassword, change_password, prepare_password_change
from commands.identity.sessions import (
    Credentials,
    EndSession,
    LogIn,
    Opened,
    RefreshSession,
    end_session,
    log_in,
    prepare_login,
    refresh_session,
)
from commands.identity.users import (
    NewUser,
    ReactivateUser,
    RegisterUser,
    RenameUser,
    SuspendUser,
    checked,
    prepare_registration,
    reactivate_user,
    register_user,
    rename_user,
    suspend_user,
)
from commands.identity.verification import (
    CompleteOnboarding,
    IssuedVerification,
    IssueVerification,
    RequestVerification,
    VerifyEmail,
    complete_onboarding,
    issue_verification,
    request_verification,
    verify_email,
)

__all__ = [
    "AddKey",
    "ChangePassword",
    "CompleteOnboarding",
    "Credentials",
    "EndSession",
    "IssueVerification",
    "IssuedVerification",
    "LogIn",
    "NewPassword",
    "NewUser",
    "Opened",
    "ReactivateUser",
    "RefreshSession",
    "RegisterUser",
    "RenameUser",
    "RequestVerification",
    "RevokeKey",
    "SuspendUser",
    "VerifyEmail",
    "add_key",
    "change_password",
    "checked",
    "complete_onboarding",
    "end_session",
    "issue_verification",
    "log_in",
    "prepare_login",
    "prepare_password_change",
    "prepare_registration",
    "reactivate_user",
    "refresh_session",
    "register_user",
    "rename_user",
    "request_verification",
    "revoke_key",
    "suspend_user",
    "verify_email",
]
