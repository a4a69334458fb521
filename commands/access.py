"""What one can intend with roles, and the rule that nobody can raise themselves.

Administration is delegated by scope: who may assign roles at `/acme` may do so there and below, and gives only what
they hold there themselves, for at least as long. It is decided from the event store, and what was read is guarded, so
that an administrator who is being revoked at this moment races and loses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.access import (
    BUILTIN_ROLES,
    MAX_REACH,
    NOWHERE,
    ROOT,
    Assignment,
    Grant,
    NotAssigned,
    Pattern,
    Permission,
    Role,
    RoleContent,
    RoleCycle,
    RoleName,
    RoleNotFound,
    RoleTaken,
    RoleTooWide,
    Scope,
    UserAssignments,
    active,
    covers,
    holds,
    resolve,
)
from domain.errors import Forbidden
from domain.identity import User
from domain.ports import Work

CREATE_ROLE = Permission("role:create")
CHANGE_ROLE = Permission("role:update")
SET_PASSWORD = Permission("user:set-password")
REMOVE_ROLE = Permission("role:delete")
ASSIGN_ROLE = Permission("role:assign")


class NotHeld(Forbidden):
    """One can give only what one holds oneself, at that scope and for at least as long."""

    code = "not-held"


@dataclass(frozen=True, slots=True)
class CreateRole:
    """Defines a role: what it holds itself, and the roles that it includes."""

    name: RoleName
    permissions: tuple[Pattern, ...]
    includes: tuple[RoleName, ...] = ()


@dataclass(frozen=True, slots=True)
class ChangePermissions:
    """From now on a role holds exactly these itself."""

    name: RoleName
    permissions: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class ChangeIncludes:
    """From now on a role includes exactly these."""

    name: RoleName
    includes: tuple[RoleName, ...]


@dataclass(frozen=True, slots=True)
class RemoveRole:
    """Ends a role for good; its name isn't used again."""

    name: RoleName


@dataclass(frozen=True, slots=True)
class AssignRole:
    """Gives a user a role at a scope and below, until a time or for good. Given again, the expiry moves."""

    user_id: UUID
    role: RoleName
    scope: Scope = ROOT
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RevokeRole:
    """Takes a role at exactly this scope away."""

    user_id: UUID
    role: RoleName
    scope: Scope = ROOT


@dataclass(frozen=True, slots=True)
class SetPassword:
    """A user's new password, given by somebody else. `password` is the hash."""

    user_id: UUID
    password: str


@dataclass(frozen=True, slots=True)
class DefineBuiltinRoles:
    """Bootstrap's: every installation has them, as this release describes them."""


def create_role(work: Work, command: CreateRole) -> str:
    """The name. Raises RoleTaken, RoleNotFound (of an included one), RoleCycle, RoleTooWide, NotHeld, Forbidden."""
    giver = Giver(work)
    giver.check_may(CREATE_ROLE, ROOT)
    if work.find(Role, Role.create_id(command.name)):
        raise RoleTaken
    role = Role.define(command.name, command.permissions, command.includes)
    giver.roles.check_includes(role)
    giver.check_holds(giver.roles.held_by(role), ROOT, None)
    return str(work.add(role).name)


def change_permissions(work: Work, command: ChangePermissions) -> None:
    """Raises RoleNotFound, RoleBuiltIn, NotHeld (for what is added), Forbidden."""
    giver, role = _role_to_change(work, command.name)
    before = giver.roles.held_by(role)
    role.change_permissions(command.permissions)
    giver.check_holds(_added(before, role.permissions), ROOT, None)


def change_includes(work: Work, command: ChangeIncludes) -> None:
    """Raises RoleNotFound (also of an included one), RoleBuiltIn, RoleCycle, RoleTooWide, NotHeld, Forbidden.

    Every role below is guarded, so that two changes at once can't close a cycle together.
    """
    giver, role = _role_to_change(work, command.name)
    before = giver.roles.held_by(role)
    role.change_includes(command.includes)
    giver.roles.check_includes(role)
    giver.check_holds(_added(before, giver.roles.held_by(role)), ROOT, None)


def remove_role(work: Work, command: RemoveRole) -> None:
    """Raises RoleNotFound, RoleBuiltIn, Forbidden."""
    Giver(work).check_may(REMOVE_ROLE, ROOT)
    role = work.get(Role, Role.create_id(command.name))
    if role.removed:
        raise RoleNotFound
    role.remove()


def assign_role(work: Work, command: AssignRole) -> None:
    """Raises UserNotFound, RoleNotFound, ExpiryInThePast, TooManyAssignments, NotHeld, Forbidden."""
    giver = Giver(work)
    giver.check_may(ASSIGN_ROLE, command.scope)
    work.get(User, command.user_id)
    giver.check_holds(giver.roles.permissions_of(command.role), command.scope, command.expires_at)
    assignments = _assignments(work, command.user_id) or work.add(UserAssignments(user_id=command.user_id))
    assignments.assign(command.role, command.scope, command.expires_at, work.now())


def revoke_role(work: Work, command: RevokeRole) -> None:
    """Raises NotAssigned, UserNotFound, Forbidden."""
    Giver(work).check_may(ASSIGN_ROLE, command.scope)
    work.get(User, command.user_id)
    assignments = _assignments(work, command.user_id)
    if assignments is None:
        raise NotAssigned
    assignments.revoke(command.role, command.scope)


