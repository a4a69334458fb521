"""The keyring: keys that sign access tokens and derive refresh tokens, and when each of them counts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Secret, derived_id
from domain.errors import NotFound, Unavailable


class KeyUnknown(NotFound):
    """There is no such key."""

    code = "key-not-found"


class KeyringChanged(Unavailable):
    """A key has been revoked meanwhile; try again."""

    code = "keyring-changed"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. `private` is encrypted under the master key; `public` is a JWK as JSON, empty for a derivation key."""

    key_id: str
    purpose: str
    algorithm: str
    public: str
    private: str
    counts_from: datetime
    revoked: bool = False


class Keyring(Aggregate):
    """All keys of an installation. Its id is derived: there is one."""

    TOPIC = "identity.Keyring"
    ID: UUID = derived_id("keyring", "main")

    NOT_FOUND = KeyUnknown

    class Started(First):
        """`secret_ids` are fingerprints of the installation's secrets, so a start with another one is noticed."""

        TOPIC = "identity.KeyringStarted"
        secret_ids: dict[str, str]

    class Added(Aggregate.Event):
        TOPIC = "identity.KeyAdded"
        key_id: str
        purpose: str
        algorithm: str
        public: str
        private: Secret[str]
        delay_seconds: int

        def apply(self, aggregate: "Keyring") -> None:
            aggregate.keys[self.key_id] = KeyRecord(
                self.key_id,
                self.purpose,
                self.algorithm,
                self.public,
                self.private,
                self.timestamp + timedelta(seconds=self.delay_seconds),
            )

    class Revoked(Aggregate.Event):
        """The key is compromised: nothing that it made is believed any more."""

        TOPIC = "identity.KeyRevoked"
        key_id: str
        reason: str

    @event(Started)
    def __init__(self, secret_ids: dict[str, str], id: UUID) -> None:  # noqa: A002
        self._id = id
        self.secret_ids = secret_ids
        self.keys: dict[str, KeyRecord] = {}

    @event(Added)
    def add(self, key_id: str, purpose: str, algorithm: str, public: str, private: str, delay_seconds: int) -> None:
        """A key that counts from `delay_seconds` after it is recorded, so that verifiers can fetch it before."""

    def revoke(self, key_id: str, reason: str) -> None:
        """Raises KeyUnknown. Revoking twice records nothing."""
        if key_id not in self.keys:
            raise KeyUnknown
        if not self.keys[key_id].revoked:
            self._revoke(key_id, reason)

    @event(Revoked)
    def _revoke(self, key_id: str, reason: str) -> None:
        self.keys[key_id] = replace(self.keys[key_id], revoked=True)

    def is_revoked(self, key_id: str) -> bool:
        """Whether nothing that this key made is believed any more."""
        return key_id in self.keys and self.keys[key_id].revoked

    def has_key_for(self, purpose: str) -> bool:
        """Whether there is a key for this purpose that isn't revoked."""
        return any(True for _ in self._of(purpose))

    def current(self, purpose: str, now: datetime) -> KeyRecord:
        """The newest key for this purpose that counts already. Raises KeyUnknown."""
        counting = [k for k in self._of(purpose) if k.counts_from <= now] or list(self._of(purpose))[:1]
        if not counting:
            raise KeyUnknown(f"The keyring has no key for {purpose}.")
        return max(counting, key=lambda k: k.counts_from)

    def believed(self, purpose: str, now: datetime, lifetime: timedelta) -> list[KeyRecord]:
        """The keys whose products may still be valid: the current one, coming ones, and those replaced lately."""
        keys = sorted(self._of(purpose), key=lambda k: k.counts_from)
        replaced_on = [k.counts_from for k in keys[1:]]
        return [
            k for k, until in zip(keys, [*replaced_on, None], strict=True) if until is None or now < until + lifetime
        ]

    def newest(self, purpose: str) -> KeyRecord | None:
        """The one that counts last, or will."""
        return max(self._of(purpose), key=lambda key: key.counts_from, default=None)

    def _of(self, purpose: str) -> Iterator[KeyRecord]:
        return (k for k in self.keys.values() if k.purpose == purpose and not k.revoked)
