"""How far the reactions are, and what they couldn't react to."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol
from uuid import UUID

from msgspec import Meta
from psycopg import Connection
from psycopg_pool import ConnectionPool

from api.routing import Asked, Body, Command, Endpoint, Keyset, Page, Paging, Query, Route, View
from commands.projections import REASON_LIMIT, RetryParked, SkipParked, retry_parked, skip_parked
from domain.errors import NotFound
from domain.projections import NotParked
from infra.reaction_store import NAME_PREFIX, ParkedCause, ReactionStatus, parked_causes, require_parked, statuses
from projections.read import Read


class ReactionNotFound(NotFound):
    """There is no such reaction."""

    code = "reaction-not-found"


class ReactionPorts(Protocol):
    """What this module's routes are given."""

    @property
    def pool(self) -> ConnectionPool[Connection[Any]]: ...


class ReactionsView(View):
    """All reactions."""

    items: list[ReactionStatus]


class RetryReactionBody(Body):
    """Which stream's events to try again; all where none is named."""

    stream: UUID | None = None


class SkipReactionBody(Body):
    """Which event the reaction goes on without, and why."""

    position: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    reason: Annotated[str, Meta(min_length=1, max_length=REASON_LIMIT)]


async def list_reactions(asked: Asked) -> ReactionsView:
    """Name, position, lag and parked count of every reaction."""
    return await asked.in_thread(_statuses, asked.ports)


def _statuses(ports: ReactionPorts) -> ReactionsView:
    with ports.pool.connection() as connection:
        return ReactionsView(items=statuses(connection))


def parked_reactions(
    _: Read, asked: Asked, name: str, limit: int, after: tuple[int] | None = None
) -> list[ParkedCause]:
    """What the reaction couldn't react to, in position order. Raises ReactionNotFound."""
    ports: ReactionPorts = asked.ports
    with ports.pool.connection() as connection:
        _check_exists(connection, name)
        return parked_causes(connection, name, after=after[0] if after else 0, limit=limit)


async def prepare_reaction_retry(ports: ReactionPorts, asked: Asked) -> RetryParked:
    """Raises ReactionNotFound, NotParked."""
    name, stream = asked.path["name"], asked.body.stream
    await asked.in_thread(_require, ports, name, None, stream)
    return RetryParked(NAME_PREFIX + name, stream)


async def prepare_reaction_skip(ports: ReactionPorts, asked: Asked) -> SkipParked:
    """Raises ReactionNotFound, NotParked."""
    name, position = asked.path["name"], asked.body.position
    await asked.in_thread(_require, ports, name, position, None)
    return SkipParked(NAME_PREFIX + name, position, asked.body.reason)


def _require(ports: ReactionPorts, name: str, position: int | None, stream: UUID | None) -> None:
    with ports.pool.connection() as connection:
        _check_exists(connection, name)
        require_parked(connection, name, position=position, stream=stream)


def _check_exists(connection: Connection[Any], name: str) -> None:
    if not any(status.name == name for status in statuses(connection)):
        raise ReactionNotFound(f"There is no reaction {name!r}.")


def _position(row: Any) -> Sequence[Any]:
    return (row.position,)


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/reactions", list_reactions, permission="reaction:read", result=ReactionsView, projections=(),
    ),
    Query(
        "GET", "/api/v1/reactions/{name}/parked", Page[ParkedCause], parked_reactions, permission="reaction:read",
        params=Paging, page=Keyset(_position, (int,)), raises=(ReactionNotFound,),
    ),
    Command(
        "POST", "/api/v1/reactions/{name}/parked/retry", RetryReactionBody, retry_parked,
        prepare=prepare_reaction_retry, permission="reaction:repair", answers=202, name="retry_reaction",
        raises=(ReactionNotFound, NotParked),
    ),
    Command(
        "POST", "/api/v1/reactions/{name}/parked/skip", SkipReactionBody, skip_parked,
        prepare=prepare_reaction_skip, permission="reaction:repair", answers=202, name="skip_reaction",
        raises=(ReactionNotFound, NotParked),
    ),
]  # fmt: skip
