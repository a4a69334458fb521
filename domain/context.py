"""Who acts, and because of what: the metadata of every event."""

from dataclasses import dataclass
from typing import Literal, Self
from uuid import UUID

ActorKind = Literal["user", "service", "operator", "system", "anonymous"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. Written `kind:id` in events: `user:0192…`, `operator:ada`, `system:bootstrap`, `anonymous:`."""

    kind: ActorKind
    id: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def user_id(self) -> UUID | None:
        """The user's id, if a user acts."""
        return UUID(self.id) if self.kind == "user" else None


ANONYMOUS = Actor("anonymous")


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances of one intention.

    `correlation_id` is shared by everything that follows from one request; `causation_id` is the event
    (`stream:version`) that led to this, if one did; `traceparent` is W3C Trace Context's; `ip` and `user_agent` are
    personal; `config_version` is the log position of the configuration under which this is decided;
    `hops` is how many reactions in a row have led here.
    """

    actor: Actor
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    session_id: UUID | None = None
    config_version: int = 0
    hops: int = 0

    @classmethod
    def system(cls, name: str, correlation_id: str) -> Self:
        """The platform itself acts."""
        return cls(Actor("system", name), correlation_id)
