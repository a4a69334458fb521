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
from infra.keys import NewKey, new_derivation_key, new_signing_key


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
    return _addition(ports, new_signing_key(ports.secrets), delay)


async def prepare_revocation(ports: IdentityPorts, revoked: RevokeKey) -> RevokeKey:
    """With a spare for either purpose, which counts at once."""
    spares = (new_signing_key(ports.secrets), new_derivation_key(ports.secrets))
    return RevokeKey(revoked.key_id, revoked.reason, tuple(_addition(ports, spare, 0) for spare in spares))


def _addition(ports: IdentityPorts, key: NewKey, delay_seconds: int) -> AddKey:
    return AddKey(ports.secrets.ids, key.key_id, key.purpose, key.algorithm, key.public, key.private, delay_seconds)


ROUTES: list[Route] = [
    Endpoint("GET", "/api/v1/keys", keys, permission="key:read", result=KeysView, projections=()),
    Command(
        "POST", "/api/v1/keys/rotate", RotationBody, add_key, prepare=prepare_rotation, permission="key:rotate",
        answers=201, result=RotationView,
    ),
    Command(
        "POST", "/api/v1/keys/{key}/revoke", ReasonBody, revoke_key, permission="key:rotate",
        prepare=prepare_revocation,
        command=lambda asked: RevokeKey(asked.path["key"], asked.body.reason), raises=(KeyUnknown,),
    ),
    Endpoint("GET", "/.well-known/jwks.json", jwks, permission=OPEN, media_type="application/jwk-set+json"),
]  # fmt: skip
