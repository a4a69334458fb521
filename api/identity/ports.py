"""What the identity routes are given."""

from typing import Protocol

from domain.ports import Identity
from infra.event_store import Log
from infra.keys import Keys
from infra.secrets import Secrets
from infra.settings import Settings
from infra.tokens import Tokens


class IdentityPorts(Identity, Protocol):
    """What this module's routes are given, beside what its commands are."""

    @property
    def tokens(self) -> Tokens: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def secrets(self) -> Secrets: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def log(self) -> Log: ...
