"""What became of a namespace over time: who decided what and why, what differs, and the schema that holds."""

from datetime import datetime
from typing import Any, Literal

from msgspec import field

from api.configuration.common import NAMESPACE, SCOPE, Version, name_of, past_of, shown
from api.configuration.documents import ChangeView, change_view
from api.routing import Answer, Asked, Body, Endpoint, Keyset, Page, Paging, Query, Route, View
from domain.configuration import (
    InvalidDocument,
    NamespaceNotFound,
    NewerDocument,
    VersionNotFound,
    canonical,
    differences,
)
from domain.configuration.shape import DIALECT
from infra.configuration.past import Entry
from projections.read import Read

SCHEMA_MEDIA_TYPE = "application/schema+json"


class DecisionView(View):
    """One decision about a namespace.

    `keys` are those whose stored value it changed; `restores` is the version whose document a rollback stored once
    more. The document itself is at `?version=`.
    """

    version: int
    position: int
    at: datetime
    actor: str
    kind: Literal["changed", "declared", "rolled-back", "withdrawn"]
    keys: list[str]
    schema_version: int
    reason: str
    restores: int | None


class DifferenceParams(Body):
    """Between which versions: from the one before to the newest, unless others are named."""

    from_: Version | None = field(default=None, name="from")
    to: Version | None = None


class DifferenceView(View):
    """Where the stored documents of two versions differ."""

    from_: int = field(name="from")
    to: int
    changes: list[ChangeView]


def list_decisions(_: Read, asked: Asked, limit: int, after: tuple[int] | None = None) -> list[Entry]:
    """Who has changed a namespace when, and why; the newest first."""
    name = name_of(asked)
    shown(asked, name)
    return past_of(asked).entries(name, limit, after[0] if after else None)


async def get_difference(asked: Asked) -> DifferenceView:
    """Where the stored documents of two versions differ. Each as it was stored, whatever today's schema says."""
    return await asked.in_thread(_difference, asked)


def _difference(asked: Asked) -> DifferenceView:
    name, params, past = name_of(asked), asked.params, past_of(asked)
    newest = shown(asked, name).head.version
    to = newest if params.to is None else params.to
    from_ = max(to - 1, 0) if params.from_ is None else params.from_
    before, _ = past.document(name, from_)
    after, _ = past.document(name, to)
    return DifferenceView(from_=from_, to=to, changes=[change_view(each) for each in differences(before, after)])


async def get_schema(asked: Asked) -> Answer:
    """The JSON Schema (2020-12) of a namespace's documents, with defaults, units and descriptions."""
    found = await asked.in_thread(shown, asked, name_of(asked))
    schema: dict[str, Any] = {"$schema": DIALECT, **found.schema.json_schema}
    tag = b'"%d"' % found.schema.version
    return Answer(canonical(schema), 200, [(b"etag", tag)], media_type=SCHEMA_MEDIA_TYPE.encode())


ROUTES: list[Route] = [
    Query(
        "GET", f"{NAMESPACE}/history", Page[DecisionView], list_decisions, permission="config:read", scope=SCOPE,
        params=Paging, page=Keyset(lambda row: (row.version,), (int,)),
        raises=(NamespaceNotFound,),
    ),
    Endpoint(
        "GET", f"{NAMESPACE}/diff", get_difference, permission="config:read", scope=SCOPE, params=DifferenceParams,
        result=DifferenceView, projections=(), name="diff_configuration",
        raises=(NamespaceNotFound, VersionNotFound, NewerDocument, InvalidDocument),
    ),
    Endpoint(
        "GET", f"{NAMESPACE}/schema", get_schema, permission="config:read", scope=SCOPE, projections=(),
        media_type=SCHEMA_MEDIA_TYPE, name="get_schema", raises=(NamespaceNotFound,),
        headers={"ETag": "The schema's number."},
    ),
]  # fmt: skip
