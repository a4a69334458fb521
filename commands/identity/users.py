"""Who registers, and what becomes of users."""

from dataclasses import dataclass
from uuid import UUID

from domain.identity import PASSWORD_LEAST, EmailAddress, EmailClaim, EmailTaken, PersonName, User, check_password
from domain.ports import Identity, Work


@dataclass(frozen=True)
class NewUser:
    """What somebody who registers says, in clear."""

    email: str
    name: str
    password: str


@dataclass(frozen=True)
class RegisterUser:
    """`password` is the hash."""

    email: EmailAddress
    claim_id: UUID
    name: PersonName
    password: str


async def prepare_registration(ports: Identity, new: NewUser) -> RegisterUser:
    """Raises Invalid, WeakPassword, Overloaded."""
    email, name = checked(new, ports.password_least_chars)
    return RegisterUser(email, ports.claims.claim_id(email), name, await ports.passwords.hash(new.password))


def checked(new: NewUser, least_chars: int = PASSWORD_LEAST) -> tuple[EmailAddress, PersonName]:
    """Raises Invalid, WeakPassword."""
    email, name = EmailAddress(new.email), PersonName(new.name)
    check_password(new.password, email=email, name=name, least_chars=least_chars)
    return email, name


def register_user(work: Work, command: RegisterUser) -> UUID:
    """Raises EmailTaken. The claim and the user are saved together, so two registrations can't both win."""
    if work.find(EmailClaim, command.claim_id):
        raise EmailTaken
    user = work.add(User(command.email, command.name, command.password))
    work.add(EmailClaim(user_id=user.id, id=command.claim_id))
    return user.id


@dataclass(frozen=True)
class RenameUser:
    """A new name for a user."""

    id: UUID
    name: str


def rename_user(work: Work, command: RenameUser) -> None:
    """Raises UserNotFound, Invalid, TooManyNames."""
    user, name = work.get(User, command.id), PersonName(command.name)
    if name != user.name:
        user.check_may_be_renamed(work.now())
        user.rename(name)


@dataclass(frozen=True)
class SuspendUser:
    """Ends a user's sessions and refuses new ones."""

    id: UUID
    reason: str = ""


def suspend_user(work: Work, command: SuspendUser) -> None:
    """Raises UserNotFound."""
    work.get(User, command.id).suspend(command.reason)


@dataclass(frozen=True)
class ReactivateUser:
    """Lets a suspended user log in again."""

    id: UUID


def reactivate_user(work: Work, command: ReactivateUser) -> None:
    """Raises UserNotFound."""
    work.get(User, command.id).reactivate()
