"""The keyring: what verifies tokens, and its rotation."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from api.identity.ports import IdentityPorts
from api.identity.users import ReasonBody
from api.routing import (
    OPEN,
    Answer,
    Asked,
    Body,
    Command,
    Endpoint,
    Route,
    View,
)
from commands.identity import (
    AddKey,
    RevokeKey,
    add_key,
    revoke_key,
)
from domain.identity import (
    KeyUnknown,
)
from infra.keys import new_signing_key


class KeyView(View):
    """A key of the keyring; never its private part."""

    key_id: str
    purpose: str
    algorithm: str
    counts_from: datetime
    revoked: bool


class KeysView(View):
    """The keyring."""

    items: list[KeyView]


class RotationBody(Body):
    """How many seconds the new key is published before it signs; the overlap of the settings unless said."""

    delay_seconds: Annotated[int, Meta(ge=0, le=86_400)] | None = None


class RotationView(View):
    """The new key."""

    key_id: str


async def jwks(asked: Asked) -> Answer:
    """The keys that verify every unexpired access token (RFC 7517)."""
    ports: IdentityPorts = asked.ports
    return Answer(
        await asked.in_thread(ports.keys.jwks),
        headers=((b"cache-control", b"public, max-age=300"),),
        media_type=b"application/jwk-set+json",
    )


async def keys(asked: Asked) -> Answer:
    """The keyring."""
    records = await asked.in_thread(asked.ports.keys.records)
    items = [
        KeyView(key_id=r.key_id, purpose=r.purpose, algorithm=r.algorithm, counts_from=r.counts_from, revoked=r.revoked)
        for r in records
    ]
    return Answer(KeysView(items=items))


async def prepare_rotation(ports: IdentityPorts, body: RotationBody) -> AddKey:
    """A fresh signing key, encrypted."""
    delay = ports.settings.key_overlap_seconds if body.delay_seconds is None else body.delay_seconds
    key = new_signing_key(ports.secrets)
    return AddKey(ports.secrets.master_key_id, key.key_id, key.purpose, key.algorithm, key.public, key.private, delay)


ROUTES: list[Route] = [
    Endpoint("GET", "/api/v1/keys", keys, permission="key:read", result=KeysView, projections=()),
    Command(
        "POST", "/api/v1/keys/rotate", RotationBody, add_key, prepare=prepare_rotation, permission="key:rotate",
        answers=201, result=RotationView,
    ),
    Command(
        "POST", "/api/v1/keys/{key}/revoke", ReasonBody, revoke_key, permission="key:rotate",
        command=lambda asked: RevokeKey(asked.path["key"], asked.body.reason), raises=(KeyUnknown,),
    ),
    Endpoint("GET", "/.well-known/jwks.json", jwks, permission=OPEN, media_type="application/jwk-set+json"),
]  # fmt: skip
