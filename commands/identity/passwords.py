"""Another password for a user: one's own, or set by somebody who may."""

from dataclasses import dataclass
from uuid import UUID

from domain.identity import User, WrongPassword, check_password
from domain.ports import Identity, Work


@dataclass(frozen=True)
class NewPassword:
    """What somebody who changes a password says, in clear. `current` is needed for one's own."""

    id: UUID
    new: str
    current: str | None = None


@dataclass(frozen=True)
class ChangePassword:
    """`password` is the new hash; `verified` the stored one that the current password was checked against."""

    id: UUID
    password: str
    verified: str | None


async def prepare_password_change(ports: Identity, new: NewPassword) -> ChangePassword:
    """Raises UserNotFound, WrongPassword, WeakPassword, Overloaded."""
    check_password(new.new, field="new_password", least_chars=ports.password_least_chars)
    stored = await ports.accounts.password_of(new.id)
    if new.current is None:
        return ChangePassword(new.id, await ports.passwords.hash(new.new), None)
    if not await ports.passwords.verify(new.current, stored):
        raise WrongPassword
    return ChangePassword(new.id, await ports.passwords.hash(new.new), stored)


def change_password(work: Work, command: ChangePassword) -> None:
    """Ends every session of the user. Raises WrongPassword where the verified one was replaced meanwhile."""
    user = work.get(User, command.id)
    if command.verified is not None and not user.has_hash(command.verified):
        raise WrongPassword
    user.change_password(command.password)