def set_password(work: Work, command: SetPassword) -> None:
    """Raises UserNotFound, NotHeld, Forbidden. Who sets a password can be that user: so it takes all that they hold."""
    giver = Giver(work)
    giver.check_may(SET_PASSWORD, ROOT)
    user = work.get(User, command.user_id)
    for grant in giver.grants_of(user):
        giver.check_holds([grant.pattern], grant.scope, grant.expires_at)
    user.change_password(command.password)


def define_builtin_roles(work: Work, _: DefineBuiltinRoles) -> None:
    """Brings the built-in roles to what this release says; where they are so already, nothing is recorded.

    Raises Forbidden for anybody but the platform itself and its operator at the machine.
    """
    if work.context.actor.kind not in EXEMPT:
        raise Forbidden
    for name, permissions in BUILTIN_ROLES.items():
        role = work.find(Role, Role.create_id(name))
        if role is None:
            work.add(Role.define(name, permissions, builtin=True))
        else:
            role.change_permissions(permissions)


EXEMPT = ("system", "operator")
"""Kinds of actors that hold no roles: the platform itself, and whoever operates it at the machine."""


class Roles:
    """The roles as this unit of work sees them. Each that was looked at is guarded."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._known: dict[str, RoleContent] = {}

    def permissions_of(self, name: RoleName) -> set[str]:
        """All that a role holds, by itself and by what it includes. Raises RoleNotFound."""
        self._check_exists(name)
        return _patterns(self.below([name]))

    def held_by(self, role: Role) -> set[str]:
        """The same for a role as this unit of work has changed it."""
        return _patterns(self.below(role.includes)) | set(role.permissions)

    def check_includes(self, role: Role) -> None:
        """Raises RoleNotFound, RoleCycle, RoleTooWide."""
        for included in role.includes:
            self._check_exists(included)
        found = self.below(role.includes)
        if role.name in found:
            raise RoleCycle
        if len(found) > MAX_REACH:
            raise RoleTooWide

    def below(self, names: Iterable[str]) -> dict[str, RoleContent]:
        """These roles and all that they include, at whatever depth. One that was removed isn't among them."""
        found: dict[str, RoleContent] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found and (content := self._content(name)):
                found[name] = content
                waiting.extend(content.includes)
        return found

    def _check_exists(self, name: str) -> None:
        if self._content(name) is None:
            raise RoleNotFound(f"There is no role {name}.")

    def _content(self, name: str) -> RoleContent | None:
        if name not in self._known:
            role = self._work.find(Role, Role.create_id(name))
            if role is None or role.removed:
                return None
            self._work.guard(role)
            self._known[name] = RoleContent(
                dict.fromkeys(role.permissions, NOWHERE), dict.fromkeys(role.includes, NOWHERE)
            )
        return self._known[name]


class Giver:
    """Whoever acts here, with what they hold themselves, strongly consistent and guarded."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.roles = Roles(work)
        self._exempt = work.context.actor.kind in EXEMPT
        self._grants = [] if self._exempt else self._load()

    def check_may(self, permission: Permission, scope: Scope) -> None:
        """Raises Forbidden."""
        if not self._exempt and not any(
            covers(grant.pattern, permission) and grant.counts_at(scope) for grant in self._grants
        ):
            raise Forbidden(f"This needs {permission} at {scope}.")

    def check_holds(self, patterns: Iterable[str], scope: str, until: datetime | None) -> None:
        """Raises NotHeld, naming the first that is missing."""
        if self._exempt:
            return
        for pattern in sorted(patterns):
            if not holds(self._grants, pattern, scope, until):
                raise NotHeld(f"Only who holds {pattern} at {scope}, for at least as long, can give it.")

    def _load(self) -> list[Grant]:
        user_id = self._work.context.actor.user_id
        user = self._work.find(User, user_id) if user_id else None
        if user is None or user.suspended:
            raise Forbidden
        self._work.guard(user)
        return self.grants_of(user)

    def grants_of(self, user: User) -> list[Grant]:
        """What a user's roles give, guarded."""
        assignments = _assignments(self._work, user.id)
        if assignments is None:
            return []
        self._work.guard(assignments)
        given = [Assignment(place.role, place.scope, until) for place, until in assignments.assigned.items()]
        current = list(active(given, self._work.now()))
        return resolve(current, self.roles.below({each.role for each in current}))


def require(work: Work, permission: str, scope: str) -> None:
    """For handlers of other modules: whether who acts here may do this there, as the log has it at this moment.

    What was read for it is guarded, so that who is being revoked now races and loses. The platform itself, in
    reactions and jobs, and its operator may do anything. Raises Forbidden, Invalid.
    """
    Giver(work).check_may(Permission(permission), Scope(scope))


def check_may_give(work: Work, role: RoleName, scope: Scope) -> None:
    """For handlers of other modules: whether who acts here may give a role to whoever it may be, for good.

    Guarded as `require`. Raises RoleNotFound, NotHeld, Forbidden.
    """
    giver = Giver(work)
    giver.check_may(ASSIGN_ROLE, scope)
    giver.check_holds(giver.roles.permissions_of(role), scope, None)


def _patterns(roles: dict[str, RoleContent]) -> set[str]:
    return {pattern for content in roles.values() for pattern in content.permissions}


def _assignments(work: Work, user_id: UUID) -> UserAssignments | None:
    return work.find(UserAssignments, UserAssignments.create_id(user_id))


def _role_to_change(work: Work, name: RoleName) -> tuple[Giver, Role]:
    giver = Giver(work)
    giver.check_may(CHANGE_ROLE, ROOT)
    role = work.get(Role, Role.create_id(name))
    role.check_changeable()
    return giver, role


def _added(before: set[str], after: Iterable[str]) -> set[str]:
    return {pattern for pattern in after if not any(covers(old, pattern) for old in before)}
