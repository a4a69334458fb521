"""Who may do what, where, and until when (after NIST RBAC, INCITS 359: hierarchical roles, here at scopes)."""

from domain.access.assignments import (
    MAX_ASSIGNMENTS,
    ExpiryInThePast,
    NotAssigned,
    TooManyAssignments,
    UserAssignments,
)
from domain.access.grants import NOWHERE, Assignment, Grant, Mark, RoleContent, active, holds, reach, resolve
from domain.access.permission import Pattern, Permission, covers
from domain.access.role import (
    BUILTIN_ROLES,
    MAX_INCLUDES,
    MAX_PERMISSIONS,
    MAX_REACH,
    Role,
    RoleBuiltIn,
    RoleCycle,
    RoleName,
    RoleNotFound,
    RoleTaken,
    RoleTooWide,
)
from domain.access.scope import ROOT, Scope

__all__ = [
    "BUILTIN_ROLES",
    "MAX_ASSIGNMENTS",
    "MAX_INCLUDES",
    "MAX_PERMISSIONS",
    "MAX_REACH",
    "NOWHERE",
    "ROOT",
    "Assignment",
    "ExpiryInThePast",
    "Grant",
    "Mark",
    "NotAssigned",
    "Pattern",
    "Permission",
    "Role",
    "RoleBuiltIn",
    "RoleContent",
    "RoleCycle",
    "RoleName",
    "RoleNotFound",
    "RoleTaken",
    "RoleTooWide",
    "Scope",
    "TooManyAssignments",
    "UserAssignments",
    "active",
    "covers",
    "holds",
    "reach",
    "resolve",
]
