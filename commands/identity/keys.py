"""The keys that sign tokens and derive refresh tokens."""

from dataclasses import dataclass

from domain.identity import Keyring
from domain.ports import Work


@dataclass(frozen=True)
class AddKey:
    """A key for the keyring, its private part encrypted. It counts from `delay_seconds` on.

    `secret_ids` are fingerprints of the installation's secrets; a keyring that is started keeps them.
    """

    secret_ids: dict[str, str]
    key_id: str
    purpose: str
    algorithm: str
    public: str
    private: str
    delay_seconds: int = 0
    only_if_none: bool = False


def add_key(work: Work, command: AddKey) -> str:
    """Starts the keyring where there is none and returns the key's id. `only_if_none`: one key a purpose will do."""
    ring = work.find(Keyring, Keyring.ID) or work.add(Keyring(command.secret_ids, id=Keyring.ID))
    if command.only_if_none and ring.has_key_for(command.purpose):
        return ""
    ring.add(command.key_id, command.purpose, command.algorithm, command.public, command.private, command.delay_seconds)
    return command.key_id


@dataclass(frozen=True)
class RevokeKey:
    """Nothing that this key made is believed any more. `spares` has a new key for each purpose, should it be needed."""

    key_id: str
    reason: str
    spares: tuple[AddKey, ...] = ()


def revoke_key(work: Work, command: RevokeKey) -> None:
    """Raises KeyUnknown. A purpose that this leaves without a key gets a spare: without one nobody could log in."""
    ring = work.get(Keyring, Keyring.ID)
    ring.revoke(command.key_id, command.reason)
    for spare in command.spares:
        if not ring.has_key_for(spare.purpose):
            add_key(work, spare)
