"""What the access routes share: their ports, and how permissions, scopes and moments are written."""

from typing import Annotated, Protocol

from msgspec import Meta

from api import requests
from api.routing import Asked
from domain.access import (
    MAX_INCLUDES,
    MAX_PERMISSIONS,
    Scope,
)
from domain.errors import PositionUnknown, ProjectionBehind
from projections.access import Decisions

VIEWS = ("access",)
MAX_CHECKS = 1000
NAME_CHARS, PERMISSION_CHARS, SCOPE_CHARS = 64, 128, 512

PermissionText = Annotated[str, Meta(max_length=PERMISSION_CHARS, description="`resource:action`")]
PatternText = Annotated[str, Meta(max_length=PERMISSION_CHARS, description="`resource:action`, `resource:*` or `*`")]
NameText = Annotated[str, Meta(max_length=NAME_CHARS)]
ScopeText = Annotated[str, Meta(max_length=SCOPE_CHARS, description="A path such as `/acme/eu`; `/` is everywhere.")]
Patterns = Annotated[list[PatternText], Meta(max_length=MAX_PERMISSIONS)]
Names = Annotated[list[NameText], Meta(max_length=MAX_INCLUDES)]


class AccessPorts(Protocol):
    """What this module's routes are given."""

    @property
    def decisions(self) -> Decisions: ...


def decisions_of(asked: Asked) -> Decisions:
    """The check itself."""
    ports: AccessPorts = asked.ports
    return ports.decisions


def least_position(asked: Asked) -> int:
    """What `Muniment-At-Least` says; 0 without."""
    return requests.at_least(asked.headers) or 0


def body_scope(asked: Asked) -> str:
    """The scope that the body names, in its normal form. Raises Invalid."""
    return str(Scope(asked.body.scope))


def asked_scope(asked: Asked) -> str:
    """The scope that the query string names, in its normal form. Raises Invalid."""
    return str(Scope(asked.params.scope))


POSITIONS = (PositionUnknown, ProjectionBehind)
